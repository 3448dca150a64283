//! `perf-agent query diff`: two stretches of time, and what changed between them.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Args;

use super::source::SourceArgs;
use crate::cli::exit::Exit;
use crate::cli::terminal::{Colour, stdout_style};
use crate::output::{changes_json, write_changes, write_header, write_quality};
use crate::question::time::{Moment, between, stretch};
use crate::question::{CompareArgs, Refusal, parse_percent};
use crate::report::{Change, SortBy};
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
    #[command(flatten)]
    compare: CompareArgs,
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

/// Runs the question.
pub(super) fn run(args: &DiffArgs) -> anyhow::Result<ExitCode> {
    let now = clock::unix_ns();
    let range = |(from, to)| between(from, to, now).map_err(Refusal::usage);
    let (before, after) = (range(args.base)?, range(args.new)?);
    let (before, after) = (args.source.select(&before)?, args.source.select(&after)?);
    let found = args.compare.changes(&before, &after)?;
    let mut out = io::BufWriter::new(io::stdout().lock());
    if args.json {
        writeln!(out, "{}", changes_json(&found, args.compare.top))?;
    } else {
        let style = stdout_style(args.color);
        for (name, profile) in [("Before", &before), ("After ", &after)] {
            write!(out, "{name}  ")?;
            write_header(&mut out, profile, style)?;
        }
        write_changes(&mut out, &found, args.compare.top, args.compare.min_percent, style)?;
        for profile in [&before, &after] {
            write_quality(&mut out, profile, style)?;
        }
    }
    out.flush()?;
    let rose = |row: &&Change<'_>| {
        let (delta, error) = row.delta(args.compare.sort());
        args.fail_over.is_some_and(|limit| delta > limit && delta > error.unwrap_or_default())
    };
    match found.rows.iter().find(rose) {
        None => Ok(Exit::Ok.into()),
        Some(row) => Ok(failed(row, args.compare.sort())),
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
