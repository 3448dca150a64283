//! Whom the programs look at: the tables of processes and threads in scope.

use aya::Ebpf;
use aya::maps::{HashMap, MapData};
use profiler_common::config::{TARGET_PARENT_ONLY, TARGET_SAMPLED};

use super::LoadError;
use super::loader::{map_error, take_map};

/// The tables of targets. The programs that keep them right ([`super::Programs::follow_processes`]) write them too.
pub struct Targets {
    processes: HashMap<MapData, u32, u32>,
    threads: HashMap<MapData, u32, u32>,
}

impl Targets {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, LoadError> {
        let table = |ebpf: &mut Ebpf, name| {
            HashMap::try_from(take_map(ebpf, name)?).map_err(|source| map_error(name, source))
        };
        Ok(Self { processes: table(ebpf, "TARGETS")?, threads: table(ebpf, "THREADS")? })
    }

    /// Puts a process into the table.
    ///
    /// # Errors
    ///
    /// The table is full, or the kernel refused.
    pub fn add(&mut self, pid: u32) -> Result<(), LoadError> {
        self.insert(pid, TARGET_SAMPLED)
    }

    fn insert(&mut self, pid: u32, kind: u32) -> Result<(), LoadError> {
        self.processes.insert(pid, kind, 0).map_err(|source| map_error("TARGETS", source))
    }

    /// Takes a process out of the table; absent ones are fine.
    pub fn remove(&mut self, pid: u32) {
        let _absent_is_fine = self.processes.remove(&pid);
    }

    /// The processes in the table.
    pub fn processes(&self) -> Vec<u32> {
        self.processes.keys().flatten().collect()
    }

    /// Puts a thread into the table of threads.
    ///
    /// # Errors
    ///
    /// The table is full, or the kernel refused.
    pub fn add_thread(&mut self, tid: u32) -> Result<(), LoadError> {
        self.threads.insert(tid, 1, 0).map_err(|source| map_error("THREADS", source))
    }

    /// Runs `start` with the children that it makes in scope from their first instruction on, for
    /// [`crate::session::Scope::Command`].
    ///
    /// # Errors
    ///
    /// The process could not be put into the table.
    pub fn follow_children<T>(&mut self, start: impl FnOnce() -> T) -> Result<T, LoadError> {
        let own = std::process::id();
        self.insert(own, TARGET_PARENT_ONLY)?;
        let result = start();
        self.remove(own);
        Ok(result)
    }
}
