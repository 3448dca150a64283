//! Windows of continuous recording: they add up to what programs really used, whatever happens to the daemon.
//!
//! Samples stand for CPU time, so sums have the tolerance of a single recording ([`super::truth`]), whatever else the host does.

use std::time::Duration;

use serde_json::Value;
use tests::{Folded, Run, agent, finish, run, truth};

use crate::daemon::Daemon;
use crate::faults::signal;
use crate::recording::{percent, spawn};

/// A window of the store: beginning and end in seconds since the epoch, and time in it, nanoseconds.
pub(crate) struct Window {
    pub(crate) seconds: (u64, u64),
    pub(crate) start_ns: u64,
    pub(crate) end_ns: u64,
    pub(crate) duration_ns: u64,
}

pub(crate) struct Profile {
    pub(crate) folded: Folded,
    pub(crate) samples: u64,
    pub(crate) cpu_ns: u64,
}

impl Daemon {
    /// Windows that it says it has stored.
    pub(crate) fn windows_written(&self) -> u64 {
        self.status()["status"]["windows"].as_u64().unwrap_or(0)
    }

    /// Ends it as a service manager would.
    pub(crate) fn end(&mut self) -> Run {
        signal(self.pid(), libc::SIGTERM);
        finish(self.child.take().unwrap()).unwrap()
    }

    pub(crate) fn kill(&mut self) {
        drop(self.child.take().unwrap());
    }

    pub(crate) fn query(&self, question: &str, arguments: &[&str]) -> Run {
        let mut command = agent();
        command.args(["query", question, "--store"]).arg(self.store()).args(arguments);
        let run = run(command.current_dir(self.folder.path())).unwrap();
        assert!(!run.stderr.contains("warning"), "{}", run.stderr);
        run
    }

    pub(crate) fn windows(&self) -> Vec<Window> {
        let run = self.query("windows", &["--json", "--type", "cpu"]);
        assert_eq!(run.code, 0, "{}", run.stderr);
        let found: Value = serde_json::from_str(&run.stdout).unwrap();
        assert_eq!(found["problems"], Value::Array(Vec::new()));
        let number = |window: &Value, name: &str| window[name].as_u64().unwrap();
        let windows = found["windows"].as_array().unwrap().iter().map(|window| {
            let (start, end) = (number(window, "start_unix_ns"), number(window, "end_unix_ns"));
            let second = |ns: u64| (ns + 500_000_000) / 1_000_000_000;
            Window {
                // The last one may be shorter than a second.
                seconds: (second(start), second(end).max(second(start) + 1)),
                start_ns: start,
                end_ns: end,
                duration_ns: number(window, "duration_ns"),
            }
        });
        windows.collect()
    }

    /// What some processes did in a stretch of seconds: folded, and what its samples stand for. Nothing where they did nothing.
    ///
    /// `whom` is an option and its value: `-p PID`, for the host may run another program of the same name.
    pub(crate) fn profile(&self, whom: [&str; 2], seconds: (u64, u64)) -> Option<Profile> {
        let (from, to) = (seconds.0.to_string(), seconds.1.to_string());
        let range = ["--from", &from, "--to", &to, whom[0], whom[1]];
        let (folded, json) = (self.folder.path().join("x.folded"), self.folder.path().join("x.json"));
        for file in [&folded, &json] {
            let _not_there = std::fs::remove_file(file);
        }
        let files = ["-o", folded.to_str().unwrap(), "-o", json.to_str().unwrap()];
        let run = self.query("flamegraph", &[&range[..], &files].concat());
        if run.code != 0 {
            return None;
        }
        let json: Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
        let total = |index: usize| json["value_types"][index]["total"].as_u64().unwrap();
        Some(Profile { folded: Folded::read(&folded).unwrap(), samples: total(0), cpu_ns: total(1) })
    }
}

/// The stretch of all windows.
pub(crate) fn whole(windows: &[Window]) -> (u64, u64) {
    (windows.first().unwrap().seconds.0.saturating_sub(5), windows.last().unwrap().seconds.1 + 5)
}

#[test]
fn windows_add_up_to_what_a_program_used_with_names_in_each() {
    let mut daemon = Daemon::start(499, "2s");
    let burner = spawn("cpu_split", &["7"]);
    let pid = burner.id().to_string();
    let whom = ["-p", pid.as_str()];
    let known = truth(&finish(burner).unwrap().stdout).unwrap();
    // The last samples are in the window that is open.
    assert_eq!(daemon.end().code, 0);
    let windows = daemon.windows();
    assert!(windows.len() >= 4, "{} windows", windows.len());
    let all = daemon.profile(whom, whole(&windows)).unwrap();
    let share = all.cpu_ns as f64 / known["total_ns"];
    assert!((share - 1.0).abs() < 0.03, "{share:.4} of the true CPU time");
    for name in ["work_forty", "work_thirty", "work_twenty", "work_ten"] {
        let found = percent(all.folded.with(name), all.folded.total());
        let expected = known[name] * 100.0 / known["total_ns"];
        assert!((found - expected).abs() < 3.0, "{name}: {found:.1} % found, {expected:.1} % true");
    }
    let mut sum = 0;
    let mut with_samples = 0;
    for window in &windows {
        let Some(part) = daemon.profile(whom, window.seconds) else { continue };
        sum += part.samples;
        with_samples += 1;
        let named = percent(part.folded.with("main"), part.folded.total());
        // Before `main` the program is loaded, which takes long on a busy host.
        assert!(
            with_samples == 1 || part.samples < 100 || named > 95.0,
            "{named:.1} % of {} samples reach main",
            part.samples
        );
    }
    assert_eq!(sum, all.samples, "windows and the whole count the same samples");
    assert!(with_samples >= 3, "{with_samples} windows have samples");
    for pair in windows.windows(2) {
        assert_eq!(pair[0].seconds.1, pair[1].seconds.0, "no gap between windows");
    }
    // A host that is busy wakes us late now and then.
    let on_the_clock = windows.iter().filter(|window| window.seconds.0 % 2 == 0).count();
    assert!(
        on_the_clock * 2 >= windows.len(),
        "{on_the_clock} of {} windows begin on the clock",
        windows.len()
    );
    assert!(!daemon.status()["running"].as_bool().unwrap_or(false), "it has ended");
}

#[test]
fn processes_that_end_inside_a_window_and_generated_code_have_names() {
    let mut daemon = Daemon::start(499, "2s");
    let known = truth(&finish(spawn("short_lived", &["40"])).unwrap().stdout).unwrap();
    let jit = spawn("jit", &["4"]);
    let pid = jit.id().to_string();
    let map = format!("/tmp/perf-{pid}.map");
    finish(jit).unwrap();
    assert_eq!(daemon.end().code, 0);
    let _not_there = std::fs::remove_file(map);
    let all = whole(&daemon.windows());
    // A child that became `/proc/self/exe` is called so, as others on this host may be.
    let short = daemon.profile(["--process", "exe"], all).unwrap().folded.with("work_short") as f64;
    let burnt = 499.0 * known["total_ns"] / 1e9;
    assert!(short > 0.7 * burnt, "{short} samples in the function that burns, of {burnt:.0}");
    let jit = daemon.profile(["-p", &pid], all).unwrap();
    let named = percent(jit.folded.with("jitted_loop"), jit.folded.total());
    assert!(jit.samples > 300 && named > 85.0, "{named:.1} % of {} samples", jit.samples);
}

#[test]
fn sighup_changes_the_rate_without_a_gap_and_refuses_nonsense() {
    let mut daemon = Daemon::start(49, "1s");
    let burner = spawn("cpu_split", &["8"]);
    let pid = burner.id().to_string();
    let whom = ["-p", pid.as_str()];
    std::thread::sleep(Duration::from_secs(3));
    daemon.configure(199, "1s");
    signal(daemon.pid(), libc::SIGHUP);
    daemon.wait_for("word of the new rate", |daemon| daemon.log().contains("199 Hz"));
    std::thread::sleep(Duration::from_secs(2));
    std::fs::write(daemon.config(), "[cpu]\nrate_hz = 0\n").unwrap();
    signal(daemon.pid(), libc::SIGHUP);
    daemon.wait_for("refusal", |daemon| daemon.log().contains("refused"));
    assert!(daemon.log().contains("line 2"), "{}", daemon.log());
    let known = truth(&finish(burner).unwrap().stdout).unwrap();
    assert_eq!(daemon.end().code, 0);
    let windows = daemon.windows();
    let all = daemon.profile(whom, whole(&windows)).unwrap();
    let share = all.cpu_ns as f64 / known["total_ns"];
    assert!((share - 1.0).abs() < 0.03, "{share:.4} of the true CPU time");
    let parts = windows.iter().filter_map(|window| daemon.profile(whom, window.seconds));
    let periods: Vec<f64> =
        parts.filter(|part| part.samples > 10).map(|part| part.cpu_ns as f64 / part.samples as f64).collect();
    let (first, last) = (periods[0] / 1e9, periods[periods.len() - 1] / 1e9);
    assert!((first * 49.0 - 1.0).abs() < 0.25, "a sample stood for {first} s: {periods:?}");
    assert!((last * 199.0 - 1.0).abs() < 0.25, "a sample stands for {last} s: {periods:?}");
}

#[test]
fn excluded_processes_are_left_out_and_counted() {
    let mut daemon = Daemon::start(199, "1s");
    let text = std::fs::read_to_string(daemon.config()).unwrap();
    std::fs::write(daemon.config(), text + "[filter]\nexclude = [\"/^cpu_sp/\"]\n").unwrap();
    signal(daemon.pid(), libc::SIGHUP);
    daemon.wait_for("word of it", |daemon| daemon.log().contains("read again"));
    std::thread::sleep(Duration::from_secs(1));
    finish(spawn("cpu_split", &["1"])).unwrap();
    finish(spawn("nofp_burn", &["1"])).unwrap();
    assert_eq!(daemon.end().code, 0);
    let all = whole(&daemon.windows());
    assert!(daemon.profile(["--process", "cpu_split"], all).is_none());
    assert!(daemon.profile(["--process", "nofp_burn"], all).is_some_and(|profile| profile.samples > 50));
}
