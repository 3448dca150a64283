//! `perf-agent daemon reload` and `daemon stop`: a signal, and what came of it.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::config::load;
use crate::cli::exit::{CliError, Exit};
use crate::continuous::status::{Status, all, of_store};
use crate::output::{duration, thousands};
use crate::profile::clean;

/// Longest wait for an answer: a window that is being written on a slow disk comes first.
const PATIENCE: Duration = Duration::from_mins(1);
/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Which daemon.
#[derive(Debug, Args)]
pub(in crate::cli) struct WhichArgs {
    /// The one with this configuration; the only one of this host without it
    #[arg(short, long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
}

/// A daemon that runs, and a hold on its process that no other can slip under.
pub(super) struct Running {
    pub(super) status: Status,
    process: OwnedFd,
}

impl WhichArgs {
    /// Finds it.
    ///
    /// # Errors
    ///
    /// None runs, or several do and none is named.
    pub(super) fn find(&self) -> anyhow::Result<Running> {
        let store = self
            .config
            .as_deref()
            .map(|file| load(Some(file)))
            .transpose()?
            .map(|config| config.store.folder);
        let known = match &store {
            Some(store) => of_store(store).into_iter().collect(),
            None => all(),
        };
        let mut running: Vec<Status> = known.into_iter().filter(Status::is_running).collect();
        let Some(status) = running.pop() else {
            let which = store.map(|store| format!(" with the store {}", store.display())).unwrap_or_default();
            let error = CliError::new(Exit::Runtime, format!("no daemon{which} runs"));
            return Err(error.hint("sudo perf-agent daemon run, or systemctl start perf-agent").into());
        };
        if !running.is_empty() {
            let count = running.len() + 1;
            let error = CliError::usage(format!("{count} daemons run; which one?"));
            return Err(error.hint("perf-agent daemon status lists them; --config FILE names one").into());
        }
        let process = Pid::from_raw(status.pid as i32).ok_or(Errno::SRCH);
        let process = process.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()));
        let process = process.map_err(|error| refused(&status, error))?;
        // The number may have been given to another process before it was held.
        if !status.is_running() {
            return Err(CliError::new(
                Exit::Runtime,
                format!("the daemon (process {}) just ended", status.pid),
            )
            .into());
        }
        Ok(Running { status, process })
    }
}

fn refused(status: &Status, error: Errno) -> CliError {
    let message = format!("cannot signal the daemon (process {}): {error}", status.pid);
    match error {
        Errno::PERM => CliError::new(Exit::Permission, message).hint("the same with sudo"),
        _ => CliError::new(Exit::Runtime, message),
    }
}

impl Running {
    /// Sends a signal.
    ///
    /// # Errors
    ///
    /// The system does not let us.
    pub(super) fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        Ok(pidfd_send_signal(&self.process, signal).map_err(|error| refused(&self.status, error))?)
    }

    /// Waits until its status is as wanted; none when that takes too long.
    ///
    /// # Errors
    ///
    /// It ended.
    pub(super) fn wait(&self, is_there: impl Fn(&Status) -> bool) -> anyhow::Result<Option<Status>> {
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            if let Some(status) = of_store(&self.status.store).filter(|status| status.pid == self.status.pid)
                && is_there(&status)
            {
                return Ok(Some(status));
            }
            if !self.status.is_running() {
                let ended = format!("the daemon (process {}) ended; its log says why", self.status.pid);
                return Err(CliError::new(Exit::Runtime, ended)
                    .hint("journalctl -u perf-agent -n 20")
                    .into());
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(None)
    }

    fn silent(&self, what: &str) -> CliError {
        let message = format!(
            "the daemon (process {}) did not {what} within {} s",
            self.status.pid,
            PATIENCE.as_secs()
        );
        CliError::new(Exit::Runtime, message).hint("perf-agent daemon status shows what it does")
    }
}

/// Runs `daemon reload`: waits until the new configuration holds, or is refused.
///
/// # Errors
///
/// No daemon runs, or its configuration is refused.
pub(super) fn reload(args: &WhichArgs) -> anyhow::Result<ExitCode> {
    let running = args.find()?;
    let before = running.status.reloads;
    running.signal(Signal::HUP)?;
    let Some(status) = running.wait(|status| status.reloads > before)? else {
        return Err(running.silent("read its configuration again").into());
    };
    if let Some(why) = &status.refusal {
        let why = clean(why.as_bytes());
        let message = format!("the configuration is refused, the old one stays in force: {why}");
        return Err(CliError::new(Exit::Usage, message).hint("perf-agent daemon config check FILE").into());
    }
    let mut out = std::io::stdout().lock();
    let window = duration(status.window_ns);
    write!(out, "process {} has read it again: {} Hz, windows of {window}", status.pid, status.rate_hz)?;
    if !status.kept.is_empty() {
        write!(out, "; as before until a restart: {}", status.kept.join(", "))?;
    }
    writeln!(out)?;
    Ok(Exit::Ok.into())
}

/// Runs `daemon stop`: waits until the last window is stored and the process is gone.
///
/// # Errors
///
/// No daemon runs, or it does not end.
pub(super) fn stop(args: &WhichArgs) -> anyhow::Result<ExitCode> {
    let running = args.find()?;
    let began = Instant::now();
    running.signal(Signal::TERM)?;
    while running.status.is_running() {
        if began.elapsed() > PATIENCE {
            return Err(running.silent("end").into());
        }
        std::thread::sleep(LOOK_EVERY);
    }
    let took = duration(began.elapsed().as_nanos() as u64);
    let (pid, store) = (running.status.pid, running.status.store.display());
    let windows = thousands(running.status.windows.saturating_add(1));
    writeln!(
        std::io::stdout().lock(),
        "process {pid} ended after {took}; about {windows} windows of it are in {store}"
    )?;
    Ok(Exit::Ok.into())
}
