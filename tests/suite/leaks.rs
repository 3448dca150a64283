//! Leaks of a program that knows what it holds.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tests::{Started, agent, finish, need_root, run, seconds, truth};

use crate::recording::{Recorded, path_of, record_with, spawn};

/// The sites of a recording whose stack has this function.
pub(crate) fn sites<'r>(recorded: &'r Recorded, function: &str) -> Vec<&'r Value> {
    let all = recorded.json["sites"].as_array().unwrap().iter();
    all.filter(|site| site["stack"].as_array().unwrap().iter().any(|name| name == function)).collect()
}

pub(crate) fn sum(recorded: &Recorded, function: &str, value: &str) -> f64 {
    sites(recorded, function).iter().map(|site| site[value].as_f64().unwrap()).sum()
}

pub(crate) fn verdict(recorded: &Recorded, function: &str) -> String {
    let first = sites(recorded, function).first().map(|site| site["verdict"].to_string());
    first.unwrap_or_default().trim_matches('"').to_owned()
}

fn assert_exact(recorded: &Recorded, truth: &BTreeMap<String, f64>) {
    for site in ["site_leak", "site_cache", "site_vector", "site_queue", "site_handed", "site_churn"] {
        for value in ["live_bytes", "live_count"] {
            let (found, true_value) = (sum(recorded, site, value), truth[&format!("{site}_{value}")]);
            assert!(
                (found - true_value).abs() <= true_value * 0.01,
                "{site}, {value}: {found} found, {true_value} true\n{}\n{}",
                recorded.json["quality_line"],
                recorded.json["quality"]["notes"]
            );
        }
    }
}

/// Every block of the program for some seconds; `launcher` comes before it.
fn record_all(launcher: &[&str], length: &str) -> (Recorded, BTreeMap<String, f64>) {
    let (wait, program) = (seconds(1), path_of("leak_sites"));
    let command: Vec<&str> = launcher.iter().copied().chain([&*program, &wait, length, "1000"]).collect();
    let recorded = record_with("leaks", &["--exact", "--older", "0", "--sample-bytes", "1"], &command);
    let truth = truth(&recorded.stdout).unwrap();
    (recorded, truth)
}

#[test]
fn live_bytes_are_exact_and_the_leak_comes_first() {
    let (recorded, truth) = record_all(&[], "10");
    assert_exact(&recorded, &truth);
    let first = &recorded.json["sites"][0];
    assert!(first["stack"].to_string().contains("site_leak"), "{first}");
    assert_eq!(first["verdict"], "leaking");
    // 64 bytes every millisecond, while it ran.
    let (low, high) = (first["growth_low"].as_f64().unwrap(), first["growth_high"].as_f64().unwrap());
    assert!(low <= 64_000.0 && high >= 40_000.0, "{low} to {high} bytes a second");
    for (site, wanted) in [("site_cache", "filled"), ("site_queue", "swings")] {
        let found = verdict(&recorded, site);
        assert!(found == wanted || found == "steady", "{site} is {found}");
    }
    assert!(recorded.json["meta"]["leaks"]["slices"].is_null());
    // The flamegraph and its like show live bytes.
    assert_eq!(recorded.json["value_types"][5]["kind"], "inuse_space");
    let drawn = recorded.folded.with("site_leak") as f64;
    assert!((drawn - truth["site_leak_live_bytes"]).abs() < 0.01 * drawn, "{drawn}");
}

#[test]
fn other_allocators_are_exact_too() {
    for library in ["libjemalloc.so.2", "libtcmalloc_minimal.so.4", "libmimalloc.so.2.0"] {
        let path = format!("/usr/lib/{}-linux-gnu/{library}", std::env::consts::ARCH);
        assert!(
            std::path::Path::new(&path).exists(),
            "{path} is missing; run the tests with: cargo xtask test"
        );
        let (recorded, truth) = record_all(&["env", &format!("LD_PRELOAD={path}")], "3");
        assert_exact(&recorded, &truth);
    }
}

#[test]
fn what_ended_children_held_is_counted_apart() {
    let (recorded, _) = record_all(&[], "7");
    // The child that the program forks when half of its time is over allocates 1000 blocks of 64 bytes.
    let ended = &recorded.json["meta"]["leaks"];
    assert_eq!((ended["ended_count"].as_u64(), ended["ended_bytes"].as_u64()), (Some(1000), Some(64_000)));
}

#[test]
fn young_blocks_are_left_out_and_counted() {
    let recorded = record_with(
        "leaks",
        &["--exact", "--older", "8s", "--sample-bytes", "1"],
        &[&path_of("leak_sites"), "0.5", "10", "1000"],
    );
    let truth = truth(&recorded.stdout).unwrap();
    let leaks = &recorded.json["meta"]["leaks"];
    let (live, young) = (sum(&recorded, "site_leak", "live_bytes"), leaks["young_bytes"].as_f64().unwrap());
    assert!(live > 0.0 && live < truth["site_leak_live_bytes"], "{live}");
    assert!(live + young >= 0.99 * truth["site_leak_live_bytes"], "{live} and {young}");
    assert_eq!(leaks["older_ns"], 8_000_000_000_u64);
}

#[test]
fn sampled_blocks_stand_for_the_others() {
    let recorded = record_with(
        "leaks",
        &["--exact", "--older", "0", "--sample-bytes", "4K"],
        &[&path_of("leak_sites"), "1", "6", "1000"],
    );
    let truth = truth(&recorded.stdout).unwrap();
    for site in ["site_leak", "site_cache"] {
        let found = sites(&recorded, site);
        let (live, error) =
            (found[0]["live_bytes"].as_f64().unwrap(), found[0]["error_pct"].as_f64().unwrap());
        let true_live = truth[&format!("{site}_live_bytes")];
        let off = (live / true_live - 1.0).abs() * 100.0;
        assert!(error > 0.0 && off <= 4.0 * error, "{site}: {live} ± {error:.1} %, {true_live} true");
    }
}

#[test]
fn a_leak_is_found_in_time_slices_too() {
    let recorded = record_with(
        "leaks",
        &["--max-overhead", "1%", "--older", "1s"],
        &[&path_of("leak_sites"), "0.2", "25", "1000000"],
    );
    let notes = recorded.json["quality"]["notes"].to_string();
    assert!(notes.contains("time slices"), "{notes}");
    let first = &recorded.json["sites"][0];
    assert!(first["stack"].to_string().contains("site_leak"), "{first}");
    assert!(first["verdict"] == "leaking" || first["verdict"] == "growing?", "{first}");
    // What the probes keep the program from doing is not known well: a factor of two.
    let high = first["growth_high"].as_f64().unwrap_or(f64::MAX);
    let low = first["growth_low"].as_f64().unwrap();
    assert!(low <= 2.0 * 64_000.0 && high >= 64_000.0 / 2.0, "{low} to {high} bytes a second");
    assert_ne!(verdict(&recorded, "site_churn"), "leaking");
    assert_ne!(verdict(&recorded, "site_cache"), "leaking");
}

#[test]
fn ctrl_c_reports_what_is_known() {
    need_root();
    let target = spawn("leak_sites", &["0", &seconds(30), "1000"]);
    let folder = tempfile::tempdir().unwrap();
    let mut agent = agent();
    agent.args(["leaks", "--exact", &target.id().to_string(), "-d", "inf"]).current_dir(folder.path());
    agent.stdout(Stdio::piped()).stderr(Stdio::piped()).stdin(Stdio::null());
    let agent = Started::of(&mut agent).unwrap();
    std::thread::sleep(Duration::from_secs(6));
    let killed = Command::new("kill").args(["-INT", &agent.id().to_string()]).status().unwrap();
    assert!(killed.success());
    let run = finish(agent).unwrap();
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(run.stdout.contains("VERDICT") && run.stdout.contains("site_leak"), "{}", run.stdout);
}

#[test]
fn each_interval_has_its_table() {
    need_root();
    let folder = tempfile::tempdir().unwrap();
    let mut agent = agent();
    let program = path_of("leak_sites");
    agent.args(["leaks", "--exact", "-i", "2", "-o", "out.folded", "--", &program, "0.5", "7", "1000"]);
    let run = run(agent.current_dir(folder.path())).unwrap();
    assert_eq!(run.code, 0, "{}", run.stderr);
    let tables = run.stdout.matches("VERDICT").count();
    assert!(tables >= 3, "{tables} tables\n{}", run.stdout);
    assert!(run.stdout.matches("site_leak < main").count() >= 3, "{}", run.stdout);
}

#[test]
fn a_saved_recording_shows_the_same_table() {
    need_root();
    let folder = tempfile::tempdir().unwrap();
    let mut recording = agent();
    let program = path_of("leak_sites");
    recording.args([
        "leaks", "--exact", "--older", "0", "-o", "x.pb.gz", "-o", "x.folded", "--", &program, "0.5", "5",
        "1000",
    ]);
    let recorded = run(recording.current_dir(folder.path())).unwrap();
    assert_eq!(recorded.code, 0, "{}", recorded.stderr);
    let table = |text: &str| -> Vec<String> {
        let lines = text.lines().skip_while(|line| !line.contains("VERDICT"));
        let rows = lines.take_while(|line| line.contains("VERDICT") || line.contains(" < "));
        let mut table: Vec<String> = rows.map(str::to_owned).collect();
        // Those that are alike come in any order.
        table.sort();
        table
    };
    let report = |arguments: &[&str]| {
        let run = run(agent().arg("report").args(arguments).current_dir(folder.path())).unwrap();
        assert_eq!(run.code, 0, "{}", run.stderr);
        run.stdout
    };
    let again = report(&["x.pb.gz"]);
    assert!(table(&again).len() > 4, "{again}");
    assert_eq!(table(&recorded.stdout), table(&again));
    let json: Value = serde_json::from_str(&report(&["--json", "x.pb.gz"])).unwrap();
    assert!(
        json["sites"][0]["verdict"].is_string() && json["totals"]["calls"].is_u64(),
        "{}",
        json["sites"][0]
    );
    // Functions, when they are asked for.
    assert!(!report(&["--sort", "total", "x.pb.gz"]).contains("VERDICT"));
    assert!(!report(&["x.folded"]).contains("VERDICT"));
    let top = run(Command::new("go")
        .args(["tool", "pprof", "-sample_index=inuse_space", "-top", "x.pb.gz"])
        .current_dir(folder.path()));
    let top = top.unwrap();
    assert_eq!(top.code, 0, "{}", top.stderr);
    assert!(top.stdout.contains("Type: inuse_space") && top.stdout.contains("site_leak"), "{}", top.stdout);
}

#[test]
fn the_whole_host_is_no_target_for_leaks() {
    let run = run(agent().arg("leaks")).unwrap();
    assert_eq!(run.code, 2, "{}", run.stderr);
    assert!(run.stderr.contains("perf-agent memory"), "{}", run.stderr);
}
