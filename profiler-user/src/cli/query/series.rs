//! `perf-agent query series`: a value over time, as a table or JSON.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::Arc;

use clap::Args;

use super::source::SourceArgs;
use unicode_width::UnicodeWidthStr;

use crate::output::cut;
use crate::profile::ValueType;
use crate::question::time::shown;
use crate::question::{RangeArgs, Scale, SeriesArgs, series_json, stepped};
use crate::store::Series;

/// Columns of the table, and their width.
const COLUMNS: usize = 5;
const WIDTH: usize = 16;
/// Rows that are printed without being asked for a step: more are added up.
const MOST_ROWS: usize = 60;
/// Steps that rows are added up to, seconds.
const STEPS: [u64; 8] = [30, 60, 300, 600, 1_800, 3_600, 21_600, 86_400];

/// A value over time
#[derive(Debug, Clone, Args)]
pub(super) struct SeriesQuestion {
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    range: RangeArgs,
    #[command(flatten)]
    series: SeriesArgs,
    /// Print every point as JSON
    #[arg(long)]
    json: bool,
}

/// Runs the question.
#[expect(clippy::print_stderr, reason = "what is wrong with a store belongs on standard error")]
pub(super) fn run(args: &SeriesQuestion) -> anyhow::Result<()> {
    let mut series = args.source.series(&args.series, &args.range.range()?)?;
    let mut out = io::BufWriter::new(io::stdout().lock());
    if args.json {
        writeln!(out, "{}", series_json(&series, args.source.profile_type()))?;
    } else {
        series.points = few(series.points);
        table(&mut out, &series)?;
    }
    out.flush()?;
    for problem in &series.problems {
        eprintln!("warning: {problem}");
    }
    Ok(())
}

fn few(points: Vec<crate::store::SeriesPoint>) -> Vec<crate::store::SeriesPoint> {
    let first = points.first().map_or(0, |point| point.start_unix_ns);
    let span = points.last().map_or(0, |point| point.start_unix_ns.saturating_sub(first)) / 1_000_000_000;
    if points.len() <= MOST_ROWS {
        return points;
    }
    let step = STEPS.into_iter().find(|step| span / step <= MOST_ROWS as u64).unwrap_or(STEPS[7]);
    stepped(points, std::time::Duration::from_secs(step))
}

/// The largest of all in columns of their own, the others added up.
fn table(out: &mut dyn Write, series: &Series) -> io::Result<()> {
    let value_type = series.value_type.clone().unwrap_or_else(|| ValueType::new("", "count"));
    let scale = Scale::of(&value_type);
    let mut totals: BTreeMap<&Arc<str>, u64> = BTreeMap::new();
    for (name, value) in series.points.iter().flat_map(|point| &point.values) {
        let total = totals.entry(name).or_default();
        *total = total.saturating_add(*value);
    }
    let mut names: Vec<(&Arc<str>, u64)> = totals.into_iter().collect();
    names.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
    let others = names.len().saturating_sub(COLUMNS);
    names.truncate(COLUMNS);
    writeln!(out, "{}", scale.unit(&value_type))?;
    write!(out, "{:<21}{:>WIDTH$}", "TIME", "ALL")?;
    for (name, _) in &names {
        let name = cut(name, WIDTH);
        write!(out, " {:1$}{name}", "", WIDTH.saturating_sub(name.width()))?;
    }
    if others > 0 {
        write!(out, " {:>WIDTH$}", format!("{others} OTHERS"))?;
    }
    writeln!(out)?;
    for point in &series.points {
        let number = |value: u64| scale.shown(scale.number(value, point.duration_ns));
        let all: u64 = point.values.values().fold(0, |sum, value| sum.saturating_add(*value));
        write!(out, "{:<21}{:>WIDTH$}", shown(point.start_unix_ns), number(all))?;
        let mut named: u64 = 0;
        for (name, _) in &names {
            let value = point.values.get(*name).copied().unwrap_or_default();
            named = named.saturating_add(value);
            write!(out, " {:>WIDTH$}", number(value))?;
        }
        if others > 0 {
            write!(out, " {:>WIDTH$}", number(all.saturating_sub(named)))?;
        }
        writeln!(out)?;
    }
    Ok(())
}
