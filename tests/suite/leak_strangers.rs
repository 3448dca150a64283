//! Allocators that come late, and calls where nobody expects them.

use std::collections::BTreeMap;

use tests::{seconds, truth, workload};

use crate::recording::{Recorded, path_of, record_with};

/// Sum of a value over the sites with this function, without those of a handler that interrupted it.
fn sum(recorded: &Recorded, function: &str, value: &str) -> f64 {
    let sites = recorded.json["sites"].as_array().unwrap().iter();
    let with = sites.filter(|site| {
        let names = || site["stack"].as_array().unwrap().iter();
        names().any(|name| name == function)
            && (function == "site_handler" || names().all(|name| name != "site_handler"))
    });
    with.map(|site| site[value].as_f64().unwrap()).sum()
}

fn library(name: &str) -> String {
    workload(&format!("{name}.so")).to_str().unwrap().to_owned()
}

/// The number at the beginning of the note that goes on like this.
fn noted(recorded: &Recorded, text: &str) -> f64 {
    let notes = recorded.json["quality"]["notes"].as_array().unwrap().iter();
    let found = notes.filter_map(|note| note.as_str()?.strip_suffix(text));
    found.map(|number| number.replace(' ', "").parse::<f64>().unwrap()).sum()
}

fn interrupted(calls: &str, stack: &str) -> (Recorded, BTreeMap<String, f64>) {
    let command =
        [&*path_of("dlopen_handler"), &library("dlopen_arena_lib"), &seconds(2), "3000", calls, stack];
    let recorded = record_with("alloc", &["--live", "--sample-bytes", "1"], &command);
    let truth = truth(&recorded.stdout).unwrap();
    (recorded, truth)
}

#[test]
fn calls_of_signal_handlers_inside_other_calls_are_exact() {
    for stack in ["own", "same"] {
        let (recorded, truth) = interrupted("malloc", stack);
        let notes = &recorded.json["quality"]["notes"];
        for site in ["site_handler", "site_cleared", "site_kept"] {
            for (value, key) in [("alloc_count", "count"), ("live_count", "live")] {
                let (found, wanted) = (sum(&recorded, site, value), truth[&format!("{site}_{key}")]);
                assert!(
                    (found - wanted).abs() < 0.5,
                    "{stack} {site}, {value}: {found}, {wanted} true\n{notes}"
                );
            }
        }
        let inside =
            " calls were a signal handler's in the middle of another one, and counted like any other";
        assert!(noted(&recorded, inside) > 0.0, "no handler came in the middle: {notes}");
    }
}

#[test]
fn calls_of_signal_handlers_that_look_like_parts_of_others_are_counted_as_such() {
    let (recorded, truth) = interrupted("realloc", "same");
    let (found, wanted) = (sum(&recorded, "site_handler", "alloc_count"), truth["site_handler_count"]);
    let left_out = noted(
        &recorded,
        " calls were left out as parts of others although they came from far inside: signal handlers' may be among them",
    );
    let notes = &recorded.json["quality"]["notes"];
    assert!(found <= wanted && found + left_out >= wanted, "{found} found, {wanted} true\n{notes}");
    let moved = sum(&recorded, "site_moved", "alloc_count");
    assert!(
        (moved - truth["site_moved_count"]).abs() < 0.5,
        "{moved} found, {}\n{notes}",
        truth["site_moved_count"]
    );
    // On a stack of its own it cannot be a part.
    let (recorded, truth) = interrupted("realloc", "own");
    let (found, wanted) = (sum(&recorded, "site_handler", "alloc_count"), truth["site_handler_count"]);
    assert!(
        (found - wanted).abs() < 0.5,
        "{found} found, {wanted} true\n{}",
        recorded.json["quality"]["notes"]
    );
}

#[test]
fn an_allocator_that_is_loaded_later_is_followed_from_then_on() {
    for (file, prefix) in [("dlopen_arena_lib", ""), ("dlopen_arena_je_lib", "je_")] {
        let (malloc, free) = (format!("{prefix}malloc"), format!("{prefix}free"));
        let command = [&*path_of("dlopen_arena_main"), &library(file), &malloc, &free, &seconds(2)];
        let options = ["--exact", "--older", "0", "--sample-bytes", "1"];
        let recorded = record_with("leaks", &options, &command);
        let truth = truth(&recorded.stdout).unwrap();
        let notes = recorded.json["quality"]["notes"].to_string();
        for value in ["live_count", "live_bytes"] {
            let (found, wanted) = (sum(&recorded, "site_late", value), truth[&format!("late_{value}")]);
            assert!((found - wanted).abs() < 0.5, "{file}, {value}: {found} found, {wanted} true\n{notes}");
        }
        // What was allocated before the probes came is not known, and that is said; its frees are counted.
        assert!(sum(&recorded, "site_early", "live_count") <= truth["early_live_count"]);
        assert!(notes.contains(file) && notes.contains("while it was watched"), "{notes}");
        let unseen = recorded.json["totals"]["unseen_frees"]["count"].as_f64().unwrap();
        assert!(unseen < truth["early_freed"] + 20.0, "{unseen} frees");
    }
}
