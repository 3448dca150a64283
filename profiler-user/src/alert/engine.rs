//! All rules on each window: which alert is raised, which goes on, which ends.

use std::ops::Range;
use std::time::Duration;

use crate::profile::Profile;

use super::history::{History, Stretch};
use super::judge::{Known, Missing, Verdict, before, judge};
use super::measure::{Point, measure};
use super::rule::{Baseline, Condition, Rule};

/// An alert that is raised and of which nothing is known any more ends after this time, or after the rule's stretch where that is longer.
const SILENCE_ENDS: Duration = Duration::from_mins(5);
/// A baseline of the store is read again when it would move by this part of its length.
const MOVES_BY: u64 = 8;
/// Time between two tries to read a baseline that is not there.
const TRY_AGAIN: Duration = Duration::from_mins(1);

/// What was recorded before: the store.
pub(super) trait Past {
    /// The windows of a stretch of time, as a rule sees them.
    fn points(&self, rule: &Rule, range: &Range<u64>) -> Vec<Point>;
}

/// An alert, as others are told of it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Alert {
    /// Name of the rule.
    pub(super) name: String,
    /// Its word for how bad it is.
    pub(super) severity: String,
    /// What tells it from others.
    pub(super) labels: Vec<(String, String)>,
    /// One line for people.
    pub(super) summary: String,
    /// When it was raised, nanoseconds since the Unix epoch.
    pub(super) since_unix_ns: u64,
    /// When it ended; none while it goes on.
    pub(super) until_unix_ns: Option<u64>,
}

/// What a window changed.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Event {
    /// It is too much for long enough.
    Raised(Alert),
    /// It still is.
    GoesOn(Alert),
    /// It is not any more.
    Ended(Alert),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Quiet,
    /// Above its level since then, not yet for long enough.
    Rising(u64),
    Raised(u64),
}

/// One rule and what it has seen.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) rule: Rule,
    history: History,
    state: State,
    /// The baseline that held when it began to rise: what was too much must not become the measure.
    held: Option<Stretch>,
    /// A baseline of the store, the middle for which it was read, and when.
    far: Option<(Option<Stretch>, u64)>,
    last_known_ns: u64,
    last: Option<Verdict>,
}

impl Watched {
    pub(super) fn new(rule: Rule) -> Self {
        Self {
            rule,
            history: History::default(),
            state: State::Quiet,
            held: None,
            far: None,
            last_known_ns: 0,
            last: None,
        }
    }

    /// How far back windows are needed.
    pub(super) fn memory_ns(&self) -> u64 {
        let baseline = match self.rule.condition {
            Condition::RisesBy(_, Baseline::Before(length)) => length,
            _ => Duration::ZERO,
        };
        // One window more, which may lie across the beginning.
        (self.rule.over + baseline + Duration::from_mins(10)).as_nanos() as u64
    }

    /// Remembers a window without a verdict.
    pub(super) fn remember(&mut self, point: Point) {
        self.history.add(point, self.memory_ns());
    }

    fn baseline(&mut self, now_ns: u64, past: &dyn Past) -> Option<Stretch> {
        if self.held.is_some() {
            return self.held;
        }
        let Condition::RisesBy(_, Baseline::Ago { ago, length }) = self.rule.condition else {
            return before(&self.rule, &self.history, now_ns);
        };
        let (ago_ns, length_ns) = (ago.as_nanos() as u64, length.as_nanos() as u64);
        let is_stale = |(stretch, read_ns): &(Option<Stretch>, u64)| {
            let patience = if stretch.is_some() { length_ns / MOVES_BY } else { TRY_AGAIN.as_nanos() as u64 };
            now_ns.abs_diff(*read_ns) > patience
        };
        if self.far.as_ref().is_none_or(is_stale) {
            let begin = now_ns.saturating_sub(ago_ns).saturating_sub(length_ns / 2);
            let points = past.points(&self.rule, &(begin..begin.saturating_add(length_ns)));
            let stretch = super::history::sum(points.iter(), self.rule.over.as_nanos() as u64);
            self.far = Some((stretch.share.map(|_| stretch), now_ns));
        }
        self.far.and_then(|(stretch, _)| stretch)
    }

    /// A window that ended at `now_ns`.
    pub(super) fn window(&mut self, point: Option<Point>, now_ns: u64, past: &dyn Past) -> Option<Event> {
        if let Some(point) = point {
            self.remember(point);
        }
        let baseline = self.baseline(now_ns, past);
        let verdict = judge(&self.rule, &self.history, now_ns, baseline.as_ref());
        self.last = Some(verdict);
        let known = match verdict {
            Verdict::Known(known) => known,
            Verdict::Unknown(_) => return self.unknown(now_ns),
        };
        self.last_known_ns = now_ns;
        match self.state {
            State::Quiet | State::Rising(_) if known.is_above => {
                let since = if let State::Rising(since) = self.state { since } else { now_ns };
                self.held = baseline;
                if u128::from(now_ns.saturating_sub(since)) < self.rule.hold.as_nanos() {
                    self.state = State::Rising(since);
                    return None;
                }
                self.state = State::Raised(now_ns);
                Some(Event::Raised(self.alert(&known, now_ns, None)))
            }
            State::Raised(since) if known.is_clear => {
                self.calm();
                Some(Event::Ended(self.alert(&known, since, Some(now_ns))))
            }
            State::Raised(since) => Some(Event::GoesOn(self.alert(&known, since, None))),
            State::Quiet | State::Rising(_) => {
                self.calm();
                None
            }
        }
    }

    fn unknown(&mut self, now_ns: u64) -> Option<Event> {
        let State::Raised(since) = self.state else {
            self.calm();
            return None;
        };
        let patience = SILENCE_ENDS.max(self.rule.over).as_nanos() as u64;
        if now_ns.saturating_sub(self.last_known_ns) < patience {
            return None;
        }
        self.calm();
        let summary = format!("{}: nothing is known any more", self.rule.subject());
        Some(Event::Ended(Alert { summary, ..self.told(since, Some(now_ns)) }))
    }

    fn calm(&mut self) {
        (self.state, self.held) = (State::Quiet, None);
    }

    fn told(&self, since_unix_ns: u64, until_unix_ns: Option<u64>) -> Alert {
        let labels = self.rule.labels().into_iter();
        Alert {
            name: self.rule.name.clone(),
            severity: self.rule.severity.clone(),
            labels: labels.map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
            summary: String::new(),
            since_unix_ns,
            until_unix_ns,
        }
    }

    fn alert(&self, known: &Known, since_unix_ns: u64, until_unix_ns: Option<u64>) -> Alert {
        Alert { summary: self.words(known), ..self.told(since_unix_ns, until_unix_ns) }
    }

    fn words(&self, known: &Known) -> String {
        let (rule, show) = (&self.rule, |value| self.rule.shown(value));
        let value = match (rule.condition, known.baseline) {
            (Condition::RisesBy(..), Some(before)) => {
                format!("{} after {}, {} more", show(before + known.value), show(before), show(known.value))
            }
            (Condition::GrowsPerHour(_), _) => format!("grows by {}", show(known.value)),
            _ => show(known.value),
        };
        let least = if known.least < known.value {
            format!(" (at least {})", show(known.least))
        } else {
            String::new()
        };
        format!("{}: {value}{least}; the limit is {}", rule.subject(), show(rule.level()))
    }

    /// What the last window said, for people.
    pub(super) fn last_words(&self) -> String {
        match self.last {
            None => "no window was looked at".to_owned(),
            Some(Verdict::Known(known)) => self.words(&known),
            Some(Verdict::Unknown(missing)) => {
                let what = match missing {
                    Missing::Time => "too little time is recorded",
                    Missing::Samples => "too few samples",
                    Missing::Baseline => {
                        "nothing, or too little, is stored of the time that it is compared with"
                    }
                };
                format!("{}: cannot tell: {what}", self.rule.subject())
            }
        }
    }

    pub(super) fn is_raised(&self) -> bool {
        matches!(self.state, State::Raised(_))
    }
}

/// All rules.
#[derive(Debug, Default)]
pub(super) struct Engine {
    watched: Vec<Watched>,
}

impl Engine {
    /// Other rules; those that were there before go on where they are. Windows of the past are read for the new ones.
    pub(super) fn configure(&mut self, rules: &[Rule], now_ns: u64, past: &dyn Past) {
        let mut known = std::mem::take(&mut self.watched);
        for rule in rules {
            let at = known.iter().position(|watched| watched.rule == *rule);
            self.watched.push(at.map_or_else(
                || {
                    let mut watched = Watched::new(rule.clone());
                    let begin = now_ns.saturating_sub(watched.memory_ns());
                    past.points(rule, &(begin..now_ns)).into_iter().for_each(|point| watched.remember(point));
                    watched
                },
                |at| known.swap_remove(at),
            ));
        }
    }

    /// A window that was closed: for the rules that look at its kind.
    pub(super) fn window(&mut self, profile: &Profile, past: &dyn Past) -> Vec<Event> {
        let now_ns = profile.meta.start_unix_ns.saturating_add(profile.meta.duration_ns);
        let look = |watched: &mut Watched| watched.window(measure(&watched.rule, profile), now_ns, past);
        let kind = &*profile.meta.profile_type;
        self.watched
            .iter_mut()
            .filter(|watched| watched.rule.profile_type() == kind)
            .filter_map(look)
            .collect()
    }

    pub(super) fn watched(&self) -> &[Watched] {
        &self.watched
    }
}
