//! `perf-agent report`: tables of a profile that was written before.

use std::io::{self, Write};

use crate::output::{
    TextStyle, write_header, write_hotspots, write_leaks, write_neighbours, write_quality, write_sites,
};
use crate::profile::Profile;
use crate::question::RowsArgs;
use clap::Args;

use super::input::InputArgs;
use super::terminal::{Colour, stdout_style};

/// Show where the time of a recorded profile went
#[derive(Debug, Clone, Args)]
pub(super) struct ReportArgs {
    #[command(flatten)]
    input: InputArgs,
    #[command(flatten)]
    table: TableArgs,
}

/// Which table to show, and how much of it.
#[derive(Debug, Clone, Args)]
pub(super) struct TableArgs {
    #[command(flatten)]
    rows: RowsArgs,
    /// Print JSON instead of tables
    #[arg(long)]
    json: bool,
    /// When to use colours
    #[arg(long, value_enum, default_value_t, value_name = "WHEN", alias = "colour")]
    color: Colour,
}

/// Runs the verb.
pub(super) fn run(args: &ReportArgs) -> anyhow::Result<()> {
    let profile = args.input.read()?;
    let mut out = io::BufWriter::new(io::stdout().lock());
    show(&args.table, &profile, &mut out)?;
    out.flush()?;
    Ok(())
}

/// Prints the table.
pub(super) fn show(args: &TableArgs, profile: &Profile, out: &mut dyn Write) -> anyhow::Result<()> {
    if args.json {
        for answer in args.rows.json(profile)? {
            writeln!(out, "{answer}")?;
        }
        return Ok(());
    }
    let rows = &args.rows;
    let (value, style) = (rows.value(profile)?, stdout_style(args.color));
    let answers = rows.neighbours(profile)?;
    write_header(out, profile, style)?;
    for found in &answers {
        write_neighbours(out, profile, found, value, rows.min_percent.unwrap_or(0.5), style)?;
    }
    if answers.is_empty() && (rows.is_by_function() || !write_memory(out, profile, rows.top, style)?) {
        write_hotspots(out, &rows.hotspots(profile)?, rows.top, rows.min_percent.unwrap_or(0.0), style)?;
    }
    write_quality(out, profile, style)?;
    Ok(())
}

/// The table that a recording of memory ends with; says whether the profile is one.
fn write_memory(out: &mut dyn Write, profile: &Profile, top: usize, style: TextStyle) -> io::Result<bool> {
    match &profile.meta.leaks {
        Some(leaks) if leaks.stacks.is_empty() && profile.total(profile.default_value()) > 0 => {
            writeln!(
                out,
                "This file says what is in use, but not since when: it has no verdicts and no ages of blocks (written by an older perf-agent)."
            )?;
            Ok(false)
        }
        Some(_) => write_leaks(out, profile, top, style).map(|()| true),
        // Foreign heap profiles have no totals and no errors.
        None if profile.meta.allocations.is_some() => write_sites(out, profile, top, style).map(|()| true),
        None => Ok(false),
    }
}
