//! The thread that looks at each closed window with all rules, and tells what changed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use crate::continuous::Words;
use crate::post::Endpoint;
use crate::profile::{Counter, Profile};
use crate::session::clock;

use super::deliver::Delivery;
use super::engine::{Engine, Event};
use super::past::Stored;
use super::rule::Rule;
use super::target::{Alerts, alertmanager, append, line};

/// Windows that wait for the rules: those of some kinds, and of the time before. One that finds no room is left out of them, and counted.
const MOST_WAITING: usize = 8;
/// An alert that goes on is told again this often: Alertmanager ends one that it has not heard of for five minutes.
const TELL_AGAIN_NS: u64 = 60_000_000_000;

enum Message {
    Window(Arc<Profile>),
    Configure(Box<Alerts>),
}

/// What was looked at and told.
#[derive(Debug, Clone, Copy, Default)]
struct Figures {
    raised_now: u64,
    raised: u64,
    taken: u64,
    failed: u64,
}

/// The thread and the way to it.
#[derive(Debug)]
pub(crate) struct Watch {
    messages: Option<SyncSender<Message>>,
    /// Kinds of windows that a rule looks at.
    kinds: BTreeSet<&'static str>,
    missed: u64,
    figures: Arc<Mutex<Figures>>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Starts the thread. It reads the store for what was before.
    ///
    /// # Errors
    ///
    /// The system has no room for another thread.
    pub(crate) fn start(alerts: &Alerts, store: &Path, words: &Words) -> std::io::Result<Self> {
        let (messages, todo) = sync_channel(MOST_WAITING);
        let figures: Arc<Mutex<Figures>> = Arc::default();
        let mut state = State {
            engine: Engine::default(),
            store: Stored(PathBuf::from(store)),
            host: std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned(),
            delivery: None,
            alerts: Alerts::default(),
            told_ns: Vec::new(),
            words: words.clone(),
            figures: Arc::clone(&figures),
        };
        let (alerts, kinds) = (alerts.clone(), kinds(alerts));
        let thread = std::thread::Builder::new().name("alerts".to_owned()).spawn(move || {
            state.configure(alerts);
            state.run(&todo);
        })?;
        Ok(Self { messages: Some(messages), kinds, missed: 0, figures, thread: Some(thread) })
    }

    /// Whether a rule looks at windows of this kind.
    pub(crate) fn wants(&self, kind: &str) -> bool {
        self.kinds.contains(kind)
    }

    /// A window that was closed. Never waits.
    pub(crate) fn window(&mut self, profile: &Arc<Profile>) {
        if !self.wants(&profile.meta.profile_type) {
            return;
        }
        let Some(messages) = &self.messages else { return };
        if let Err(TrySendError::Full(_)) = messages.try_send(Message::Window(Arc::clone(profile))) {
            self.missed = self.missed.saturating_add(1);
        }
    }

    /// Other rules and targets, from the next window on.
    pub(crate) fn configure(&mut self, alerts: &Alerts) {
        self.kinds = kinds(alerts);
        if let Some(messages) = &self.messages {
            // A thread that has ended was told by its panic.
            let _ended = messages.send(Message::Configure(Box::new(alerts.clone())));
        }
    }

    /// What it has done.
    pub(crate) fn counters(&self) -> Vec<Counter> {
        let figures = *self.figures.lock().unwrap_or_else(PoisonError::into_inner);
        let count = |id: &str, what: &str, count| Counter { id: id.to_owned(), what: what.to_owned(), count };
        vec![
            count("alerts_raised_now", "alerts raised now", figures.raised_now),
            count("alerts_raised", "alerts raised since it began", figures.raised),
            count("alerts_sent", "alerts that webhooks took", figures.taken),
            count("alerts_failed", "alerts that webhooks did not take", figures.failed),
            count("alerts_windows_missed", "windows that rules did not look at", self.missed),
        ]
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.messages = None;
        if let Some(thread) = self.thread.take() {
            let _reported = thread.join();
        }
    }
}

fn kinds(alerts: &Alerts) -> BTreeSet<&'static str> {
    alerts.rules.iter().map(Rule::profile_type).collect()
}

struct State {
    engine: Engine,
    store: Stored,
    host: String,
    delivery: Option<Delivery>,
    alerts: Alerts,
    /// When alerts that go on were told last, by name.
    told_ns: Vec<(String, u64)>,
    words: Words,
    figures: Arc<Mutex<Figures>>,
}

impl State {
    fn configure(&mut self, alerts: Alerts) {
        self.engine.configure(&alerts.rules, clock::unix_ns(), &self.store);
        if alerts.webhooks != self.alerts.webhooks || alerts.webhooks.iter().any(Endpoint::has_files) {
            let before = self.delivery.take().map(Delivery::end).unwrap_or_default();
            if !alerts.webhooks.is_empty() {
                let started = Delivery::start(&alerts.webhooks, self.words.clone(), before);
                self.delivery = started
                    .inspect_err(|error| self.words.say(format!("alerts cannot be sent: {error}")))
                    .ok();
            }
        }
        self.alerts = alerts;
    }

    fn run(&mut self, todo: &Receiver<Message>) {
        for message in todo {
            match message {
                Message::Configure(alerts) => self.configure(*alerts),
                Message::Window(profile) => {
                    let now_ns = profile.meta.start_unix_ns.saturating_add(profile.meta.duration_ns);
                    for event in self.engine.window(&profile, &self.store) {
                        self.tell(&event, now_ns);
                    }
                    self.count();
                }
            }
        }
    }

    fn tell(&mut self, event: &Event, now_ns: u64) {
        let (Event::Raised(alert) | Event::GoesOn(alert) | Event::Ended(alert)) = event;
        let told = alertmanager(alert, &self.host);
        if let Some(line) = line(event) {
            if self.alerts.log {
                self.words.say(line);
            }
            if let Some(file) = &self.alerts.file
                && let Err(error) = append(file, &told)
            {
                self.words.say(format!("cannot write alerts to `{}`: {error}", file.display()));
            }
        }
        let at = self.told_ns.iter().position(|(name, _)| *name == alert.name);
        let is_again = matches!(event, Event::GoesOn(_));
        if is_again && at.is_some_and(|at| now_ns.saturating_sub(self.told_ns[at].1) < TELL_AGAIN_NS) {
            return;
        }
        at.map(|at| self.told_ns.swap_remove(at));
        if !matches!(event, Event::Ended(_)) {
            self.told_ns.push((alert.name.clone(), now_ns));
        }
        if matches!(event, Event::Raised(_)) {
            self.figures.lock().unwrap_or_else(PoisonError::into_inner).raised += 1;
        }
        if let Some(delivery) = &self.delivery {
            delivery.tell(&alert.name, told);
        }
    }

    fn count(&self) {
        let told = self.delivery.as_ref().map(Delivery::told).unwrap_or_default();
        let mut figures = self.figures.lock().unwrap_or_else(PoisonError::into_inner);
        figures.raised_now =
            self.engine.watched().iter().filter(|watched| watched.is_raised()).count() as u64;
        (figures.taken, figures.failed) = (told.taken, told.failed);
    }
}
