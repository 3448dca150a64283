//! Runs a plan: session, signals, clock, child; then the table.

use std::process::ExitCode;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::Plan;
use crate::cli::exit::Exit;
use crate::cli::guard::Guard;
use crate::cli::quantity::Length;
use crate::cli::running::{
    Ending, Running, Signals, guard_notes, outlive, prepare_command, ring_waker, start_command, start_error,
    woken,
};
use crate::syscalls::{CallReport, CallSession};

/// Time between two looks at names and at how full the tables are.
const TICK_EVERY: Duration = Duration::from_millis(100);
/// Time to the next look when an unwind table is missing.
const TICK_SOON: Duration = Duration::from_millis(5);

/// Records, writes and reports.
pub(super) fn run(plan: Plan) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(record(plan))
}

async fn record(mut plan: Plan) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::new()?;
    let mut guard = Guard::new()?;
    let launch = prepare_command(&plan.found.scope, &plan.args.command);
    let failed = |error| start_error(&error, plan.found.pid);
    let mut session = CallSession::start(&plan.session).map_err(failed)?;
    let mut child = start_command(launch, &plan.args.command, session.targets_mut())?;
    announce(&plan);
    let running = Running::new(plan.length, &mut signals, &mut guard, child.as_mut());
    let ending = drive(&plan, &mut session, running).await?;
    let mut report = session.stop(plan.meta()).map_err(failed)?;
    report.quality.notes.extend(guard_notes(&guard, ending));
    let nothing = is_empty(&report);
    plan.choice.apply(&mut report);
    plan.write(&report)?;
    if nothing {
        return Ok(nothing_recorded(&plan, ending));
    }
    Ok(match (ending, child.as_mut()) {
        (Ending::Child(code), _) => Exit::Child(code).into(),
        // The recording ended first. The command goes on, and its exit code is still the one to pass on.
        (Ending::Time, Some(child)) => Exit::Child(outlive(child, &mut signals).await).into(),
        _ => Exit::Ok.into(),
    })
}

fn is_empty(report: &CallReport) -> bool {
    report.owners.is_empty() && report.in_flight.is_empty()
}

async fn drive(plan: &Plan, session: &mut CallSession, mut running: Running<'_>) -> anyhow::Result<Ending> {
    let ring = session.ring_fd().ok().and_then(ring_waker);
    let mut next_tick = Instant::now() + TICK_EVERY;
    let mut next_table = plan.interval.map(|interval| Instant::now() + interval);
    loop {
        tokio::select! {
            biased;
            ending = running.ended() => return Ok(ending),
            () = sleep_until(next_table.unwrap_or_else(Instant::now)), if next_table.is_some() => {
                next_table = plan.interval.map(|interval| Instant::now() + interval);
                let mut report = session.interval(plan.meta())?;
                plan.choice.apply(&mut report);
                plan.print_live(&report)?;
            }
            () = sleep_until(next_step(session)), if session.next_step().is_some() => session.step()?,
            () = woken(ring.as_ref()) => next_tick = next_tick.min(Instant::now() + TICK_SOON),
            () = sleep_until(next_tick) => {
                session.tick()?;
                tell_news(plan, session);
                let now = Instant::now();
                next_tick = now + TICK_EVERY;
                if running.is_life_sign_due() && !session.has_living_target() {
                    return Ok(Ending::TargetGone);
                }
            }
        }
    }
}

/// When the next slice is due; only asked for where there is one.
fn next_step(session: &CallSession) -> Instant {
    session.next_step().map_or_else(Instant::now, Instant::from_std)
}

#[expect(clippy::print_stderr, reason = "progress belongs on standard error")]
fn tell_news(plan: &Plan, session: &mut CallSession) {
    for line in session.take_news() {
        if !plan.args.quiet {
            eprintln!("{line}");
        }
    }
}

/// Says what is being recorded and how to stop it.
#[expect(clippy::print_stderr, reason = "progress belongs on standard error")]
fn announce(plan: &Plan) {
    if plan.args.quiet {
        return;
    }
    let length = match plan.length {
        Length::For(duration) => format!("{} s — Ctrl-C to stop early", duration.as_secs_f64()),
        Length::Unlimited if plan.args.command.command.is_empty() => "until Ctrl-C".to_owned(),
        Length::Unlimited => "until it ends".to_owned(),
    };
    eprintln!("perf-agent {} · syscalls · {} · {length}", env!("CARGO_PKG_VERSION"), plan.found.title);
}

#[expect(clippy::print_stderr, reason = "the command line talks to people on standard error")]
fn nothing_recorded(plan: &Plan, ending: Ending) -> ExitCode {
    let why = match ending {
        Ending::TargetGone => "the target has ended".to_owned(),
        Ending::Child(_) => "the command made none that were seen".to_owned(),
        Ending::Time | Ending::Asked => "the target made none in that time".to_owned(),
        Ending::Guarded(reason) => reason.describe(),
    };
    eprintln!("error: no system call was recorded of {}: {why}", plan.found.title);
    eprintln!("hint: record longer (-d 60s); `perf-agent doctor` says what this host can do");
    Exit::NothingSampled.into()
}
