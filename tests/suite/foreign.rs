//! Our files, read by programs that are not ours.

use std::process::Command;

use tests::{need_root, run, sampling_agent, truth, workload};

#[test]
fn go_tool_pprof_reads_our_profiles() {
    need_root();
    let folder = tempfile::tempdir().unwrap();
    let mut agent = sampling_agent("record");
    agent.args(["-F", "499", "-o", "x.pb.gz", "--"]).arg(workload("cpu_split")).arg("2");
    let recorded = run(agent.current_dir(folder.path())).unwrap();
    assert_eq!(recorded.code, 0, "{}", recorded.stderr);
    let truth = truth(&recorded.stdout).unwrap();
    let pprof = |arguments: &[&str]| {
        let mut go = Command::new("go");
        // Everything below the folder: the tool keeps settings and a cache in its home.
        go.args(["tool", "pprof"])
            .args(arguments)
            .arg("x.pb.gz")
            .current_dir(folder.path())
            .env("HOME", folder.path());
        let run = run(&mut go).expect("go is missing; run the tests with: cargo xtask test");
        assert_eq!(run.code, 0, "{}", run.stderr);
        run.stdout
    };
    let top = pprof(&["-top", "-unit=ns"]);
    assert!(top.contains("Type: cpu"), "{top}");
    let line = top.lines().find(|line| line.ends_with(" work_forty")).unwrap_or_else(|| panic!("{top}"));
    let flat: f64 = line.split_whitespace().next().unwrap().trim_end_matches("ns").parse().unwrap();
    let ratio = flat / truth["work_forty"];
    assert!((0.9..1.1).contains(&ratio), "{ratio}: {line}");
    let raw = pprof(&["-raw"]);
    for text in [
        "samples/count cpu/nanoseconds",
        "PeriodType: cpu nanoseconds",
        "pid:[",
        "work_forty",
        "cpu_split.c:",
        "[FN]",
    ] {
        assert!(raw.contains(text), "`{text}` is not in\n{raw}");
    }
}
