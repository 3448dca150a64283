//! When to measure, where measuring all the time would cost too much.
//!
//! The time is cut into windows, and in each one calls are measured for one slice at a random moment. What the slice saw stands
//! for its window. The share of the time that is measured follows from what measuring costs.

use crate::statistics::Chance;
use std::time::{Duration, Instant};

use super::tally::{RowKey, Tally, Weight};
use crate::bpf::CallCounts;

/// Usual length of a window. Shorter ones give more slices, and so smaller error bars, but attaching costs too.
const WINDOW: Duration = Duration::from_millis(250);
/// Longest window: past it a recording of some seconds has too few slices to tell how much they differ.
const LONGEST_WINDOW: Duration = Duration::from_secs(2);
/// Shortest slice: below it the moments of attaching are most of it.
const SHORTEST_SLICE: Duration = Duration::from_millis(2);
/// Largest share of a window; a slice needs room to move.
const LARGEST_SHARE: f64 = 0.5;
/// Longest slice: whoever ends a window waits for it.
const LONGEST_SLICE: Duration = Duration::from_millis(125);
/// The part of the budget that attaching, reading and taking off may have.
const AROUND_SHARE: f64 = 0.5;
/// Weight of the newest slice in the running mean of costs.
const NEWEST: f64 = 0.3;

/// What a slice saw.
#[derive(Debug)]
pub(super) struct Slice {
    pub(super) counts: CallCounts,
    /// Time of calls that were going on and did not end in it, nanoseconds.
    pub(super) open: Vec<(RowKey, f64)>,
    /// Its length, nanoseconds.
    pub(super) ns: u64,
}

/// The windows so far.
#[derive(Debug)]
pub(super) struct Slices {
    /// What measuring may cost, as a share of the busiest CPU.
    budget: f64,
    /// What it costs while it is on.
    cost: f64,
    /// CPU time that the agent needs around a slice, seconds: to attach, to read, to take off.
    around_s: f64,
    /// Where the window began that comes now.
    window_began: Instant,
    window: Duration,
    slice: Duration,
    /// When its slice is due.
    due: Instant,
    /// The last slice, with the beginning of its window: it stands for all the time until the next window that has one.
    pending: Option<(Slice, Instant)>,
    taken: u64,
    measured_ns: u64,
    covered_ns: u64,
    chance: Chance,
}

impl Slice {
    /// Whose calls they are.
    pub(super) fn owners(&mut self) -> impl Iterator<Item = &mut u64> {
        let open = self.open.iter_mut().map(|(key, _)| &mut key.owner);
        owners_of(&mut self.counts).chain(open)
    }
}

/// Whose calls they are.
pub(super) fn owners_of(counts: &mut CallCounts) -> impl Iterator<Item = &mut u64> {
    counts.iter_mut().map(|(key, _)| &mut key.call.owner)
}

impl Slices {
    /// From now on. `around_s` is what earlier slices needed, zero if nobody knows.
    pub(super) fn new(budget: f64, cost: f64, around_s: f64, now: Instant) -> Self {
        let mut slices = Self {
            budget,
            cost,
            around_s,
            window_began: now,
            window: WINDOW,
            slice: SHORTEST_SLICE,
            due: now,
            pending: None,
            taken: 0,
            measured_ns: 0,
            covered_ns: 0,
            chance: Chance::of_now(),
        };
        slices.plan(now);
        slices
    }

    /// What measuring may cost from now on.
    pub(super) fn set_budget(&mut self, budget: f64) {
        self.budget = budget;
    }

    /// What measuring every call would cost now, as a share of the busiest CPU.
    pub(super) fn cost(&self) -> f64 {
        self.cost
    }

    /// CPU time that the agent needs around a slice, seconds.
    pub(super) fn around_s(&self) -> f64 {
        self.around_s
    }

    /// What the slices themselves cost as they are planned, with what is around them.
    pub(super) fn spent(&self) -> f64 {
        self.around_s / self.window.as_secs_f64() + self.cost * self.planned_share()
    }

    /// Counts from now on: the windows of a recording that goes on have slices of their own.
    pub(super) fn begin_window(&mut self) {
        (self.taken, self.measured_ns, self.covered_ns) = (0, 0, 0);
    }

    /// When the next slice is due.
    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// How long it is to be.
    pub(super) fn length(&self) -> Duration {
        self.slice
    }

    /// Share of the time that is planned to be measured.
    pub(super) fn planned_share(&self) -> f64 {
        self.slice.as_secs_f64() / self.window.as_secs_f64()
    }

    /// Takes in a slice, what measuring cost the busiest CPU while it lasted, and what it cost the agent around it, seconds.
    pub(super) fn add(&mut self, tally: &mut Tally, slice: Slice, cost: f64, around_s: f64) {
        self.finish(tally, self.window_began);
        self.pending = Some((slice, self.window_began));
        self.cost += (cost - self.cost) * NEWEST;
        self.around_s =
            if self.around_s == 0.0 { around_s } else { self.around_s + (around_s - self.around_s) * NEWEST };
        let now = Instant::now();
        // The next window begins where this one was to end, or now if the slice went past it.
        let next = (self.window_began + self.window).max(now);
        self.plan(next);
    }

    /// Adds the last slice for the time up to `end`.
    pub(super) fn finish(&mut self, tally: &mut Tally, end: Instant) {
        let Some((slice, began)) = self.pending.take() else { return };
        let window_ns = end.saturating_duration_since(began).as_nanos() as u64;
        let ns = slice.ns.max(1);
        let factor = window_ns.max(ns) as f64 / ns as f64;
        tally.add(&slice.counts, Weight::Slice(factor));
        for (key, open_ns) in slice.open {
            tally.add_open_time(key, open_ns * factor);
        }
        self.taken += 1;
        self.measured_ns += ns;
        self.covered_ns += window_ns.max(ns);
    }

    /// The last slice, which is still to be added.
    pub(super) fn pending(&mut self) -> Option<&mut Slice> {
        self.pending.as_mut().map(|(slice, _)| slice)
    }

    /// Slices taken.
    pub(super) fn taken(&self) -> u64 {
        self.taken
    }

    /// Share of the time that was measured.
    pub(super) fn share(&self) -> f64 {
        if self.covered_ns == 0 { 1.0 } else { self.measured_ns as f64 / self.covered_ns as f64 }
    }

    fn plan(&mut self, begins: Instant) {
        let rest =
            (self.budget - self.around_s / WINDOW.as_secs_f64()).max(self.budget * (1.0 - AROUND_SHARE));
        let share = (rest / self.cost.max(1e-9)).min(LARGEST_SHARE);
        let shortest_s = self.around_s / (self.budget * AROUND_SHARE).max(1e-9);
        let shortest = Duration::from_secs_f64(shortest_s.min(LONGEST_WINDOW.as_secs_f64())).max(WINDOW);
        let slice = shortest.mul_f64(share).clamp(SHORTEST_SLICE, LONGEST_SLICE);
        self.window_began = begins;
        self.slice = slice;
        self.window = slice.div_f64(share.max(1e-6)).clamp(shortest, LONGEST_WINDOW);
        let room = self.window.saturating_sub(slice);
        self.due = begins + room.mul_f64(self.chance.fraction());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::syscalls::names::Names;
    use profiler_common::syscall::{CELL_TIME, Cell, CellKey, SyscallKey};
    use std::collections::HashMap;

    #[test]
    fn the_share_follows_the_cost() {
        let now = Instant::now();
        let cheap = Slices::new(0.01, 0.02, 0.0, now);
        assert!((cheap.planned_share() - 0.5).abs() < 0.01);
        let dear = Slices::new(0.01, 0.5, 0.0, now);
        assert!((dear.planned_share() - 0.02).abs() < 0.001, "{}", dear.planned_share());
        assert!(dear.due() >= now && dear.due() + dear.length() <= now + dear.window);
        let hopeless = Slices::new(0.000_1, 1.0, 0.0, now);
        assert_eq!(hopeless.length(), SHORTEST_SLICE);
    }

    #[test]
    fn what_is_around_slices_counts_too() {
        let now = Instant::now();
        // Two milliseconds four times a second are 0.8 % of a CPU, twice the budget: half of it is for them, once a second.
        let slices = Slices::new(0.004, 0.04, 0.002, now);
        assert!((slices.window.as_secs_f64() - 1.0).abs() < 1e-6, "{:?}", slices.window);
        assert!((slices.planned_share() - 0.05).abs() < 1e-6);
        assert!((slices.spent() - 0.004).abs() < 1e-6);
        // Where measuring costs next to nothing the slices are what costs.
        let idle = Slices::new(0.004, 0.001, 0.002, now);
        assert!(idle.spent() > idle.cost(), "{} for {}", idle.spent(), idle.cost());
        for (budget, cost, around_s) in [(0.0, 0.0, 0.0), (1e-9, 1e9, 1e9), (1.0, 0.0, 0.0), (0.01, 5.0, 0.5)]
        {
            let slices = Slices::new(budget, cost, around_s, now);
            assert!(slices.length() <= LONGEST_SLICE && slices.length() <= slices.window);
            assert!(slices.window <= LONGEST_WINDOW);
        }
    }

    /// A program with two phases, seen through slices at random moments: the true count lies within the error bars.
    #[test]
    fn counts_are_unbiased_and_their_error_bars_hold() {
        let mut missed = 0;
        for _ in 0..100 {
            let mut now = Instant::now();
            let mut slices = Slices::new(0.01, 0.2, 0.0, now);
            let mut tally = Tally::default();
            let mut truth = 0_u64;
            for window in 0..40_u64 {
                // Calls per millisecond; the second phase has three times as many.
                let rate = if window < 20 { 1_000 } else { 3_000 };
                truth += rate * slices.window.as_millis() as u64;
                let ns = slices.length().as_nanos() as u64;
                let jitter = 0.9 + 0.2 * slices.chance.fraction();
                let count = (rate as f64 * ns as f64 / 1e6 * jitter) as u64;
                let call = SyscallKey { owner: 1, number: 0, ..SyscallKey::default() };
                let key = CellKey { call, kind: CELL_TIME, index: 5, padding: 0 };
                let cell = Cell { count, total_ns: count * 5, max_ns: 5 };
                let slice = Slice { counts: vec![(key, cell)], open: Vec::new(), ns };
                slices.finish(&mut tally, slices.window_began);
                slices.pending = Some((slice, slices.window_began));
                now = slices.window_began + slices.window;
                slices.plan(now);
            }
            slices.finish(&mut tally, now);
            let stats = tally.stats(&Names::load(), slices.taken(), slices.share(), &HashMap::new());
            let call = &stats[&1][0].1;
            missed += u32::from(call.count.abs_diff(truth) > call.count_error);
            assert!((call.count as f64 / truth as f64 - 1.0).abs() < 0.1, "{} of {truth}", call.count);
        }
        assert!(missed <= 3, "{missed} of 100 outside of the 99 % error bars");
    }
}
