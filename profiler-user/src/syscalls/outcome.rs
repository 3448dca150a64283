//! What a recording of system calls came to, as a report: who made which calls, which have not returned, what was lost and what it cost.

use std::collections::HashSet;

use profiler_common::stats::Stat;
use profiler_common::syscall::{PENDING_NONE, ThreadCalls};

use super::in_flight::{Waiting, current_call};
use super::model::{CallReport, CallStats, InFlight, Measure, OwnerCalls};
use super::session::{CallSession, Owner};
use super::stacks::{FinishedStacks, Stacks};
use super::tally::{RowKey, Tally};
use crate::process::CgroupNames;
use crate::profile::{Counter, Meta, Overhead, Profile, Quality, ValueType};
use crate::resolve::{Naming, resolve};
use crate::session::lost_by;
use crate::symbolize::native;

/// Calls in flight that a report lists; the rest is only counted.
const LISTED_IN_FLIGHT: usize = 1_000;

impl CallSession {
    pub(super) fn report(
        &mut self,
        tally: &Tally,
        threads: &[ThreadCalls],
        end_ns: u64,
        meta: Meta,
    ) -> CallReport {
        let in_flight = self.in_flight(threads, end_ns);
        let seen = self.window.new_calls(&self.programs.calls_seen());
        let cost_ns = |calls: u64| calls as f64 * self.cost.call_ns();
        let wall_ns = self.window.began.elapsed().as_nanos() as u64;
        let overhead = self.overhead().since(&self.window.overhead);
        let overhead = Overhead { bpf_ns: cost_ns(seen.iter().sum()) as u64, wall_ns, ..overhead };
        let busiest_ns = cost_ns(seen.iter().max().copied().unwrap_or(0));
        let (slices, share) =
            self.slices.as_ref().map_or((0, 1.0), |slices| (slices.taken(), slices.share()));
        let measure = match self.slices {
            None => Measure::Exact,
            Some(_) => {
                Measure::Slices { slices, share, exact_share: self.exact_ns as f64 / wall_ns.max(1) as f64 }
            }
        };
        let mut notes = self.notes.clone();
        notes.extend(self.together.take_note());
        let skipped = self.stat(Stat::CallStacksSkipped);
        if skipped > 0 {
            notes.push(format!("{skipped} slow or sampled calls have no stack here: too many came at once"));
        }
        if self.slices.is_some() {
            notes.push(
                "calls that programs could not make because measuring slowed them down are added; ± holds in 99 of 100 recordings"
                    .to_owned(),
            );
        }
        if tally.began_before() > 0 {
            notes.push(format!(
                "{} calls had begun before the recording and returned in it; they are not counted",
                tally.began_before()
            ));
        }
        if self.processes.lost() > 0 {
            notes.push(format!(
                "{} process events were lost; some names may be those of the parents",
                self.processes.lost()
            ));
        }
        notes.extend(self.ended.note());
        let owners = self.owners(tally, &in_flight, slices, share);
        let quality = Quality {
            samples: owners.iter().map(OwnerCalls::count).sum(),
            lost: Counter::since(&self.lost(), &self.window.lost),
            notes,
            overhead: Some(overhead),
            ..Quality::default()
        };
        CallReport {
            meta: Meta { start_unix_ns: self.window.start_unix_ns, ..meta },
            measure,
            owners,
            in_flight: in_flight.into_iter().map(|(_, call)| call).take(LISTED_IN_FLIGHT).collect(),
            slow: Vec::new(),
            slow_total: 0,
            flame: None,
            slowdown_percent: busiest_ns * 100.0 / wall_ns.max(1) as f64,
            quality,
        }
    }

    /// The calls that have not returned, longest first.
    fn in_flight(&self, threads: &[ThreadCalls], end_ns: u64) -> Vec<(RowKey, InFlight)> {
        let mut found = Vec::new();
        if self.options.windows {
            return found;
        }
        if self.slices.is_some() {
            // Between slices a thread may have returned and called again; only what it does now is known.
            for thread in threads {
                if let Some(number) = current_call(thread.pid, thread.tid) {
                    let key = RowKey { owner: thread.owner, number, abi: thread.abi as u16 };
                    found.push((key, self.unfinished(thread.pid, thread.tid, key, None, false)));
                }
            }
            return found;
        }
        for thread in threads {
            let current = thread.entered_ns >= self.since_ns;
            let interrupted = thread.pending != PENDING_NONE && thread.pending_entered_ns >= self.since_ns;
            let (number, abi, since) = if current {
                (thread.number, thread.abi as u16, thread.entered_ns)
            } else if interrupted {
                (thread.pending_number, (thread.pending >> 16) as u16, thread.pending_entered_ns)
            } else {
                continue;
            };
            let key = RowKey { owner: thread.owner, number, abi };
            found.push((
                key,
                self.unfinished(thread.pid, thread.tid, key, Some(end_ns.saturating_sub(since)), false),
            ));
        }
        let active: HashSet<u32> = threads.iter().map(|thread| thread.tid).collect();
        for call in &self.before {
            let still = !active.contains(&call.tid) && current_call(call.pid, call.tid) == Some(call.number);
            if still {
                let key = RowKey { owner: self.owner_of(call), number: call.number, abi: call.abi };
                let ns = end_ns.saturating_sub(self.since_ns);
                found.push((key, self.unfinished(call.pid, call.tid, key, Some(ns), true)));
            }
        }
        found.sort_by_key(|(_, call)| std::cmp::Reverse((call.began_before, call.ns)));
        found
    }

    fn unfinished(&self, pid: u32, tid: u32, key: RowKey, ns: Option<u64>, began_before: bool) -> InFlight {
        let name = self.names.call(key.number, key.abi).into_owned();
        InFlight { pid, tid, thread: self.processes.thread_name(pid, tid), name, ns, began_before }
    }

    pub(super) fn owner_of(&self, call: &Waiting) -> u64 {
        match self.options.owner {
            Owner::Process => u64::from(call.pid),
            Owner::Thread => thread_owner(call.pid, call.tid),
            // Zero is no group: such calls are listed, but not among those of a group.
            Owner::Cgroup => 0,
        }
    }

    fn owners(
        &self,
        tally: &Tally,
        in_flight: &[(RowKey, InFlight)],
        slices: u64,
        share: f64,
    ) -> Vec<OwnerCalls> {
        let corrections = self.exposure.corrections(self.cost.call_ns(), |owner| self.ended.owner(owner));
        let mut by_owner = tally.stats(&self.names, slices, share, &corrections);
        for (key, call) in in_flight {
            let calls = by_owner.entry(key.owner).or_default();
            match calls.iter_mut().find(|(known, _)| known == key) {
                Some((_, stats)) => stats.in_flight += 1,
                None => calls.push((
                    *key,
                    CallStats { name: call.name.clone(), in_flight: 1, ..CallStats::default() },
                )),
            }
        }
        let mut cgroups = CgroupNames::of_host();
        let mut owners: Vec<OwnerCalls> = by_owner
            .into_iter()
            .map(|(owner, calls)| {
                let mut calls: Vec<CallStats> = calls.into_iter().map(|(_, stats)| stats).collect();
                calls.sort_by(|a, b| (b.total_ns, b.count, &a.name).cmp(&(a.total_ns, a.count, &b.name)));
                let together = self.ended.name(owner).filter(|_| self.puts_together());
                let (pid, tid) = match self.options.owner {
                    Owner::Process if together.is_some() => (Some(0), None),
                    Owner::Process => (Some(owner as u32), None),
                    Owner::Thread => (Some((owner >> 32) as u32), Some(owner as u32)),
                    Owner::Cgroup => (None, None),
                };
                let name = together.unwrap_or_else(|| match (pid, tid) {
                    (Some(pid), Some(tid)) => self.processes.thread_name(pid, tid),
                    (Some(pid), None) => self.processes.name(pid),
                    _ => cgroups.name(owner).unwrap_or_else(|| "/".into()),
                });
                OwnerCalls { pid, tid, name, calls }
            })
            .collect();
        owners.sort_by_key(|owner| {
            std::cmp::Reverse((owner.total_ns(), owner.count(), std::cmp::Reverse(owner.pid)))
        });
        owners
    }

    /// Losses so far, by cause.
    pub(super) fn lost(&self) -> Vec<Counter> {
        let undecodable = self.stacks.as_ref().map_or(0, Stacks::undecodable);
        let of_ours = [
            Counter::of("undecodable", "records that could not be decoded", undecodable),
            Counter::of("owners_full", "counts not kept apart, table full", self.tally.overflowed()),
            Counter::of("unreadable", "times that a table could not be read", self.failures),
        ];
        lost_by(&self.programs).chain(of_ours.into_iter().flatten()).collect()
    }
}

/// Sampled calls by stack, as a profile like any other.
pub(super) fn flame(stacks: &FinishedStacks, report: &CallReport) -> Profile {
    let value_types = [ValueType::new("calls", "count"), ValueType::new("syscall_time", "nanoseconds")];
    let naming = Naming::Full(native::Options::default());
    let mut profile = resolve(
        &stacks.aggregate,
        &stacks.aggregate.known(&stacks.processes),
        &mut CgroupNames::of_host(),
        &value_types,
        report.meta.clone(),
        &naming,
    );
    profile.quality.lost.clone_from(&report.quality.lost);
    profile.quality.notes.clone_from(&report.quality.notes);
    profile.quality.overhead.clone_from(&report.quality.overhead);
    profile
}

fn thread_owner(pid: u32, tid: u32) -> u64 {
    u64::from(pid) << 32 | u64::from(tid)
}
