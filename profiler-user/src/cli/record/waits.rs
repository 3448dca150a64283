//! `perf-agent off-cpu` and `perf-agent wall`: where threads wait.

use std::process::ExitCode;

use clap::{Args, ValueEnum};
use profiler_common::off_cpu::{STATE_RUNNABLE, STATE_SLEEPING, STATE_STOPPED, STATE_UNINTERRUPTIBLE};

use super::{IdleThreads, NO_RATE, RateArgs, ResultArgs, StackArgs, USUAL_LENGTH, drive, plan};
use crate::bpf::{Clock, WaitTables};
use crate::cli::exit::CliError;
use crate::cli::quantity::{Length, length, share, span};
use crate::cli::target::{CommandArgs, ScopeArgs};
use crate::profile_type::{ProfileKind, WaitOptions};

/// `perf-agent off-cpu`: where threads wait.
#[derive(Debug, Args)]
pub(in crate::cli) struct OffCpuArgs {
    #[command(flatten)]
    scope: ScopeArgs,
    #[command(flatten)]
    length: LengthArgs,
    #[command(flatten)]
    waits: WaitArgs,
    #[command(flatten)]
    chosen: ChosenArgs,
    #[command(flatten)]
    stacks: StackArgs,
    #[command(flatten)]
    results: ResultArgs,
    #[command(flatten)]
    command: CommandArgs,
}

/// `perf-agent wall`: running and waiting in one picture.
#[derive(Debug, Args)]
pub(in crate::cli) struct WallArgs {
    #[command(flatten)]
    scope: ScopeArgs,
    #[command(flatten)]
    length: LengthArgs,
    #[command(flatten)]
    rate: RateArgs,
    #[command(flatten)]
    waits: WaitArgs,
    /// Fold threads that spend at least 95 % of their time waiting in one place into one box per place
    #[arg(long, help_heading = "Waits")]
    fold_idle: bool,
    #[command(flatten)]
    stacks: StackArgs,
    #[command(flatten)]
    results: ResultArgs,
    #[command(flatten)]
    command: CommandArgs,
}

/// How long.
#[derive(Debug, Args)]
pub(super) struct LengthArgs {
    /// How long, like -d; behind a TARGET
    #[arg(value_name = "DURATION", value_parser = length, allow_hyphen_values = true)]
    trailing: Option<Length>,
    /// How long: 30 (seconds), 500ms, 5m, 1h30m; 0 or inf until Ctrl-C [default: 30 s; a command until it ends]
    #[arg(short, long, value_name = "TIME", value_parser = length, allow_hyphen_values = true, conflicts_with = "trailing")]
    duration: Option<Length>,
}

impl LengthArgs {
    pub(super) fn of(&self, command: &CommandArgs) -> Length {
        let usual = if command.command.is_empty() { USUAL_LENGTH } else { Length::Unlimited };
        self.duration.or(self.trailing).unwrap_or(usual)
    }
}

/// What waits may cost, and who ends them.
#[derive(Debug, Args)]
#[command(next_help_heading = "Waits")]
struct WaitArgs {
    /// Record who woke the thread: its stack on top of the waiting one, turned around
    #[arg(long)]
    wakers: bool,
    /// What the programs may cost, as a share of the machine's CPU time; above it stacks of short waits are left out at random
    #[arg(long, value_name = "PERCENT", default_value = "1%", value_parser = share)]
    max_overhead: f64,
    /// Take the stack of every wait, whatever it costs
    #[arg(long, conflicts_with = "max_overhead")]
    exact: bool,
    /// Entries of each of the kernel's tables, to see what happens when they are full
    #[arg(long, value_name = "NUMBER", hide = true)]
    table_entries: Option<u32>,
}

/// Which waits.
#[derive(Debug, Args)]
#[command(next_help_heading = "Waits")]
struct ChosenArgs {
    /// Leave out waits shorter than this: 1us, 5ms
    #[arg(short = 'm', long, value_name = "TIME", value_parser = span)]
    min: Option<u64>,
    /// Leave out waits longer than this
    #[arg(short = 'M', long, value_name = "TIME", value_parser = span)]
    max: Option<u64>,
    /// Only waits that began in these states
    #[arg(long, value_enum, value_name = "STATE,…", value_delimiter = ',')]
    state: Vec<State>,
}

/// The state in which a thread left its CPU, by the letters of ps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "verbatim")]
enum State {
    /// Runnable: it was preempted
    #[value(alias = "r")]
    R,
    /// Sleeping: for a lock, a timer, a socket, a pipe
    #[value(alias = "s")]
    S,
    /// Uninterruptible: mostly for a disk or a page
    #[value(alias = "d")]
    D,
    /// Stopped by a signal or a debugger
    #[value(alias = "t")]
    T,
}

impl State {
    fn bit(self) -> u32 {
        1 << match self {
            Self::R => STATE_RUNNABLE,
            Self::S => STATE_SLEEPING,
            Self::D => STATE_UNINTERRUPTIBLE,
            Self::T => STATE_STOPPED,
        }
    }
}

impl WaitArgs {
    fn options(&self) -> WaitOptions {
        let tables = self.table_entries.map(|entries| WaitTables { threads: entries, sums: entries });
        WaitOptions {
            tables: tables.unwrap_or_default(),
            wakers: self.wakers,
            exact: self.exact,
            max_overhead: self.max_overhead,
            ..WaitOptions::default()
        }
    }

    fn notes(&self) -> Vec<String> {
        let notes = [self.wakers.then_some("with wakers"), self.exact.then_some("exact")];
        notes.into_iter().flatten().map(str::to_owned).collect()
    }
}

impl ChosenArgs {
    fn apply(&self, options: &mut WaitOptions) -> Result<Vec<String>, CliError> {
        let mut notes = Vec::new();
        if let Some(shortest) = self.min {
            options.shortest_ns = shortest;
            notes.push(format!("waits of {} and more", crate::output::duration(shortest)));
        }
        if let Some(longest) = self.max {
            options.longest_ns = longest;
            notes.push(format!("waits of {} and less", crate::output::duration(longest)));
        }
        if options.shortest_ns > options.longest_ns {
            return Err(CliError::usage("no wait is longer than -m and shorter than -M".to_owned())
                .hint("-m is the shortest wait to keep, -M the longest"));
        }
        if !self.state.is_empty() {
            options.states = self.state.iter().fold(0, |bits, state| bits | state.bit());
            let names: Vec<String> = self.state.iter().map(|state| format!("{state:?}")).collect();
            notes.push(format!("state {} only", names.join(", ")));
        }
        Ok(notes)
    }
}

/// Runs `off-cpu`.
///
/// # Errors
///
/// Bad arguments, missing privileges, failed outputs.
pub(in crate::cli) fn off_cpu(args: OffCpuArgs) -> anyhow::Result<ExitCode> {
    let found = args.scope.find(&args.command)?;
    let length = args.length.of(&args.command);
    let mut options = args.waits.options();
    let mut notes = args.chosen.apply(&mut options)?;
    notes.extend(args.waits.notes());
    let mut plan = plan(found, ProfileKind::OffCpu(options), &args.stacks, NO_RATE, length, args.command);
    plan.scope_notes.extend(notes);
    drive::run(plan, args.results)
}

/// Runs `wall`.
///
/// # Errors
///
/// Bad arguments, missing privileges, failed outputs.
pub(in crate::cli) fn wall(args: WallArgs) -> anyhow::Result<ExitCode> {
    let found = args.scope.find(&args.command)?;
    let length = args.length.of(&args.command);
    let rate = args.rate.at(Clock::CpuClock, (!args.waits.exact).then_some(args.waits.max_overhead))?;
    let kind = ProfileKind::Wall(WaitOptions { runs: true, ..args.waits.options() });
    let mut plan = plan(found, kind, &args.stacks, rate, length, args.command);
    plan.scope_notes.extend(args.waits.notes());
    if args.fold_idle {
        plan.idle_threads = IdleThreads::Fold;
    }
    drive::run(plan, args.results)
}
