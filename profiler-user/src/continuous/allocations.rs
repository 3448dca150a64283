//! Allocations of the processes that rules name, on a thread of its own: a slice of time sleeps, and sampling must not wait for that.
//!
//! One recording for all of them, whose windows end with the others. It begins when the first process fits a rule and ends with the last one; between
//! processes are looked for, probes are put in, and taken out when a process ends or no rule names it any more.

mod find;
mod status;

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::Words;
use super::filter::Rule;
use crate::aggregate::StackScope;
use crate::bpf::Clock;
use crate::causes::with_causes;
use crate::profile_type::{HeapOptions, LeakOptions, ProfileKind, Rate};
use crate::session::{Idle, Recorded, Scope, Session, SessionError, SessionOptions};
use find::{Candidate, Finder};
pub use status::AllocationStatus;

/// The profile type of their windows.
pub(super) const ALLOCATIONS: &str = "alloc";

/// Time between two drains of the ring, and while stacks wait for their tables.
const DRAIN_EVERY: Duration = Duration::from_millis(250);
const DRAIN_SOON: Duration = Duration::from_millis(20);
/// Time between two looks for processes that a rule names. One look reads a file of each process of the host.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Looks until a process without an allocator is given up: one that has just begun loads it first.
const MOST_LOOKS: u32 = 5;
/// A recording that went over to slices of time stays with them; after so long another one finds out anew whether they are needed.
const ANEW_AFTER: Duration = Duration::from_hours(1);
/// Blocks that are followed at once.
const MOST_BLOCKS: u32 = 32_768;

/// Whose allocations are wanted.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Wanted {
    /// Processes that one of these fits.
    pub(super) rules: Vec<Rule>,
    /// Processes at once, at most.
    pub(super) most: usize,
    /// Mean bytes between two blocks that are followed.
    pub(super) sample_bytes: u64,
    /// Share of one CPU that the probes may take.
    pub(super) max_overhead: f64,
}

/// What ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// A window.
    Window,
    /// The last window.
    Recording,
}

enum Order {
    End(Ending, SyncSender<Recorded>),
    Want(Wanted),
}

/// The thread and the way to it.
pub(super) struct Allocations {
    orders: Option<SyncSender<Order>>,
    status: Arc<Mutex<Option<AllocationStatus>>>,
    thread: Option<JoinHandle<()>>,
}

impl Allocations {
    /// Begins to look for processes. `max_table_bytes` is the memory for unwind tables.
    ///
    /// # Errors
    ///
    /// The system has no room for another thread.
    pub(super) fn start(wanted: Wanted, max_table_bytes: u64, words: Words) -> Result<Self, SessionError> {
        let (orders, todo) = sync_channel(4);
        let status = Arc::new(Mutex::new(None));
        let told = Arc::clone(&status);
        let run = move || Watcher::new(wanted, max_table_bytes, words, told).run(&todo);
        let thread = std::thread::Builder::new().name("allocations".to_owned()).spawn(run);
        let thread = thread.map_err(SessionError::Thread)?;
        Ok(Self { orders: Some(orders), status, thread: Some(thread) })
    }

    /// Names other processes from now on.
    pub(super) fn want(&self, wanted: Wanted) {
        if let Some(orders) = &self.orders {
            // It has ended only if it has panicked, which it has said itself.
            let _ended = orders.send(Order::Want(wanted));
        }
    }

    /// Closes the window. What was recorded comes through what is returned, after a slice of time at most; never, when nobody fits a rule.
    pub(super) fn end_window(&self, ending: Ending) -> Receiver<Recorded> {
        let (answer, recorded) = sync_channel(1);
        if let Some(orders) = &self.orders {
            // While it puts probes in it hears nothing: then the window stays open, and grows.
            let _later = orders.try_send(Order::End(ending, answer));
        }
        recorded
    }

    /// How things stand; none where nobody is named.
    pub(super) fn status(&self) -> Option<AllocationStatus> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Allocations {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            // A panic was reported by the thread itself.
            let _reported = thread.join();
        }
    }
}

/// A process in the recording.
#[derive(Debug)]
struct Probed {
    who: Candidate,
    /// Looks since it was entered in which it had no allocator.
    looks: u32,
}

struct Watcher {
    wanted: Wanted,
    max_table_bytes: u64,
    words: Words,
    finder: Finder,
    /// None while no process fits.
    session: Option<Session>,
    probed: BTreeMap<u32, Probed>,
    /// The recording cannot start, until other rules come.
    failed: bool,
    /// The recording is to end with its window, and another one to begin.
    begins_anew: bool,
    status: AllocationStatus,
    told: Arc<Mutex<Option<AllocationStatus>>>,
}

impl Watcher {
    fn new(
        wanted: Wanted,
        max_table_bytes: u64,
        words: Words,
        told: Arc<Mutex<Option<AllocationStatus>>>,
    ) -> Self {
        Self {
            finder: Finder::new(&wanted.rules),
            wanted,
            max_table_bytes,
            words,
            session: None,
            probed: BTreeMap::new(),
            failed: false,
            begins_anew: false,
            status: AllocationStatus::default(),
            told,
        }
    }

    fn run(mut self, todo: &Receiver<Order>) {
        let (mut next_look, mut next_tick) = (Instant::now(), Instant::now());
        loop {
            match todo.recv_timeout(next_look.min(next_tick).saturating_duration_since(Instant::now())) {
                Ok(Order::End(ending, answer)) => self.end(ending, &answer),
                Ok(Order::Want(wanted)) => {
                    self.want(wanted);
                    next_look = Instant::now();
                }
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {}
            }
            if Instant::now() >= next_look {
                self.look();
                next_look = Instant::now() + LOOK_EVERY;
            }
            if Instant::now() >= next_tick {
                if let Some(session) = &mut self.session {
                    session.tick();
                }
                next_tick = Instant::now() + self.pause();
            }
            self.tell();
        }
    }

    /// Time to the next tick.
    fn pause(&self) -> Duration {
        let Some(session) = &self.session else { return LOOK_EVERY };
        let usual = if session.is_waiting() { DRAIN_SOON } else { DRAIN_EVERY };
        session.next_tick().map_or(usual, |next| next.min(usual))
    }

    fn want(&mut self, wanted: Wanted) {
        if wanted == self.wanted {
            return;
        }
        self.finder = Finder::new(&wanted.rules);
        self.failed = false;
        // What a recording was started with holds to its end.
        let holds = Wanted { rules: self.wanted.rules.clone(), most: self.wanted.most, ..wanted.clone() };
        self.begins_anew |= holds != self.wanted && self.session.is_some();
        self.wanted = wanted;
    }

    /// Puts probes into processes that fit, and takes them out of those that ended or do not fit any more.
    fn look(&mut self) {
        if self.failed || (self.wanted.rules.is_empty() && self.probed.is_empty()) {
            return;
        }
        let found = self.finder.look();
        for pid in self.probed.keys().copied().collect::<Vec<_>>() {
            let Some(probed) = self.probed.get(&pid) else { continue };
            if found.fitting.iter().any(|who| who.is(&probed.who)) {
                continue;
            }
            if found.living.contains(&(pid, probed.who.start_ticks)) {
                self.status.removed += 1;
            } else {
                self.status.ended += 1;
            }
            self.leave(pid);
        }
        self.give_up();
        let mut waiting = 0;
        for who in found.fitting {
            if self.probed.contains_key(&who.pid) || self.finder.is_unable(&who) {
                continue;
            }
            if self.probed.len() >= self.wanted.most {
                waiting += 1;
                continue;
            }
            self.enter(who);
        }
        self.status.waiting = waiting;
    }

    fn enter(&mut self, who: Candidate) {
        if self.session.is_none() {
            match Session::start(&options(&self.wanted, self.max_table_bytes)) {
                Ok(session) => self.session = Some(session),
                Err(error) => {
                    self.failed = true;
                    let why = with_causes(&error);
                    self.words.say(format!("allocations are not recorded: {why}"));
                    self.status.refusal = Some(why);
                    return;
                }
            }
        }
        let Some(session) = &mut self.session else { return };
        if let Err(error) = session.enter(who.pid) {
            session.leave(who.pid);
            self.unable(&who, &with_causes(&error));
            return;
        }
        self.probed.insert(who.pid, Probed { who, looks: 0 });
    }

    fn leave(&mut self, pid: u32) {
        if let Some(session) = &mut self.session {
            session.leave(pid);
        }
        self.probed.remove(&pid);
    }

    /// Leaves processes alone that have no allocator, or whose blocks cannot be followed.
    fn give_up(&mut self) {
        let Some(session) = &self.session else { return };
        let mut without = Vec::new();
        for (pid, probed) in &mut self.probed {
            probed.looks = if session.follows(*pid) { 0 } else { probed.looks + 1 };
            if probed.looks >= MOST_LOOKS {
                without.push(*pid);
            }
        }
        for pid in without {
            let Some(Probed { who, .. }) = self.probed.remove(&pid) else { continue };
            self.leave(pid);
            self.unable(&who, "it has no allocator whose blocks can be followed until they are freed");
        }
    }

    fn unable(&mut self, who: &Candidate, why: &str) {
        let who_and_why = format!("{} ({}): {why}", who.name, who.pid);
        self.words.say(format!("allocations are not recorded of {who_and_why}"));
        self.status.unable += 1;
        self.status.refusal = Some(who_and_why);
        self.finder.set_unable(who);
    }

    fn end(&mut self, ending: Ending, answer: &SyncSender<Recorded>) {
        let Some(mut session) = self.session.take() else { return };
        let has_aged = session.watches_in_slices() && session.started().elapsed() >= ANEW_AFTER;
        let anew = std::mem::take(&mut self.begins_anew) || has_aged;
        let recorded = if ending == Ending::Window && !self.probed.is_empty() && !anew {
            let recorded = session.rotate();
            self.session = Some(session);
            recorded
        } else {
            session.stop()
        };
        if answer.send(recorded).is_err() {
            self.status.late += 1;
        }
        if anew && ending == Ending::Window {
            self.status.anew += u64::from(!self.probed.is_empty());
            for (_, Probed { who, .. }) in std::mem::take(&mut self.probed) {
                self.enter(who);
            }
        }
    }

    fn tell(&mut self) {
        let is_asked = !self.wanted.rules.is_empty() || !self.probed.is_empty();
        self.status.sliced = self.session.as_ref().is_some_and(Session::watches_in_slices);
        self.status.processes =
            self.probed.values().map(|probed| format!("{} ({})", probed.who.name, probed.who.pid)).collect();
        let status = is_asked.then(|| self.status.clone());
        *self.told.lock().unwrap_or_else(PoisonError::into_inner) = status;
    }
}

/// Of nobody yet.
fn options(wanted: &Wanted, max_table_bytes: u64) -> SessionOptions {
    let heap = HeapOptions {
        sample_bytes: wanted.sample_bytes,
        live: true,
        max_overhead: wanted.max_overhead,
        leaks: Some(LeakOptions { older_ns: None, min_bytes: 0 }),
        table_blocks: MOST_BLOCKS,
        windows: true,
        ..HeapOptions::default()
    };
    SessionOptions {
        scope: Scope::Processes(Vec::new()),
        // Children that fit are found like everybody else.
        follow_forks: false,
        cpus: None,
        kind: ProfileKind::Alloc(heap),
        beside: Vec::new(),
        rate: Rate { clock: Clock::CpuClock, frequency_hz: 99, max_overhead: None },
        idle: Idle::Exclude,
        stacks: StackScope::UserOnly,
        max_table_bytes,
        dump: None,
    }
}
