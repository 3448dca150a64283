//! How busy the threads of the target are in a slice: time on a CPU and time that they wait for one, to the microsecond.

use crate::bpf::PerfEvent;

/// Threads that are looked at. Each costs two system calls and a file to read, several times in a slice.
const MOST_THREADS: usize = 32;

/// The first threads of the target.
#[derive(Default)]
pub(super) struct Threads {
    /// The thread's folder in `/proc`, and its CPU time.
    threads: Vec<(std::path::PathBuf, PerfEvent)>,
}

/// Time of all threads so far, nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct ThreadsTime {
    /// On a CPU.
    pub(super) cpu_ns: u64,
    /// Ready to run, without a CPU.
    pub(super) waited_ns: u64,
}

impl Threads {
    /// Begins to look at the threads of these processes.
    pub(super) fn open(pids: impl Iterator<Item = u32>) -> Self {
        let folders = pids.filter_map(|pid| std::fs::read_dir(format!("/proc/{pid}/task")).ok());
        let threads = folders.flatten().flatten().filter_map(|thread| {
            let tid = thread.file_name().to_str()?.parse().ok()?;
            Some((thread.path(), PerfEvent::open_cpu_time(tid).ok()?))
        });
        Self { threads: threads.take(MOST_THREADS).collect() }
    }

    /// Their time, from some moment on.
    pub(super) fn time(&self) -> ThreadsTime {
        self.threads.iter().fold(ThreadsTime::default(), |sum, (folder, cpu)| ThreadsTime {
            cpu_ns: sum.cpu_ns + cpu.count().unwrap_or(0),
            waited_ns: sum.waited_ns + waited_ns(folder).unwrap_or(0),
        })
    }
}

/// The second word of `schedstat` (Documentation/scheduler/sched-stats.rst).
fn waited_ns(folder: &std::path::Path) -> Option<u64> {
    std::fs::read_to_string(folder.join("schedstat")).ok()?.split(' ').nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_has_no_time() {
        assert_eq!(Threads::open([u32::MAX].into_iter()).time(), ThreadsTime::default());
        assert!(waited_ns(std::path::Path::new("/proc/self/task/none")).is_none());
    }
}
