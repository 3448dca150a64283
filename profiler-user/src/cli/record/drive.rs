//! Runs a plan: session, signals, clock, child; then names, files and the table.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::status::Status;
use super::write::{Outputs, Report};
use super::{Plan, ResultArgs};
use crate::cli::exit::Exit;
use crate::cli::guard::Guard;
use crate::cli::running::{
    Ending, Running, Signals, guard_notes, outlive, prepare_command, ring_waker, start_command, start_error,
    woken,
};
use crate::session::{Recorded, Session};

/// Time between two drains of the ring, which holds about a second of samples.
const DRAIN_EVERY: Duration = Duration::from_millis(100);
/// Time to the next drain when an unwind table is missing: samples wait for it, each with a copy of its stack. Also the least time between
/// two drains, so that a storm of new processes cannot keep us busy.
const DRAIN_SOON: Duration = Duration::from_millis(5);

/// Records, writes and reports.
pub(super) fn run(plan: Plan, results: ResultArgs) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(record(plan, results))
}

async fn record(plan: Plan, results: ResultArgs) -> anyhow::Result<ExitCode> {
    let outputs = Outputs::prepare(&plan, results)?;
    let mut signals = Signals::new()?;
    let mut guard = Guard::new()?;
    let launch = prepare_command(&plan.session.scope, &plan.command);
    let mut session = Session::start(&plan.session).map_err(|error| start_error(&error, plan.pid))?;
    let mut child = start_command(launch, &plan.command, session.targets_mut())?;
    outputs.announce(&plan);
    let running = Running::new(plan.length, &mut signals, &mut guard, child.as_mut());
    let ending = drive(&plan, &outputs, &mut session, running).await;
    let mut recorded = session.stop();
    recorded.notes.extend(guard_notes(&guard, ending));
    let recorded = Arc::new(recorded);
    if recorded.aggregate.samples() == 0 {
        return Ok(nothing_sampled(&plan, ending));
    }
    let report = Report::new(&plan, outputs);
    let exit = finish(report, &recorded, &mut signals).await?;
    let code = match (ending, child.as_mut()) {
        (Ending::Child(code), _) => Some(code),
        // The recording ended first. The command goes on, and its exit code is still the one to pass on.
        (Ending::Time, Some(child)) => Some(outlive(child, &mut signals).await),
        _ => None,
    };
    Ok(match (code, exit) {
        (Some(code), Exit::Ok) => Exit::Child(code).into(),
        (_, exit) => exit.into(),
    })
}

async fn drive(plan: &Plan, outputs: &Outputs, session: &mut Session, mut running: Running<'_>) -> Ending {
    let mut status = Status::new(plan.length, outputs.quiet());
    // Without it the timer alone drains, and first samples wait a little longer for their tables.
    let ring = session.ring_fd().ok().and_then(ring_waker);
    let mut next_drain = Instant::now() + DRAIN_EVERY;
    let mut next_status = Instant::now();
    let mut next_table = plan.interval.map(|interval| Instant::now() + interval);
    let ending = loop {
        tokio::select! {
            biased;
            ending = running.ended() => break ending,
            () = sleep_until(next_drain) => {
                session.tick();
                if running.is_shed_due() {
                    session.shed();
                }
                let now = Instant::now();
                let usual = if session.is_waiting() { DRAIN_SOON } else { DRAIN_EVERY };
                next_drain = now + session.next_tick().map_or(usual, |next| next.min(usual));
                if now >= next_status {
                    next_status = now + DRAIN_EVERY;
                    status.update(session);
                }
                if let (Some(due), Some(interval)) = (next_table, plan.interval)
                    && now >= due
                {
                    next_table = Some(now + interval);
                    status.clear();
                    if outputs.print_now(plan, session).is_err() {
                        // Nobody reads any more; what is known is still written to files.
                        break Ending::Asked;
                    }
                }
                if running.is_life_sign_due() && !session.has_living_target() {
                    break Ending::TargetGone;
                }
            }
            () = woken(ring.as_ref()) => next_drain = next_drain.min(Instant::now() + DRAIN_SOON),
        }
    };
    status.clear();
    ending
}

/// Names and writes on a thread of its own, so that a second Ctrl-C is heard: then the raw data is written at once.
async fn finish(report: Report, recorded: &Arc<Recorded>, signals: &mut Signals) -> anyhow::Result<Exit> {
    let shared = Arc::clone(recorded);
    let raw = report.without_names();
    let mut work = tokio::task::spawn_blocking(move || report.produce(&shared));
    tokio::select! {
        done = &mut work => done?,
        _ = signals.interrupt.recv() => {
            raw.produce(recorded)?;
            // The other thread is still looking names up; nobody waits for it.
            std::process::exit(130)
        }
    }
}

#[expect(clippy::print_stderr, reason = "the command line talks to people on standard error")]
fn nothing_sampled(plan: &Plan, ending: Ending) -> ExitCode {
    let why = match ending {
        Ending::TargetGone => "the target has ended".to_owned(),
        Ending::Child(_) => "the command ended before it used any CPU".to_owned(),
        Ending::Time | Ending::Asked => "the target used no CPU in that time".to_owned(),
        Ending::Guarded(reason) => reason.describe(),
    };
    eprintln!("error: nothing was sampled of {}: {why}", plan.target);
    eprintln!(
        "hint: record longer (-d 60s) or faster (-F 999); `perf-agent doctor` says what this host can do"
    );
    Exit::NothingSampled.into()
}
