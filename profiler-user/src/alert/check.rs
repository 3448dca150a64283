//! A test alert for each target, and what the rules would have said of the time that is stored.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;

use crate::post::{Answer, Client};
use crate::profile::Profile;
use crate::session::clock;
use crate::store::{Filter, Reader, StoreError};

use super::engine::{Alert, Engine, Event};
use super::past::Stored;
use super::rule::Rule;
use super::target::{Alerts, alertmanager, append};

/// What came of a test alert: the target, and how it went.
#[derive(Debug)]
pub struct Tried {
    /// A URL or a path.
    pub target: String,
    /// What was answered, or what failed, in words.
    pub outcome: Result<String, String>,
}

/// Sends an alert that says that it is a test to every target, and ends it at once.
pub fn try_targets(alerts: &Alerts, host: &str) -> Vec<Tried> {
    let now = clock::unix_ns();
    let alert = Alert {
        name: "perf-agent-test".to_owned(),
        severity: "info".to_owned(),
        labels: Vec::new(),
        summary: "a test of `perf-agent daemon alerts test`; nothing is wrong".to_owned(),
        since_unix_ns: now,
        until_unix_ns: Some(now.saturating_add(1_000_000_000)),
    };
    let told = alertmanager(&alert, host);
    let body = serde_json::Value::Array(vec![told.clone()]).to_string();
    let mut tried: Vec<Tried> = Vec::new();
    for endpoint in &alerts.webhooks {
        let sent = Client::new(endpoint).map(|client| {
            client.post(&endpoint.url, &[("Content-Type", "application/json")], body.as_bytes())
        });
        let outcome = match sent {
            Ok(Answer::Taken(status)) => Ok(format!("taken (status {status})")),
            Ok(Answer::Refused(why)) => Err(format!("refused: {why}")),
            Ok(Answer::Later(why)) => Err(format!("not taken now: {why}")),
            Err(why) => Err(why),
        };
        tried.push(Tried { target: endpoint.shown(), outcome });
    }
    if let Some(file) = &alerts.file {
        let outcome = append(file, &told).map(|()| "written".to_owned()).map_err(|error| error.to_string());
        tried.push(Tried { target: file.display().to_string(), outcome });
    }
    tried
}

/// What one rule would have said.
#[derive(Debug)]
pub struct Replayed {
    /// Its name.
    pub name: String,
    /// When it would have been raised and ended, nanoseconds since the Unix epoch, with its words.
    pub changes: Vec<(u64, bool, String)>,
    /// What it says of the last window.
    pub last: String,
}

/// Shows the windows of a stretch of time to the rules, in order. Returns what each says, and how many windows of any kind there were.
///
/// # Errors
///
/// The store cannot be read.
pub fn replay(alerts: &Alerts, store: &Path, range: &Range<u64>) -> Result<(Vec<Replayed>, u64), StoreError> {
    let reader = Reader::open(store)?;
    let past = Stored(store.to_owned());
    let mut engine = Engine::default();
    engine.configure(&alerts.rules, range.start, &past);
    let mut changes: Vec<(String, u64, bool, String)> = Vec::new();
    let mut windows = 0;
    let mut look = |profile: &Profile| {
        windows += 1;
        let end = profile.meta.start_unix_ns.saturating_add(profile.meta.duration_ns);
        for event in engine.window(profile, &past) {
            match event {
                Event::Raised(alert) => changes.push((alert.name, end, true, alert.summary)),
                Event::Ended(alert) => changes.push((alert.name, end, false, alert.summary)),
                Event::GoesOn(_) => {}
            }
        }
    };
    // Each rule looks at one kind only, so the kinds may come one after the other.
    let kinds: BTreeSet<&str> = alerts.rules.iter().map(Rule::profile_type).collect();
    for kind in kinds {
        let _problems = reader.each(range, kind, &Filter::default(), |profile| look(&profile))?;
    }
    let replayed = engine.watched().iter().map(|watched| Replayed {
        name: watched.rule.name.clone(),
        changes: changes
            .iter()
            .filter(|(name, ..)| *name == watched.rule.name)
            .map(|(_, at, raised, words)| (*at, *raised, words.clone()))
            .collect(),
        last: watched.last_words(),
    });
    Ok((replayed.collect(), windows))
}
