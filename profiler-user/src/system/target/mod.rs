//! Who a target is: a process looked up by number, name or pattern, checked before anything is attached to it.
//!
//! In: what the user typed. Out: [`Target`]s, or a [`TargetError`] that says what is there instead. Everything read
//! here (comm, paths, command lines) belongs to whoever runs the target: bounded, and cleaned before it is shown.

mod container;
mod container_names;
mod error;
mod expression;
mod find;
mod root;
mod runtime;
mod stat;

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

pub(crate) use container::unified_path;
pub use container::{Container, ContainerRuntime, Home};
pub use container_names::{ContainerName, container_name};
pub use error::TargetError;
pub(crate) use expression::expression;
pub use find::{TargetSpec, find_by_name, find_by_pattern};
pub use root::{LastLink, open_in_root};
pub use runtime::{Libc, PerfMap, Runtime, Software};
pub use stat::{Stat, State};

use super::{privileges::proc_is_ours, read};
use crate::profile::clean;

/// What `/proc/PID/exe` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exe {
    /// The executable's path as the target sees it, cleaned.
    Present(String),
    /// The file was removed or replaced since the process started; the kernel still holds the old one.
    Deleted(String),
    /// This user may not look (needs `CAP_SYS_PTRACE`).
    Denied,
    /// There is none: a kernel thread or a process that is going away.
    None,
}

impl Exe {
    /// The path, when there is one.
    pub fn path(&self) -> Option<&str> {
        match self {
            Self::Present(path) | Self::Deleted(path) => Some(path),
            Self::Denied | Self::None => None,
        }
    }
}

/// A live process that can be profiled.
#[derive(Debug, Clone)]
pub struct Target {
    /// Process id, in this process's PID namespace.
    pub pid: u32,
    /// The main thread's name, cleaned.
    pub comm: String,
    /// Start time in clock ticks after boot: with the pid, the identity of the process.
    pub start_ticks: u64,
    /// Effective user id, in this process's user namespace.
    pub uid: u32,
    /// Number of threads.
    pub threads: u32,
    /// The executable.
    pub exe: Exe,
    /// The pid in each nested PID namespace, ours first. One entry when the target shares our namespace.
    pub namespace_pids: Vec<u32>,
    /// Container and service, from its control group.
    pub home: Home,
}

impl Target {
    /// Looks a process up and makes sure that it can be profiled.
    ///
    /// # Errors
    /// When there is no such process, when the number is that of a single thread, and for zombies and kernel threads.
    pub fn inspect(pid: u32) -> Result<Self, TargetError> {
        if !proc_is_ours() {
            return Err(TargetError::ForeignProc { pid });
        }
        let stat = Stat::gather(pid).map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => TargetError::Hidden { pid },
            _ => TargetError::NoSuchProcess { pid },
        })?;
        let comm = clean(&stat.comm);
        let status = read::text(format!("/proc/{pid}/status")).unwrap_or_default();
        let status = stat::Status::parse(&status);
        if let Some(process) = status.tgid
            && process != pid
        {
            return Err(TargetError::IsThread { tid: pid, pid: process, comm });
        }
        if stat.is_kernel_thread() {
            return Err(TargetError::KernelThread { pid, comm });
        }
        if stat.state.is_dead() {
            return Err(TargetError::Zombie { pid, comm, parent: stat.parent });
        }
        let cgroup = read::bounded(&proc_path(pid, "cgroup"), CGROUP_BYTES).unwrap_or_default();
        Ok(Self {
            pid,
            comm,
            start_ticks: stat.start_ticks,
            uid: status.uid.unwrap_or(u32::MAX),
            threads: stat.threads,
            exe: exe(pid),
            namespace_pids: if status.namespace_pids.is_empty() { vec![pid] } else { status.namespace_pids },
            home: Home::parse(&cgroup),
        })
    }

    /// The pid that the target itself sees, which names its perf map file.
    pub fn own_pid(&self) -> u32 {
        self.namespace_pids.last().copied().unwrap_or(self.pid)
    }

    /// True when the target lives in a PID namespace below ours (a container seen from its host).
    pub fn in_nested_namespace(&self) -> bool {
        self.namespace_pids.len() > 1
    }

    /// One line for people: `4242 (nginx, 8 threads, docker 3f2a9c1b7d10)`.
    pub fn summary(&self) -> String {
        let threads =
            if self.threads == 1 { "1 thread".to_owned() } else { format!("{} threads", self.threads) };
        let home = self.home.describe().map_or_else(String::new, |home| format!(", {home}"));
        format!("{} ({}, {threads}{home})", self.pid, self.comm)
    }
}

/// Most of `/proc/PID/cgroup` that is read: one line per hierarchy, paths of at most 4 KiB each.
const CGROUP_BYTES: u64 = 64 << 10;

fn proc_path(pid: u32, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/{name}"))
}

fn exe(pid: u32) -> Exe {
    let path = proc_path(pid, "exe");
    let raw = match std::fs::read_link(&path) {
        Ok(raw) => raw,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Exe::Denied,
        Err(_) => return Exe::None,
    };
    let raw = raw.as_os_str().as_encoded_bytes();
    match raw.strip_suffix(b" (deleted)") {
        // A file may really be called that; one that is gone has no links left.
        Some(name) if std::fs::metadata(&path).is_ok_and(|file| file.nlink() == 0) => {
            Exe::Deleted(clean(name))
        }
        _ => Exe::Present(clean(raw)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_can_be_a_target() {
        let me = Target::inspect(std::process::id()).unwrap();
        assert_eq!(me.pid, std::process::id());
        assert!(matches!(&me.exe, Exe::Present(path) if path.starts_with('/')));
        assert!(me.threads >= 1 && me.start_ticks > 0);
        assert_eq!(me.namespace_pids.first(), Some(&me.pid));
    }

    #[test]
    fn a_thread_is_told_from_its_process() {
        let tid = std::thread::spawn(|| {
            // SAFETY: gettid has no preconditions.
            let tid = unsafe { libc::gettid() } as u32;
            Target::inspect(tid).unwrap_err()
        });
        let error = tid.join().unwrap();
        assert!(matches!(error, TargetError::IsThread { pid, .. } if pid == std::process::id()), "{error}");
    }

    #[test]
    fn a_zombie_and_a_dead_pid_are_refused() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
        let error = loop {
            match Target::inspect(pid) {
                Err(error) => break error,
                Ok(_) if std::time::Instant::now() > deadline => panic!("`true` still runs"),
                Ok(_) => std::thread::sleep(std::time::Duration::from_millis(5)),
            }
        };
        let me = std::process::id();
        assert!(matches!(error, TargetError::Zombie { parent, .. } if parent == me), "{error}");
        child.wait().unwrap();
        assert!(matches!(Target::inspect(pid), Err(TargetError::NoSuchProcess { .. })));
    }
}
