//! `perf-agent daemon status`.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use jiff::Timestamp;

use super::config::load;
use crate::cli::exit::Exit;
use crate::continuous::status::{Status, all, of_store};
use crate::output::{bytes, duration, percent, thousands};
use crate::session::clock::unix_ns;

/// Which one.
#[derive(Debug, Args)]
pub(in crate::cli) struct StatusArgs {
    /// The one with this configuration; all of this host without it
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// Runs `daemon status`. Exit code 1 when none runs.
///
/// # Errors
///
/// The configuration means nothing, or nobody reads.
pub(super) fn status(args: &StatusArgs) -> anyhow::Result<ExitCode> {
    let found = match &args.config {
        Some(file) => of_store(&load(Some(file))?.store.folder).into_iter().collect(),
        None => all(),
    };
    let mut out = std::io::stdout().lock();
    if args.json {
        let shown: Vec<_> = found
            .iter()
            .map(|status| serde_json::json!({ "running": status.is_running(), "status": status }))
            .collect();
        writeln!(out, "{}", serde_json::Value::Array(shown))?;
    } else if found.is_empty() {
        writeln!(out, "no daemon runs; sudo perf-agent daemon run starts one")?;
    } else {
        for status in &found {
            show(&mut out, status)?;
        }
    }
    Ok(if found.iter().any(Status::is_running) { Exit::Ok } else { Exit::Runtime }.into())
}

/// What the store let go before its time, and why.
pub(super) fn dropped(files: u64, disk_full: u64) -> String {
    let noun = if files == 1 { "file" } else { "files" };
    let why = match disk_full {
        0 => "the store had no room left ([store] max_size)".to_owned(),
        full if full == files => "the disk was full".to_owned(),
        full => format!("the disk was full ({}), or the store", thousands(full)),
    };
    format!("{} {noun} of the oldest windows before their time: {why}", thousands(files))
}

fn show(out: &mut impl Write, status: &Status) -> std::io::Result<()> {
    let ago = |unix_ns: u64| duration(self::unix_ns().saturating_sub(unix_ns));
    let at = |unix_ns: u64| {
        let seconds = Timestamp::from_second((unix_ns / 1_000_000_000) as i64);
        seconds.map_or_else(|_| "?".to_owned(), |time| time.to_string())
    };
    let state = if status.is_running() { "running" } else { "ended without a word (killed?)" };
    writeln!(
        out,
        "{state}: process {}, since {} ({})",
        status.pid,
        at(status.started_unix_ns),
        ago(status.started_unix_ns)
    )?;
    writeln!(out, "  records   cpu at {} Hz, windows of {}", status.rate_hz, duration(status.window_ns))?;
    let last = match status.last_unix_ns {
        0 => "none yet".to_owned(),
        last => format!("the last ended {} ago", ago(last)),
    };
    writeln!(
        out,
        "  windows   {}, {last}; {} samples",
        thousands(status.windows),
        thousands(status.samples)
    )?;
    writeln!(
        out,
        "  cost      {} of the machine, {} in the last window; {}",
        percent(status.cost_percent),
        percent(status.last_cost_percent),
        bytes(status.rss_bytes)
    )?;
    writeln!(out, "  store     {}: {}", status.store.display(), bytes(status.store_bytes))?;
    if status.not_stored_windows > 0 {
        let why = status.error.as_deref().unwrap_or("no reason known");
        writeln!(
            out,
            "  not kept  {} windows with {} samples: {why}",
            status.not_stored_windows,
            thousands(status.not_stored_samples)
        )?;
    }
    if status.dropped_files > 0 {
        writeln!(out, "  dropped   {}", dropped(status.dropped_files, status.disk_full_files))?;
    }
    if status.failed_merges > 0 {
        writeln!(
            out,
            "  merging   failed {} times: windows stay as long as they were, and take more room",
            thousands(status.failed_merges)
        )?;
    }
    if status.lost.is_empty() {
        writeln!(out, "  lost      nothing")?;
    }
    for lost in &status.lost {
        writeln!(out, "  lost      {} {}", thousands(lost.count), lost.what)?;
    }
    if let Some(allocations) = &status.allocations {
        for line in allocations.lines() {
            writeln!(out, "  alloc     {line}")?;
        }
    }
    for counter in status.feeds.iter().filter(|counter| counter.count > 0) {
        writeln!(out, "  feeds     {} {}", thousands(counter.count), counter.what)?;
    }
    Ok(())
}
