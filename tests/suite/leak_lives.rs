//! Blocks whose lives are not simple: older than the recording, of processes that fork or are killed, without room in the table.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::{Started, agent, finish, need_root, seconds, truth, workload};

use crate::alloc::{changed_by_a_killed_agent, code_of};
use crate::leaks::{sites, sum, verdict};
use crate::recording::{Recorded, path_of, record_with};

/// Places of the program.
const SITES: [&str; 4] = ["site_older", "site_parent", "site_given", "site_child"];

fn assert_lives(json: &Value, truth: &BTreeMap<String, f64>) {
    for site in SITES {
        for value in ["live_count", "live_bytes"] {
            let all = json["sites"].as_array().unwrap().iter();
            let with = all.filter(|found| found["stack"].to_string().contains(&format!("\"{site}\"")));
            let found: f64 = with.map(|found| found[value].as_f64().unwrap()).sum();
            let true_value = truth[&format!("{site}_{value}")];
            assert!(
                (found - true_value).abs() < 0.5,
                "{site}, {value}: {found} found, {true_value} true\n{}\n{}",
                json["quality_line"],
                json["quality"]["notes"]
            );
        }
    }
    let (unseen, true_unseen) = (&json["totals"]["unseen_frees"], truth["unseen_frees"]);
    assert_eq!(unseen["error"], 0);
    // The C library frees a little of its own.
    let found = unseen["count"].as_f64().unwrap();
    assert!((true_unseen..true_unseen + 20.0).contains(&found), "{found} found, {true_unseen} true");
}

#[test]
fn threads_and_forks_keep_what_is_theirs() {
    for verb in [&["leaks", "--exact", "--older", "0"][..], &["alloc", "--live"]] {
        let options: Vec<&str> = verb[1..].iter().copied().chain(["--sample-bytes", "1"]).collect();
        let recorded = record_with(verb[0], &options, &[&path_of("leak_lives"), &seconds(2)]);
        assert_lives(&recorded.json, &truth(&recorded.stdout).unwrap());
        assert!(
            recorded.stdout.contains("frees were of blocks from before the recording"),
            "{}",
            recorded.stdout
        );
    }
}

/// Waits until the probes are in: the code of the target has changed, and does not change any more.
fn wait_for_probes(target: &mut Started, before: &[Vec<u8>]) {
    let (begun, mut last, mut since) = (Instant::now(), before.to_vec(), Instant::now());
    while last == before || since.elapsed() < Duration::from_secs(1) {
        assert!(target.ended().is_none(), "the target is gone");
        assert!(begun.elapsed() < Duration::from_mins(2), "no probe appeared");
        std::thread::sleep(Duration::from_millis(50));
        let now = code_of(target.id());
        if now != last {
            (last, since) = (now, Instant::now());
        }
    }
}

#[test]
fn a_killed_target_is_reported_with_what_it_held() {
    need_root();
    let mut command = Command::new(workload("leak_lives"));
    let mut target = Started::of(command.arg("-").stdin(Stdio::piped()).stdout(Stdio::piped())).unwrap();
    // It has its older blocks when it waits for us.
    let state = format!("/proc/{}/wchan", target.id());
    while !std::fs::read_to_string(&state).unwrap().contains("pipe") {
        std::thread::sleep(Duration::from_millis(20));
    }
    let before = code_of(target.id());
    let folder = tempfile::tempdir().unwrap();
    let mut agent = agent();
    agent.args(["leaks", "--exact", "--older", "0", "--sample-bytes", "1", "-d", "inf", "-q", "--json"]);
    agent.arg(target.id().to_string()).current_dir(folder.path()).stdin(Stdio::null());
    let agent = Started::of(agent.stdout(Stdio::piped()).stderr(Stdio::piped())).unwrap();
    wait_for_probes(&mut target, &before);
    // Not closed: it runs on until it is killed.
    let mut input = target.stdin();
    input.write_all(b"\n").unwrap();
    let mut line = String::new();
    BufReader::new(target.stdout()).read_line(&mut line).unwrap();
    drop(target);
    let run = finish(agent).unwrap();
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert_lives(&serde_json::from_str(&run.stdout).unwrap(), &truth(&line).unwrap());
}

#[test]
fn a_killed_leak_finder_leaves_no_breakpoint_behind() {
    // In slices probes come and go: once in some hundred times the signal comes while they do.
    for (arguments, calls) in [(&["leaks", "--exact"][..], "1000"), (&["leaks"], "0")] {
        let left = (0..3).map(|_| changed_by_a_killed_agent(arguments, calls)).find(|left| *left == 0);
        assert_eq!(left, Some(0), "{arguments:?}: breakpoints are still there");
    }
}

/// Blocks that found the table full are counted, and nothing is claimed of them.
#[test]
fn a_full_table_of_blocks_makes_live_bytes_a_lower_bound() {
    let program = path_of("leak_sites");
    let options = ["--sample-bytes", "1", "--table-entries", "200"];
    let assert_bounds = |recorded: &Recorded, least: f64, most: f64| {
        let truth = truth(&recorded.stdout).unwrap();
        let notes = recorded.json["quality"]["notes"].to_string();
        assert!(notes.contains("table of 200 blocks was full") && notes.contains("lower bound"), "{notes}");
        let live = sum(recorded, "site_leak", "live_bytes");
        let unfollowed = recorded.json["totals"]["unfollowed_bytes"].as_f64().unwrap();
        let true_live = truth["site_leak_live_bytes"];
        assert!(
            live * least <= true_live && true_live <= (live + unfollowed) * most,
            "{live}, {unfollowed}, {true_live}"
        );
    };
    let command = [&*program, &seconds(1), "6", "1000"];
    let recorded = record_with("alloc", &[&["--live"][..], &options].concat(), &command);
    assert_bounds(&recorded, 1.0, 1.0);
    assert!(recorded.stdout.contains("live bytes are a lower bound"), "{}", recorded.stdout);
    let recorded = record_with("leaks", &[&["--exact", "--older", "0"][..], &options].concat(), &command);
    // Where the table is nearly full fewer blocks are followed, which stand for the others.
    assert_bounds(&recorded, 0.5, 2.0);
    assert!(recorded.stdout.contains("at least ") && recorded.stdout.contains("≥"), "{}", recorded.stdout);
    let leaks = &recorded.json["meta"]["leaks"];
    assert!(leaks["unfollowed_count"].as_u64() > Some(1000), "{leaks}");
    for site in ["site_leak", "site_cache", "site_queue"] {
        // Of what is not seen to grow nothing is known.
        let found = verdict(&recorded, site);
        assert!(["unclear", "leaking", "growing?"].contains(&&*found), "{site} is {found}");
        let hidden = sites(&recorded, site)[0]["unfollowed_bytes"].as_f64().unwrap();
        assert!(hidden > 0.0, "{site}");
    }
    // What may have been missed is within the bounds.
    let high = sites(&recorded, "site_leak")[0]["growth_high"].as_f64().unwrap();
    assert!(high >= 40_000.0, "{high} bytes a second");
}
