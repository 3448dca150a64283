//! Those who are shown each window beside the store: alerts. They run on threads of their own, and none of them can hold a window up.

use std::sync::Arc;

use crate::alert::Watch;
use crate::profile::{Counter, Profile};

use super::Words;
use super::config::Config;

/// All of them, as configured.
#[derive(Debug)]
pub(super) struct Feeds {
    alerts: Option<Watch>,
    words: Words,
}

impl Feeds {
    /// Starts what the configuration asks for.
    pub(super) fn start(config: &Config, words: Words) -> Self {
        let mut feeds = Self { alerts: None, words };
        feeds.configure(config);
        feeds
    }

    /// From the next window on.
    pub(super) fn configure(&mut self, config: &Config) {
        match &self.alerts {
            Some(watch) => watch.configure(&config.alerts),
            None if config.alerts.rules.is_empty() => {}
            None => {
                let started = Watch::start(&config.alerts, &config.store.folder, &self.words);
                self.alerts = started.inspect_err(|error| self.words.say(format!("no alerts: {error}"))).ok();
            }
        }
    }

    /// A window that was named. Never waits.
    pub(super) fn window(&mut self, profile: Profile) {
        if let Some(alerts) = &mut self.alerts {
            alerts.window(&Arc::new(profile));
        }
    }

    /// What they have done.
    pub(super) fn counters(&self) -> Vec<Counter> {
        self.alerts.iter().flat_map(Watch::counters).collect()
    }
}
