//! `perf-agent debug store`: profiles that were recorded before, into a store: for tests of it, and to look at a fleet's files over time.

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::cli::exit::{CliError, Exit, with_causes};
use crate::import;
use crate::output::{bytes, thousands};
use crate::store::{Limits, Store};

/// Add a recorded profile to a store, as one window or as many
#[derive(Debug, Clone, Args)]
pub(super) struct StoreArgs {
    /// Profiles to add, in this order
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Directory of the store; made when it is not there
    #[arg(long, value_name = "DIR")]
    store: PathBuf,
    /// How often to add each, one behind the other in time
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    copies: u64,
    /// Move the first one to this time, Unix seconds [default: when it was recorded]
    #[arg(long, value_name = "SECONDS")]
    at: Option<u64>,
    /// How long each is, seconds [default: as recorded]
    #[arg(long, value_name = "SECONDS")]
    length: Option<u64>,
    /// Most bytes that the store may take
    #[arg(long, value_name = "BYTES", value_parser = crate::quantity::amount)]
    max_bytes: Option<u64>,
    /// Days after which windows are removed
    #[arg(long, value_name = "DAYS")]
    max_days: Option<u32>,
    /// Print a line for every window that is on disk
    #[arg(long)]
    progress: bool,
}

/// Runs the verb.
///
/// # Errors
/// A file that is no profile; a store that cannot be written.
#[expect(clippy::print_stderr, reason = "what was found in a store belongs on standard error")]
pub(super) fn run(args: &StoreArgs) -> anyhow::Result<()> {
    let profiles: Vec<_> = args.files.iter().map(|file| import::read_file(file)).collect::<Result<_, _>>()?;
    let mut limits = Limits::default();
    limits.max_bytes = args.max_bytes.unwrap_or(limits.max_bytes);
    limits.max_age = args.max_days.map_or(limits.max_age, |days| Duration::from_hours(24 * u64::from(days)));
    let failed = |error| CliError::new(Exit::Runtime, with_causes(&error));
    let (mut store, opened) = Store::open(&args.store, limits).map_err(failed)?;
    for aside in &opened.aside {
        eprintln!("warning: {}: {}; {} windows of it were kept", aside.name, aside.why, aside.kept_windows);
    }
    eprintln!(
        "{} windows found, {}, {} torn bytes",
        thousands(opened.windows),
        bytes(opened.bytes),
        opened.torn_bytes
    );
    let mut out = io::stdout().lock();
    let ns = |seconds: u64| seconds.saturating_mul(1_000_000_000);
    let mut at = args.at.map(ns);
    let mut added = 0_u64;
    for mut profile in profiles {
        profile.meta.duration_ns = args.length.map_or(profile.meta.duration_ns, ns);
        for _ in 0..args.copies {
            profile.meta.start_unix_ns = at.unwrap_or(profile.meta.start_unix_ns);
            store.append(&profile).map_err(failed)?;
            at = Some(profile.meta.start_unix_ns.saturating_add(profile.meta.duration_ns));
            added += 1;
            if args.progress {
                writeln!(out, "{added}")?;
            }
        }
    }
    let losses = store.losses();
    let dropped = |loss: &crate::store::Loss| format!("{} windows in {} files", loss.windows, loss.files);
    writeln!(
        out,
        "{added} windows added; the store has {} bytes; dropped by age: {}, by size: {}, because the disk was full: {}; {} merges failed",
        store.bytes(),
        dropped(&losses.by_age),
        dropped(&losses.by_size),
        dropped(&losses.disk_full),
        losses.failed_merges
    )?;
    Ok(())
}
