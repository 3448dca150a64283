//! From what was seen of a site to a word: leaking, or not.
//!
//! A leak grows in all of the recording, and what it got first is still there. A cache fills and stays; a queue swings; a queue that is not emptied
//! fast enough grows although its blocks are freed.

use super::survival::survival;
use super::trend::{Trend, normal, trend};
use crate::profile::{LeakSums, Leaks, WatchedSlices};

/// Certainty that is called leaking: with a thousand sites one is called so by chance.
const SURE: f64 = 0.999;
/// Certainty that is called growing.
const LIKELY: f64 = 0.975;
/// Least growth in the second half, as a share of that in the whole recording, of what goes on growing.
const GOES_ON: f64 = 1.0 / 3.0;
/// Fall, as a share of the highest point, from which a site swings.
const SWING: f64 = 0.5;
/// Least share of the growth of the first half that is still there at the end, of a leak.
const STAYS: f64 = 0.25;

/// Share of a site's live bytes below which blocks that were not followed change no verdict.
const FEW_HIDDEN: f64 = 0.01;

/// Blocks that outlive their slice, from which they are no chance.
const FEW: f64 = 3.0;

/// What a site does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// It grows all the time, and what it got first is still there.
    Leaking,
    /// It grows, but that may be chance, or its blocks do get freed later.
    Growing,
    /// It grew and stopped.
    Filled,
    /// It falls again and again.
    Swings,
    /// It does not grow.
    Steady,
    /// Too little was seen.
    Unknown,
}

impl Verdict {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Leaking => "leaking",
            Self::Growing => "growing?",
            Self::Filled => "filled",
            Self::Swings => "swings",
            Self::Steady => "steady",
            Self::Unknown => "unclear",
        }
    }
}

/// What can be said of a site.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Finding {
    /// The word.
    pub verdict: Verdict,
    /// Growth, bytes a second.
    pub growth: f64,
    /// Its standard error, without what all sites of time slices have in common.
    pub error: f64,
    /// Bounds of the growth, 95 of 100.
    pub bounds: (f64, f64),
    /// Probability that it grows, 0 to 1.
    pub sure: f64,
    /// Growth at most that is hidden by blocks that could not be followed, bytes a second. `growth` is a lower bound where it is not zero.
    pub hidden: f64,
}

/// Certainty at most where all that was seen may be gone by now: blocks that live for a while look like those that stay.
const SURE_WITHOUT_BOUND: f64 = 0.9;

/// Judges a site.
pub fn judge(leaks: &Leaks, sums: &LeakSums) -> Finding {
    let found = match &leaks.slices {
        Some(slices) => by_slices(leaks, slices, sums),
        None => by_series(leaks, sums),
    };
    if sums.unfollowed_bytes > 0.0 { with_hidden(leaks, sums, found) } else { found }
}

/// What still holds when some blocks were not followed: all of them may be in use, or none.
fn with_hidden(leaks: &Leaks, sums: &LeakSums, found: Finding) -> Finding {
    let hidden = sums.unfollowed_bytes / (leaks.watched_ns as f64 / 1e9).max(1e-9);
    let (low, high) = found.bounds;
    let found = Finding { hidden, bounds: (low, high + hidden), ..found };
    match found.verdict {
        // What is seen to grow grows, however much more there is.
        Verdict::Leaking | Verdict::Growing => found,
        _ if sums.unfollowed_bytes < FEW_HIDDEN * sums.live_bytes => found,
        // Nobody saw what came later.
        _ => Finding { verdict: Verdict::Unknown, sure: 0.5, ..found },
    }
}

/// Probability that the first of two sites grows faster, at least: all that is hidden of the second one may be growth.
pub fn sure_of_order(first: &Finding, second: &Finding) -> f64 {
    let error = first.error.hypot(second.error);
    let away = first.growth - second.growth - second.hidden;
    if error > 0.0 {
        let sure = normal(away / error);
        if first.bounds.0 > 0.0 { sure } else { sure.min(SURE_WITHOUT_BOUND) }
    } else if away < 0.0 {
        0.0
    } else if away > 0.0 {
        1.0
    } else {
        0.5
    }
}

fn finding(verdict: Verdict, trend: Trend) -> Finding {
    let Trend { slope, error, .. } = trend;
    let bounds = (slope - 2.0 * error, slope + 2.0 * error);
    Finding { verdict, growth: slope, error, bounds, sure: trend.sure(), hidden: 0.0 }
}

fn by_series(leaks: &Leaks, sums: &LeakSums) -> Finding {
    let seconds: Vec<f64> = leaks.moments_ns.iter().map(|moment| *moment as f64 / 1e9).collect();
    let mut series = sums.series.clone();
    series.resize(seconds.len(), 0.0);
    let Some(whole) = trend(&seconds, &series) else {
        return finding(Verdict::Unknown, Trend { freedom: 1.0, ..Trend::default() });
    };
    let middle = f64::midpoint(seconds[0], seconds[seconds.len() - 1]);
    let half = seconds.partition_point(|second| *second < middle);
    let recent = trend(&seconds[half..], &series[half..]);
    let now = recent.unwrap_or(whole);
    let goes_on = now.slope >= whole.slope * GOES_ON;
    // Unless it stays up there for good: what falls as far as it rose may be low at the beginning and high at the end by chance.
    let swings = fall(&series) >= SWING && !stays_up(&series[half..], &series);
    // Of what it grew by in the first half at this rate, how much is still there?
    let first_half = whole.slope * leaks.watched_ns as f64 / 2e9;
    let stays = sums.early_bytes >= STAYS * first_half;
    let verdict = if whole.sure() >= SURE && goes_on && !swings && stays && now.sure() >= LIKELY {
        if recent.is_some() { Verdict::Leaking } else { Verdict::Growing }
    } else if swings {
        Verdict::Swings
    } else if whole.sure() >= LIKELY && !goes_on {
        Verdict::Filled
    } else if whole.sure() >= LIKELY {
        Verdict::Growing
    } else {
        Verdict::Steady
    };
    // The whole says it better as long as it says the same.
    finding(verdict, if goes_on { whole } else { now })
}

/// The largest fall, as a share of the highest point.
fn fall(series: &[f64]) -> f64 {
    let highest = series.iter().copied().fold(0.0, f64::max);
    let (mut peak, mut deepest) = (0.0_f64, 0.0_f64);
    for value in series {
        peak = peak.max(*value);
        deepest = deepest.max(peak - value);
    }
    if highest > 0.0 { deepest / highest } else { 0.0 }
}

/// Whether the lowest point of the second half is near the highest one of all.
fn stays_up(second_half: &[f64], series: &[f64]) -> bool {
    let highest = series.iter().copied().fold(0.0, f64::max);
    second_half.iter().copied().fold(f64::MAX, f64::min) >= SWING * highest
}

fn by_slices(leaks: &Leaks, slices: &WatchedSlices, sums: &LeakSums) -> Finding {
    let cohorts = &sums.cohorts;
    let all: f64 = cohorts.kept.iter().sum();
    let entries = leaks.moments_ns.len();
    if all <= 0.0 || slices.count < 4 || slices.open_ns == 0 {
        return finding(Verdict::Unknown, Trend { freedom: 1.0, ..Trend::default() });
    }
    let survival = survival(cohorts, slices);
    let unit = cohorts.kept_squares / all;
    let Rate { rate, error: rate_error } = rate(leaks, &cohorts.kept, unit);
    let growth = rate * survival.share;
    // The bounds of the share are 95 of 100: two standard errors to each side.
    let share_error = ((survival.high - survival.low) / 4.0).max(0.0);
    let error = (rate_error * survival.share).hypot(rate * share_error);
    // What is not known of the target's speed without probes is the same factor for all sites: it moves bounds, not the order.
    let factor = 1.0 + leaks.rate_error;
    let bounds = (
        ((rate - 2.0 * rate_error) * survival.low).max(0.0) / factor,
        (rate + 2.0 * rate_error) * survival.high * factor,
    );
    let late = rate_between(leaks, &cohorts.kept, entries / 2..entries);
    let goes_on = late >= rate * GOES_ON;
    // Blocks enough that they are no chance.
    let blocks = all / unit;
    let verdict = if !goes_on {
        Verdict::Filled
    } else if blocks >= FEW && survival.low >= STAYS && survival.share >= 0.5 {
        Verdict::Leaking
    } else if blocks >= FEW && survival.likely >= 0.5 {
        Verdict::Growing
    } else if survival.share < 0.5 {
        Verdict::Steady
    } else {
        Verdict::Unknown
    };
    let sure = if error > 0.0 { normal(growth / error) } else { 0.5 };
    let sure = if bounds.0 > 0.0 { sure } else { sure.min(SURE_WITHOUT_BOUND) };
    Finding { verdict, growth, error, bounds, sure, hidden: 0.0 }
}

struct Rate {
    /// Bytes a second that outlive the slice that they were allocated in.
    rate: f64,
    error: f64,
}

/// The time from the moment before to this one, and the part of it that was watched, seconds.
fn period(leaks: &Leaks, index: usize) -> (f64, f64) {
    let at = |index: usize| leaks.moments_ns.get(index).copied().unwrap_or(0);
    let before = index.checked_sub(1).map_or(0, at);
    let open = leaks.open_ns.get(index).copied().unwrap_or(0) as f64 / 1e9;
    (at(index).saturating_sub(before) as f64 / 1e9, open)
}

/// Each slice stands for the time since the one before: what was kept, by what it stands for.
fn stands_for(leaks: &Leaks, kept: &[f64], index: usize) -> (f64, f64) {
    let (length, open) = period(leaks, index);
    let factor = if open > 0.0 { (length / open).max(1.0) * leaks.correction.max(1.0) } else { 0.0 };
    (kept.get(index).copied().unwrap_or(0.0), factor)
}

fn rate_between(leaks: &Leaks, kept: &[f64], entries: std::ops::Range<usize>) -> f64 {
    let length: f64 = entries.clone().map(|index| period(leaks, index).0).sum();
    let all: f64 = entries
        .map(|index| {
            let (kept, factor) = stands_for(leaks, kept, index);
            kept * factor
        })
        .sum();
    all / length.max(1e-9)
}

fn rate(leaks: &Leaks, kept: &[f64], unit: f64) -> Rate {
    let entries = leaks.moments_ns.len();
    let length: f64 = (0..entries).map(|index| period(leaks, index).0).sum::<f64>().max(1e-9);
    let rate = rate_between(leaks, kept, 0..entries);
    // How few blocks there were, or how much slices differ, whichever is more.
    let (mut by_count, mut by_spread) = (0.0, 0.0);
    for index in 0..entries {
        let (kept, factor) = stands_for(leaks, kept, index);
        by_count += kept * unit * factor * factor;
        by_spread += (kept * factor - rate * period(leaks, index).0).powi(2);
    }
    Rate { rate, error: f64::max(by_count, by_spread).sqrt() / length }
}

#[cfg(test)]
mod tests;
