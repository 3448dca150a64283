//! `perf-agent query syscalls`: which system calls were made, how often, with what errors, and how long they took.

use std::io::{self, Write};

use clap::Args;

use super::source::SourceArgs;
use crate::cli::exit::CliError;
use crate::cli::terminal::{Colour, stdout_style};
use crate::output::syscalls::{TableOptions, calls_json, write_calls};
use crate::question::RangeArgs;
use crate::syscalls::{CallChoice, CallReport};

/// System calls of a stretch of time
#[derive(Debug, Clone, Args)]
pub(super) struct SyscallsQuestion {
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    range: RangeArgs,
    /// Only these calls: openat,read
    #[arg(short = 'e', long = "calls", value_name = "CALLS", value_delimiter = ',', help_heading = "Calls")]
    calls: Vec<String>,
    /// Only calls that failed
    #[arg(short = 'x', long, help_heading = "Calls")]
    failed: bool,
    /// Only calls that failed with one of these errors: ENOENT,EAGAIN
    #[arg(long, value_name = "ERRORS", value_delimiter = ',', help_heading = "Calls")]
    errno: Vec<String>,
    /// Draw the histogram of each call
    #[arg(short = 'H', long, help_heading = "Table")]
    histogram: bool,
    /// Processes, and rows for each of them
    #[arg(short = 'T', long, value_name = "ROWS", default_value_t = 20, help_heading = "Table")]
    top: usize,
    /// When to use colours
    #[arg(long, value_enum, default_value_t, value_name = "WHEN", alias = "colour", help_heading = "Table")]
    color: Colour,
    /// JSON on standard output
    #[arg(long, help_heading = "Output")]
    json: bool,
}

/// Runs the question.
///
/// # Errors
///
/// Bad arguments, no store, nothing stored in that time.
pub(super) fn run(args: &SyscallsQuestion) -> anyhow::Result<()> {
    let choice = CallChoice::parse(args.failed, &args.errno, &args.calls).map_err(CliError::usage)?;
    let source = args.source.of_type("syscalls");
    let mut report = CallReport::of_profile(&source.select(&args.range.range()?)?);
    choice.apply(&mut report);
    let mut out = io::BufWriter::new(io::stdout().lock());
    if args.json {
        writeln!(out, "{}", calls_json(&report))?;
    } else {
        let options = TableOptions {
            top: args.top,
            all_slow: false,
            histograms: args.histogram,
            style: stdout_style(args.color),
        };
        write_calls(&mut out, &report, options)?;
    }
    Ok(out.flush()?)
}
