//! Alerts of continuous recording, as an Alertmanager receives them.

use std::collections::BTreeSet;

use serde_json::Value;
use tests::receiver::{Posted, Receiver};
use tests::{agent, run, workload};

use crate::daemon::Daemon;
use crate::faults::signal;
use crate::recording::{background, spawn};

/// What was posted, one alert after the other.
pub(crate) fn alerts(posted: &[Posted]) -> Vec<Value> {
    posted
        .iter()
        .flat_map(|posted| {
            let all: Vec<Value> = serde_json::from_slice(&posted.body).unwrap();
            all
        })
        .collect()
}

impl Daemon {
    /// One of the counters of alerts and pushes.
    pub(crate) fn fed(&self, id: &str) -> u64 {
        let status = self.status();
        let all = status["status"]["feeds"].as_array().cloned().unwrap_or_default();
        let found = all.iter().find(|counter| counter["id"] == id);
        found.and_then(|counter| counter["count"].as_u64()).unwrap_or(0)
    }

    pub(crate) fn append_to_config(&self, text: &str) {
        let before = std::fs::read_to_string(self.config()).unwrap();
        std::fs::write(self.config(), format!("{before}\n{text}")).unwrap();
    }
}

#[test]
fn a_regression_that_is_seeded_raises_its_alert_and_steady_load_does_not() {
    let receiver = Receiver::start().unwrap();
    let mut daemon = Daemon::configured(99, "1s");
    let alerts_file = daemon.folder.path().join("alerts.jsonl");
    daemon.append_to_config(&format!(
        "[alerts]\nwebhooks = ['{}/api/v2/alerts']\nheaders = {{ X-Team = 'shop' }}\nfile = '{}'\n\
         [[alerts.rules]]\nname = 'extra got slower'\nprocess = 'regression'\nfunction = 'work_extra'\n\
         rises_by = '5%'\nover = '5s'\nbaseline = '15s'\nseverity = 'page'\n\
         [[alerts.rules]]\nname = 'usual got slower'\nprocess = 'regression'\nfunction = 'work_usual'\n\
         rises_by = '5%'\nover = '5s'\nbaseline = '15s'\n",
        receiver.url,
        alerts_file.display()
    ));
    let service = spawn("regression", &["600"]);
    daemon.run();
    // In steps, since a host that builds at the same time may need seconds for a window.
    for windows in [5, 10, 15, 20, 25] {
        daemon.wait_for("windows", |daemon| daemon.status()["status"]["windows"].as_u64() >= Some(windows));
    }
    assert_eq!(daemon.fed("alerts_raised"), 0, "{}", daemon.log());
    signal(service.id(), libc::SIGUSR1);
    daemon.wait_for("alert", |_| !receiver.posted().is_empty());
    let posted = receiver.posted();
    assert_eq!(posted[0].path, "/api/v2/alerts");
    assert_eq!(
        (posted[0].header("x-team"), posted[0].header("content-type")),
        (Some("shop"), Some("application/json"))
    );
    let told = alerts(&posted);
    assert_eq!(told.len(), 1, "{told:?}");
    let labels = &told[0]["labels"];
    assert_eq!((&labels["alertname"], &labels["severity"]), (&"extra got slower".into(), &"page".into()));
    assert_eq!((&labels["process"], &labels["function"]), (&"regression".into(), &"work_extra".into()));
    let summary = told[0]["annotations"]["summary"].as_str().unwrap();
    assert!(summary.starts_with("share of work_extra in the CPU time of regression: "), "{summary}");
    let in_file = std::fs::read_to_string(&alerts_file).unwrap();
    assert_eq!(in_file.lines().count(), 1, "{in_file}");
    // What the daemon saw is what the store tells again.
    let again =
        run(agent().args(["daemon", "alerts", "test", "--no-send", "-c"]).arg(daemon.config())).unwrap();
    assert_eq!(again.code, 0, "{}", again.stderr);
    assert!(again.stdout.contains("extra got slower: raised 1 times"), "{}", again.stdout);
    assert!(again.stdout.contains("usual got slower: raised 0 times"), "{}", again.stdout);
    // Raised once, however many windows showed it.
    daemon
        .wait_for("count", |daemon| daemon.fed("alerts_raised_now") == 1 && daemon.fed("alerts_raised") == 1);
}

/// Rules look at what they name: one at each kind of windows, of the same process.
#[test]
fn rules_look_at_every_kind_of_windows() {
    let receiver = Receiver::start().unwrap();
    let mut daemon = Daemon::idle();
    daemon.configure_all(99, "1s");
    let rule = |name: &str, what: &str| {
        format!("[[alerts.rules]]\nname = '{name}'\nprocess = 'calls'\n{what}\nover = '3s'\n")
    };
    let rules = [
        rule("calls", "type = 'syscalls'\nseries = 'calls'\nabove = '1'"),
        rule("time", "type = 'off-cpu'\nseries = 'off_cpu'\nabove = '0.001'"),
        rule("size", "type = 'resources'\nseries = 'resident'\nabove = '64K'"),
        rule("quiet", "type = 'resources'\nseries = 'resident'\nabove = '1G'"),
    ];
    daemon.append_to_config(&format!("[alerts]\nwebhooks = ['{}/']\n{}", receiver.url, rules.concat()));
    // Batches of calls, a millisecond of sleep after each.
    let _busy = background(workload("calls"), &["200000"]);
    daemon.run();
    let raised = || -> BTreeSet<String> {
        let all = alerts(&receiver.posted());
        all.iter().map(|alert| alert["labels"]["alertname"].as_str().unwrap().to_owned()).collect()
    };
    daemon.wait_for("alerts of each kind", |_| {
        ["calls", "time", "size"].iter().all(|name| raised().contains(*name))
    });
    assert!(!raised().contains("quiet"), "{:?}", raised());
    let told = alerts(&receiver.posted());
    let summary = |name: &str| {
        let alert = told.iter().find(|alert| alert["labels"]["alertname"] == name).unwrap();
        alert["annotations"]["summary"].as_str().unwrap().to_owned()
    };
    assert!(summary("calls").starts_with("system calls of calls: "), "{}", summary("calls"));
    assert!(summary("size").contains("iB"), "{}", summary("size"));

    let config = daemon.config();
    let without = std::fs::read_to_string(&config).unwrap().replace("off_cpu = true", "off_cpu = false");
    std::fs::write(&config, without).unwrap();
    let checked = run(agent().args(["daemon", "config", "check"]).arg(&config)).unwrap();
    assert!(checked.code == 2 && checked.stderr.contains("[also] off_cpu = true"), "{}", checked.stderr);
}

#[test]
fn a_test_alert_says_what_each_target_answered() {
    let (good, bad) = (Receiver::start().unwrap(), Receiver::start().unwrap());
    bad.answer(403);
    let daemon = Daemon::configured(19, "10s");
    daemon.append_to_config(&format!("[alerts]\nwebhooks = ['{}/a', '{}/b']\n", good.url, bad.url));
    let test = run(agent().args(["daemon", "alerts", "test", "-c"]).arg(daemon.config())).unwrap();
    assert_eq!(test.code, 1, "{}", test.stderr);
    assert!(test.stdout.contains("/a: taken (status 200)"), "{}", test.stdout);
    assert!(test.stdout.contains("/b: FAILED: refused: status 403"), "{}", test.stdout);
    let told = alerts(&good.posted());
    assert_eq!(told[0]["labels"]["alertname"], "perf-agent-test");
    assert!(told[0]["endsAt"].is_string(), "a test is over at once: {told:?}");
}

#[test]
fn a_webhook_that_fails_for_a_while_gets_the_alert_later() {
    let receiver = Receiver::start().unwrap();
    receiver.answer(503);
    let mut daemon = Daemon::configured(99, "1s");
    daemon.append_to_config(&format!(
        "[alerts]\nwebhooks = ['{}/']\n[[alerts.rules]]\nname = 'busy'\nprocess = 'regression'\n\
         function = 'work_usual'\nabove = '50%'\nover = '3s'\n",
        receiver.url
    ));
    let _service = spawn("regression", &["600"]);
    daemon.run();
    daemon.wait_for("words about the webhook", |daemon| daemon.log().contains("status 503"));
    assert!(daemon.log().contains("alert busy (warning) raised"), "{}", daemon.log());
    receiver.answer(200);
    daemon.wait_for("alert", |_| !receiver.posted().is_empty());
    assert_eq!(alerts(&receiver.posted())[0]["labels"]["alertname"], "busy");
    daemon.wait_for("count", |daemon| daemon.fed("alerts_sent") > 0);
}
