//! The system call programs: loading, attaching for as long as a slice lasts, and reading their tables.

use std::os::fd::AsFd;

use aya::EbpfLoader;
use aya::maps::{Array, MapData};
use aya::programs::raw_trace_point::RawTracePointLink;
use profiler_common::stats::Stat;
use profiler_common::syscall::{CellKey, Sums, SyscallControl, SyscallKey, ThreadCalls};

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
const TABLES: [&str; 3] = ["SYSCALL_THREADS", "SYSCALL_SUMS", "SYSCALL_CELLS"];

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

/// Entries of the two tables of sums.
#[derive(Debug, Default)]
pub struct CallCounts {
    /// Sums.
    pub sums: Vec<(SyscallKey, Sums)>,
    /// Histograms and errnos.
    pub cells: Vec<(CellKey, u64)>,
}

/// The tables of the system call programs.
pub struct CallMaps {
    control: Array<MapData, SyscallControl>,
    threads: MapData,
    sums: MapData,
    cells: MapData,
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
        Ok(CallCounts {
            sums: batch::entries(self.sums.fd().as_fd(), read)
                .map_err(|source| LoadError::Batch { map: "SYSCALL_SUMS", source })?,
            cells: batch::entries(self.cells.fd().as_fd(), read)
                .map_err(|source| LoadError::Batch { map: "SYSCALL_CELLS", source })?,
        })
    }

    /// Removes what was counted for owners that make no calls any more.
    ///
    /// # Errors
    ///
    /// The kernel refused.
    pub fn remove(&self, counts: &CallCounts) -> Result<(), LoadError> {
        let sums: Vec<SyscallKey> = counts.sums.iter().map(|(key, _)| *key).collect();
        let cells: Vec<CellKey> = counts.cells.iter().map(|(key, _)| *key).collect();
        batch::remove(self.sums.fd().as_fd(), &sums)
            .map_err(|source| LoadError::Batch { map: "SYSCALL_SUMS", source })?;
        batch::remove(self.cells.fd().as_fd(), &cells)
            .map_err(|source| LoadError::Batch { map: "SYSCALL_CELLS", source })
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
            sums: hash(&mut self.ebpf, "SYSCALL_SUMS")?,
            cells: hash(&mut self.ebpf, "SYSCALL_CELLS")?,
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
