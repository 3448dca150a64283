//! Questions to the store: the same words, the same answers as `perf-agent query` has.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use axum::http::StatusCode;
use clap::Parser;
use serde_json::{Value, json};

use super::answer::{Answer, Refused};
use super::ask::question;
use super::service::LARGEST;
use crate::output::{Format, OutputError, changes_json, windows_json};
use crate::profile::{Labels, Profile};
use crate::question::time::{Moment, between, stretch};
use crate::question::{
    CompareArgs, LeakArgs, PartArgs, PictureArgs, RangeArgs, Refusal, RowsArgs, SeriesArgs, explained, open,
    parse_format, value_index,
};
use crate::session::clock;
use crate::store::SeriesPoint;

/// Process IDs that are named of one process name.
const MOST_PIDS: usize = 50;

/// Which windows.
#[derive(Debug, Parser)]
pub(super) struct Windows {
    #[command(flatten)]
    range: RangeArgs,
    /// Only profiles of this type
    #[arg(long = "type", value_name = "TYPE")]
    profile_type: Option<String>,
}

pub(super) fn windows(store: &Path, query: &str) -> Result<Answer, Refused> {
    let asked: Windows = question(query)?;
    let found = open(store)?.windows(&asked.range.range()?).map_err(|error| explained(&error));
    let (mut windows, problems) = found?;
    windows.retain(|window| asked.profile_type.as_ref().is_none_or(|wanted| *wanted == window.profile_type));
    Ok(Answer::json(&windows_json(&windows, &problems)))
}

/// A table.
#[derive(Debug, Parser)]
pub(super) struct Top {
    #[command(flatten)]
    part: PartArgs,
    #[command(flatten)]
    range: RangeArgs,
    #[command(flatten)]
    rows: RowsArgs,
}

pub(super) fn top(store: &Path, query: &str) -> Result<Answer, Refused> {
    let asked: Top = question(query)?;
    let profile = asked.part.select(store, &asked.range.range()?)?;
    let mut answers = asked.rows.json(&profile)?;
    let one = if answers.len() == 1 { answers.pop() } else { None };
    Ok(Answer::json(&one.unwrap_or_else(|| json!({ "schema": 1, "answers": answers }))))
}

/// A profile in some format.
#[derive(Debug, Parser)]
pub(super) struct Flamegraph {
    #[command(flatten)]
    part: PartArgs,
    #[command(flatten)]
    range: RangeArgs,
    #[command(flatten)]
    picture: PictureArgs,
    /// Format of the answer
    #[arg(long, value_name = "FORMAT", value_parser = parse_format, default_value = "svg")]
    format: &'static Format,
    /// Which of the profile's values to show, such as samples or cpu [default: the last one]
    #[arg(long, value_name = "KIND")]
    value: Option<String>,
}

pub(super) fn flamegraph(store: &Path, query: &str) -> Result<Answer, Refused> {
    let asked: Flamegraph = question(query)?;
    let profile = asked.part.select(store, &asked.range.range()?)?;
    let value = value_index(&profile, asked.value.as_deref())?;
    let mut out = Limited::default();
    match (asked.format.write)(&profile, &asked.picture.options(value), &mut out) {
        Ok(()) => {}
        Err(_) if out.is_over => return Err(too_large()),
        Err(error @ OutputError::NoSuchValue { .. }) => return Err(Refused::usage(error.to_string())),
        Err(error) => {
            return Err(Refused::new(StatusCode::INTERNAL_SERVER_ERROR, "output", error.to_string()));
        }
    }
    Ok(Answer {
        content_type: content_type(asked.format).into(),
        bytes: out.bytes,
        save_as: (asked.format.name != "tree").then(|| file_name(&profile, asked.format)),
    })
}

fn content_type(format: &Format) -> &'static str {
    match format.name {
        "svg" => "image/svg+xml",
        "folded" => "text/plain; charset=utf-8",
        "json" | "tree" => "application/json",
        _ => "application/octet-stream",
    }
}

fn file_name(profile: &Profile, format: &Format) -> String {
    let seconds = profile.meta.start_unix_ns / 1_000_000_000;
    let name = format!("perf-agent-{}-{}-{seconds}", profile.meta.host, profile.meta.profile_type);
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
    format!("{}.{}", name.chars().map(plain).collect::<String>(), format.extensions[0])
}

/// What was allocated and not freed.
#[derive(Debug, Parser)]
pub(super) struct Leaks {
    #[command(flatten)]
    part: PartArgs,
    #[command(flatten)]
    range: RangeArgs,
    #[command(flatten)]
    sites: LeakArgs,
}

pub(super) fn leaks(store: &Path, query: &str) -> Result<Answer, Refused> {
    let asked: Leaks = question(query)?;
    let profile = asked.sites.leaks(store, &asked.part, &asked.range.range()?)?;
    Ok(Answer::json(&LeakArgs::json(&profile)))
}

/// Two stretches of time.
#[derive(Debug, Parser)]
pub(super) struct Diff {
    /// The time before: FROM..TO, such as -25h..-24h
    #[arg(long, value_name = "BASE", value_parser = stretch, required = true, allow_hyphen_values = true)]
    base: (Moment, Moment),
    /// The time after, such as -1h..now
    #[arg(long, value_name = "NEW", value_parser = stretch, required = true, allow_hyphen_values = true)]
    new: (Moment, Moment),
    #[command(flatten)]
    part: PartArgs,
    #[command(flatten)]
    compare: CompareArgs,
}

pub(super) fn diff(store: &Path, query: &str) -> Result<Answer, Refused> {
    let asked: Diff = question(query)?;
    let now = clock::unix_ns();
    let select = |(from, to)| -> Result<Profile, Refusal> {
        asked.part.select(store, &between(from, to, now).map_err(Refusal::usage)?)
    };
    let (before, after) = (select(asked.base)?, select(asked.new)?);
    let mut found = asked.compare.changes(&before, &after)?;
    let sort = asked.compare.sort();
    found.rows.retain(|row| row.delta(sort).0.abs() >= asked.compare.min_percent);
    Ok(Answer::json(&changes_json(&found, asked.compare.top)))
}

/// Values over time.
#[derive(Debug, Parser)]
pub(super) struct Series {
    #[command(flatten)]
    part: PartArgs,
    #[command(flatten)]
    range: RangeArgs,
    #[command(flatten)]
    wanted: SeriesArgs,
    /// Processes that are named; the others are added up
    #[arg(long, value_name = "PROCESSES", default_value_t = 12, value_parser = clap::value_parser!(u16).range(0..=100))]
    top: u16,
    /// Points at most: neighbours are added up
    #[arg(long, value_name = "POINTS", default_value_t = 720, value_parser = clap::value_parser!(u16).range(1..=5000))]
    points: u16,
}

pub(super) fn series(store: &Path, query: &str) -> Result<Answer, Refused> {
    let asked: Series = question(query)?;
    let range = asked.range.range()?;
    let series = asked.wanted.series(store, &asked.part, &range)?;
    let found = series.points;
    let names = largest(&found, usize::from(asked.top));
    let at_a_time = found.len().div_ceil(usize::from(asked.points)).max(1);
    let points: Vec<Value> = found.chunks(at_a_time).map(|points| point(points, &names)).collect();
    Ok(Answer::json(&json!({
        "schema": 1,
        "type": asked.part.profile_type,
        "value_type": series.value_type,
        "from_unix_ns": range.start,
        "to_unix_ns": range.end,
        "processes": names,
        "points": points,
    })))
}

/// The names with the largest sums, the largest first.
fn largest(points: &[SeriesPoint], top: usize) -> Vec<Arc<str>> {
    let mut sums: BTreeMap<&Arc<str>, u64> = BTreeMap::new();
    for (name, value) in points.iter().flat_map(|point| &point.values) {
        let sum = sums.entry(name).or_default();
        *sum = sum.saturating_add(*value);
    }
    let mut sums: Vec<_> = sums.into_iter().collect();
    sums.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(b.0)));
    sums.into_iter().take(top).map(|(name, _)| Arc::clone(name)).collect()
}

/// Neighbouring points as one.
fn point(points: &[SeriesPoint], names: &[Arc<str>]) -> Value {
    let sum = |values: &mut dyn Iterator<Item = u64>| values.fold(0_u64, u64::saturating_add);
    let of = |name: &Arc<str>| sum(&mut points.iter().filter_map(|point| point.values.get(name).copied()));
    let values: Vec<u64> = names.iter().map(of).collect();
    let total = sum(&mut points.iter().flat_map(|point| point.values.values().copied()));
    let named = sum(&mut values.iter().copied());
    json!({
        "start_unix_ns": points.first().map(|point| point.start_unix_ns),
        "end_unix_ns": points.last().map(|point| point.start_unix_ns.saturating_add(point.duration_ns)),
        "duration_ns": sum(&mut points.iter().map(|point| point.duration_ns)),
        "values": values,
        "other": total.saturating_sub(named),
    })
}

/// Who used how much.
#[derive(Debug, Parser)]
pub(super) struct Processes {
    #[command(flatten)]
    part: PartArgs,
    #[command(flatten)]
    range: RangeArgs,
    /// Processes to name
    #[arg(long, value_name = "PROCESSES", default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1000))]
    top: u16,
}

pub(super) fn processes(store: &Path, query: &str) -> Result<Answer, Refused> {
    let asked: Processes = question(query)?;
    let profile = asked.part.select(store, &asked.range.range()?)?;
    let value = profile.default_value();
    let mut by_name: BTreeMap<&str, (u64, Vec<&Labels>)> = BTreeMap::new();
    for sample in &profile.samples {
        let labels = profile.labels_of(sample);
        let (sum, all) = by_name.entry(&labels.process).or_default();
        *sum = sum.saturating_add(sample.values.get(value).copied().unwrap_or_default());
        if all.last().is_none_or(|last| !std::ptr::eq(*last, labels)) {
            all.push(labels);
        }
    }
    let total = profile.total(value);
    let mut rows: Vec<_> = by_name.into_iter().collect();
    rows.sort_by(|a, b| b.1.0.cmp(&a.1.0).then_with(|| a.0.cmp(b.0)));
    let found = rows.len();
    let row = |(name, (sum, labels)): (&str, (u64, Vec<&Labels>))| {
        let mut pids: Vec<u32> = labels.iter().map(|labels| labels.pid).collect();
        pids.sort_unstable();
        pids.dedup();
        let count = pids.len();
        pids.truncate(MOST_PIDS);
        let mut cgroups: Vec<&str> = labels.iter().filter_map(|labels| labels.cgroup.as_deref()).collect();
        cgroups.sort_unstable();
        cgroups.dedup();
        cgroups.truncate(MOST_PIDS);
        json!({
            "name": name,
            "value": sum,
            "percent": sum as f64 * 100.0 / total.max(1) as f64,
            "pid_count": count,
            "pids": pids,
            "cgroups": cgroups,
        })
    };
    Ok(Answer::json(&json!({
        "schema": 1,
        "value_type": profile.value_types.get(value),
        "total": total,
        "found": found,
        "processes": rows.into_iter().take(usize::from(asked.top)).map(row).collect::<Vec<_>>(),
    })))
}

/// Takes so much and no more.
#[derive(Default)]
struct Limited {
    bytes: Vec<u8>,
    is_over: bool,
}

impl Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > LARGEST {
            self.is_over = true;
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn too_large() -> Refused {
    let message = format!("the answer is larger than {}", crate::output::bytes(LARGEST as u64));
    Refused::new(StatusCode::UNPROCESSABLE_ENTITY, "large", message)
        .hint("ask for less time or for one process, or for format=pprof")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::FORMATS;

    #[test]
    fn every_format_has_a_type_and_a_plain_name() {
        let profile = crate::output::fixture::hostile();
        for format in FORMATS {
            assert!(content_type(format).contains('/'));
            let name = file_name(&profile, format);
            assert!(name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)), "{name}");
        }
    }

    #[test]
    fn neighbours_add_up_and_the_rest_is_other() {
        let point_of = |start: u64, values: &[(&str, u64)]| SeriesPoint {
            start_unix_ns: start,
            duration_ns: 10,
            values: values.iter().map(|(name, value)| (Arc::from(*name), *value)).collect(),
        };
        let points = [point_of(0, &[("a", 5), ("b", 1), ("c", 2)]), point_of(10, &[("b", 3), ("a", 1)])];
        let names = largest(&points, 2);
        assert_eq!(names.iter().map(|name| &**name).collect::<Vec<_>>(), ["a", "b"]);
        let sum = point(&points, &names);
        assert_eq!(sum["values"], json!([6, 4]));
        assert_eq!(
            (&sum["other"], &sum["duration_ns"], &sum["end_unix_ns"]),
            (&json!(2), &json!(20), &json!(20))
        );
    }

    #[test]
    fn an_answer_has_a_largest_size() {
        let mut out = Limited::default();
        assert!(out.write_all(&vec![0; LARGEST]).is_ok());
        assert!(out.write_all(b"x").is_err() && out.is_over);
    }
}
