//! `perf-agent daemon`: continuous recording in the foreground, what runs, and its configuration.

mod alerts;
mod answer;
mod config;
mod control;
mod install;
mod notify;
mod run;
mod snapshot;
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
    /// Write what it recorded in the last minutes, up to now, as a picture or any other format
    Snapshot(Box<snapshot::SnapshotArgs>),
    /// Let it read its configuration again, and say what came of it
    Reload(control::WhichArgs),
    /// End it, and wait until its last window is stored
    Stop(control::WhichArgs),
    /// Install it as a service of systemd, with a configuration where there is none
    Install(install::InstallArgs),
    /// Remove the service; what was recorded stays
    Uninstall(install::UninstallArgs),
    /// Make one answer of the API; for the daemon itself
    #[command(hide = true)]
    Answer(answer::AnswerArgs),
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
        DaemonVerb::Snapshot(args) => snapshot::snapshot(&args),
        DaemonVerb::Reload(args) => control::reload(&args),
        DaemonVerb::Stop(args) => control::stop(&args),
        DaemonVerb::Install(args) => install::install(&args),
        DaemonVerb::Uninstall(args) => install::uninstall(&args),
        DaemonVerb::Answer(args) => answer::answer(&args).map(|()| Exit::Ok.into()),
        DaemonVerb::Config(verb) => config::config(&verb).map(|()| Exit::Ok.into()),
        DaemonVerb::Alerts(verb) => alerts::alerts(&verb),
    }
}
