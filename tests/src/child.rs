//! Programs that a test starts. None of them outlives it, however it ends: the budget of a host is shared, so what one test leaves behind makes others fail.

use std::io::Read;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

/// Longest run of a program in a test. Emulated machines are twenty times slower than real ones.
const LONGEST_RUN: Duration = Duration::from_mins(3);
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// A finished run of a program.
#[derive(Debug)]
pub struct Run {
    /// Its exit code; 128 and the number for a signal.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// A program that was started, with all that it starts: they are a process group, which is killed when this is dropped.
///
/// There is no other way for a test to start something that runs beside it.
#[derive(Debug)]
#[must_use = "it is killed when this is dropped"]
pub struct Started {
    child: Child,
    ended: Option<ExitStatus>,
}

impl Started {
    /// Starts a command.
    ///
    /// # Errors
    ///
    /// It cannot be started.
    pub fn of(command: &mut Command) -> Result<Self> {
        let parent = std::process::id();
        command.process_group(0);
        // A test that is killed drops nothing, and Ctrl-C reaches only the group of the terminal.
        // SAFETY: between fork and exec only system calls are made.
        unsafe {
            command.pre_exec(move || {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                // It may have happened before.
                if libc::getppid().cast_unsigned() == parent {
                    Ok(())
                } else {
                    Err(std::io::ErrorKind::Interrupted.into())
                }
            });
        }
        let child = command.spawn().with_context(|| {
            let program = command.get_program().display();
            format!("cannot start {program}; what tests need is installed by: cargo xtask test")
        })?;
        Ok(Self { child, ended: None })
    }

    /// The pid, which is also the number of the group.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Our end of its standard input; closed when this is dropped.
    ///
    /// # Panics
    ///
    /// When it is no pipe, or taken.
    pub fn stdin(&mut self) -> ChildStdin {
        self.child.stdin.take().expect("the input is a pipe that nobody has")
    }

    /// Our end of its standard output.
    ///
    /// # Panics
    ///
    /// When it is no pipe, or taken.
    pub fn stdout(&mut self) -> ChildStdout {
        self.child.stdout.take().expect("the output is a pipe that nobody has")
    }

    /// Our end of its standard error.
    ///
    /// # Panics
    ///
    /// When it is no pipe, or taken.
    pub fn stderr(&mut self) -> ChildStderr {
        self.child.stderr.take().expect("the errors are a pipe that nobody has")
    }

    /// How it ended, if it did; what it left behind is killed then.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().ok().flatten();
            if self.ended.is_some() {
                self.kill_group();
            }
        }
        self.ended
    }

    /// Waits for its end.
    ///
    /// # Errors
    ///
    /// It does not end in time.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        let began = Instant::now();
        loop {
            if let Some(status) = self.ended() {
                return Ok(status);
            }
            ensure!(began.elapsed() < LONGEST_RUN, "no end after {} s", LONGEST_RUN.as_secs());
            std::thread::sleep(LOOK_EVERY);
        }
    }

    fn kill_group(&self) {
        // SAFETY: a signal to the group that the child leads. Its number is its own until the child is reaped, and numbers come round much later than
        // the moment after that in which `ended` calls this.
        unsafe { libc::kill(-self.child.id().cast_signed(), libc::SIGKILL) };
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        if self.ended().is_none() {
            self.kill_group();
            let _reaped = self.child.wait();
        }
    }
}

/// Runs a command to its end.
///
/// # Errors
///
/// It cannot be started, or it does not end in time.
pub fn run(command: &mut Command) -> Result<Run> {
    finish(Started::of(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()))?)
}

/// Waits for the end of a program; reads of its outputs those that are pipes.
///
/// # Errors
///
/// It does not end in time.
pub fn finish(mut started: Started) -> Result<Run> {
    let (stdout, stderr) = (drain(started.child.stdout.take()), drain(started.child.stderr.take()));
    let status = started.wait()?;
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(-1);
    let text = |thread: std::thread::JoinHandle<String>| thread.join().unwrap_or_default();
    Ok(Run { code, stdout: text(stdout), stderr: text(stderr) })
}

fn drain(pipe: Option<impl Read + Send + 'static>) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            let _until_closed = pipe.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}
