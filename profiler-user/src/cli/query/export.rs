//! `perf-agent query export`: every window by itself, as rows.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;

use crate::cli::exit::{CliError, Exit};
use crate::output::{OutputError, ParquetWriter, thousands};
use crate::question::{PartArgs, RangeArgs, explained, open};
use crate::store::DEFAULT_DIRECTORY;

/// Write every window as rows of a Parquet file, for DuckDB, ClickHouse, Spark
#[derive(Debug, Clone, Args)]
pub(super) struct ExportArgs {
    /// Directory of the store
    #[arg(long, value_name = "DIR", default_value = DEFAULT_DIRECTORY)]
    store: PathBuf,
    #[command(flatten)]
    part: PartArgs,
    #[command(flatten)]
    range: RangeArgs,
    /// The file; it must not be there yet
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Replace the file
    #[arg(long)]
    force: bool,
}

/// Runs the question.
///
/// # Errors
///
/// The store cannot be read, nothing is stored of that time, the file cannot be written.
#[expect(clippy::print_stderr, reason = "the command line talks to people on standard error")]
pub(super) fn run(args: &ExportArgs) -> anyhow::Result<()> {
    let range = args.range.range()?;
    let reader = open(&args.store)?;
    let failed = |error: std::io::Error| {
        let told = CliError::new(Exit::Runtime, format!("cannot write {}: {error}", args.output.display()));
        if error.kind() == std::io::ErrorKind::AlreadyExists {
            told.hint("--force replaces it")
        } else {
            told
        }
    };
    let mut options = std::fs::OpenOptions::new();
    options.write(true);
    if args.force {
        options.create(true).truncate(true)
    } else {
        options.create_new(true)
    };
    let file = options.open(&args.output).map_err(failed)?;
    let mut writer = ParquetWriter::new(std::io::BufWriter::new(file))?;
    let (mut windows, mut rows, mut error) = (0_u64, 0_u64, None::<OutputError>);
    let problems = reader
        .each(&range, &args.part.profile_type, &args.part.filter(), |profile| {
            if error.is_none() {
                windows += 1;
                rows += profile.samples.len() as u64;
                error = writer.add(&profile).err();
            }
        })
        .map_err(|error| CliError::from(explained(&error)))?;
    if let Some(error) = error {
        return Err(error.into());
    }
    writer.finish()?.flush().map_err(failed)?;
    for problem in problems {
        eprintln!("warning: {problem}");
    }
    eprintln!("Wrote {}: {} rows of {} windows", args.output.display(), thousands(rows), thousands(windows));
    Ok(())
}
