//! What every verb that records needs while it runs: signals, the command behind `--`, and why the recording ended.

use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::process::Child;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep_until};

use super::exit::{CliError, Exit, with_causes};
use super::guard::{Guard, Reason};
use super::launch::{Launch, RunAs};
use super::quantity::Length;
use super::target::CommandArgs;
use crate::bpf::Targets;
use crate::profile_type::{MemoryError, OnCpuError};
use crate::session::{Scope, SessionError};
use crate::system::permission::PermissionReport;

/// Why a recording ended.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Ending {
    /// Its time was up.
    Time,
    /// Ctrl-C, or a request to end.
    Asked,
    /// Every target ended.
    TargetGone,
    /// The command ended with this code.
    Child(u8),
    /// It could not be allowed to go on.
    Guarded(Reason),
}

/// The signals that end a recording.
pub(super) struct Signals {
    pub(super) interrupt: Signal,
    pub(super) terminate: Signal,
}

impl Signals {
    /// Listens from now on.
    pub(super) fn new() -> std::io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }
}

/// Time between two looks of a recording at what has come.
const TICK_EVERY: Duration = Duration::from_millis(100);
/// Time between two looks at whether the target still lives.
const LIFE_SIGN_EVERY: Duration = Duration::from_millis(500);

/// A recording that runs: until when, and who may end it.
pub(super) struct Running<'a> {
    deadline: Option<Instant>,
    signals: &'a mut Signals,
    guard: &'a mut Guard,
    child: Option<&'a mut Child>,
    next_tick: Instant,
    next_life_sign: Instant,
    interrupts: u32,
}

impl<'a> Running<'a> {
    /// Begins now.
    pub(super) fn new(
        length: Length,
        signals: &'a mut Signals,
        guard: &'a mut Guard,
        child: Option<&'a mut Child>,
    ) -> Self {
        let now = Instant::now();
        let deadline = match length {
            Length::For(duration) => Some(now + duration),
            Length::Unlimited => None,
        };
        Self {
            deadline,
            signals,
            guard,
            child,
            next_tick: now + TICK_EVERY,
            next_life_sign: now + LIFE_SIGN_EVERY,
            interrupts: 0,
        }
    }

    /// Waits until the recording has to end. May be given up and called again.
    pub(super) async fn ended(&mut self) -> Ending {
        loop {
            tokio::select! {
                biased;
                code = exit_code(&mut self.child) => return Ending::Child(code),
                _ = self.signals.interrupt.recv() => {
                    self.interrupts += 1;
                    // The terminal sent it to the command as well: the command decides, unless it is asked twice.
                    if self.child.is_none() || self.interrupts > 1 {
                        return Ending::Asked;
                    }
                }
                _ = self.signals.terminate.recv() => return Ending::Asked,
                () = sleep_until(self.deadline.unwrap_or_else(Instant::now)), if self.deadline.is_some() => {
                    return Ending::Time;
                }
                () = sleep_until(self.guard.next()) => {
                    if let Some(reason) = self.guard.look() {
                        return Ending::Guarded(reason);
                    }
                }
            }
        }
    }

    /// Waits for the next look, a few times a second; or says why there is none.
    pub(super) async fn tick(&mut self) -> Option<Ending> {
        let next = self.next_tick;
        tokio::select! {
            biased;
            ending = self.ended() => Some(ending),
            () = sleep_until(next) => {
                self.next_tick = Instant::now() + TICK_EVERY;
                None
            }
        }
    }

    /// Whether load is to be shed now.
    pub(super) fn is_shed_due(&mut self) -> bool {
        self.guard.take_shed()
    }

    /// Whether it is time to see whether the target still lives.
    pub(super) fn is_life_sign_due(&mut self) -> bool {
        let now = Instant::now();
        let due = now >= self.next_life_sign;
        if due {
            self.next_life_sign = now + LIFE_SIGN_EVERY;
        }
        due
    }
}

/// What the result says of a recording that was guarded.
pub(super) fn guard_notes(guard: &Guard, ending: Ending) -> Vec<String> {
    let ended = match ending {
        Ending::Guarded(reason) => Some(reason.describe()),
        _ => None,
    };
    ended.into_iter().chain(guard.notes()).collect()
}

/// Finds the program of a command and prepares its user; none when the scope is not a command.
pub(super) fn prepare_command(scope: &Scope, command: &CommandArgs) -> Option<Launch> {
    let run_as = if command.keep_root { RunAs::Agent } else { RunAs::Caller };
    (*scope == Scope::Command).then(|| Launch::prepare(&command.command, run_as))
}

/// Starts the command, which is in scope from its first instruction on.
pub(super) fn start_command(
    launch: Option<Launch>,
    command: &CommandArgs,
    targets: &mut Targets,
) -> Result<Option<Child>, CliError> {
    let Some(launch) = launch else { return Ok(None) };
    let full = |error| start_error(&SessionError::Load(error), None);
    let started = targets.follow_children(|| launch.start()).map_err(full)?;
    let program =
        command.command.first().map_or_else(String::new, |program| program.to_string_lossy().into_owned());
    let child = started.map_err(|error| {
        CliError::new(Exit::Runtime, format!("cannot start `{program}`: {error}"))
            .hint("check its name, or give the full path")
    })?;
    if let Some(pid) = child.id() {
        targets.add(pid).map_err(full)?;
    }
    Ok(Some(child))
}

/// Waits for a command that runs longer than its recording. Ctrl-C reaches it through the terminal; a request to end ends the waiting.
pub(super) async fn outlive(child: &mut Child, signals: &mut Signals) -> u8 {
    let mut child = Some(child);
    loop {
        tokio::select! {
            code = exit_code(&mut child) => return code,
            _ = signals.terminate.recv() => return 0,
            _ = signals.interrupt.recv() => {}
        }
    }
}

/// Waits for the command; for ever when there is none.
pub(super) async fn exit_code(child: &mut Option<&mut Child>) -> u8 {
    use std::os::unix::process::ExitStatusExt;
    let Some(child) = child else { return std::future::pending().await };
    match child.wait().await {
        // A shell's way to tell of a signal.
        Ok(status) => {
            status.code().or_else(|| status.signal().map(|signal| 128 + signal)).map_or(1, |code| code as u8)
        }
        Err(_) => 1,
    }
}

/// A recording that could not start, explained: missing rights get the whole picture, everything else its causes.
pub(super) fn start_error(error: &SessionError, pid: Option<u32>) -> CliError {
    let mut source = std::error::Error::source(error);
    let mut refused = None;
    while let Some(cause) = source {
        refused = cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error).or(refused);
        source = cause.source();
    }
    let syscall = match error {
        SessionError::Sampler(OnCpuError::Open { .. })
        | SessionError::Memory(MemoryError::Open { .. })
        | SessionError::SideBand(_) => "perf_event_open",
        _ => "bpf",
    };
    if let Some(errno @ (libc::EPERM | libc::EACCES)) = refused {
        CliError::new(
            Exit::Permission,
            PermissionReport::gather(&error.to_string(), syscall, errno, pid).to_string(),
        )
    } else {
        let exit =
            if matches!(error, SessionError::Unsupported { .. }) { Exit::Permission } else { Exit::Runtime };
        CliError::new(exit, with_causes(error)).hint("`perf-agent doctor` says what this host can do")
    }
}

/// The ring of a recording, to wait for its wake-ups.
pub(super) fn ring_waker(ring: std::os::fd::OwnedFd) -> Option<AsyncFd<std::os::fd::OwnedFd>> {
    // SAFETY: the descriptor is owned by what is returned, so it stays open while it is registered.
    unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }.ok()
}

/// Waits until the kernel side says that it met a missing table; for ever where it cannot be heard.
pub(super) async fn woken(ring: Option<&AsyncFd<std::os::fd::OwnedFd>>) {
    match ring {
        Some(ring) => match ring.readable().await {
            Ok(mut ready) => ready.clear_ready(),
            Err(_) => std::future::pending().await,
        },
        None => std::future::pending().await,
    }
}
