//! Those who are shown each window beside the store: alerts, push. They run on threads of their own, and none of them can hold a window up.

use std::sync::Arc;

use crate::alert::Watch;
use crate::profile::{Counter, Profile};
use crate::push::{Push, Pusher};

use super::Words;
use super::config::Config;

/// All of them, as configured.
#[derive(Debug)]
pub(super) struct Feeds {
    alerts: Option<Watch>,
    push: Option<Pusher>,
    pushes: Push,
    words: Words,
}

impl Feeds {
    /// Starts what the configuration asks for.
    pub(super) fn start(config: &Config, words: Words) -> Self {
        let mut feeds = Self { alerts: None, push: None, pushes: Push::default(), words };
        feeds.configure(config);
        feeds
    }

    /// From the next window on.
    pub(super) fn configure(&mut self, config: &Config) {
        match &mut self.alerts {
            Some(watch) => watch.configure(&config.alerts),
            None if config.alerts.rules.is_empty() => {}
            None => {
                let started = Watch::start(&config.alerts, &config.store.folder, &self.words);
                self.alerts = started.inspect_err(|error| self.words.say(format!("no alerts: {error}"))).ok();
            }
        }
        let is_missing = config.push.is_on() && self.push.is_none();
        if is_missing || config.push != self.pushes || config.push.has_files() {
            // What waits is in the spool, where the next one finds it.
            self.push = None;
            self.pushes = config.push.clone();
            if config.push.is_on() {
                let started = Pusher::start(&config.push, &self.words);
                self.push =
                    started.inspect_err(|error| self.words.say(format!("nothing is pushed: {error}"))).ok();
            }
        }
    }

    /// A window that was named. Never waits.
    pub(super) fn window(&mut self, profile: Profile) {
        let kind = &*profile.meta.profile_type;
        let is_watched = self.alerts.as_ref().is_some_and(|alerts| alerts.wants(kind));
        let is_sent = self.push.is_some() && self.pushes.sends(kind);
        if !is_watched && !is_sent {
            return;
        }
        let profile = Arc::new(profile);
        if let Some(alerts) = &mut self.alerts {
            alerts.window(&profile);
        }
        if let Some(push) = self.push.as_ref().filter(|_| is_sent) {
            push.window(&profile);
        }
    }

    /// What they have done.
    pub(super) fn counters(&self) -> Vec<Counter> {
        let alerts = self.alerts.iter().flat_map(Watch::counters);
        alerts.chain(self.push.iter().flat_map(Pusher::counters)).collect()
    }
}
