//! A window over processes that run: CPU time, and as much of their work as `/proc` shows.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::Half;
use super::measured::Measured;
use crate::cli::running::Signals;
use crate::process::numeric_entries;
use crate::session::clock::cpu_ns_of;

/// `USER_HZ`, in which `/proc` counts: 100 on every architecture that we support.
const TICKS: f64 = 100.0;

/// Watches processes for a window; the machine alone when there are none.
pub(super) async fn watch(
    pids: &[u32],
    window: Duration,
    agent: Option<u32>,
    signals: &mut Signals,
) -> anyhow::Result<Half> {
    let before = Look::now(pids, agent);
    tokio::select! {
        () = sleep(window) => {}
        _ = signals.interrupt.recv() => return Ok(Half::Asked),
        _ = signals.terminate.recv() => return Ok(Half::Asked),
    }
    let after = Look::now(pids, agent);
    Ok(match before.until(&after) {
        Some(measured) if pids.is_empty() || after.living > 0 => Half::Measured(measured),
        _ => Half::Gone,
    })
}

/// Counters at one moment.
#[derive(Debug, Clone)]
pub(super) struct Look {
    moment: Instant,
    living: usize,
    cpu_s: Option<f64>,
    switches: Option<f64>,
    io_calls: Option<f64>,
    busy_s: f64,
    agent_s: Option<f64>,
}

impl Look {
    /// Of these processes together, of the machine, and of the agent that records.
    pub(super) fn now(pids: &[u32], agent: Option<u32>) -> Self {
        let each: Vec<_> = pids.iter().filter_map(|pid| Activity::of(*pid)).collect();
        let watched = !pids.is_empty();
        Self {
            moment: Instant::now(),
            living: each.len(),
            cpu_s: watched.then(|| each.iter().map(|it| it.cpu_s).sum()),
            switches: watched.then(|| each.iter().map(|it| it.switches).sum()),
            io_calls: watched.then(|| each.iter().map(|it| it.io_calls).sum()),
            busy_s: busy_ticks(&std::fs::read_to_string("/proc/stat").unwrap_or_default()) as f64 / TICKS,
            agent_s: agent.and_then(cpu_ns_of).map(|ns| ns as f64 / 1e9),
        }
    }

    /// What happened between two looks; none when a process ended in between.
    pub(super) fn until(&self, after: &Self) -> Option<Measured> {
        let wall_s = (after.moment - self.moment).as_secs_f64();
        let machine_s = wall_s * std::thread::available_parallelism().map_or(1.0, |cpus| cpus.get() as f64);
        // Threads that have ended take their switches with them; the CPU time of a process stays.
        let more = |before: Option<f64>, after: Option<f64>| Some((after? - before?).max(0.0));
        (self.living == after.living).then(|| Measured {
            wall_s,
            cpu_s: more(self.cpu_s, after.cpu_s),
            switches: more(self.switches, after.switches),
            io_calls: more(self.io_calls, after.io_calls),
            busy_percent: (after.busy_s - self.busy_s) * 100.0 / machine_s,
            agent_percent: more(self.agent_s, after.agent_s).map(|agent_s| agent_s * 100.0 / machine_s),
            own_percent: None,
        })
    }
}

/// Counters of one process.
struct Activity {
    cpu_s: f64,
    switches: f64,
    io_calls: f64,
}

impl Activity {
    fn of(pid: u32) -> Option<Self> {
        let read = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}"));
        let own_s = cpu_ns_of(pid)? as f64 / 1e9;
        let threads = numeric_entries(std::path::Path::new(&format!("/proc/{pid}/task")));
        let switches =
            threads.into_iter().map(|tid| switches(&read(&format!("task/{tid}/status")).unwrap_or_default()));
        Some(Self {
            cpu_s: own_s + children_ticks(&read("stat").ok()?) as f64 / TICKS,
            switches: switches.sum::<u64>() as f64,
            // Only root and the owner may read it.
            io_calls: io_calls(&read("io").unwrap_or_default()) as f64,
        })
    }
}

/// CPU time of children that were waited for: `cutime` and `cstime`, fields 16 and 17 of `/proc/PID/stat`. The name may have anything in it.
fn children_ticks(stat: &str) -> u64 {
    let fields = stat.rsplit(')').next().unwrap_or_default().split_ascii_whitespace();
    fields.skip(13).take(2).filter_map(|field| field.parse::<u64>().ok()).sum()
}

fn switches(status: &str) -> u64 {
    sum_of(status, &["voluntary_ctxt_switches:", "nonvoluntary_ctxt_switches:"])
}

fn io_calls(io: &str) -> u64 {
    sum_of(io, &["syscr:", "syscw:"])
}

fn sum_of(text: &str, keys: &[&str]) -> u64 {
    let value = |line: &str| {
        let (key, value) = line.split_once(char::is_whitespace)?;
        keys.contains(&key).then(|| value.trim().parse::<u64>().ok())?
    };
    text.lines().filter_map(value).sum()
}

/// Time that CPUs were busy, from `/proc/stat`: all but idle, iowait and stolen; guests are counted in user time already.
fn busy_ticks(stat: &str) -> u64 {
    let fields: Vec<u64> = stat
        .lines()
        .next()
        .unwrap_or_default()
        .split_ascii_whitespace()
        .skip(1)
        .filter_map(|field| field.parse().ok())
        .collect();
    [0, 1, 2, 5, 6].iter().filter_map(|index| fields.get(*index)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read_as_proc_writes_them() {
        assert_eq!(
            switches("Name:\tx\nvoluntary_ctxt_switches:\t150\nnonvoluntary_ctxt_switches:\t545\n"),
            695
        );
        assert_eq!(io_calls("rchar: 99\nwchar: 99\nsyscr: 7\nsyscw: 5\n"), 12);
        assert_eq!(children_ticks("42 (a) b) R 1 42 42 0 -1 4194560 1 2 3 4 9 9 150 50 20 0 1 0"), 200);
        assert_eq!(busy_ticks("cpu  100 200 400 1000 1000 800 1600 1000 1 1\ncpu0 9 9 9"), 3100);
        assert_eq!(busy_ticks(""), 0);
    }

    #[test]
    fn our_own_process_can_be_watched() {
        let me = [std::process::id()];
        let before = Look::now(&me, me.first().copied());
        let mut spun = 0_u64;
        while cpu_ns_of(me[0]).unwrap() < (before.agent_s.unwrap() * 1e9) as u64 + 20_000_000 {
            spun = std::hint::black_box(spun + 1);
        }
        let measured = before.until(&Look::now(&me, me.first().copied())).unwrap();
        assert!(measured.cpu_s.unwrap() >= 0.02 && measured.agent_percent.unwrap() > 0.0, "{measured:?}");
        assert!(Look::now(&[u32::MAX >> 2], None).living == 0);
    }
}
