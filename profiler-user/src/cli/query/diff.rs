//! `perf-agent query diff`: two stretches of time, and what changed between them.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Args, ValueEnum};

use super::source::SourceArgs;
use super::time::{Moment, between, stretch};
use crate::cli::exit::{CliError, Exit};
use crate::cli::input::value_index;
use crate::cli::output_args::parse_percent;
use crate::cli::terminal::{Colour, stdout_style};
use crate::output::{changes_json, write_changes, write_header, write_quality};
use crate::report::{Change, SortBy, changes};
use crate::session::clock;

/// Show what changed from one stretch of time to another
#[derive(Debug, Clone, Args)]
pub(super) struct DiffArgs {
    /// The time before: FROM..TO, such as -25h..-24h
    #[arg(value_name = "BASE", value_parser = stretch, allow_hyphen_values = true)]
    base: (Moment, Moment),
    /// The time after, such as -1h..now
    #[arg(value_name = "NEW", value_parser = stretch, allow_hyphen_values = true)]
    new: (Moment, Moment),
    #[command(flatten)]
    source: SourceArgs,
    /// Compare the function's own cost, or with everything it calls
    #[arg(long, value_enum, value_name = "COLUMN", default_value_t)]
    sort: Column,
    /// Rows to show
    #[arg(short = 'T', long, value_name = "ROWS", default_value_t = 20)]
    top: usize,
    /// Leave out changes of less than so many percentage points
    #[arg(long, value_name = "POINTS", value_parser = parse_percent, default_value = "0.1")]
    min_percent: f64,
    /// Which of the profile's values to compare, such as samples or cpu [default: the last one]
    #[arg(long, value_name = "KIND")]
    value: Option<String>,
    /// End with exit code 4 when a share rose by more than so many percentage points, beyond what random sampling explains
    #[arg(long, value_name = "POINTS", value_parser = parse_percent)]
    fail_over: Option<f64>,
    /// Print JSON instead of tables
    #[arg(long)]
    json: bool,
    /// When to use colours
    #[arg(long, value_enum, default_value_t, value_name = "WHEN", alias = "colour")]
    color: Colour,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum Column {
    /// Cost of the function's own code
    #[default]
    #[value(name = "self")]
    Own,
    /// Cost with everything it calls
    Total,
}

/// Runs the question.
pub(super) fn run(args: &DiffArgs) -> anyhow::Result<ExitCode> {
    let now = clock::unix_ns();
    let range = |(from, to)| between(from, to, now).map_err(CliError::usage);
    let (before, after) = (range(args.base)?, range(args.new)?);
    let (before, after) = (args.source.select(&before)?, args.source.select(&after)?);
    let value = |profile| -> anyhow::Result<usize> {
        Ok(value_index(profile, args.value.as_deref())?.unwrap_or(profile.default_value()))
    };
    let values = [value(&before)?, value(&after)?];
    let meaning =
        |side: usize, profile: &crate::profile::Profile| profile.value_types.get(values[side]).cloned();
    if meaning(0, &before) != meaning(1, &after) {
        let what =
            "the two stretches of time measured different things; name one that both have with --value";
        return Err(CliError::usage(what).into());
    }
    let sort = match args.sort {
        Column::Own => SortBy::Own,
        Column::Total => SortBy::Total,
    };
    let found = changes([&before, &after], values, sort);
    let mut out = io::BufWriter::new(io::stdout().lock());
    if args.json {
        writeln!(out, "{}", changes_json(&found, args.top))?;
    } else {
        let style = stdout_style(args.color);
        for (name, profile) in [("Before", &before), ("After ", &after)] {
            write!(out, "{name}  ")?;
            write_header(&mut out, profile, style)?;
        }
        write_changes(&mut out, &found, args.top, args.min_percent, style)?;
        for profile in [&before, &after] {
            write_quality(&mut out, profile, style)?;
        }
    }
    out.flush()?;
    let rose = |row: &&Change<'_>| {
        let (delta, error) = row.delta(sort);
        args.fail_over.is_some_and(|limit| delta > limit && delta > error.unwrap_or_default())
    };
    match found.rows.iter().find(rose) {
        None => Ok(Exit::Ok.into()),
        Some(row) => Ok(failed(row, sort)),
    }
}

#[expect(clippy::print_stderr, reason = "the command line talks to people on standard error")]
fn failed(row: &Change<'_>, sort: SortBy) -> ExitCode {
    eprintln!(
        "error: the share of {} rose by {:.1} points, more than --fail-over allows",
        row.name,
        row.delta(sort).0
    );
    Exit::Quality.into()
}
