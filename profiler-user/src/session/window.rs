//! Windows of a recording: what each counted, lost and cost. A recording with one end is one window.
//!
//! The sums of a window are taken out; programs, processes, unwind tables and whatever waits for them go on, so that windows together count
//! what one recording of the same length would have. Figures of the kernel and of the agent only grow: a window's are differences.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use profiler_common::stats::Stat;

use super::sums::Sums;
use super::{Session, clock};
use crate::aggregate::Aggregate;
use crate::process::Known;
use crate::profile::{Allocations, Counter, Leaks, Overhead, Resident, UnwindTables, ValueType};
use crate::profile_type::{Memory, OnCpu, ProfileKind};
use crate::unwinder::Closing;

/// Looks at the end of a recording for stacks of threads that wait since before it, and the time between them.
const LAST_LOOKS: u32 = 100;
const LAST_LOOK_EVERY: Duration = Duration::from_millis(5);

/// Time between two looks for processes that are gone although no event said so, nanoseconds.
const SWEEP_EVERY_NS: u64 = 60_000_000_000;

/// What a recording, or one window of it, ended with, ready for symbolization.
pub struct Recorded {
    /// Added-up stacks.
    pub aggregate: Aggregate,
    /// Processes and files behind them.
    pub known: Known,
    /// What the values mean.
    pub value_types: Vec<ValueType>,
    /// What triggered it.
    pub trigger: String,
    /// What its entries are called.
    pub counted: &'static str,
    /// Distance of two samples in the unit of the last value type; zero when it varies.
    pub period: u64,
    /// Losses by cause.
    pub lost: Vec<Counter>,
    /// Fallbacks and restrictions, one sentence each.
    pub notes: Vec<String>,
    /// Resident memory over time, where memory was measured.
    pub resident: Vec<Resident>,
    /// Totals of an allocator's calls, where they were recorded.
    pub allocations: Option<Allocations>,
    /// Blocks that were not freed, where leaks were looked for; their stacks are indexes into the aggregate.
    pub leaks: Option<Leaks>,
    /// When it began, Unix nanoseconds.
    pub start_unix_ns: u64,
    /// How long it took, nanoseconds.
    pub duration_ns: u64,
    /// What it cost.
    pub overhead: Overhead,
    /// Unwind tables and the walks that were finished in user space.
    pub unwind: UnwindTables,
    /// Tables on their way to disk, at the end of the last window.
    pub closing: Mutex<Option<Closing>>,
    /// What was recorded beside it.
    pub beside: Vec<Beside>,
}

/// What was recorded of another kind in the same time, by the same programs: its losses and its cost are those of the whole.
#[derive(Debug)]
pub struct Beside {
    /// The kind.
    pub kind: ProfileKind,
    /// Added-up stacks.
    pub aggregate: Aggregate,
    /// Processes and files behind them.
    pub known: Known,
    /// Fallbacks and restrictions, one sentence each.
    pub notes: Vec<String>,
}

/// Figures at the beginning of a window.
#[derive(Debug)]
pub(super) struct Before {
    pub(super) start: Instant,
    pub(super) start_unix_ns: u64,
    stats: Vec<(Stat, u64)>,
    lost: Vec<Counter>,
    overhead: Overhead,
    unwind: UnwindTables,
    swept_ns: u64,
}

impl Before {
    /// The first window begins now.
    pub(super) fn first() -> Self {
        Self {
            start: Instant::now(),
            start_unix_ns: clock::unix_ns(),
            stats: Vec::new(),
            lost: Vec::new(),
            overhead: Overhead::default(),
            unwind: UnwindTables::default(),
            swept_ns: clock::monotonic_ns(),
        }
    }
}

impl Session {
    /// Closes the window and begins the next: every sample that has come so far is in this one, every other in the next. Nothing stops meanwhile.
    pub fn rotate(&mut self) -> Recorded {
        self.tick();
        if let Some(waits) = &mut self.waits {
            let Sums { kind, aggregate, .. } = self.sums.of(|kind| kind.waits().is_some());
            if waits.end_window(&self.programs, kind, aggregate, &mut self.processes).is_err() {
                self.undecodable += 1;
            }
        }
        let of_heap = self.end_heap_window(false);
        let recorded = self.close_window(Instant::now(), of_heap);
        self.ledger.window_ended();
        if let Some(waits) = &mut self.waits {
            let aggregate = &mut self.sums.of(|kind| kind.waits().is_some()).aggregate;
            if waits.forget(aggregate).is_err() {
                self.undecodable += 1;
            }
        }
        let held = self.sums.all().flat_map(|sums| sums.aggregate.objects());
        if let Some(objects) = self.processes.forget(self.unwinder.waiting_moments(), held) {
            self.unwinder.forget(&objects);
        }
        if let Some(memory) = &mut self.memory {
            memory.forget(|process| self.processes.info(process).is_some());
        }
        if let Some(heap) = &mut self.heap {
            let aggregate = &mut self.sums.first_mut().aggregate;
            if heap.forget(aggregate, &self.processes).is_err() {
                self.undecodable += 1;
            }
        }
        let now_ns = clock::monotonic_ns();
        if now_ns.saturating_sub(self.window.swept_ns) >= SWEEP_EVERY_NS {
            self.window.swept_ns = now_ns;
            for pid in self.processes.sweep(now_ns) {
                self.unwinder.end(pid);
            }
        }
        recorded
    }

    /// Hands what was allocated in this window to its aggregate, where allocations are recorded in windows; returns what the reader should know.
    fn end_heap_window(&mut self, is_last: bool) -> Vec<String> {
        let Some(heap) = &mut self.heap else { return Vec::new() };
        let ended = heap.end_window(is_last, &mut self.sums.first_mut().aggregate, &mut self.processes);
        ended.unwrap_or_else(|_| {
            self.undecodable += 1;
            Vec::new()
        })
    }

    /// What the window that ends now has come to.
    fn close_window(&mut self, now: Instant, mut notes: Vec<String>) -> Recorded {
        notes.splice(0..0, self.notes.iter().cloned().chain(self.shed_failed.take()));
        notes.extend(self.sampler.as_mut().and_then(OnCpu::take_note));
        notes.extend(self.together.take_note());
        let duration_ns = now.saturating_duration_since(self.window.start).as_nanos() as u64;
        let totals = Before {
            start: now,
            start_unix_ns: clock::unix_ns(),
            stats: self.programs.stats(),
            lost: self.lost(),
            overhead: self.overhead(),
            unwind: self.unwinder.figures(),
            swept_ns: self.window.swept_ns,
        };
        let before = std::mem::replace(&mut self.window, totals);
        let totals = &self.window;
        let unwind = totals.unwind.since(&before.unwind);
        let overhead = Overhead { wall_ns: duration_ns, ..totals.overhead.since(&before.overhead) };
        let lost = Counter::since(&totals.lost, &before.lost);
        let stats: Vec<(Stat, u64)> = totals
            .stats
            .iter()
            .map(|(stat, count)| {
                let old = before.stats.iter().find(|(old, _)| old == stat).map_or(0, |(_, count)| *count);
                (*stat, count.saturating_sub(old))
            })
            .collect();
        for (stat, count) in stats.iter().copied() {
            match stat {
                Stat::OutsideNamespace if count > 0 => notes.push(format!(
                    "{count} samples are of tasks outside this PID namespace, which have no number here"
                )),
                Stat::LateTicks if count > 0 => notes.push(format!(
                    "{count} timer ticks were missed by CPUs that stalled or that a hypervisor took away"
                )),
                _ => {}
            }
        }
        notes.extend(table_notes(&unwind));
        let mut notes_of = |kind: &ProfileKind| {
            let of_waits = self.waits.as_mut().filter(|_| kind.waits().is_some());
            let of_memory = self.memory.as_mut().filter(|_| kind.memory().is_some());
            let mut notes = of_waits.map(|waits| waits.take_notes(&stats)).unwrap_or_default();
            // Nobody else counts threads without having seen them.
            notes.extend(self.processes.note().filter(|_| kind.waits().is_some()));
            notes.extend(of_memory.into_iter().flat_map(|memory| memory.take_notes(&stats)));
            notes
        };
        let processes = &self.processes;
        let mut taken = self.sums.all_mut().map(|sums| {
            let aggregate = sums.take();
            Beside {
                notes: notes_of(&sums.kind),
                kind: sums.kind.clone(),
                known: aggregate.known(processes),
                aggregate,
            }
        });
        let Some(Beside { kind, aggregate, known, notes: own }) = taken.next() else {
            unreachable!("a session has at least one kind")
        };
        let beside = taken.collect();
        notes.extend(own);
        Recorded {
            value_types: kind.value_types(self.clock),
            trigger: kind.trigger(self.clock),
            counted: kind.counted(),
            period: self.period,
            known,
            aggregate,
            lost,
            notes,
            allocations: self
                .heap
                .as_ref()
                .filter(|heap| !heap.has_windows())
                .map(|heap| heap.allocations(&self.programs.stats())),
            leaks: None,
            resident: self.memory.as_mut().map(Memory::take_resident).unwrap_or_default(),
            start_unix_ns: before.start_unix_ns,
            duration_ns,
            overhead,
            unwind,
            closing: Mutex::new(None),
            beside,
        }
    }

    /// Stops sampling, takes in what is still in flight, and closes the last window.
    pub fn stop(mut self) -> Recorded {
        if let Some(sampler) = &self.sampler {
            sampler.stop();
        }
        if let Some(memory) = &mut self.memory {
            memory.stop();
        }
        if let Some(heap) = &mut self.heap {
            heap.stop(&self.programs);
        }
        if let Some(waits) = &mut self.waits {
            waits.stop(&mut self.programs);
        }
        let stopped = Instant::now();
        self.tick();
        for _ in 0..LAST_LOOKS {
            if !self.waits.as_ref().is_some_and(|waits| waits.has_unread()) {
                break;
            }
            std::thread::sleep(LAST_LOOK_EVERY);
            self.tick();
        }
        let mut notes = Vec::new();
        for (sample, moment) in self.unwinder.finish(&mut self.processes) {
            self.add(&sample, &moment);
        }
        if let Some(waits) = &mut self.waits {
            let Sums { kind, aggregate, .. } = self.sums.of(|kind| kind.waits().is_some());
            waits.finish(kind, aggregate, &mut self.processes);
        }
        let mut leaks = None;
        if self.heap.as_ref().is_some_and(|heap| heap.has_windows()) {
            notes.extend(self.end_heap_window(true));
        } else if let Some(heap) = &mut self.heap {
            match heap.finish(&mut self.sums.first_mut().aggregate, &mut self.processes) {
                Ok(found) => leaks = found,
                Err(_) => self.undecodable += 1,
            }
            notes.extend(heap.notes(&self.programs.stats()));
        }
        let mut recorded = self.close_window(stopped, notes);
        recorded.leaks = leaks;
        recorded.closing = Mutex::new(Some(self.unwinder.close()));
        recorded
    }
}

/// What the reader should know of the unwind tables: nothing, unless some were missing.
fn table_notes(tables: &UnwindTables) -> Vec<String> {
    let mut notes = Vec::new();
    let mebibytes = tables.pool_bytes >> 20;
    if tables.evicted_pages > 0 {
        notes.push(format!(
            "{} pages of unwind tables gave way to others: the limit of {mebibytes} MiB was reached (--max-memory)",
            tables.evicted_pages
        ));
    }
    if tables.refused_pages > 0 {
        notes.push(format!("{} pages of unwind tables found no room (--max-memory)", tables.refused_pages));
    }
    if tables.refused_mappings > 0 {
        notes.push(format!(
            "{} mappings found no room in the kernel's tables; their stacks were walked in user space",
            tables.refused_mappings
        ));
    }
    if tables.given_up_samples > 0 {
        notes.push(format!(
            "{} samples came before their unwind tables and could not wait for them",
            tables.given_up_samples
        ));
    }
    notes
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::aggregate::{StackScope, values};
    use crate::ingest::RawSample;
    use crate::process::{CgroupNames, OutsidePid, Processes, Snapshot, SnapshotMapping};
    use crate::profile::{Meta, Profile};
    use crate::resolve::{Named, Naming, resolve_window};
    use crate::symbolize::native::Options;

    /// Above the kernel's limit, so that `/proc` never knows them.
    const FIRST_PID: u32 = 1 << 30;

    fn processes() -> Processes {
        let mut processes = Processes::new(0, OutsidePid::Idle);
        for number in 0..3 {
            let path = format!("/nowhere/program{number}").into_bytes();
            let mapping = SnapshotMapping { start: 0x1000, end: 0x9000, file_offset: 0, inode: 5, path };
            let comm = format!("program{number}").into_bytes();
            processes.enter(&Snapshot { pid: FIRST_PID + number, comm, mappings: vec![mapping] });
        }
        processes
    }

    /// Everything that a profile says of its samples, without its numbers of stacks and places.
    fn sums(profile: &Profile, into: &mut BTreeMap<(Vec<String>, u32, String), Vec<u64>>) {
        for sample in &profile.samples {
            let frames = profile.stack(sample.stack).iter().flat_map(|id| &profile.location(*id).frames);
            let labels = profile.labels_of(sample);
            let key = (
                frames.map(|frame| frame.function.to_string()).collect(),
                labels.tid,
                labels.process.to_string(),
            );
            let sum = into.entry(key).or_insert_with(|| vec![0; sample.values.len()]);
            for (sum, value) in sum.iter_mut().zip(&sample.values) {
                *sum += value;
            }
        }
    }

    fn take(aggregate: &mut Aggregate, processes: &Processes, named: &mut Named) -> Profile {
        named.begin_window();
        let aggregate = aggregate.take();
        let value_types = [ValueType::new("samples", "count"), ValueType::new("cpu", "nanoseconds")];
        let known = aggregate.known(processes);
        let (mut cgroups, naming) = (CgroupNames::new(None), Naming::Full(Options::default()));
        resolve_window(&aggregate, &known, &mut cgroups, &value_types, Meta::default(), &naming, named)
    }

    /// A sample: whose, where, how much; and whether a window ends after it.
    type Step = (u32, Vec<u64>, u64, bool);

    fn profiles(steps: &[Step], rotates: bool) -> Vec<Profile> {
        let (mut processes, mut aggregate) = (processes(), Aggregate::new(StackScope::Both));
        let (mut named, mut profiles) = (Named::default(), Vec::new());
        for (number, user, weight, ends) in steps {
            let pid = FIRST_PID + number;
            let sample = RawSample { pid, tid: pid, user: user.clone(), ..RawSample::of_nobody() };
            let moment = processes.moment(&sample);
            aggregate.add(&sample, &moment, &mut processes, values([1, *weight]));
            if rotates && *ends {
                profiles.push(take(&mut aggregate, &processes, &mut named));
                let _objects_that_are_left = processes.forget(std::iter::empty(), std::iter::empty());
            }
        }
        profiles.push(take(&mut aggregate, &processes, &mut named));
        profiles
    }

    proptest! {
        #[test]
        fn windows_add_up_to_the_whole(
            steps in proptest::collection::vec(
                (0..3u32, proptest::collection::vec(0x1000..0x1010u64, 1..5), 1..1000u64, proptest::bool::weighted(0.1)),
                0..80,
            ),
        ) {
            let (mut whole, mut parts) = (BTreeMap::new(), BTreeMap::new());
            let samples = |profiles: &[Profile]| profiles.iter().map(|profile| profile.quality.samples).sum::<u64>();
            let (one, many) = (profiles(&steps, false), profiles(&steps, true));
            for profile in &one {
                sums(profile, &mut whole);
            }
            for profile in &many {
                sums(profile, &mut parts);
            }
            prop_assert_eq!(samples(&one), steps.len() as u64);
            prop_assert_eq!(samples(&many), steps.len() as u64);
            prop_assert_eq!(whole, parts);
        }
    }

    #[test]
    fn a_process_that_is_forgotten_after_a_window_is_known_in_the_next() {
        let steps = [(1, vec![0x1001], 1, true), (1, vec![0x1001], 1, true), (2, vec![0x1001], 1, true)];
        let profiles = profiles(&steps, true);
        let processes = |profile: &Profile| -> Vec<String> {
            profile.samples.iter().map(|sample| profile.labels_of(sample).process.to_string()).collect()
        };
        let names: Vec<String> = profiles.iter().flat_map(processes).collect();
        assert_eq!(names, ["program1", "program1", "program2"]);
        assert!(profiles[1].mappings[0].path.ends_with("program1"));
    }
}
