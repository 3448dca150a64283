//! Windows of a recording of allocations that goes on: what each stack asked for and what became of it, since the window before.
//!
//! In: the kernel's sums by stack, which only grow, and in time slices what these saw. Out: values that add up over windows. Live bytes would
//! not, so what is freed is a value of its own, and growth is what was allocated without it. Of some blocks nobody knows whether they were freed:
//! they are in neither, and the growth lies between the two.

use std::collections::{HashMap, HashSet};

use profiler_common::heap::{HeapSum, WEIGHT_BITS};

use super::Heap;
use super::cohorts::SliceCohorts;
use super::probes::{Age, ProbesError};
use super::results::{lost_stack, since};
use crate::aggregate::{Aggregate, MAX_VALUES, SampleKey, values};
use crate::bpf::{LoadError, Programs};
use crate::output::{duration, percent};
use crate::process::Processes;
use crate::profile::Cohorts;
use crate::report::leaks::survival;
use crate::session::clock;

/// Windows between two looks for stacks of processes that have ended.
const FORGET_EVERY: u64 = 6;

/// What windows were told of a stack so far.
#[derive(Debug, Clone, Copy, Default)]
struct Told {
    sum: HeapSum,
    /// Bytes that outlived their slice, weighted.
    kept: f64,
}

/// What a window has of a stack.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct Part {
    taken: u64,
    uncertain: u64,
    objects: f64,
    bytes: f64,
    freed_objects: f64,
    freed_bytes: f64,
    /// Freed or not, nobody knows.
    unknown_bytes: f64,
}

impl Part {
    /// Of a time in which every call was watched.
    fn of_all(sum: &HeapSum) -> Self {
        Self {
            taken: sum.taken,
            uncertain: sum.uncertain,
            objects: whole(sum.objects),
            bytes: whole(sum.bytes),
            freed_objects: whole(sum.freed_objects),
            freed_bytes: whole(sum.freed_bytes),
            unknown_bytes: whole(sum.unfollowed_bytes),
        }
    }

    /// Of slices, each of whose calls stands for `factor`. Of the bytes that outlived their slice between `stays.0` and `stays.1` stay.
    fn of_slices(sum: &HeapSum, kept: f64, stays: (f64, f64), factor: f64) -> Self {
        let (objects, bytes) = (whole(sum.objects) * factor, whole(sum.bytes) * factor);
        let kept = (kept * factor).clamp(0.0, bytes);
        let (least, most) = (kept * stays.0.clamp(0.0, 1.0), kept * stays.1.clamp(0.0, 1.0));
        let freed_bytes = bytes - most;
        Self {
            taken: sum.taken,
            uncertain: sum.uncertain,
            objects,
            bytes,
            freed_objects: if bytes > 0.0 { objects * freed_bytes / bytes } else { 0.0 },
            freed_bytes,
            unknown_bytes: (most - least).max(0.0),
        }
    }

    fn add(&mut self, other: &Self) {
        self.taken += other.taken;
        self.uncertain += other.uncertain;
        self.objects += other.objects;
        self.bytes += other.bytes;
        self.freed_objects += other.freed_objects;
        self.freed_bytes += other.freed_bytes;
        self.unknown_bytes += other.unknown_bytes;
    }

    /// In the order of the value types.
    fn values(&self) -> [u64; MAX_VALUES] {
        let whole = |value: f64| value.round() as u64;
        values([
            self.uncertain,
            whole(self.unknown_bytes),
            whole(self.freed_objects),
            whole(self.freed_bytes),
            whole(self.objects),
            whole(self.bytes),
        ])
    }
}

fn whole(weighted: u64) -> f64 {
    weighted as f64 / f64::from(1_u32 << WEIGHT_BITS)
}

/// What slices have seen so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Seen {
    /// When the last of them ended, nanoseconds since the first probe.
    end_ns: u64,
    /// Time in all of them, nanoseconds.
    open_ns: u64,
}

impl Seen {
    fn of(cohorts: &SliceCohorts) -> Option<Self> {
        let (moments, _, slices) = cohorts.slices()?;
        Some(Self { end_ns: moments.last().copied().unwrap_or(0), open_ns: slices.open_ns })
    }
}

/// The windows of a recording.
#[derive(Debug, Default)]
pub(super) struct Windows {
    told: HashMap<u64, Told>,
    /// Of the window that is open, by stack.
    parts: HashMap<u64, Part>,
    /// Stacks that had not come when the last window ended.
    awaited: HashSet<u64>,
    seen: Seen,
    /// Time in slices of the window that is open and the time that they stand for, nanoseconds.
    slices_ns: (u64, u64),
    closed: u64,
}

impl Windows {
    /// Every call was watched since the last look.
    fn take_always(&mut self, sums: &[(u64, HeapSum)]) {
        for (number, sum) in sums {
            let before = std::mem::replace(&mut self.told.entry(*number).or_default().sum, *sum);
            self.add(*number, Part::of_all(&since(sum, &before)));
        }
    }

    /// Slices come from now on; what outlived the time before them was counted.
    fn begin_slices(&mut self, cohorts: &SliceCohorts) {
        self.seen = Seen::of(cohorts).unwrap_or_default();
        for number in cohorts.numbers() {
            self.told.entry(number).or_default().kept = cohorts.of(number).kept.iter().sum();
        }
    }

    /// Slices were watched since the last look. Each stands for the time since the one before it, and for `correction` times what it saw: the
    /// target is slower while it is watched. `error` is half of the 95 % interval of that, as a share.
    /// After the last slice of a recording there is the time until its end, nanoseconds since the first probe.
    fn take_slices(
        &mut self,
        sums: &[(u64, HeapSum)],
        cohorts: &SliceCohorts,
        (correction, error): (f64, f64),
        ended_ns: Option<u64>,
    ) {
        let (Some(now), Some((_, _, slices))) = (Seen::of(cohorts), cohorts.slices()) else { return };
        let open_ns = now.open_ns.saturating_sub(self.seen.open_ns);
        if open_ns == 0 {
            // The next slice stands for this time as well.
            return;
        }
        let until_ns = ended_ns.unwrap_or(now.end_ns);
        let span_ns = until_ns.saturating_sub(self.seen.end_ns).max(open_ns);
        let factor = span_ns as f64 / open_ns as f64 * correction.max(0.0);
        self.seen = now;
        self.slices_ns = (self.slices_ns.0 + open_ns, self.slices_ns.1 + span_ns);
        for (number, sum) in sums {
            let told = self.told.get(number).copied().unwrap_or_default();
            let new = since(sum, &told.sum);
            if new.taken == 0 && new.bytes == 0 {
                continue;
            }
            let known = cohorts.of(*number);
            let kept_in_all: f64 = known.kept.iter().sum();
            let mean = sum.bytes as f64 / (sum.objects as f64).max(1.0);
            let (born, brief) = (whole(sum.bytes), whole(sum.brief_objects) * mean);
            let stays = survival(&Cohorts { born, brief, ..known }, &slices);
            let kept = (kept_in_all - told.kept).max(0.0);
            // What surely stays, stays too where the target is as slow without probes as can be.
            let stays = (stays.low / (1.0 + error.max(0.0)), stays.high);
            self.add(*number, Part::of_slices(&new, kept, stays, factor));
            self.told.insert(*number, Told { sum: *sum, kept: kept_in_all });
        }
    }

    fn add(&mut self, number: u64, part: Part) {
        if part != Part::default() {
            self.parts.entry(number).or_default().add(&part);
        }
    }

    /// What the window has come to, by stack. Those that have not come yet stay for the next window, once.
    fn take(&mut self, is_last: bool, is_known: impl Fn(u64) -> bool) -> Vec<(u64, Part)> {
        self.closed += 1;
        let mut parts: Vec<(u64, Part)> = std::mem::take(&mut self.parts).into_iter().collect();
        // The map's order is random; equal recordings should give equal files.
        parts.sort_unstable_by_key(|(number, _)| *number);
        let before = std::mem::take(&mut self.awaited);
        parts.retain(|(number, part)| {
            let waits = !is_last && !is_known(*number) && !before.contains(number);
            if waits {
                self.awaited.insert(*number);
                self.parts.insert(*number, *part);
            }
            !waits
        });
        parts
    }
}

impl Heap {
    /// Whether what is recorded is what each window adds.
    pub(crate) fn has_windows(&self) -> bool {
        self.windows.is_some()
    }

    /// Whether calls are watched in slices of time.
    pub(crate) fn is_sliced(&self) -> bool {
        self.slices.is_sliced()
    }

    /// Puts probes into another process; from the next slice on, where there are slices.
    ///
    /// # Errors
    ///
    /// What the kernel refused.
    pub(crate) fn enter(&mut self, programs: &Programs, pid: u32) -> Result<(), ProbesError> {
        if self.slices.is_always() {
            return self.probes.enter(programs, pid, Age::Old);
        }
        self.probes.look_at(pid);
        Ok(())
    }

    /// Takes the probes out of a process; what it holds is nobody's concern any more.
    pub(crate) fn leave(&mut self, pid: u32) {
        if let Some(watch) = &mut self.watch {
            watch.ended(pid, clock::monotonic_ns());
        }
        self.probes.leave(pid);
    }

    /// Whether blocks of a process are followed.
    pub(crate) fn follows(&self, pid: u32) -> bool {
        self.probes.follows(pid)
    }

    /// Takes in what was counted while every call was watched. A table that cannot be read now is read again when the window ends.
    pub(super) fn take_always(&mut self) {
        if let (Some(windows), Ok(sums)) = (&mut self.windows, self.maps.sums()) {
            windows.take_always(&sums);
        }
    }

    /// The time in which every call was watched is over.
    pub(super) fn begin_slices(&mut self) {
        if let (Some(windows), Some(watch)) = (&mut self.windows, &self.watch) {
            windows.begin_slices(watch.cohorts());
        }
    }

    /// Hands what a window has come to to the aggregate, where there are windows; returns what its reader should know.
    ///
    /// # Errors
    ///
    /// The kernel's tables cannot be read.
    pub(crate) fn end_window(
        &mut self,
        is_last: bool,
        aggregate: &mut Aggregate,
        processes: &mut Processes,
    ) -> Result<Vec<String>, LoadError> {
        let Some(windows) = &mut self.windows else { return Ok(Vec::new()) };
        let sums = self.maps.sums()?;
        let correction = self.slices.correction();
        match self.watch.as_ref().filter(|watch| watch.cohorts().slices().is_some()) {
            Some(watch) => {
                let ended_ns = is_last.then(|| watch.watched_ns(clock::monotonic_ns()));
                windows.take_slices(&sums, watch.cohorts(), correction, ended_ns);
            }
            None => windows.take_always(&sums),
        }
        for (number, part) in windows.take(is_last, |number| self.stacks.contains_key(&number)) {
            let key: SampleKey = if let Some(key) = self.stacks.get(&number) {
                *key
            } else {
                self.unknown_stacks += part.taken;
                lost_stack(aggregate, processes)
            };
            aggregate.add_values(key, part.taken, part.values());
        }
        let slices_ns = std::mem::take(&mut windows.slices_ns);
        let mut notes = self.probes.notes();
        notes.push(describe(slices_ns, self.slices.is_sliced(), correction.1));
        notes.extend(self.watch.iter().flat_map(|watch| watch.notes()));
        Ok(notes)
    }

    /// Forgets now and then the stacks of processes that are gone. The sums of the window have been taken out of the aggregate.
    ///
    /// # Errors
    ///
    /// What the kernel refused.
    pub(crate) fn forget(
        &mut self,
        aggregate: &mut Aggregate,
        processes: &Processes,
    ) -> Result<(), LoadError> {
        let Some(windows) = &mut self.windows else { return Ok(()) };
        if !windows.closed.is_multiple_of(FORGET_EVERY) {
            return Ok(());
        }
        let gone = |key: &SampleKey| processes.info(key.process).is_none();
        let unwanted: Vec<u64> =
            self.stacks.iter().filter(|(_, key)| gone(key)).map(|(number, _)| *number).collect();
        if unwanted.is_empty() {
            return Ok(());
        }
        self.maps.forget_sums(&unwanted)?;
        for number in unwanted {
            self.stacks.remove(&number);
            windows.told.remove(&number);
        }
        let old = std::mem::replace(aggregate, aggregate.empty());
        for key in self.stacks.values_mut() {
            *key = aggregate.copy_key(&old, key);
        }
        Ok(())
    }
}

/// How the calls of a window were watched, in words.
fn describe((open_ns, span_ns): (u64, u64), is_sliced: bool, error: f64) -> String {
    match (is_sliced, open_ns) {
        (false, _) => {
            "every call was watched; of a part the stack was taken, at random by bytes, and stands for the others"
                .to_owned()
        }
        (true, 0) => "no time slice fell into this window: the next one has what was allocated".to_owned(),
        (true, _) => {
            let interval = if error < 1.0 {
                format!("± {}", percent(error * 100.0))
            } else {
                "how much faster the target is without probes is not known".to_owned()
            };
            format!(
                "time slices: allocations were watched in {} of {}, and scaled ({interval}); blocks that may have been freed between slices count as unfollowed",
                duration(open_ns),
                duration(span_ns),
            )
        }
    }
}

#[cfg(test)]
mod tests;
