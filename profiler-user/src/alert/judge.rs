//! Is it too much? A rule, what the last windows showed, and the baseline, in one verdict.

use crate::report::leaks::trend;

use super::bound::{least_rise, wilson};
use super::history::{History, Stretch};
use super::rule::{Baseline, Condition, Rule};

/// Part of a stretch that must have been recorded before it says anything.
const LEAST_COVERED: f64 = 0.75;
/// Fewest samples that a verdict rests on, whatever they show.
const FEWEST_SAMPLES: f64 = 50.0;
/// How sure a slope must be: the chance that noise leaves on one side of [`super::bound::Z`] standard errors.
const SURE: f64 = 1.0 - 3.4e-6;
/// Fewest windows that show a slope. Below, the tails of its error are not known well enough.
const FEWEST_OF_SLOPE: usize = 12;

/// What can be said.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Verdict {
    /// Too little is known: not enough time, samples, or no baseline.
    Unknown(Missing),
    /// The value, what it is compared with, and how they compare.
    Known(Known),
}

/// What is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// The stretch is not covered by windows.
    Time,
    /// Nothing, or too little, was sampled in it.
    Samples,
    /// There is no baseline, or it rests on too few samples.
    Baseline,
}

/// A verdict with its numbers, in the rule's unit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Known {
    /// What the stretch shows: a value, a rise or a slope.
    pub(super) value: f64,
    /// No less than this, as far as samples can tell.
    pub(super) least: f64,
    /// What the baseline showed.
    pub(super) baseline: Option<f64>,
    /// Above the rule's level for sure.
    pub(super) is_above: bool,
    /// At or below the level at which an alert ends.
    pub(super) is_clear: bool,
}

/// Looks at the windows up to `now_ns`. `yesterday` is the baseline from the store, where the rule has one there.
pub(super) fn judge(rule: &Rule, history: &History, now_ns: u64, baseline: Option<&Stretch>) -> Verdict {
    let over_ns = rule.over.as_nanos() as u64;
    let range = now_ns.saturating_sub(over_ns)..now_ns;
    let stretch = history.stretch(&range, over_ns);
    if (stretch.covered_ns as f64) < LEAST_COVERED * over_ns as f64 {
        return Verdict::Unknown(Missing::Time);
    }
    if stretch.trials < FEWEST_SAMPLES || stretch.share.is_none() {
        return Verdict::Unknown(Missing::Samples);
    }
    let scale = stretch.scale;
    match rule.condition {
        Condition::Above(level) => {
            let Some(now) = stretch.as_share(1.0) else { return Verdict::Unknown(Missing::Samples) };
            let least =
                if now.trials.is_finite() { wilson(now.share * now.trials, now.trials).0 } else { now.share };
            known(rule, now.share * scale, least * scale, None, least * scale > level)
        }
        Condition::RisesBy(level, _) => {
            let Some(baseline) = baseline.filter(|stretch| stretch.trials >= FEWEST_SAMPLES) else {
                return Verdict::Unknown(Missing::Baseline);
            };
            // How much the load scatters by itself is what the baseline showed: now's stretch may hold the change.
            let of = |stretch: &Stretch| stretch.as_share(baseline.scatter);
            let (Some(now), Some(before)) = (of(&stretch), of(baseline)) else {
                return Verdict::Unknown(Missing::Baseline);
            };
            let rise = now.share * scale - before.share * baseline.scale;
            let sampled = now.trials.is_finite() && before.trials.is_finite();
            let least = if sampled {
                rise - (now.share - before.share - least_rise(now, before)) * scale
            } else {
                rise
            };
            known(rule, rise, least, Some(before.share * baseline.scale), least > level)
        }
        Condition::GrowsPerHour(level) => {
            let (seconds, values) = history.series(&range);
            let Some(slope) = trend(&seconds, &values).filter(|_| values.len() >= FEWEST_OF_SLOPE) else {
                return Verdict::Unknown(Missing::Time);
            };
            let is_above = slope.sure_above(level / 3_600.0) >= SURE;
            let hourly = slope.slope * 3_600.0;
            known(rule, hourly, hourly - super::bound::Z * slope.error * 3_600.0, None, is_above)
        }
    }
}

fn known(rule: &Rule, value: f64, least: f64, baseline: Option<f64>, is_above: bool) -> Verdict {
    Verdict::Known(Known { value, least, baseline, is_above, is_clear: value <= rule.clear && !is_above })
}

/// The stretch just before, for rules that compare with it.
pub(super) fn before(rule: &Rule, history: &History, now_ns: u64) -> Option<Stretch> {
    let Condition::RisesBy(_, Baseline::Before(length)) = rule.condition else { return None };
    let (over_ns, length_ns) = (rule.over.as_nanos() as u64, length.as_nanos() as u64);
    let end = now_ns.saturating_sub(over_ns);
    let stretch = history.stretch(&(end.saturating_sub(length_ns)..end), over_ns);
    (stretch.covered_ns as f64 >= LEAST_COVERED * length_ns as f64).then_some(stretch)
}
