//! With which chance a call of each size has its stack taken, and what it then stands for.

use profiler_common::heap::{RATES, Rate, WEIGHT_BITS};
use profiler_common::histogram::middle;

/// Rates for a mean of `sample_bytes` between two samples: the chance that a point of a Poisson process over the bytes falls into the call's.
/// All sizes of a bucket have the chance of its middle, and the weight is the inverse of the chance that was really used, so sums are
/// unbiased all the same.
pub(super) fn rates(sample_bytes: u64) -> Vec<Rate> {
    (0..RATES as u16).map(|bucket| rate(middle(bucket).max(1), sample_bytes)).collect()
}

fn rate(bytes: u64, sample_bytes: u64) -> Rate {
    const ALL: u64 = 1 << 32;
    let chance = if sample_bytes <= 1 { 1.0 } else { -(-(bytes as f64) / sample_bytes as f64).exp_m1() };
    let threshold = ((chance * ALL as f64).round() as u64).clamp(1, ALL);
    Rate { threshold, weight: ((ALL << WEIGHT_BITS) + threshold / 2) / threshold }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_the_inverse_of_chances() {
        for sample_bytes in [1, 4096, 512 << 10, 1 << 40] {
            for rate in rates(sample_bytes) {
                let mean = rate.threshold as f64 / 2_f64.powi(32) * rate.weight as f64 / 256.0;
                assert!((mean - 1.0).abs() < 0.003, "{rate:?}: {mean}");
            }
        }
        assert!(rates(1).iter().all(|rate| rate.threshold == 1 << 32 && rate.weight == 256));
    }

    #[test]
    fn large_blocks_are_always_taken_and_small_ones_in_proportion() {
        assert_eq!(rate(64 << 20, 512 << 10).weight, 256);
        let ratio = rate(64, 512 << 10).threshold as f64 / rate(32, 512 << 10).threshold as f64;
        assert!((ratio - 2.0).abs() < 0.01);
    }
}
