//! Statistics of calls that were measured in slices of time.
//!
//! Every call that ends in a slice is counted, so counts only need scaling. A call whose beginning lies before its slice took
//! *at least* the time that was seen of it. Leaving such calls out would favour short ones, so percentiles come from the
//! Kaplan-Meier estimate, which is made for times of which some are only known to be longer: the moment at which a slice
//! begins has nothing to do with how long a call takes.

use std::collections::BTreeMap;

use profiler_common::histogram::middle;

/// Times by histogram bucket, with their weights: those of whole calls, and those of which only the end was seen.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Times {
    /// Whole calls.
    pub whole: BTreeMap<u16, f64>,
    /// Calls that took longer than the bucket says.
    pub cut: BTreeMap<u16, f64>,
}

/// A percentile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Percentile {
    /// The time, nanoseconds.
    At(u64),
    /// It is longer than this, nanoseconds: longer calls were not seen as a whole.
    Above(u64),
}

impl Percentile {
    /// The time, or what it is longer than, nanoseconds.
    pub fn ns(self) -> u64 {
        match self {
            Self::At(ns) | Self::Above(ns) => ns,
        }
    }
}

impl Times {
    /// The times below which these shares of all calls lie. Shares rise and are between 0 and 1.
    pub fn percentiles<const N: usize>(&self, shares: [f64; N]) -> [Percentile; N] {
        let mut at_risk: f64 = self.whole.values().sum::<f64>() + self.cut.values().sum::<f64>();
        let longest = self.whole.keys().chain(self.cut.keys()).max().copied();
        let mut found = [Percentile::Above(longest.map_or(0, middle)); N];
        let mut surviving = 1.0;
        let mut next = 0;
        let mut cut = self.cut.iter().peekable();
        for (bucket, weight) in &self.whole {
            // Those that were cut below this bucket are not in it.
            while let Some((_, gone)) = cut.next_if(|(at, _)| *at < bucket) {
                at_risk -= gone;
            }
            if at_risk <= 0.0 {
                break;
            }
            surviving *= (1.0 - weight / at_risk).max(0.0);
            at_risk -= weight;
            // Sums of many weights are exact only up to rounding.
            while next < N && 1.0 - surviving >= shares[next] - 1e-9 {
                found[next] = Percentile::At(middle(*bucket));
                next += 1;
            }
        }
        found
    }
}

/// Sums over slices: of what a slice stands for, and of its square.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Spread {
    sum: f64,
    squares: f64,
}

impl Spread {
    /// Adds one slice's estimate of its window.
    pub fn add(&mut self, estimate: f64) {
        self.sum += estimate;
        self.squares += estimate * estimate;
    }

    /// What has come since an earlier state.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self { sum: self.sum - earlier.sum, squares: self.squares - earlier.squares }
    }

    /// Half the width of the 99 % interval around the total of `slices` slices. It counts the differences between slices in full, also
    /// those that come from the program's own phases and that one slice in each window evens out, so it is rather too wide.
    pub fn error(&self, slices: u64, share: f64) -> f64 {
        if slices < 2 {
            // One slice says nothing about how much another would have differed.
            return self.sum;
        }
        let n = slices as f64;
        let variance = ((self.squares - self.sum * self.sum / n) / (n - 1.0)).max(0.0);
        // A few rare calls may fall into slices that look alike; it is never better than for calls that know nothing of each other.
        let independent = self.sum / share.max(1e-6);
        student_99(slices - 1) * ((n * variance).max(independent) * (1.0 - share).max(0.0)).sqrt()
    }
}

/// Quantile of Student's t distribution that leaves one percent outside on both sides together, by degrees of freedom. From
/// any table of the distribution; between the entries the next smaller one is taken, which is wider.
fn student_99(degrees: u64) -> f64 {
    const TABLE: [(u64, f64); 14] = [
        (1, 63.66),
        (2, 9.92),
        (3, 5.84),
        (4, 4.60),
        (5, 4.03),
        (6, 3.71),
        (7, 3.50),
        (8, 3.36),
        (10, 3.17),
        (15, 2.95),
        (20, 2.85),
        (30, 2.75),
        (60, 2.66),
        (120, 2.62),
    ];
    TABLE.iter().rev().find(|(from, _)| *from <= degrees).map_or(TABLE[0].1, |(_, value)| *value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use profiler_common::histogram::bucket_of;
    use proptest::prelude::*;

    fn times(whole: &[u64], cut: &[u64]) -> Times {
        let mut times = Times::default();
        for ns in whole {
            *times.whole.entry(bucket_of(*ns)).or_default() += 1.0;
        }
        for ns in cut {
            *times.cut.entry(bucket_of(*ns)).or_default() += 1.0;
        }
        times
    }

    #[test]
    fn percentiles_of_whole_calls_are_those_of_the_sorted_list() {
        let calls: Vec<u64> = (1..=1000).map(|ms| ms * 1_000_000).collect();
        let found = times(&calls, &[]).percentiles([0.5, 0.95, 0.99]);
        for (found, expected) in found.into_iter().zip([500e6, 950e6, 990e6]) {
            let Percentile::At(ns) = found else { panic!("{found:?}") };
            assert!((ns as f64 / expected - 1.0).abs() < 0.0626, "{ns} {expected}");
        }
    }

    #[test]
    fn calls_that_were_cut_pull_percentiles_up() {
        // Half of the calls take 10, half 1000; every long one was seen only from 100 on.
        let found = times(&[10; 50], &[100; 50]).percentiles([0.25, 0.5, 0.95]);
        assert_eq!(found[0], Percentile::At(10));
        assert_eq!(found[1], Percentile::At(10));
        assert!(matches!(found[2], Percentile::Above(_)), "{found:?}");
    }

    #[test]
    fn nothing_has_percentiles_too() {
        assert_eq!(Times::default().percentiles([0.5]), [Percentile::Above(0)]);
    }

    proptest! {
        /// Calls of two lengths end at random moments; a slice sees the ends, and the beginnings that lie inside.
        #[test]
        fn the_estimate_is_not_biased_towards_short_calls(seed in 1_u64..u64::MAX, share in 0.2_f64..0.8) {
            let mut state = seed;
            let mut random = || {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 11) as f64 / (1_u64 << 53) as f64
            };
            let mut found = Times::default();
            for _ in 0..4000 {
                let ns = if random() < share { 1_000.0 } else { 60_000.0 };
                let seen = random() * 100_000.0;
                let map = if ns <= seen { &mut found.whole } else { &mut found.cut };
                *map.entry(bucket_of(ns.min(seen) as u64)).or_default() += 1.0;
            }
            let below = (share - 0.08).max(0.01);
            let [low, high] = found.percentiles([below, (share + 0.08).min(0.99)]);
            prop_assert!(low.ns() < 2_000, "{low:?}");
            prop_assert!(high.ns() > 50_000, "{high:?}");
        }
    }

    #[test]
    fn error_bars_shrink_with_the_number_of_slices() {
        let spread = |slices: u64| {
            let mut spread = Spread::default();
            for slice in 0..slices {
                spread.add(if slice % 2 == 0 { 90_000.0 } else { 110_000.0 });
            }
            spread.error(slices, 0.05) / spread.sum
        };
        assert!(spread(10) > spread(40) && spread(40) > spread(160));
        assert!(spread(160) < 0.03, "{}", spread(160));
        assert!((Spread::default().error(10, 0.5)).abs() < f64::EPSILON);
    }
}
