//! Rules as they are written: what is looked at, when it is too much, and for how long.

use std::time::Duration;

use serde::Deserialize;

use super::past::CPU;
use super::series::{self, Series};
use crate::quantity;
use crate::store::{Filter, Pattern};

/// Longest stretch that is looked at, and longest that lies between it and now's.
const LONGEST_OVER: Duration = Duration::from_hours(6);
const LONGEST_AGO: Duration = Duration::from_hours(24 * 31);
/// Longest name of a rule.
const MOST_NAME: usize = 100;

/// What is looked at.
#[derive(Debug, Clone)]
pub enum Measure {
    /// Share that a function has, with what it calls, or alone, of what the filter selects: of CPU time, or of the main value of another kind of windows.
    Function {
        /// Its name.
        name: Pattern,
        /// Without what it calls.
        alone: bool,
        /// Of what; CPU time where there is none.
        of: Option<Series>,
    },
    /// A sum or a level of what the filter selects.
    Sum(Series),
    /// CPU time of what the filter selects, in CPUs.
    Cpu,
    /// Samples that were lost, as a share of all.
    Lost,
    /// What the agent costs, as a share of the machine.
    OwnCost,
}

/// With what now is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Baseline {
    /// The stretch of this length just before.
    Before(Duration),
    /// A stretch of length `length` whose middle is `ago` before now.
    Ago {
        /// Distance of the middles.
        ago: Duration,
        /// Its length.
        length: Duration,
    },
}

/// When it is too much. Levels are shares (0 to 1), CPUs for [`Measure::Cpu`], or in the unit of a [`Measure::Sum`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Condition {
    /// Above a level.
    Above(f64),
    /// Above the baseline by so much.
    RisesBy(f64, Baseline),
    /// It grows by so much an hour.
    GrowsPerHour(f64),
}

/// One rule.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "RuleText")]
pub struct Rule {
    /// Its name: the alert's name, too.
    pub name: String,
    /// What is looked at.
    pub measure: Measure,
    /// In whose samples.
    pub filter: Filter,
    /// When it is too much.
    pub condition: Condition,
    /// Length of the stretch that is looked at.
    pub over: Duration,
    /// How long it has to hold before the alert is raised.
    pub hold: Duration,
    /// Level at which the alert ends; what raises it when none is given.
    pub clear: f64,
    /// A word for whoever is told.
    pub severity: String,
    /// As it was written.
    text: RuleText,
}

impl PartialEq for Rule {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Rule {
    /// The level that is compared, whatever it is compared with.
    pub fn level(&self) -> f64 {
        match self.condition {
            Condition::Above(level) | Condition::RisesBy(level, _) | Condition::GrowsPerHour(level) => level,
        }
    }

    /// The kind of windows that it looks at.
    pub fn profile_type(&self) -> &'static str {
        match &self.measure {
            Measure::Function { of: Some(series), .. } | Measure::Sum(series) => series.profile_type,
            _ => CPU,
        }
    }

    /// The same of the whole host.
    pub(super) fn of_all(&self) -> Self {
        Self { filter: Filter::default(), ..self.clone() }
    }

    /// A value for people, in this rule's unit.
    pub fn shown(&self, value: f64) -> String {
        let per = if matches!(self.condition, Condition::GrowsPerHour(_)) { " an hour" } else { "" };
        match self.measure {
            Measure::Cpu => format!("{value:.2} CPUs{per}"),
            Measure::Sum(series) => format!("{}{per}", series.unit.shown(value)),
            _ => format!("{:.1} %{per}", value * 100.0),
        }
    }

    /// What is looked at, for people.
    pub fn subject(&self) -> String {
        let text = &self.text;
        let of = [&text.process, &text.thread, &text.container, &text.cgroup];
        let of: Vec<&str> = of.into_iter().flatten().map(String::as_str).collect();
        let of = if of.is_empty() { "the host".to_owned() } else { of.join(", ") };
        match self.measure {
            Measure::Function { of: whole, .. } => {
                let whole = whole.map_or("CPU time", |series| series.what);
                format!("share of {} in the {whole} of {of}", text.function.as_deref().unwrap_or_default())
            }
            Measure::Sum(series) => format!("{} of {of}", series.what),
            Measure::Cpu => format!("CPU time of {of}"),
            Measure::Lost => "lost samples".to_owned(),
            Measure::OwnCost => "cost of perf-agent".to_owned(),
        }
    }

    /// Names and values that tell this alert from others: those that were written.
    pub fn labels(&self) -> Vec<(&'static str, &str)> {
        let text = &self.text;
        let named = [
            ("process", &text.process),
            ("thread", &text.thread),
            ("container", &text.container),
            ("cgroup", &text.cgroup),
            ("function", &text.function),
            ("series", &text.series),
            ("type", &text.r#type),
        ];
        named.into_iter().filter_map(|(key, value)| Some((key, value.as_deref()?))).collect()
    }
}

/// The words of the file.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RuleText {
    name: String,
    r#type: Option<String>,
    function: Option<String>,
    alone: bool,
    series: Option<String>,
    process: Option<String>,
    thread: Option<String>,
    container: Option<String>,
    cgroup: Option<String>,
    above: Option<String>,
    rises_by: Option<String>,
    against: Option<String>,
    baseline: Option<String>,
    grows_per_hour: Option<String>,
    over: Option<String>,
    r#for: Option<String>,
    clear: Option<String>,
    severity: Option<String>,
}

impl TryFrom<RuleText> for Rule {
    type Error = String;

    fn try_from(text: RuleText) -> Result<Self, String> {
        let name = text.name.trim().to_owned();
        if name.is_empty() || name.len() > MOST_NAME || name.chars().any(char::is_control) {
            return Err(format!("`{name}`: a rule needs a name of 1 to {MOST_NAME} characters"));
        }
        let about = |error: String| format!("rule `{name}`: {error}");
        let measure = measure(&text).map_err(about)?;
        let level = |text: &str| level(&measure, text);
        let conditions = [&text.above, &text.rises_by, &text.grows_per_hour];
        let [above, rises, grows] = conditions.map(|text| text.as_deref().map(level).transpose());
        let condition = match (above.map_err(about)?, rises.map_err(about)?, grows.map_err(about)?) {
            (Some(at), None, None) => Condition::Above(at),
            (None, Some(by), None) => Condition::RisesBy(by, baseline(&text).map_err(about)?),
            (None, None, Some(by)) => Condition::GrowsPerHour(by),
            _ => return Err(about("it needs one of above, rises_by, grows_per_hour".to_owned())),
        };
        if !matches!(condition, Condition::RisesBy(..)) && (text.against.is_some() || text.baseline.is_some())
        {
            return Err(about("against and baseline belong to rises_by".to_owned()));
        }
        let usual_over = if matches!(condition, Condition::GrowsPerHour(_)) { 1_800 } else { 60 };
        let span = |given: &Option<String>, usual: u64, longest: Duration| match given {
            None => Ok(Duration::from_secs(usual)),
            Some(given) => match quantity::span(given).map(Duration::from_nanos) {
                Ok(span) if span <= longest => Ok(span),
                Ok(_) => Err(about(format!("`{given}` is too long; at most {} h", longest.as_secs() / 3600))),
                Err(error) => Err(about(error)),
            },
        };
        let pattern = |text: &Option<String>| text.as_deref().map(Pattern::parse).transpose().map_err(about);
        let mut rule = Self {
            filter: Filter {
                process: pattern(&text.process)?,
                thread: pattern(&text.thread)?,
                cgroup: pattern(&text.cgroup)?,
                container: text.container.clone(),
                ..Filter::default()
            },
            condition,
            over: span(&text.over, usual_over, LONGEST_OVER)?,
            hold: span(&text.r#for, 0, LONGEST_OVER)?,
            clear: text.clear.as_deref().map(level).transpose().map_err(about)?.unwrap_or(f64::INFINITY),
            severity: text.severity.clone().unwrap_or_else(|| "warning".to_owned()),
            name: name.clone(),
            measure: measure.clone(),
            text,
        };
        if rule.over.is_zero() {
            return Err(about("over: no time at all".to_owned()));
        }
        if rule.text.clear.is_some() && rule.clear > rule.level() {
            return Err(about("clear is above the level that raises the alert".to_owned()));
        }
        rule.clear = rule.clear.min(rule.level());
        if matches!(rule.measure, Measure::Lost | Measure::OwnCost) && !rule.filter.is_open() {
            return Err(about(
                "this series is of the whole host: it has no process, thread, container or cgroup".to_owned(),
            ));
        }
        Ok(rule)
    }
}

fn measure(text: &RuleText) -> Result<Measure, String> {
    let profile_type = text.r#type.as_deref().unwrap_or(CPU);
    if !series::is_known(profile_type) {
        return Err(format!(
            "there are no windows of type `{profile_type}`; there are cpu, off-cpu, memory, syscalls, alloc, resources"
        ));
    }
    let other = (profile_type != CPU).then_some(profile_type);
    match (&text.function, text.series.as_deref()) {
        (Some(function), None) => Ok(Measure::Function {
            name: Pattern::parse(function)?,
            alone: text.alone,
            of: other.map(series::of_functions).transpose()?,
        }),
        (None, _) if text.alone => Err("alone belongs to function".to_owned()),
        (None, Some(name)) if other.is_some() => series::named(profile_type, name).map(Measure::Sum),
        (None, Some("cpu")) => Ok(Measure::Cpu),
        (None, Some("lost")) => Ok(Measure::Lost),
        (None, Some("own-cost")) => Ok(Measure::OwnCost),
        (None, Some(other)) => Err(format!("there is no series `{other}`; there are cpu, lost, own-cost")),
        _ if other.is_some() => Err("it needs either function (a share) or series".to_owned()),
        _ => Err("it needs either function (a share of CPU time) or series (cpu, lost, own-cost)".to_owned()),
    }
}

fn level(measure: &Measure, text: &str) -> Result<f64, String> {
    match measure {
        Measure::Cpu => {}
        Measure::Sum(series) => return series.unit.level(text),
        _ => return quantity::share(text),
    }
    match text.trim().parse::<f64>() {
        Ok(cpus) if cpus > 0.0 && cpus <= 65_536.0 => Ok(cpus),
        _ => Err(format!("`{text}` is not a number of CPUs; examples: 0.5, 2")),
    }
}

fn baseline(text: &RuleText) -> Result<Baseline, String> {
    let span = |text: &str| quantity::span(text).map(Duration::from_nanos);
    let length = text.baseline.as_deref().map(span).transpose()?;
    let least = Duration::from_secs(10);
    if length.is_some_and(|length| length < least || length > LONGEST_OVER) {
        return Err("baseline must be between 10 s and 6 h long".to_owned());
    }
    match text.against.as_deref() {
        None | Some("before") => Ok(Baseline::Before(length.unwrap_or(Duration::from_mins(30)))),
        Some(ago) => {
            let ago = span(ago.strip_suffix(" ago").unwrap_or(ago).trim())
                .map_err(|_| format!("`{ago}`: against is \"before\", or a time such as \"24h ago\""))?;
            let length = length.unwrap_or(Duration::from_hours(1));
            if ago < length || ago > LONGEST_AGO {
                return Err(
                    "against must be longer ago than the baseline is long, and 31 days at most".to_owned()
                );
            }
            Ok(Baseline::Ago { ago, length })
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::alert) fn rule(text: &str) -> Rule {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn rules_as_people_write_them() {
        let plain = rule("name = 'a'\nfunction = 'parse'\nabove = '20%'");
        assert_eq!(
            (plain.condition, plain.over, plain.hold),
            (Condition::Above(0.2), Duration::from_mins(1), Duration::ZERO)
        );
        assert!((plain.clear - 0.2).abs() < 1e-9);
        let yesterday = rule(
            "name='a'\nfunction='/^par/'\nprocess='shop'\nrises_by='2%'\nagainst='24h ago'\nfor='30s'\nclear='1%'",
        );
        let hour = Duration::from_hours(1);
        assert_eq!(
            yesterday.condition,
            Condition::RisesBy(0.02, Baseline::Ago { ago: 24 * hour, length: hour })
        );
        assert_eq!(yesterday.labels(), [("process", "shop"), ("function", "/^par/")]);
        assert_eq!(yesterday.subject(), "share of /^par/ in the CPU time of shop");
        let cpu = rule("name='a'\nseries='cpu'\ncontainer='0123'\nabove='1.5'\nover='5m'\nseverity='page'");
        assert_eq!(
            (cpu.level(), cpu.shown(1.5), cpu.severity.as_str()),
            (1.5, "1.50 CPUs".to_owned(), "page")
        );
        assert!(rule("name='a'\nseries='cpu'\ngrows_per_hour='0.5'").over > Duration::from_mins(10));
        let slow = rule("name='a'\ntype='syscalls'\nfunction='futex'\nprocess='shop'\nabove='50%'");
        assert_eq!(
            (slow.profile_type(), &*slow.subject()),
            ("syscalls", "share of futex in the time in system calls of shop")
        );
        let large = rule("name='a'\ntype='resources'\nseries='resident'\ngrows_per_hour='100M'");
        assert_eq!(
            (large.profile_type(), large.shown(large.level()), large.subject()),
            ("resources", "100 MiB an hour".to_owned(), "resident memory of the host".to_owned())
        );
        assert_eq!((plain.profile_type(), large.labels()[1]), ("cpu", ("type", "resources")));
        assert_eq!(plain, plain.clone());
        assert_ne!(plain, cpu);
    }

    #[test]
    fn rules_that_mean_nothing_are_refused_with_their_name() {
        for (text, part) in [
            ("function='f'\nabove='1%'", "needs a name"),
            ("name='r'\nabove='1%'", "rule `r`: it needs either"),
            ("name='r'\nfunction='f'", "needs one of above"),
            ("name='r'\nfunction='f'\nabove='1%'\nrises_by='1%'", "needs one of above"),
            ("name='r'\nfunction='f'\nabove='200%'", "not a share"),
            ("name='r'\nseries='cpu'\nabove='many'", "not a number of CPUs"),
            ("name='r'\nseries='rss'\nabove='1%'", "there are cpu, lost, own-cost"),
            ("name='r'\ntype='wall'\nfunction='f'\nabove='1%'", "there are cpu, off-cpu"),
            ("name='r'\ntype='off-cpu'\nabove='1'", "either function (a share) or series"),
            ("name='r'\ntype='off-cpu'\nseries='cpu'\nabove='1'", "it has off_cpu, run_queue"),
            ("name='r'\ntype='resources'\nfunction='f'\nabove='1%'", "only series"),
            ("name='r'\ntype='memory'\nseries='resident'\nabove='1%'", "not a number of bytes"),
            ("name='r'\nfunction='/(/'\nabove='1%'", "regular expression"),
            ("name='r'\nfunction='f'\nabove='1%'\nclear='2%'", "clear is above"),
            ("name='r'\nfunction='f'\nabove='1%'\nagainst='1h'", "belong to rises_by"),
            ("name='r'\nfunction='f'\nrises_by='1%'\nagainst='10m ago'", "longer ago"),
            ("name='r'\nfunction='f'\nrises_by='1%'\nagainst='soon'", "such as"),
            ("name='r'\nfunction='f'\nabove='1%'\nover='7h'", "too long"),
            ("name='r'\nseries='lost'\nabove='1%'\nprocess='p'", "whole host"),
            ("name='r'\nfunction='f'\nabove='1%'\nabov='1%'", "unknown field"),
        ] {
            let error = toml::from_str::<Rule>(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
