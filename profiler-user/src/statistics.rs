//! Comparing runs that scatter: medians with the interval that holds the true one, and random orders.
//!
//! Times of programs have no bell shape: they are skewed, and now and then one is far off. So nothing is assumed of them. The interval is
//! that of the sign test: each value is below the true median with a chance of one half, hence how many are is binomial, and two of
//! the sorted values enclose the median with a probability that can be told exactly.
//!
//! Pure and without dependencies: the benchmarks of `cargo xtask` include this file too.

#![forbid(unsafe_code)]

/// The probability with which an interval is to hold the true median.
pub const CONFIDENCE: f64 = 0.95;

/// Least number of values whose extremes enclose the median with [`CONFIDENCE`]: one half to the power of five is 3.1 %.
pub const LEAST_FOR_CONFIDENCE: usize = 6;

const _: () = assert!(1.0 - 2.0 / (1 << LEAST_FOR_CONFIDENCE) as f64 >= CONFIDENCE);
const _: () = assert!(1.0 - 2.0 / (1 << (LEAST_FOR_CONFIDENCE - 1)) as f64 <= CONFIDENCE);

/// A median and where the true one may be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// Median of the values.
    pub median: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end of the interval.
    pub high: f64,
    /// Probability with which the interval holds the true median: [`CONFIDENCE`] or a little more; less only when there are fewer than
    /// [`LEAST_FOR_CONFIDENCE`] values, whose extremes are the interval then.
    pub confidence: f64,
    /// Number of values.
    pub count: usize,
}

impl Estimate {
    /// Of values in any order; none when there are none. Values that are not finite are left out.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = values.into_iter().filter(|value| value.is_finite()).collect();
        sorted.sort_by(f64::total_cmp);
        let count = sorted.len();
        let (below, confidence) = rank(count);
        Some(Self {
            median: middle(&sorted)?,
            low: *sorted.get(below)?,
            high: *sorted.get(count - 1 - below)?,
            confidence,
            count,
        })
    }

    /// Whether the interval reaches [`CONFIDENCE`].
    pub fn is_confident(&self) -> bool {
        self.confidence >= CONFIDENCE
    }

    /// Whether `value` may be the true median.
    pub fn holds(&self, value: f64) -> bool {
        self.low <= value && value <= self.high
    }

    /// Distance from `value` to the end of the interval that is farther away: no true difference larger than this is to be expected.
    pub fn farthest_from(&self, value: f64) -> f64 {
        (self.low - value).abs().max((self.high - value).abs())
    }
}

fn middle(sorted: &[f64]) -> Option<f64> {
    let upper = *sorted.get(sorted.len() / 2)?;
    let lower = *sorted.get((sorted.len() - 1) / 2)?;
    Some(f64::midpoint(lower, upper))
}

/// How many of `count` sorted values to leave out at each end, and with which probability the others enclose the median.
fn rank(count: usize) -> (usize, f64) {
    // Chance that exactly `below` values are below the median, as a logarithm: one half to the power of a thousand is no number any more.
    let mut log_chance = -(count as f64) * std::f64::consts::LN_2;
    let mut outside = 0.0;
    let mut chosen = (0, (1.0 - 2.0 * log_chance.exp()).max(0.0));
    for below in 0..count / 2 {
        outside += 2.0 * log_chance.exp();
        if 1.0 - outside < CONFIDENCE {
            break;
        }
        chosen = (below, 1.0 - outside);
        log_chance += ((count - below) as f64 / (below + 1) as f64).ln();
    }
    chosen
}

/// Random orders and choices; not for secrets. Sebastiano Vigna's SplitMix64.
#[derive(Debug, Clone)]
pub struct Chance(u64);

impl Chance {
    /// The same seed gives the same sequence.
    pub fn seeded(seed: u64) -> Self {
        Self(seed)
    }

    /// Another sequence in every process.
    pub fn of_now() -> Self {
        use std::hash::{BuildHasher, Hasher};
        // Seeded by the system in every process.
        Self(std::collections::hash_map::RandomState::new().build_hasher().finish())
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number from 0 to 1, without 1.
    pub fn fraction(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// A number below this one, each with the same probability; zero where there is none.
    pub fn below(&mut self, limit: u64) -> u64 {
        // The multiplication takes the high bits; what is unequal by it is below 2^-32 for any limit below 2^32.
        ((u128::from(self.next()) * u128::from(limit)) >> 64) as u64
    }

    /// Puts items into a random order, each order with the same probability.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for end in (1..items.len()).rev() {
            let chosen = self.below(end as u64 + 1);
            items.swap(end, chosen as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_those_of_tables_of_the_sign_test() {
        // Ranks and coverages as in tables of the binomial distribution, e.g. Conover, Practical Nonparametric Statistics, table A3.
        for (count, below, confidence) in [
            (6, 0, 0.96875),
            (8, 0, 0.992_187_5),
            (9, 1, 0.960_937_5),
            (10, 1, 0.978_515_6),
            (20, 5, 0.958_611),
        ] {
            let (found, reached) = rank(count);
            assert_eq!(found, below, "{count}");
            assert!((reached - confidence).abs() < 1e-6, "{count}: {reached}");
        }
        let ten = Estimate::of((1..=10).map(f64::from)).unwrap();
        assert_eq!((ten.median, ten.low, ten.high, ten.count), (5.5, 2.0, 9.0, 10));
    }

    #[test]
    fn too_few_values_say_so() {
        assert_eq!(Estimate::of([]), None);
        assert_eq!(Estimate::of([f64::NAN]), None);
        let two = Estimate::of([1.2, 0.9]).unwrap();
        assert_eq!((two.low, two.high, two.confidence), (0.9, 1.2, 0.5));
        assert!(!two.is_confident());
        let one = Estimate::of([3.0]).unwrap();
        assert_eq!((one.median, one.low, one.high, one.confidence), (3.0, 3.0, 3.0, 0.0));
        assert!(!Estimate::of([1.0; LEAST_FOR_CONFIDENCE - 1]).unwrap().is_confident());
        assert!(Estimate::of([1.0; LEAST_FOR_CONFIDENCE]).unwrap().is_confident());
    }

    #[test]
    fn many_values_narrow_the_interval() {
        // For large counts the ranks approach half the count less 0.98 times its root.
        let (below, confidence) = rank(10_000);
        assert!((4_900..=4_904).contains(&below), "{below}");
        assert!((0.95..0.952).contains(&confidence), "{confidence}");
    }

    #[test]
    fn the_interval_holds_the_true_median_as_often_as_it_says() {
        let mut chance = Chance::seeded(1);
        let mut held = 0;
        for _ in 0..2_000 {
            // Skewed on purpose: squares of equally distributed numbers, whose median is a quarter.
            let values = (0..15).map(|_| (chance.next() as f64 / u64::MAX as f64).powi(2));
            held += u32::from(Estimate::of(values).unwrap().holds(0.25));
        }
        let expected = rank(15).1;
        assert!((f64::from(held) / 2_000.0 - expected).abs() < 0.02, "{held} of 2000, {expected} expected");
    }

    #[test]
    fn orders_are_equally_likely_and_lose_nothing() {
        let mut chance = Chance::seeded(7);
        let mut seen = std::collections::BTreeMap::new();
        for _ in 0..6_000 {
            let mut items = [1, 2, 3];
            chance.shuffle(&mut items);
            *seen.entry(items).or_insert(0) += 1;
        }
        assert_eq!(seen.len(), 6);
        assert!(seen.values().all(|count| (850..1_150).contains(count)), "{seen:?}");
    }

    #[test]
    fn distances_are_to_the_farther_end() {
        let estimate = Estimate { median: 1.0, low: 0.98, high: 1.01, confidence: 0.95, count: 9 };
        assert!(estimate.holds(1.0) && !estimate.holds(1.02));
        assert!((estimate.farthest_from(1.0) - 0.02).abs() < 1e-9);
    }
}
