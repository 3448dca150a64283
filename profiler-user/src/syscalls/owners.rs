//! Who makes the calls: names of processes, threads and control groups, kept also for those that have ended.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use crate::ingest::{EventKind, ProcessEvent};
use crate::process::{CgroupNames, numeric_entries};
use crate::profile::clean;
use crate::system::features::Mounts;

/// Processes remembered by name. Past it, those that have ended and made no calls are forgotten.
const MAX_PROCESSES: usize = 65_536;

/// Names by process.
#[derive(Debug, Default)]
pub(super) struct ProcessNames {
    names: HashMap<u32, Arc<str>>,
    ended: HashSet<u32>,
    lost: u64,
}

impl ProcessNames {
    /// The processes that there are.
    pub(super) fn of_host() -> Self {
        let mut names = Self::default();
        for pid in numeric_entries(Path::new("/proc")) {
            if let Some(name) = comm(&format!("/proc/{pid}/comm")) {
                names.names.insert(pid, name);
            }
        }
        names
    }

    /// Takes in what happened. `has_calls` says whether a process has to be remembered after its end.
    pub(super) fn apply(&mut self, events: &[ProcessEvent], has_calls: impl Fn(u32) -> bool) {
        for event in events {
            match &event.kind {
                EventKind::Fork { parent } => {
                    self.ended.remove(&event.pid);
                    if let Some(name) = self.names.get(parent).cloned() {
                        self.names.insert(event.pid, name);
                    }
                }
                EventKind::Exec { comm } | EventKind::Rename { comm } => {
                    self.names.insert(event.pid, Arc::from(clean(comm)));
                }
                EventKind::Exit => {
                    self.ended.insert(event.pid);
                }
                EventKind::Lost { records } => self.lost += records,
                EventKind::Map(_) => {}
            }
        }
        if self.names.len() > MAX_PROCESSES {
            let ended = std::mem::take(&mut self.ended);
            for pid in ended {
                if has_calls(pid) {
                    self.ended.insert(pid);
                } else {
                    self.names.remove(&pid);
                }
            }
        }
    }

    /// The name of a process.
    pub(super) fn name(&self, pid: u32) -> Arc<str> {
        let known = self.names.get(&pid).cloned();
        known.or_else(|| comm(&format!("/proc/{pid}/comm"))).unwrap_or_else(|| Arc::from("[unknown]"))
    }

    /// Events that were lost, after which names may be old.
    pub(super) fn lost(&self) -> u64 {
        self.lost
    }

    /// The name of a thread: its own while it lives, then that of its process.
    pub(super) fn thread_name(&self, pid: u32, tid: u32) -> Arc<str> {
        comm(&format!("/proc/{pid}/task/{tid}/comm")).unwrap_or_else(|| self.name(pid))
    }
}

/// Names of control groups.
pub(super) fn cgroup_names() -> CgroupNames {
    CgroupNames::new(Mounts::gather().of_kind("cgroup2").next().map(|mount| mount.point.clone()))
}

fn comm(path: &str) -> Option<Arc<str>> {
    let bytes = std::fs::read(path).ok()?;
    Some(Arc::from(clean(bytes.strip_suffix(b"\n").unwrap_or(&bytes))))
}
