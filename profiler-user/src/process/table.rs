//! The processes of the host, kept up to date by events in order of time.

use std::collections::{HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::known::Known;
use super::mappings::{Mappings, Placement, Region};
use super::objects::{Access, ObjectId, Objects};
use super::roots::Roots;
use super::snapshot::Snapshot;
use crate::ingest::{EventKind, MapEvent, ProcessEvent, RawSample};
use crate::output::thousands;
use crate::profile::clean;

/// How long a process is kept after its main thread ended: samples of its other threads may still come, and a reader of its files is
/// worth having as long as they are cheap. Of a storm of processes a second has some thousands.
const LINGER_NS: u64 = 1_000_000_000;
/// Time between two looks for those that have been gone for so long.
const PURGE_EVERY_NS: u64 = 500_000_000;

/// New objects before a look for those that nobody maps any more is worth while.
const LEAST_NEW_OBJECTS: usize = 256;

/// Processes kept apart of which nothing is known but that they were there: they were gone before anybody could ask for their name.
const MOST_NAMELESS: usize = 512;

/// The name of those that are not kept apart.
const NAMELESS: &str = "[ended]";

/// What samples with process ID zero are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutsidePid {
    /// The idle task: we are in the initial PID namespace.
    Idle,
    /// Anything that our PID namespace does not see.
    Invisible,
}

impl OutsidePid {
    fn name(self) -> &'static str {
        match self {
            Self::Idle => "[idle]",
            Self::Invisible => "[outside this PID namespace]",
        }
    }
}

/// Number of a [`ProcessInfo`]. One process gets a new one with each exec.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProcessId(pub u32);

/// What is remembered of a process that was sampled, until the last window with samples of it is closed.
#[derive(Debug, Clone)]
pub struct ProcessInfo {
    /// Process ID.
    pub pid: u32,
    /// Name of the process, cleaned: the comm of its main thread, the last one it had.
    pub name: Arc<str>,
    /// Its root directory, held open, for perf maps and debug files.
    pub root: Option<Arc<OwnedFd>>,
    /// The user that it runs as; none when it was gone before it could be asked.
    pub uid: Option<u32>,
    /// Process ID inside its own PID namespace, by which run-time compilers name their perf map.
    pub inner_pid: u32,
}

#[derive(Debug)]
struct Process {
    comm: Vec<u8>,
    mappings: Arc<Mappings>,
    root: Option<Arc<OwnedFd>>,
    /// Set by the first sample.
    info: Option<ProcessId>,
    /// Since when the mappings are known by event; zero for a snapshot.
    started_ns: u64,
    /// It had other threads than its first, as far as is known: they may outlive it.
    has_threads: bool,
    exited_ns: Option<u64>,
}

/// Executable mappings whose files are opened together when a process is seen that may be gone at the next look.
const MAX_HELD_AT_ONCE: usize = 256;

/// The process of a sample, as it was when the sample was taken.
#[derive(Debug, Clone)]
pub struct Moment {
    /// Process ID.
    pub pid: u32,
    /// Its identity.
    pub process: ProcessId,
    /// Its mappings.
    pub mappings: Arc<Mappings>,
    root: Option<Arc<OwnedFd>>,
    mapped_unix_ns: u64,
}

/// All processes that live, and what is remembered of those that were sampled.
#[derive(Debug)]
pub struct Processes {
    live: HashMap<u32, Process>,
    infos: HashMap<ProcessId, ProcessInfo>,
    next_info: u32,
    roots: Roots,
    /// Files that hold code.
    pub objects: Objects,
    /// What to add to `CLOCK_MONOTONIC` to get Unix time, nanoseconds.
    unix_offset_ns: u64,
    outside: OutsidePid,
    lost_events: u64,
    last_purge_ns: u64,
    /// Objects that were left after the last look for those that nobody maps.
    objects_kept: usize,
    /// Processes without a name that were kept apart in this window, and those that were not, which are one.
    nameless_apart: usize,
    nameless: HashSet<u32>,
    nameless_id: Option<ProcessId>,
}

impl Processes {
    /// An empty table.
    pub fn new(unix_offset_ns: u64, outside: OutsidePid) -> Self {
        Self {
            live: HashMap::new(),
            infos: HashMap::new(),
            next_info: 0,
            roots: Roots::default(),
            objects: Objects::default(),
            unix_offset_ns,
            outside,
            lost_events: 0,
            last_purge_ns: 0,
            objects_kept: 0,
            nameless_apart: 0,
            nameless: HashSet::new(),
            nameless_id: None,
        }
    }

    /// Side-band records that the kernel dropped.
    pub fn lost_events(&self) -> u64 {
        self.lost_events
    }

    /// What is remembered of a sampled process; none when it was forgotten.
    pub fn info(&self, id: ProcessId) -> Option<&ProcessInfo> {
        self.infos.get(&id)
    }

    /// Enters a process that was there before the recording, or that events did not tell of.
    pub fn enter(&mut self, snapshot: &Snapshot) {
        let mut mappings = Mappings::default();
        for map in &snapshot.mappings {
            let placement = placement(&mut self.objects, map.inode, &map.path, map.file_offset);
            mappings.insert(Region { start: map.start, end: map.end, placement });
        }
        let process = Process {
            comm: snapshot.comm.clone(),
            mappings: Arc::new(mappings),
            root: None,
            info: None,
            started_ns: 0,
            has_threads: true,
            exited_ns: None,
        };
        self.live.insert(snapshot.pid, process);
    }

    /// Takes in one event. Events come in order of time.
    pub fn apply(&mut self, event: &ProcessEvent) {
        match &event.kind {
            EventKind::Lost { records } => self.lost_events += records,
            EventKind::Fork { parent } => self.fork(event, *parent),
            EventKind::Exec { comm } => self.exec(event, comm),
            EventKind::Rename { comm } => self.rename(event.pid, comm),
            EventKind::Map(map) => self.map(event, map),
            EventKind::Thread => {
                if let Some(process) = self.live.get_mut(&event.pid) {
                    process.has_threads = true;
                }
            }
            EventKind::Exit => {
                if let Some(process) = self.live.get_mut(&event.pid) {
                    process.exited_ns = Some(event.time_ns);
                }
            }
        }
        if event.time_ns > self.last_purge_ns + PURGE_EVERY_NS {
            self.purge(event.time_ns);
        }
    }

    fn fork(&mut self, event: &ProcessEvent, parent: u32) {
        let (comm, mappings, root) = match self.live.get_mut(&parent) {
            Some(process) => {
                // Held from here on: the child may be gone before anybody looks at it, its parent rarely is.
                process.root = process.root.take().or_else(|| self.roots.open(parent));
                (process.comm.clone(), Arc::clone(&process.mappings), process.root.clone())
            }
            None => (Vec::new(), Arc::default(), None),
        };
        let process = Process {
            comm,
            mappings,
            root,
            info: None,
            started_ns: event.time_ns,
            has_threads: false,
            exited_ns: None,
        };
        self.live.insert(event.pid, process);
    }

    fn exec(&mut self, event: &ProcessEvent, comm: &[u8]) {
        let root = self.live.get(&event.pid).and_then(|process| process.root.clone());
        let process = Process {
            comm: comm.to_vec(),
            mappings: Arc::default(),
            root,
            info: None,
            started_ns: event.time_ns,
            has_threads: false,
            exited_ns: None,
        };
        self.live.insert(event.pid, process);
    }

    fn rename(&mut self, pid: u32, comm: &[u8]) {
        let Some(process) = self.live.get_mut(&pid) else { return };
        process.comm = comm.to_vec();
        if let Some(info) = process.info.and_then(|id| self.infos.get_mut(&id)) {
            info.name = Arc::from(clean(comm));
        }
    }

    fn map(&mut self, event: &ProcessEvent, map: &MapEvent) {
        let placement = placement(&mut self.objects, map.inode, &map.path, map.file_offset);
        if let Some(process) = self.live.get_mut(&event.pid) {
            let region = Region { start: map.start, end: map.end, placement };
            Arc::make_mut(&mut process.mappings).insert(region);
        }
    }

    /// The identity of the process that a sample belongs to, made on its first sample.
    pub fn identify(&mut self, sample: &RawSample) -> ProcessId {
        if !self.live.contains_key(&sample.pid) {
            self.enter_unknown(sample);
        }
        if let Some(id) = self.live.get(&sample.pid).and_then(|process| process.info) {
            return id;
        }
        let id = self.new_id();
        let Some(process) = self.live.get_mut(&sample.pid) else {
            unreachable!("entered just above");
        };
        process.info = Some(id);
        if sample.pid != 0 {
            process.root = process.root.take().or_else(|| self.roots.open(sample.pid));
        }
        let (uid, inner_pid) =
            owner(sample.pid).map_or((None, sample.pid), |(uid, inner)| (Some(uid), inner));
        let comm = match (sample.pid, process.comm.as_slice()) {
            (0, _) => self.outside.name().as_bytes(),
            (_, []) => sample.comm(),
            (_, known) => known,
        };
        let name = Arc::from(clean(comm));
        let info = ProcessInfo { pid: sample.pid, name, root: process.root.clone(), uid, inner_pid };
        self.infos.insert(id, info);
        id
    }

    /// The identity of a process of which numbers are known and no sample. None when it is gone, and one of many: they are counted together as
    /// [`Self::nameless`], since neither a name nor anything else would tell them apart.
    pub(crate) fn identify_by_number(&mut self, nobody: &RawSample) -> Option<ProcessId> {
        let pid = nobody.pid;
        let is_gone = pid != 0
            && !self.live.contains_key(&pid)
            && (self.nameless.contains(&pid) || !std::fs::exists(format!("/proc/{pid}")).unwrap_or(true));
        if is_gone && self.nameless_apart >= MOST_NAMELESS {
            self.nameless.insert(pid);
            return None;
        }
        self.nameless_apart += usize::from(is_gone);
        Some(self.identify(nobody))
    }

    /// The identity of all processes together that are gone and nameless.
    pub(crate) fn nameless(&mut self) -> ProcessId {
        if let Some(id) = self.nameless_id {
            return id;
        }
        let id = self.new_id();
        let info = ProcessInfo { pid: 0, name: Arc::from(NAMELESS), root: None, uid: None, inner_pid: 0 };
        self.infos.insert(id, info);
        self.nameless_id = Some(id);
        id
    }

    /// What the reader should know of processes that are counted together.
    pub(crate) fn note(&self) -> Option<String> {
        (!self.nameless.is_empty()).then(|| {
            format!(
                "{} processes had ended before their names were read; they are counted together as {NAMELESS}, beside {MOST_NAMELESS} others",
                thousands(self.nameless.len() as u64)
            )
        })
    }

    fn new_id(&mut self) -> ProcessId {
        // Four billion processes later a number may be taken.
        while self.infos.contains_key(&ProcessId(self.next_info)) {
            self.next_info = self.next_info.wrapping_add(1);
        }
        let id = ProcessId(self.next_info);
        self.next_info = self.next_info.wrapping_add(1);
        id
    }

    fn enter_unknown(&mut self, sample: &RawSample) {
        let snapshot = if sample.pid == 0 { None } else { Snapshot::read(sample.pid) };
        let is_gone = sample.pid != 0 && snapshot.is_none();
        let nothing = || Snapshot { pid: sample.pid, comm: sample.comm().to_vec(), mappings: Vec::new() };
        self.enter(&snapshot.unwrap_or_else(nothing));
        if is_gone && let Some(process) = self.live.get_mut(&sample.pid) {
            // No event will say so any more.
            process.exited_ns = Some(self.last_purge_ns);
        }
    }

    /// What the addresses of a sample mean at its moment. The moment can be kept: it does not change when the process does.
    pub fn moment(&mut self, sample: &RawSample) -> Moment {
        let process = self.identify(sample);
        let live = self.live.get(&sample.pid);
        Moment {
            pid: sample.pid,
            process,
            mappings: live.map(|live| Arc::clone(&live.mappings)).unwrap_or_default(),
            root: live.and_then(|live| live.root.clone()),
            mapped_unix_ns: match live.map_or(0, |live| live.started_ns) {
                0 => 0,
                started_ns => started_ns + self.unix_offset_ns,
            },
        }
    }

    /// The mappings of a process as they are now.
    pub fn mappings(&self, pid: u32) -> Option<&Arc<Mappings>> {
        Some(&self.live.get(&pid)?.mappings)
    }

    /// The mappings of a process as they are now, unless it is known to have ended.
    pub(crate) fn mappings_of_living(&self, pid: u32) -> Option<&Arc<Mappings>> {
        let process = self.live.get(&pid)?;
        (process.exited_ns.is_none() || process.has_threads).then_some(&process.mappings)
    }

    /// All living processes with their mappings.
    pub fn all(&self) -> impl Iterator<Item = (u32, &Arc<Mappings>)> {
        self.live.iter().map(|(pid, process)| (*pid, &process.mappings))
    }

    /// The region that an address lies in. An object is opened the first time an address falls into it.
    pub fn place(&mut self, moment: &Moment, abs_addr: u64) -> Option<Region> {
        let region = *moment.mappings.find(abs_addr)?;
        self.hold(moment, &region);
        Some(region)
    }

    /// Opens the objects of a process that may soon be gone, up to a number that real processes rarely reach.
    pub fn hold_all(&mut self, moment: &Moment) {
        let objects = moment
            .mappings
            .regions()
            .iter()
            .filter(|region| matches!(region.placement, Placement::Object { .. }));
        for region in objects.take(MAX_HELD_AT_ONCE) {
            self.hold(moment, region);
        }
    }

    /// Opens one object of a process.
    pub fn hold_object(&mut self, moment: &Moment, wanted: ObjectId) {
        let is_it = |region: &&Region| matches!(region.placement, Placement::Object { object, .. } if object == wanted);
        if let Some(region) = moment.mappings.regions().iter().find(is_it) {
            self.hold(moment, region);
        }
    }

    fn hold(&mut self, moment: &Moment, region: &Region) {
        if let Placement::Object { object, .. } = region.placement {
            let access = Access {
                pid: moment.pid,
                range: (region.start, region.end),
                root: moment.root.as_ref(),
                mapped_unix_ns: moment.mapped_unix_ns,
            };
            self.objects.hold(object, &access);
        }
    }

    /// What names of these processes and objects are looked up by.
    pub(crate) fn known(
        &self,
        processes: impl Iterator<Item = ProcessId>,
        objects: impl Iterator<Item = ObjectId>,
    ) -> Known {
        Known {
            infos: processes.filter_map(|id| Some((id, self.infos.get(&id)?.clone()))).collect(),
            objects: objects.map(|id| (id, self.objects.object(id).clone())).collect(),
        }
    }

    /// Forgets what no process that lives needs, nor any of these moments, nor who holds these objects. What is still to be named has been copied by [`Self::known`].
    ///
    /// To be called now and then by a recording that goes on for long; others end before it matters. Returns the objects that are left, if it was
    /// time to look through them.
    pub(crate) fn forget<'a>(
        &mut self,
        moments: impl Iterator<Item = &'a Moment>,
        held: impl Iterator<Item = ObjectId>,
    ) -> Option<HashSet<ObjectId>> {
        let mut infos: HashSet<ProcessId> = self.live.values().filter_map(|process| process.info).collect();
        let mut mappings: Vec<&Mappings> = Vec::new();
        for moment in moments {
            infos.insert(moment.process);
            mappings.push(&moment.mappings);
        }
        self.infos.retain(|id, _| infos.contains(id));
        (self.nameless_apart, self.nameless, self.nameless_id) = (0, HashSet::new(), None);
        self.roots.forget_unused();
        if self.objects.len() < self.objects_kept * 5 / 4 + LEAST_NEW_OBJECTS {
            return None;
        }
        mappings.extend(self.live.values().map(|process| &*process.mappings));
        let regions = mappings.into_iter().flat_map(Mappings::regions);
        let objects = regions.filter_map(|region| match region.placement {
            Placement::Object { object, .. } => Some(object),
            Placement::Vdso | Placement::Anonymous => None,
        });
        let wanted: HashSet<ObjectId> = objects.chain(held).collect();
        self.objects.retain(&wanted);
        self.objects_kept = self.objects.len();
        Some(wanted)
    }

    /// Processes that are gone although no event said so: events were lost, or a sample came after the last one. They are forgotten a little
    /// later; the caller does the same with what it holds of them.
    pub(crate) fn sweep(&mut self, now_ns: u64) -> Vec<u32> {
        let unnoticed = self.live.iter_mut().filter(|(pid, process)| {
            **pid != 0
                && process.exited_ns.is_none()
                && !std::fs::exists(format!("/proc/{pid}")).unwrap_or(true)
        });
        let mut gone = Vec::new();
        for (pid, process) in unnoticed {
            process.exited_ns = Some(now_ns);
            gone.push(*pid);
        }
        gone
    }

    /// Forgets processes that ended a while ago.
    fn purge(&mut self, now_ns: u64) {
        self.last_purge_ns = now_ns;
        self.live.retain(|pid, process| match process.exited_ns {
            // The main thread may be gone while others run on; then the process is still in /proc. A look costs as much as all else that is
            // done for a process of a storm.
            Some(exited_ns) if exited_ns + LINGER_NS < now_ns => {
                process.has_threads && std::fs::exists(format!("/proc/{pid}")).unwrap_or(false)
            }
            _ => true,
        });
    }
}

fn placement(objects: &mut Objects, inode: u64, path: &[u8], file_offset: u64) -> Placement {
    if path == b"[vdso]" {
        Placement::Vdso
    } else if inode == 0 || !path.starts_with(b"/") {
        Placement::Anonymous
    } else {
        Placement::Object { object: objects.intern(inode, path), file_offset }
    }
}

/// The effective user of a process, and its number in its innermost PID namespace.
fn owner(pid: u32) -> Option<(u32, u32)> {
    if pid == 0 {
        return None;
    }
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
    let uid = field("Uid:")?.split_whitespace().nth(1)?.parse().ok()?;
    let inner =
        field("NSpid:").and_then(|numbers| numbers.split_whitespace().last()?.parse().ok()).unwrap_or(pid);
    Some((uid, inner))
}

#[cfg(test)]
mod tests {
    use super::*;
    use profiler_common::stop::StopReason;

    fn event(time_ns: u64, pid: u32, kind: EventKind) -> ProcessEvent {
        ProcessEvent { time_ns, pid, kind }
    }

    fn map(start: u64, path: &str) -> EventKind {
        EventKind::Map(MapEvent { start, end: start + 0x1000, file_offset: 0, inode: 5, path: path.into() })
    }

    fn sample(pid: u32) -> RawSample {
        RawSample {
            time_ns: 0,
            weight: 1,
            cgroup_id: 0,
            cpu: 0,
            pid,
            tid: pid,
            comm: *b"thread\0\0\0\0\0\0\0\0\0\0",
            user: Vec::new(),
            kernel: Vec::new(),
            stop: StopReason::Complete,
            in_user_mode: true,
            cold: None,
            number: 0,
            syscall: None,
            memory: None,
        }
    }

    fn find(processes: &Processes, pid: u32, abs_addr: u64) -> Option<Region> {
        processes.mappings(pid)?.find(abs_addr).copied()
    }

    /// Process numbers above the kernel's limit, so that `/proc` never knows them.
    const PARENT: u32 = 1 << 30;
    const CHILD: u32 = PARENT + 1;

    #[test]
    fn a_child_has_its_parents_mappings_until_it_execs() {
        let mut processes = Processes::new(0, OutsidePid::Idle);
        processes.enter(&Snapshot { pid: PARENT, comm: b"make".to_vec(), mappings: Vec::new() });
        processes.apply(&event(1, PARENT, map(0x1000, "/bin/make")));
        processes.apply(&event(2, CHILD, EventKind::Fork { parent: PARENT }));
        assert!(find(&processes, CHILD, 0x1800).is_some());
        let before = processes.identify(&sample(CHILD));
        processes.apply(&event(3, CHILD, EventKind::Exec { comm: b"cc1".to_vec() }));
        assert_eq!(find(&processes, CHILD, 0x1800), None);
        processes.apply(&event(4, CHILD, map(0x7000, "/usr/lib/cc1")));
        assert!(find(&processes, CHILD, 0x7000).is_some());
        let after = processes.identify(&sample(CHILD));
        assert_ne!(before, after);
        let name = |id| processes.info(id).map(|info| &*info.name);
        assert_eq!((name(before), name(after)), (Some("make"), Some("cc1")));
        assert!(find(&processes, PARENT, 0x1800).is_some());
    }

    #[test]
    fn a_number_that_is_given_out_again_is_somebody_else() {
        let mut processes = Processes::new(0, OutsidePid::Idle);
        processes.apply(&event(1, CHILD, EventKind::Fork { parent: PARENT }));
        let first = processes.identify(&sample(CHILD));
        processes.apply(&event(2, CHILD, EventKind::Exit));
        processes.apply(&event(3, CHILD, EventKind::Fork { parent: PARENT }));
        assert_ne!(first, processes.identify(&sample(CHILD)));
    }

    #[test]
    fn processes_that_ended_are_forgotten() {
        let mut processes = Processes::new(0, OutsidePid::Idle);
        processes.apply(&event(1, CHILD, EventKind::Fork { parent: PARENT }));
        processes.apply(&event(2, CHILD, EventKind::Exit));
        processes.apply(&event(3 + 2 * LINGER_NS, PARENT, EventKind::Fork { parent: 1 }));
        assert!(!processes.live.contains_key(&CHILD));
    }

    #[test]
    fn a_process_whose_main_thread_ended_stays_while_others_may_run() {
        let mut processes = Processes::new(0, OutsidePid::Idle);
        // Both are there for `/proc`, whatever the events say: only the one with threads is looked for.
        let (with, without) = (std::process::id(), 1);
        for pid in [with, without] {
            processes.apply(&event(1, pid, EventKind::Fork { parent: PARENT }));
        }
        processes.apply(&event(2, with, EventKind::Thread));
        for pid in [with, without] {
            processes.apply(&event(3, pid, EventKind::Exit));
        }
        assert!(processes.mappings_of_living(with).is_some());
        assert!(processes.mappings_of_living(without).is_none());
        processes.apply(&event(4 + 2 * LINGER_NS, PARENT, EventKind::Fork { parent: 1 }));
        assert!(processes.live.contains_key(&with));
        assert!(!processes.live.contains_key(&without));

        processes.apply(&event(5 + 2 * LINGER_NS, with, EventKind::Exec { comm: b"alone".to_vec() }));
        processes.apply(&event(6 + 2 * LINGER_NS, with, EventKind::Exit));
        processes.apply(&event(7 + 4 * LINGER_NS, PARENT, EventKind::Fork { parent: 1 }));
        assert!(!processes.live.contains_key(&with), "another program begins with one thread");
    }

    #[test]
    fn what_nobody_maps_is_forgotten_and_what_somebody_waits_for_is_not() {
        let mut processes = Processes::new(0, OutsidePid::Idle);
        processes.enter(&Snapshot { pid: PARENT, comm: b"make".to_vec(), mappings: Vec::new() });
        processes.apply(&event(1, PARENT, map(0x1000, "/bin/make")));
        let (mut waiting, mut last) = (None, None);
        for number in 0..10_000 {
            let time_ns = 10 + number * 10;
            let path = format!("/tmp/conftest{number}");
            processes.apply(&event(time_ns, CHILD, EventKind::Fork { parent: PARENT }));
            processes.apply(&event(time_ns, CHILD, EventKind::Exec { comm: b"conftest".to_vec() }));
            processes.apply(&event(time_ns, CHILD, map(0x5000, &path)));
            last = Some(processes.moment(&sample(CHILD)));
            processes.apply(&event(time_ns, CHILD, EventKind::Exit));
            if number == 5 {
                waiting.clone_from(&last);
            }
            if number % 100 == 0 {
                let _objects_that_are_left = processes.forget(waiting.iter(), std::iter::empty());
            }
        }
        assert!(processes.objects.len() < 1000, "{} objects", processes.objects.len());
        assert!(processes.infos.len() < 200, "{} processes", processes.infos.len());
        let (waiting, last) = (waiting.unwrap(), last.unwrap());
        assert_eq!(processes.info(waiting.process).map(|info| &*info.name), Some("conftest"));
        let path = |moment: &Moment, address| match moment.mappings.find(address).unwrap().placement {
            Placement::Object { object, .. } => processes.objects.object(object).path.to_string(),
            _ => String::new(),
        };
        assert_eq!(path(&waiting, 0x5800), "/tmp/conftest5");
        assert_eq!(path(&last, 0x5800), "/tmp/conftest9999");
        let parents = find(&processes, PARENT, 0x1800).unwrap().placement;
        assert!(
            matches!(parents, Placement::Object { object, .. } if &*processes.objects.object(object).path == "/bin/make")
        );
    }

    #[test]
    fn a_rename_reaches_the_name_that_is_shown() {
        let mut processes = Processes::new(0, OutsidePid::Idle);
        processes.apply(&event(1, CHILD, EventKind::Fork { parent: PARENT }));
        let id = processes.identify(&sample(CHILD));
        processes.apply(&event(2, CHILD, EventKind::Rename { comm: b"new\x1bname".to_vec() }));
        assert_eq!(&*processes.info(id).unwrap().name, "new\\x1bname");
    }

    #[test]
    fn processes_that_nobody_can_name_are_few_or_one_and_go_with_their_window() {
        let mut processes = Processes::new(0, OutsidePid::Idle);
        let pids = CHILD..CHILD + 2 * MOST_NAMELESS as u32;
        let ids: Vec<Option<ProcessId>> =
            pids.clone().map(|pid| processes.identify_by_number(&sample(pid))).collect();
        assert!(ids.iter().take(MOST_NAMELESS).all(Option::is_some));
        assert!(ids.iter().skip(MOST_NAMELESS).all(Option::is_none));
        assert_eq!(processes.identify_by_number(&sample(CHILD)), ids[0], "it is known by now");
        assert!(processes.identify_by_number(&sample(std::process::id())).is_some(), "it can be named");
        assert!(processes.note().unwrap().starts_with("512 processes"));
        let all = processes.nameless();
        assert_eq!((processes.nameless(), &*processes.info(all).unwrap().name), (all, NAMELESS));

        processes.apply(&event(2 * LINGER_NS, PARENT, EventKind::Fork { parent: 0 }));
        assert_eq!(
            pids.filter(|pid| processes.mappings(*pid).is_some()).count(),
            0,
            "nobody waits for their end"
        );
        let _objects_that_are_left = processes.forget(std::iter::empty(), std::iter::empty());
        assert!(processes.info(all).is_none() && processes.note().is_none());
        assert!(processes.identify_by_number(&sample(CHILD)).is_some());
    }
}
