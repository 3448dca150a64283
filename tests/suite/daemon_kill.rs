//! A daemon that is killed again and again, in its start, while it records and while it writes: what it said it had stored is there.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::{agent, run, workload};

use crate::daemon::Daemon;
use crate::daemon_windows::{Window, whole};
use crate::faults::{assert_none_left, kernel_objects};
use crate::recording::background;

/// Kills of a usual run. Each takes a start, and a start of a build that is not optimized takes a second.
const KILLS: usize = 12;
/// Where daemons say that they run.
const SAID: &str = "/run/perf-agent/daemons";

/// Names of the files of a folder.
fn files(folder: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Another number of kills for a long run by hand.
fn kills() -> usize {
    let asked = std::env::var("PERF_AGENT_TEST_KILLS").ok();
    asked.map_or(KILLS, |kills| kills.parse().unwrap())
}

/// A moment in a life: all together spread evenly over it, in no order (multiples of the golden ratio, less whole numbers).
fn moment(kill: usize, life: Duration) -> Duration {
    life.mul_f64((kill as f64 * 0.618_033_988_749_895).fract())
}

/// Holes in time between windows.
fn gaps(windows: &[Window]) -> usize {
    let is_gap = |pair: &&[Window]| pair[1].start_ns.saturating_sub(pair[0].end_ns) > 10_000_000;
    windows.windows(2).filter(is_gap).count()
}

#[test]
fn a_daemon_that_is_killed_again_and_again_under_load_loses_open_windows_only() {
    let mut daemon = Daemon::idle();
    daemon.configure_all(49, "1s");
    let before = kernel_objects();
    // It gives way to the daemon, or most lives would be spent in a start.
    let nice = |program: &[&str]| background("nice", &[&["-n", "19"], program].concat());
    let spinner = workload("cpu_split");
    let _load =
        [nice(&[spinner.to_str().unwrap(), "600"]), nice(&["sh", "-c", "while :; do /bin/true; done"])];
    let said_before = files(Path::new(SAID));
    // A longest life is twice as long as it takes to store a window here and now: half of it is a start.
    let began = Instant::now();
    daemon.launch();
    daemon.wait_for("a window", |daemon| daemon.windows_written() > 0);
    let life = began.elapsed() * 2;
    // Windows that daemons said they had stored, and beginnings of those that a look has found.
    let mut said = daemon.windows_written();
    daemon.kill();
    let kills = kills();
    let mut seen = BTreeSet::new();
    let (mut with_windows, mut torn) = (0, 0);
    for kill in 1..=kills {
        daemon.launch();
        std::thread::sleep(moment(kill, life));
        let pid = daemon.pid();
        daemon.kill();
        torn += daemon.log().matches("was being written").count();
        assert!(!daemon.log().contains("damaged"), "kill {kill}: {}", daemon.log());
        let status = daemon.status();
        assert_ne!(status["running"], Value::Bool(true), "nobody takes the dead for running: {status}");
        if status["status"]["pid"] == pid {
            let windows = status["status"]["windows"].as_u64().unwrap();
            said += windows;
            with_windows += usize::from(windows > 0);
        }
        let kept = daemon.windows();
        // One that was stored a moment before the kill was not spoken of.
        let fits = said..=said + kill as u64 + 1;
        assert!(fits.contains(&(kept.len() as u64)), "kill {kill}: {} windows, {said} said", kept.len());
        let starts: BTreeSet<u64> = kept.iter().map(|window| window.start_ns).collect();
        assert!(seen.is_subset(&starts), "kill {kill}: windows that were there are gone");
        assert_eq!(starts.len(), kept.len(), "kill {kill}: two windows of one time");
        seen = starts;
    }
    daemon.run();
    daemon.wait_for("a window", |daemon| daemon.windows_written() > 0);
    assert_eq!(daemon.end().code, 0);

    let windows = daemon.windows();
    assert!(with_windows >= kills / 10 && seen.len() >= with_windows, "{with_windows} stored windows");
    assert!(gaps(&windows) <= kills + 1, "{} holes in time", gaps(&windows));
    let recorded_ns: u64 = windows.iter().map(|window| window.duration_ns).sum();
    let spinner = daemon.profile(["--process", "cpu_split"], whole(&windows)).unwrap();
    let share = spinner.cpu_ns as f64 / recorded_ns as f64;
    assert!(share > 0.0 && share < 1.05, "one thread has {share:.2} of the time recorded");
    for kind in ["off-cpu", "memory", "syscalls"] {
        let mut top = agent();
        top.args(["query", "top", "--json", "--type", kind, "--from", "-1h", "--store"]).arg(daemon.store());
        let top = run(&mut top).unwrap();
        assert_eq!(top.code, 0, "{kind}: {}", top.stderr);
        let top: Value = serde_json::from_str(&top.stdout).unwrap();
        assert!(top["total"].as_u64() > Some(0), "{kind}: {top}");
    }
    // For a long run by hand.
    let found = format!(
        "{kills} kills in lives of up to {life:?}, {with_windows} after a window, {torn} in one; {} windows, {} holes\n",
        windows.len(),
        gaps(&windows)
    );
    std::io::stderr().write_all(found.as_bytes()).unwrap();

    let left = files(&daemon.store());
    assert!(left.iter().all(|name| [".new", ".damaged"].iter().all(|end| !name.ends_with(end))), "{left:?}");
    assert!(left.len() < 5, "one file of windows and a lock: {left:?}");
    assert_eq!(files(Path::new(SAID)).difference(&said_before).count(), 0, "it has ended");
    assert_none_left(&before);
}
