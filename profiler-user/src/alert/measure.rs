//! What one window says about a rule.

use crate::profile::{LocationId, Profile, ValueType};
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
            let sums = sums(rule, profile, CPU_TIME, None)?;
            let cpus = f64::from(overhead?.cpus.max(1));
            // What a sample stands for; where there is none, what it would have stood for.
            let all = self::sums(&rule.of_all(), profile, CPU_TIME, None)?;
            let weight = all.weight().unwrap_or(profile.meta.period as f64);
            let whole = duration_ns as f64 * cpus;
            Point { part: sums.sum.min(whole), whole, trials: whole / weight.max(1.0), scale: cpus, ..point }
        }
        Measure::Sum(series) => {
            let sums = sums(rule, profile, series.kind, None)?;
            let whole = duration_ns as f64 * CEILING;
            let trials = if series.is_exact {
                f64::INFINITY
            } else {
                // Events are far apart in what could be: their number scatters as its root, as counts do.
                let all = self::sums(&rule.of_all(), profile, series.kind, None)?;
                whole / sums.weight().or(all.weight()).unwrap_or(1.0).max(1.0)
            };
            let scale = CEILING * series.unit.per_nanosecond();
            Point { part: sums.sum.min(whole), whole, trials, scale, ..point }
        }
        Measure::Function { name, alone, of } => {
            let value = of.map_or(CPU_TIME, |series| series.kind);
            let sums = sums(rule, profile, value, Some((name, *alone)))?;
            Point { part: sums.hits, whole: sums.sum, trials: sums.events(), ..point }
        }
    })
}

/// What [`Measure::Cpu`] adds up.
const CPU_TIME: &str = "cpu";

/// More than any sum has in a nanosecond: sums become shares of that.
const CEILING: f64 = 1e6;

#[derive(Default)]
struct Sums {
    sum: f64,
    hits: f64,
    /// Sum of the squares of what each event stands for.
    squares: f64,
}

impl Sums {
    /// As many events of equal weight would say as much (Kish's effective size).
    fn events(&self) -> f64 {
        if self.squares > 0.0 { self.sum * self.sum / self.squares } else { 0.0 }
    }

    /// What one of those stands for; none where there are none.
    fn weight(&self) -> Option<f64> {
        (self.sum > 0.0).then(|| self.squares / self.sum)
    }
}

/// Adds up a value of what the rule's filter selects, and of that what a function has. None for profiles without that value.
fn sums(rule: &Rule, profile: &Profile, value: &str, function: Option<(&Pattern, bool)>) -> Option<Sums> {
    // A value in CPU cycles is none.
    let is_wanted = |of: &ValueType| of.kind == value && (value != CPU_TIME || of.unit == "nanoseconds");
    let wanted = profile.value_types.iter().position(is_wanted)?;
    let position = |is: &dyn Fn(&ValueType) -> bool| profile.value_types.iter().position(is);
    let count = position(&|value| value.unit == "count");
    // Of allocations some were seen and stand for the others, by a share that is known of all together.
    let blocks = position(&|value| value.kind == "alloc_objects").map(|objects| {
        let seen = profile.quality.samples as f64 / profile.total(objects).max(1) as f64;
        (objects, seen.min(1.0))
    });
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
        let events = match blocks {
            Some((objects, seen)) => value(objects) * seen,
            None => count.map_or(1.0, value),
        };
        let (sum, events) = (value(wanted), events.max(1.0));
        sums.sum += sum;
        sums.squares += sum * sum / events;
        let stack = profile.stack(sample.stack);
        let is_in = match function {
            Some((_, true)) => stack.first().is_some_and(hit),
            Some((_, false)) => stack.iter().any(hit),
            None => false,
        };
        if is_in {
            sums.hits += sum;
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

    /// The same samples as waits: three of each stack, some of them in the run queue.
    fn waits() -> Profile {
        let mut other = profile();
        other.meta.profile_type = "off-cpu".to_owned();
        other.value_types = vec![
            ValueType::new("waits", "count"),
            ValueType::new("run_queue", "nanoseconds"),
            ValueType::new("off_cpu", "nanoseconds"),
        ];
        for sample in &mut other.samples {
            sample.values = vec![3, 1_000, sample.values[1]];
        }
        other
    }

    #[test]
    fn waits_are_shares_and_sums_of_their_own_values() {
        let share = rule("name='r'\ntype='off-cpu'\nfunction='parse'\nprocess='shop'\nabove='1%'");
        let point = measure(&share, &waits()).unwrap();
        assert!((point.part / point.whole - 0.6).abs() < 1e-9);
        // Twelve waits; the longer ones weigh more than the others.
        assert!(point.trials > 6.0 && point.trials < 12.0, "{}", point.trials);
        let value = |text: &str| {
            let point = measure(&rule(text), &waits()).unwrap();
            (point.part / point.whole * point.scale, point.part / point.whole * point.trials)
        };
        let (threads, events) =
            value("name='r'\ntype='off-cpu'\nseries='off_cpu'\nprocess='shop'\nabove='1'");
        assert!((threads - 0.1).abs() < 1e-9 && events > 6.0 && events < 12.0, "{threads} {events}");
        let (rate, events) = value("name='r'\ntype='off-cpu'\nseries='waits'\nprocess='shop'\nabove='1'");
        assert!((rate - 12.0).abs() < 1e-6 && (events - 12.0).abs() < 1e-6, "{rate} {events}");
        let (nobody, events) = value("name='r'\ntype='off-cpu'\nseries='waits'\nprocess='gone'\nabove='1'");
        assert!(nobody.abs() < 1e-9 && events.abs() < 1e-9);
    }

    #[test]
    fn allocations_count_as_often_as_they_were_seen() {
        let mut blocks = profile();
        blocks.meta.profile_type = "alloc".to_owned();
        let kinds = [("sampled", "count"), ("alloc_objects", "count"), ("alloc_space", "bytes")];
        blocks.value_types = kinds.map(|(kind, unit)| ValueType::new(kind, unit)).to_vec();
        blocks.samples.iter_mut().for_each(|sample| sample.values = vec![0, 1_000, 64_000]);
        let rule = rule("name='r'\ntype='alloc'\nseries='alloc_space'\nabove='1K'");
        let events = |seen: u64| {
            let mut blocks = blocks.clone();
            blocks.quality.samples = seen;
            let point = measure(&rule, &blocks).unwrap();
            point.part / point.whole * point.trials
        };
        let all = blocks.total(1);
        assert!((events(all) - all as f64).abs() < 1.0, "{} of {all}", events(all));
        assert!((events(all / 10) - all as f64 / 10.0).abs() < 1.0, "{}", events(all / 10));
    }

    #[test]
    fn levels_are_means_and_nothing_of_them_is_left_to_chance() {
        let mut levels = profile();
        levels.meta.profile_type = "resources".to_owned();
        levels.value_types = vec![ValueType::new("resident", "byte_milliseconds")];
        for sample in &mut levels.samples {
            sample.values = vec![1 << 30];
        }
        let rule = rule("name='r'\ntype='resources'\nseries='resident'\nprocess='other'\nabove='1M'");
        let point = measure(&rule, &levels).unwrap();
        let bytes = point.part / point.whole * point.scale;
        assert!((bytes - (1_u64 << 30) as f64 / 1_000.0).abs() < 1.0, "{bytes}");
        assert!(point.trials.is_infinite());
    }

    #[test]
    fn profiles_of_something_else_say_nothing() {
        let mut other = profile();
        other.value_types[1].kind = "off_cpu".to_owned();
        assert_eq!(measure(&rule("name='r'\nfunction='f'\nabove='1%'"), &other), None);
    }
}
