//! Closed windows → names → the store, on a thread of its own.
//!
//! In: what the session took out at the end of a window. Names that earlier windows looked up are kept, so a window costs what is new in it. A
//! window that cannot be stored is counted and told; the next one may be.

use std::collections::HashMap;
use std::iter;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::watch;

use super::Words;
use super::allocations::{ALLOCATIONS, AllocationStatus};
use super::config::{Config, StoreConfig};
use super::feeds::Feeds;
use super::filter::Filter;
use super::live::{Live, Teller};
use super::resources::Resources;
use super::status::{Status, StatusFile};
use crate::aggregate::Aggregate;
use crate::bpf::Clock;
use crate::causes::with_causes;
use crate::output::syscalls::describe_measure;
use crate::process::{CgroupNames, Known, cgroup_of};
use crate::profile::{Counter, Meta, Profile, ValueType};
use crate::resolve::{Named, Naming, name_together, resolve_window};
use crate::session::{Beside, Recorded, clock};
use crate::store::{Limits, Store};
use crate::symbolize::native::Options;
use crate::syscalls::CallReport;
use crate::system::heap;

/// Windows on their way. While they are, a window that is open stays open and grows: nothing is lost by a slow disk.
pub(super) const MOST_ON_THEIR_WAY: usize = 2;
/// Longest wait for the system calls of a window, and for its allocations: they are measured in slices of an eighth of a second at most.
const CALLS_PATIENCE: Duration = Duration::from_secs(5);
/// Kinds of losses that are told apart in the sums of a run.
const MOST_LOSSES: usize = 64;

/// A window that was closed.
pub(super) struct Closed {
    pub(super) recorded: Recorded,
    /// Where the report of system calls comes from, where they are counted.
    pub(super) calls: Option<Receiver<CallReport>>,
    /// Where allocations come from, where they are recorded.
    pub(super) allocations: Option<Receiver<Recorded>>,
    pub(super) meta: Meta,
}

/// What the writer is told.
enum Message {
    Window(Box<Closed>),
    Configure(Box<Config>, Vec<String>),
    Refuse(String),
}

/// What was written so far.
#[derive(Debug, Clone, Default)]
pub struct Written {
    /// Windows that are in the store.
    pub windows: u64,
    /// Samples in them.
    pub samples: u64,
    /// Bytes that they took when they were written.
    pub bytes: u64,
    /// Windows that could not be stored, and their samples.
    pub not_stored: (u64, u64),
    /// Why the last one could not.
    pub error: Option<String>,
    /// End of the last window, Unix nanoseconds.
    pub last_unix_ns: u64,
    /// Everything that was not recorded, by cause.
    pub lost: Vec<Counter>,
    /// What it cost: agent and kernel side, nanoseconds of CPU time.
    pub cost_ns: u64,
    /// Time of all CPUs meanwhile, nanoseconds.
    pub machine_ns: u64,
    /// The same of the last window alone.
    pub last_cost_ns: (u64, u64),
    /// Bytes of all files of the store.
    pub store_bytes: u64,
    /// Files that the store let go before their time: it was full, or the disk was.
    pub dropped_files: u64,
    /// Those of them that were in the way because the disk was full.
    pub disk_full_files: u64,
    /// Times that windows could not be merged; nothing is lost by it but room.
    pub failed_merges: u64,
    /// What those have done who are shown each window beside the store: alerts and the like.
    pub feeds: Vec<Counter>,
    /// Whose allocations are recorded; none where nobody's are asked for.
    pub allocations: Option<AllocationStatus>,
    /// Times that it was told to read its configuration again.
    pub reloads: u64,
    /// Why the last one was refused.
    pub refusal: Option<String>,
    /// Keys whose new value needs a restart.
    pub kept: Vec<String>,
}

impl Written {
    /// What it costs, percent of the machine, over all windows.
    pub fn cost_percent(&self) -> f64 {
        self.cost_ns as f64 * 100.0 / self.machine_ns.max(1) as f64
    }

    /// All losses together.
    pub fn lost_total(&self) -> u64 {
        self.lost.iter().fold(0, |sum, counter| sum.saturating_add(counter.count))
    }

    /// Adds a profile; what the time of its window is, the first says.
    fn add(&mut self, profile: &Profile, is_first: bool) {
        let meta = &profile.meta;
        self.last_unix_ns = meta.start_unix_ns.saturating_add(meta.duration_ns);
        if let Some(overhead) = &profile.quality.overhead {
            let cost_ns =
                overhead.agent_cpu_ns.saturating_add(overhead.bpf_ns).saturating_add(overhead.probes_ns);
            self.cost_ns = self.cost_ns.saturating_add(cost_ns);
            if is_first {
                let machine_ns = overhead.wall_ns.saturating_mul(u64::from(overhead.cpus));
                self.last_cost_ns = (cost_ns, machine_ns);
                self.machine_ns = self.machine_ns.saturating_add(machine_ns);
            } else {
                self.last_cost_ns.0 = self.last_cost_ns.0.saturating_add(cost_ns);
            }
        }
        profile.quality.lost.iter().for_each(|lost| self.lose(lost));
    }

    fn lose(&mut self, lost: &Counter) {
        let has_room = self.lost.len() < MOST_LOSSES;
        match self.lost.iter_mut().find(|known| known.id == lost.id) {
            Some(known) => known.count = known.count.saturating_add(lost.count),
            None if has_room => self.lost.push(lost.clone()),
            None => {}
        }
    }
}

/// The thread and the way to it.
#[derive(Debug)]
pub(super) struct Writer {
    messages: Option<SyncSender<Message>>,
    on_their_way: Arc<AtomicUsize>,
    written: Arc<Mutex<Written>>,
    live: watch::Receiver<Option<Arc<Live>>>,
    words: Words,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Starts the thread, which says in `cpu_ns` what CPU time it has used.
    ///
    /// # Errors
    ///
    /// The system has no room for another thread.
    pub(super) fn start(
        store: Store,
        config: &Config,
        status: StatusFile,
        cpu_ns: Arc<AtomicU64>,
    ) -> std::io::Result<Self> {
        // One more for a configuration, which must not wait for a window.
        let (messages, todo) = sync_channel(MOST_ON_THEIR_WAY + 2);
        let on_their_way = Arc::new(AtomicUsize::new(0));
        let written = Arc::new(Mutex::new(Written { store_bytes: store.bytes(), ..Written::default() }));
        let teller = Teller::new(Arc::clone(&on_their_way));
        let live = teller.watch();
        let words = Words::default();
        let state = State {
            feeds: Feeds::start(config, words.clone()),
            store,
            teller,
            filter: config.filter.clone(),
            naming: naming(config),
            config: config.clone(),
            named: Named::default(),
            cgroups: CgroupNames::of_host(),
            written: Arc::clone(&written),
            status,
            resources: None,
        };
        let left = Arc::clone(&on_their_way);
        let thread = std::thread::Builder::new()
            .name("windows".to_owned())
            .spawn(move || state.run(&todo, &left, &cpu_ns))?;
        Ok(Self { messages: Some(messages), on_their_way, written, live, words, thread: Some(thread) })
    }

    /// Whether it takes another window without a wait.
    pub(super) fn has_room(&self) -> bool {
        self.on_their_way.load(Ordering::Acquire) < MOST_ON_THEIR_WAY
    }

    /// Whether the thread still runs.
    pub(super) fn is_running(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Hands a window over.
    pub(super) fn write(&self, closed: Closed) {
        self.on_their_way.fetch_add(1, Ordering::AcqRel);
        self.send(Message::Window(Box::new(closed)));
    }

    /// From the next window on.
    pub(super) fn configure(&self, config: &Config, kept: &[&str]) {
        let kept = kept.iter().map(|key| (*key).to_owned()).collect();
        self.send(Message::Configure(Box::new(config.clone()), kept));
    }

    /// There was another one, which means nothing: whoever asked for it can read why.
    pub(super) fn refuse(&self, why: String) {
        self.send(Message::Refuse(why));
    }

    fn send(&self, message: Message) {
        if let Some(messages) = &self.messages {
            // A thread that has ended is noticed by whoever asks whether it runs.
            let _ended = messages.send(message);
        }
    }

    /// What was written so far.
    pub(super) fn written(&self) -> Written {
        self.written.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What was written so far, and each time that this changes.
    pub(super) fn live(&self) -> watch::Receiver<Option<Arc<Live>>> {
        self.live.clone()
    }

    /// Says whose allocations are recorded.
    pub(super) fn tell_allocations(&self, status: Option<AllocationStatus>) {
        self.written.lock().unwrap_or_else(PoisonError::into_inner).allocations = status;
    }

    /// Lines for the log.
    pub(super) fn words(&self) -> Words {
        self.words.clone()
    }

    /// Waits until everything is written.
    pub(super) fn finish(mut self) -> Written {
        self.messages = None;
        if let Some(thread) = self.thread.take() {
            // A panic was reported by the thread itself.
            let _reported = thread.join();
        }
        self.written()
    }
}

struct State {
    store: Store,
    teller: Teller,
    feeds: Feeds,
    config: Config,
    filter: Filter,
    naming: Naming,
    named: Named,
    cgroups: CgroupNames,
    written: Arc<Mutex<Written>>,
    status: StatusFile,
    /// None where they are not wanted.
    resources: Option<Resources>,
}

impl State {
    fn run(mut self, todo: &Receiver<Message>, on_their_way: &AtomicUsize, cpu_ns: &AtomicU64) {
        self.tell();
        self.resources = self.config.also.resources.then(Resources::new);
        for message in todo {
            match message {
                Message::Window(closed) => {
                    self.window(*closed);
                    // A window takes many times what stays of it.
                    heap::give_back();
                    on_their_way.fetch_sub(1, Ordering::AcqRel);
                }
                Message::Configure(config, kept) => {
                    self.configure(*config);
                    self.reloaded(None, kept);
                }
                Message::Refuse(why) => self.reloaded(Some(why), Vec::new()),
            }
            cpu_ns.store(clock::thread_cpu_ns(), Ordering::Relaxed);
        }
        self.status.remove();
    }

    fn reloaded(&mut self, refusal: Option<String>, kept: Vec<String>) {
        {
            let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
            written.reloads += 1;
            (written.refusal, written.kept) = (refusal, kept);
        }
        self.tell();
    }

    fn configure(&mut self, config: Config) {
        self.store.set_limits(limits(&config.store));
        self.filter = config.filter.clone();
        if config.names != self.config.names {
            // What is known says too little, or too much.
            self.named = Named::default();
        }
        self.naming = naming(&config);
        self.feeds.configure(&config);
        self.config = config;
    }

    fn window(&mut self, closed: Closed) {
        self.teller.begin_window();
        if self.named.begin_window() {
            self.cgroups = CgroupNames::of_host();
        }
        let Closed { mut recorded, calls, allocations, meta } = closed;
        let meta = Meta { start_unix_ns: recorded.start_unix_ns, duration_ns: recorded.duration_ns, ..meta };
        let beside = std::mem::take(&mut recorded.beside);
        let of_window = beside.iter().map(|other| (&other.aggregate, &other.known));
        let of_window: Vec<_> = iter::once((&recorded.aggregate, &recorded.known)).chain(of_window).collect();
        name_together(&of_window, &self.naming, &mut self.named);
        let profile = self.profile(recorded, &meta);
        self.store(&profile, true);
        // Whoever watches need not wait for what comes beside it: calls come late where they are counted in slices.
        let (status, written) = self.standing();
        self.teller.tell(status, written);
        self.feeds.window(profile);
        for other in beside {
            let profile = self.profile_beside(other, &meta);
            self.store(&profile, false);
            self.feeds.window(profile);
        }
        match calls.map(|calls| calls.recv_timeout(CALLS_PATIENCE)) {
            Some(Ok(report)) => {
                let profile = self.profile_of_calls(report, &meta);
                self.store(&profile, false);
                self.feeds.window(profile);
            }
            Some(Err(_)) => {
                let what = "windows of system calls that came too late".to_owned();
                let lost = Counter { id: "late_calls".to_owned(), what, count: 1 };
                self.written.lock().unwrap_or_else(PoisonError::into_inner).lose(&lost);
            }
            None => {}
        }
        if let Some(recorded) = allocations.and_then(|from| from.recv_timeout(CALLS_PATIENCE).ok()) {
            let profile = self.profile_of_allocations(recorded, &meta);
            self.store(&profile, false);
            self.feeds.window(profile);
        }
        if let Some(resources) = &mut self.resources {
            for profile in resources.window(&self.filter, &meta) {
                self.store(&profile, false);
                self.feeds.window(profile);
            }
        }
        self.tell();
    }

    /// Stores a profile. Of the several of one window the first counts as the window.
    fn store(&mut self, profile: &Profile, is_first: bool) {
        let stored = self.store.append(profile);
        self.teller.window(profile);
        let losses = self.store.losses();
        let (disk_full_files, by_size_files) = (losses.disk_full.files, losses.by_size.files);
        let failed_merges = losses.failed_merges;
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        written.add(profile, is_first);
        written.store_bytes = self.store.bytes();
        written.dropped_files = by_size_files + disk_full_files;
        written.disk_full_files = disk_full_files;
        written.failed_merges = failed_merges;
        match stored {
            Ok(appended) => {
                if is_first {
                    written.windows += 1;
                    written.samples = written.samples.saturating_add(profile.quality.samples);
                }
                written.bytes = written.bytes.saturating_add(appended.bytes);
            }
            Err(error) => {
                written.not_stored.0 += 1;
                written.not_stored.1 = written.not_stored.1.saturating_add(profile.quality.samples);
                written.error = Some(with_causes(&error));
            }
        }
    }

    fn profile(&mut self, recorded: Recorded, meta: &Meta) -> Profile {
        let meta = Meta { period: recorded.period, clock: recorded.trigger, ..meta.clone() };
        let stacks = (recorded.aggregate, recorded.known);
        let mut profile = self.named(stacks, &recorded.value_types, meta, recorded.notes);
        profile.quality.lost = recorded.lost;
        profile.quality.overhead = Some(recorded.overhead);
        profile.quality.unwind = Some(recorded.unwind);
        profile
    }

    fn profile_beside(&mut self, beside: Beside, meta: &Meta) -> Profile {
        let Beside { kind, aggregate, known, notes } = beside;
        let meta = Meta {
            profile_type: kind.name().to_owned(),
            clock: kind.trigger(Clock::CpuClock),
            period: 0,
            frequency_hz: 0,
            ..meta.clone()
        };
        let mut profile = self.named((aggregate, known), &kind.value_types(Clock::CpuClock), meta, notes);
        kind.counted().clone_into(&mut profile.quality.noun);
        profile
    }

    fn profile_of_allocations(&mut self, recorded: Recorded, meta: &Meta) -> Profile {
        let meta = Meta { profile_type: ALLOCATIONS.to_owned(), frequency_hz: 0, ..meta.clone() };
        let counted = recorded.counted;
        let mut profile = self.profile(recorded, &meta);
        counted.clone_into(&mut profile.quality.noun);
        // The agent's own time is the whole recording's.
        if let Some(overhead) = &mut profile.quality.overhead {
            (overhead.agent_cpu_ns, overhead.busy_ns) = (0, 0);
            overhead.stages.clear();
        }
        profile
    }

    fn profile_of_calls(&mut self, mut report: CallReport, meta: &Meta) -> Profile {
        let groups: HashMap<u32, Option<Arc<str>>> =
            report.owners.iter().filter_map(|owner| owner.pid).map(|pid| (pid, cgroup_of(pid))).collect();
        let group = |pid: u32| groups.get(&pid).cloned().flatten();
        // Users are not known of processes that may be gone.
        report.owners.retain(|owner| {
            let cgroup = owner.pid.and_then(group);
            self.filter.keeps_process(&owner.name, None, cgroup.as_deref())
        });
        // The agent's own time is the whole recording's.
        if let Some(overhead) = &mut report.quality.overhead {
            (overhead.agent_cpu_ns, overhead.busy_ns) = (0, 0);
            overhead.stages.clear();
        }
        "calls".clone_into(&mut report.quality.noun);
        report.quality.notes.insert(0, describe_measure(report.measure));
        // Windows of one time have one beginning and one length, whichever thread closed them.
        report.meta.start_unix_ns = meta.start_unix_ns;
        report.meta.duration_ns = meta.duration_ns;
        report.to_profile(group)
    }

    fn named(
        &mut self,
        (mut aggregate, known): (Aggregate, Known),
        value_types: &[ValueType],
        meta: Meta,
        mut notes: Vec<String>,
    ) -> Profile {
        let left_out = self.filter.apply(&mut aggregate, &known, &mut self.cgroups);
        if left_out > 0 {
            notes.push(format!("{left_out} samples are of processes that the filter leaves out"));
        }
        let cgroups = &mut self.cgroups;
        let mut profile =
            resolve_window(&aggregate, &known, cgroups, value_types, meta, &self.naming, &mut self.named);
        profile.quality.notes.extend(notes);
        profile
    }

    fn tell(&mut self) {
        let (status, written) = self.standing();
        self.status.write(&status);
        self.teller.tell(status, written);
    }

    fn standing(&self) -> (Status, Written) {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        written.feeds = self.feeds.counters();
        (self.status.status(&self.config, &written), written.clone())
    }
}

fn naming(config: &Config) -> Naming {
    Naming::Full(Options { detail: config.names, ..Options::default() })
}

/// How much a store keeps, as configured.
pub(super) fn limits(store: &StoreConfig) -> Limits {
    Limits {
        max_bytes: store.max_bytes,
        max_age: store.max_age,
        recorded_for: store.recorded_for,
        minutes_for: store.minutes_for,
        ..Limits::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_add_up_by_cause_and_causes_are_bounded() {
        let mut written = Written::default();
        let lost = |number: usize, count| Counter {
            id: format!("cause_{number}"),
            what: "of a kind".to_owned(),
            count,
        };
        (0..3 * MOST_LOSSES).for_each(|number| written.lose(&lost(number % MOST_LOSSES, 2)));
        written.lose(&lost(1, u64::MAX));
        written.lose(&lost(MOST_LOSSES, 1));
        assert_eq!(
            (written.lost.len(), written.lost[0].count, written.lost[1].count),
            (MOST_LOSSES, 6, u64::MAX)
        );
    }
}
