//! The threads of pushing, and the way to them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::batch::Batch;
use super::encode::encode;
use super::sender::{Counts, Sender};
use super::spool::Spool;
use super::{KINDS, Kind, Push};
use crate::causes::with_causes;
use crate::continuous::Words;
use crate::profile::{Counter, Profile};
use crate::session::clock;

/// Windows that wait to be encoded: those of each kind, some times. One that finds no room is not sent, and counted.
const MOST_WAITING: usize = 4 * KINDS.len();
/// Longest wait for a request that is under way when the daemon ends. What is not sent then waits in the spool.
const LAST_WAIT: Duration = Duration::from_secs(2);

/// Sends windows until it is dropped.
#[derive(Debug)]
pub(crate) struct Pusher {
    windows: Option<SyncSender<Arc<Profile>>>,
    missed: AtomicU64,
    counts: Arc<Counts>,
    encoder: Option<JoinHandle<()>>,
    sender: Option<JoinHandle<()>>,
}

impl Pusher {
    /// Opens the spool and starts the threads.
    ///
    /// # Errors
    ///
    /// The spool cannot be used, or the system has no room for another thread.
    pub(crate) fn start(push: &Push, words: &Words) -> std::io::Result<Self> {
        let spool = Spool::open(&push.spool, push.max_spool_bytes)?;
        let counts: Arc<Counts> = Arc::default();
        let (windows, todo) = sync_channel(MOST_WAITING);
        let (tell, news) = sync_channel(1);
        let sender = Sender::new(push, spool.clone(), words.clone());
        let told = Arc::clone(&counts);
        let sender = std::thread::Builder::new()
            .name("push-out".to_owned())
            .spawn(move || sender.run(&news, &told))?;
        let encoder =
            Encoder { push: push.clone(), spool, words: words.clone(), counts: Arc::clone(&counts), tell };
        let encoder =
            std::thread::Builder::new().name("push".to_owned()).spawn(move || encoder.run(&todo))?;
        Ok(Self {
            windows: Some(windows),
            missed: AtomicU64::new(0),
            counts,
            encoder: Some(encoder),
            sender: Some(sender),
        })
    }

    /// A window that was closed. Never waits.
    pub(crate) fn window(&self, profile: &Arc<Profile>) {
        let Some(windows) = &self.windows else { return };
        if let Err(TrySendError::Full(_)) = windows.try_send(Arc::clone(profile)) {
            self.missed.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What was sent, and what was not.
    pub(crate) fn counters(&self) -> Vec<Counter> {
        let counts = &self.counts;
        [
            ("push_sent", "requests with profiles sent", &counts.sent),
            ("push_waiting", "requests waiting in the spool", &counts.waiting),
            ("push_failures", "tries to send that failed", &counts.failures),
            ("push_refused", "requests that were refused", &counts.refused),
            ("push_dropped", "requests dropped: the spool was full", &counts.dropped),
            ("push_windows_missed", "windows not sent: encoding was behind", &self.missed),
        ]
        .into_iter()
        .map(|(id, what, count)| Counter {
            id: id.to_owned(),
            what: what.to_owned(),
            count: count.load(Ordering::Relaxed),
        })
        .collect()
    }
}

impl Drop for Pusher {
    fn drop(&mut self) {
        self.windows = None;
        if let Some(encoder) = self.encoder.take() {
            let _reported = encoder.join();
        }
        let Some(sender) = self.sender.take() else { return };
        let until = Instant::now() + LAST_WAIT;
        while !sender.is_finished() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

struct Encoder {
    push: Push,
    spool: Spool,
    words: Words,
    counts: Arc<Counts>,
    tell: SyncSender<()>,
}

impl Encoder {
    fn run(self, todo: &Receiver<Arc<Profile>>) {
        let mut batch = Batch::default();
        for profile in todo {
            for done in batch.add(&profile, self.push.interval) {
                self.spool(&done);
            }
        }
        for rest in batch.finish() {
            self.spool(&rest);
        }
    }

    fn spool(&self, profile: &Profile) {
        if profile.samples.is_empty() {
            return;
        }
        for kind in Kind::ALL.into_iter().filter(|kind| kind.endpoint(&self.push).is_some()) {
            let encoded = encode(kind, profile, &self.push).map_err(|error| with_causes(&error));
            let added = encoded.and_then(|body| {
                self.spool.add(kind, &body, clock::unix_ns()).map_err(|error| error.to_string())
            });
            match added {
                Ok(dropped) => {
                    self.counts.dropped.fetch_add(dropped.requests, Ordering::Relaxed);
                }
                Err(why) => {
                    self.counts.dropped.fetch_add(1, Ordering::Relaxed);
                    self.words.say(format!("a profile was not sent: {why}"));
                }
            }
        }
        // It already knows that there is something new where there is no room.
        let _told = self.tell.try_send(());
    }
}
