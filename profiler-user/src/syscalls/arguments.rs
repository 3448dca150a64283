//! Arguments of a call in readable form: descriptors with what they lead to, sizes, flags, times; pointers in hexadecimal digits.
//!
//! The memory behind pointers is not read: it belongs to the target, and is another one by now.

use crate::profile::clean;

/// What an argument is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A descriptor.
    Fd,
    /// A pointer, flags, anything that is read in hexadecimal digits.
    Hex,
    /// A size, a number, a signal.
    Number,
    /// Milliseconds, less than zero for ever.
    Milliseconds,
}

/// Longest description of what a descriptor leads to, in characters.
const LONGEST_TARGET: usize = 80;

/// The arguments of calls that are often slow: one letter each, f for a descriptor, x for hexadecimal digits, n for a number, m for
/// milliseconds.
const CALLS: &[(&str, &str)] = &[
    ("read", "fxn"),
    ("write", "fxn"),
    ("pread64", "fxnn"),
    ("pwrite64", "fxnn"),
    ("readv", "fxn"),
    ("writev", "fxn"),
    ("preadv", "fxnn"),
    ("pwritev", "fxnn"),
    ("preadv2", "fxnnnx"),
    ("pwritev2", "fxnnnx"),
    ("recvfrom", "fxnx"),
    ("sendto", "fxnx"),
    ("recvmsg", "fxx"),
    ("sendmsg", "fxx"),
    ("recvmmsg", "fxnxx"),
    ("sendmmsg", "fxnx"),
    ("accept", "fxx"),
    ("accept4", "fxxx"),
    ("connect", "fxn"),
    ("sendfile", "ffxn"),
    ("splice", "fxfxnx"),
    ("copy_file_range", "fxfxnx"),
    ("fsync", "f"),
    ("fdatasync", "f"),
    ("syncfs", "f"),
    ("sync_file_range", "fnnx"),
    ("fallocate", "fxnn"),
    ("ftruncate", "fn"),
    ("close", "f"),
    ("fstat", "fx"),
    ("lseek", "fnn"),
    ("getdents64", "fxn"),
    ("ioctl", "fxx"),
    ("fcntl", "fnx"),
    ("flock", "fn"),
    ("epoll_wait", "fxnm"),
    ("epoll_pwait", "fxnmx"),
    ("epoll_pwait2", "fxnxx"),
    ("epoll_ctl", "fnfx"),
    ("poll", "xnm"),
    ("ppoll", "xnxx"),
    ("select", "nxxxx"),
    ("pselect6", "nxxxxx"),
    ("futex", "xxnxxn"),
    ("nanosleep", "xx"),
    ("clock_nanosleep", "nxxx"),
    ("wait4", "nxxx"),
    ("waitid", "nnxxx"),
    ("openat", "fxxx"),
    ("open", "xxx"),
    ("unlinkat", "fxx"),
    ("newfstatat", "fxxx"),
    ("statx", "fxxxx"),
    ("mmap", "xnxxfn"),
    ("munmap", "xn"),
    ("madvise", "xnn"),
    ("io_uring_enter", "fnnx"),
    ("io_getevents", "xnnxx"),
    ("kill", "nn"),
    ("tgkill", "nnn"),
    ("execve", "xxx"),
    ("clone", "xxxxx"),
    ("clone3", "xn"),
    ("rt_sigtimedwait", "xxxn"),
    ("msync", "xnx"),
    ("getpid", ""),
    ("getppid", ""),
    ("gettid", ""),
    ("fork", ""),
    ("vfork", ""),
    ("sched_yield", ""),
    ("sync", ""),
    ("setsid", ""),
    ("pause", ""),
    ("restart_syscall", ""),
];

/// `AT_FDCWD`, include/uapi/linux/fcntl.h.
const CURRENT_DIRECTORY: i32 = -100;

/// Describes the arguments of the call `name`. What descriptors lead to is looked up in the process now.
pub(super) fn describe(name: &str, arguments: &[u64; 6], pid: u32) -> String {
    let known = CALLS.iter().find(|(known, _)| *known == name).map(|(_, kinds)| *kinds);
    // Of other calls those behind the last that is not zero say nothing.
    let used = 6 - arguments.iter().rev().take_while(|argument| **argument == 0).count();
    let kinds: Vec<Kind> = match known {
        Some(kinds) => kinds.chars().map(kind).collect(),
        None => vec![Kind::Hex; used],
    };
    let texts = kinds.iter().zip(arguments).map(|(kind, argument)| text(*kind, *argument, pid));
    texts.collect::<Vec<_>>().join(", ")
}

fn kind(letter: char) -> Kind {
    match letter {
        'f' => Kind::Fd,
        'n' => Kind::Number,
        'm' => Kind::Milliseconds,
        _ => Kind::Hex,
    }
}

fn text(kind: Kind, value: u64, pid: u32) -> String {
    match kind {
        Kind::Fd => descriptor(value as i32, pid),
        Kind::Number => (value as i64).to_string(),
        Kind::Milliseconds => format!("{} ms", value as i32),
        Kind::Hex if value == 0 => "0".to_owned(),
        Kind::Hex => format!("{value:#x}"),
    }
}

/// `5 <socket:[4711]>`: the descriptor and what it leads to, as far as it is still open.
fn descriptor(fd: i32, pid: u32) -> String {
    use std::os::unix::ffi::OsStrExt;
    if fd == CURRENT_DIRECTORY {
        return "AT_FDCWD".to_owned();
    }
    match std::fs::read_link(format!("/proc/{pid}/fd/{fd}")) {
        Ok(target) => {
            let mut name: Vec<char> = clean(target.as_os_str().as_bytes()).chars().collect();
            if name.len() > LONGEST_TARGET {
                // The end of a path says more than its beginning.
                let cut = name.len() - LONGEST_TARGET;
                name.splice(..=cut, ['…']);
            }
            format!("{fd} <{}>", name.into_iter().collect::<String>())
        }
        Err(_) => fd.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    #[test]
    fn descriptors_lead_somewhere() {
        let file = std::fs::File::open("/dev/null").unwrap();
        let fd = file.as_raw_fd();
        let text = describe("read", &[fd as u64, 0x7000, 4096, 9, 9, 9], std::process::id());
        assert_eq!(text, format!("{fd} </dev/null>, 0x7000, 4096"));
        assert_eq!(describe("fsync", &[u64::from(u32::MAX), 0, 0, 0, 0, 0], 1), "-1");
        assert_eq!(describe("openat", &[-100_i64 as u64, 0, 0, 0, 0, 0], 1), "AT_FDCWD, 0, 0, 0");
        assert_eq!(describe("epoll_wait", &[4_000_000, 0, 8, u64::MAX, 0, 0], 1), "4000000, 0, 8, -1 ms");
    }

    #[test]
    fn calls_that_are_not_known_show_what_they_were_given() {
        assert_eq!(describe("syscall_900", &[1, 0, 0x20, 0, 0, 0], 1), "0x1, 0, 0x20");
        assert_eq!(describe("syscall_900", &[0; 6], 1), "");
        assert_eq!(describe("sync", &[1; 6], 1), "", "what registers hold by chance is no argument");
    }
}
