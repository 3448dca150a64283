//! Those who are told: an Alertmanager or whoever takes its JSON, a file, the log. And what they are told.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::post::Endpoint;

use super::engine::{Alert, Event};
use super::rule::Rule;

/// A file of alerts this large is renamed to `FILE.old`, which is replaced.
const MOST_FILE_BYTES: u64 = 16 << 20;

/// What is configured below `[alerts]`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Alerts {
    /// Where alerts are posted to.
    pub webhooks: Vec<Endpoint>,
    /// One line of JSON for each change.
    pub file: Option<PathBuf>,
    /// A line in the log for each change.
    pub log: bool,
    /// The rules.
    pub rules: Vec<Rule>,
}

/// An alert as `POST /api/v2/alerts` of Alertmanager takes it. An alert without an end goes on: it is told again and again, and Alertmanager ends it by
/// itself when that stops.
pub(super) fn alertmanager(alert: &Alert, host: &str) -> Value {
    let mut labels: Map<String, Value> =
        alert.labels.iter().map(|(key, value)| (key.clone(), json!(value))).collect();
    for (key, value) in [("alertname", &alert.name), ("severity", &alert.severity)] {
        labels.insert(key.to_owned(), json!(value));
    }
    labels.insert("host".to_owned(), json!(host));
    labels.insert("agent".to_owned(), json!("perf-agent"));
    let mut told = json!({
        "labels": labels,
        "annotations": { "summary": alert.summary },
        "startsAt": rfc3339(alert.since_unix_ns),
    });
    if let (Some(until), Some(told)) = (alert.until_unix_ns, told.as_object_mut()) {
        told.insert("endsAt".to_owned(), json!(rfc3339(until)));
    }
    told
}

fn rfc3339(unix_ns: u64) -> String {
    let time = Timestamp::from_nanosecond(i128::from(unix_ns)).unwrap_or(Timestamp::MAX);
    format!("{time:.3}")
}

/// A change in one line for people; none for what goes on as it was.
pub(super) fn line(event: &Event) -> Option<String> {
    match event {
        Event::Raised(alert) => {
            Some(format!("alert {} ({}) raised: {}", alert.name, alert.severity, alert.summary))
        }
        Event::Ended(alert) => {
            Some(format!("alert {} ({}) ended: {}", alert.name, alert.severity, alert.summary))
        }
        Event::GoesOn(_) => None,
    }
}

/// Adds a line to a file that only root reads, and begins a new one when it is large.
///
/// # Errors
///
/// What the system said.
pub(super) fn append(path: &Path, told: &Value) -> std::io::Result<()> {
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(0o600).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let mut file = options.open(path)?;
    if file.metadata()?.len() > MOST_FILE_BYTES {
        let mut old = path.as_os_str().to_owned();
        old.push(".old");
        fs::rename(path, old)?;
        file = options.open(path)?;
    }
    let mut text = told.to_string();
    text.push('\n');
    file.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alert() -> Alert {
        Alert {
            name: "slow".to_owned(),
            severity: "page".to_owned(),
            labels: vec![("process".to_owned(), "shop\"\n".to_owned())],
            summary: "more".to_owned(),
            since_unix_ns: 1_767_268_800_500_000_000,
            until_unix_ns: None,
        }
    }

    #[test]
    fn alerts_are_told_in_alertmanagers_words() {
        let told = alertmanager(&alert(), "web-1");
        assert_eq!(told["labels"]["alertname"], "slow");
        assert_eq!(
            (&told["labels"]["host"], &told["labels"]["process"]),
            (&json!("web-1"), &json!("shop\"\n"))
        );
        assert_eq!(told["startsAt"], "2026-01-01T12:00:00.500Z");
        assert!(told.get("endsAt").is_none());
        let ended = Alert { until_unix_ns: Some(1_767_268_860_000_000_000), ..alert() };
        assert_eq!(alertmanager(&ended, "web-1")["endsAt"], "2026-01-01T12:01:00.000Z");
        assert!(line(&Event::Ended(ended)).is_some() && line(&Event::GoesOn(alert())).is_none());
    }

    #[test]
    fn a_file_of_alerts_stays_small_and_is_no_link() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("alerts.jsonl");
        append(&file, &json!({"a": 1})).unwrap();
        append(&file, &json!({"a": "\n"})).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap().lines().count(), 2);
        OpenOptions::new().write(true).open(&file).unwrap().set_len(MOST_FILE_BYTES + 1).unwrap();
        append(&file, &json!({"b": 1})).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "{\"b\":1}\n");
        assert!(folder.path().join("alerts.jsonl.old").exists());
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert!(append(&link, &json!({})).is_err());
    }
}
