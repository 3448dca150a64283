//! What a recording of system calls does a few times a second: names, room in the kernel's tables, and its cost.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use profiler_common::stats::Stat;
use profiler_common::syscall::MAX_CELLS;

use super::session::{CallSession, CallSessionOptions, Owner};
use super::slices::{Slice, Slices, owners_of};
use super::tally::Weight;
use crate::bpf::CallCounts;
use crate::output::{percent, thousands};
use crate::session::SessionError;

/// Share of the kernel's table that may fill before the entries of ended processes are taken out.
const PURGE_SHARE: u64 = 4;

/// Time over which the cost is judged, so that a burst of calls, as when a program starts, does not count as its habit.
const COST_WINDOW: Duration = Duration::from_millis(500);

/// What may be spent on the busiest CPU before the cost is judged at once, in seconds of the budget: a quarter of what a window of five seconds may
/// cost, because all else that is new when a load begins falls into the same window.
const BURST_S: f64 = 1.25;

impl CallSession {
    pub(super) fn keep_up(&mut self) {
        let events = self.side_band.drain();
        let owners = self.tally.owners();
        self.processes.apply(&events, |pid| owners.contains(&u64::from(pid)));
        let made = self.stat(Stat::SyscallEntries);
        let factor = self.slices.as_ref().map_or(1.0, |slices| 1.0 / slices.planned_share());
        if let Some(stacks) = &mut self.stacks {
            stacks.tick(&mut self.programs, &events, &self.names, factor);
        }
        let measuring = self.slices.is_none();
        if measuring
            && self.options.owner != Owner::Cgroup
            && made.saturating_sub(self.removed) >= self.purge_at
        {
            self.purge();
        }
    }

    /// Takes out what was counted for processes that have ended.
    fn purge(&mut self) {
        let Ok(counts) = self.maps.read() else {
            self.failures += 1;
            return;
        };
        let mut alive: HashMap<u64, bool> = HashMap::new();
        let owner_kind = self.options.owner;
        let mut is_alive = |owner: u64| *alive.entry(owner).or_insert_with(|| exists(owner_kind, owner));
        let all = counts.len();
        let gone: CallCounts = counts.into_iter().filter(|(key, _)| !is_alive(key.call.owner)).collect();
        let removed = gone.len();
        if self.maps.remove(&gone).is_err() {
            self.failures += 1;
        }
        self.add_exact(gone);
        self.removed += removed as u64;
        // What is left belongs to the living; the next look is worth while when as much has come again.
        self.purge_at = (all - removed) as u64 + purge_step(&self.options);
    }

    /// Adds what was counted while every call was measured.
    pub(super) fn add_exact(&mut self, mut counts: CallCounts) {
        if self.puts_together() {
            self.ended.put_together(owners_of(&mut counts), self.tally.owners(), &self.processes);
        }
        self.tally.add(&counts, Weight::Exact);
    }

    /// Makes a slice ready that is about to be added: most short processes of it have ended by now.
    pub(super) fn put_together(&mut self, slice: Option<&mut Slice>) {
        if let Some(slice) = slice.filter(|_| self.puts_together()) {
            self.ended.put_together(slice.owners(), self.tally.owners(), &self.processes);
        }
    }

    /// Whether processes that have ended may be counted together: not where somebody waits for the table of this one recording.
    pub(super) fn puts_together(&self) -> bool {
        self.options.windows && self.options.owner == Owner::Process
    }

    /// Leaves their part of the budget to other recordings.
    pub(super) fn share_budget(&mut self) {
        let Some(budget) = self.options.budget else { return };
        if let Some(part) =
            self.together.look(|| self.meter.spent(&self.programs).all_ns() + self.spent_ns as u64, budget)
        {
            self.part = part;
            if let Some(slices) = &mut self.slices {
                slices.set_budget(budget * part);
            }
        }
    }

    /// Compares what measuring costs with what it may cost, and goes over to slices when it is too much. Takes some microseconds where it is not.
    ///
    /// # Errors
    ///
    /// What the kernel refused.
    pub fn watch_cost(&mut self) -> Result<(), SessionError> {
        let (Some(budget), None) = (self.options.budget, &self.slices) else { return Ok(()) };
        let budget = budget * self.part;
        let rate = self.cost.peek(&self.programs);
        let looked_for = self.cost.looked_for();
        let is_burst = rate.busiest_share * looked_for.as_secs_f64() > budget * BURST_S;
        let settled = looked_for >= COST_WINDOW || is_burst;
        if settled {
            self.spent_ns += rate.calls_per_second * self.cost.call_ns() * looked_for.as_secs_f64();
            self.cost.restart(&self.programs);
        } else if self.rate_known {
            return Ok(());
        }
        let what = format!(
            "{} calls a second on this machine, {:.2} µs each: measuring every call costs {} of the busiest CPU",
            thousands(rate.calls_per_second as u64),
            self.cost.call_ns() / 1e3,
            percent(rate.busiest_share * 100.0),
        );
        let slices = Slices::new(budget, rate.busiest_share, self.around_s, Instant::now());
        // Slices cost something too; less than that cannot be had.
        let least = budget.max(slices.spent());
        if !settled || rate.busiest_share <= least {
            if !self.rate_known {
                self.news.push(what);
            }
            self.rate_known = true;
            return Ok(());
        }
        self.rate_known = true;
        let end_ns = self.close()?;
        self.maps.detach();
        self.exact_ns = end_ns.saturating_sub(self.since_ns.max(self.window.since_ns));
        let counts = self.maps.drain()?;
        self.add_exact(counts);
        self.removed = self.stat(Stat::SyscallEntries);
        self.news.push(format!(
            "{what}; from now on in slices of time, {} of it (--exact measures every call)",
            percent(slices.planned_share() * 100.0)
        ));
        self.slices = Some(slices);
        Ok(())
    }
}

/// New entries after which a look for ended processes is worth while.
pub(super) fn purge_step(options: &CallSessionOptions) -> u64 {
    u64::from(options.table_entries.unwrap_or(MAX_CELLS)) / PURGE_SHARE
}

fn exists(kind: Owner, owner: u64) -> bool {
    let path = match kind {
        Owner::Process => format!("/proc/{owner}"),
        Owner::Thread => format!("/proc/{}/task/{}", owner >> 32, owner as u32),
        Owner::Cgroup => return true,
    };
    std::path::Path::new(&path).exists()
}
