//! Calls of allocators: bytes and counts by stack, and in a live recording what was not freed.
//!
//! In: numbered stacks from the ring, sums by those numbers and by size from the kernel's tables. Out, when the recording ends: tallies in the
//! aggregate. Totals count every call; stacks are those of a random sample, weighted.

mod cohorts;
mod cost;
mod estimate;
mod go;
mod growth;
mod probes;
mod rates;
mod results;
mod slices;
mod threads;
mod watch;
mod windows;

use std::collections::HashMap;
use std::time::Duration;

use profiler_common::heap::{HeapControl, HeapSum, WEIGHT_BITS};
use profiler_common::limits::MAX_BLOCKS;
use profiler_common::stats::Stat;

use crate::aggregate::{Aggregate, MAX_VALUES, SampleKey, values};
use crate::bpf::{HeapMaps, HeapTables, LoadError, Programs};
use crate::ingest::{EventKind, ProcessEvent, RawSample};
use crate::process::{Moment, Processes};
use crate::profile::{ChainStack, ValueType};
use crate::session::clock;
use crate::system::urgent::Urgent;
use cost::SiteCosts;
pub use probes::ProbesError;
use probes::{Age, Probed, Probes};
use results::Always;
use slices::{BEFORE_NS, Paid, Slices, Total, Turn};
use threads::Threads;
pub use watch::LeakOptions;
use watch::{Room, Watch};
use windows::Windows;

/// Calls for each that has its stack taken in a slice, at least: stacks add a tenth to what calls cost.
const LEAST_CALLS: u64 = 32;
/// Time after a slice in which threads that waited for a CPU at its end run, and the kernel notes how long they waited.
const AFTER: Duration = Duration::from_millis(2);
/// Least mean bytes between two blocks that are followed, before it is made four times as many because there are too many.
const LEAST_THINNED_BYTES: u64 = 64;
/// Stacks remembered by number. Past it new ones are counted as lost.
const MOST_STACKS: usize = 200_000;

/// How allocations are recorded.
#[derive(Debug, Clone, PartialEq)]
pub struct HeapOptions {
    /// Mean bytes between two calls whose stack is taken; one takes all.
    pub sample_bytes: u64,
    /// Follow blocks until they are freed.
    pub live: bool,
    /// Count every call, whatever it costs the target.
    pub exact: bool,
    /// What the probes may cost, as a share of one CPU's time.
    pub max_overhead: f64,
    /// Look for leaks among the blocks that are followed.
    pub leaks: Option<LeakOptions>,
    /// Blocks that can be followed at once.
    pub table_blocks: u32,
    /// It has windows that rotate: what is counted is what each of them added. Blocks are followed, and leaks looked for.
    pub windows: bool,
}

impl Default for HeapOptions {
    fn default() -> Self {
        Self {
            sample_bytes: 512 << 10,
            live: false,
            exact: false,
            max_overhead: 0.01,
            leaks: None,
            table_blocks: MAX_BLOCKS,
            windows: false,
        }
    }
}

impl HeapOptions {
    /// What the numbers of the profile mean.
    pub fn value_types(&self) -> Vec<ValueType> {
        let count = |kind| ValueType::new(kind, "count");
        let bytes = |kind| ValueType::new(kind, "bytes");
        if self.windows {
            // Numbers that add up from window to window, which live bytes do not.
            vec![
                count("sampled"),
                bytes("unfollowed_space"),
                count("freed_objects"),
                bytes("freed_space"),
                count("alloc_objects"),
                bytes("alloc_space"),
            ]
        } else if self.live {
            vec![
                count("sampled"),
                count("temporary_objects"),
                count("alloc_objects"),
                bytes("alloc_space"),
                count("inuse_objects"),
                bytes("inuse_space"),
            ]
        } else {
            vec![count("sampled"), count("alloc_objects"), bytes("alloc_space")]
        }
    }

    /// The tables that the recording needs.
    pub fn tables(&self) -> HeapTables {
        if self.live { HeapTables::Blocks(self.table_blocks) } else { HeapTables::Calls }
    }

    fn values_of(&self, sum: &HeapSum, scale: f64) -> [u64; MAX_VALUES] {
        let whole =
            |weighted: u64| (weighted as f64 * scale / f64::from(1_u32 << WEIGHT_BITS)).round() as u64;
        let (objects, bytes) = (whole(sum.objects), whole(sum.bytes));
        if !self.live {
            return values([sum.uncertain, objects, bytes]);
        }
        let left = |all: u64, freed: u64, unfollowed: u64| {
            whole(all.saturating_sub(freed).saturating_sub(unfollowed))
        };
        values([
            sum.uncertain,
            whole(sum.brief_objects),
            objects,
            bytes,
            left(sum.objects, sum.freed_objects, sum.unfollowed_objects),
            left(sum.bytes, sum.freed_bytes, sum.unfollowed_bytes),
        ])
    }
}

/// When there is enough to judge what counting every call costs. A few hits cost what cold caches and the first walk of a stack cost, and a single one
/// more is a large part of a few milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Patience {
    /// When the cost was judged last, and hits of probes until then.
    judged_ns: u64,
    hits: u64,
    /// When to look again.
    next_ns: u64,
}

impl Patience {
    /// Hits that are enough.
    const HITS: u64 = 256;
    /// Time that is enough without.
    const LONGEST_NS: u64 = 1_000_000_000;
    /// Time to the next look where it is not.
    const AGAIN_NS: u64 = 10_000_000;

    fn new(now_ns: u64, hits: u64) -> Self {
        Self { judged_ns: now_ns, hits, next_ns: now_ns }
    }

    fn is_over(&mut self, now_ns: u64, hits: u64) -> bool {
        let is_over = hits.saturating_sub(self.hits) >= Self::HITS
            || now_ns.saturating_sub(self.judged_ns) >= Self::LONGEST_NS;
        *self = if is_over {
            Self::new(now_ns, hits)
        } else {
            Self { next_ns: now_ns + Self::AGAIN_NS, ..*self }
        };
        is_over
    }
}

/// Running measurement of allocations.
pub struct Heap {
    options: HeapOptions,
    maps: HeapMaps,
    probes: Probes,
    slices: Slices,
    patience: Patience,
    begun: bool,
    /// Number of the slice.
    slice: u32,
    watch: Option<Box<Watch>>,
    /// Looks at blocks that failed.
    unread: u64,
    stopped_ns: Option<u64>,
    /// Time on the way into the programs when the recording began, on ourselves, nanoseconds.
    traps_before_ns: u64,
    cost: SiteCosts,
    /// Mean bytes between two stacks now.
    sample_bytes: u64,
    /// Sums by stack and by size of the time before the first slice, in which every call was counted.
    always: Always,
    stacks: HashMap<u64, SampleKey>,
    forgotten: u64,
    unknown_stacks: u64,
    /// Half of the 95 % interval that blocks leave open which programs chose themselves, as a share of the totals.
    chosen_error: f64,
    /// Blocks that could not be followed, and their bytes, when the recording ended.
    unfollowed: (u64, u64),
    /// Blocks that were resized, by stack, when the recording has ended.
    chains: Vec<ChainStack>,
    /// What windows have been told; none for a recording that is one.
    windows: Option<Box<Windows>>,
}

impl Heap {
    /// Loads the programs and puts probes into these processes.
    ///
    /// # Errors
    ///
    /// What the kernel refused, or that none of the processes has an allocator.
    pub fn start(programs: &mut Programs, options: &HeapOptions, pids: &[u32]) -> Result<Self, ProbesError> {
        let mut maps = programs.load_heap()?;
        maps.set_rates(&rates::rates(options.sample_bytes))?;
        let mut probes = Probes::new(programs, options.live, options.exact)?;
        let cost = SiteCosts::measure(programs);
        for pid in pids.iter().copied() {
            probes.enter(programs, pid, Age::Old)?;
        }
        if !pids.is_empty() {
            probes.need_one(pids)?;
            if options.leaks.is_some() {
                probes.need_followed()?;
            }
        }
        // Blocks can be followed only as long as no call is missed; leaks are estimated from what slices see of them.
        let in_slices = !options.exact && (!options.live || options.leaks.is_some());
        let slices = Slices::new(
            in_slices.then_some(options.max_overhead),
            cost.linger_ns(),
            options.live,
            clock::monotonic_ns(),
        );
        let mut heap = Self {
            options: options.clone(),
            maps,
            probes,
            slices,
            patience: Patience::default(),
            begun: false,
            slice: 0,
            watch: options
                .leaks
                .map(|leaks| Box::new(Watch::new(leaks, options.table_blocks, clock::monotonic_ns()))),
            unread: 0,
            stopped_ns: None,
            traps_before_ns: 0,
            cost,
            sample_bytes: options.sample_bytes,
            always: Always::default(),
            stacks: HashMap::new(),
            forgotten: 0,
            unknown_stacks: 0,
            chosen_error: 0.0,
            unfollowed: (0, 0),
            chains: Vec::new(),
            windows: options.windows.then(Box::default),
        };
        heap.traps_before_ns = heap.trap_ns(programs);
        heap.count(true, heap.usual());
        Ok(heap)
    }

    /// Where probes are.
    fn usual(&self) -> Probed {
        Probed::usual(self.options.live)
    }

    /// Lets the programs count calls at these probes, or not.
    fn count(&mut self, counting: bool, at: Probed) {
        let control = HeapControl {
            live: u32::from(at == Probed::Blocks),
            counting: u32::from(counting),
            stacks: u32::from(at == self.usual()),
            slice: self.slice,
            since_ns: if self.slice > 0 { clock::monotonic_ns() } else { 0 },
        };
        // The map is ours and of fixed size; a kernel that refuses would have refused when the recording started.
        let _cannot_fail = self.maps.control(control);
    }

    /// Calls so far, and what they cost.
    fn total(&mut self, programs: &Programs) -> Total {
        self.probes.read_cpu();
        let sum = self.maps.total();
        Total {
            calls: sum.count,
            bytes: sum.bytes,
            cpu_ns: self.probes.cpu_ns(),
            probe_ns: self.probe_ns(programs),
        }
    }

    /// CPU time that probes took so far, by what they take of us, nanoseconds.
    fn probe_ns(&self, programs: &Programs) -> f64 {
        self.cost.probe_ns(programs, programs.stat(Stat::HeapCalls))
    }

    /// Follows what a process in scope did: it forked, became another program, loaded a library, or ended.
    pub fn follow(&mut self, event: &ProcessEvent) {
        if let (Some(watch), EventKind::Exit | EventKind::Exec { .. }) = (&mut self.watch, &event.kind) {
            watch.ended(event.pid, event.time_ns);
        }
        match event.kind {
            EventKind::Exit => self.probes.leave(event.pid),
            EventKind::Fork { .. } | EventKind::Exec { .. } | EventKind::Map(_) => {
                self.probes.look_at(event.pid);
            }
            EventKind::Rename { .. } | EventKind::Thread | EventKind::Lost { .. } => {}
        }
    }

    /// Puts probes where [`Self::follow`] saw something new.
    pub fn tick(&mut self, programs: &Programs, in_scope: impl Fn(u32) -> bool) {
        if self.slices.is_always() {
            self.probes.tick(programs, &in_scope);
        }
        if !self.begun {
            if self.probes.is_empty() {
                return;
            }
            self.begun = true;
            let total = self.total(programs);
            self.slices.begin(clock::monotonic_ns(), total);
            self.patience = Patience::new(clock::monotonic_ns(), programs.heap_runs().entered);
            if let Some(watch) = &mut self.watch {
                watch.begin(clock::monotonic_ns(), self.probes.processes());
            }
        }
        self.look();
        let now_ns = clock::monotonic_ns();
        if self.slices.next_ns().is_none_or(|next_ns| now_ns < next_ns) {
            return;
        }
        let hits = programs.heap_runs().entered;
        if self.slices.is_always() && !self.patience.is_over(now_ns, hits) {
            return;
        }
        let total = self.total(programs);
        match self.slices.look(now_ns, || total) {
            Turn::Stay => {}
            Turn::Close => {
                self.count(false, self.usual());
                self.slices.closed(clock::monotonic_ns(), total);
                self.probes.pause();
                self.always = Always::read(&self.maps);
                self.take_always();
                // The few blocks that a slice leaves behind are all that there is to know: none may be left out.
                if let Some(watch) = &self.watch {
                    let length_ns = watch.watched_ns(clock::monotonic_ns());
                    self.set_sample_bytes(1);
                    self.slice_ended(length_ns);
                }
                self.begin_slices();
            }
            Turn::Slice { length_ns, other } => {
                self.slice(programs, &in_scope, Duration::from_nanos(length_ns), other);
            }
        }
    }

    /// Counts for so long. The thread waits meanwhile: whoever else could be asked to take the probes out in time would come late.
    fn slice(&mut self, programs: &Programs, in_scope: impl Fn(u32) -> bool, length: Duration, other: bool) {
        // Few calls are seen, so more of them can have their stacks taken.
        if self.watch.is_none() {
            let bytes = (self.options.sample_bytes as f64 * self.slices.share_of_time()) as u64;
            let sum = self.maps.total();
            let least = (sum.bytes / sum.count.max(1)).saturating_mul(LEAST_CALLS).max(1);
            self.set_sample_bytes(
                bytes.clamp(least.min(self.options.sample_bytes), self.options.sample_bytes),
            );
        }
        self.slice = self.slice.wrapping_add(1).max(1);
        let probed = match (self.usual(), other) {
            (Probed::Blocks, true) => Probed::Calls,
            (Probed::Calls, true) => Probed::CallsAndFrees,
            (usual, _) => usual,
        };
        let own_ns = clock::own_cpu_ns();
        let threads = Threads::open(self.probes.processes());
        let before_ns = self.probe_ns(programs);
        // From here on the target pays for every moment that we are late.
        let urgent = Urgent::begin();
        self.probes.resume(programs, probed);
        self.probes.tick(programs, in_scope);
        let look = |heap: &mut Self| (clock::monotonic_ns(), heap.total(programs), threads.time());
        let came = look(self);
        self.count(true, probed);
        std::thread::sleep(Duration::from_nanos(BEFORE_NS as u64));
        let began = look(self);
        std::thread::sleep(length);
        let ended = look(self);
        self.count(false, self.usual());
        self.probes.pause();
        drop(urgent);
        if probed == self.usual() {
            self.slice_ended(ended.0.saturating_sub(came.0));
        }
        std::thread::sleep(AFTER);
        let later = threads.time();
        drop(threads);
        let paid = Paid {
            probe_ns: self.probe_ns(programs) - before_ns,
            own_ns: clock::own_cpu_ns().saturating_sub(own_ns) as f64,
        };
        self.slices.add([came, began, ended], later, other, paid);
    }

    /// Looks at the blocks while every call is watched.
    fn look(&mut self) {
        let (maps, probes) = (&self.maps, &self.probes);
        let Some(watch) = self.watch.as_mut().filter(|_| self.slices.is_always()) else { return };
        let room = watch.tick(maps, clock::monotonic_ns, |pid| probes.knows(pid));
        self.make_room(&room);
    }

    /// A slice of this length is over.
    fn slice_ended(&mut self, length_ns: u64) {
        let (maps, probes) = (&self.maps, &self.probes);
        let Some(watch) = &mut self.watch else { return };
        watch.look_at_target(clock::monotonic_ns(), probes.processes());
        let room = watch.slice_ended(maps, clock::monotonic_ns(), length_ns, |pid| probes.knows(pid));
        self.make_room(&room);
    }

    fn make_room(&mut self, room: &Result<Room, LoadError>) {
        match room {
            Ok(Room::Enough) => {}
            Ok(Room::Little) => {
                self.set_sample_bytes(self.sample_bytes.max(LEAST_THINNED_BYTES).saturating_mul(4));
            }
            Err(_) => self.unread += 1,
        }
    }

    /// Time on the way into the programs, in the target, nanoseconds.
    pub fn trap_ns(&self, programs: &Programs) -> u64 {
        let traps = (self.probe_ns(programs) as u64).saturating_sub(programs.heap_runs().run_ns);
        traps.saturating_sub(self.traps_before_ns)
    }

    /// Leaves the rest of the budget to other recordings.
    pub fn share_budget(&mut self, part: f64) {
        self.slices.share_budget(part);
    }

    fn set_sample_bytes(&mut self, bytes: u64) {
        if bytes != self.sample_bytes && self.maps.set_rates(&rates::rates(bytes)).is_ok() {
            self.sample_bytes = bytes;
        }
    }

    /// Processes that got probes since the last call.
    pub fn take_entered(&mut self) -> Vec<u32> {
        self.probes.take_entered()
    }

    /// Whether a look in a few milliseconds is worth while: a command has no probes yet.
    pub fn is_waiting(&self) -> bool {
        !self.begun
    }

    /// Time to the next look that has to come in time.
    pub fn next_look(&self) -> Option<Duration> {
        let next_ns = self.slices.next_ns().filter(|_| self.begun)?;
        let next_ns = if self.slices.is_always() { next_ns.max(self.patience.next_ns) } else { next_ns };
        Some(Duration::from_nanos(next_ns.saturating_sub(clock::monotonic_ns())))
    }

    /// Remembers what a number stands for.
    pub fn define(
        &mut self,
        sample: &RawSample,
        moment: &Moment,
        aggregate: &mut Aggregate,
        processes: &mut Processes,
    ) {
        if self.stacks.contains_key(&sample.number) {
            return;
        }
        if self.stacks.len() >= MOST_STACKS {
            self.forgotten += 1;
            return;
        }
        let key = aggregate.key_of(sample, moment, processes);
        self.stacks.insert(sample.number, key);
    }

    /// Takes the probes out; calls in flight are still counted.
    pub fn stop(&mut self, programs: &Programs) {
        self.count(false, self.usual());
        let total = self.total(programs);
        self.stopped_ns = Some(clock::monotonic_ns());
        self.slices.end(clock::monotonic_ns(), || total);
        self.probes.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_hits_are_no_ground_for_a_judgement() {
        let mut patience = Patience::new(0, 100);
        assert!(!patience.is_over(10_000_000, 110));
        assert_eq!(patience.next_ns, 20_000_000);
        // Many at once are enough, and so is a long time.
        assert!(patience.is_over(20_000_000, 356));
        assert!(!patience.is_over(1_000_000_000, 357));
        assert!(patience.is_over(1_020_000_000, 357));
    }
}
