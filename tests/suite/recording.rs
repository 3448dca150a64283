//! Recording a program or a process, for tests that look at the profile.

use std::ffi::OsStr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tests::{
    AT_ANY_COST, Folded, Started, agent, finish, need_root, run, sampling_agent, seconds, start_agent, truth,
    workload,
};

use crate::faults::signal;

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

/// `perf-agent record … -- COMMAND` at any cost, folded.
pub(crate) fn record(options: &[&str], command: &[&str]) -> Recorded {
    record_with("record", &[options, &AT_ANY_COST].concat(), command)
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

/// Sum of values over the samples of a profile whose stack has a frame.
pub(crate) fn sum(profile: &serde_json::Value, frame: &str, values: &[&str]) -> f64 {
    let samples = profile["samples"].as_array().unwrap().iter();
    let with = samples.filter(|sample| sample["stack"].as_array().unwrap().iter().any(|name| name == frame));
    with.map(|sample| values.iter().map(|value| sample["values"][value].as_f64().unwrap()).sum::<f64>()).sum()
}

/// The path of a workload, as an argument.
pub(crate) fn path_of(name: &str) -> String {
    workload(name).to_str().unwrap().to_owned()
}

/// Starts a workload whose output is kept for [`finish`].
pub(crate) fn spawn(name: &str, arguments: &[&str]) -> Started {
    let mut command = Command::new(workload(name));
    Started::of(command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped())).unwrap()
}

/// Starts a program whose output nobody reads.
pub(crate) fn background(program: impl AsRef<OsStr>, arguments: &[&str]) -> Started {
    Started::of(Command::new(program).args(arguments).stdout(Stdio::null())).unwrap()
}

/// `perf-agent attach PID` at any cost, folded.
pub(crate) fn attach(pid: u32, options: &[&str]) -> Folded {
    need_root();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("out.folded");
    let mut agent = sampling_agent("attach");
    agent.arg(pid.to_string()).args(options).arg("-o").arg(&file).current_dir(folder.path());
    let run = run(&mut agent).unwrap();
    assert_eq!(run.code, 0, "{}\n{}", run.stdout, run.stderr);
    Folded::read(&file).unwrap()
}

/// What a recording cost is known by cause, and adds up.
#[test]
fn vm_the_cost_of_a_recording_is_known_by_cause() {
    need_root();
    let recorded = record(&["-F", "99"], &[&path_of("nofp_burn"), &seconds(2)]);
    let cost = &recorded.json["quality"]["overhead"];
    let number = |value: &serde_json::Value| value.as_u64().unwrap();
    let programs = cost["programs"].as_array().unwrap();
    let sampler = programs.iter().find(|program| program["name"] == "sample_cpu").unwrap();
    let ticks = number(&cost["cpus"]) * 99 * number(&cost["wall_ns"]) / 1_000_000_000;
    let runs = number(&sampler["runs"]);
    // Ticks are left out where a CPU stalls, and on one that is idle for long: with no tick of the scheduler the kernel takes a hundred samples for a storm
    // and throttles them (`__perf_event_account_interrupt`, kernel/events/core.c). The program keeps one CPU busy.
    assert!(runs * 2 * number(&cost["cpus"]) > ticks && runs < ticks * 2, "{runs} runs, {ticks} ticks");
    let of_programs: u64 = programs.iter().map(|program| number(&program["ns"])).sum();
    assert_eq!(of_programs, number(&cost["bpf_ns"]));
    assert!(number(&cost["probes_ns"]) > runs * 300, "an interrupt takes longer: {cost}");
    assert!(number(&cost["busy_ns"]) > 0);
    let stages = cost["stages"].as_array().unwrap();
    let names: Vec<&str> = stages.iter().map(|stage| stage["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["start", "drain", "unwind tables", "symbols"]);
    let of_stages: u64 = stages.iter().map(|stage| number(&stage["cpu_ns"])).sum();
    let agent = number(&cost["agent_cpu_ns"]);
    assert!(of_stages.abs_diff(agent) * 50 <= agent, "{of_stages} in stages of {agent} ns");
    let line = recorded.json["quality_line"].as_str().unwrap();
    assert!(line.contains("of the machine (bpf "), "{line}");
}

/// A budget that is far too small for the rate: CPUs are sampled less often, and the samples stand for all the time nevertheless.
#[test]
fn vm_a_small_budget_samples_less_often_and_still_adds_up() {
    let asked = ["-F", "999", "--max-overhead", "0.2%"];
    let recorded = record_with("record", &asked, &[&path_of("cpu_split"), &seconds(4)]);
    let busy_ns = truth(&recorded.stdout).unwrap()["total_ns"];
    let share = recorded.cpu_ns() / busy_ns;
    assert!((0.9..1.1).contains(&share), "{share} of the CPU time\n{}", recorded.stdout);
    let samples = recorded.json["value_types"][0]["total"].as_f64().unwrap();
    assert!(samples < 0.6 * 999.0 * busy_ns / 1e9, "{samples} samples");
    let notes = recorded.json["quality"]["notes"].to_string();
    assert!(notes.contains("sampled less than 999 times a second"), "{notes}");
}

/// Two recordings at the same time see each other, leave room to each other and say so; `doctor` lists them.
#[test]
fn vm_recordings_of_one_host_share_the_budget() {
    need_root();
    let folder = tempfile::tempdir().unwrap();
    let _busy = spawn("nofp_burn", &["120"]);
    let start = |verb: &str, file: &str| {
        let arguments = [verb, "-a", "-d", "600", "-f", "json", "-o", file, "-q"];
        start_agent(&arguments, folder.path()).unwrap()
    };
    let agents = [("a.json", start("record", "a.json")), ("b.json", start("off-cpu", "b.json"))];
    let listed = || {
        let doctor = run(agent().args(["doctor", "--json"]).current_dir(folder.path())).unwrap();
        let json: serde_json::Value = serde_json::from_str(&doctor.stdout).unwrap();
        let checks = json["checks"].as_array().unwrap();
        let recordings = checks.iter().find(|check| check["id"] == "recordings").unwrap();
        let value = recordings["value"].as_str().unwrap();
        agents.iter().all(|(_, agent)| value.contains(&format!("pid {} ", agent.id())))
    };
    assert!(
        (0..60).any(|_| {
            std::thread::sleep(Duration::from_secs(1));
            listed()
        }),
        "doctor does not list both"
    );
    // They look at each other once a second.
    std::thread::sleep(Duration::from_secs(seconds(3).parse().unwrap()));
    for (file, agent) in agents {
        signal(agent.id(), libc::SIGINT);
        assert_eq!(finish(agent).unwrap().code, 0);
        let text = std::fs::read_to_string(folder.path().join(file)).unwrap();
        assert!(text.contains("another recording ran on this host"), "{file}: {text}");
    }
}

/// A share.
pub(crate) fn percent(part: u64, whole: u64) -> f64 {
    part as f64 * 100.0 / whole as f64
}

/// Operators can end all recordings of a host without looking for them.
#[test]
fn vm_a_stop_file_ends_recordings_and_refuses_new_ones() {
    need_root();
    let folder = tempfile::tempdir().unwrap();
    let stop = folder.path().join("stop");
    // A host that does nothing gives no samples.
    let _busy = spawn("nofp_burn", &["120"]);
    let recording = |options: &[&str]| {
        let mut agent = agent();
        agent.args(options).args(["-q", "--json"]).env("PERF_AGENT_STOP_FILE", &stop);
        run(agent.current_dir(folder.path())).unwrap()
    };
    for verb in ["record", "off-cpu", "syscalls", "sched"] {
        let file = stop.clone();
        let operator = std::thread::spawn(move || {
            // Long enough for a recording to start and to sample: it would end with nothing otherwise.
            std::thread::sleep(Duration::from_secs(seconds(2).parse().unwrap()));
            std::fs::write(file, "").unwrap();
        });
        let began = Instant::now();
        let ended = recording(&[verb, "-a", "-d", "600"]);
        operator.join().unwrap();
        assert_eq!(ended.code, 0, "{verb}: {}", ended.stderr);
        assert!(began.elapsed() < Duration::from_mins(5), "{verb} went on");
        let json: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
        let notes = json["quality"]["notes"].to_string();
        assert!(notes.contains("ended early") && notes.contains("/stop"), "{verb}: {notes}");
        let refused = recording(&[verb, "-a", "-d", "1"]);
        assert_eq!(refused.code, 3, "{verb}: {}", refused.stdout);
        assert!(refused.stderr.contains(&format!("sudo rm {}", stop.display())), "{}", refused.stderr);
        std::fs::remove_file(&stop).unwrap();
    }
}
