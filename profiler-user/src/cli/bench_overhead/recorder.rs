//! The recording whose cost is measured: this program again, as a process of its own.

use std::fmt;
use std::process::Stdio;
use std::time::Duration;

use clap::ValueEnum;
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::Subject;
use crate::cli::exit::{CliError, Exit};
use crate::cli::running::Signals;
use crate::profile::Overhead;

/// Which recording.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Kind {
    /// CPU profile of the whole host
    #[value(alias = "cpu")]
    Record,
    /// Blocked time by stack
    OffCpu,
    /// Running and waiting together
    Wall,
    /// System calls by process
    Syscalls,
    /// Waits for a CPU, in histograms
    Sched,
    /// Growth of resident memory
    Memory,
    /// Allocations by stack
    Alloc,
}

/// How long a recording may take to begin, and to end.
const PATIENCE: Duration = Duration::from_mins(1);
/// Between its beginning and the measurement: what runs already gets its tables in that time.
const SETTLE: Duration = Duration::from_millis(500);
/// Longest recording: it ends by itself if we are killed in a way that leaves it behind.
const LONGEST: &str = "6h";

/// How to start recordings.
pub(super) struct Plan {
    arguments: Vec<String>,
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "perf-agent {}", self.arguments.join(" "))
    }
}

impl Plan {
    /// The recording of this kind for this subject: the CPU profile is of the whole host, as the continuous one is; all others are of the
    /// target where there is one, since that is how they are used.
    pub(super) fn new(kind: Kind, frequency_hz: u32, subject: &Subject) -> Result<Self, CliError> {
        let verb = match kind {
            Kind::Record => "record",
            Kind::OffCpu => "off-cpu",
            Kind::Wall => "wall",
            Kind::Syscalls => "syscalls",
            Kind::Sched => "sched",
            Kind::Memory => "memory",
            Kind::Alloc => "alloc",
        };
        let mut arguments = vec![verb.to_owned()];
        match subject {
            Subject::Processes(pids) if kind != Kind::Record => {
                let list: Vec<String> = pids.iter().map(ToString::to_string).collect();
                arguments.extend(["-p".to_owned(), list.join(",")]);
            }
            _ if kind == Kind::Alloc => {
                return Err(CliError::usage(
                    "--with alloc needs a running target: its probes go into the target's allocator",
                )
                .hint("perf-agent bench-overhead redis-server --with alloc"));
            }
            _ => arguments.push("-a".to_owned()),
        }
        if matches!(kind, Kind::Record | Kind::Wall) {
            arguments.extend(["-F".to_owned(), frequency_hz.to_string()]);
        }
        Ok(Self { arguments })
    }

    /// Whether the verb writes JSON by a switch of its own.
    fn has_json_switch(&self) -> bool {
        matches!(self.arguments.first().map(String::as_str), Some("syscalls" | "sched"))
    }

    /// Starts a recording and waits until it records; none when we are asked to end meanwhile.
    pub(super) async fn start(&self, signals: &mut Signals) -> anyhow::Result<Option<Recorder>> {
        let mut command = std::process::Command::new("/proc/self/exe");
        command.args(&self.arguments).args(["-d", LONGEST]);
        command.args(if self.has_json_switch() { &["--json"][..] } else { &["-f", "json", "-o", "-"] });
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        {
            use std::os::unix::process::CommandExt;
            // Ctrl-C is for us, who stop it in order.
            command.process_group(0);
            let ends_with_us = Some(rustix::process::Signal::TERM);
            // SAFETY: between fork and exec only one system call is made.
            unsafe {
                command.pre_exec(move || Ok(rustix::process::set_parent_process_death_signal(ends_with_us)?));
            }
        }
        let mut child = Command::from(command).kill_on_drop(true).spawn()?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let result = tokio::spawn(async move {
            let mut text = Vec::new();
            if let Some(mut stdout) = stdout {
                let _until_closed = stdout.read_to_end(&mut text).await;
            }
            text
        });
        let Some(stderr) = stderr else { anyhow::bail!("the recording has no standard error") };
        let mut lines = BufReader::new(stderr).lines();
        let mut said = Vec::new();
        let is_ready = async {
            while let Ok(Some(line)) = lines.next_line().await {
                if line.starts_with("perf-agent ") {
                    return true;
                }
                said.push(line);
            }
            false
        };
        let is_ready = tokio::select! {
            ready = timeout(PATIENCE, is_ready) => ready.unwrap_or(false),
            _ = signals.interrupt.recv() => return Ok(None),
            _ = signals.terminate.recv() => return Ok(None),
        };
        if !is_ready {
            return Err(refused(&mut child, &said).await.into());
        }
        // Whatever else it says must not fill the pipe.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        sleep(SETTLE).await;
        Ok(Some(Recorder { child, result }))
    }
}

/// Its own words say best why it does not record.
async fn refused(child: &mut Child, said: &[String]) -> CliError {
    let status = timeout(PATIENCE, child.wait()).await;
    let exit = match status.ok().and_then(Result::ok).and_then(|status| status.code()) {
        Some(2) => Exit::Usage,
        Some(3) => Exit::Permission,
        _ => Exit::Runtime,
    };
    let said = said.join("\n");
    CliError::new(exit, format!("the recording does not start:\n{}", said.trim_start_matches("error: ")))
}

/// A recording that is going on.
pub(super) struct Recorder {
    child: Child,
    result: JoinHandle<Vec<u8>>,
}

/// What is read of a result.
#[derive(Deserialize)]
struct RecordedJson {
    quality: QualityJson,
}

#[derive(Deserialize)]
struct QualityJson {
    overhead: Option<Overhead>,
}

impl Recorder {
    /// Its process.
    pub(super) fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Ends it; returns what it says that recording cost, without its start and end, percent of the machine. With `is_wanted` it has to be alive still.
    pub(super) async fn stop(mut self, is_wanted: bool) -> anyhow::Result<Option<f64>> {
        if is_wanted && let Some(status) = self.child.try_wait()? {
            return Err(CliError::new(
                Exit::Runtime,
                format!("the recording ended before it was told to ({status})"),
            )
            .into());
        }
        if let Some(pid) = self.child.id().and_then(|pid| rustix::process::Pid::from_raw(pid as i32)) {
            rustix::process::kill_process(pid, rustix::process::Signal::INT)?;
        }
        if timeout(PATIENCE, self.child.wait()).await.is_err() {
            self.child.kill().await?;
            return Err(CliError::new(
                Exit::Runtime,
                "the recording did not end within a minute of being told to",
            )
            .into());
        }
        let text = self.result.await?;
        // A recording without one sample writes nothing.
        let json: Option<RecordedJson> = serde_json::from_slice(&text).ok();
        let overhead = json.and_then(|json| json.quality.overhead);
        Ok(overhead.map(|overhead| overhead.percent_of_machine(overhead.running_ns())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_the_whole_host_whatever_is_watched() {
        let plan = |kind, subject: &Subject| Plan::new(kind, 99, subject).map(|plan| plan.to_string());
        let pids = Subject::Processes(vec![7, 8]);
        assert_eq!(plan(Kind::Record, &pids).unwrap(), "perf-agent record -a -F 99");
        assert_eq!(plan(Kind::OffCpu, &pids).unwrap(), "perf-agent off-cpu -p 7,8");
        assert_eq!(plan(Kind::Syscalls, &Subject::Command).unwrap(), "perf-agent syscalls -a");
        let error = plan(Kind::Alloc, &Subject::Machine).unwrap_err();
        assert!(error.exit() == Exit::Usage && error.to_string().contains("hint:"), "{error}");
    }
}
