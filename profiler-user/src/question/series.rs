//! One value over time: by process, thread or control group, per second or as a level.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::{Kind, PartArgs, Refusal, explained, open};
use crate::output::bytes;
use crate::profile::{ValueType, clean};
use crate::quantity::{Length, length};
use crate::store::{Series, SeriesBy, SeriesPoint};

/// What an agent elsewhere did not name.
const OTHERS: &str = "[others]";

/// Which value of the windows, and how it is told apart.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Series")]
pub(crate) struct SeriesArgs {
    /// Which of the profile's values [default: the one that outputs show]
    #[arg(long, value_name = "VALUE")]
    value: Option<String>,
    /// By what the value is told apart
    #[arg(long, value_enum, default_value_t)]
    by: By,
    /// Add windows up to stretches of this length: 1m, 1h [default: each window]
    #[arg(long, value_name = "LENGTH", value_parser = step)]
    step: Option<Duration>,
}

/// In the words of the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum By {
    /// Name of the process
    #[default]
    Process,
    /// Each process for itself
    Pid,
    /// Name of the thread
    Thread,
    /// Control group
    Cgroup,
}

fn step(text: &str) -> Result<Duration, String> {
    match length(text)? {
        Length::For(step) if !step.is_zero() => Ok(step),
        _ => Err(format!("`{text}` is no length of a stretch; examples: 10s, 1m, 1h")),
    }
}

impl SeriesArgs {
    /// The same question as parameters of the API.
    pub(crate) fn parameters(&self) -> Vec<(&'static str, String)> {
        let by = self.by.to_possible_value().map(|by| ("by", by.get_name().to_owned()));
        let value = self.value.clone().map(|value| ("value", value));
        let step = self.step.map(|step| ("step", format!("{}s", step.as_secs_f64())));
        let most = [("top", "100".to_owned()), ("points", "5000".to_owned())];
        by.into_iter().chain(value).chain(step).chain(most).collect()
    }

    /// The series.
    ///
    /// # Errors
    ///
    /// Nothing is stored of it, there is no such value, or the store could not be read.
    pub(crate) fn series(
        &self,
        store: &Path,
        part: &PartArgs,
        range: &Range<u64>,
    ) -> Result<Series, Refusal> {
        let by = match self.by {
            By::Process => SeriesBy::Process,
            By::Pid => SeriesBy::Pid,
            By::Thread => SeriesBy::Thread,
            By::Cgroup => SeriesBy::Cgroup,
        };
        let reader = open(store)?;
        let filter = part.filter();
        let found = reader.series(range, &part.profile_type, &filter, self.value.as_deref(), by);
        let mut series = found.map_err(|error| explained(&error))?;
        if series.points.is_empty() {
            if let Some(wanted) = self.value.as_deref().filter(|_| !series.other_values.is_empty()) {
                let known = series.other_values.join(", ");
                return Err(Refusal::usage(format!(
                    "profiles of {} have no value {wanted:?}; they have {known}",
                    part.profile_type
                )));
            }
            // Says what there is instead.
            part.select(store, range)?;
            return Err(Refusal::new(Kind::Nothing, "nothing is stored of that time".to_owned()));
        }
        if let Some(step) = self.step {
            series.points = stepped(std::mem::take(&mut series.points), step);
        }
        Ok(series)
    }
}

/// Adds points up to stretches that begin on the clock.
pub(crate) fn stepped(points: Vec<SeriesPoint>, step: Duration) -> Vec<SeriesPoint> {
    let step_ns = u64::try_from(step.as_nanos()).unwrap_or(u64::MAX).max(1);
    let mut stretches: BTreeMap<u64, SeriesPoint> = BTreeMap::new();
    for point in points {
        // As where windows are selected: a window belongs to where its middle is.
        let middle = point.start_unix_ns.saturating_add(point.duration_ns / 2);
        let start_unix_ns = middle - middle % step_ns;
        let sum = stretches.entry(start_unix_ns).or_insert_with(|| SeriesPoint {
            start_unix_ns,
            duration_ns: 0,
            values: BTreeMap::new(),
        });
        sum.duration_ns = sum.duration_ns.saturating_add(point.duration_ns);
        for (name, value) in point.values {
            let known = sum.values.entry(name).or_default();
            *known = known.saturating_add(value);
        }
    }
    stretches.into_values().collect()
}

/// How a value over time is said: as a share of the time, per second, or as the mean of a level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scale {
    /// Nanoseconds in nanoseconds: CPUs, or threads that wait.
    Share,
    /// Bytes a second.
    BytesPerSecond,
    /// Events a second.
    PerSecond,
    /// Mean of bytes.
    Bytes,
    /// Mean of a number.
    Level,
    /// Mean of thousandths.
    Thousandths,
}

impl Scale {
    /// By the unit of the values.
    pub(crate) fn of(value_type: &ValueType) -> Self {
        match value_type.unit.as_str() {
            "nanoseconds" => Self::Share,
            "bytes" => Self::BytesPerSecond,
            "byte_milliseconds" => Self::Bytes,
            "count_milliseconds" => Self::Level,
            "milli_milliseconds" => Self::Thousandths,
            _ => Self::PerSecond,
        }
    }

    /// What the number is of, in words.
    pub(crate) fn unit(self, value_type: &ValueType) -> String {
        let kind = &value_type.kind;
        match self {
            Self::Share if kind == "cpu" => "CPUs".to_owned(),
            Self::Share => format!("{kind}, seconds a second"),
            Self::BytesPerSecond => format!("{kind}, bytes a second"),
            Self::PerSecond => format!("{kind} a second"),
            Self::Bytes => format!("{kind}, bytes"),
            Self::Level | Self::Thousandths => kind.clone(),
        }
    }

    /// The number of a stretch.
    pub(crate) fn number(self, value: u64, duration_ns: u64) -> f64 {
        let ns = duration_ns.max(1) as f64;
        let value = value as f64;
        match self {
            Self::Share => value / ns,
            Self::BytesPerSecond | Self::PerSecond => value * 1e9 / ns,
            Self::Bytes | Self::Level => value * 1e6 / ns,
            Self::Thousandths => value * 1e3 / ns,
        }
    }

    /// The same for people.
    pub(crate) fn shown(self, number: f64) -> String {
        match self {
            Self::Bytes | Self::BytesPerSecond => bytes(number.max(0.0) as u64),
            Self::Share => format!("{number:.3}"),
            Self::Level | Self::Thousandths | Self::PerSecond => format!("{number:.1}"),
        }
    }
}

/// What the API answered.
pub(crate) fn series_of_json(answer: &[u8]) -> Option<Series> {
    let answer: Value = serde_json::from_slice(answer).ok()?;
    let text = |value: &Value| value.as_str().map(|text| clean(text.as_bytes()));
    let value_type =
        ValueType::new(&text(&answer["value_type"]["kind"])?, &text(&answer["value_type"]["unit"])?);
    let names: Vec<Arc<str>> =
        answer["processes"].as_array()?.iter().filter_map(|name| text(name).map(Arc::from)).collect();
    let point = |point: &Value| -> Option<SeriesPoint> {
        let values = point["values"].as_array()?.iter().map(|value| value.as_u64().unwrap_or_default());
        let mut values: BTreeMap<Arc<str>, u64> =
            names.iter().cloned().zip(values).filter(|(_, value)| *value > 0).collect();
        let other = point["other"].as_u64().unwrap_or_default();
        if other > 0 {
            values.insert(Arc::from(OTHERS), other);
        }
        let number = |name: &str| point[name].as_u64();
        Some(SeriesPoint {
            start_unix_ns: number("start_unix_ns")?,
            duration_ns: number("duration_ns")?,
            values,
        })
    };
    let points = answer["points"].as_array()?.iter().map(point).collect::<Option<Vec<_>>>()?;
    Some(Series { value_type: Some(value_type), points, ..Series::default() })
}

/// The series as JSON: raw values, and what a second of them is.
pub(crate) fn series_json(series: &Series, profile_type: &str) -> Value {
    let value_type = series.value_type.clone().unwrap_or_else(|| ValueType::new("", "count"));
    let scale = Scale::of(&value_type);
    let rates = |point: &SeriesPoint| -> BTreeMap<Arc<str>, f64> {
        let rate = |value: &u64| scale.number(*value, point.duration_ns);
        point.values.iter().map(|(name, value)| (Arc::clone(name), rate(value))).collect()
    };
    let points = series.points.iter().map(|point| {
        json!({
            "start_unix_ns": point.start_unix_ns,
            "duration_ns": point.duration_ns,
            "values": point.values,
            "rates": rates(point),
        })
    });
    json!({
        "schema": 1,
        "type": profile_type,
        "value": value_type.kind,
        "unit": value_type.unit,
        "rate_unit": scale.unit(&value_type),
        "points": points.collect::<Vec<_>>(),
        "problems": series.problems,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(second: u64, value: u64) -> SeriesPoint {
        SeriesPoint {
            start_unix_ns: second * 1_000_000_000,
            duration_ns: 10_000_000_000,
            values: BTreeMap::from([(Arc::from("a"), value)]),
        }
    }

    #[test]
    fn windows_add_up_to_stretches_on_the_clock() {
        let points = vec![point(50, 1), point(58, 2), point(68, 4), point(130, 8)];
        let stretches = stepped(points, Duration::from_mins(1));
        let found: Vec<_> = stretches
            .iter()
            .map(|p| (p.start_unix_ns / 1_000_000_000, p.duration_ns, p.values["a"]))
            .collect();
        assert_eq!(found, [(0, 10_000_000_000, 1), (60, 20_000_000_000, 6), (120, 10_000_000_000, 8)]);
    }

    #[test]
    fn each_unit_has_its_scale() {
        let number = |unit: &str, value| {
            let value_type = ValueType::new("x", unit);
            let scale = Scale::of(&value_type);
            scale.shown(scale.number(value, 10_000_000_000))
        };
        assert_eq!(number("nanoseconds", 15_000_000_000), "1.500");
        assert_eq!(number("bytes", 40_960), "4.0 KiB");
        assert_eq!(number("byte_milliseconds", 4_096 * 10_000), "4.0 KiB");
        assert_eq!(number("count_milliseconds", 30_000), "3.0");
        assert_eq!(number("milli_milliseconds", 1_500 * 10_000), "1.5");
        assert_eq!(number("count", 25), "2.5");
    }
}
