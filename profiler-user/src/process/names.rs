//! Names of processes and threads, kept also for those that have ended: for recordings that count and take no stacks.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use super::numeric_entries;
use crate::ingest::{EventKind, ProcessEvent};
use crate::profile::clean;

/// Processes remembered by name. Past it, those that have ended and were not counted are forgotten.
const MAX_PROCESSES: usize = 65_536;

/// The name of a process that has none.
const UNKNOWN: &str = "[unknown]";

/// Names by process.
#[derive(Debug, Default)]
pub(crate) struct ProcessNames {
    names: HashMap<u32, Arc<str>>,
    ended: HashSet<u32>,
    lost: u64,
}

impl ProcessNames {
    /// The processes that there are.
    pub(crate) fn of_host() -> Self {
        let mut names = Self::default();
        for pid in numeric_entries(Path::new("/proc")) {
            if let Some(name) = comm(&format!("/proc/{pid}/comm")) {
                names.names.insert(pid, name);
            }
        }
        names
    }

    /// Takes in what happened. `is_counted` says whether a process has to be remembered after its end.
    pub(crate) fn apply(&mut self, events: &[ProcessEvent], is_counted: impl Fn(u32) -> bool) {
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
                EventKind::Map(_) | EventKind::Thread => {}
            }
        }
        if self.names.len() > MAX_PROCESSES {
            let ended = std::mem::take(&mut self.ended);
            for pid in ended {
                if is_counted(pid) {
                    self.ended.insert(pid);
                } else {
                    self.names.remove(&pid);
                }
            }
        }
    }

    /// Forgets processes that have ended: a window that had them is closed.
    pub(crate) fn forget_ended(&mut self) {
        for pid in self.ended.drain() {
            self.names.remove(&pid);
        }
    }

    /// The name of a process.
    pub(crate) fn name(&self, pid: u32) -> Arc<str> {
        let known = self.names.get(&pid).cloned();
        known.or_else(|| comm(&format!("/proc/{pid}/comm"))).unwrap_or_else(|| Arc::from(UNKNOWN))
    }

    /// The name that a process had, if it has ended.
    pub(crate) fn name_of_ended(&self, pid: u32) -> Option<Arc<str>> {
        self.ended.contains(&pid).then(|| self.names.get(&pid).cloned().unwrap_or_else(|| Arc::from(UNKNOWN)))
    }

    /// Events that were lost, after which names may be old.
    pub(crate) fn lost(&self) -> u64 {
        self.lost
    }

    /// The name of a thread: its own while it lives, then that of its process.
    pub(crate) fn thread_name(&self, pid: u32, tid: u32) -> Arc<str> {
        comm(&format!("/proc/{pid}/task/{tid}/comm")).unwrap_or_else(|| self.name(pid))
    }
}

fn comm(path: &str) -> Option<Arc<str>> {
    let bytes = std::fs::read(path).ok()?;
    Some(Arc::from(clean(bytes.strip_suffix(b"\n").unwrap_or(&bytes))))
}
