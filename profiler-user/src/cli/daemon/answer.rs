//! `perf-agent daemon answer`: what the daemon starts for each answer that comes from the store.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;

use crate::serve;

/// What is asked.
#[derive(Debug, Args)]
pub(in crate::cli) struct AnswerArgs {
    /// Directory of the store
    #[arg(long, value_name = "DIR")]
    store: PathBuf,
    /// The path of the request
    #[arg(long, value_name = "PATH")]
    path: String,
    /// Its parameters
    #[arg(long, value_name = "QUERY", allow_hyphen_values = true)]
    query: String,
}

/// Runs `daemon answer`.
///
/// # Errors
///
/// Nobody reads.
pub(super) fn answer(args: &AnswerArgs) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    serve::answer(&args.store, &args.path, &args.query, &mut out).context("cannot write the answer")
}
