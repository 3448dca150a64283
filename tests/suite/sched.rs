//! The run queue of programs whose turns are known.

use tests::{agent, is_emulated, need_root, run, seconds, truth};

use crate::recording::path_of;

/// `perf-agent sched … --json -- COMMAND`: the report, and what the command printed.
fn sched(command: &[&str]) -> (serde_json::Value, String) {
    need_root();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("out.json");
    let mut agent = agent();
    agent.args(["sched", "-q", "-o"]).arg(&file).arg("--").args(command);
    let run = run(agent.current_dir(folder.path())).unwrap();
    assert_eq!(run.code, 0, "{}\n{}", run.stdout, run.stderr);
    (serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap(), run.stdout)
}

fn number(value: &serde_json::Value) -> f64 {
    value.as_f64().unwrap()
}

#[test]
fn vm_every_switch_is_counted_once() {
    let rounds = if is_emulated() { "2000" } else { "50000" };
    let (report, stdout) = sched(&[&path_of("nofp_pingpong"), rounds]);
    let truth = truth(&stdout).unwrap();
    let processes = report["processes"].as_array().unwrap();
    let found: f64 = processes.iter().map(|process| number(&process["switches"])).sum();
    // The program's own count misses its start and end.
    let ratio = found / truth["switches"];
    assert!((0.98..1.10).contains(&ratio), "{found} switches found, {} made", truth["switches"]);
    assert!((number(&report["all"]["switches"]) - found).abs() < 0.5, "processes add up to all");
    let cpus = report["cpus"].as_array().unwrap().iter();
    assert!((cpus.map(|cpu| number(&cpu["switches"])).sum::<f64>() - found).abs() < 0.5, "so do CPUs");
    for process in processes {
        for times in [&process["run_queue"], &process["on_cpu"]] {
            let buckets = times["histogram"].as_array().unwrap().iter();
            let count: f64 = buckets.map(|bucket| number(&bucket[2])).sum();
            assert!((count - number(&times["count"])).abs() < 0.5, "{times}");
            assert!(number(&times["p50_ns"]) <= number(&times["p99_ns"]), "{times}");
            assert!(number(&times["p99_ns"]) <= number(&times["max_ns"]), "{times}");
        }
    }
}

/// Two threads that burn on one CPU take turns: each waits for as long as the other one runs.
#[test]
fn vm_threads_that_share_a_cpu_wait_for_each_other() {
    let burn = path_of("nofp_threads");
    let (report, _) = sched(&[&burn, &seconds(2), "0"]);
    let all = &report["all"];
    let (queued, ran) = (number(&all["run_queue"]["total_ns"]), number(&all["on_cpu"]["total_ns"]));
    // Whoever else runs on that CPU makes them wait more.
    assert!(queued > 0.8 * ran, "{queued} ns queued, {ran} ns run");
    let preempted = number(&all["preempted"]) / number(&all["switches"]);
    assert!(preempted > 0.5, "{preempted}");
    let mean = number(&all["run_queue"]["mean_ns"]);
    assert!(mean > 300_000.0, "a wait is a slice of the scheduler's: {mean} ns");
}

#[test]
fn tables_and_mistakes() {
    need_root();
    let run_with = |arguments: &[&str]| run(agent().args(arguments)).unwrap();
    let table = run_with(&["sched", "-d", "1", "-q", "-T", "2"]);
    assert_eq!(table.code, 0, "{}", table.stderr);
    for part in ["WAITING FOR A CPU", "waiting for a CPU", "CPU 0", "more processes", "Quality"] {
        assert!(table.stdout.contains(part), "{part} in\n{}", table.stdout);
    }
    assert_eq!(run_with(&["sched", "999999999"]).code, 1);
    assert_eq!(run_with(&["sched", "-d", "1", "-o", "out.svg"]).code, 2);
}
