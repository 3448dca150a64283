//! `perf-agent query leaks`: what was allocated and not freed, by site, over windows.

use std::io::{self, Write};

use clap::Args;

use super::source::{Leaking, SourceArgs};
use crate::cli::exit::CliError;
use crate::cli::terminal::{Colour, stdout_style};
use crate::output::{write_header, write_leaks, write_quality};
use crate::question::{LeakArgs, RangeArgs};

/// Growth by site in a stretch of time, of processes whose allocations are recorded
#[derive(Debug, Clone, Args)]
pub(super) struct LeaksQuestion {
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    range: RangeArgs,
    #[command(flatten)]
    leaks: LeakArgs,
    /// Rows to show
    #[arg(short = 'T', long, value_name = "ROWS", default_value_t = 20)]
    top: usize,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
    /// When to use colours
    #[arg(long, value_enum, default_value_t, value_name = "WHEN", alias = "colour")]
    color: Colour,
}

/// Runs the question.
///
/// # Errors
///
/// Bad arguments, no store, nothing stored in that time.
pub(super) fn run(args: &LeaksQuestion) -> anyhow::Result<()> {
    let found = args.source.leaks(&args.leaks, &args.range.range()?)?;
    let mut out = io::BufWriter::new(io::stdout().lock());
    match found {
        Leaking::Profile(profile) if args.json => writeln!(out, "{}", LeakArgs::json(&profile))?,
        Leaking::Profile(profile) => {
            let style = stdout_style(args.color);
            write_header(&mut out, &profile, style)?;
            write_leaks(&mut out, &profile, args.top, style)?;
            write_quality(&mut out, &profile, style)?;
        }
        Leaking::Json(answer) if args.json => {
            out.write_all(&answer)?;
            writeln!(out)?;
        }
        Leaking::Json(_) => {
            let error = CliError::usage("another agent answers this question in JSON alone");
            return Err(error.hint("the same with --json").into());
        }
    }
    out.flush()?;
    Ok(())
}
