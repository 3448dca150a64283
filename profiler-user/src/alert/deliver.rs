//! Webhooks, on a thread of their own: what is newest of each alert, again and again until it is taken.
//!
//! What waits is bounded by the number of rules: a newer state of an alert takes the place of the older one.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::continuous::Words;
use crate::post::{Answer, Backoff, Client, Endpoint};
use crate::statistics::Chance;

/// What is told in vain for so long is given up: it is older than whoever listens would believe.
const GIVES_UP_AFTER: Duration = Duration::from_hours(1);
/// Longest wait for the last words when the daemon ends.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Counts of what was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Told {
    /// Alerts that were taken, each state of each at each webhook.
    pub(super) taken: u64,
    /// Alerts that were refused, or given up.
    pub(super) failed: u64,
}

#[derive(Debug)]
struct Hook {
    endpoint: Endpoint,
    client: Result<Client, String>,
    waiting: BTreeMap<String, (Value, Instant)>,
    backoff: Backoff,
    next: Instant,
}

#[derive(Debug, Default)]
struct Shared {
    waiting: Vec<(String, Value)>,
    is_over: bool,
    told: Told,
}

/// The thread and the way to it.
#[derive(Debug)]
pub(super) struct Delivery {
    shared: Arc<(Mutex<Shared>, Condvar)>,
    thread: Option<JoinHandle<Waiting>>,
}

/// The newest state of alerts that were not taken, by name.
type Waiting = BTreeMap<String, Value>;

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Delivery {
    /// Starts the thread, which goes on where the one before ended.
    ///
    /// # Errors
    ///
    /// The system has no room for another thread.
    pub(super) fn start(
        endpoints: &[Endpoint],
        words: Words,
        (told, waiting): (Told, Waiting),
    ) -> std::io::Result<Self> {
        let shared = Shared { waiting: waiting.into_iter().collect(), is_over: false, told };
        let shared = Arc::new((Mutex::new(shared), Condvar::new()));
        let now = Instant::now();
        let hooks: Vec<Hook> = endpoints
            .iter()
            .map(|endpoint| Hook {
                client: Client::new(endpoint),
                endpoint: endpoint.clone(),
                waiting: BTreeMap::new(),
                backoff: Backoff::default(),
                next: now,
            })
            .collect();
        for hook in &hooks {
            if let Err(why) = &hook.client {
                words.say(format!("alerts cannot be sent to {}: {why}", hook.endpoint.shown()));
            }
        }
        let there = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("alerts-out".to_owned())
            .spawn(move || run(hooks, &there, &words))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// The newest state of an alert.
    pub(super) fn tell(&self, name: &str, told: Value) {
        let mut shared = lock(&self.shared.0);
        match shared.waiting.iter_mut().find(|(known, _)| known == name) {
            Some(known) => known.1 = told,
            None => shared.waiting.push((name.to_owned(), told)),
        }
        self.shared.1.notify_one();
    }

    /// What was told so far.
    pub(super) fn told(&self) -> Told {
        lock(&self.shared.0).told
    }

    /// Tries once more what waits. Returns what was told, and what still waits, for the one that comes after.
    pub(super) fn end(mut self) -> (Told, Waiting) {
        let waiting = self.finish();
        (self.told(), waiting)
    }

    /// A webhook that does not answer is left behind, and with it what it was told.
    fn finish(&mut self) -> Waiting {
        lock(&self.shared.0).is_over = true;
        self.shared.1.notify_one();
        let Some(thread) = self.thread.take() else { return Waiting::new() };
        let until = Instant::now() + LAST_WORDS;
        while !thread.is_finished() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(10));
        }
        if thread.is_finished() { thread.join().unwrap_or_default() } else { Waiting::new() }
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        self.finish();
    }
}

fn run(mut hooks: Vec<Hook>, shared: &(Mutex<Shared>, Condvar), words: &Words) -> Waiting {
    let mut chance = Chance::of_now();
    loop {
        let mut guard = lock(&shared.0);
        let now = Instant::now();
        let is_due = |hook: &Hook| !hook.waiting.is_empty() && hook.next <= now;
        if guard.waiting.is_empty() && !guard.is_over && !hooks.iter().any(is_due) {
            let waits = hooks.iter().filter(|hook| !hook.waiting.is_empty()).map(|hook| hook.next - now);
            let longest = waits.min().unwrap_or(Duration::from_hours(1));
            guard = shared.1.wait_timeout(guard, longest).unwrap_or_else(PoisonError::into_inner).0;
        }
        let (news, is_over) = (std::mem::take(&mut guard.waiting), guard.is_over);
        drop(guard);
        for hook in &mut hooks {
            hook.waiting
                .extend(news.iter().map(|(name, told)| (name.clone(), (told.clone(), Instant::now()))));
            if !hook.waiting.is_empty() && (is_over || hook.next <= Instant::now()) {
                let told = hook.send(chance.fraction(), words);
                let mut guard = lock(&shared.0);
                guard.told.taken += told.taken;
                guard.told.failed += told.failed;
            }
        }
        if is_over {
            let waiting = hooks.into_iter().flat_map(|hook| hook.waiting);
            return waiting.map(|(name, (told, _))| (name, told)).collect();
        }
    }
}

impl Hook {
    /// All that waits, in one request.
    fn send(&mut self, chance: f64, words: &Words) -> Told {
        let waiting: Vec<&Value> = self.waiting.values().map(|(told, _)| told).collect();
        let count = waiting.len() as u64;
        let body = serde_json::to_vec(&waiting).unwrap_or_default();
        let answer = match &self.client {
            Ok(client) => client.post(&self.endpoint.url, &[("Content-Type", "application/json")], &body),
            Err(why) => Answer::Refused(why.clone()),
        };
        let shown = self.endpoint.shown();
        match answer {
            Answer::Taken(_) => {
                self.waiting.clear();
                self.backoff.worked();
                Told { taken: count, failed: 0 }
            }
            Answer::Refused(why) => {
                words.say(format!("{shown} refuses {count} alerts: {why}"));
                self.waiting.clear();
                Told { taken: 0, failed: count }
            }
            Answer::Later(why) => {
                if self.backoff.failures() == 0 {
                    words.say(format!("{shown} does not take alerts now, and is asked again: {why}"));
                }
                self.next = Instant::now() + self.backoff.failed(chance);
                let before = self.waiting.len();
                self.waiting.retain(|_, (_, since)| since.elapsed() < GIVES_UP_AFTER);
                Told { taken: 0, failed: (before - self.waiting.len()) as u64 }
            }
        }
    }
}
