//! What a share of samples says about the true share: intervals that noise leaves only once in a very long time.

/// Standard errors from a share to the end of its interval: 3.4 in a million of a normal variable lie beyond it on one side. Counts are skewed: a share that
/// lies exactly on its limit raises its alert once in some hundred hours (`simulation.rs` counts), one that lies a few standard errors below practically never.
pub(super) const Z: f64 = 4.5;

/// The interval of a share that was seen `hits` times in `trials`, after Wilson (1927): it holds for small numbers and at the ends, too.
pub(super) fn wilson(hits: f64, trials: f64) -> (f64, f64) {
    if trials <= 0.0 {
        return (0.0, 1.0);
    }
    let (share, z2) = ((hits / trials).clamp(0.0, 1.0), Z * Z);
    let middle = (share + z2 / (2.0 * trials)) / (1.0 + z2 / trials);
    let half =
        Z / (1.0 + z2 / trials) * (share * (1.0 - share) / trials + z2 / (4.0 * trials * trials)).sqrt();
    ((middle - half).max(0.0), (middle + half).min(1.0))
}

/// A share and how many samples it rests on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Share {
    pub(super) share: f64,
    pub(super) trials: f64,
}

/// The least by which `now` is above `before`, after Newcombe (1998, method 10): from the intervals of both.
pub(super) fn least_rise(now: Share, before: Share) -> f64 {
    let (low, _) = wilson(now.share * now.trials, now.trials);
    let (_, high) = wilson(before.share * before.trials, before.trials);
    now.share - before.share - ((now.share - low).powi(2) + (high - before.share).powi(2)).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_hold_the_share_and_shrink_with_samples() {
        for (hits, trials) in [(0.0, 10.0), (10.0, 10.0), (5.0, 10.0), (1.0, 100_000.0)] {
            let (low, high) = wilson(hits, trials);
            assert!(low <= hits / trials && hits / trials <= high && low >= 0.0 && high <= 1.0);
        }
        assert_eq!(wilson(0.0, 0.0), (0.0, 1.0));
        let width = |trials: f64| wilson(trials / 10.0, trials).1 - wilson(trials / 10.0, trials).0;
        assert!(width(10_000.0) < width(1_000.0) / 3.0);
        // 100 of 1 000: 10 % and 4.5 standard errors of 0.95 points, a little skewed.
        let (low, high) = wilson(100.0, 1_000.0);
        assert!((low - 0.066).abs() < 0.002 && (high - 0.151).abs() < 0.002, "{low} {high}");
    }

    #[test]
    fn a_rise_is_certain_only_with_samples() {
        let of = |share, trials| Share { share, trials };
        assert!(least_rise(of(0.30, 1_000.0), of(0.10, 10_000.0)) > 0.12);
        assert!(least_rise(of(0.30, 30.0), of(0.10, 10_000.0)) < 0.0);
        assert!(least_rise(of(0.10, 1e6), of(0.10, 1e6)) < 0.0);
        assert!(least_rise(of(0.5, 0.0), of(0.1, 0.0)) < 0.0);
    }
}
