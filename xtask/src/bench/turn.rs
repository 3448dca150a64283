//! One turn: a profiler starts, the work is done once, the profiler ends.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Result;

use super::children::{Folder, Group, Output, go_on, sleep};
use super::profilers::{Profiler, Ready};
use super::results::Turn;
use super::usage;
use super::workloads::Running;

/// Where the programs are.
pub(super) struct Place {
    /// Ours.
    pub(super) agent: PathBuf,
    /// Those of the tests.
    pub(super) programs: PathBuf,
}

/// Between a profiler's being ready and the work, so that what it does once is not counted: tables of what runs already, for example.
const SETTLE: Duration = Duration::from_millis(700);
/// How long one that says when it is ready may take.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// What a row shows of it.
const LONGEST_LINE: usize = 300;
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// The exit code of perf-agent for "nothing was sampled", which may be true: a loop of system calls allocates nothing.
const NOTHING_SAMPLED: i32 = 5;

/// Takes a turn. The inner error is the profiler's and becomes a row; the outer one is the workload's, or an interrupt.
pub(super) fn take(
    profiler: &Profiler,
    running: &mut Running,
    place: &Place,
) -> Result<Result<Turn, String>> {
    let folder = Folder::new(&format!("turn-{}", profiler.name))?;
    let mut groups = match start(profiler, running.target(), place, &folder) {
        Ok(groups) => groups,
        Err(error) => {
            go_on()?;
            return Ok(Err(error.to_string()));
        }
    };
    sleep(SETTLE)?;
    let pids: Vec<u32> = groups.iter().map(Group::pid).collect();
    let before = Usage::now(running.target(), &pids);
    let begun = Instant::now();
    let work = running.work(profiler.part);
    let window_s = begun.elapsed().as_secs_f64();
    let after = Usage::now(running.target(), &pids);
    let used = after.since(&before);
    let (units, wall_s) = work?;
    let dead = groups.iter_mut().position(|group| group.ended().is_some());
    if let Some(index) = dead {
        return Ok(Err(format!("it ended while it should have recorded: {}", said(&folder, index))));
    }
    let reaped_before = usage::reaped_cpu_s();
    let mut failure = None;
    for (index, group) in groups.iter_mut().enumerate() {
        failure = failure.or(match group.end(libc::SIGINT) {
            None => Some("it did not end within a minute of being interrupted".to_owned()),
            Some(status) if profiler.has_meter() && !matches!(status.code(), Some(0 | NOTHING_SAMPLED)) => {
                Some(format!("it failed ({status}): {}", said(&folder, index)))
            }
            Some(status) if status.signal().is_some_and(|signal| signal != libc::SIGINT) => {
                Some(format!("it died ({status})"))
            }
            Some(_) => None,
        });
    }
    go_on()?;
    if let Some(failure) = failure {
        return Ok(Err(failure));
    }
    let cpus = usage::cpus();
    Ok(Ok(Turn {
        units,
        wall_s,
        window_s,
        cpus,
        target_cpu_s: used.target,
        profiler_cpu_s: used.profiler,
        profiler_total_cpu_s: usage::reaped_cpu_s() - reaped_before,
        bpf_s: used.bpf,
        bpf_total_s: after.bpf,
        others_cpu_s: (used.machine - used.target - used.profiler - used.client).max(0.0),
        meter_cpu_s: profiler.has_meter().then(|| meters(&folder, groups.len())).flatten(),
    }))
}

/// CPU time, seconds.
struct Usage {
    target: f64,
    profiler: f64,
    /// Of BPF programs, where the kernel counts.
    bpf: Option<f64>,
    machine: f64,
    /// Of children that have ended: the client, as long as no profiler has.
    client: f64,
}

impl Usage {
    fn now(target: u32, profilers: &[u32]) -> Self {
        Self {
            target: usage::tree_cpu_s([target]),
            profiler: usage::tree_cpu_s(profilers.iter().copied()),
            bpf: usage::bpf_run_s(profilers.iter().copied()),
            machine: usage::machine_busy_s(),
            client: usage::reaped_cpu_s(),
        }
    }

    fn since(&self, before: &Self) -> Self {
        Self {
            target: self.target - before.target,
            profiler: self.profiler - before.profiler,
            bpf: self.bpf.zip(before.bpf).map(|(now, before)| (now - before).max(0.0)),
            machine: self.machine - before.machine,
            client: self.client - before.client,
        }
    }
}

fn start(profiler: &Profiler, target: u32, place: &Place, folder: &Folder) -> Result<Vec<Group>> {
    let variables = [("AGENT", place.agent.display().to_string()), ("TARGET", target.to_string())];
    let start = |(index, command): (usize, &&str)| {
        Group::start(
            command,
            folder.path(),
            &variables,
            &Output::Files(&out(folder, index), &errors(folder, index)),
        )
    };
    let mut groups: Vec<Group> = profiler.commands.iter().enumerate().map(start).collect::<Result<_>>()?;
    match profiler.ready {
        Ready::After(seconds) => sleep(Duration::from_secs(seconds))?,
        Ready::Says(words) => {
            let begun = Instant::now();
            let is_ready = |index| {
                let text = std::fs::read_to_string(errors(folder, index)).unwrap_or_default();
                text.lines().any(|line| line.starts_with(words))
            };
            while !(0..groups.len()).all(is_ready) {
                anyhow::ensure!(
                    begun.elapsed() < READY_WITHIN,
                    "it is not ready after {} s",
                    READY_WITHIN.as_secs()
                );
                if groups.iter_mut().any(|group| group.ended().is_some()) {
                    break;
                }
                sleep(LOOK_EVERY)?;
            }
        }
    }
    for (index, group) in groups.iter_mut().enumerate() {
        anyhow::ensure!(group.ended().is_none(), "it ended at once: {}", said(folder, index));
    }
    Ok(groups)
}

fn out(folder: &Folder, index: usize) -> PathBuf {
    folder.path().join(format!("{index}.out"))
}

fn errors(folder: &Folder, index: usize) -> PathBuf {
    folder.path().join(format!("{index}.err"))
}

/// What a profiler said last.
fn said(folder: &Folder, index: usize) -> String {
    let line = last_line(&errors(folder, index));
    if line.is_empty() { last_line(&out(folder, index)) } else { line }
}

/// The line of a file that says most: an error, else the last one that has something in it; empty when there is none.
pub(super) fn last_line(path: &Path) -> String {
    let bytes = std::fs::read(path).unwrap_or_default();
    telling_line(&String::from_utf8_lossy(&bytes)).chars().take(LONGEST_LINE).collect()
}

fn telling_line(text: &str) -> &str {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let error = lines.clone().rfind(|line| line.to_lowercase().starts_with("error"));
    error.or_else(|| lines.next_back()).unwrap_or_default()
}

/// What the results of ours say that they cost; none when none says so.
fn meters(folder: &Folder, count: usize) -> Option<f64> {
    let one = |index| {
        let result: serde_json::Value =
            serde_json::from_slice(&std::fs::read(out(folder, index)).ok()?).ok()?;
        cost_s(&result["quality"]["overhead"])
    };
    (0..count).filter_map(one).reduce(|sum, one| sum + one)
}

fn cost_s(overhead: &serde_json::Value) -> Option<f64> {
    let ns = |part: &str| overhead[part].as_f64();
    Some((ns("agent_cpu_ns")? + ns("bpf_ns")? + ns("probes_ns")?) / 1e9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_more_than_the_hint_behind_it() {
        assert_eq!(
            telling_line("perf-agent 0.1\nerror: no such thing\nhint: try\n\n"),
            "error: no such thing"
        );
        assert_eq!(telling_line("Attaching\n  killed \n\n"), "killed");
        assert_eq!(telling_line(""), "");
    }

    #[test]
    fn the_meter_is_that_of_the_process_and_of_its_programs() {
        let overhead = serde_json::json!({"agent_cpu_ns": 30_000_000, "bpf_ns": 10_000_000, "probes_ns": 5_000_000, "wall_ns": 1000});
        assert_eq!(cost_s(&overhead), Some(0.045));
        assert_eq!(cost_s(&serde_json::json!({"agent_cpu_ns": 30})), None);
    }
}
