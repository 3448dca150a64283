//! The verbs that record stacks: one recording, from arguments to files. `attach` and `record` are here, those of waits in [`waits`].

mod alloc;
mod drive;
mod leaks;
mod memory;
mod status;
mod waits;
mod write;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};

use super::exit::{CliError, Exit};
use super::output_args::OutputArgs;
use super::quantity::{Length, length, number_list, share, size};
use super::target::{self, CommandArgs, FollowArgs, Found, ScopeArgs};
use super::terminal::Colour;
use crate::aggregate::StackScope;
use crate::bpf::{Clock, PerfEvent};
use crate::profile_type::{ProfileKind, Rate};
use crate::question::PictureArgs;
use crate::session::{Idle, SessionOptions};
pub(super) use alloc::{AllocArgs, alloc};
pub(super) use leaks::{LeaksArgs, leaks};
pub(super) use memory::{MemoryArgs, memory};
pub(super) use waits::{OffCpuArgs, WallArgs, off_cpu, wall};

/// Highest rate that the sampler is asked for when the kernel does not say its own limit.
const FALLBACK_MAX_RATE_HZ: u64 = 100_000;

/// `perf-agent attach`: profile something that runs.
#[derive(Debug, Args)]
pub(super) struct AttachArgs {
    /// What to profile: a PID, a list of PIDs, a process name, /REGEX/, cgroup:PATH, unit:NAME or container:ID or NAME
    #[arg(value_name = "TARGET")]
    target: String,
    /// How long, like -d
    #[arg(value_name = "DURATION", value_parser = length, allow_hyphen_values = true)]
    trailing: Option<Length>,
    /// How long: 30 (seconds), 500ms, 5m, 1h30m; 0 or inf until Ctrl-C
    #[arg(short, long, value_name = "TIME", value_parser = length, allow_hyphen_values = true, conflicts_with = "trailing")]
    duration: Option<Length>,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    stacks: StackArgs,
    #[command(flatten)]
    results: ResultArgs,
}

/// `perf-agent record`: profile the whole host, processes, threads, a control group or a command.
#[derive(Debug, Args)]
pub(super) struct RecordArgs {
    #[command(flatten)]
    scope: ScopeArgs,
    /// How long: 30 (seconds), 500ms, 5m, 1h30m; 0 or inf until Ctrl-C
    #[arg(short, long, value_name = "TIME", value_parser = length, allow_hyphen_values = true)]
    duration: Option<Length>,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    stacks: StackArgs,
    #[command(flatten)]
    results: ResultArgs,
    #[command(flatten)]
    command: CommandArgs,
}

/// What makes a CPU take a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Event {
    /// A timer on every CPU; works everywhere
    #[value(alias = "cpu")]
    CpuClock,
    /// The hardware's cycle counter, where there is one
    Cycles,
}

/// How to sample CPUs: the same for all ways to name a target.
#[derive(Debug, Args)]
#[command(next_help_heading = "Sampling")]
struct SamplingArgs {
    #[command(flatten)]
    rate: RateArgs,
    /// What makes a CPU take a sample
    #[arg(short, long, value_enum, default_value = "cpu-clock")]
    event: Event,
    /// Only these CPUs: 0-3,8
    #[arg(short = 'C', long, value_name = "LIST")]
    cpu: Option<String>,
    /// What the recording may cost, as a share of the machine's CPU time; above it CPUs are sampled less often, and samples weigh more; 100% for no limit
    #[arg(long, value_name = "PERCENT", default_value = "1%", value_parser = share)]
    max_overhead: f64,
    /// Sample idle CPUs too, so that the profile adds up to all CPU time
    #[arg(short = 'I', long)]
    include_idle: bool,
}

/// How often to sample CPUs.
#[derive(Debug, Args)]
struct RateArgs {
    /// Samples per second and CPU
    #[arg(
        short = 'F',
        long = "freq",
        value_name = "HZ",
        default_value_t = 99,
        alias = "rate",
        allow_hyphen_values = true
    )]
    frequency: i64,
}

impl RateArgs {
    /// The rate, if the kernel allows it. All of the machine's time is no limit, whatever the meter makes of what it sees.
    fn at(&self, clock: Clock, max_overhead: Option<f64>) -> Result<Rate, CliError> {
        let max_overhead = max_overhead.filter(|share| *share < 1.0);
        Ok(Rate { clock, frequency_hz: frequency(self.frequency)?, max_overhead })
    }
}

/// For recordings that do not sample CPUs.
const NO_RATE: Rate = Rate { clock: Clock::CpuClock, frequency_hz: 99, max_overhead: None };

/// Which stacks to keep, and of whom.
#[derive(Debug, Args)]
#[command(next_help_heading = "Stacks")]
struct StackArgs {
    /// Kernel stacks only (the meaning that bcc gives -K)
    #[arg(short = 'K', long, conflicts_with = "user_only", alias = "all-kernel")]
    kernel_only: bool,
    /// User stacks only (the meaning that bcc gives -U)
    #[arg(short = 'U', long, alias = "all-user")]
    user_only: bool,
    #[command(flatten)]
    follow: FollowArgs,
    /// Memory for unwind tables; the binaries sampled longest ago give way when it is full: 16M, 512K
    #[arg(long, value_name = "SIZE", default_value = "16M", value_parser = size)]
    max_memory: u64,
    /// Write every sample's registers, stack and frames to this file, as JSON lines
    #[arg(long, value_name = "FILE", hide = true)]
    dump_stacks: Option<PathBuf>,
}

/// What becomes of a recording.
#[derive(Debug, Clone, Args)]
struct ResultArgs {
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    picture: PictureArgs,
    /// Rows of the table
    #[arg(short = 'T', long, value_name = "ROWS", default_value_t = 10, help_heading = "Table")]
    top: usize,
    /// When to use colours
    #[arg(long, value_enum, default_value_t, value_name = "WHEN", alias = "colour", help_heading = "Table")]
    color: Colour,
    /// Functions that were inlined get no frames of their own
    #[arg(long, help_heading = "Output")]
    no_inline: bool,
    /// Exit with code 4 when the data is not good enough to rely on
    #[arg(long, help_heading = "Output")]
    strict: bool,
    /// Say nothing about progress
    #[arg(short, long, help_heading = "Output")]
    quiet: bool,
}

/// A recording as the command line describes it.
struct Plan {
    session: SessionOptions,
    length: Length,
    /// For people: `pid 4242 (nginx)`.
    target: String,
    /// For file names: `nginx-4242`.
    slug: String,
    pid: Option<u32>,
    comm: Option<String>,
    command: CommandArgs,
    scope_notes: Vec<String>,
    /// Time between two tables while it goes on; none for one at the end.
    interval: Option<std::time::Duration>,
    /// What is done with threads that only wait.
    idle_threads: IdleThreads,
}

/// What a picture of wall time shows of threads that only wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum IdleThreads {
    /// Where they wait.
    Show,
    /// One box for all that wait in the same function.
    Fold,
}

/// How long a recording of something that goes on takes when nobody says.
const USUAL_LENGTH: Length = Length::For(std::time::Duration::from_secs(30));

/// Runs `attach`.
///
/// # Errors
///
/// Bad arguments, missing privileges, failed outputs.
pub(super) fn attach(args: AttachArgs) -> anyhow::Result<ExitCode> {
    let found = target::from_target(&args.target)?;
    let length = args.duration.or(args.trailing).unwrap_or(USUAL_LENGTH);
    let plan = sampling_plan(found, &args.sampling, &args.stacks, length, CommandArgs::default())?;
    drive::run(plan, args.results)
}

/// Runs `record`.
///
/// # Errors
///
/// Bad arguments, missing privileges, failed outputs.
pub(super) fn record(args: RecordArgs) -> anyhow::Result<ExitCode> {
    let found = args.scope.find(&args.command)?;
    let length = args.duration.unwrap_or(Length::Unlimited);
    let plan = sampling_plan(found, &args.sampling, &args.stacks, length, args.command)?;
    drive::run(plan, args.results)
}

fn sampling_plan(
    found: Found,
    sampling: &SamplingArgs,
    stacks: &StackArgs,
    length: Length,
    command: CommandArgs,
) -> anyhow::Result<Plan> {
    let clock = match sampling.event {
        Event::CpuClock => Clock::CpuClock,
        Event::Cycles => Clock::Cycles,
    };
    if clock == Clock::Cycles && !PerfEvent::cycles_available(0) {
        let error = CliError::new(
            Exit::Permission,
            "this machine has no hardware cycle counter (PERF_COUNT_HW_CPU_CYCLES)",
        );
        return Err(error
            .hint("virtual machines rarely have one; leave --event away to sample by cpu-clock")
            .into());
    }
    let rate = sampling.rate.at(clock, Some(sampling.max_overhead))?;
    let mut plan = plan(found, ProfileKind::OnCpu, stacks, rate, length, command);
    plan.session.cpus = sampling.cpu.as_deref().map(number_list).transpose().map_err(CliError::usage)?;
    if let Some(list) = &sampling.cpu {
        plan.scope_notes.push(format!("CPUs {list} only"));
    }
    if sampling.include_idle {
        plan.session.idle = Idle::Include;
        plan.scope_notes.push("idle included".to_owned());
    }
    Ok(plan)
}

/// A recording of all CPUs by the clock.
fn plan(
    found: Found,
    kind: ProfileKind,
    stacks: &StackArgs,
    rate: Rate,
    length: Length,
    command: CommandArgs,
) -> Plan {
    let (kept, note) = match (stacks.kernel_only, stacks.user_only) {
        (true, _) => (StackScope::KernelOnly, Some("kernel stacks only")),
        (_, true) => (StackScope::UserOnly, Some("user stacks only")),
        _ => (StackScope::Both, None),
    };
    let session = SessionOptions {
        scope: found.scope,
        follow_forks: stacks.follow.follow_forks(),
        cpus: None,
        kind,
        beside: Vec::new(),
        rate,
        idle: Idle::Exclude,
        stacks: kept,
        max_table_bytes: stacks.max_memory,
        dump: stacks.dump_stacks.clone(),
    };
    Plan {
        session,
        length,
        target: found.title,
        slug: found.slug,
        pid: found.pid,
        comm: found.comm,
        command,
        scope_notes: note.map(str::to_owned).into_iter().collect(),
        interval: None,
        idle_threads: IdleThreads::Show,
    }
}

fn frequency(asked: i64) -> Result<u64, CliError> {
    let limit = std::fs::read_to_string("/proc/sys/kernel/perf_event_max_sample_rate");
    let limit = limit.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(FALLBACK_MAX_RATE_HZ);
    match u64::try_from(asked) {
        Ok(hz @ 1..) if hz <= limit => Ok(hz),
        Ok(hz @ 1..) => Err(CliError::usage(format!(
            "-F {hz}: the kernel allows at most {limit} samples a second here"
        ))
        .hint(format!(
            "use -F {limit} or less, or raise the limit: sysctl kernel.perf_event_max_sample_rate={hz}"
        ))),
        _ => Err(CliError::usage(format!("-F {asked}: the rate must be at least 1 sample a second"))
            .hint("the default is -F 99")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_outside_the_kernels_limit_are_refused_with_the_limit() {
        assert_eq!(frequency(99).unwrap(), 99);
        for asked in [0, -5, 1_000_000_000] {
            assert_eq!(frequency(asked).unwrap_err().exit(), Exit::Usage, "{asked}");
        }
    }
}
