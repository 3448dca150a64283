//! `perf-agent memory`: where resident memory grows.

use std::process::ExitCode;

use clap::{Args, ValueEnum};

use super::waits::LengthArgs;
use super::{NO_RATE, ResultArgs, StackArgs, drive, plan};
use crate::cli::quantity::share;
use crate::cli::target::{CommandArgs, ScopeArgs};
use crate::profile_type::{MappingsWanted, MemoryOptions, ProfileKind};
use crate::session::Scope;

/// `perf-agent memory`: where resident memory grows.
#[derive(Debug, Args)]
pub(in crate::cli) struct MemoryArgs {
    #[command(flatten)]
    scope: ScopeArgs,
    #[command(flatten)]
    length: LengthArgs,
    #[command(flatten)]
    growth: GrowthArgs,
    #[command(flatten)]
    stacks: StackArgs,
    #[command(flatten)]
    results: ResultArgs,
    #[command(flatten)]
    command: CommandArgs,
}

/// What to take of page faults and calls.
#[derive(Debug, Args)]
#[command(next_help_heading = "Memory")]
struct GrowthArgs {
    /// Take one page fault in this many [default: as the cost allows, 7 to 4093]
    #[arg(short = 'c', long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    count: Option<u64>,
    /// Record calls of mmap, munmap, mremap and brk; auto: for named targets, not for the whole host
    #[arg(long, value_enum, value_name = "WHEN", default_value = "auto")]
    mappings: Mappings,
    /// What programs and agent may cost, as a share of the machine's CPU time; above it fewer events are taken
    #[arg(long, value_name = "PERCENT", default_value = "1%", value_parser = share)]
    max_overhead: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mappings {
    Auto,
    On,
    Off,
}

impl GrowthArgs {
    fn options(&self, scope: &Scope) -> MemoryOptions {
        let wanted = match self.mappings {
            Mappings::Auto => MappingsWanted::Auto,
            Mappings::On => MappingsWanted::On,
            Mappings::Off => MappingsWanted::Off,
        };
        MemoryOptions { period: self.count, calls: wanted.for_scope(scope), max_overhead: self.max_overhead }
    }
}

/// Runs `memory`.
///
/// # Errors
///
/// Bad arguments, missing privileges, failed outputs.
pub(in crate::cli) fn memory(args: MemoryArgs) -> anyhow::Result<ExitCode> {
    let found = args.scope.find(&args.command)?;
    let length = args.length.of(&args.command);
    let kind = ProfileKind::Memory(args.growth.options(&found.scope));
    let plan = plan(found, kind, &args.stacks, NO_RATE, length, args.command);
    drive::run(plan, args.results)
}
