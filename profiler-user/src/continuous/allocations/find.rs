//! Which processes of the host fit a rule.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use crate::continuous::filter::{Filter, Rule};
use crate::process::{cgroup_of, numeric_entries};
use crate::profile::clean;
use crate::system::target::Stat;

/// A process that fits a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) pid: u32,
    /// When it began, clock ticks since boot: a number may be given out again.
    pub(super) start_ticks: u64,
    /// Its name, cleaned.
    pub(super) name: String,
}

impl Candidate {
    /// Whether it is the same process, which may have another name by now.
    pub(super) fn is(&self, other: &Self) -> bool {
        (self.pid, self.start_ticks) == (other.pid, other.start_ticks)
    }
}

/// What a look found.
pub(super) struct Found {
    /// Those that fit, the oldest first.
    pub(super) fitting: Vec<Candidate>,
    /// All that live, with their beginnings.
    pub(super) living: HashSet<(u32, u64)>,
}

/// Looks for processes, and remembers what it knows of those that it has seen.
pub(super) struct Finder {
    filter: Filter,
    /// Whether a process of this beginning and name fits.
    decided: HashMap<u32, (u64, Vec<u8>, bool)>,
    /// Those that cannot be recorded, by name: another program may come to be in their place.
    unable: HashSet<(u32, u64, String)>,
}

impl Finder {
    pub(super) fn new(rules: &[Rule]) -> Self {
        let filter = Filter { include: rules.to_vec(), exclude: Vec::new() };
        Self { filter, decided: HashMap::new(), unable: HashSet::new() }
    }

    pub(super) fn is_unable(&self, who: &Candidate) -> bool {
        self.unable.contains(&(who.pid, who.start_ticks, who.name.clone()))
    }

    pub(super) fn set_unable(&mut self, who: &Candidate) {
        self.unable.insert((who.pid, who.start_ticks, who.name.clone()));
    }

    /// Looks at all processes of the host but this one. Names are read each time; users and groups when a process is new, or has become another program.
    pub(super) fn look(&mut self) -> Found {
        let own = std::process::id();
        let (mut fitting, mut living) = (Vec::new(), HashSet::new());
        for pid in numeric_entries(Path::new("/proc")).into_iter().filter(|pid| *pid != own) {
            let Ok(stat) = Stat::gather(pid) else { continue };
            if stat.state.is_dead() || stat.is_kernel_thread() {
                continue;
            }
            living.insert((pid, stat.start_ticks));
            let known = self.decided.get(&pid).filter(|(start, comm, _)| {
                (*start, comm.as_slice()) == (stat.start_ticks, stat.comm.as_slice())
            });
            let name = || clean(&stat.comm);
            let fits = known.map_or_else(
                || self.filter.names_process(&name(), user_of(pid), cgroup_of(pid).as_deref()),
                |(_, _, fits)| *fits,
            );
            if fits {
                fitting.push(Candidate { pid, start_ticks: stat.start_ticks, name: name() });
            }
            self.decided.insert(pid, (stat.start_ticks, stat.comm, fits));
        }
        self.decided.retain(|pid, (start, ..)| living.contains(&(*pid, *start)));
        self.unable.retain(|(pid, start, _)| living.contains(&(*pid, *start)));
        fitting.sort_by_key(|who| (who.start_ticks, who.pid));
        Found { fitting, living }
    }
}

/// The effective user of a process: the second number of `Uid:` (proc(5)).
fn user_of(pid: u32) -> Option<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    uids.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_found_by_name_and_known_again() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let mut finder = Finder::new(&[Rule::Name("sleep".to_owned())]);
        // It has the name of this program until it has become the other one.
        let find = |finder: &mut Finder| {
            let found = finder.look();
            assert!(found.fitting.is_sorted_by_key(|who| who.start_ticks));
            found.fitting.into_iter().find(|who| who.pid == child.id())
        };
        let who = std::iter::repeat_with(|| find(&mut finder)).flatten().next().unwrap();
        assert_eq!(find(&mut finder).as_ref(), Some(&who), "the second look knows it");
        finder.set_unable(&who);
        assert!(finder.is_unable(&who) && !finder.is_unable(&Candidate { name: "other".to_owned(), ..who }));
        child.kill().unwrap();
        child.wait().unwrap();
        let found = finder.look();
        assert!(found.fitting.iter().all(|who| who.pid != child.id()));
        assert!(finder.unable.is_empty(), "the dead are forgotten");
    }

    #[test]
    fn without_a_rule_nobody_fits() {
        let found = Finder::new(&[]).look();
        assert!(found.fitting.is_empty() && !found.living.is_empty());
        assert!(!found.living.iter().any(|(pid, _)| *pid == std::process::id()), "never the agent itself");
    }
}
