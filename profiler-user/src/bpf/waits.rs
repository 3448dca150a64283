//! The maps of the switch programs: threads that wait, sums of waits, and what the agent tells the programs while they run.

use std::collections::HashSet;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;

use aya::Ebpf;
use aya::maps::{Array, HashMap, MapData, MapError, ProgramArray};
use aya::programs::raw_trace_point::RawTracePointLinkId;
use profiler_common::limits::MAX_PASSING;
use profiler_common::off_cpu::{Passing, SwitchControl, Thread, WaitKey, WaitSum, sent_places};

use super::LoadError;
use super::batch::{self, Read};
use super::loader::{array, hash, map_error, raw_tracepoint, refused, take_map};
use super::memory::SharedMemory;

/// `BPF_NOEXIST`, include/uapi/linux/bpf.h.
const NO_EXIST: u64 = 1;

/// The switch programs and their maps. Dropping it detaches nothing: the programs belong to the object.
pub struct Waits {
    threads: HashMap<MapData, u32, Thread>,
    passing: SharedMemory,
    /// Held, so that it counts as ours.
    _passing: MapData,
    sums: MapData,
    control: Array<MapData, SwitchControl>,
    sent: Array<MapData, u64>,
    /// The kernel runs a tail call only as long as somebody holds the tables.
    _walks: Vec<ProgramArray<MapData>>,
}

impl Waits {
    /// Loads the switch programs and takes their maps. Checking a program that walks stacks takes the kernel a tenth of a second, so the one for wakers
    /// is loaded only for a recording that asks for them.
    pub(super) fn load(ebpf: &mut Ebpf, wakers: bool) -> Result<Self, LoadError> {
        let mut walks = vec![walk(ebpf, "walk_switch", "WALK_SWITCH")?];
        if wakers {
            walks.push(walk(ebpf, "walk_wake", "WALK_WAKE")?);
        }
        for program in ["thread_switched", "thread_woken"] {
            raw_tracepoint(ebpf, program)?.load().map_err(|source| refused(program, source))?;
        }
        let passing = array(ebpf, "PASSING")?;
        let bytes = MAX_PASSING as usize * size_of::<Passing>();
        let mapped = SharedMemory::of_map(passing.fd().as_fd(), bytes);
        Ok(Self {
            threads: HashMap::try_from(take_map(ebpf, "OFF_CPU_THREADS")?)
                .map_err(|source| map_error("OFF_CPU_THREADS", source))?,
            passing: mapped.map_err(|source| map_error("PASSING", MapError::IoError(source)))?,
            _passing: passing,
            sums: hash(ebpf, "WAITS")?,
            control: Array::try_from(take_map(ebpf, "SWITCH_CONTROL")?)
                .map_err(|source| map_error("SWITCH_CONTROL", source))?,
            sent: Array::try_from(take_map(ebpf, "STACKS_SENT")?)
                .map_err(|source| map_error("STACKS_SENT", source))?,
            _walks: walks,
        })
    }

    /// Attaches the programs: from now on waits are measured.
    pub(super) fn attach(ebpf: &mut Ebpf) -> Result<Vec<RawTracePointLinkId>, LoadError> {
        let attach = |(program, tracepoint)| {
            let loaded = raw_tracepoint(ebpf, program)?;
            loaded.attach(tracepoint).map_err(|source| refused(program, source))
        };
        PROBES.into_iter().map(attach).collect()
    }

    /// Takes the programs off their tracepoints. They stay loaded: their names are looked up when stacks are.
    pub(super) fn detach(ebpf: &mut Ebpf, links: Vec<RawTracePointLinkId>) -> Result<(), LoadError> {
        for ((program, _), link) in PROBES.into_iter().zip(links) {
            raw_tracepoint(ebpf, program)?.detach(link).map_err(|source| refused(program, source))?;
        }
        Ok(())
    }

    /// Tells the programs how to go on.
    ///
    /// # Errors
    ///
    /// What the kernel refused.
    pub fn control(&mut self, control: SwitchControl) -> Result<(), LoadError> {
        self.control.set(0, control, 0).map_err(|source| map_error("SWITCH_CONTROL", source))
    }

    /// Enters a thread that waits already, unless the programs have seen it since; false when there is no room.
    pub fn enter(&mut self, tid: u32, thread: Thread) -> bool {
        match self.threads.insert(tid, thread, NO_EXIST) {
            Ok(()) => true,
            Err(MapError::SyscallError(error)) => error.io_error.raw_os_error() == Some(libc::EEXIST),
            Err(_) => false,
        }
    }

    /// Takes back what [`Self::enter`] entered, unless the thread has run since.
    pub fn take_back(&mut self, tid: u32, since_ns: u64) {
        if self.threads.get(&tid, 0).is_ok_and(|thread| thread.since_ns == since_ns) {
            let _gone_already = self.threads.remove(&tid);
        }
    }

    /// Has these stacks sent again when they are met again; returns those that would not have been.
    ///
    /// # Errors
    ///
    /// What the kernel refused.
    pub fn forget_sent(&mut self, numbers: impl Iterator<Item = u64>) -> Result<HashSet<u64>, LoadError> {
        let mut were_sent = HashSet::new();
        for number in numbers {
            let (first, second) = sent_places(number);
            for place in [first, second] {
                // Another number that comes in between is sent once more than it has to be.
                if self.sent.get(&(place as u32), 0).is_ok_and(|sent| sent == number) {
                    self.sent.set(place as u32, 0, 0).map_err(|source| map_error("STACKS_SENT", source))?;
                    were_sent.insert(number);
                }
            }
        }
        Ok(were_sent)
    }

    /// All threads that were seen to wait and are followed.
    pub fn threads(&self) -> Vec<Thread> {
        self.threads.iter().flatten().map(|(_, thread)| thread).collect()
    }

    /// Follows from now on a wait that passes, of a thread that has left its CPU so often: who sees its end knows whether it is this one. Only while
    /// the programs are off.
    pub fn follow(&mut self, wait: &Passing, switches: u32) {
        let known = self.threads.get(&wait.owner, 0).unwrap_or_default();
        let Some(new) = wait.as_thread().filter(|_| known.since_ns == 0) else { return };
        let followed = Thread { switches, shift: 0, thinned: known.thinned, ..new };
        if self.threads.insert(wait.owner, followed, 0).is_ok() {
            let place = (wait.owner & (MAX_PASSING - 1)) as usize;
            // Both count once. The time that it began at is its first word.
            if let Some(since_ns) = self.passing.word(place * Passing::WORDS) {
                since_ns.store(0, Ordering::Relaxed);
            }
        }
    }

    /// Forgets threads that wait since before this moment and are not there any more: their end was not seen.
    pub fn forget_gone(&mut self, before_ns: u64) {
        let is_gone = |thread: &Thread| {
            let path = format!("/proc/{}/task/{}", thread.pid, thread.tid);
            thread.since_ns < before_ns && !std::path::Path::new(&path).exists()
        };
        let gone: Vec<u32> = self
            .threads
            .iter()
            .flatten()
            .filter(|(_, thread)| is_gone(thread))
            .map(|(owner, _)| owner)
            .collect();
        for owner in gone {
            let _gone_already = self.threads.remove(&owner);
        }
    }

    /// The places of waits that pass, as far as a thread has one. While the programs are on, one that changes right now may be read half before and
    /// half after.
    pub fn passing(&self) -> impl Iterator<Item = Passing> + '_ {
        let word = |index: usize| self.passing.word(index).map_or(0, |word| word.load(Ordering::Relaxed));
        let places = (0..MAX_PASSING as usize).map(|place| place * Passing::WORDS);
        let used = places.filter(move |first| word(first + Passing::OWNER_WORD) as u32 != 0);
        used.map(move |first| Passing::from_words(std::array::from_fn(|index| word(first + index))))
    }

    /// Takes the sums of all epochs for which `is_over` holds.
    ///
    /// # Errors
    ///
    /// The kernel refused.
    pub fn take_sums(&mut self, is_over: impl Fn(u32) -> bool) -> Result<Vec<(WaitKey, WaitSum)>, LoadError> {
        let failed = |source| LoadError::Batch { map: "WAITS", source };
        let mut over: Vec<(WaitKey, WaitSum)> =
            batch::entries(self.sums.fd().as_fd(), Read::Keep).map_err(failed)?;
        over.retain(|(key, _)| is_over(key.epoch));
        let keys: Vec<WaitKey> = over.iter().map(|(key, _)| *key).collect();
        batch::remove(self.sums.fd().as_fd(), &keys).map_err(failed)?;
        Ok(over)
    }
}

/// Where the programs are attached. The end of waits comes first, so that no wake-up is seen of a thread that was not.
const PROBES: [(&str, &str); 2] = [("thread_switched", "sched_switch"), ("thread_woken", "sched_waking")];

/// Loads a program that walks stacks and makes it the one that its table leads to.
pub(super) fn walk(
    ebpf: &mut Ebpf,
    program: &'static str,
    map: &'static str,
) -> Result<ProgramArray<MapData>, LoadError> {
    let loaded = raw_tracepoint(ebpf, program)?;
    let step = loaded.load().and_then(|()| Ok(loaded.fd()?.try_clone()?));
    let step = step.map_err(|source| refused(program, source))?;
    let mut table = ProgramArray::try_from(take_map(ebpf, map)?).map_err(|source| map_error(map, source))?;
    table.set(0, &step, 0).map_err(|source| map_error(map, source))?;
    Ok(table)
}
