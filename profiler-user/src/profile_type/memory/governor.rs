//! Keeps the cost of sampling page faults inside the budget: from what was spent to the distance of samples.
//!
//! Pure: costs in, periods out. Fast to throttle, slow to open again.

/// Distances of samples. Prime, so that a program whose faults repeat in a pattern does not march in step with them.
const PERIODS: [u64; 10] = [7, 13, 31, 61, 127, 251, 509, 1021, 2039, 4093];
/// The first: one fault in 31 costs a few nanoseconds for each fault, which takes some hundred itself.
const FIRST: usize = 2;
/// Index from which on calls that map memory are left out too, half of them for each step.
const CALLS_FROM: usize = 4;
/// Share of the budget under which the distance may fall.
const COMFORTABLE: f64 = 0.4;
/// Looks in a row that have to be comfortable before it falls.
const PATIENCE: u32 = 10;
/// Least time between two looks, 100 ms.
pub(super) const LOOK_NS: u64 = 100_000_000;

/// The controller.
#[derive(Debug)]
pub(super) struct Governor {
    budget: f64,
    fixed: Option<u64>,
    index: usize,
    least: usize,
    most: usize,
    comfortable_looks: u32,
    changes: u64,
}

impl Governor {
    /// `budget` is a share of one CPU; `fixed` is a distance that is never changed.
    pub(super) fn new(budget: f64, fixed: Option<u64>) -> Self {
        Self { budget, fixed, index: FIRST, least: FIRST, most: FIRST, comfortable_looks: 0, changes: 0 }
    }

    /// Takes in what was spent in a stretch of time; true when the distance changed.
    pub(super) fn look(&mut self, spent_ns: u64, elapsed_ns: u64) -> bool {
        if self.fixed.is_some() || elapsed_ns == 0 {
            return false;
        }
        let share = spent_ns as f64 / elapsed_ns as f64 / self.budget.max(f64::MIN_POSITIVE);
        let before = self.index;
        if share > 1.0 {
            self.comfortable_looks = 0;
            self.index = (self.index + if share > 4.0 { 2 } else { 1 }).min(PERIODS.len() - 1);
        } else if share < COMFORTABLE {
            self.comfortable_looks += 1;
            if self.comfortable_looks >= PATIENCE {
                self.comfortable_looks = 0;
                self.index = self.index.saturating_sub(1);
            }
        } else {
            self.comfortable_looks = 0;
        }
        self.least = self.least.min(self.index);
        self.most = self.most.max(self.index);
        self.changes += u64::from(before != self.index);
        before != self.index
    }

    /// Page faults for one that is taken.
    pub(super) fn period(&self) -> u64 {
        self.fixed.unwrap_or(PERIODS[self.index])
    }

    /// One in 2^shift calls that map memory is taken.
    pub(super) fn call_shift(&self) -> u32 {
        self.index.saturating_sub(CALLS_FROM) as u32
    }

    /// Largest shift so far.
    pub(super) fn largest_shift(&self) -> u32 {
        self.most.saturating_sub(CALLS_FROM) as u32
    }

    /// Smallest and largest distance so far.
    pub(super) fn periods(&self) -> (u64, u64) {
        self.fixed.map_or((PERIODS[self.least], PERIODS[self.most]), |fixed| (fixed, fixed))
    }

    /// How often the distance changed.
    pub(super) fn changes(&self) -> u64 {
        self.changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storm_of_faults_is_thinned_out_and_forgotten() {
        let mut governor = Governor::new(0.02, None);
        // A million faults a second at two microseconds for each that is taken.
        let cost = |period: u64| LOOK_NS / 1_000 * 2_000 / period;
        for _ in 0..20 {
            governor.look(cost(governor.period()), LOOK_NS);
        }
        assert!(cost(governor.period()) <= LOOK_NS / 50, "period {}", governor.period());
        for _ in 0..200 {
            governor.look(0, LOOK_NS);
        }
        assert_eq!((governor.period(), governor.call_shift()), (PERIODS[0], 0));
        assert_eq!(governor.periods().0, PERIODS[0]);
    }

    #[test]
    fn a_distance_that_was_asked_for_stays() {
        let mut governor = Governor::new(0.02, Some(1));
        assert!(!governor.look(LOOK_NS, LOOK_NS));
        assert_eq!((governor.period(), governor.periods(), governor.call_shift()), (1, (1, 1), 0));
    }

    proptest::proptest! {
        #[test]
        fn the_distance_stays_in_its_bounds(spent in proptest::collection::vec(0_u64..1_000_000_000, 0..200)) {
            let mut governor = Governor::new(0.01, None);
            for spent in spent {
                governor.look(spent, LOOK_NS);
                proptest::prop_assert!(PERIODS.contains(&governor.period()) && governor.call_shift() <= profiler_common::memory::MAX_CALL_SHIFT);
            }
        }
    }
}
