//! What one window says about a rule.

use crate::profile::{LocationId, Profile};
use crate::store::Pattern;

use super::rule::{Measure, Rule};

/// One window, as a rule sees it: `part` of `whole`.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Point {
    /// Beginning, nanoseconds since the Unix epoch.
    pub(super) start_unix_ns: u64,
    /// Time that was recorded, nanoseconds.
    pub(super) duration_ns: u64,
    /// In the unit of `whole`.
    pub(super) part: f64,
    /// CPU time or samples.
    pub(super) whole: f64,
    /// Samples in `whole`, taken or possible; infinite where nothing is left to chance.
    pub(super) trials: f64,
    /// What a share of one is in the rule's unit: CPUs.
    pub(super) scale: f64,
}

impl Point {
    /// Its middle, nanoseconds since the Unix epoch.
    pub(super) fn middle_ns(&self) -> u64 {
        self.start_unix_ns.saturating_add(self.duration_ns / 2)
    }
}

/// Looks at a window. None where it has nothing to say about this rule.
pub(super) fn measure(rule: &Rule, profile: &Profile) -> Option<Point> {
    let (start_unix_ns, duration_ns) = (profile.meta.start_unix_ns, profile.meta.duration_ns);
    let point = Point { start_unix_ns, duration_ns, trials: f64::INFINITY, scale: 1.0, ..Point::default() };
    let overhead = profile.quality.overhead.as_ref();
    Some(match &rule.measure {
        Measure::Lost => {
            let lost: u64 = profile.quality.lost.iter().map(|lost| lost.count).fold(0, u64::saturating_add);
            let part = lost as f64;
            Point { part, whole: part + profile.quality.samples as f64, ..point }
        }
        Measure::OwnCost => {
            let cost = overhead?;
            let part = cost.agent_cpu_ns.saturating_add(cost.bpf_ns).saturating_add(cost.probes_ns);
            let whole = cost.wall_ns.saturating_mul(u64::from(cost.cpus));
            Point { part: part as f64, whole: whole as f64, ..point }
        }
        Measure::Cpu => {
            let sums = sums(rule, profile, None)?;
            let cpus = f64::from(overhead?.cpus.max(1));
            // What a sample stands for; where there is none, what it would have stood for.
            let all = self::sums(&rule.of_all(), profile, None)?;
            let weight =
                if all.samples > 0.0 { all.time_ns / all.samples } else { profile.meta.period as f64 };
            let whole = duration_ns as f64 * cpus;
            Point {
                part: sums.time_ns.min(whole),
                whole,
                trials: whole / weight.max(1.0),
                scale: cpus,
                ..point
            }
        }
        Measure::Function { name, alone } => {
            let sums = sums(rule, profile, Some((name, *alone)))?;
            Point { part: sums.hits_ns, whole: sums.time_ns, trials: sums.samples, ..point }
        }
    })
}

#[derive(Default)]
struct Sums {
    samples: f64,
    time_ns: f64,
    hits_ns: f64,
}

/// Adds up what the rule's filter selects, and of that what a function has. None for profiles of something else than CPU time.
fn sums(rule: &Rule, profile: &Profile, function: Option<(&Pattern, bool)>) -> Option<Sums> {
    let time =
        profile.value_types.iter().position(|value| value.kind == "cpu" && value.unit == "nanoseconds")?;
    let count = profile.value_types.iter().position(|value| value.unit == "count")?;
    let selected: Vec<bool> = profile.labels.iter().map(|labels| rule.filter.matches(labels)).collect();
    // Each name is compared once, however many stacks it is in.
    let is_hit: Vec<bool> = profile
        .locations
        .iter()
        .map(|location| {
            function.is_some_and(|(name, alone)| {
                let frames =
                    if alone { &location.frames[..location.frames.len().min(1)] } else { &location.frames };
                frames.iter().any(|frame| name.matches(&frame.function))
            })
        })
        .collect();
    let hit = |id: &LocationId| is_hit.get(id.0 as usize).copied().unwrap_or_default();
    let mut sums = Sums::default();
    for sample in &profile.samples {
        if !selected.get(sample.labels.0 as usize).copied().unwrap_or_default() {
            continue;
        }
        let value = |index: usize| sample.values.get(index).copied().unwrap_or_default() as f64;
        sums.samples += value(count);
        sums.time_ns += value(time);
        let stack = profile.stack(sample.stack);
        let is_in = match function {
            Some((_, true)) => stack.first().is_some_and(hit),
            Some((_, false)) => stack.iter().any(hit),
            None => false,
        };
        if is_in {
            sums.hits_ns += value(time);
        }
    }
    Some(sums)
}

#[cfg(test)]
mod tests {
    use super::super::rule::tests::rule;
    use super::*;
    use crate::output::fixture;
    use crate::profile::{FrameKind, Overhead};

    const WEIGHT: u64 = 1_000_000;

    fn profile() -> Profile {
        let mut b = fixture::Builder::new();
        let program = b.mapping(b"/bin/shop", "ab");
        let mut location =
            |address, name: &[u8]| b.location(Some(program), address, FrameKind::Native, &[(name, None)]);
        let (main, parse, copy) = (location(1, b"main"), location(2, b"parse"), location(3, b"copy"));
        let mut sample = |stack: &[LocationId], pid, process: &[u8], count| {
            b.sample(stack, (pid, pid), (process, b"t"), [count, count * WEIGHT]);
        };
        sample(&[copy, parse, main], 1, b"shop", 30);
        sample(&[parse, main], 1, b"shop", 10);
        sample(&[parse, parse, main], 1, b"shop", 20);
        sample(&[main], 1, b"shop", 40);
        sample(&[parse, main], 2, b"other", 100);
        let mut profile = b.inner.finish(fixture::meta(), fixture::hostile().quality);
        (profile.meta.duration_ns, profile.meta.start_unix_ns) = (1_000 * WEIGHT, 7);
        profile.quality.samples = 200;
        let cost = Overhead {
            cpus: 2,
            wall_ns: 1_000,
            agent_cpu_ns: 10,
            bpf_ns: 5,
            probes_ns: 5,
            ..Overhead::default()
        };
        profile.quality.overhead = Some(cost);
        profile.quality.lost.truncate(1);
        profile.quality.lost[0].count = 50;
        profile
    }

    fn share(text: &str) -> (f64, f64) {
        let point = measure(&rule(&format!("name='r'\n{text}\nabove='1%'")), &profile()).unwrap();
        (point.part / point.whole, point.trials)
    }

    #[test]
    fn a_function_has_what_it_calls_unless_alone_and_recursion_counts_once() {
        assert_eq!(share("function='parse'\nprocess='shop'"), (0.6, 100.0));
        assert_eq!(share("function='parse'\nprocess='shop'\nalone=true"), (0.3, 100.0));
        assert_eq!(share("function='/^pa/'"), (0.8, 200.0));
        assert_eq!(share("function='nothing'"), (0.0, 200.0));
        let none =
            measure(&rule("name='r'\nfunction='parse'\nprocess='gone'\nabove='1%'"), &profile()).unwrap();
        assert_eq!((none.part, none.whole, none.trials), (0.0, 0.0, 0.0));
    }

    #[test]
    fn cpu_time_losses_and_cost_are_shares_of_what_there_was() {
        let cpu = measure(&rule("name='r'\nseries='cpu'\nprocess='shop'\nabove='1'"), &profile()).unwrap();
        // A tenth of a second in one of two CPUs; two thousand samples were possible.
        assert!((cpu.part / cpu.whole * cpu.scale - 0.1).abs() < 1e-9 && (cpu.trials - 2_000.0).abs() < 1e-6);
        assert_eq!(share("series='lost'"), (0.2, f64::INFINITY));
        assert_eq!(share("series='own-cost'"), (0.01, f64::INFINITY));
    }

    #[test]
    fn profiles_of_something_else_say_nothing() {
        let mut other = profile();
        other.value_types[1].kind = "off_cpu".to_owned();
        assert_eq!(measure(&rule("name='r'\nfunction='f'\nabove='1%'"), &other), None);
    }
}
