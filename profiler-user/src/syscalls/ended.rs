//! Calls of processes that have ended: by name together, where there are many of them.
//!
//! In a storm of short processes ten thousand end in a window, each with twenty calls and their histograms, and nobody asks for one of them by its
//! number. So only the first are kept apart. All calls are counted, under the name that they had; the report says how many processes it were.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::intern::Interner;
use crate::output::thousands;
use crate::process::ProcessNames;

/// Processes with calls from which on those that have ended are counted together. Each has some 25 calls with their histograms: 15 KiB.
const APART: usize = 128;

/// Names kept apart: a program may give each of its processes another one.
const MOST_NAMES: usize = 512;

/// Where all others go.
const OTHERS: &str = "[others]";

/// Owners that are processes have their process ID, which is less.
const FIRST_GROUP: u64 = 1 << 32;

/// The processes of a window that are counted together.
#[derive(Debug, Default)]
pub(super) struct Ended {
    names: Interner<Box<str>>,
    groups: HashMap<u64, u64>,
}

impl Ended {
    /// Puts the owners of a reading together. `apart` are those that are counted for themselves already, and stay so.
    pub(super) fn put_together<'a>(
        &mut self,
        owners: impl Iterator<Item = &'a mut u64>,
        mut apart: HashSet<u64>,
        processes: &ProcessNames,
    ) {
        for owner in owners {
            if apart.contains(owner) {
                continue;
            }
            let pid = u32::try_from(*owner).ok();
            match pid.and_then(|pid| processes.name_of_ended(pid)) {
                Some(name) if apart.len() >= APART => *owner = self.group(*owner, &name),
                _ => {
                    apart.insert(*owner);
                }
            }
        }
    }

    fn group(&mut self, owner: u64, name: &str) -> u64 {
        let has_room = self.names.entries().len() < MOST_NAMES || self.names.contains(name);
        let number = self.names.intern_ref(if has_room { name } else { OTHERS });
        let group = FIRST_GROUP + u64::from(number);
        self.groups.insert(owner, group);
        group
    }

    /// Under which owner the calls of this one are counted.
    pub(super) fn owner(&self, owner: u64) -> u64 {
        self.groups.get(&owner).copied().unwrap_or(owner)
    }

    /// The name of those that are counted under this owner, if they are several.
    pub(super) fn name(&self, owner: u64) -> Option<Arc<str>> {
        let number = usize::try_from(owner.checked_sub(FIRST_GROUP)?).ok()?;
        self.names.entries().get(number).map(|name| Arc::from(&**name))
    }

    /// What the reader should know.
    pub(super) fn note(&self) -> Option<String> {
        (!self.groups.is_empty()).then(|| {
            format!(
                "{} processes that had ended are counted together by name, as process 0: {APART} others had made calls before",
                thousands(self.groups.len() as u64)
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ingest::{EventKind, ProcessEvent};

    /// Above the kernel's limit, so that `/proc` never knows them.
    const FIRST_PID: u32 = 1 << 30;

    fn processes(names: &[u16], ended: impl Fn(u32) -> bool) -> ProcessNames {
        let mut processes = ProcessNames::default();
        for (pid, name) in (FIRST_PID..).zip(names) {
            let event = |kind| ProcessEvent { time_ns: 0, pid, kind };
            let exec = event(EventKind::Exec { comm: format!("name{name}").into_bytes() });
            let exit = ended(pid).then(|| event(EventKind::Exit));
            let events: Vec<ProcessEvent> = [exec].into_iter().chain(exit).collect();
            processes.apply(&events, |_| true);
        }
        processes
    }

    fn together(ended: &mut Ended, count: usize, apart: &HashSet<u64>, processes: &ProcessNames) -> Vec<u64> {
        let mut owners: Vec<u64> = (u64::from(FIRST_PID)..).take(count).collect();
        ended.put_together(owners.iter_mut(), apart.clone(), processes);
        owners
    }

    #[test]
    fn few_processes_are_kept_apart_though_they_ended() {
        let (mut ended, names) = (Ended::default(), [1; APART]);
        let owners = together(&mut ended, APART, &HashSet::new(), &processes(&names, |_| true));
        assert!(owners.iter().zip(u64::from(FIRST_PID)..).all(|(owner, pid)| *owner == pid));
        assert_eq!(ended.note(), None);
    }

    #[test]
    fn processes_that_live_or_are_counted_already_are_kept_apart_always() {
        let (mut ended, names) = (Ended::default(), [1; 3 * APART]);
        let known = HashSet::from([u64::from(FIRST_PID) + 3 * APART as u64 - 1]);
        let owners =
            together(&mut ended, 3 * APART, &known, &processes(&names, |pid| !pid.is_multiple_of(2)));
        for (owner, pid) in owners.iter().zip(u64::from(FIRST_PID)..) {
            assert!(*owner == pid || (pid % 2 == 1 && !known.contains(&pid)), "{pid} has become {owner}");
            assert_eq!(ended.owner(pid), *owner);
        }
        assert!(ended.note().is_some());
    }

    proptest! {
        #[test]
        fn a_process_is_counted_under_its_name_and_owners_are_bounded(
            names in proptest::collection::vec(0..2000u16, 0..4000),
        ) {
            let mut ended = Ended::default();
            let owners = together(&mut ended, names.len(), &HashSet::new(), &processes(&names, |_| true));
            let distinct: HashSet<u64> = owners.iter().copied().collect();
            prop_assert!(distinct.len() <= APART + MOST_NAMES + 1);
            for ((pid, owner), name) in (u64::from(FIRST_PID)..).zip(&owners).zip(&names) {
                let told = ended.name(*owner);
                let is_right = told.as_deref().map_or(*owner == pid, |told| told == format!("name{name}") || told == OTHERS);
                prop_assert!(is_right, "{} of {} is counted under {:?}", pid, name, told);
                prop_assert_eq!(ended.owner(pid), *owner);
            }
        }
    }
}
