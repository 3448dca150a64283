//! Threads that wait when a recording begins: the programs never saw them leave their CPU, so they are entered from `/proc`.

use std::fs;

use profiler_common::off_cpu::{
    STACK_BEFORE, STACK_NONE, STATE_SLEEPING, STATE_STOPPED, STATE_UNINTERRUPTIBLE, Thread,
};

use super::words;
use crate::bpf::Waits;
use crate::process::numeric_entries;

/// A thread that waited already.
#[derive(Debug)]
pub(super) struct Seed {
    /// Thread ID.
    pub(super) tid: u32,
    /// Name of the thread.
    pub(super) comm: Vec<u8>,
    /// The system call that it is in, where the kernel says.
    pub(super) syscall: Option<String>,
}

/// What `/proc` says of a thread at one moment.
struct Look {
    comm: Vec<u8>,
    state: Option<u32>,
    /// Context switches so far, of both kinds.
    switches: u64,
}

/// Enters the waiting threads of these processes (or, of a process's threads, those that `wanted` names); returns those that are in.
///
/// A thread may run between the look at it and its entry. So a second look follows: if it has switched in between, the entry goes again,
/// unless the programs have already made it theirs.
pub(super) fn enter(
    waits: &mut Waits,
    processes: impl IntoIterator<Item = u32>,
    wanted: impl Fn(u32) -> bool,
    now_ns: u64,
) -> Vec<Seed> {
    let mut seeds = Vec::new();
    for pid in processes {
        for tid in numeric_entries(std::path::Path::new(&format!("/proc/{pid}/task"))) {
            if !wanted(tid) {
                continue;
            }
            let Some(look) = look(pid, tid) else { continue };
            let Some(state) = look.state else { continue };
            let thread = Thread {
                since_ns: now_ns,
                stack: STACK_BEFORE,
                waker: STACK_NONE,
                pid,
                tid,
                state,
                ..Thread::default()
            };
            if !waits.enter(tid, thread) {
                continue;
            }
            let again = self::look(pid, tid);
            if again.is_none_or(|again| again.switches != look.switches) {
                waits.take_back(tid, now_ns);
            }
            let syscall = fs::read_to_string(format!("/proc/{pid}/task/{tid}/syscall"));
            let syscall = syscall.ok().as_deref().and_then(syscall_of);
            seeds.push(Seed { tid, comm: look.comm, syscall });
        }
    }
    seeds
}

fn look(pid: u32, tid: u32) -> Option<Look> {
    let status = fs::read(format!("/proc/{pid}/task/{tid}/status")).ok()?;
    let field = |name: &str| {
        let mut lines = status.split(|byte| *byte == b'\n');
        lines.find_map(|line| line.strip_prefix(name.as_bytes())).map(<[u8]>::trim_ascii)
    };
    let number = |name| std::str::from_utf8(field(name)?).ok()?.parse::<u64>().ok();
    Some(Look {
        // The kernel escapes newlines and backslashes here; a name with them is rare, and shown as it stands.
        comm: field("Name:")?.to_vec(),
        state: match field("State:")?.first()? {
            b'S' | b'I' => Some(STATE_SLEEPING),
            b'D' => Some(STATE_UNINTERRUPTIBLE),
            b'T' | b't' => Some(STATE_STOPPED),
            _ => None,
        },
        switches: number("voluntary_ctxt_switches:")?.wrapping_add(number("nonvoluntary_ctxt_switches:")?),
    })
}

/// The name of the call in `/proc/PID/syscall`: its number first, or `running`, or -1 outside of any call (proc(5)).
fn syscall_of(text: &str) -> Option<String> {
    let number = text.split_whitespace().next()?.parse().ok()?;
    Some(words::name(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_at_ourselves() {
        // SAFETY: no preconditions.
        let tid = unsafe { libc::gettid() } as u32;
        let look = look(std::process::id(), tid).unwrap();
        assert_eq!(look.state, None, "we run");
        assert!(!look.comm.is_empty());
    }

    #[test]
    fn calls_are_named_where_there_is_one() {
        let line = format!("{} 0x1 0x2 0x3 0x4 0x5 0x6 0x7ffc 0x7f00\n", libc::SYS_read);
        assert_eq!(syscall_of(&line).as_deref(), Some("read"));
        for nothing in ["running\n", "-1 0x7ffc 0x7f00\n", ""] {
            assert_eq!(syscall_of(nothing), None, "{nothing:?}");
        }
    }
}
