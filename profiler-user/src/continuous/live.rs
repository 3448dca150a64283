//! What a running recorder tells those who watch it, after every window.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use tokio::sync::watch;

use super::latency::Latencies;
use super::status::Status;
use super::writer::Written;
use crate::profile::Profile;
use crate::syscalls::CallReport;

/// Processes with a sum of their own over the whole run. Whoever used most in a window is among them; the one that was busy longest ago gives way.
pub const MOST_PROCESSES: usize = 50;
/// Processes of a window that are named; the others are added up.
const MOST_IN_WINDOW: usize = 100;

/// How things stand after a window.
#[derive(Debug, Clone)]
pub struct Live {
    /// What `daemon status` says.
    pub status: Status,
    /// What was written so far.
    pub written: Written,
    /// The last window; none before the first.
    pub last: Option<Arc<WindowSums>>,
    /// CPU time since the recorder began, nanoseconds.
    pub cpu: Sums,
    /// Time that threads were blocked, nanoseconds; none where waits are not recorded.
    pub blocked: Option<Sums>,
    /// Time that threads were ready and waited for a CPU, nanoseconds.
    pub queued: Option<Sums>,
    /// Resident memory that was asked for, bytes; none where its growth is not recorded.
    pub grown: Option<Sums>,
    /// Memory that processes asked their allocators for, bytes; none where nobody's allocations were recorded.
    pub allocated: Option<Sums>,
    /// What was freed of it, bytes.
    pub freed: Option<Sums>,
    /// How long system calls took; none where they are not counted.
    pub calls: Option<Latencies>,
    /// Resident memory in the last window: bytes × milliseconds, to be divided by its length.
    pub resident: Option<Arc<WindowSums>>,
    /// Windows that are closed and not yet stored.
    pub waiting: Arc<AtomicUsize>,
    /// Whether the last window could not be stored.
    pub is_failing: bool,
}

/// A window, by process.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WindowSums {
    /// In the words of the command line: `cpu`.
    pub profile_type: String,
    /// Nanoseconds since the Unix epoch.
    pub start_unix_ns: u64,
    /// Nanoseconds.
    pub duration_ns: u64,
    /// The profile's default value by name of the process, the largest first.
    pub by_process: Vec<(Arc<str>, u64)>,
    /// That of all others.
    pub other: u64,
}

/// A value by process over the whole run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sums {
    /// By name: what was used since it has a sum of its own, and the window in which it was last busy.
    pub by_process: BTreeMap<Arc<str>, (u64, u64)>,
    /// What was used by others. Never falls.
    pub other: u64,
    /// All of it.
    pub total: u64,
    windows: u64,
}

impl WindowSums {
    /// Of one of the values.
    fn of(profile: &Profile, value: usize) -> Self {
        let mut sums: BTreeMap<&Arc<str>, u64> = BTreeMap::new();
        for sample in &profile.samples {
            let sum = sums.entry(&profile.labels_of(sample).process).or_default();
            *sum = sum.saturating_add(sample.values.get(value).copied().unwrap_or_default());
        }
        let mut by_process: Vec<(Arc<str>, u64)> =
            sums.into_iter().map(|(name, sum)| (Arc::clone(name), sum)).collect();
        by_process.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        let rest = by_process.split_off(by_process.len().min(MOST_IN_WINDOW));
        Self {
            profile_type: profile.meta.profile_type.clone(),
            start_unix_ns: profile.meta.start_unix_ns,
            duration_ns: profile.meta.duration_ns,
            by_process,
            other: rest.iter().fold(0, |sum, (_, value)| sum.saturating_add(*value)),
        }
    }
}

impl Sums {
    /// Adds a window. A sum never falls while its process has one: who is new begins at nothing, and what it used before stays with the others.
    fn add(&mut self, window: &WindowSums) {
        self.windows += 1;
        for (name, used) in &window.by_process {
            self.total = self.total.saturating_add(*used);
            if let Some((sum, last)) = self.by_process.get_mut(name) {
                *sum = sum.saturating_add(*used);
                *last = self.windows;
            } else if make_room(&mut self.by_process, MOST_PROCESSES, self.windows) {
                self.by_process.insert(Arc::clone(name), (*used, self.windows));
            } else {
                self.other = self.other.saturating_add(*used);
            }
        }
        self.other = self.other.saturating_add(window.other);
        self.total = self.total.saturating_add(window.other);
    }
}

/// Room for one more among at most so many names, each with the window in which it was last busy: the one that was so longest ago goes,
/// never one of this window.
pub(super) fn make_room<T>(by_name: &mut BTreeMap<Arc<str>, (T, u64)>, most: usize, window: u64) -> bool {
    if by_name.len() < most {
        return true;
    }
    let oldest = by_name.iter().min_by_key(|(_, (_, last))| *last);
    let gone = oldest.filter(|(_, (_, last))| *last < window).map(|(name, _)| Arc::clone(name));
    gone.is_some_and(|name| by_name.remove(&name).is_some())
}

/// The side of the one who tells.
#[derive(Debug)]
pub(super) struct Teller {
    live: watch::Sender<Option<Arc<Live>>>,
    cpu: Sums,
    blocked: Option<Sums>,
    queued: Option<Sums>,
    grown: Option<Sums>,
    allocated: Option<Sums>,
    freed: Option<Sums>,
    calls: Option<Latencies>,
    resident: Option<Arc<WindowSums>>,
    last: Option<Arc<WindowSums>>,
    waiting: Arc<AtomicUsize>,
    /// Profiles that could not be stored before this window.
    not_stored: u64,
}

impl Teller {
    pub(super) fn new(waiting: Arc<AtomicUsize>) -> Self {
        Self {
            live: watch::Sender::new(None),
            cpu: Sums::default(),
            blocked: None,
            queued: None,
            grown: None,
            allocated: None,
            freed: None,
            calls: None,
            resident: None,
            last: None,
            waiting,
            not_stored: 0,
        }
    }

    /// The profiles that come now are of another window.
    pub(super) fn begin_window(&mut self) {
        self.not_stored = self.live.borrow().as_ref().map_or(0, |live| live.written.not_stored.0);
    }

    /// For one who watches.
    pub(super) fn watch(&self) -> watch::Receiver<Option<Arc<Live>>> {
        self.live.subscribe()
    }

    /// A profile of the window that was closed.
    pub(super) fn window(&mut self, profile: &Profile) {
        let index = |kind: &str| profile.value_types.iter().position(|value| value.kind == kind);
        let of = |kind: &str| index(kind).map(|index| WindowSums::of(profile, index));
        let add = |sums: &mut Option<Sums>, kind: &str| {
            if let Some(window) = of(kind) {
                sums.get_or_insert_default().add(&window);
            }
        };
        match profile.meta.profile_type.as_str() {
            "cpu" => {
                let window = WindowSums::of(profile, profile.default_value());
                self.cpu.add(&window);
                self.last = Some(Arc::new(window));
            }
            "off-cpu" => {
                add(&mut self.blocked, "off_cpu");
                add(&mut self.queued, "run_queue");
            }
            "memory" => add(&mut self.grown, "resident"),
            "alloc" => {
                add(&mut self.allocated, "alloc_space");
                add(&mut self.freed, "freed_space");
            }
            "syscalls" => self.calls.get_or_insert_default().add(&CallReport::of_profile(profile)),
            "resources" => self.resident = of("resident").map(Arc::new),
            _ => {}
        }
    }

    /// Tells how things stand.
    pub(super) fn tell(&self, status: Status, written: Written) {
        let (last, waiting) = (self.last.clone(), Arc::clone(&self.waiting));
        let is_failing = written.not_stored.0 > self.not_stored;
        let live = Live {
            status,
            written,
            last,
            cpu: self.cpu.clone(),
            blocked: self.blocked.clone(),
            queued: self.queued.clone(),
            grown: self.grown.clone(),
            allocated: self.allocated.clone(),
            freed: self.freed.clone(),
            calls: self.calls.clone(),
            resident: self.resident.clone(),
            waiting,
            is_failing,
        };
        self.live.send_replace(Some(Arc::new(live)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::fixture;

    fn window(used: &[(&str, u64)]) -> WindowSums {
        let by_process = used.iter().map(|(name, used)| (Arc::from(*name), *used)).collect();
        WindowSums { by_process, ..WindowSums::default() }
    }

    #[test]
    fn a_window_adds_up_to_its_profile() {
        let profile = fixture::hostile();
        let sums = WindowSums::of(&profile, profile.default_value());
        let named: u64 = sums.by_process.iter().map(|(_, used)| used).sum();
        assert_eq!(named + sums.other, profile.total(profile.default_value()));
        assert!(sums.by_process.is_sorted_by(|a, b| a.1 >= b.1));
    }

    #[test]
    fn sums_never_fall_and_stay_few() {
        let mut sums = Sums::default();
        let (mut others, mut total) = (0, 0);
        for number in 0..500_u64 {
            let names: Vec<String> = (0..70).map(|offset| format!("p{}", number * 7 + offset)).collect();
            let used: Vec<(&str, u64)> = names.iter().map(|name| (&**name, 3)).collect();
            let before = sums.by_process.clone();
            sums.add(&window(&used));
            total += 70 * 3;
            assert!(sums.by_process.len() <= MOST_PROCESSES && sums.other >= others);
            assert_eq!(sums.total, total);
            for (name, (used, _)) in &sums.by_process {
                assert!(before.get(name).is_none_or(|(before, _)| used >= before), "{name}");
            }
            others = sums.other;
        }
    }

    #[test]
    fn who_is_busy_keeps_its_sum() {
        let mut sums = Sums::default();
        for number in 0..1000 {
            let passing = format!("passing{number}");
            sums.add(&window(&[("steady", 1), (&passing, 1)]));
        }
        assert_eq!(sums.by_process["steady"].0, 1000);
    }
}
