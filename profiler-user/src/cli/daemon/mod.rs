//! `perf-agent daemon`: continuous recording in the foreground, what runs, and its configuration.

mod alerts;
mod config;
mod notify;
mod run;
mod status;

use std::process::ExitCode;

use clap::Subcommand;

use super::exit::Exit;
pub(super) use run::{RunArgs, run};

/// What to do.
#[derive(Debug, Subcommand)]
pub(super) enum DaemonVerb {
    /// Record until told to end: SIGTERM ends it, SIGHUP reads the configuration again
    Run(RunArgs),
    /// Say whether one runs, what it has written, and what it costs
    Status(status::StatusArgs),
    /// Print or check a configuration
    #[command(subcommand)]
    Config(config::ConfigVerb),
    /// Test the rules of alerts and those who are told
    #[command(subcommand)]
    Alerts(alerts::AlertsVerb),
}

/// Runs `daemon`.
///
/// # Errors
///
/// As each of them.
pub(super) fn main(verb: DaemonVerb) -> anyhow::Result<ExitCode> {
    match verb {
        DaemonVerb::Run(args) => run(&args),
        DaemonVerb::Status(args) => status::status(&args),
        DaemonVerb::Config(verb) => config::config(&verb).map(|()| Exit::Ok.into()),
        DaemonVerb::Alerts(verb) => alerts::alerts(&verb),
    }
}
