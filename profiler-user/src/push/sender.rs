//! The thread that sends what is in the spool, one request at a time and the oldest first, for each endpoint.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::spool::{Spool, Waiting};
use super::{Kind, Push};
use crate::continuous::Words;
use crate::post::{Answer, Backoff, Client};
use crate::statistics::Chance;

/// Longest wait for news when nothing is to be sent.
const IDLE: Duration = Duration::from_mins(10);

/// Counts of requests, which whoever tells reads.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) sent: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) failures: AtomicU64,
    pub(super) dropped: AtomicU64,
    pub(super) waiting: AtomicU64,
}

struct Way {
    kind: Kind,
    url: String,
    shown: String,
    client: Client,
    backoff: Backoff,
    next: Instant,
}

pub(super) struct Sender {
    spool: Spool,
    ways: Vec<Way>,
    words: Words,
}

impl Sender {
    /// Endpoints that make no sense are told of and left out; what waits for them stays until it has to give way.
    pub(super) fn new(push: &Push, spool: Spool, words: Words) -> Self {
        let way = |kind: Kind| {
            let endpoint = kind.endpoint(push)?;
            let told =
                |why: &String| words.say(format!("profiles cannot be sent to {}: {why}", endpoint.shown()));
            Some(Way {
                kind,
                url: kind.url(endpoint),
                shown: endpoint.shown(),
                client: Client::new(endpoint).inspect_err(told).ok()?,
                backoff: Backoff::default(),
                next: Instant::now(),
            })
        };
        let ways = Kind::ALL.into_iter().filter_map(way).collect();
        Self { spool, ways, words }
    }

    /// Sends until `news` ends. Each word of it means that there is something new.
    pub(super) fn run(mut self, news: &Receiver<()>, counts: &Counts) {
        let mut chance = Chance::of_now();
        loop {
            let now = Instant::now();
            let mut wait = IDLE;
            for way in &mut self.ways {
                let sent = if way.next <= now {
                    way.send_one(&self.spool, chance.fraction(), &self.words, counts)
                } else {
                    None
                };
                match sent {
                    // More may wait.
                    Some(true) => wait = Duration::ZERO,
                    Some(false) => wait = wait.min(way.next.saturating_duration_since(now)),
                    None if way.next > now => wait = wait.min(way.next - now),
                    None => {}
                }
            }
            counts.waiting.store(self.spool.waiting(None).len() as u64, Ordering::Relaxed);
            match news.recv_timeout(wait) {
                Ok(()) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }
}

impl Way {
    /// Sends the oldest request: whether another one may follow at once, or none where nothing waits.
    fn send_one(&mut self, spool: &Spool, chance: f64, words: &Words, counts: &Counts) -> Option<bool> {
        let oldest: Waiting = spool.waiting(Some(self.kind)).into_iter().next()?;
        let body = match spool.read(&oldest) {
            Ok(body) => body,
            Err(error) => {
                words.say(format!("a profile that waited to be sent cannot be read: {error}"));
                spool.remove(&oldest);
                counts.refused.fetch_add(1, Ordering::Relaxed);
                return Some(true);
            }
        };
        let mut headers = vec![("Content-Type", self.kind.content_type())];
        match self.kind {
            Kind::Otlp => headers.push(("Content-Encoding", "gzip")),
            Kind::Pyroscope => headers.push(("Connect-Protocol-Version", "1")),
        }
        match self.client.post(&self.url, &headers, &body) {
            Answer::Taken(_) => {
                spool.remove(&oldest);
                if self.backoff.failures() > 0 {
                    words.say(format!("{} takes profiles again", self.shown));
                }
                self.backoff.worked();
                counts.sent.fetch_add(1, Ordering::Relaxed);
                Some(true)
            }
            Answer::Refused(why) => {
                spool.remove(&oldest);
                // The next one will be refused for the same reason: said once, and not asked all the time.
                if self.backoff.failures() == 0 {
                    words.say(format!("{} refuses profiles: {why}", self.shown));
                }
                self.next = Instant::now() + self.backoff.failed(chance);
                counts.refused.fetch_add(1, Ordering::Relaxed);
                Some(false)
            }
            Answer::Later(why) => {
                if self.backoff.failures() == 0 {
                    words.say(format!("{} does not take profiles now; they wait: {why}", self.shown));
                }
                self.next = Instant::now() + self.backoff.failed(chance);
                counts.failures.fetch_add(1, Ordering::Relaxed);
                Some(false)
            }
        }
    }
}
