//! `perf-agent query`: what a store holds, as tables, pictures and changes. Reads its files, whether a daemon runs or not.

mod diff;
mod export;
mod leaks;
mod remote;
mod series;
mod source;
mod syscalls;
mod windows;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::exit::Exit;
use super::flamegraph::{DrawingArgs, draw};
use super::report::{TableArgs, show};
use crate::question::RangeArgs;
use source::SourceArgs;

/// Show what continuous recording has stored
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  perf-agent query top --from -1h                      where CPU time went in the last hour
  perf-agent query top --process nginx --type off-cpu  where nginx waited
  perf-agent query flamegraph --from -30m -o x.svg     a picture; .pb.gz, .folded and .json as well
  perf-agent query diff -25h..-24h -1h..now            this hour against the same hour yesterday
  perf-agent query series --type resources --by pid    resident memory of each process over time
  perf-agent query syscalls --from -10m --process nginx --failed    which calls fail, and how
  perf-agent query leaks --from -1h --process shop     where its memory grows, by who asked for it
  perf-agent query export --from -1d -o day.parquet    every window as rows, for DuckDB and others
  perf-agent query windows --from -7d                  what there is
  perf-agent query top --remote https://db-1:7071 --token-file token    on another host

Times are now, -1h, -30m, RFC 3339 (2026-01-31T08:00:00Z) or Unix seconds.")]
pub(super) struct QueryArgs {
    #[command(subcommand)]
    question: Question,
}

#[derive(Debug, Clone, Subcommand)]
enum Question {
    /// The functions that took most
    Top(TopArgs),
    /// A flame graph, or any other format
    Flamegraph(FlamegraphArgs),
    /// What changed from one stretch of time to another
    Diff(diff::DiffArgs),
    /// A value over time, by process, thread or control group
    Series(series::SeriesQuestion),
    /// Which system calls were made, how often, with what errors, and how long they took
    Syscalls(syscalls::SyscallsQuestion),
    /// What was allocated and not freed, of processes whose allocations are recorded
    Leaks(leaks::LeaksQuestion),
    /// Every window by itself, as rows of a Parquet file
    Export(export::ExportArgs),
    /// Which windows are stored
    Windows(windows::WindowsArgs),
}

#[derive(Debug, Clone, Args)]
struct TopArgs {
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    range: RangeArgs,
    #[command(flatten)]
    table: TableArgs,
}

#[derive(Debug, Clone, Args)]
struct FlamegraphArgs {
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    range: RangeArgs,
    #[command(flatten)]
    drawing: DrawingArgs,
}

/// Runs the verb.
///
/// # Errors
/// Bad arguments, no store, nothing stored in that time, failed outputs.
pub(super) fn run(args: &QueryArgs) -> anyhow::Result<ExitCode> {
    match &args.question {
        Question::Top(args) => {
            let profile = args.source.select(&args.range.range()?)?;
            let mut out = io::BufWriter::new(io::stdout().lock());
            show(&args.table, &profile, &mut out)?;
            out.flush()?;
        }
        Question::Flamegraph(args) => {
            let profile = args.source.select(&args.range.range()?)?;
            draw(&args.drawing, &profile, || Ok(PathBuf::from("perf-agent-%h-%m-%t.svg")))?;
        }
        Question::Diff(args) => return diff::run(args),
        Question::Series(args) => series::run(args)?,
        Question::Syscalls(args) => syscalls::run(args)?,
        Question::Leaks(args) => leaks::run(args)?,
        Question::Export(args) => export::run(args)?,
        Question::Windows(args) => windows::run(args)?,
    }
    Ok(Exit::Ok.into())
}
