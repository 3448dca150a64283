//! `perf-agent leaks`: what is allocated and not freed, and whether it grows.

use std::process::ExitCode;

use clap::Args;
use profiler_common::limits::MAX_BLOCKS;

use super::waits::LengthArgs;
use super::{NO_RATE, ResultArgs, StackArgs, drive, plan};
use crate::cli::exit::CliError;
use crate::cli::quantity::{Length, amount, length, share};
use crate::cli::target::{CommandArgs, ScopeArgs};
use crate::profile_type::{HeapOptions, LeakOptions, ProfileKind};
use crate::session::Scope;

/// `perf-agent leaks`: what is allocated and not freed.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  perf-agent leaks redis-server 1m         what it holds on to, and what of that grows
  perf-agent leaks 4242 -i 10 -d inf       a fresh table every ten seconds until Ctrl-C
  perf-agent leaks --exact -- ./a.out      every block of a command, whatever that costs it
  perf-agent leaks 4242 -o live.svg        a flamegraph of live bytes
  perf-agent report leaks.pb.gz            the table of a recording again; .folded and .svg carry live bytes alone

Verdicts: leaking (grows all the time, and the first blocks are still there), growing? (grows, but that may be
chance, or the blocks do get freed later), filled (grew and stopped), swings, steady, unclear (too little seen).
Only blocks that are allocated while it watches are known: what replaces older ones grows too, until it has watched
for as long as blocks live there.")]
pub(in crate::cli) struct LeaksArgs {
    #[command(flatten)]
    scope: ScopeArgs,
    #[command(flatten)]
    length: LengthArgs,
    #[command(flatten)]
    leaks: LeakArgs,
    #[command(flatten)]
    stacks: StackArgs,
    #[command(flatten)]
    results: ResultArgs,
    #[command(flatten)]
    command: CommandArgs,
}

/// Which blocks, and at what cost.
#[derive(Debug, Args)]
#[command(next_help_heading = "Leaks")]
struct LeakArgs {
    /// Leave out blocks younger than this: 5s, 500ms, 0s [default: 5s, or a quarter of a shorter recording]
    #[arg(long, value_name = "TIME", value_parser = age)]
    older: Option<u64>,
    /// Leave out sites with fewer live bytes: 1M, 64K
    #[arg(short = 'z', long, value_name = "SIZE", default_value = "0", value_parser = amount)]
    min_bytes: u64,
    /// Print a fresh table this often: 5, 10s, 1m
    #[arg(short, long, value_name = "TIME", value_parser = length)]
    interval: Option<Length>,
    /// Mean bytes between two blocks that are followed: 16K, 1M; 1 follows all
    #[arg(long, value_name = "SIZE", default_value = "16K", value_parser = amount)]
    sample_bytes: u64,
    /// What the probes may cost, as a share of one CPU; above it blocks are watched in time slices only, and what becomes of them is estimated
    #[arg(long, value_name = "PERCENT", default_value = "1%", value_parser = share)]
    max_overhead: f64,
    /// Watch every call, whatever it costs the target
    #[arg(long, conflicts_with = "max_overhead")]
    exact: bool,
    /// Entries of the kernel's table of blocks, to see what happens when it is full
    #[arg(long, value_name = "NUMBER", hide = true, default_value_t = MAX_BLOCKS, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_BLOCKS)))]
    table_entries: u32,
}

/// Reads an age, nanoseconds: a duration, or nothing of one.
fn age(text: &str) -> Result<u64, String> {
    if matches!(text, "0" | "0s" | "0ms") {
        return Ok(0);
    }
    match length(text)? {
        Length::For(duration) => Ok(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)),
        Length::Unlimited => Err(format!("`{text}` would leave out every block")),
    }
}

/// Runs `leaks`.
///
/// # Errors
///
/// Bad arguments, missing privileges, failed outputs, or a target without an allocator.
pub(in crate::cli) fn leaks(args: LeaksArgs) -> anyhow::Result<ExitCode> {
    let found = args.scope.find(&args.command)?;
    if found.scope == Scope::Host {
        return Err(CliError::usage("leaks needs a target: probes go into its allocator")
            .hint("perf-agent leaks redis-server 1m; for the whole host: perf-agent memory")
            .into());
    }
    let length = args.length.of(&args.command);
    let options = HeapOptions {
        sample_bytes: args.leaks.sample_bytes.max(1),
        live: true,
        exact: args.leaks.exact,
        max_overhead: args.leaks.max_overhead,
        leaks: Some(LeakOptions { older_ns: args.leaks.older, min_bytes: args.leaks.min_bytes }),
        table_blocks: args.leaks.table_entries,
        windows: false,
    };
    let mut plan = plan(found, ProfileKind::Alloc(options), &args.stacks, NO_RATE, length, args.command);
    plan.interval = args.leaks.interval.and_then(|interval| match interval {
        Length::For(duration) => Some(duration),
        Length::Unlimited => None,
    });
    drive::run(plan, args.results)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_is_a_duration_or_none() {
        assert_eq!((age("0"), age("0s"), age("500ms")), (Ok(0), Ok(0), Ok(500_000_000)));
        assert_eq!(age("5"), Ok(5_000_000_000));
        assert!(age("inf").is_err() && age("soon").is_err());
    }
}
