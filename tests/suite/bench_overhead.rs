//! `perf-agent bench-overhead` on a real kernel: that it compares what it says, and says what it cannot.

use tests::{agent, need_root, run};

use crate::faults::signal;
use crate::recording::{path_of, spawn};

#[test]
fn a_command_is_compared_with_itself() {
    need_root();
    let mut agent = agent();
    agent.args(["bench-overhead", "--rounds", "2", "--json", "--", &path_of("nofp_burn"), "0.2"]);
    let run = run(&mut agent).unwrap();
    assert_eq!(run.code, 0, "{}\n{}", run.stdout, run.stderr);
    let json: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    let pairs = json["pairs"].as_array().unwrap();
    assert_eq!(pairs.len(), 2, "{json}");
    for pair in pairs {
        for half in ["with", "without"] {
            assert!(pair[half]["cpu_s"].as_f64().unwrap() > 0.1, "{json}");
        }
        assert!(
            pair["with"]["agent_percent"].is_f64() && pair["without"]["agent_percent"].is_null(),
            "{json}"
        );
        assert!(pair["with"]["own_percent"].as_f64().unwrap() > 0.0, "{json}");
    }
    assert_eq!(json["compared"]["wall"]["ratio"]["count"], 2, "{json}");
}

#[test]
fn a_running_program_is_watched() {
    need_root();
    let child = spawn("nofp_pingpong", &["100000000"]);
    let mut agent = agent();
    agent.args([
        "bench-overhead",
        "--rounds",
        "1",
        "--window",
        "1",
        "--with",
        "off-cpu",
        &child.id().to_string(),
    ]);
    let run = run(&mut agent);
    let run = run.unwrap();
    assert_eq!(run.code, 0, "{}\n{}", run.stdout, run.stderr);
    for part in
        ["off-cpu -p ", "context switches", "reads and writes", "CPU time per read or write", "too few pairs"]
    {
        assert!(run.stdout.contains(part), "`{part}` is missing in\n{}", run.stdout);
    }
}

#[test]
fn an_interrupt_reports_what_there_is() {
    need_root();
    let arguments = ["bench-overhead", "--window", "500ms", "--rounds", "1000"];
    let mut child = tests::start_agent(&arguments, std::path::Path::new("/")).unwrap();
    // Two pairs are told of on standard error before it is interrupted.
    let mut told = std::io::BufReader::new(child.stderr());
    let mut line = String::new();
    while !line.contains("pair  2") {
        line.clear();
        assert!(std::io::BufRead::read_line(&mut told, &mut line).unwrap() > 0, "it ended early");
    }
    signal(child.id(), libc::SIGINT);
    let rest = std::thread::spawn(move || std::io::copy(&mut told, &mut std::io::sink()));
    let run = tests::finish(child).unwrap();
    rest.join().unwrap().unwrap();
    assert_eq!(run.code, 0, "{}", run.stdout);
    assert!(
        run.stdout.starts_with("Stopped early.") && run.stdout.contains("CPUs of the machine busy"),
        "{}",
        run.stdout
    );
}

#[test]
fn what_cannot_be_compared_says_why() {
    need_root();
    for (arguments, code, part) in [
        (&["bench-overhead", "999999999"][..], 1, "hint:"),
        (&["bench-overhead", "--", "/nonexistent/program"], 1, "cannot start `/nonexistent/program`"),
        (&["bench-overhead", "--rounds", "1", "--", "false"], 1, "failed with exit code 1"),
        (&["bench-overhead", "--window", "1ms"], 2, "--window is too short"),
        (&["bench-overhead", "--with", "alloc"], 2, "--with alloc needs a running target"),
        (&["bench-overhead", "1", "--", "true"], 2, "cannot be used with"),
    ] {
        let run = run(agent().args(arguments)).unwrap();
        assert_eq!(run.code, code, "{arguments:?}: {}{}", run.stdout, run.stderr);
        assert!(run.stderr.contains(part), "{arguments:?}: {}", run.stderr);
    }
}
