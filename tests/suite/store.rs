//! Profiles in a store, and out of it again: through the command line, past `kill -9`, on a disk that is full.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tests::{Run, Started, agent, need_root, run, sampling_agent, workload};

/// A recording of a program whose true shares are known, in a folder of its own.
fn recorded(folder: &Path) -> PathBuf {
    need_root();
    let mut agent = sampling_agent("record");
    agent.args(["-F", "499", "-o", "x.pb.gz", "--"]).arg(workload("cpu_split")).arg("2");
    let recorded = run(agent.current_dir(folder)).unwrap();
    assert_eq!(recorded.code, 0, "{}", recorded.stderr);
    folder.join("x.pb.gz")
}

fn add(file: &Path, store: &Path, arguments: &[&str]) -> Run {
    let mut agent = agent();
    agent.args(["debug", "store", "--store"]).arg(store).args(arguments).arg(file);
    run(&mut agent).unwrap()
}

fn query(question: &str, store: &Path, arguments: &[&str]) -> Run {
    run(agent().args(["query", question, "--store"]).arg(store).args(arguments)).unwrap()
}

/// When windows of these tests begin: Unix seconds.
const BEGIN: &str = "1767268800";
const THAT_DAY: [&str; 4] = ["--from", "2026-01-01T12:00:00Z", "--to", "2026-01-02T12:00:00Z"];

fn json(run: &Run) -> serde_json::Value {
    assert_eq!(run.code, 0, "{}", run.stderr);
    serde_json::from_str(&run.stdout).unwrap_or_else(|error| panic!("{error}: {}", run.stdout))
}

#[test]
fn what_was_stored_is_shown_as_table_picture_and_change() {
    let folder = tempfile::tempdir().unwrap();
    let (file, store) = (recorded(folder.path()), folder.path().join("store"));
    let added = add(&file, &store, &["--at", BEGIN, "--copies", "3"]);
    assert!(
        added.code == 0 && added.stdout.starts_with("3 windows added"),
        "{}{}",
        added.stdout,
        added.stderr
    );

    let direct = run(agent().args(["report", "--json"]).arg(&file)).unwrap();
    let shares = |table: &serde_json::Value| -> Vec<(String, f64)> {
        let rows = table["functions"].as_array().unwrap().iter().take(3);
        rows.map(|row| (row["name"].to_string(), row["self_percent"].as_f64().unwrap())).collect()
    };
    let stored = query("top", &store, &[&THAT_DAY[..], &["--json"]].concat());
    assert_eq!(shares(&json(&stored)), shares(&json(&direct)));

    let table = query("top", &store, &[&THAT_DAY[..], &["--process", "/cpu_spl/", "-T", "5"]].concat());
    assert!(
        table.stdout.contains("work_forty") && table.stdout.contains("3 windows from 2026-01-01T12:00:00Z"),
        "{}",
        table.stdout
    );

    let svg = folder.path().join("x.svg");
    let drawn = query("flamegraph", &store, &[&THAT_DAY[..], &["-o", svg.to_str().unwrap()]].concat());
    assert!(
        drawn.code == 0 && std::fs::read_to_string(&svg).unwrap().contains("work_forty"),
        "{}",
        drawn.stderr
    );
    let packed = folder.path().join("y.pb.gz");
    query("flamegraph", &store, &[&THAT_DAY[..], &["-o", packed.to_str().unwrap()]].concat());
    let samples = |file: &Path| {
        let folded = run(agent().args(["flamegraph", "--folded"]).arg(file)).unwrap().stdout;
        tests::Folded::parse(&folded).unwrap().total()
    };
    assert_eq!(samples(&packed), 3 * samples(&file));

    let same = query(
        "diff",
        &store,
        &[
            "2026-01-01T12:00:00Z..2026-01-01T12:00:02Z",
            "2026-01-01T12:00:02Z..2026-01-02T12:00:00Z",
            "--json",
        ],
    );
    let largest = &json(&same)["functions"][0]["self_delta"];
    assert!(largest.as_f64().unwrap().abs() < 1e-6, "{largest}");

    let windows = query("windows", &store, &[&THAT_DAY[..], &["--json"]].concat());
    assert_eq!(json(&windows)["windows"].as_array().unwrap().len(), 3);
}

#[test]
fn errors_of_queries_say_what_there_is() {
    let folder = tempfile::tempdir().unwrap();
    let (file, store) = (recorded(folder.path()), folder.path().join("store"));
    let missing = query("top", &store, &[]);
    assert!(missing.code == 1 && missing.stderr.contains("daemon run"), "{}", missing.stderr);
    add(&file, &store, &["--at", BEGIN]);
    let elsewhen = query("top", &store, &[]);
    assert!(
        elsewhen.code == 5 && elsewhen.stderr.contains("it has some from 2026-01-01T12:00:00Z"),
        "{}",
        elsewhen.stderr
    );
    let nobody = query("top", &store, &[&THAT_DAY[..], &["--process", "nobody"]].concat());
    assert!(nobody.code == 5 && nobody.stderr.contains("busiest first: cpu_split"), "{}", nobody.stderr);
    let other = query("top", &store, &[&THAT_DAY[..], &["--type", "off-cpu"]].concat());
    assert!(other.code == 5 && other.stderr.contains("it has cpu: --type cpu"), "{}", other.stderr);
    let backwards = query("top", &store, &["--from", "now", "--to", "-1h"]);
    assert_eq!(backwards.code, 2, "{}", backwards.stderr);
    std::fs::set_permissions(&store, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let open = query("top", &store, &THAT_DAY);
    assert!(open.code == 3 && open.stderr.contains("chmod 700"), "{}", open.stderr);
}

#[test]
fn a_killed_writer_loses_nothing_but_the_window_that_it_was_writing() {
    let folder = tempfile::tempdir().unwrap();
    let (file, store) = (recorded(folder.path()), folder.path().join("store"));
    let mut stored = 0;
    for round in 0..50_u64 {
        let mut command = agent();
        command.args(["debug", "store", "--progress", "--copies", "1000000", "--store"]).arg(&store);
        command.args(["--at", &(1_767_268_800 + stored * 2).to_string()]).arg(&file);
        let mut writer = Started::of(command.stdout(Stdio::piped()).stderr(Stdio::null())).unwrap();
        let mut lines = BufReader::new(writer.stdout()).lines();
        let first = lines.next();
        assert!(first.is_some(), "round {round}: nothing was stored");
        std::thread::sleep(Duration::from_micros(round * 397 % 10_000));
        drop(writer);
        // What it said is on disk; it may have got one further, without having said so.
        let said = lines.map_while(Result::ok).last().or_else(|| first.unwrap().ok()).unwrap();
        stored += said.parse::<u64>().unwrap();
        let windows = query(
            "windows",
            &store,
            &["--from", "2026-01-01T00:00:00Z", "--to", "2126-01-01T00:00:00Z", "--json"],
        );
        let listed = json(&windows);
        let parts: u64 = listed["windows"]
            .as_array()
            .unwrap()
            .iter()
            .map(|window| window["parts"].as_u64().unwrap())
            .sum();
        assert!(parts == stored || parts == stored + 1, "round {round}: {parts} windows of {stored}");
        assert_eq!(listed["problems"].as_array().unwrap().len(), 0, "round {round}: {listed}");
        stored = parts;
    }
}

/// A small file system in memory over a folder, gone when dropped.
pub(crate) struct Small<'a>(&'a Path);

impl<'a> Small<'a> {
    pub(crate) fn over(folder: &'a Path, size: &str) -> Self {
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size},mode=700"), "perf-agent-test"])
            .arg(folder)
            .status();
        assert!(mounted.unwrap().success());
        Self(folder)
    }
}

impl Drop for Small<'_> {
    fn drop(&mut self) {
        let _best_effort = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

#[test]
fn a_full_disk_drops_the_oldest_windows_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let file = recorded(folder.path());
    let disk = tempfile::tempdir().unwrap();
    let _small = Small::over(disk.path(), "128k");
    let store = disk.path().join("store");
    // Two hours: more than there is room for, merged or not.
    let added = add(&file, &store, &["--at", BEGIN, "--copies", "4000"]);
    assert_eq!(added.code, 0, "{}", added.stderr);
    let dropped = |text: &str| -> u64 {
        let (_, rest) = text.split_once("because the disk was full: ").unwrap();
        rest.split_whitespace().next().unwrap().parse().unwrap()
    };
    let lost = dropped(&added.stdout);
    assert!(lost > 0, "{}", added.stdout);
    let windows = query(
        "windows",
        &store,
        &["--from", "2026-01-01T00:00:00Z", "--to", "2026-12-31T00:00:00Z", "--json"],
    );
    let listed = json(&windows);
    let parts = listed["windows"].as_array().unwrap().iter().map(|window| window["parts"].as_u64().unwrap());
    assert_eq!(parts.sum::<u64>() + lost, 4_000);
    assert_eq!(listed["problems"].as_array().unwrap().len(), 0);
}
