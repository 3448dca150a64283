//! Allocations of Go programs that know who asked for how much. Needs `go` (Debian's golang-go) and fails, saying so, where it is missing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tests::{agent, need_root, run, seconds, truth};

use crate::recording::{Recorded, background, record_with};

const SITES: [&str; 5] = ["siteSmall", "siteMiddle", "siteLarge", "siteKept", "siteDeep"];

/// Builds the program; the linker of one that cannot ask for a heap profile switches Go's sampling off.
fn build(folder: &Path, profiled: bool, options: &[&str]) -> PathBuf {
    let more: &[&str] = if profiled { &["go_sites_profiled.go"] } else { &[] };
    build_from(folder, more, options)
}

/// Builds the program with these files.
pub(crate) fn build_from(folder: &Path, more: &[&str], options: &[&str]) -> PathBuf {
    let programs = Path::new(env!("CARGO_MANIFEST_DIR")).join("programs");
    let program = folder.join("sites");
    let mut go = Command::new("go");
    go.args(["build", "-o"]).arg(&program).args(options).arg(programs.join("go_sites.go"));
    go.args(more.iter().map(|file| programs.join(file)));
    let needs_c = if more.contains(&"go_sites_cgo.go") { "1" } else { "0" };
    let cache = std::env::temp_dir().join("perf-agent-go-cache");
    let built = go.env("GOCACHE", cache).env("CGO_ENABLED", needs_c).output();
    let built = built.expect("this test profiles a Go program: install Debian's golang-go");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    program
}

fn record(
    verb: &str,
    options: &[&str],
    program: &Path,
    arguments: &[&str],
) -> (Recorded, BTreeMap<String, f64>) {
    let command: Vec<&str> =
        [program.to_str().unwrap()].into_iter().chain(arguments.iter().copied()).collect();
    let recorded = record_with(verb, options, &command);
    let truth = truth(&recorded.stdout).unwrap();
    (recorded, truth)
}

/// Sum of a value over the sites whose stack has the function.
fn sum(recorded: &Recorded, function: &str, value: &str) -> f64 {
    let function = format!("main.{function}");
    let sites = recorded.json["sites"].as_array().unwrap().iter();
    let with = sites.filter(|site| site["stack"].as_array().unwrap().iter().any(|name| *name == *function));
    with.map(|site| site[value].as_f64().unwrap()).sum()
}

/// Every place's bytes and blocks lie within this share of what the program counted, and a few that the runtime itself needs while it allocates.
fn assert_near(recorded: &Recorded, truth: &BTreeMap<String, f64>, share: impl Fn(&str) -> f64) {
    for site in SITES {
        for (value, key, own) in [("alloc_bytes", "bytes", 8192.0), ("alloc_count", "count", 8.0)] {
            let (found, true_value) = (sum(recorded, site, value), truth[&format!("{site}_{key}")]);
            assert!(
                (found - true_value).abs() <= true_value * share(site) + own,
                "{site}, {value}: {found} found, {true_value} true\n{}\n{}",
                recorded.json["quality_line"],
                recorded.json["quality"]["notes"]
            );
        }
    }
}

/// Four and a half standard errors of blocks that are chosen at random, one in 512 KiB.
pub(crate) fn by_chance(truth: &BTreeMap<String, f64>, site: &str) -> f64 {
    let (count, bytes) = (truth[&format!("{site}_count")], truth[&format!("{site}_bytes")]);
    let chance = -(-bytes / count / f64::from(512 << 10)).exp_m1();
    4.5 * ((1.0 - chance) / (count * chance)).sqrt()
}

#[test]
fn blocks_that_go_chooses_stand_for_the_others() {
    let folder = tempfile::tempdir().unwrap();
    // Stripped as well: the table of functions stays, and where the rate is can be read from the code.
    for options in [&[][..], &["-ldflags=-s -w"], &["-buildmode=pie"]] {
        let program = build(folder.path(), true, options);
        let arguments = [&*seconds(2), "2000"];
        let (recorded, truth) = record("alloc", &["--max-overhead", "50%"], &program, &arguments);
        assert_near(&recorded, &truth, |site| by_chance(&truth, site));
        let notes = recorded.json["quality"]["notes"].to_string();
        assert!(notes.contains("one in 512 KiB on average (runtime.MemProfileRate)"), "{notes}");
        assert!(!notes.contains("every call was counted"), "{notes}");
        let totals = &recorded.json["totals"];
        let error = totals["error_percent"].as_f64().unwrap();
        assert!((1.0..30.0).contains(&error), "{totals}");
        // The runtime's own frames are left out where sites are shown, as in Go's own profiles.
        let first = &recorded.json["sites"][0]["stack"];
        assert!(
            first.as_array().unwrap().last().unwrap().as_str().unwrap().starts_with("main.site"),
            "{first}"
        );
    }
}

#[test]
fn the_rate_of_the_program_is_the_one_that_counts() {
    let folder = tempfile::tempdir().unwrap();
    let program = build(folder.path(), true, &[]);
    let arguments = [&*seconds(2), "500", "1"];
    let (recorded, truth) = record("alloc", &["--max-overhead", "100%"], &program, &arguments);
    assert_near(&recorded, &truth, |_| 0.01);
    let notes = recorded.json["quality"]["notes"].to_string();
    assert!(notes.contains("one in 1 B on average"), "{notes}");
}

#[test]
fn programs_that_choose_no_blocks_have_every_call_counted() {
    let folder = tempfile::tempdir().unwrap();
    let options = ["--exact", "--sample-bytes", "1"];
    for (profiled, arguments, why) in [
        (true, &[&*seconds(4), "1000", "0"][..], "runtime.MemProfileRate is 0"),
        (false, &[&*seconds(4), "1000"], "no part of it asks for a heap profile"),
        (true, &[&*seconds(4), "1000"], "--exact"),
    ] {
        let program = build(folder.path(), profiled, &[]);
        let (recorded, truth) = record("alloc", &options, &program, arguments);
        // A function that grows its stack begins anew, and counts once.
        assert_near(&recorded, &truth, |_| 0.0005);
        let notes = recorded.json["quality"]["notes"].to_string();
        assert!(
            notes.contains("every call of runtime.mallocgc was probed") && notes.contains(why),
            "{notes}"
        );
    }
}

#[test]
fn what_the_collector_frees_is_not_in_use() {
    let folder = tempfile::tempdir().unwrap();
    let program = build(folder.path(), true, &[]);
    for verb in ["alloc", "leaks"] {
        let options: &[&str] =
            if verb == "alloc" { &["--live"] } else { &["--max-overhead", "100%", "--older", "0"] };
        let (recorded, truth) = record(verb, options, &program, &[&*seconds(2), "2000"]);
        let (found, true_value) = (sum(&recorded, "siteKept", "live_bytes"), truth["siteKept_bytes"]);
        let notes = &recorded.json["quality"]["notes"];
        assert!(
            (found / true_value - 1.0).abs() < by_chance(&truth, "siteKept"),
            "{verb}: {found} of {true_value}: {notes}\n{}\n{}",
            recorded.json["quality"],
            recorded.json["sites"]
        );
        for site in ["siteSmall", "siteMiddle", "siteLarge"] {
            let (live, all) = (sum(&recorded, site, "live_bytes"), truth[&format!("{site}_bytes")]);
            assert!(live < 0.01 * all, "{site}: {live} of {all} bytes are in use: {notes}");
        }
        assert!(notes.to_string().contains("until the collector frees it"), "{notes}");
    }
}

#[test]
fn allocators_of_both_languages_of_a_program_are_seen() {
    let folder = tempfile::tempdir().unwrap();
    for options in [&[][..], &["-ldflags=-linkmode external -extldflags -static"]] {
        let program = build_from(folder.path(), &["go_sites_profiled.go", "go_sites_cgo.go"], options);
        let (recorded, truth) =
            record("alloc", &["--exact", "--sample-bytes", "1"], &program, &[&*seconds(4), "1000"]);
        assert_near(&recorded, &truth, |_| 0.0005);
        let sites = recorded.json["sites"].as_array().unwrap().iter();
        let of_c = sites.filter(|site| site["stack"].to_string().contains("cgo_site"));
        let bytes: f64 = of_c.map(|site| site["alloc_bytes"].as_f64().unwrap()).sum();
        let notes = &recorded.json["quality"]["notes"];
        assert!((bytes - 1_000_000.0).abs() < 0.5, "{bytes} bytes of 1000 blocks of 1000: {notes}");
        let found: Vec<&str> = recorded.json["totals"]["allocators"]
            .as_array()
            .unwrap()
            .iter()
            .map(|allocator| allocator["name"].as_str().unwrap())
            .collect();
        assert!(found.contains(&"Go") && found.contains(&"glibc"), "{found:?}");
    }
}

/// Go copies a stack that grows, and stops at a return address that is not its own: nothing of ours may lie on one, whoever is followed.
#[test]
fn programs_whose_stacks_grow_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let program = build(folder.path(), true, &[]);
    for (verb, options) in
        [("alloc", &["--live"][..]), ("leaks", &["--exact"]), ("alloc", &["--exact", "--sample-bytes", "1"])]
    {
        let (recorded, truth) = record(verb, options, &program, &[&*seconds(2), "1000", "1"]);
        let (found, true_value) = (sum(&recorded, "siteDeep", "alloc_count"), truth["siteDeep_count"]);
        assert!(
            (found / true_value - 1.0).abs() < 0.5,
            "{found} of {true_value}: {}",
            recorded.json["quality"]["notes"]
        );
    }
}

#[test]
fn leaks_of_a_program_that_chooses_no_blocks_are_refused() {
    need_root();
    let folder = tempfile::tempdir().unwrap();
    let program = build(folder.path(), false, &[]);
    let target = background(program, &["60", "1"]);
    std::thread::sleep(Duration::from_millis(500));
    let run = run(agent().args(["leaks", &target.id().to_string(), "1"]).current_dir(folder.path())).unwrap();
    assert_eq!(run.code, 1, "{}", run.stderr);
    assert!(
        run.stderr.contains("import net/http/pprof") && run.stderr.contains("perf-agent memory"),
        "{}",
        run.stderr
    );
}
