//! What a thread waits for, in words: the system call it is in, with the lock's address or the kind of file.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs;

use profiler_common::syscall::{ABI_NATIVE, ABI_X32};

use crate::profile::clean;
use crate::syscalls::names::Names;

/// Descriptors that are remembered. A process with more waits on the rest of them one by one under the system call's name.
const MOST_REMEMBERED: usize = 10_000;

/// `__X32_SYSCALL_BIT`, arch/x86/include/uapi/asm/unistd.h.
const X32_CALLS: u32 = 0x4000_0000;

/// What the first argument of a system call is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Argument {
    /// A file descriptor.
    Descriptor,
    /// The address of a lock.
    Lock,
    /// Nothing that helps a reader.
    Other,
}

/// The names of what was waited for, each looked up once. A descriptor keeps the name that it had when its first wait was seen.
#[derive(Debug)]
pub(super) struct Words {
    names: Names,
    files: HashMap<(u32, u64), Option<String>>,
}

impl Words {
    /// Nothing looked up yet.
    pub(super) fn new() -> Self {
        Self { names: Names::load(), files: HashMap::new() }
    }

    /// The name of a system call of this machine's own table.
    pub(super) fn name(&self, number: u32) -> Cow<'static, str> {
        match number.checked_sub(X32_CALLS) {
            Some(number) => self.names.call(number, ABI_X32),
            None => self.names.call(number, ABI_NATIVE),
        }
    }

    /// `[futex 0x7f…]`, `[read pipe]`, `[epoll_wait]`.
    pub(super) fn of(&mut self, pid: u32, (number, argument): (u32, u64)) -> String {
        let name = self.name(number);
        match kind(number) {
            Argument::Lock => format!("[{name} {argument:#x}]"),
            Argument::Descriptor => match self.file(pid, argument) {
                Some(file) => format!("[{name} {file}]"),
                None => format!("[{name}]"),
            },
            Argument::Other => format!("[{name}]"),
        }
    }

    fn file(&mut self, pid: u32, descriptor: u64) -> Option<String> {
        if let Some(known) = self.files.get(&(pid, descriptor)) {
            return known.clone();
        }
        if self.files.len() >= MOST_REMEMBERED {
            return None;
        }
        // An int; what stands in the upper half of the register is not part of it.
        let link = fs::read_link(format!("/proc/{pid}/fd/{}", descriptor as u32)).ok();
        let file = link.map(|link| describe(&link));
        self.files.insert((pid, descriptor), file.clone());
        file
    }
}

/// The kind of what `/proc/PID/fd` shows, or the path of a file.
fn describe(link: &std::path::Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    let text = clean(link.as_os_str().as_bytes());
    match text.split_once(':') {
        Some(("anon_inode", kind)) => kind.trim_matches(['[', ']']).to_owned(),
        // `socket:[4711]`, `pipe:[4712]`
        Some((kind, number)) if number.starts_with('[') => kind.to_owned(),
        _ => text,
    }
}

fn kind(number: u32) -> Argument {
    let number = libc::c_long::from(number);
    match number {
        libc::SYS_futex => Argument::Lock,
        libc::SYS_read
        | libc::SYS_write
        | libc::SYS_readv
        | libc::SYS_writev
        | libc::SYS_pread64
        | libc::SYS_pwrite64
        | libc::SYS_preadv
        | libc::SYS_pwritev
        | libc::SYS_preadv2
        | libc::SYS_pwritev2
        | libc::SYS_accept
        | libc::SYS_accept4
        | libc::SYS_connect
        | libc::SYS_recvfrom
        | libc::SYS_recvmsg
        | libc::SYS_recvmmsg
        | libc::SYS_sendto
        | libc::SYS_sendmsg
        | libc::SYS_sendmmsg
        | libc::SYS_fsync
        | libc::SYS_fdatasync
        | libc::SYS_sync_file_range
        | libc::SYS_flock
        | libc::SYS_fcntl
        | libc::SYS_ioctl
        | libc::SYS_getdents64
        | libc::SYS_ftruncate
        | libc::SYS_fallocate
        | libc::SYS_io_uring_enter
        | libc::SYS_splice => Argument::Descriptor,
        _ => Argument::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn links_become_kinds_and_paths() {
        let of = |link: &str| describe(Path::new(link));
        assert_eq!(of("socket:[4711]"), "socket");
        assert_eq!(of("pipe:[1]"), "pipe");
        assert_eq!(of("anon_inode:[eventpoll]"), "eventpoll");
        assert_eq!(of("anon_inode:inotify"), "inotify");
        assert_eq!(of("/var/lib/a:b/data"), "/var/lib/a:b/data");
        assert_eq!(of("/tmp/a\nb"), "/tmp/a\\x0ab");
    }

    #[test]
    fn a_wait_is_named_by_call_and_object() {
        let mut words = Words::new();
        let own = std::process::id();
        assert_eq!(words.of(own, (libc::SYS_futex as u32, 0x7f00)), "[futex 0x7f00]");
        let file = fs::File::open("/proc/self/stat").unwrap();
        let descriptor = std::os::fd::AsRawFd::as_raw_fd(&file) as u64;
        let text = words.of(own, (libc::SYS_read as u32, descriptor));
        assert!(text.starts_with("[read /proc/") && text.ends_with("/stat]"), "{text}");
        assert_eq!(words.of(own, (libc::SYS_read as u32, 999_999)), "[read]");
        assert_eq!(words.of(own, (libc::SYS_nanosleep as u32, 1)), "[nanosleep]");
    }
}
