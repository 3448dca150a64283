//! `perf-agent bench-overhead`: what this agent costs, measured on the user's own host.
//!
//! Runs in pairs, one with a recording beside it and one without, in random order; what is compared are the ratios within pairs. Nothing
//! that the agent says of itself is part of the comparison: it is printed beside it.

mod command;
mod measured;
mod recorder;
mod running;
mod words;

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::exit::{CliError, Exit};
use super::quantity::{Length, length};
use super::running::Signals;
use super::target::{CommandArgs, from_command, from_target};
use crate::session::Scope;
use crate::statistics::Chance;
use measured::{Measured, Pair};
use recorder::{Kind, Plan};
use words::Report;

/// `perf-agent bench-overhead`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  perf-agent bench-overhead                          what the default profile of the whole host costs this machine
  perf-agent bench-overhead redis-server             what it costs a program that runs
  perf-agent bench-overhead redis-server --with off-cpu
  perf-agent bench-overhead -- make -B               what it costs a command, which is run several times

Profiling costs less than two equal runs differ. So pairs are compared, and the result says how large a difference could have stayed
unseen: more pairs (--rounds, -d 10m) show smaller ones. It ends with code 0 whatever it finds.")]
pub(super) struct BenchOverheadArgs {
    /// A running program that is watched: PID, list of PIDs, name or /REGEX/; without it and without a command, the machine alone
    #[arg(value_name = "TARGET", conflicts_with = "command")]
    target: Option<String>,
    /// The recording whose cost is measured
    #[arg(long, value_enum, default_value = "record", value_name = "VERB")]
    with: Kind,
    /// Samples per second and CPU, for record and wall
    #[arg(short = 'F', long = "freq", value_name = "HZ", default_value_t = 99)]
    frequency: u32,
    /// About how long to measure; sets the number of pairs
    #[arg(short, long, value_name = "TIME", default_value = "2m", value_parser = length)]
    duration: Length,
    /// Number of pairs, instead of a time
    #[arg(long, value_name = "PAIRS", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rounds: Option<u32>,
    /// Length of each half of a pair; a command takes as long as it takes
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = length, conflicts_with = "command")]
    window: Length,
    /// JSON on standard output, with every pair
    #[arg(long)]
    json: bool,
    /// Say nothing about progress
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    command: CommandArgs,
}

/// The least number of pairs, if the time is too short for them: their extremes are an interval of 95 %.
const LEAST_PAIRS: u32 = crate::statistics::LEAST_FOR_CONFIDENCE as u32;
/// Shortest window: CPU time is counted in hundredths of a second in places.
const SHORTEST_WINDOW: Duration = Duration::from_millis(200);

/// What is looked at.
enum Subject {
    /// The machine alone.
    Machine,
    /// Processes that run.
    Processes(Vec<u32>),
    /// A command that is run again and again.
    Command,
}

/// How a half of a pair ended.
enum Half {
    Measured(Measured),
    /// Ctrl-C, or a request to end.
    Asked,
    /// The target has ended.
    Gone,
}

/// Why no more pairs were measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Enough,
    Asked,
    Gone,
}

/// How many pairs to measure.
#[derive(Debug, Clone, Copy)]
enum Amount {
    Pairs(u32),
    /// As many as fit, but not fewer than [`LEAST_PAIRS`].
    Time(Duration),
}

/// Runs `bench-overhead`.
///
/// # Errors
///
/// Bad arguments, a target or command that does not run, or a recording that does not start.
pub(super) fn run(args: BenchOverheadArgs) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(measure(args))
}

async fn measure(args: BenchOverheadArgs) -> anyhow::Result<ExitCode> {
    let (subject, title) = subject(&args)?;
    let window = bounded(args.window, "--window")?;
    let amount = match args.rounds {
        Some(pairs) => Amount::Pairs(pairs),
        None => Amount::Time(bounded(args.duration, "--duration")?),
    };
    let plan = Plan::new(args.with, args.frequency, &subject)?;
    let mut signals = Signals::new()?;
    let mut bench = Bench { subject, window, plan, args: &args, signals: &mut signals };
    if !args.quiet {
        tell(&format!(
            "perf-agent {} · bench-overhead of `{}` · {title}",
            env!("CARGO_PKG_VERSION"),
            bench.plan
        ));
    }
    let (pairs, ending) = bench.pairs(amount).await?;
    let report = Report { title, with: bench.plan.to_string(), pairs, ending };
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{:#}", report.json())?;
    } else {
        write!(out, "{report}")?;
    }
    out.flush()?;
    Ok(match (report.pairs.is_empty(), ending) {
        (false, _) => Exit::Ok.into(),
        (true, Ending::Asked) => Exit::Interrupted.into(),
        (true, _) => Exit::NothingSampled.into(),
    })
}

fn subject(args: &BenchOverheadArgs) -> Result<(Subject, String), CliError> {
    if let Some(found) = from_command(&args.command.command) {
        return Ok((Subject::Command, found.title));
    }
    let Some(target) = &args.target else { return Ok((Subject::Machine, "the whole machine".to_owned())) };
    let found = from_target(target)?;
    match found.scope {
        Scope::Processes(pids) => Ok((Subject::Processes(pids), found.title)),
        _ => Err(CliError::usage(format!(
            "bench-overhead watches processes, and `{target}` is a control group"
        ))
        .hint("name a process in it: perf-agent bench-overhead PID; systemd-cgls shows them")),
    }
}

fn bounded(length: Length, option: &str) -> Result<Duration, CliError> {
    match length {
        Length::For(duration) if duration >= SHORTEST_WINDOW => Ok(duration),
        Length::For(_) => Err(CliError::usage(format!("{option} is too short to see anything"))
            .hint(format!("the least is {} ms", SHORTEST_WINDOW.as_millis()))),
        Length::Unlimited => {
            Err(CliError::usage(format!("{option} needs an end")).hint("Ctrl-C ends early and reports"))
        }
    }
}

/// A measurement that is going on.
struct Bench<'a> {
    subject: Subject,
    window: Duration,
    plan: Plan,
    args: &'a BenchOverheadArgs,
    signals: &'a mut Signals,
}

impl Bench<'_> {
    async fn pairs(&mut self, amount: Amount) -> anyhow::Result<(Vec<Pair>, Ending)> {
        let begun = std::time::Instant::now();
        let mut chance = Chance::of_now();
        let mut pairs = Vec::new();
        while !is_enough(amount, pairs.len() as u32, begun.elapsed()) {
            let mut order = [false, true];
            chance.shuffle(&mut order);
            let mut halves = [None, None];
            for recorded in order {
                let half = self.half(recorded).await?;
                match half {
                    Half::Measured(measured) => halves[usize::from(recorded)] = Some(measured),
                    Half::Asked => return Ok((pairs, Ending::Asked)),
                    Half::Gone => return Ok((pairs, Ending::Gone)),
                }
            }
            if let [Some(without), Some(with)] = halves {
                pairs.push(Pair { without, with });
            }
            self.progress(&pairs);
        }
        Ok((pairs, Ending::Enough))
    }

    async fn half(&mut self, recorded: bool) -> anyhow::Result<Half> {
        let mut recorder = if recorded {
            match self.plan.start(self.signals).await? {
                Some(recorder) => Some(recorder),
                None => return Ok(Half::Asked),
            }
        } else {
            None
        };
        let agent = recorder.as_ref().and_then(recorder::Recorder::pid);
        let mut half = match &self.subject {
            Subject::Command => command::run(&self.args.command, agent, self.signals).await?,
            Subject::Machine => running::watch(&[], self.window, agent, self.signals).await?,
            Subject::Processes(pids) => running::watch(pids, self.window, agent, self.signals).await?,
        };
        if let Some(recorder) = recorder.take() {
            let own = recorder.stop(matches!(half, Half::Measured(_))).await?;
            if let Half::Measured(measured) = &mut half {
                measured.own_percent = own;
            }
        }
        Ok(half)
    }

    fn progress(&self, pairs: &[Pair]) {
        if let (false, Some(pair)) = (self.args.quiet, pairs.last()) {
            let changes: Vec<String> = pair
                .ratios()
                .map(|(what, ratio)| format!("{what} {:+.1} %", (ratio - 1.0) * 100.0))
                .collect();
            tell(&format!("  pair {:>2}: {}", pairs.len(), changes.join(", ")));
        }
    }
}

/// Whether to stop. The time of the next pair is taken to be that of the others.
fn is_enough(amount: Amount, pairs: u32, elapsed: Duration) -> bool {
    match amount {
        Amount::Pairs(wanted) => pairs >= wanted,
        Amount::Time(time) => pairs >= LEAST_PAIRS && elapsed + elapsed / pairs.max(1) > time,
    }
}

#[expect(clippy::print_stderr, reason = "progress belongs on standard error")]
fn tell(line: &str) {
    eprintln!("{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_fill_the_time_and_are_never_too_few() {
        let minutes = Amount::Time(Duration::from_mins(2));
        assert!(!is_enough(minutes, 0, Duration::ZERO));
        assert!(!is_enough(minutes, LEAST_PAIRS - 1, Duration::from_mins(9)));
        assert!(is_enough(minutes, LEAST_PAIRS, Duration::from_mins(2)));
        assert!(!is_enough(minutes, 9, Duration::from_secs(107)));
        assert!(is_enough(minutes, 9, Duration::from_secs(109)));
        assert!(
            is_enough(Amount::Pairs(2), 2, Duration::ZERO) && !is_enough(Amount::Pairs(2), 1, Duration::ZERO)
        );
    }
}
