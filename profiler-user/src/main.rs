//! The `perf-agent` binary.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use profiler_user::cli::doctor::{self, DoctorArgs};

/// A system profiler for Linux.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Check whether this host, this user and a target can be profiled, and print what to fix
    #[command(visible_alias = "check")]
    Doctor(DoctorArgs),
}

fn main() -> anyhow::Result<ExitCode> {
    match Cli::parse().verb {
        Verb::Doctor(args) => doctor::run(&args),
    }
}
