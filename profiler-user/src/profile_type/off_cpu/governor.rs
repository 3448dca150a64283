//! Keeps the cost of taking stacks inside the budget: from what the programs cost to the length below which waits are short.
//!
//! Pure: costs in, thresholds out. Fast to throttle, slow to open again.

use profiler_common::off_cpu::LONG_WAIT_NS;

/// First threshold when there was none, 50 µs: half of the stacks of waits that are usually 25 µs long.
const FIRST_THRESHOLD_NS: u64 = 50_000;
/// Largest threshold, 10 ms: where waits are usually that long their stacks are taken whatever it costs, which is little, for a thread has
/// at most a hundred a second of them.
const LARGEST_THRESHOLD_NS: u64 = LONG_WAIT_NS;
/// Share of the budget under which the threshold may fall.
const COMFORTABLE: f64 = 0.5;
/// Looks in a row that have to be comfortable before it falls: one second at ten looks a second.
const PATIENCE: u32 = 10;

/// The controller.
#[derive(Debug)]
pub(super) struct Governor {
    /// Budget as a share of one CPU.
    budget: f64,
    threshold_ns: u64,
    comfortable_looks: u32,
    /// Largest threshold so far, for the result.
    largest_ns: u64,
    throttled_ns: u64,
    over_budget_ns: u64,
}

impl Governor {
    /// `budget` is a share of one CPU: 0.02 for one percent of a machine with two.
    pub(super) fn new(budget: f64) -> Self {
        Self {
            budget,
            threshold_ns: 0,
            comfortable_looks: 0,
            largest_ns: 0,
            throttled_ns: 0,
            over_budget_ns: 0,
        }
    }

    /// Takes in what was spent in a stretch of time; returns the threshold from now on.
    pub(super) fn look(&mut self, spent_ns: u64, elapsed_ns: u64) -> u64 {
        if elapsed_ns == 0 {
            return self.threshold_ns;
        }
        let share = spent_ns as f64 / elapsed_ns as f64 / self.budget.max(f64::MIN_POSITIVE);
        if self.threshold_ns > 0 {
            self.throttled_ns += elapsed_ns;
        }
        if share > 1.0 {
            self.comfortable_looks = 0;
            if self.threshold_ns == LARGEST_THRESHOLD_NS {
                self.over_budget_ns += elapsed_ns;
            }
            // Far over the budget, far up: the cost of stacks falls in proportion to the threshold.
            let factor = if share > 4.0 { 8 } else { 2 };
            let next = if self.threshold_ns == 0 { FIRST_THRESHOLD_NS } else { self.threshold_ns * factor };
            self.threshold_ns = next.min(LARGEST_THRESHOLD_NS);
            self.largest_ns = self.largest_ns.max(self.threshold_ns);
        } else if share < COMFORTABLE {
            self.comfortable_looks += 1;
            if self.comfortable_looks >= PATIENCE {
                self.comfortable_looks = 0;
                let half = self.threshold_ns / 2;
                self.threshold_ns = if half < FIRST_THRESHOLD_NS { 0 } else { half };
            }
        } else {
            self.comfortable_looks = 0;
        }
        self.threshold_ns
    }

    /// Largest threshold so far, nanoseconds; zero when every stack was taken.
    pub(super) fn largest_ns(&self) -> u64 {
        self.largest_ns
    }

    /// For how long stacks were left out, nanoseconds.
    pub(super) fn throttled_ns(&self) -> u64 {
        self.throttled_ns
    }

    /// For how long the budget was exceeded although no more could be left out, nanoseconds.
    pub(super) fn over_budget_ns(&self) -> u64 {
        self.over_budget_ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOK_NS: u64 = 100_000_000;

    /// A host with `rate` waits a second of `length` each: what programs cost under a threshold.
    fn cost(rate: f64, length: u64, threshold: u64) -> u64 {
        let shift = profiler_common::off_cpu::shift_of(length, threshold);
        let per_wait = 300.0 + 2_500.0 / f64::from(1 << shift);
        (rate * 0.1 * per_wait) as u64
    }

    #[test]
    fn a_burst_is_throttled_within_a_second_and_forgotten_after_it() {
        let mut governor = Governor::new(0.02);
        let mut threshold = 0;
        let mut over = 0;
        for _ in 0..20 {
            let spent = cost(40_000.0, 20_000, threshold);
            over += u32::from(spent > LOOK_NS / 50);
            threshold = governor.look(spent, LOOK_NS);
        }
        assert!(over <= 10, "over the budget in {over} of 20 looks");
        assert!(threshold > 0 && governor.largest_ns() >= threshold);
        for _ in 0..200 {
            threshold = governor.look(0, LOOK_NS);
        }
        assert_eq!(threshold, 0);
    }

    #[test]
    fn quiet_hosts_are_never_throttled() {
        let mut governor = Governor::new(0.02);
        for _ in 0..100 {
            assert_eq!(governor.look(cost(500.0, 1_000_000, 0), LOOK_NS), 0);
        }
        assert_eq!((governor.largest_ns(), governor.throttled_ns()), (0, 0));
    }

    #[test]
    fn what_cannot_be_throttled_away_is_admitted() {
        let mut governor = Governor::new(0.02);
        for _ in 0..50 {
            governor.look(LOOK_NS, LOOK_NS);
        }
        assert!(governor.over_budget_ns() > 40 * LOOK_NS);
    }

    proptest::proptest! {
        #[test]
        fn the_threshold_stays_in_its_bounds(spent in proptest::collection::vec(0_u64..1_000_000_000, 0..200)) {
            let mut governor = Governor::new(0.01);
            for spent in spent {
                proptest::prop_assert!(governor.look(spent, LOOK_NS) <= LARGEST_THRESHOLD_NS);
            }
        }
    }
}
