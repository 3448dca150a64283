//! `/proc/PID/stat` and `/proc/PID/status`, as far as targets need them.

use std::io;

use super::super::read;

/// Bit of the flags field that marks kernel threads (`PF_KTHREAD`, `include/linux/sched.h`).
const PF_KTHREAD: u64 = 0x0020_0000;

/// Far more than the longest line: 52 numbers and a name of at most 64 bytes.
const STAT_BYTES: u64 = 4096;

/// A process's state letter (proc(5)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State(pub u8);

impl State {
    /// Zombie (`Z`) or being removed (`X`, `x`): there is no address space any more.
    pub fn is_dead(self) -> bool {
        matches!(self.0, b'Z' | b'X' | b'x')
    }
}

/// One process's line in `/proc/PID/stat`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stat {
    /// The main thread's name, raw bytes.
    pub comm: Vec<u8>,
    /// State of the main thread.
    pub state: State,
    /// The parent's process id.
    pub parent: u32,
    /// Kernel flags (`PF_*`).
    pub flags: u64,
    /// Number of threads.
    pub threads: u32,
    /// Start time in clock ticks after boot.
    pub start_ticks: u64,
    /// CPU time of all its threads, in user mode and in the kernel, clock ticks.
    pub cpu_ticks: u64,
    /// Resident set, pages.
    pub resident_pages: u64,
}

impl Stat {
    /// Reads the line of a process or thread.
    ///
    /// # Errors
    /// When there is no such process or the file may not be read; a line of another form is an error of kind
    /// `InvalidData`.
    pub fn gather(pid: u32) -> io::Result<Self> {
        let line = read::bounded(&super::proc_path(pid, "stat"), STAT_BYTES)?;
        Self::parse(&line).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
    }

    /// Parses one line. The name may hold spaces, parentheses and newlines, so it ends at the last `)`.
    pub fn parse(line: &[u8]) -> Option<Self> {
        let open = line.iter().position(|byte| *byte == b'(')?;
        let close = line.iter().rposition(|byte| *byte == b')')?;
        let comm = line.get(open + 1..close)?.to_vec();
        let rest = std::str::from_utf8(line.get(close + 1..)?).ok()?;
        // Field numbers of proc(5): the state is 3, so index 0 here is field 3.
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        let field = |number: usize| fields.get(number - 3).copied();
        let number = |at: usize| field(at)?.parse::<u64>().ok();
        Some(Self {
            comm,
            state: State(*field(3)?.as_bytes().first()?),
            parent: field(4)?.parse().ok()?,
            flags: field(9)?.parse().ok()?,
            threads: field(20)?.parse().ok()?,
            start_ticks: number(22)?,
            cpu_ticks: number(14)?.saturating_add(number(15)?),
            resident_pages: number(24)?,
        })
    }

    /// Runs kernel code only.
    pub fn is_kernel_thread(&self) -> bool {
        self.flags & PF_KTHREAD != 0
    }
}

/// The fields of `/proc/PID/status` that `stat` lacks.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Status {
    /// The process that a thread belongs to.
    pub(super) tgid: Option<u32>,
    /// Effective user id.
    pub(super) uid: Option<u32>,
    /// The pid in each namespace, the reader's first. Empty before 4.1.
    pub(super) namespace_pids: Vec<u32>,
}

impl Status {
    pub(super) fn parse(text: &str) -> Self {
        let mut out = Self::default();
        for line in text.lines() {
            let Some((name, value)) = line.split_once(':') else { continue };
            let mut words = value.split_whitespace();
            match name {
                "Tgid" => out.tgid = words.next().and_then(|word| word.parse().ok()),
                "Uid" => out.uid = words.nth(1).and_then(|word| word.parse().ok()),
                "NStgid" => out.namespace_pids = words.filter_map(|word| word.parse().ok()).collect(),
                _ => {}
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAIL: &[u8] = b" S 1 7 7 0 -1 4194560 1 0 0 0 2 3 0 0 20 0 5 0 12345 1 2";

    #[test]
    fn hostile_names_do_not_shift_the_fields() {
        for name in [&b"redis-server"[..], b"a) Z 9 (b", b"", b"\xff\n ) R 1"] {
            let line = [b"42 (", name, b")", TAIL].concat();
            let stat = Stat::parse(&line).unwrap();
            assert_eq!((stat.comm.as_slice(), stat.state, stat.parent), (name, State(b'S'), 1));
            assert_eq!((stat.threads, stat.start_ticks, stat.is_kernel_thread()), (5, 12345, false));
        }
    }

    #[test]
    fn short_lines_are_refused() {
        assert_eq!(Stat::parse(b""), None);
        assert_eq!(Stat::parse(b"1 (a) S 1"), None);
        assert_eq!(Stat::parse(b")("), None);
    }

    #[test]
    fn kernel_threads_are_known_by_their_flag() {
        let line = b"2 (kthreadd) S 0 0 0 0 -1 2129984 0 0 0 0 0 0 0 0 20 0 1 0 9 0 0";
        assert!(Stat::parse(line).unwrap().is_kernel_thread());
    }

    #[test]
    fn status_keeps_the_first_value_readers_need() {
        let status = Status::parse("Name:\tx\nTgid:\t7\nUid:\t1\t2\t3\t4\nNStgid:\t7\t1\nOdd line\n");
        assert_eq!(status, Status { tgid: Some(7), uid: Some(2), namespace_pids: vec![7, 1] });
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_parse_without_panic(line in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let _ = Stat::parse(&line);
        }
    }
}
