//! What the measurement of waits leaves out to stay within its budget: on the first rungs stacks of short waits, on the others these waits
//! themselves, but for those that stand for them.

use profiler_common::off_cpu::{BRIEF_WAIT_NS, LONG_WAIT_NS, shift_of};

use super::WaitOptions;

/// How waits are recorded on one rung.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rung {
    /// Waits that are usually shorter than this are called short: their stacks are taken in proportion to their length. The cost of stacks
    /// falls in proportion to it. 50 us: half of the stacks of waits that are usually 25 us long.
    pub(super) threshold_ns: u64,
    /// Those whose stacks are not taken pass. The cost of a switch falls to about a quarter.
    pub(super) passing: bool,
    /// Of 2^this slices of time one is open to brief waits, and stands for the others, where a switch costs a third of that again.
    pub(super) slices_shift: u16,
}

impl Rung {
    /// For how many a wait of this length, nanoseconds, stands where it was drawn from those that pass, if it is a usual one of its place.
    pub(super) fn stands_for(&self, ns: u64) -> f64 {
        let slices = if ns < BRIEF_WAIT_NS { u32::from(self.slices_shift) } else { 0 };
        2_f64.powi((shift_of(ns, self.threshold_ns) + slices) as i32)
    }
}

const fn measured(threshold_ns: u64) -> Rung {
    Rung { threshold_ns, passing: false, slices_shift: 0 }
}

const fn passing(threshold_ns: u64) -> Rung {
    Rung { passing: true, ..measured(threshold_ns) }
}

const fn sliced(slices_shift: u16, threshold_ns: u64) -> Rung {
    Rung { slices_shift, ..passing(threshold_ns) }
}

const US: u64 = 1_000;

/// Where waits are usually longer than 5 ms their stacks are taken on all rungs, whatever it costs, which is little, for a thread has at most two
/// hundred a second of them.
const LADDER: [Rung; 12] = [
    measured(0),
    measured(50 * US),
    measured(100 * US),
    measured(200 * US),
    measured(400 * US),
    passing(400 * US),
    passing(800 * US),
    passing(1_600 * US),
    passing(3_200 * US),
    sliced(1, 6_400 * US),
    sliced(2, 12_800 * US),
    sliced(3, 25_600 * US),
];

/// Where the time that threads run is measured as well, each thread's times are to add up to all of its time, so that every wait is measured.
const WITH_RUNS: [Rung; 10] = [
    measured(0),
    measured(50 * US),
    measured(100 * US),
    measured(200 * US),
    measured(400 * US),
    measured(800 * US),
    measured(1_600 * US),
    measured(3_200 * US),
    measured(6_400 * US),
    measured(LONG_WAIT_NS),
];

/// The ladder of a recording.
pub(super) fn of(options: &WaitOptions) -> &'static [Rung] {
    match (options.exact, options.runs) {
        (true, _) => &LADDER[..1],
        (false, true) => &WITH_RUNS,
        (false, false) => &LADDER,
    }
}

/// Whether a recording may pause: not where all times are to add up, nor where waits are chosen by a length that is not seen as a whole.
pub(super) fn may_pause(options: &WaitOptions) -> bool {
    !options.exact && !options.runs && options.takes_all_waits()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile_type::governor::Governor;

    #[test]
    fn each_rung_takes_less_than_the_one_below() {
        for ladder in [&LADDER[..], &WITH_RUNS] {
            let cost = |rung: &Rung| (rung.passing, rung.threshold_ns, rung.slices_shift);
            assert!(ladder.is_sorted_by(|lower, upper| cost(lower) < cost(upper)));
            assert_eq!(ladder[0], measured(0));
        }
    }

    /// A host with `rate` waits a second of `length` each: what programs cost in a look.
    fn cost(rate: f64, length: u64, rung: Rung) -> u64 {
        let shift = shift_of(length, rung.threshold_ns);
        let stacks = 5_000.0 / f64::from(1 << shift);
        let open = if rung.passing { 300.0 } else { 1_200.0 } + stacks;
        let per_wait =
            if rung.slices_shift == 0 { open } else { 100.0 + open / f64::from(1 << rung.slices_shift) };
        (rate * 0.1 * per_wait) as u64
    }

    #[test]
    fn a_storm_of_short_waits_is_thinned_out_and_forgotten() {
        let (budget, look_ns) = (0.02, 100_000_000);
        let mut governor = Governor::new(budget, LADDER.len(), 0);
        let mut over = 0;
        for _ in 0..20 {
            let spent = cost(40_000.0, 20_000, LADDER[governor.rung()]);
            over += u32::from(spent > look_ns / 50);
            governor.look(spent, look_ns);
        }
        assert!(over <= 10, "over the budget in {over} of 20 looks");
        for _ in 0..300 {
            governor.look(0, look_ns);
        }
        assert_eq!(governor.rung(), 0);
    }
}
