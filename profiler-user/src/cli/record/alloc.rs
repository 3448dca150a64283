//! `perf-agent alloc`: who allocates memory.

use std::process::ExitCode;

use clap::Args;
use profiler_common::limits::MAX_BLOCKS;

use super::waits::LengthArgs;
use super::{NO_RATE, ResultArgs, StackArgs, drive, plan};
use crate::cli::exit::CliError;
use crate::cli::quantity::{amount, share};
use crate::cli::target::{CommandArgs, ScopeArgs};
use crate::profile_type::{HeapOptions, ProfileKind};
use crate::session::Scope;

/// `perf-agent alloc`: who allocates memory.
#[derive(Debug, Args)]
pub(in crate::cli) struct AllocArgs {
    #[command(flatten)]
    scope: ScopeArgs,
    #[command(flatten)]
    length: LengthArgs,
    #[command(flatten)]
    heap: HeapArgs,
    #[command(flatten)]
    stacks: StackArgs,
    #[command(flatten)]
    results: ResultArgs,
    #[command(flatten)]
    command: CommandArgs,
}

/// What to take of an allocator's calls.
#[derive(Debug, Args)]
#[command(next_help_heading = "Allocations")]
pub(super) struct HeapArgs {
    /// Mean bytes between two calls whose stack is taken: 512K, 64K; 1 takes all. Totals count every call in any case
    #[arg(long, value_name = "SIZE", default_value = "512K", value_parser = amount)]
    sample_bytes: u64,
    /// Follow blocks until they are freed: what is still in use, and what was freed at once
    #[arg(long)]
    live: bool,
    /// What the probes may cost, as a share of one CPU; above it calls are counted in time slices only. Not with --live
    #[arg(long, value_name = "PERCENT", default_value = "1%", value_parser = share)]
    max_overhead: f64,
    /// Count every call, whatever it costs the target; in Go programs too, which choose blocks themselves otherwise
    #[arg(long, conflicts_with = "max_overhead")]
    exact: bool,
    /// Entries of the kernel's table of blocks, to see what happens when it is full
    #[arg(long, value_name = "NUMBER", hide = true, default_value_t = MAX_BLOCKS, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_BLOCKS)))]
    table_entries: u32,
}

/// Runs `alloc`.
///
/// # Errors
///
/// Bad arguments, missing privileges, failed outputs, or a target without an allocator.
pub(in crate::cli) fn alloc(args: AllocArgs) -> anyhow::Result<ExitCode> {
    let found = args.scope.find(&args.command)?;
    if found.scope == Scope::Host {
        return Err(CliError::usage("alloc needs a target: probes go into its allocator")
            .hint("perf-agent alloc redis-server 10s; for the whole host: perf-agent memory")
            .into());
    }
    let length = args.length.of(&args.command);
    let options = HeapOptions {
        sample_bytes: args.heap.sample_bytes.max(1),
        live: args.heap.live,
        exact: args.heap.exact,
        max_overhead: args.heap.max_overhead,
        leaks: None,
        table_blocks: args.heap.table_entries,
        windows: false,
    };
    let plan = plan(found, ProfileKind::Alloc(options), &args.stacks, NO_RATE, length, args.command);
    drive::run(plan, args.results)
}
