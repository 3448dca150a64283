//! `perf-agent report`: tables from a recorded profile.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};

use super::exit::{CliError, Exit};
use super::output_args::{Color, text_style};
use crate::import::read_file;
use crate::output::{
    hotspots_json, neighbours_json, write_header, write_hotspots, write_neighbours, write_quality,
};
use crate::profile::Profile;
use crate::report::{Detail, Side, SortBy, hotspots, neighbours};

/// Steps from a function to its callers or callees that are shown.
const NEIGHBOUR_LEVELS: usize = 6;

/// `perf-agent report`.
#[derive(Debug, Args)]
pub(super) struct ReportArgs {
    /// Profile to read: pprof (.pb.gz, .pb) or folded stacks
    #[arg(value_name = "FILE", default_value = "last.pb.gz")]
    file: PathBuf,
    /// Column to sort by
    #[arg(long, value_enum, default_value = "self")]
    sort: Sort,
    /// Who calls this function, with shares
    #[arg(long, value_name = "FUNCTION", conflicts_with = "callees")]
    callers: Option<String>,
    /// What this function calls, with shares
    #[arg(long, value_name = "FUNCTION")]
    callees: Option<String>,
    /// One row per source line instead of one per function
    #[arg(long)]
    lines: bool,
    /// Everything as JSON
    #[arg(long)]
    json: bool,
    /// Rows of the table
    #[arg(short = 'T', long, value_name = "N", default_value_t = 20)]
    top: usize,
    /// Leave out what is below this share, percent
    #[arg(long, value_name = "PERCENT", default_value_t = 0.0)]
    min_percent: f64,
    /// Colours
    #[arg(long, value_enum, default_value = "auto", value_name = "WHEN")]
    color: Color,
}

/// Columns to sort by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Sort {
    /// The function's own code
    #[value(name = "self")]
    Own,
    /// With everything it calls
    Total,
}

/// Runs `report`.
///
/// # Errors
///
/// The file cannot be read, or no function has the name asked for.
pub(super) fn run(args: &ReportArgs) -> anyhow::Result<ExitCode> {
    let profile = read_profile(&args.file)?;
    let mut out = io::BufWriter::new(io::stdout().lock());
    let side = match (&args.callers, &args.callees) {
        (Some(name), _) => Some((name, Side::Callers)),
        (_, Some(name)) => Some((name, Side::Callees)),
        _ => None,
    };
    match side {
        Some((name, side)) => write_side(&mut out, &profile, args, name, side)?,
        None => write_table(&mut out, &profile, args)?,
    }
    out.flush()?;
    Ok(Exit::Ok.into())
}

fn write_table(out: &mut dyn Write, profile: &Profile, args: &ReportArgs) -> anyhow::Result<()> {
    let sort = match args.sort {
        Sort::Own => SortBy::Own,
        Sort::Total => SortBy::Total,
    };
    let detail = if args.lines { Detail::Line } else { Detail::Function };
    let table = hotspots(profile, profile.default_value(), detail, sort);
    if args.json {
        return print_json(out, &hotspots_json(profile, &table, args.top));
    }
    let style = text_style(args.color);
    write_header(out, profile, style)?;
    write_hotspots(out, &table, args.top, args.min_percent, style)?;
    Ok(write_quality(out, profile, style)?)
}

fn write_side(out: &mut dyn Write, profile: &Profile, args: &ReportArgs, name: &str, side: Side) -> anyhow::Result<()> {
    let value = profile.default_value();
    let found = neighbours(profile, value, name, side, NEIGHBOUR_LEVELS)
        .map_err(|error| CliError::new(Exit::Runtime, error.to_string()).hint("`perf-agent report -T 100` lists functions"))?;
    if args.json {
        return print_json(out, &neighbours_json(profile, &found, value));
    }
    Ok(write_neighbours(out, profile, &found, value, args.min_percent, text_style(args.color))?)
}

fn print_json(out: &mut dyn Write, json: &serde_json::Value) -> anyhow::Result<()> {
    serde_json::to_writer_pretty(&mut *out, json).map_err(io::Error::from)?;
    Ok(writeln!(out)?)
}

/// Reads a profile for a verb that shows one.
pub(super) fn read_profile(path: &std::path::Path) -> Result<Profile, CliError> {
    read_file(path).map_err(|error| {
        let mut text = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            text = format!("{text}: {cause}");
            source = cause.source();
        }
        CliError::new(Exit::Runtime, text).hint("perf-agent reads what it wrote (.pb.gz, .folded) and other tools' pprof files")
    })
}
