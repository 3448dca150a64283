//! Recording a program or a process, for tests that look at the profile.

use std::process::{Child, Command, Stdio};

use tests::{Folded, agent, need_root, run, workload};

/// What a recording came to.
pub(crate) struct Recorded {
    pub(crate) folded: Folded,
    pub(crate) json: serde_json::Value,
    pub(crate) stdout: String,
}

impl Recorded {
    /// CPU time that the samples stand for, nanoseconds.
    pub(crate) fn cpu_ns(&self) -> f64 {
        self.json["value_types"][1]["total"].as_f64().unwrap()
    }
}

/// `perf-agent record … -- COMMAND`, folded.
pub(crate) fn record(options: &[&str], command: &[&str]) -> Recorded {
    record_with("record", options, command)
}

/// The same with another verb.
pub(crate) fn record_with(verb: &str, options: &[&str], command: &[&str]) -> Recorded {
    need_root();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("out.folded");
    let mut agent = agent();
    let json = folder.path().join("out.json");
    agent
        .arg(verb)
        .args(options)
        .arg("-o")
        .arg(&file)
        .arg("-o")
        .arg(&json)
        .arg("--")
        .args(command)
        .current_dir(folder.path());
    let run = run(&mut agent).unwrap();
    assert_eq!(run.code, 0, "{}\n{}", run.stdout, run.stderr);
    let json = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    Recorded { folded: Folded::read(&file).unwrap(), json, stdout: run.stdout }
}

/// The path of a workload, as an argument.
pub(crate) fn path_of(name: &str) -> String {
    workload(name).to_str().unwrap().to_owned()
}

/// Starts a workload.
pub(crate) fn spawn(name: &str, arguments: &[&str]) -> Child {
    Command::new(workload(name))
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// `perf-agent attach PID`, folded.
pub(crate) fn attach(pid: u32, options: &[&str]) -> Folded {
    need_root();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("out.folded");
    let mut agent = agent();
    agent.arg("attach").arg(pid.to_string()).args(options).arg("-o").arg(&file).current_dir(folder.path());
    let run = run(&mut agent).unwrap();
    assert_eq!(run.code, 0, "{}\n{}", run.stdout, run.stderr);
    Folded::read(&file).unwrap()
}

/// A share.
pub(crate) fn percent(part: u64, whole: u64) -> f64 {
    part as f64 * 100.0 / whole as f64
}
