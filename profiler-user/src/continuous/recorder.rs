//! A session whose windows end on the clock.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::Words;
use super::align::next_end;
use super::allocations::{Allocations, Ending, Wanted};
use super::calls::Calls;
use super::config::Config;
use super::live::Live;
use super::status::StatusFile;
use super::writer::{Closed, Writer, Written, limits};
use crate::aggregate::StackScope;
use crate::bpf::Clock;
use crate::causes::with_causes;
use crate::profile::Meta;
use crate::profile_type::{MemoryOptions, ProfileKind, Rate, WaitOptions};
use crate::session::{Idle, Recorded, Scope, Session, SessionError, SessionOptions, clock};
use crate::store::{Opened, Store, StoreError};
use crate::syscalls::CallReport;

/// Shares of the budget that waits and page faults may take.
const WAITS_SHARE: f64 = 0.4;
const MEMORY_SHARE: f64 = 0.2;
/// The same for counting system calls, which is a share of the busiest CPU.
const CALLS_SHARE: f64 = 0.2;
/// The same for allocations, a share of one CPU. Only targets that somebody has named pay it.
const ALLOCATIONS_SHARE: f64 = 0.5;
/// Part of the memory for unwind tables that the processes have whose allocations are recorded: they are few.
const ALLOCATIONS_TABLES: u64 = 4;

/// Why continuous recording could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The recording could not start.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The thread that writes could not be started.
    #[error("cannot start the thread that names and stores windows")]
    Writer(#[source] std::io::Error),
}

/// The thread that names and stores windows has ended by itself.
#[derive(Debug, thiserror::Error)]
#[error("the thread that names and stores windows has ended")]
pub struct WriterGone;

/// Continuous recording of the whole host.
pub struct Recorder {
    session: Box<Session>,
    /// None where system calls are not counted.
    calls: Option<Calls>,
    /// None until somebody's allocations are asked for.
    allocations: Option<Allocations>,
    writer: Writer,
    config: Config,
    /// In force from the next window on.
    next: Option<(Config, Vec<&'static str>)>,
    window_end: Instant,
    meta: Meta,
}

impl Recorder {
    /// Opens the store, which only one may write to, and begins the first window. Also says what the store held.
    ///
    /// # Errors
    ///
    /// Somebody else writes to the store, or it cannot be written to; what the kernel refused.
    pub fn start(config: Config) -> Result<(Self, Opened), StartError> {
        // First: who is refused here has cost nothing.
        let (store, opened) = Store::open(&config.store.folder, limits(&config.store))?;
        let session = Box::new(Session::start(&options(&config))?);
        let read = |path| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let host = read("/proc/sys/kernel/hostname");
        let meta = Meta {
            profile_type: ProfileKind::OnCpu.name().to_owned(),
            target: "whole host".to_owned(),
            target_slug: host.clone(),
            host,
            kernel: read("/proc/sys/kernel/osrelease"),
            frequency_hz: config.rate_hz,
            ..Meta::default()
        };
        let status = StatusFile::of(&config.store.folder);
        let writer =
            Writer::start(store, &config, status, session.windows_cpu_ns()).map_err(StartError::Writer)?;
        let calls =
            config.also.syscalls.then(|| Calls::start(config.max_overhead * CALLS_SHARE, writer.words()));
        let calls = calls.transpose()?;
        let window_end = window_end(&config);
        let mut recorder =
            Self { session, calls, allocations: None, writer, config, next: None, window_end, meta };
        recorder.watch_allocations()?;
        Ok((recorder, opened))
    }

    /// Records the allocations of whom the configuration names.
    fn watch_allocations(&mut self) -> Result<(), SessionError> {
        let wanted = wanted_allocations(&self.config);
        match &self.allocations {
            Some(allocations) => allocations.want(wanted),
            None if wanted.rules.is_empty() => {}
            None => {
                let tables = self.config.max_table_bytes / ALLOCATIONS_TABLES;
                self.allocations = Some(Allocations::start(wanted, tables, self.writer.words())?);
            }
        }
        Ok(())
    }

    /// Closes the window of allocations, which comes a little later.
    fn end_allocations(&self, ending: Ending) -> Option<Receiver<Recorded>> {
        self.writer.tell_allocations(self.allocations.as_ref().and_then(Allocations::status));
        self.allocations.as_ref().map(|allocations| allocations.end_window(ending))
    }

    /// Takes in what has come, and closes the window when its time is over; `notes` says then what the reader of it should know besides.
    ///
    /// # Errors
    ///
    /// Nobody takes windows any more.
    pub fn tick(&mut self, notes: impl FnOnce() -> Vec<String>) -> Result<(), WriterGone> {
        if Instant::now() < self.window_end {
            self.session.tick();
            return Ok(());
        }
        if !self.writer.is_running() {
            return Err(WriterGone);
        }
        if self.writer.has_room() {
            let mut recorded = self.session.rotate();
            recorded.notes.extend(notes());
            let (calls, allocations) = (self.end_calls(), self.end_allocations(Ending::Window));
            self.writer.write(Closed { recorded, calls, allocations, meta: self.meta.clone() });
            self.adopt();
        } else {
            self.session.tick();
        }
        self.window_end = window_end(&self.config);
        Ok(())
    }

    /// Closes the window of system calls, whose report comes a little later.
    fn end_calls(&self) -> Option<Receiver<CallReport>> {
        let meta = Meta {
            profile_type: "syscalls".to_owned(),
            clock: "sys_enter and sys_exit".to_owned(),
            frequency_hz: 0,
            ..self.meta.clone()
        };
        self.calls.as_ref().map(|calls| calls.end_window(meta))
    }

    /// Puts the configuration in force that came meanwhile: at the beginning of a window, so that each has one rate.
    fn adopt(&mut self) {
        let Some((next, kept)) = self.next.take() else { return };
        if rate(&next) != rate(&self.config) && self.session.set_rate(rate(&next)).is_ok() {
            self.meta.frequency_hz = next.rate_hz;
        }
        self.writer.configure(&next, &kept);
        self.config = next;
        if let Err(error) = self.watch_allocations() {
            self.writer.words().say(format!("allocations are not recorded: {}", with_causes(&error)));
        }
    }

    /// Another configuration, from the next window on, which begins at once. Returns the keys whose new value needs a restart.
    pub fn reconfigure(&mut self, mut config: Config) -> Vec<&'static str> {
        let mut kept = Vec::new();
        if config.store.folder != self.config.store.folder {
            kept.push("store.folder");
            config.store.folder.clone_from(&self.config.store.folder);
        }
        if config.max_table_bytes != self.config.max_table_bytes {
            kept.push("budget.max_memory");
            config.max_table_bytes = self.config.max_table_bytes;
        }
        if config.api != self.config.api {
            kept.push("api");
            config.api = self.config.api.clone();
        }
        if config.also != self.config.also {
            kept.push("also");
            config.also = self.config.also;
        }
        self.next = Some((config, kept.clone()));
        self.window_end = Instant::now();
        kept
    }

    /// There was another configuration, which means nothing: the status says why, for whoever asked for it.
    pub fn refuse(&self, why: String) {
        self.writer.refuse(why);
    }

    /// Closes the window at the next tick, before its time: somebody wants to see what was recorded up to now.
    pub fn cut(&mut self) {
        self.window_end = Instant::now();
    }

    /// Records as little as it can for a while.
    pub fn shed(&mut self) {
        self.session.shed();
    }

    /// When the window ends.
    pub fn window_end(&self) -> Instant {
        self.window_end
    }

    /// Whether a look in a few milliseconds is worth while.
    pub fn is_waiting(&self) -> bool {
        self.session.is_waiting()
    }

    /// The configuration in force.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// As [`Session::ring_fd`].
    ///
    /// # Errors
    ///
    /// No descriptor is left.
    pub fn ring_fd(&self) -> std::io::Result<OwnedFd> {
        self.session.ring_fd()
    }

    /// What was written so far.
    pub fn written(&self) -> Written {
        self.writer.written()
    }

    /// What was written so far, and each time that this changes: for those who watch.
    pub fn live(&self) -> watch::Receiver<Option<Arc<Live>>> {
        self.writer.live()
    }

    /// Lines for the log, of threads that have none.
    pub fn words(&self) -> Words {
        self.writer.words()
    }

    /// Closes the last window, and waits until it is stored.
    pub fn finish(self, notes: Vec<String>) -> Written {
        let (calls, allocations) = (self.end_calls(), self.end_allocations(Ending::Recording));
        let mut recorded = self.session.stop();
        recorded.notes.extend(notes);
        self.writer.write(Closed { recorded, calls, allocations, meta: self.meta });
        self.writer.finish()
    }
}

/// What is recorded beside CPU time. Each has its part of the budget for itself; the samples of CPUs give way to all of them.
fn beside(config: &Config) -> Vec<ProfileKind> {
    let also = config.also;
    let part = |share: f64| config.max_overhead * share;
    let waits = || WaitOptions { max_overhead: part(WAITS_SHARE), ..WaitOptions::default() };
    let memory =
        || MemoryOptions { calls: false, max_overhead: part(MEMORY_SHARE), ..MemoryOptions::default() };
    let waits = also.off_cpu.then(|| ProfileKind::OffCpu(waits()));
    waits.into_iter().chain(also.memory.then(|| ProfileKind::Memory(memory()))).collect()
}

fn wanted_allocations(config: &Config) -> Wanted {
    Wanted {
        rules: config.allocations.of.clone(),
        most: config.allocations.max_processes,
        sample_bytes: config.allocations.sample_bytes,
        max_overhead: config.max_overhead * ALLOCATIONS_SHARE,
    }
}

/// The whole host.
fn options(config: &Config) -> SessionOptions {
    SessionOptions {
        scope: Scope::Host,
        follow_forks: true,
        cpus: None,
        kind: ProfileKind::OnCpu,
        beside: beside(config),
        rate: rate(config),
        idle: Idle::Exclude,
        stacks: StackScope::Both,
        max_table_bytes: config.max_table_bytes,
        dump: None,
    }
}

fn window_end(config: &Config) -> Instant {
    let (wait, _) = next_end(clock::unix_ns(), config.window);
    // The clock of the wall may be far behind when a window begins; a window is never longer than it should be by more than a quarter.
    Instant::now() + wait.min(config.window * 2).max(Duration::from_millis(1))
}

fn rate(config: &Config) -> Rate {
    // All of the machine's time is no limit, whatever the meter makes of what it sees.
    let max_overhead = Some(config.max_overhead).filter(|share| *share < 1.0);
    Rate { clock: Clock::CpuClock, frequency_hz: config.rate_hz, max_overhead }
}
