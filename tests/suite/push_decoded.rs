//! What is pushed of every kind of windows, read by decoders that are not ours, is what `query` answers.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tests::receiver::Receiver;
use tests::run;

use crate::daemon::Daemon;
use crate::daemon_allocations::{EVERY, Holder};
use crate::push;
use crate::recording::sum;

const KINDS: [&str; 4] = ["cpu", "off-cpu", "memory", "alloc"];
/// One of the places in the program.
const SITE: &str = "site_leak";

/// Kind of a value: its unit and its total.
type Totals = BTreeMap<String, (String, u64)>;

/// What the store has of a process, or of all.
fn asked(daemon: &Daemon, kind: &str, whose: &[&str]) -> Value {
    let file = daemon.folder.path().join("asked.json");
    let name = file.to_str().unwrap();
    let arguments = ["--type", kind, "--from", "-10m", "--force", "-o", name];
    let done = daemon.query("flamegraph", &[&arguments[..], whose].concat());
    assert_eq!(done.code, 0, "{}", done.stderr);
    serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
}

fn totals(profile: &Value) -> Totals {
    let word = |value: &Value, name: &str| value[name].as_str().unwrap().to_owned();
    let total = |value: &Value| (word(value, "unit"), value["total"].as_u64().unwrap());
    let values = profile["value_types"].as_array().unwrap().iter();
    values.map(|value| (word(value, "kind"), total(value))).collect()
}

/// Fields of a protobuf message that are bytes: number and content. Requests to Pyroscope have no others.
fn fields(mut message: &[u8]) -> Vec<(u8, &[u8])> {
    let mut all = Vec::new();
    while let Some((tag, rest)) = message.split_first() {
        assert_eq!(tag & 7, 2, "not a field of bytes");
        let end = rest.iter().position(|byte| byte & 0x80 == 0).unwrap();
        let length = rest[..=end].iter().rev().fold(0, |sum, byte| sum << 7 | usize::from(byte & 0x7f));
        let (content, rest) = rest[end + 1..].split_at(length);
        all.push((tag >> 3, content));
        message = rest;
    }
    all
}

/// The pprof files of all services in requests to Pyroscope, by the name of their series.
fn pprof_files(bodies: &[Vec<u8>], folder: &Path) -> BTreeMap<String, Vec<PathBuf>> {
    let mut files: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    for (_, series) in bodies.iter().flat_map(|body| fields(body)) {
        let parts = fields(series);
        let of = |number: u8| parts.iter().filter(move |part| part.0 == number).map(|part| part.1);
        let name = of(1).map(fields).find(|pair| pair[0].1 == b"__name__").unwrap();
        let name = String::from_utf8(name[1].1.to_vec()).unwrap();
        let known = files.entry(name.clone()).or_default();
        for sample in of(2) {
            let file = folder.join(format!("{name}{}.pb.gz", known.len()));
            std::fs::write(&file, fields(sample)[0].1).unwrap();
            known.push(file);
        }
    }
    files
}

/// What `go tool pprof` adds up in files of the same kind.
fn by_go(files: &[PathBuf], home: &Path) -> Totals {
    let mut go = Command::new("go");
    go.args(["tool", "pprof", "-raw"]).args(files).env("HOME", home);
    let raw = run(&mut go).expect("go is missing; run the tests with: cargo xtask test");
    assert_eq!(raw.code, 0, "{}", raw.stderr);
    let mut lines = raw.stdout.lines().skip_while(|line| *line != "Samples:").skip(1);
    let types: Vec<(&str, &str)> =
        lines.next().unwrap().split_whitespace().map(|value| value.split_once('/').unwrap()).collect();
    let mut totals = vec![0; types.len()];
    for line in lines.take_while(|line| *line != "Locations") {
        let Some((values, _)) = line.split_once(':') else { continue };
        // Lines of labels have words there.
        if let Ok(values) = values.split_whitespace().map(str::parse::<u64>).collect::<Result<Vec<_>, _>>() {
            totals.iter_mut().zip(values).for_each(|(total, value)| *total += value);
        }
    }
    let named = |((kind, unit), total): (&(&str, &str), u64)| {
        ((*kind).to_owned(), (unit.split('[').next().unwrap().to_owned(), total))
    };
    types.iter().zip(totals).map(named).collect()
}

/// What OpenTelemetry's own package reads: by profile type and value the unit, the total and that of one place.
fn by_opentelemetry(bodies: &[Vec<u8>], process: &str, folder: &Path) -> Value {
    let files: Vec<PathBuf> =
        (0..bodies.len()).map(|number| folder.join(format!("{number}.otlp.gz"))).collect();
    for (file, body) in files.iter().zip(bodies) {
        std::fs::write(file, body).unwrap();
    }
    let python = std::env::var_os("PERF_AGENT_TEST_PYTHON").unwrap_or_else(|| "python3".into());
    let decoder = Path::new(env!("CARGO_MANIFEST_DIR")).join("decoders/otlp.py");
    let decoded = run(Command::new(python).arg(decoder).args([process, SITE]).args(&files)).unwrap();
    assert_eq!(decoded.code, 0, "run the tests with: cargo xtask test\n{}", decoded.stderr);
    serde_json::from_str(&decoded.stdout).unwrap()
}

/// What was posted to a path, and what still waits to be, since a daemon that ends does not wait long. Each once: what ended while it was sent is both.
fn sent(daemon: &Daemon, receiver: &Receiver, path: &str, kind: &str) -> Vec<Vec<u8>> {
    let posted = receiver.posted().into_iter().filter(|posted| posted.path == path).map(|posted| posted.body);
    let spool = std::fs::read_dir(daemon.folder.path().join("spool")).unwrap();
    let files =
        spool.map(|file| file.unwrap().path()).filter(|file| file.extension().is_some_and(|end| end == kind));
    let all: BTreeSet<Vec<u8>> = posted.chain(files.map(|file| std::fs::read(file).unwrap())).collect();
    all.into_iter().collect()
}

#[test]
fn what_is_pushed_of_every_kind_is_what_query_answers() {
    let receiver = Receiver::start().unwrap();
    let mut daemon = Daemon::idle();
    daemon.configure_all(199, "1s");
    let holder = Holder::start("push", "6", "1000");
    daemon.allocations_of(&format!("[\"{}\"]", holder.name), EVERY, "100%");
    push::configure(&daemon, &receiver);
    daemon.run();
    daemon.wait_for("probes", |daemon| daemon.has_probes_in(&holder.shown()));
    let (name, pid) = (holder.name.clone(), holder.id().to_string());
    let truth = holder.truth();
    daemon.wait_for("end of the process", |daemon| daemon.allocations()["ended"] == 1);
    assert_eq!(daemon.end().code, 0);
    let folder = tempfile::tempdir().unwrap();
    let pprof = pprof_files(
        &sent(&daemon, &receiver, "/pyroscope/push.v1.PusherService/Push", "pyroscope"),
        folder.path(),
    );
    let otlp =
        by_opentelemetry(&sent(&daemon, &receiver, "/v1development/profiles", "otlp"), &name, folder.path());
    for kind in KINDS {
        let asked = |whose: &[&str]| asked(&daemon, kind, whose);
        let series = if kind == "cpu" { "process_cpu".to_owned() } else { kind.replace('-', "_") };
        assert_eq!(by_go(&pprof[&series], folder.path()), totals(&asked(&[])), "{kind}");
        let asked = asked(&["--process", &name]);
        let known = totals(&asked);
        assert!(known.values().any(|(_, total)| *total > 0), "{kind}: {known:?}");
        for (value, (unit, total)) in &known {
            let found = &otlp[kind][value];
            assert_eq!((&found[0], &found[1]), (&unit.as_str().into(), &(*total).into()), "{kind} {value}");
            assert!((found[2].as_f64().unwrap() - sum(&asked, SITE, &[value])).abs() < 0.5, "{kind} {value}");
        }
    }
    // And that is what the program did, without its child.
    let of_it = asked(&daemon, "alloc", &["-p", &pid]);
    let live = sum(&of_it, SITE, &["alloc_space"]) - sum(&of_it, SITE, &["freed_space"]);
    let known = truth["site_leak_live_bytes"];
    assert!((live - known).abs() <= known * 0.01, "{live} of {known}");
}
