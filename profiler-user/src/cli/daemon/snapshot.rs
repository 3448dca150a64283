//! `perf-agent daemon snapshot`: the last minutes up to this moment, as a file.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use rustix::process::Signal;

use super::control::WhichArgs;
use crate::cli::exit::Exit;
use crate::cli::flamegraph::{DrawingArgs, draw};
use crate::quantity::{Length, length};
use crate::question::PartArgs;
use crate::session::clock::unix_ns;

/// What of it, and where to.
#[derive(Debug, Args)]
pub(in crate::cli) struct SnapshotArgs {
    #[command(flatten)]
    which: WhichArgs,
    /// How much: 30s, 5m, 1h
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = last)]
    last: Duration,
    #[command(flatten)]
    part: PartArgs,
    #[command(flatten)]
    drawing: DrawingArgs,
}

fn last(text: &str) -> Result<Duration, String> {
    match length(text)? {
        Length::For(duration) => Ok(duration),
        Length::Unlimited => {
            Err("all of it is what query reads: perf-agent query flamegraph --from -7d".to_owned())
        }
    }
}

/// Runs `daemon snapshot`: the daemon closes its window first, so that what is drawn ends now.
///
/// # Errors
///
/// No daemon runs, nothing was recorded, the output cannot be written.
pub(super) fn snapshot(args: &SnapshotArgs) -> anyhow::Result<ExitCode> {
    let running = args.which.find()?;
    let now = unix_ns();
    running.signal(Signal::USR1)?;
    // A daemon that does not close its window has what it had before.
    let _closed_or_not = running.wait(|status| status.last_unix_ns >= now)?;
    let range = now.saturating_sub(args.last.as_nanos() as u64)..unix_ns();
    let profile = args.part.select(&running.status.store, &range)?;
    draw(&args.drawing, &profile, || Ok(PathBuf::from("perf-agent-%h-%m-%t.svg")))?;
    Ok(Exit::Ok.into())
}
