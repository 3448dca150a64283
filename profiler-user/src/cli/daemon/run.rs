//! `perf-agent daemon run`: drives the recorder, hears signals, and says little.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep_until};

use super::config::load;
use super::notify::notify;
use super::status::dropped;
use crate::bpf::time_programs;
use crate::cli::exit::{CliError, Exit, with_causes};
use crate::cli::guard::{Guard, Reason};
use crate::cli::running::{Signals, ring_waker, start_error, woken};
use crate::continuous::{Config, Recorder, StartError, Written};
use crate::output::{bytes, duration, percent, thousands};
use crate::profile::clean;
use crate::serve::{self, ServeError, Server};
use crate::store::{Opened, StoreError};
use crate::system::privileges::give_up_sys_admin;

/// Time between two drains of the ring at rates up to [`LOW_HZ`], and above. It holds a second of samples at 99 Hz.
const DRAIN_EVERY: Duration = Duration::from_millis(250);
const DRAIN_OFTEN: Duration = Duration::from_millis(100);
const LOW_HZ: u64 = 50;
/// Time to the next drain when an unwind table is missing.
const DRAIN_SOON: Duration = Duration::from_millis(5);
/// Time between two lines that say that all is well, and least time between two that say what is not.
const STATUS_EVERY: Duration = Duration::from_mins(10);
const TROUBLE_EVERY: Duration = Duration::from_mins(1);

/// How to run.
#[derive(Debug, Args)]
pub(in crate::cli) struct RunArgs {
    /// The configuration [default: /etc/perf-agent/config.toml where there is one]
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Keep CAP_SYS_ADMIN no longer than it takes to have the kernel count what BPF programs cost; huge pages then count as small ones
    #[arg(long)]
    give_up_admin: bool,
}

/// Runs `daemon run`.
///
/// # Errors
///
/// A bad configuration, missing privileges, a store that somebody else writes to.
pub(in crate::cli) fn run(args: &RunArgs) -> anyhow::Result<ExitCode> {
    let config = load(args.config.as_deref())?;
    if args.give_up_admin {
        // Threads have capabilities of their own: there is only this one yet.
        give_up_admin();
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(record(args, config))
}

/// What the kernel refuses here is told by the recording, where it matters.
fn give_up_admin() {
    let _told_with_windows = time_programs();
    match give_up_sys_admin() {
        Ok(true) => {}
        Ok(false) => say(
            "CAP_SYS_ADMIN is kept: without CAP_BPF and CAP_PERFMON (Linux 5.8) nothing can be recorded without it",
        ),
        Err(error) => say(&format!("CAP_SYS_ADMIN is kept: the kernel refuses to take it away: {error}")),
    }
}

async fn record(args: &RunArgs, config: Config) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::new()?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut dump = signal(SignalKind::user_defined1())?;
    let mut guard = Guard::new()?;
    // First: what is refused here has cost nothing.
    let prepared = serve::prepare(&config.api).map_err(|error| explain_api(&error))?;
    let (mut recorder, opened) = Recorder::start(config).map_err(|error| explain(&error))?;
    announce(&recorder, &opened);
    let store = recorder.config().store.folder.clone();
    let api = prepared.map(|prepared| Server::start(prepared, store, recorder.live()));
    let api = api.transpose().map_err(|error| explain_api(&error))?;
    api.iter().flat_map(Server::addresses).for_each(|address| say(&format!("answers on {address}")));
    api.iter().flat_map(Server::warnings).for_each(|warning| say(warning));
    notify("READY=1");
    let ring = recorder.ring_fd().ok().and_then(ring_waker);
    let mut next_drain = Instant::now();
    let mut told = Told::new();
    let ending = loop {
        tokio::select! {
            biased;
            _ = signals.terminate.recv() => break None,
            _ = signals.interrupt.recv() => break None,
            _ = hangup.recv() => {
                notify("STATUS=reading the configuration again");
                reload(args, &mut recorder);
                next_drain = Instant::now();
            }
            _ = dump.recv() => {
                recorder.cut();
                next_drain = Instant::now();
            }
            () = sleep_until(guard.next()) => {
                if let Some(reason) = guard.look() {
                    break Some(reason);
                }
                if guard.take_shed() {
                    recorder.shed();
                }
                recorder.words().take().iter().for_each(|line| say(line));
                told.look(&recorder.written());
                notify("WATCHDOG=1");
            }
            () = sleep_until(next_drain) => {
                recorder.tick(|| guard.take_notes())?;
                let often = if recorder.config().rate_hz > LOW_HZ { DRAIN_OFTEN } else { DRAIN_EVERY };
                let usual = if recorder.is_waiting() { DRAIN_SOON } else { often };
                next_drain = (Instant::now() + usual).min(recorder.window_end().into());
            }
            () = woken(ring.as_ref()) => next_drain = next_drain.min(Instant::now() + DRAIN_SOON),
        }
    };
    notify("STOPPING=1");
    let mut notes = guard.take_notes();
    notes.extend(ending.map(Reason::describe));
    let words = recorder.words();
    let written = recorder.finish(notes);
    drop(api);
    words.take().iter().for_each(|line| say(line));
    say(&format!("ended: {}", summary(&written)));
    Ok(match ending {
        None => Exit::Ok.into(),
        Some(reason) => {
            say(&reason.describe());
            // A service manager starts it again later, unless it was switched off.
            if reason == Reason::Asked { Exit::Ok } else { Exit::Runtime }.into()
        }
    })
}

/// Reads the configuration again. A bad one is refused, and the old one stays.
fn reload(args: &RunArgs, recorder: &mut Recorder) {
    match load(args.config.as_deref()) {
        Ok(config) => {
            let (rate, window) = (config.rate_hz, duration(config.window.as_nanos() as u64));
            let kept = recorder.reconfigure(config);
            let kept = match kept.as_slice() {
                [] => String::new(),
                keys => format!("; {} is as before until a restart", keys.join(" and ")),
            };
            say(&format!("configuration read again: {rate} Hz, windows of {window}{kept}"));
        }
        Err(error) => {
            say(&format!("the configuration is refused, the old one stays in force: {error}"));
            recorder.refuse(error.to_string());
        }
    }
}

fn announce(recorder: &Recorder, opened: &Opened) {
    let config = recorder.config();
    say(&format!(
        "perf-agent {} · cpu · whole host · {} Hz · windows of {} · store {} ({}, {} windows)",
        env!("CARGO_PKG_VERSION"),
        config.rate_hz,
        duration(config.window.as_nanos() as u64),
        config.store.folder.display(),
        bytes(opened.bytes),
        thousands(opened.windows),
    ));
    if opened.torn_bytes > 0 {
        say(&format!(
            "a window that was being written when the last daemon ended is lost: {}",
            bytes(opened.torn_bytes)
        ));
    }
    for aside in &opened.aside {
        say(&format!(
            "damaged: {} was set aside, {} windows of it were kept: {}",
            clean(aside.name.as_bytes()),
            aside.kept_windows,
            clean(aside.why.as_bytes())
        ));
    }
}

/// What was told so far, so that a line says something new.
struct Told {
    lost: u64,
    not_stored: u64,
    dropped_files: u64,
    next_status: Instant,
    next_trouble: Instant,
}

impl Told {
    fn new() -> Self {
        let now = Instant::now();
        Self { lost: 0, not_stored: 0, dropped_files: 0, next_status: now + STATUS_EVERY, next_trouble: now }
    }

    fn look(&mut self, written: &Written) {
        let now = Instant::now();
        let trouble = written.lost_total() > self.lost
            || written.not_stored.0 > self.not_stored
            || written.dropped_files > self.dropped_files;
        if now >= self.next_status || (trouble && now >= self.next_trouble) {
            self.next_status = now + STATUS_EVERY;
            self.next_trouble = now + TROUBLE_EVERY;
            (self.lost, self.not_stored) = (written.lost_total(), written.not_stored.0);
            self.dropped_files = written.dropped_files;
            let text = summary(written);
            say(&text);
            notify(&format!("STATUS={text}"));
        }
    }
}

fn summary(written: &Written) -> String {
    let mut text = format!(
        "{} windows · {} samples · {} lost · {} of the machine · store {}",
        thousands(written.windows),
        thousands(written.samples),
        thousands(written.lost_total()),
        percent(written.cost_percent()),
        bytes(written.store_bytes),
    );
    let losses: Vec<String> =
        written.lost.iter().map(|lost| format!("{} {}", thousands(lost.count), lost.what)).collect();
    if !losses.is_empty() {
        text.push_str(" · lost: ");
        text.push_str(&losses.join(", "));
    }
    if written.not_stored.0 > 0 {
        let why = written.error.as_deref().unwrap_or_default();
        let windows = written.not_stored.0.to_string();
        text.push_str(&[" · ", &windows, " windows not stored: ", why].concat());
    }
    if written.dropped_files > 0 {
        text.push_str(" · dropped: ");
        text.push_str(&dropped(written.dropped_files, written.disk_full_files));
    }
    text
}

/// One line for the journal. A log that cannot be written, on a disk that is full, must not end the recording.
fn say(text: &str) {
    let _told_or_not = writeln!(std::io::stderr(), "{text}");
}

pub(super) fn explain_api(error: &ServeError) -> CliError {
    let told = CliError::new(Exit::Runtime, with_causes(error));
    match error.fix() {
        Some(fix) => told.hint(fix),
        None => told,
    }
}

fn explain(error: &StartError) -> CliError {
    match error {
        StartError::Session(error) => start_error(error, None),
        StartError::Store(StoreError::Locked { .. }) => {
            CliError::new(Exit::Runtime, with_causes(error)).hint("perf-agent daemon status says since when")
        }
        StartError::Store(StoreError::NotOurs { fix: Some(fix), .. }) => {
            CliError::new(Exit::Permission, with_causes(error)).hint(fix.clone())
        }
        StartError::Store(_) | StartError::Writer(_) => CliError::new(Exit::Runtime, with_causes(error)),
    }
}
