//! Growth of memory of a program that knows how much it touched, mapped and gave back.

use std::collections::BTreeMap;

use tests::{is_emulated, truth};

use crate::recording::{Recorded, path_of, record_with, sum};

const MIB: f64 = 1_048_576.0;

/// `perf-agent memory … -- memory_growth`, in a folder on a disk where there is one.
fn growth(options: &[&str]) -> (Recorded, BTreeMap<String, f64>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    let recorded = record_with("memory", options, &[&path_of("memory_growth"), path]);
    let truth = truth(&recorded.stdout).unwrap();
    (recorded, truth)
}

fn assert_near(recorded: &Recorded, what: &str, found: f64, truth: f64, tolerance: f64) {
    // A program in emulation has done much of its work before its unwind tables are there; what it did then has no caller.
    let tolerance = if is_emulated() { tolerance.max(0.15) } else { tolerance };
    assert!(
        (found - truth).abs() <= truth * tolerance,
        "{what}: {:.2} MiB found, {:.2} true\n{}\n{}",
        found / MIB,
        truth / MIB,
        recorded.json["quality_line"],
        recorded.json["quality"]["notes"]
    );
}

#[test]
fn bytes_faulted_in_are_those_of_the_program() {
    let (recorded, truth) = growth(&["-c", "13"]);
    for (function, value) in [
        ("grow_small_pages", "anon"),
        ("grow_twice_that", "anon"),
        ("grow_heap", "anon"),
        ("grow_shared", "file"),
        ("grow_shared", "resident"),
    ] {
        assert_near(&recorded, function, sum(&recorded.json, function, &[value]), truth[function], 0.08);
    }
    assert!(sum(&recorded.json, "grow_small_pages", &["file"]) < 1.0);
    assert!(sum(&recorded.json, "grow_shared", &["anon"]) < 1.0);
    assert!(sum(&recorded.json, "[heap]", &["anon"]) >= 0.8 * truth["grow_heap"]);
    assert!(sum(&recorded.json, "[shared memory]", &["file"]) >= 0.8 * truth["grow_shared"]);
    // Sixteen pages at a time come with one fault: 256 faults, of which few are taken.
    assert_near(&recorded, "grow_file", sum(&recorded.json, "grow_file", &["file"]), truth["grow_file"], 0.3);
}

#[test]
fn huge_pages_count_as_what_they_are() {
    let (recorded, truth) = growth(&["-c", "1"]);
    let found = sum(&recorded.json, "grow_huge_pages", &["anon"]);
    assert!(truth["huge_bytes"] > 0.0, "the kernel gave no huge pages to a program that asked for them");
    assert_near(&recorded, "grow_huge_pages", found, truth["grow_huge_pages"], 0.07);
    let faults = sum(&recorded.json, "grow_huge_pages", &["faults"]);
    assert!(faults < 1_000.0, "{faults} faults for {} MiB", truth["grow_huge_pages"] / MIB);
}

#[test]
fn vm_calls_that_map_memory_are_added_up() {
    let (recorded, truth) = growth(&["-c", "127", "--mappings", "on", "--max-overhead", "100%"]);
    for value in ["mapped", "unmapped"] {
        let found = sum(&recorded.json, "map_and_unmap", &[value]);
        assert_near(&recorded, &format!("map_and_unmap, {value}"), found, truth["map_and_unmap"], 0.02);
    }
    assert_near(
        &recorded,
        "grow_heap",
        sum(&recorded.json, "grow_heap", &["mapped"]),
        truth["grow_heap"],
        0.02,
    );
    assert_near(
        &recorded,
        "grow_shared",
        sum(&recorded.json, "grow_shared", &["mapped"]),
        truth["grow_shared"],
        0.02,
    );
    assert!(sum(&recorded.json, "grow_small_pages", &["unmapped"]) < 1.0);
}

#[test]
fn vm_the_resident_set_stands_beside_its_growth() {
    let (recorded, truth) = growth(&[]);
    let points = recorded.json["meta"]["resident"].as_array().unwrap();
    let most = points.iter().map(|point| point["anon_bytes"].as_f64().unwrap()).fold(0.0, f64::max);
    let true_anon = truth["grow_small_pages"] + truth["grow_twice_that"] + truth["grow_heap"];
    assert!(points.len() >= 2 && most <= (true_anon + truth["grow_huge_pages"]) * 1.1 + MIB);
    assert!(recorded.stdout.contains("Resident "), "{}", recorded.stdout);
}
