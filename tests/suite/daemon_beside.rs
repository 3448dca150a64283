//! What continuous recording keeps beside CPU time: waits, growing memory, each in windows of its own.

use serde_json::{Value, json};
use tests::{agent, finish, run, truth};

use crate::daemon::Daemon;
use crate::recording::{background, spawn, sum};

/// Largest difference from what the program measured, as a share: as for single recordings, and what the ends of windows add.
const TOLERANCE: f64 = 0.04;
const PER_WAIT_NS: f64 = 5_000.0;

impl Daemon {
    /// A profile of one process, over everything that is stored.
    fn profile_of(&self, pid: u32, kind: &str) -> Value {
        let file = self.folder.path().join("profile.json");
        let mut command = agent();
        command.args(["query", "flamegraph", "--type", kind, "--from", "-10m", "-p", &pid.to_string()]);
        let done = run(command.arg("--store").arg(self.store()).arg("-o").arg(&file)).unwrap();
        assert_eq!(done.code, 0, "{}", done.stderr);
        serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
    }
}

#[test]
fn waits_in_windows_are_as_long_as_the_program_says() {
    let mut daemon = Daemon::start_with_all(19, "1s");
    let folder = tempfile::tempdir().unwrap();
    let waiter = spawn("nofp_waits", &["5", folder.path().to_str().unwrap()]);
    let pid = waiter.id();
    let truth = truth(&finish(waiter).unwrap().stdout).unwrap();
    assert_eq!(daemon.end().code, 0);
    let profile = daemon.profile_of(pid, "off-cpu");
    for function in ["wait_sleep", "wait_mutex", "wait_condition", "wait_pipe"] {
        let found = sum(&profile, function, &["off_cpu", "run_queue"]);
        let allowed = truth[function] * TOLERANCE + sum(&profile, function, &["waits"]) * PER_WAIT_NS;
        assert!(
            (found - truth[function]).abs() <= allowed,
            "{function}: {found:.0} ns found, {:.0} true, {allowed:.0} allowed\n{}",
            truth[function],
            profile["quality_line"]
        );
    }
}

#[test]
fn a_thread_that_sleeps_all_the_time_sleeps_a_window_in_each() {
    let mut daemon = Daemon::start_with_all(19, "2s");
    let sleeper = background("sleep", &["600"]);
    let pid = sleeper.id().to_string();
    std::thread::sleep(std::time::Duration::from_secs(16));
    assert_eq!(daemon.end().code, 0);
    let mut command = agent();
    command.args(["query", "series", "--type", "off-cpu", "--json", "--from", "-10m", "-p", &pid]);
    let done = run(command.arg("--store").arg(daemon.store())).unwrap();
    assert_eq!(done.code, 0, "{}", done.stderr);
    let series: Value = serde_json::from_str(&done.stdout).unwrap();
    let points = series["points"].as_array().unwrap().iter();
    let points: Vec<&Value> = points.skip_while(|point| point["values"]["sleep"].is_null()).collect();
    assert!(points.len() >= 4, "{series}");
    // The first window has it begin, and may leave it to the second because its unwind table is on the way; the last one is short.
    for point in &points[2..points.len() - 1] {
        let slept = point["values"]["sleep"].as_f64().unwrap_or(0.0) / point["duration_ns"].as_f64().unwrap();
        assert!((0.97..1.03).contains(&slept), "{slept:.3} of a window slept: {series}");
    }
}

#[test]
fn memory_that_grows_is_in_windows() {
    let mut daemon = Daemon::start_with_all(19, "1s");
    let folder = tempfile::tempdir().unwrap();
    let grower = spawn("memory_growth", &[folder.path().to_str().unwrap()]);
    let pid = grower.id();
    let truth = truth(&finish(grower).unwrap().stdout).unwrap();
    assert_eq!(daemon.end().code, 0);
    let profile = daemon.profile_of(pid, "memory");
    // Who called it is known once the unwind table of the program is there, which it may not wait for. A huge page is a sample as rarely as a small one.
    let touched: f64 = ["grow_small_pages", "grow_twice_that", "grow_huge_pages", "grow_shared", "grow_heap"]
        .iter()
        .map(|function| truth[*function])
        .sum();
    let share = sum(&profile, "touch", &["resident"]) / touched;
    assert!((0.6..1.5).contains(&share), "{share:.2} of what it touched");
}

#[test]
fn system_calls_are_counted_over_windows_with_their_errors() {
    let mut daemon = Daemon::start_with_all(19, "1s");
    let caller = spawn("calls", &["2000"]);
    let pid = caller.id().to_string();
    let truth = truth(&finish(caller).unwrap().stdout).unwrap();
    assert_eq!(daemon.end().code, 0);
    let mut command = agent();
    command.args(["query", "syscalls", "--from", "-10m", "--json", "-p", &pid]);
    let done = run(command.arg("--store").arg(daemon.store())).unwrap();
    assert_eq!(done.code, 0, "{}", done.stderr);
    let report: Value = serde_json::from_str(&done.stdout).unwrap();
    assert_eq!(report["measure"]["mode"], "windows");
    let calls = report["processes"][0]["syscalls"].as_array().unwrap();
    for (name, error) in [("getppid", None), ("fchmodat", Some("ENOENT")), ("fsync", Some("EBADF"))] {
        let call = calls.iter().find(|call| call["name"] == name).unwrap();
        // Sums are taken out while calls are counted: one that is being counted in that very moment may be missing.
        let near = |found: u64| found.abs_diff(truth[name] as u64) <= 5;
        let count = call["count"].as_u64().unwrap();
        assert!(near(count), "{} true, {call}\n{}", truth[name], report["quality"]["notes"]);
        match error {
            Some(error) => assert!(call["errnos"][error].as_u64().is_some_and(near), "{call}"),
            None => assert_eq!(call["errnos"], json!({})),
        }
        let in_histogram: u64 =
            call["histogram"].as_array().unwrap().iter().map(|bucket| bucket[2].as_u64().unwrap()).sum();
        assert_eq!(in_histogram, count, "every call has a time");
    }
}

#[test]
fn stacks_that_user_space_finishes_do_not_crowd_out_events() {
    // Each process of a compiler faults thousands of pages before its unwind tables are there, and each of its stacks is a hundred times as
    // large until then.
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("many.c");
    let functions = (0..2_000).map(|number| {
        format!("int f{number}(int *a, int n) {{ int s = {number}; for (int i = 0; i < n; i++) s += a[i] * s; return s; }}\n")
    });
    std::fs::write(&source, functions.collect::<String>()).unwrap();
    let compile = format!("while :; do gcc -O2 -c {} -o /dev/null; done", source.display());
    let _compilers = [background("sh", &["-c", &compile]), background("sh", &["-c", &compile])];
    let mut daemon = Daemon::start_with_all(19, "1s");
    std::thread::sleep(std::time::Duration::from_secs(5));
    assert_eq!(daemon.end().code, 0);
    let log = daemon.log();
    let ended = log.lines().rfind(|line| line.contains("ended: ")).unwrap();
    assert!(!ended.contains(" 0 samples"), "{ended}");
    let lost: u64 = ended.split_once(" ring buffer full").map_or(0, |(before, _)| {
        let digits: String =
            before.chars().rev().take_while(|c| c.is_ascii_digit() || c.is_whitespace()).collect();
        digits.split_whitespace().collect::<String>().chars().rev().collect::<String>().parse().unwrap()
    });
    // Thousands, where copies fill the ring.
    assert!(lost < 200, "{ended}");
}
