//! `perf-agent report`: tables of a profile that was written before.

use std::io::{self, Write};

use crate::output::{
    TextStyle, hotspots_json, neighbours_json, write_header, write_hotspots, write_leaks, write_neighbours,
    write_quality, write_sites,
};
use crate::profile::Profile;
use crate::report::{Detail, Side, SortBy, hotspots, neighbours};
use clap::{Args, ValueEnum};

use super::input::{InputArgs, value_index};
use super::output_args::parse_percent;
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
    /// Sort by the function's own cost, or with everything it calls [default: self; allocations and leaks by site]
    #[arg(long, value_enum, value_name = "COLUMN")]
    sort: Option<SortArg>,
    /// Show who calls this function (a part of its name is enough)
    #[arg(long, value_name = "FUNCTION")]
    callers: Option<String>,
    /// Show what this function calls
    #[arg(long, value_name = "FUNCTION")]
    callees: Option<String>,
    /// Steps to follow with --callers and --callees
    #[arg(long, value_name = "STEPS", default_value_t = 8, value_parser = clap::value_parser!(u8).range(1..=64))]
    depth: u8,
    /// Split functions by source line
    #[arg(long)]
    lines: bool,
    /// Rows to show
    #[arg(short = 'T', long, value_name = "ROWS", default_value_t = 20)]
    top: usize,
    /// Leave out what is below this share of the whole
    #[arg(long, value_name = "PERCENT", value_parser = parse_percent)]
    min_percent: Option<f64>,
    /// Which of the profile's values to show, such as samples or cpu [default: the last one]
    #[arg(long, value_name = "KIND")]
    value: Option<String>,
    /// Print JSON instead of tables
    #[arg(long)]
    json: bool,
    /// When to use colours
    #[arg(long, value_enum, default_value_t, value_name = "WHEN", alias = "colour")]
    color: Colour,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum SortArg {
    /// Cost of the function's own code
    #[value(name = "self")]
    Own,
    /// Cost with everything it calls
    Total,
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
    let value = value_index(profile, args.value.as_deref())?.unwrap_or(profile.default_value());
    let style = stdout_style(args.color);
    let questions = [(Side::Callers, args.callers.as_deref()), (Side::Callees, args.callees.as_deref())];
    let asked = questions.into_iter().filter_map(|(side, name)| name.map(|name| (side, name)));
    let mut answers = Vec::new();
    for (side, name) in asked {
        answers.push(neighbours(profile, value, name, side, usize::from(args.depth))?);
    }
    if !args.json {
        write_header(out, profile, style)?;
    }
    for found in &answers {
        if args.json {
            writeln!(out, "{}", neighbours_json(profile, found, value))?;
        } else {
            write_neighbours(out, profile, found, value, args.min_percent.unwrap_or(0.5), style)?;
        }
    }
    if answers.is_empty() {
        let detail = if args.lines { Detail::Line } else { Detail::Function };
        let sort = match args.sort {
            Some(SortArg::Own) | None => SortBy::Own,
            Some(SortArg::Total) => SortBy::Total,
        };
        let table = hotspots(profile, value, detail, sort);
        let by_function =
            args.lines || args.sort.is_some() || args.value.is_some() || args.min_percent.is_some();
        if args.json {
            writeln!(out, "{}", hotspots_json(profile, &table, args.top))?;
        } else if by_function || !write_memory(out, profile, args.top, style)? {
            write_hotspots(out, &table, args.top, args.min_percent.unwrap_or(0.0), style)?;
        }
    }
    if !args.json {
        write_quality(out, profile, style)?;
    }
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
