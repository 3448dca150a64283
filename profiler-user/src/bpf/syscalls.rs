//! The system call programs: loading, attaching for as long as a slice lasts, and reading their tables.

use std::os::fd::AsFd;

use aya::EbpfLoader;
use aya::maps::{Array, MapData, ProgramArray};
use aya::programs::raw_trace_point::RawTracePointLink;
use profiler_common::stats::Stat;
use profiler_common::syscall::{Cell, CellKey, SyscallControl, ThreadCalls};

use super::batch::{self, Read};
use super::loader::{hash, map_error, raw_tracepoint, refused, take_map};
use super::{CallTables, LoadError, Programs};

/// The programs at the two ends of a call, with their tracepoints. The end comes first: a call whose beginning was seen is then
/// never one whose end was missed.
const CALLS: [(&str, &str); 2] = [("call_returned", "sys_exit"), ("call_entered", "sys_enter")];

/// The programs that follow threads, with their tracepoints.
const THREADS: [(&str, &str); 2] =
    [("caller_ended", "sched_process_exit"), ("caller_executed", "sched_process_exec")];

/// The tables that a recording without system calls needs no room for.
const TABLES: [&str; 2] = ["SYSCALL_THREADS", "SYSCALL_CELLS"];

/// Hands the configuration over, and makes the tables small where nobody fills them.
pub(super) fn size_tables<'a>(loader: &mut EbpfLoader<'a>, tables: Option<&'a CallTables>) {
    if let Some(tables) = tables {
        loader.override_global("SYSCALL_CONFIG", &tables.config, true);
    }
    let entries = match tables {
        Some(tables) => tables.entries,
        None => Some(1),
    };
    if let Some(entries) = entries {
        for table in TABLES {
            loader.map_max_entries(table, entries);
        }
    }
}

/// The owner of calls that the agent makes to learn what a call costs. No process has this number.
const CALIBRATION: u64 = u64::MAX;

/// The number of this thread in the initial PID namespace; none in another one, where the calibration measures calls out of scope.
fn own_tid() -> Option<u32> {
    /// `PROC_PID_INIT_INO`, include/linux/proc_ns.h.
    const INITIAL: &str = "pid:[4026531836]";
    let namespace = std::fs::read_link("/proc/self/ns/pid").ok()?;
    // SAFETY: no preconditions.
    (namespace.as_os_str() == INITIAL).then(|| unsafe { libc::gettid() } as u32)
}

/// Entries of the table of sums.
pub type CallCounts = Vec<(CellKey, Cell)>;

/// The tables of the system call programs.
pub struct CallMaps {
    control: Array<MapData, SyscallControl>,
    threads: MapData,
    cells: MapData,
    /// The kernel runs a tail call only as long as somebody holds the table.
    _walk: ProgramArray<MapData>,
    /// The programs are attached as long as these are held.
    links: Vec<RawTracePointLink>,
}

impl CallMaps {
    /// Says when to measure and which calls to send one by one.
    ///
    /// # Errors
    ///
    /// The kernel refused.
    pub fn control(&mut self, control: SyscallControl) -> Result<(), LoadError> {
        self.control.set(0, control, 0).map_err(|source| map_error("SYSCALL_CONTROL", source))
    }

    /// Everything that is counted now.
    ///
    /// # Errors
    ///
    /// The kernel refused.
    pub fn read(&self) -> Result<CallCounts, LoadError> {
        self.take_entries(Read::Keep)
    }

    /// Takes out everything that was counted. Only between slices: a call that is just being counted could be lost.
    ///
    /// # Errors
    ///
    /// The kernel refused.
    pub fn drain(&self) -> Result<CallCounts, LoadError> {
        self.take_entries(Read::Remove)
    }

    fn take_entries(&self, read: Read) -> Result<CallCounts, LoadError> {
        let mut entries: CallCounts = batch::entries(self.cells.fd().as_fd(), read)
            .map_err(|source| LoadError::Batch { map: "SYSCALL_CELLS", source })?;
        entries.retain(|(key, _)| key.call.owner != CALIBRATION);
        Ok(entries)
    }

    /// Removes what was counted for owners that make no calls any more.
    ///
    /// # Errors
    ///
    /// The kernel refused.
    pub fn remove(&self, counts: &[(CellKey, Cell)]) -> Result<(), LoadError> {
        let keys: Vec<CellKey> = counts.iter().map(|(key, _)| *key).collect();
        batch::remove(self.cells.fd().as_fd(), &keys)
            .map_err(|source| LoadError::Batch { map: "SYSCALL_CELLS", source })
    }

    /// Measures calls of this thread too, which is never in scope, under the owner [`CALIBRATION`].
    ///
    /// # Errors
    ///
    /// The kernel refused.
    pub fn include_own_thread(&mut self) -> Result<(), LoadError> {
        let Some(tid) = own_tid() else { return Ok(()) };
        let pid = std::process::id();
        let thread = ThreadCalls { pid, tid, owner: CALIBRATION, ..ThreadCalls::default() };
        batch::insert(self.threads.fd().as_fd(), &tid, &thread)
            .map_err(|source| LoadError::Batch { map: "SYSCALL_THREADS", source })
    }

    /// Ends that.
    ///
    /// # Errors
    ///
    /// The kernel refused.
    pub fn exclude_own_thread(&mut self) -> Result<(), LoadError> {
        let Some(tid) = own_tid() else { return Ok(()) };
        batch::remove(self.threads.fd().as_fd(), &[tid])
            .map_err(|source| LoadError::Batch { map: "SYSCALL_THREADS", source })
    }

    /// Every thread that is known to make calls.
    ///
    /// # Errors
    ///
    /// The kernel refused.
    pub fn threads(&self) -> Result<Vec<ThreadCalls>, LoadError> {
        let entries = batch::entries::<u32, ThreadCalls>(self.threads.fd().as_fd(), Read::Keep)
            .map_err(|source| LoadError::Batch { map: "SYSCALL_THREADS", source })?;
        Ok(entries.into_iter().map(|(_, thread)| thread).collect())
    }

    /// Whether the machine's calls pass through the programs now.
    pub fn is_attached(&self) -> bool {
        !self.links.is_empty()
    }

    /// Takes the programs away from the machine's calls.
    pub fn detach(&mut self) {
        // The beginnings first, in the opposite order of attaching.
        while self.links.pop().is_some() {}
    }
}

impl Programs {
    /// Loads the system call programs and attaches those that follow threads.
    ///
    /// # Errors
    ///
    /// What the kernel refused.
    pub fn load_calls(&mut self) -> Result<CallMaps, LoadError> {
        let walk = super::waits::walk(&mut self.ebpf, "walk_return", "WALK_RETURN")?;
        for (program, _) in CALLS {
            raw_tracepoint(&mut self.ebpf, program)?.load().map_err(|source| refused(program, source))?;
        }
        for (program, tracepoint) in THREADS {
            let loaded = raw_tracepoint(&mut self.ebpf, program)?;
            loaded
                .load()
                .and_then(|()| loaded.attach(tracepoint))
                .map_err(|source| refused(program, source))?;
        }
        let control = take_map(&mut self.ebpf, "SYSCALL_CONTROL")?;
        Ok(CallMaps {
            control: Array::try_from(control).map_err(|source| map_error("SYSCALL_CONTROL", source))?,
            threads: hash(&mut self.ebpf, "SYSCALL_THREADS")?,
            cells: hash(&mut self.ebpf, "SYSCALL_CELLS")?,
            _walk: walk,
            links: Vec::new(),
        })
    }

    /// Lets the machine's calls pass through the programs, until [`CallMaps::detach`].
    ///
    /// # Errors
    ///
    /// What the kernel refused.
    pub fn attach_calls(&mut self, maps: &mut CallMaps) -> Result<(), LoadError> {
        for (program, tracepoint) in CALLS {
            let loaded = raw_tracepoint(&mut self.ebpf, program)?;
            let link = loaded.attach(tracepoint).and_then(|id| loaded.take_link(id));
            maps.links.push(link.map_err(|source| refused(program, source))?);
        }
        Ok(())
    }

    /// Calls that began on each CPU while the programs were attached, in scope or not.
    pub fn calls_seen(&self) -> Vec<u64> {
        let seen = self.stats.get(&(Stat::SyscallsSeen as u32), 0);
        seen.map_or_else(|_| Vec::new(), |values| values.iter().copied().collect())
    }
}
