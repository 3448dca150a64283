//! Which share of the blocks that outlive a slice stays for good, when only slices are watched.
//!
//! A block's fate outside of slices is unknown, so there are two answers, and the truth lies between them:
//!
//! - At most: blocks whose address no later slice saw freed or handed out again. Each later slice is a step of a product-limit estimate (Kaplan and
//!   Meier 1958); blocks that were not seen to go stay at risk until the recording ends, where they are censored. Some of them went unseen.
//! - At least: each block that a slice saw go stands for those that went while nobody looked: as many as the time between two slices is longer
//!   than a slice (Horvitz and Thompson 1952). Some of these were not the block itself but another one that had got its address, so this may
//!   be too many. Until the next slice begins no age is seen at all; there blocks are taken to go as fast as they did in the slice, once they
//!   were a millisecond old.
//!
//! Both have the error of the few blocks that they are made of.

use crate::profile::{Cohorts, WatchedSlices, ages_of_bucket};

/// Standard errors to each side: 95 of 100.
const SIDES: f64 = 1.96;

/// A share with its bounds, 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Survival {
    /// Least.
    pub low: f64,
    /// What no slice saw go, and what would be left of that at the rate at which blocks went in their own slice.
    pub likely: f64,
    /// What no slice saw go.
    pub share: f64,
    /// Most.
    pub high: f64,
}

/// The share of what outlived its slice that outlives the recording too.
pub fn survival(cohorts: &Cohorts, slices: &WatchedSlices) -> Survival {
    let all: f64 = cohorts.kept.iter().sum();
    if all <= 0.0 {
        return Survival { low: 0.0, likely: 0.0, share: 0.0, high: 1.0 };
    }
    let (share, high) = at_most(cohorts, slices, all);
    let (early, early_least) = until_the_next(cohorts, slices, all);
    let low = (at_least(cohorts, slices, all) * early_least).min(share);
    Survival {
        // Of less than one in a hundred nothing is claimed.
        low: if low < 0.01 { 0.0 } else { low },
        likely: share * early,
        share,
        high,
    }
}

/// The share that reaches the next slice, and the least of it, at the rate at which blocks went in their own.
fn until_the_next(cohorts: &Cohorts, slices: &WatchedSlices, all: f64) -> (f64, f64) {
    let unit = cohorts.kept_squares / all;
    let slice_ns = slices.open_ns as f64 / slices.count.max(1) as f64;
    let gap_ns = slices.span_ns as f64 / slices.count.saturating_sub(1).max(1) as f64 - slice_ns;
    let went = (cohorts.born - cohorts.brief - all).max(0.0);
    // They were allocated anywhere in the slice, so they were watched for half of it; those that went, for half of that.
    let watched = (all + went / 2.0) * slice_ns / 2.0;
    let left = |went: f64| (-went * gap_ns.max(0.0) / watched.max(1e-9)).exp();
    (left(went), left(most_events(went / unit) * unit))
}

fn at_most(cohorts: &Cohorts, slices: &WatchedSlices, all: f64) -> (f64, f64) {
    // Bytes of one independent block: what turns bytes into a count (Kish 1965).
    let unit = cohorts.kept_squares / all;
    let (mut share, mut greenwood) = (1.0_f64, 0.0_f64);
    for (bucket, (at_risk, gone)) in cohorts.at_risk.iter().zip(&cohorts.gone).enumerate() {
        if *at_risk <= 0.0 {
            continue;
        }
        let (first, last) = ages_of_bucket(bucket);
        let steps = (last.min(slices.count.saturating_sub(1)).max(first) - first + 1) as f64;
        let hazard = (gone / at_risk).clamp(0.0, 1.0);
        share *= (1.0 - hazard).powf(steps);
        let (risk, went) = (at_risk / unit / steps, gone / unit / steps);
        greenwood += steps * went / (risk * (risk - went).max(0.5));
    }
    // Rothman 1978: Wilson's bounds for as many blocks as have this error.
    let spread = share * (1.0 - share);
    let count =
        if greenwood > 0.0 && spread > 0.0 { spread / (share * share * greenwood) } else { all / unit };
    let count = count.max(1.0);
    let (square, middle) = (SIDES * SIDES, share + SIDES * SIDES / (2.0 * count));
    let half = SIDES * (spread / count + square / (4.0 * count * count)).sqrt();
    // A share of all is its own upper bound, whatever rounding says. No `clamp`, which panics at what files may hold.
    (share, ((middle + half) / (1.0 + square / count)).max(share).min(1.0))
}

fn at_least(cohorts: &Cohorts, slices: &WatchedSlices, all: f64) -> f64 {
    if slices.count < 2 || slices.span_ns == 0 {
        return 0.0;
    }
    let first_ns = slices.open_ns as f64 / slices.count as f64;
    let watched = ((slices.open_ns as f64 - first_ns) / slices.span_ns as f64).clamp(1e-6, 1.0);
    let (mut went, mut variance) = (0.0_f64, 0.0_f64);
    let seen: f64 = cohorts.gone.iter().sum();
    let unit = if seen > 0.0 { cohorts.gone_squares / seen } else { cohorts.kept_squares / all };
    for (bucket, gone) in cohorts.gone.iter().enumerate() {
        let followed = followed(cohorts, slices, ages_of_bucket(bucket));
        if *gone > 0.0 && followed > 0.0 {
            went += gone / (watched * followed);
            variance += gone * unit / (watched * followed).powi(2);
        }
    }
    let one = if went > 0.0 {
        variance / went
    } else {
        unit / (watched * followed(cohorts, slices, (1, 1)).max(unit))
    };
    (1.0 - one * most_events(went / one)).max(0.0)
}

/// Bytes of blocks for which slices of these ages came, gone or not.
fn followed(cohorts: &Cohorts, slices: &WatchedSlices, (first, last): (u64, u64)) -> f64 {
    let age = u64::midpoint(first, last.min(slices.count.saturating_sub(1)).max(first));
    let merged = slices.merged.max(1);
    let old_enough = slices.count.saturating_sub(age);
    let part = |index: usize| {
        let begin = (index as u64).saturating_mul(merged);
        let here = merged.min(slices.count.saturating_sub(begin)).max(1);
        old_enough.saturating_sub(begin).min(here) as f64 / here as f64
    };
    cohorts.kept.iter().enumerate().map(|(index, kept)| kept * part(index)).sum()
}

/// The upper bound of a Poisson mean of which this many events were seen (Wilson and Hilferty 1931).
fn most_events(seen: f64) -> f64 {
    let next = seen + 1.0;
    next * (1.0 - 1.0 / (9.0 * next) + SIDES / (3.0 * next.sqrt())).powi(3)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLICES: WatchedSlices = WatchedSlices { count: 11, merged: 1, open_ns: 11, span_ns: 100 };

    #[test]
    fn bounds_are_those_of_the_tables() {
        for (seen, wanted) in [(0.0, 3.689), (1.0, 5.572), (10.0, 18.39)] {
            assert!((most_events(seen) - wanted).abs() < 0.08, "{seen}: {}", most_events(seen));
        }
    }

    #[test]
    fn nothing_seen_to_go_may_still_have_gone() {
        let kept = |blocks: f64| Cohorts {
            born: blocks,
            brief: 0.0,
            kept: vec![blocks],
            kept_squares: blocks,
            at_risk: std::iter::once(0.0).chain([blocks; 10]).collect(),
            gone: vec![0.0; 11],
            gone_squares: 0.0,
        };
        // A tenth of the time is watched: of five blocks all may have gone unseen, of a thousand few.
        let few = survival(&kept(5.0), &SLICES);
        assert!(few.low < 1e-9 && few.share > 0.999 && few.high > 0.999, "{few:?}");
        let many = survival(&kept(1000.0), &SLICES);
        assert!(many.low > 0.85 && many.high > 0.999, "{many:?}");
        assert!(survival(&Cohorts::default(), &SLICES).share < f64::EPSILON);
    }

    #[test]
    fn what_is_seen_to_go_counts() {
        let cohorts = Cohorts {
            born: 100.0,
            brief: 0.0,
            kept: vec![100.0],
            kept_squares: 100.0,
            at_risk: vec![0.0, 100.0, 50.0],
            gone: vec![0.0, 50.0, 50.0],
            gone_squares: 100.0,
        };
        let found = survival(&cohorts, &SLICES);
        assert!(found.low < 1e-9 && found.share < 1e-9 && found.high < 0.2, "{found:?}");
    }
}
