//! Figures for Prometheus: its own tools read them, a real one scrapes them, and what is brought for it names nothing that is not there.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::{Started, finish, run, workload};

use crate::api::{answering, answering_as, exchange, get, port};
use crate::daemon::Daemon;
use crate::recording::background;

fn contrib(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../contrib").join(path)
}

/// Values of a family, with their labels.
fn samples<'t>(text: &'t str, name: &str) -> Vec<(&'t str, f64)> {
    let of = |line: &'t str| {
        let (series, value) = line.rsplit_once(' ')?;
        let labels = series.strip_prefix(name)?;
        (labels.is_empty() || labels.starts_with('{')).then(|| (labels, value.parse().unwrap()))
    };
    text.lines().filter_map(of).collect()
}

#[test]
fn prometheus_reads_what_is_counted_and_hostile_names_stay_names() {
    let mut daemon = Daemon::idle();
    daemon.configure_all(199, "1s");
    let daemon = answering_as(daemon, "");
    let folder = tempfile::tempdir().unwrap();
    let hostile = folder.path().join("a\"} 1 \\n{x=\"");
    std::fs::copy(workload("cpu_split"), &hostile).unwrap();
    let _busy = [
        background(&hostile, &["60"]),
        background(workload("cpu_split"), &["60"]),
        background(workload("calls"), &["200000"]),
    ];
    daemon.wait_for("both processes", |daemon| {
        let text = get(daemon.folder.path(), "/metrics").text();
        let processes = samples(&text, "perf_agent_process_cpu_seconds_total");
        let busy = |name: &str| processes.iter().any(|(labels, value)| labels.contains(name) && *value > 1.0);
        busy("process=\"cpu_split\"")
            && busy("a\\\"} 1")
            && text.contains("perf_agent_syscall_duration_seconds_sum")
    });
    let answer = get(daemon.folder.path(), "/metrics");
    assert!(answer.head.contains("text/plain; version=0.0.4"), "{}", answer.head);
    let text = answer.text();
    let processes = samples(&text, "perf_agent_process_cpu_seconds_total");
    let sum: f64 = processes.iter().map(|(_, value)| value).sum();
    let all = samples(&text, "perf_agent_cpu_seconds_total")[0].1;
    assert!((sum - all).abs() < 1e-6, "{sum} {all}");
    assert!(samples(&text, "perf_agent_windows_total")[0].1 >= 1.0);

    let calls = samples(&text, "perf_agent_syscall_duration_seconds_count");
    assert!(calls.iter().any(|(_, count)| *count > 0.0) && calls.len() <= 21, "{calls:?}");
    let all: Vec<f64> = samples(&text, "perf_agent_syscall_duration_seconds_bucket")
        .into_iter()
        .filter_map(|(labels, count)| labels.contains("le=\"+Inf\"").then_some(count))
        .collect();
    assert_eq!(all, calls.iter().map(|(_, count)| *count).collect::<Vec<_>>());

    let mut check = Command::new("promtool");
    check.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut check = Started::of(&mut check).unwrap();
    check.stdin().write_all(text.as_bytes()).unwrap();
    let checked = finish(check).unwrap();
    assert_eq!((checked.code, &*checked.stdout, &*checked.stderr), (0, "", ""));

    let rules = contrib("prometheus/alerts.yml");
    let checked = run(Command::new("promtool").args(["check", "rules"]).arg(&rules)).unwrap();
    assert_eq!(checked.code, 0, "{}{}", checked.stdout, checked.stderr);
    let board = std::fs::read_to_string(contrib("grafana/perf-agent.json")).unwrap();
    let parsed: Value = serde_json::from_str(&board).unwrap();
    assert!(parsed["panels"].as_array().unwrap().len() > 5);
    let used = board + &std::fs::read_to_string(rules).unwrap();
    for name in used
        .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| word.starts_with("perf_agent_"))
    {
        let histogram = ["_bucket", "_sum", "_count"].iter().find_map(|part| name.strip_suffix(part));
        let is_there = |name: &str| text.contains(&format!("# TYPE {name} "));
        assert!(is_there(name) || histogram.is_some_and(is_there), "there is no {name}");
    }
}

#[test]
fn a_prometheus_scrapes_it_and_a_rule_fires() {
    let daemon = answering(19, "1s", "listen = \"127.0.0.1:0\"\n");
    let folder = daemon.folder.path();
    let own = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).unwrap();
    write(
        "rules.yml",
        "groups:\n  - name: test\n    rules:\n      - alert: WindowsAreStored\n        expr: perf_agent_windows_total > 0\n",
    );
    write(
        "prometheus.yml",
        &format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [rules.yml, {}]\nscrape_configs:\n  - job_name: perf-agent\n    static_configs: [{{targets: [\"127.0.0.1:{}\"]}}]\n",
            contrib("prometheus/alerts.yml").canonicalize().unwrap().display(),
            port(&daemon)
        ),
    );
    let mut prometheus = Command::new("prometheus");
    prometheus
        .arg(format!("--config.file={}", folder.join("prometheus.yml").display()))
        .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
        .arg(format!("--web.listen-address={own}"))
        .stderr(Stdio::null());
    let _prometheus = Started::of(prometheus.stdout(Stdio::null())).unwrap();
    let ask = |path: &str| -> Value {
        let Ok(stream) = TcpStream::connect(own) else { return Value::Null };
        let answer = exchange(stream, &format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n"));
        serde_json::from_slice(&answer.body).unwrap_or_default()
    };
    let began = Instant::now();
    loop {
        let alerts = ask("/api/v1/alerts");
        let fires = alerts["data"]["alerts"].as_array().is_some_and(|alerts| {
            alerts
                .iter()
                .any(|alert| alert["labels"]["alertname"] == "WindowsAreStored" && alert["state"] == "firing")
        });
        if fires {
            break;
        }
        assert!(began.elapsed() < Duration::from_mins(1), "no alert: {alerts} {}", ask("/api/v1/targets"));
        std::thread::sleep(Duration::from_millis(200));
    }
    let targets = ask("/api/v1/targets");
    assert_eq!(targets["data"]["activeTargets"][0]["health"], "up", "{targets}");
}
