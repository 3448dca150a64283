//! Allocations of programs that know who asked for how much.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::{Duration, Instant};

use tests::{Started, agent, need_root, run, seconds, truth};

use crate::recording::{Recorded, background, path_of, record_with, spawn};

/// Places of the program, each a function.
pub(crate) const SITES: [&str; 10] = [
    "site_malloc",
    "site_calloc",
    "site_realloc",
    "site_aligned",
    "site_posix",
    "site_churn",
    "site_thread",
    "site_handover",
    "site_kept",
    "site_strdup",
];

/// Sum of a value over the samples whose stack has a function.
fn sum(recorded: &Recorded, function: &str, value: &str) -> f64 {
    let samples = recorded.json["samples"].as_array().unwrap().iter();
    let with =
        samples.filter(|sample| sample["stack"].as_array().unwrap().iter().any(|name| name == function));
    with.map(|sample| sample["values"][value].as_f64().unwrap()).sum()
}

/// Bytes and counts, allocated and in use, are those that the program counted itself: within one percent.
pub(crate) fn assert_exact(recorded: &Recorded, truth: &BTreeMap<String, f64>, sites: &[&str]) {
    for site in sites {
        for (value, key) in [
            ("alloc_objects", "count"),
            ("alloc_space", "bytes"),
            ("inuse_objects", "live_count"),
            ("inuse_space", "live_bytes"),
        ] {
            let (found, true_value) = (sum(recorded, site, value), truth[&format!("{site}_{key}")]);
            assert!(
                (found - true_value).abs() <= true_value * 0.01,
                "{site}, {value}: {found} found, {true_value} true\n{}\n{}",
                recorded.json["quality_line"],
                recorded.json["quality"]["notes"]
            );
        }
    }
}

/// Records the program that allocates at known places, with all stacks; `launcher` comes before it.
pub(crate) fn record_sites(launcher: &[&str], program: &str) -> (Recorded, BTreeMap<String, f64>) {
    // The agent has to be there before it begins, on a busy machine too.
    let wait = seconds(4);
    let command: Vec<&str> = launcher.iter().copied().chain([program, &wait, "50"]).collect();
    let recorded = record_with("alloc", &["--live", "--sample-bytes", "1"], &command);
    let truth = truth(&recorded.stdout).unwrap();
    (recorded, truth)
}

#[test]
fn vm_every_place_that_allocates_is_exact() {
    let (recorded, truth) = record_sites(&[], &path_of("alloc_sites"));
    assert_exact(&recorded, &truth, &SITES);
    // What is freed at once is called temporary.
    let brief = sum(&recorded, "site_churn", "temporary_objects");
    assert!(brief > 0.5 * truth["site_churn_count"], "{brief}");
    assert!(sum(&recorded, "site_kept", "temporary_objects") < 1.0);
    let sites = recorded.json["sites"].as_array().unwrap();
    let kept = sites.iter().find(|site| site["stack"].to_string().contains("site_kept")).unwrap();
    assert_eq!(kept["live_bytes"].as_u64().unwrap(), truth["site_kept_live_bytes"] as u64);
    assert!(
        recorded.json["totals"]["calls"].as_f64().unwrap()
            >= SITES.iter().map(|site| truth[&format!("{site}_count")]).sum()
    );
}

#[test]
fn vm_totals_count_every_call_whatever_stacks_are_taken() {
    let recorded = record_with(
        "alloc",
        &["--exact", "--sample-bytes", "4K"],
        &[&path_of("alloc_sites"), &seconds(4), "50"],
    );
    let truth = truth(&recorded.stdout).unwrap();
    let (mut calls, mut bytes) = (0.0, 0.0);
    for site in SITES {
        calls += truth[&format!("{site}_count")];
        bytes += truth[&format!("{site}_bytes")];
    }
    let totals = &recorded.json["totals"];
    // The C library allocates a little for itself, and the child that it forks 1000 blocks of 1234 bytes at most.
    let (found_calls, found_bytes) = (totals["calls"].as_f64().unwrap(), totals["bytes"].as_f64().unwrap());
    assert!((calls..=calls + 1_100.0).contains(&found_calls), "{found_calls} calls, {calls} true");
    assert!((bytes..=bytes + 1.4e6).contains(&found_bytes), "{found_bytes} bytes, {bytes} true");
    // Weighted stacks add up to the same: some thousand of them, a standard error of some percent.
    let sampled: f64 = recorded.json["value_types"][2]["total"].as_f64().unwrap();
    assert!((0.8..1.25).contains(&(sampled / found_bytes)), "{sampled} of {found_bytes} bytes by stack");
}

#[test]
fn a_budget_is_kept_by_time_slices_that_say_how_sure_they_are() {
    let recorded = record_with("alloc", &["--max-overhead", "1%"], &[&path_of("alloc_storm"), "6", "200000"]);
    let truth = truth(&recorded.stdout).unwrap();
    let notes = recorded.json["quality"]["notes"].to_string();
    assert!(notes.contains("time slices"), "{notes}");
    let (found, error) = (
        recorded.json["totals"]["calls"].as_f64().unwrap(),
        recorded.json["totals"]["error_percent"].as_f64().unwrap(),
    );
    // The interval is one of what was found, 95 of 100 times: here twice as wide to both sides, by a factor to the lower one, which ends at zero.
    let (share, true_calls) = (error / 100.0, truth["calls"]);
    let (least, most) = (found * (1.0 - share).max(0.0).powi(2), found * (1.0 + 2.0 * share));
    assert!(
        error > 0.0 && (least..=most).contains(&true_calls),
        "{found} calls ± {error:.1} %, {true_calls} true\n{notes}"
    );
}

/// All executable code of a process, as it is in its memory.
pub(crate) fn code_of(pid: u32) -> Vec<Vec<u8>> {
    use std::os::unix::fs::FileExt;
    let memory = std::fs::File::open(format!("/proc/{pid}/mem")).unwrap();
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let code = maps.lines().filter(|line| line.contains(" r-xp ") && line.contains('/'));
    let read = |line: &str| {
        let (start, end) = line.split(' ').next().unwrap().split_once('-').unwrap();
        let number = |text| u64::from_str_radix(text, 16).unwrap();
        let mut bytes = vec![0; (number(end) - number(start)) as usize];
        memory.read_exact_at(&mut bytes, number(start)).unwrap();
        bytes
    };
    code.map(read).collect()
}

/// Kills the agent while its probes are in the target, which makes so many calls a second; returns how many bytes of code it leaves changed.
pub(crate) fn changed_by_a_killed_agent(arguments: &[&str], calls: &str) -> usize {
    need_root();
    // Seconds are enough for an agent here; in emulation it takes a minute to begin.
    let mut target = spawn("alloc_storm", &[&seconds(60), calls]);
    let pid = target.id();
    std::thread::sleep(Duration::from_millis(300));
    let before = code_of(pid);
    let folder = tempfile::tempdir().unwrap();
    let mut agent = agent();
    agent.args(arguments).args([&pid.to_string(), "60"]).current_dir(folder.path());
    let agent = Started::of(agent.stdout(Stdio::null()).stderr(Stdio::null())).unwrap();
    let begun = Instant::now();
    while code_of(pid) == before {
        assert!(target.ended().is_none(), "no probe appeared in {:?}", begun.elapsed());
        // A time slice takes some milliseconds only.
        std::thread::sleep(Duration::from_millis(2));
    }
    // Not while they are being put in: the kernel then leaves behind what it cannot take out any more (`uprobe: … failed to unregister, leaking
    // uprobe`), because a task with a fatal signal may not touch another one's pages (`__get_user_pages`, mm/gup.c).
    std::thread::sleep(Duration::from_millis(2));
    drop(agent);
    let (killed, mut left) = (Instant::now(), usize::MAX);
    while left > 0 && killed.elapsed() < Duration::from_secs(30) {
        let (now, was) = (code_of(pid).concat(), before.concat());
        assert_eq!(now.len(), was.len());
        left = now.iter().zip(&was).filter(|(now, was)| now != was).count();
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(target.ended().is_none(), "the target goes on");
    left
}

#[test]
fn vm_a_killed_agent_leaves_no_breakpoint_behind() {
    assert_eq!(changed_by_a_killed_agent(&["alloc", "--live"], "1000"), 0);
}

#[test]
fn a_target_without_an_allocator_is_told_so() {
    need_root();
    let target = background("busybox", &["sleep", "30"]);
    std::thread::sleep(Duration::from_millis(200));
    let run = run(agent().args(["alloc", &target.id().to_string(), "1"])).unwrap();
    assert_eq!(run.code, 1, "{}", run.stderr);
    assert!(
        run.stderr.contains("no allocator was found") && run.stderr.contains("perf-agent memory"),
        "{}",
        run.stderr
    );
}

#[test]
fn the_whole_host_is_no_target_for_probes() {
    let run = run(agent().arg("alloc")).unwrap();
    assert_eq!(run.code, 2, "{}", run.stderr);
    assert!(run.stderr.contains("perf-agent memory"), "{}", run.stderr);
}
