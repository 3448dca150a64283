//! Shells with their children: started, asked to end, killed whatever happens.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::usage;

/// How long a process group gets to end by itself when it is asked.
const PATIENCE: Duration = Duration::from_mins(1);
/// How long one that is not needed any more gets.
const SHORT_PATIENCE: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(10);

static INTERRUPTED: AtomicBool = AtomicBool::new(false);
/// The process group that the main thread waits for; zero for none.
static AWAITED: AtomicI32 = AtomicI32::new(0);

/// Ctrl-C and requests to end: what is waited for is killed, and everything else is taken down in order.
pub(super) struct Interrupt(());

impl Interrupt {
    /// Listens from now on.
    pub(super) fn watch() -> Result<Self> {
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
            // SAFETY: the handler only touches atomics and calls kill, which is safe in a handler (signal-safety(7)).
            let before = unsafe { libc::signal(signal, on_signal as *const () as libc::sighandler_t) };
            if before == libc::SIG_ERR {
                return Err(std::io::Error::last_os_error()).context("cannot listen for signals");
            }
        }
        Ok(Self(()))
    }

    /// Whether one came.
    #[expect(clippy::unused_self, reason = "who has it has begun to listen")]
    pub(super) fn came(&self) -> bool {
        INTERRUPTED.load(Ordering::Relaxed)
    }
}

extern "C" fn on_signal(_signal: libc::c_int) {
    INTERRUPTED.store(true, Ordering::Relaxed);
    let group = AWAITED.load(Ordering::Relaxed);
    if group > 0 {
        signal_group(group, libc::SIGKILL);
    }
}

fn signal_group(group: i32, signal: libc::c_int) {
    // SAFETY: a system call on a number; a group that is gone is an error that means nothing here.
    unsafe { libc::kill(-group, signal) };
}

/// Fails when an interrupt came.
pub(super) fn go_on() -> Result<()> {
    anyhow::ensure!(!INTERRUPTED.load(Ordering::Relaxed), "interrupted");
    Ok(())
}

/// Sleeps, and fails when an interrupt came meanwhile.
pub(super) fn sleep(duration: Duration) -> Result<()> {
    let until = Instant::now() + duration;
    while let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        go_on()?;
        std::thread::sleep(left.min(Duration::from_millis(50)));
    }
    go_on()
}

/// Runs something that blocks until the group does what it should; an interrupt kills the group, which ends the waiting.
pub(super) fn awaiting<T>(group: u32, wait: impl FnOnce() -> T) -> Result<T> {
    AWAITED.store(group as i32, Ordering::Relaxed);
    go_on()?;
    let done = wait();
    AWAITED.store(0, Ordering::Relaxed);
    go_on()?;
    Ok(done)
}

/// A shell as the leader of a process group of its own, so that Ctrl-C reaches only us.
pub(super) struct Group {
    child: Child,
    ended: Option<ExitStatus>,
}

/// Where the standard output of a group goes.
pub(super) enum Output<'a> {
    /// Into a file, and the errors into another.
    Files(&'a Path, &'a Path),
    /// To us, with its input from us; the errors into a file.
    Ours(&'a Path),
}

impl Group {
    /// Starts `script` in a folder.
    pub(super) fn start(
        script: &str,
        folder: &Path,
        variables: &[(&str, String)],
        output: &Output<'_>,
    ) -> Result<Self> {
        let create =
            |path: &Path| File::create(path).with_context(|| format!("cannot write {}", path.display()));
        let mut command = Command::new("sh");
        command.args(["-c", script]).current_dir(folder).process_group(0);
        command.envs(variables.iter().map(|(name, value)| (name, value)));
        match output {
            Output::Files(out, errors) => {
                command.stdin(Stdio::null()).stdout(create(out)?).stderr(create(errors)?)
            }
            Output::Ours(errors) => {
                command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(create(errors)?)
            }
        };
        // Nobody is left to stop a server or a profiler when we are killed.
        let parent = std::process::id();
        // SAFETY: between fork and exec only system calls are made.
        unsafe {
            command.pre_exec(move || {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
                // It may have happened before.
                if libc::getppid() as u32 == parent {
                    Ok(())
                } else {
                    Err(std::io::ErrorKind::Interrupted.into())
                }
            });
        }
        Ok(Self { child: command.spawn().context("cannot run sh")?, ended: None })
    }

    /// The shell, or the program that it became.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The ends of its pipes.
    pub(super) fn pipes(&mut self) -> Option<(ChildStdin, ChildStdout)> {
        Some((self.child.stdin.take()?, self.child.stdout.take()?))
    }

    /// Its exit status when it has ended.
    pub(super) fn ended(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().ok().flatten();
        }
        self.ended
    }

    /// Waits for its end.
    pub(super) fn wait(&mut self) -> Result<ExitStatus> {
        let pid = self.pid();
        let status = awaiting(pid, || self.child.wait())??;
        self.ended = Some(status);
        Ok(status)
    }

    /// Asks it to end by a signal, and waits; none when it had to be killed.
    pub(super) fn end(&mut self, signal: libc::c_int) -> Option<ExitStatus> {
        self.end_within(signal, PATIENCE)
    }

    fn end_within(&mut self, signal: libc::c_int, patience: Duration) -> Option<ExitStatus> {
        let group = self.pid() as i32;
        if self.ended().is_none() {
            signal_group(group, signal);
        }
        let begun = Instant::now();
        while self.ended().is_none() && begun.elapsed() < patience {
            std::thread::sleep(LOOK_EVERY);
        }
        let ended = self.ended();
        if ended.is_none() {
            // Also those that made groups of their own, as postgres does.
            for pid in usage::tree(self.pid()) {
                // SAFETY: a system call on a number of a process that descends from ours and was there just now.
                unsafe { libc::kill(pid as i32, libc::SIGKILL) };
            }
            self.ended = self.child.wait().ok();
        }
        // What a shell left behind.
        signal_group(group, libc::SIGKILL);
        ended
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.end_within(libc::SIGTERM, SHORT_PATIENCE);
    }
}

/// A folder below the system's temporary one that is removed with everything in it.
pub(super) struct Folder(std::path::PathBuf);

impl Folder {
    /// Creates one that nobody else has.
    pub(super) fn new(name: &str) -> Result<Self> {
        let path = std::env::temp_dir().join(format!("perf-agent-bench-{}-{name}", std::process::id()));
        std::fs::create_dir(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self(path))
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("cannot remove {}: {error}", self.0.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_gone_with_all_its_children() {
        let folder = Folder::new("test").unwrap();
        let (out, errors) = (folder.path().join("out"), folder.path().join("err"));
        let script = "trap '' TERM; sleep 1000 & echo $! > pid; wait; wait";
        let files = Output::Files(&out, &errors);
        let mut group = Group::start(script, folder.path(), &[], &files).unwrap();
        let pid = loop {
            match std::fs::read_to_string(folder.path().join("pid"))
                .ok()
                .and_then(|text| text.trim().parse::<u32>().ok())
            {
                Some(pid) => break pid,
                None => std::thread::sleep(LOOK_EVERY),
            }
        };
        assert!(usage::tree(group.pid()).contains(&pid));
        // The shell does not listen, so everything that descends from it is killed.
        assert_eq!(group.end_within(libc::SIGTERM, Duration::ZERO), None);
        let is_alive = || {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            // A zombie is for the first process to reap, when it gets to it.
            !stat.is_empty() && !stat.contains(") Z ")
        };
        while is_alive() {
            std::thread::sleep(LOOK_EVERY);
        }
        let path = folder.path().to_path_buf();
        drop(folder);
        assert!(!path.exists());
    }
}
