//! `perf-agent debug`: what the profiler itself works with, for bug reports and for work on it.

mod programs;
mod store;
mod unwind;

use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::exit::Exit;

/// Show what the profiler knows of a file or process, and of itself
#[derive(Debug, Clone, Args)]
pub(super) struct DebugArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Clone, Subcommand)]
enum What {
    /// How stacks are walked through a binary, or through the code of a process
    Unwind(unwind::UnwindArgs),
    /// What the BPF programs take of the kernel's limits: instructions verified, stack
    Programs(programs::ProgramsArgs),
    /// Put recorded profiles into a store
    Store(store::StoreArgs),
}

/// Runs the verb.
///
/// # Errors
/// When the target cannot be read, the programs cannot be loaded, or the result cannot be written.
pub(super) fn run(args: &DebugArgs) -> anyhow::Result<ExitCode> {
    match &args.what {
        What::Unwind(args) => unwind::run(args).map(|()| Exit::Ok.into()),
        What::Programs(args) => programs::run(args),
        What::Store(args) => store::run(args).map(|()| Exit::Ok.into()),
    }
}
