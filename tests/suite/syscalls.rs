//! System calls of a program that knows how many of each it made.

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::Value;
use tests::{agent, is_emulated, need_root, run, truth};

use crate::recording::{path_of, spawn};

/// Calls whose number the program chooses, with the error that all of them end in.
const CHOSEN: [(&str, Option<&str>); 5] = [
    ("getppid", None),
    ("fchmodat", Some("ENOENT")),
    ("fsync", Some("EBADF")),
    ("nanosleep", None),
    ("syscall_1000", Some("ENOSYS")),
];

/// `perf-agent syscalls … --json -o FILE`; returns the report and what the command printed.
fn record(options: &[&str], command: &[&str]) -> (Value, String) {
    need_root();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("calls.json");
    let mut agent = agent();
    agent.arg("syscalls").args(options).arg("-o").arg(&file);
    if !command.is_empty() {
        agent.arg("--").args(command);
    }
    let run = run(agent.current_dir(folder.path())).unwrap();
    assert_eq!(run.code, 0, "{}\n{}", run.stdout, run.stderr);
    (serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap(), run.stdout)
}

/// The calls of the process that made most `getppid`s, by name.
fn calls_of_program(report: &Value) -> BTreeMap<String, Value> {
    let calls = |process: &Value| -> BTreeMap<String, Value> {
        let calls = process["syscalls"].as_array().unwrap().iter();
        calls.map(|call| (call["name"].as_str().unwrap().to_owned(), call.clone())).collect()
    };
    let count = |calls: &BTreeMap<String, Value>| {
        calls.get("getppid").map_or(0, |call| call["count"].as_u64().unwrap())
    };
    report["processes"].as_array().unwrap().iter().map(calls).max_by_key(count).unwrap()
}

/// One number of one call, summed over all processes.
fn sum(report: &Value, name: &str, key: &str) -> u64 {
    let calls = report["processes"].as_array().unwrap().iter();
    calls
        .flat_map(|process| process["syscalls"].as_array().unwrap())
        .filter(|call| call["name"] == name)
        .map(|call| call[key].as_u64().unwrap())
        .sum()
}

#[test]
fn vm_every_call_is_counted_with_its_errors() {
    let (report, stdout) = record(&["--exact"], &[&path_of("calls")]);
    let truth = truth(&stdout).unwrap();
    assert_eq!(report["measure"]["mode"], "exact");
    assert_eq!(report["quality"]["lost"], serde_json::json!([]), "nothing is lost");
    let calls = calls_of_program(&report);
    for (name, error) in CHOSEN {
        let expected = truth[name] as u64;
        assert_eq!(calls[name]["count"], expected, "{name}: {}", calls[name]);
        let errors =
            error.map_or_else(|| serde_json::json!({}), |error| serde_json::json!({error: expected}));
        assert_eq!(calls[name]["errnos"], errors, "{name}");
        let in_histogram: u64 = calls[name]["histogram"]
            .as_array()
            .unwrap()
            .iter()
            .map(|bucket| bucket[2].as_u64().unwrap())
            .sum();
        assert_eq!(in_histogram, expected, "every call has a time");
    }
    // Numbers that no table has share an entry.
    assert_eq!(calls["syscall_unknown"]["errnos"], serde_json::json!({"ENOSYS": truth["unknown"] as u64}));
    if truth["setpgid32"] > 0.0 {
        assert_eq!(calls["32:setpgid"]["count"], truth["setpgid32"] as u64, "calls through the 32-bit table");
    }
    // A thread that is not the first one became another program, which made these.
    assert_eq!(sum(&report, "getpgid", "count"), truth["getpgid"] as u64);
    let vfork = if cfg!(target_arch = "x86_64") { "vfork" } else { "clone" };
    assert!(calls[vfork]["count"].as_u64().unwrap() >= truth["vfork"] as u64, "{}", calls[vfork]);
}

#[test]
fn vm_a_call_that_begins_again_after_a_signal_is_one_call() {
    let (report, stdout) = record(&["--exact"], &[&path_of("calls"), "3"]);
    let truth = truth(&stdout).unwrap();
    let calls = calls_of_program(&report);
    assert_eq!(calls["readv"]["count"], 1, "{}", calls["readv"]);
    assert_eq!(calls["readv"]["restarted"], truth["readv_restarted"] as u64);
    assert_eq!(calls["readv"]["errors"], 0);
    assert_eq!(calls["preadv2"]["errnos"], serde_json::json!({"EINTR": truth["preadv2"] as u64}));
    // Stopped and continued: the kernel carries the sleep on by `restart_syscall`.
    assert_eq!(sum(&report, "clock_nanosleep", "count"), truth["clock_nanosleep"] as u64);
    assert_eq!(sum(&report, "clock_nanosleep", "restarted"), truth["clock_nanosleep"] as u64);
    assert_eq!(sum(&report, "restart_syscall", "count"), 0);
    let text = report.to_string();
    for code in 512..=516 {
        assert!(!text.contains(&format!("errno_{code}")), "the kernel's own codes stay inside");
    }
}

#[test]
fn vm_sleeping_calls_take_as_long_as_the_program_says() {
    let (report, stdout) = record(&["--exact"], &[&path_of("calls"), "3"]);
    let truth = truth(&stdout).unwrap();
    let sleep = &calls_of_program(&report)["nanosleep"];
    let ratio = sleep["total_ns"].as_f64().unwrap() / truth["slept_ns"];
    let tolerance = if is_emulated() { 0.1 } else { 0.02 };
    assert!((ratio - 1.0).abs() < tolerance, "{ratio:.4} of the time that the program measured");
    for percentile in ["p50_ns", "p95_ns", "p99_ns"] {
        assert!(sleep[percentile].as_u64() <= sleep["max_ns"].as_u64());
        assert!(sleep[percentile].as_f64().unwrap() > 20e6 * 0.96, "{sleep}");
    }
}

#[test]
fn vm_calls_that_have_not_returned_are_listed() {
    let waiting = |report: &Value, name: &str| -> Value {
        let calls = report["in_flight"].as_array().unwrap().iter();
        calls.filter(|call| call["name"] == name).cloned().collect()
    };
    let child = spawn("calls", &["--wait", "60"]);
    std::thread::sleep(std::time::Duration::from_millis(500));
    let (report, _) = record(&["--exact", "-d", "1", "-p", &child.id().to_string()], &[]);
    for name in ["epoll_pwait", "ppoll"] {
        let calls = waiting(&report, name);
        assert_eq!(calls.as_array().unwrap().len(), 1, "{report}");
        assert_eq!(calls[0]["began_before"], true);
        assert_eq!(sum(&report, name, "in_flight"), 1);
        assert_eq!(sum(&report, name, "count"), 0);
    }
    // The same, from the beginning of the calls on: the recording ends first and waits for its command.
    let (report, _) = record(&["--exact", "-d", "2"], &[&path_of("calls"), "--wait", "4"]);
    let calls = waiting(&report, "epoll_pwait");
    assert_eq!(calls[0]["began_before"], false, "{report}");
    assert!(calls[0]["ns"].as_u64().unwrap() <= report["meta"]["duration_ns"].as_u64().unwrap());
}

#[test]
fn vm_slow_calls_have_arguments_and_a_stack() {
    let (report, stdout) = record(&["--exact", "--slower-than", "100ms"], &[&path_of("calls"), "3"]);
    let slow = report["slow_calls"].as_array().unwrap();
    assert!(slow.iter().all(|call| call["ns"].as_u64().unwrap() >= 100_000_000), "{slow:?}");
    let lengths: Vec<u64> = slow.iter().map(|call| call["ns"].as_u64().unwrap()).collect();
    assert!(lengths.is_sorted_by(|a, b| a >= b), "slowest first: {lengths:?}");
    let call = |name: &str| {
        slow.iter().find(|call| call["name"] == name).unwrap_or_else(|| panic!("{name}: {slow:?}"))
    };
    let stack = |call: &Value| -> Vec<String> {
        call["stack"].as_array().unwrap().iter().map(|frame| frame.as_str().unwrap().to_owned()).collect()
    };
    let sleep = call("clock_nanosleep");
    let frames = stack(sleep);
    let at = |name: &str| frames.iter().position(|frame| frame == name);
    assert!(at("stopped_sleep") < at("run_child") && at("run_child") < at("main"), "{frames:?}");
    assert!(
        at("stopped_sleep").is_some() && sleep["arguments"].as_str().unwrap().starts_with("1, 0, 0x"),
        "{sleep}"
    );
    let read = call("readv");
    assert!(read["arguments"].as_str().unwrap().contains(" <pipe:["), "{read}");
    assert_eq!(read["result"], "1");
    assert!(stdout.contains("Slowest calls") && stdout.contains("stopped_sleep"), "{stdout}");
}

#[test]
fn vm_calls_are_sampled_by_stack() {
    need_root();
    let folder = tempfile::tempdir().unwrap();
    let mut agent = agent();
    agent.args(["syscalls", "--exact", "-o", "out.folded", "-o", "out.pb.gz", "-o", "out.svg", "--"]);
    agent.arg(path_of("calls")).arg("20");
    let run = run(agent.current_dir(folder.path())).unwrap();
    assert_eq!(run.code, 0, "{}\n{}", run.stdout, run.stderr);
    let truth = truth(&run.stdout).unwrap();
    let folded = tests::Folded::read(&folder.path().join("out.folded")).unwrap();
    let slept: u64 = folded
        .stacks
        .iter()
        .filter(|(stack, _)| stack.last().is_some_and(|leaf| leaf == "nanosleep"))
        // In emulation the program may be over before its unwind tables are there.
        .filter(|(stack, _)| is_emulated() || stack.iter().any(|frame| frame == "batch_thread"))
        .map(|(_, ns)| ns)
        .sum();
    let ratio = slept as f64 / truth["slept_ns"];
    // Calls as long as these are all taken, unless too many come at once.
    assert!((0.7..1.1).contains(&ratio), "{ratio:.3} of the time asleep, in\n{:?}", folded.stacks);
    for file in ["out.pb.gz", "out.svg"] {
        assert!(folder.path().join(file).metadata().unwrap().len() > 500, "{file}");
    }
}

#[test]
fn vm_full_tables_are_counted() {
    let (report, stdout) = record(&["--exact", "--table-entries", "24"], &[&path_of("calls"), "3"]);
    let lost = report["quality"]["lost"].as_array().unwrap();
    assert!(lost.iter().any(|counter| counter["id"] == "syscall_cells_full"), "{lost:?}");
    assert!(stdout.contains("table"), "the quality line says so: {stdout}");
}

#[test]
fn vm_a_storm_of_processes_keeps_all_counts() {
    need_root();
    let script = "i=0; while [ $i -lt 400 ]; do /proc/self/exe -c 'exit 0' & i=$((i+1)); [ $((i%10)) = 0 ] && wait && sleep 0.03; done; wait";
    let shell = if is_emulated() { "/bin/busybox" } else { "/bin/dash" };
    let script = if is_emulated() {
        script.replace("/proc/self/exe", "/bin/busybox sh").replace("400", "60")
    } else {
        script.replace("/proc/self/exe", "/bin/dash")
    };
    let command = if is_emulated() { vec![shell, "sh", "-c", &script] } else { vec![shell, "-c", &script] };
    // Room for less than half of these processes, so that the others need the room of those that have ended.
    let (report, _) = record(&["--exact", "--table-entries", "16000"], &command);
    assert_eq!(report["quality"]["lost"], serde_json::json!([]), "nothing is lost");
    // The shell, its children, and a `sleep` for every ten of them, which some shells do by themselves.
    let expected = if is_emulated() { 61..=67 } else { 441..=441 };
    let ended = sum(&report, "exit_group", "count");
    assert!(expected.contains(&ended), "every process ended once: {ended}");
}

#[test]
fn counts_agree_with_strace() {
    need_root();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("strace.txt");
    let mut strace = Command::new("strace");
    strace.args(["-f", "-c", "-o"]).arg(&file).arg(path_of("calls")).arg("30");
    let traced = run(&mut strace).expect("the tests need strace: cargo xtask setup");
    assert_eq!(traced.code, 0, "{}", traced.stderr);
    let table = std::fs::read_to_string(&file).unwrap();
    let theirs = |name: &str| -> (u64, u64) {
        let line = table.lines().find(|line| line.split_whitespace().last() == Some(name));
        let words: Vec<&str> =
            line.unwrap_or_else(|| panic!("{name} in\n{table}")).split_whitespace().collect();
        (words[3].parse().unwrap(), if words.len() > 5 { words[4].parse().unwrap() } else { 0 })
    };
    let (report, _) = record(&["--exact"], &[&path_of("calls"), "30"]);
    for name in
        ["getppid", "fchmodat", "fsync", "nanosleep", "getpgid", "vfork", "pipe2", "epoll_create1", "clone3"]
    {
        assert_eq!((sum(&report, name, "count"), sum(&report, name, "errors")), theirs(name), "{name}");
    }
}

#[test]
fn counts_of_slices_lie_within_their_error_bars() {
    let (report, stdout) = record(&[], &[&path_of("calls"), "4000", "10"]);
    let truth = truth(&stdout).unwrap();
    assert_eq!(report["measure"]["mode"], "slices", "{}", report["measure"]);
    assert!(
        report["measure"]["share"].as_f64().unwrap() < 0.3
            && report["measure"]["slices"].as_u64().unwrap() > 5
    );
    let calls = calls_of_program(&report);
    for name in ["getppid", "fchmodat", "fsync"] {
        let (count, error) =
            (calls[name]["count"].as_f64().unwrap(), calls[name]["count_error"].as_f64().unwrap());
        assert!((count - truth[name]).abs() <= error, "{name}: {count} ± {error}, {} true", truth[name]);
        assert!(error > 0.0 && error < 2.0 * truth[name], "{name}: the error bars say something: {error}");
    }
    assert!(stdout.contains("slices of time") && stdout.contains('±'), "{stdout}");
    // Inside the budget every call is measured.
    let (report, _) = record(&["--max-overhead", "100"], &[&path_of("calls"), "3"]);
    assert_eq!(report["measure"]["mode"], "exact", "{}", report["measure"]);
}

#[test]
fn the_reader_chooses_calls_and_errors() {
    let program = path_of("calls");
    let (report, stdout) = record(&["--exact", "-x", "-H"], &[&program, "3"]);
    assert_eq!(sum(&report, "nanosleep", "count"), 0);
    assert!(sum(&report, "fsync", "count") > 0);
    assert!(stdout.contains("failed calls only") && stdout.contains("####"), "{stdout}");
    let (report, _) = record(&["--exact", "--errno", "enoent", "-S", "fchmodat,fsync"], &[&program, "3"]);
    let calls: Vec<&Value> = report["processes"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|p| p["syscalls"].as_array().unwrap())
        .collect();
    assert_eq!(calls.len(), 1, "{calls:?}");
    let (report, _) = record(&["--exact", "--by", "thread", "-S", "getppid"], &[&program, "3"]);
    let threads = report["processes"].as_array().unwrap().iter();
    let threads =
        threads.filter(|thread| thread["syscalls"][0]["name"] == "getppid" && thread["tid"].is_u64());
    assert_eq!(threads.count(), 3, "{report}");
    for (options, hint) in [(["-S", "opennat"], "openat"), (["--errno", "EFOO"], "ENOENT")] {
        let run = run(agent().arg("syscalls").args(options)).unwrap();
        assert_eq!(run.code, 2, "{}", run.stderr);
        assert!(run.stderr.contains(hint), "{}", run.stderr);
    }
}
