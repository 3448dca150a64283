//! Calls of allocators: bytes and counts by stack, and in a live recording what was not freed.
//!
//! In: numbered stacks from the ring, sums by those numbers and by size from the kernel's tables. Out, when the recording ends: tallies in the
//! aggregate. Totals count every call; stacks are those of a random sample, weighted.

mod cost;
mod probes;
mod rates;
mod slices;

use std::collections::HashMap;

use profiler_common::heap::{HeapControl, HeapSum, SizeSum, WEIGHT_BITS};
use profiler_common::histogram::bounds;
use profiler_common::stats::Stat;

use crate::aggregate::{Aggregate, MAX_VALUES, SampleKey, values};
use crate::bpf::{HeapMaps, HeapTables, LoadError, Programs};
use crate::ingest::{EventKind, ProcessEvent, RawSample};
use crate::output::thousands;
use crate::process::{Moment, Processes};
use crate::profile::{Allocations, Counter, SizeBucket, ValueType};
use crate::session::clock;
use cost::SiteCosts;
use probes::Probes;
pub use probes::ProbesError;
use slices::{Slices, Total, Turn};

/// Least mean bytes between two stacks, when slices make up for what they do not see.
const LEAST_SAMPLE_BYTES: u64 = 8 << 10;
/// Stacks remembered by number. Past it new ones are counted as lost.
const MOST_STACKS: usize = 200_000;

fn total_of(maps: &HeapMaps, probes: &Probes) -> Total {
    let start = Total { cpu_ns: probes.cpu_ns(), ..Total::default() };
    maps.sizes().iter().fold(start, |total, size| Total {
        calls: total.calls.wrapping_add(size.count),
        bytes: total.bytes.wrapping_add(size.bytes),
        ..total
    })
}

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
}

impl Default for HeapOptions {
    fn default() -> Self {
        Self { sample_bytes: 512 << 10, live: false, exact: false, max_overhead: 0.01 }
    }
}

impl HeapOptions {
    /// What the numbers of the profile mean.
    pub fn value_types(&self) -> Vec<ValueType> {
        let count = |kind| ValueType::new(kind, "count");
        let bytes = |kind| ValueType::new(kind, "bytes");
        if self.live {
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
        if self.live { HeapTables::Blocks } else { HeapTables::Calls }
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

/// Running measurement of allocations.
pub struct Heap {
    options: HeapOptions,
    maps: HeapMaps,
    probes: Probes,
    slices: Slices,
    begun: bool,
    cost: SiteCosts,
    /// Mean bytes between two stacks now.
    sample_bytes: u64,
    stacks: HashMap<u64, SampleKey>,
    forgotten: u64,
    unknown_stacks: u64,
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
        let mut probes = Probes::new(programs, options.live)?;
        let cost = SiteCosts::measure(programs);
        for pid in pids.iter().copied() {
            probes.enter(programs, pid)?;
        }
        if !pids.is_empty() {
            probes.need_one(pids)?;
        }
        // Blocks can be followed only as long as no call is missed.
        let slices = Slices::new(
            (!options.exact && !options.live).then_some(options.max_overhead),
            clock::monotonic_ns(),
        );
        let mut heap = Self {
            options: options.clone(),
            maps,
            probes,
            slices,
            begun: false,
            cost,
            sample_bytes: options.sample_bytes,
            stacks: HashMap::new(),
            forgotten: 0,
            unknown_stacks: 0,
        };
        heap.count(true);
        Ok(heap)
    }

    /// Lets the programs count, or not.
    fn count(&mut self, counting: bool) {
        let control = HeapControl { live: u32::from(self.options.live), counting: u32::from(counting) };
        // The map is ours and of fixed size; a kernel that refuses would have refused when the recording started.
        let _cannot_fail = self.maps.control(control);
    }

    /// Follows what a process in scope did: it forked, became another program, loaded a library, or ended.
    pub fn follow(&mut self, event: &ProcessEvent) {
        match event.kind {
            EventKind::Exit => self.probes.leave(event.pid),
            EventKind::Fork { .. } | EventKind::Exec { .. } | EventKind::Map(_) => {
                self.probes.look_at(event.pid);
            }
            EventKind::Rename { .. } | EventKind::Lost { .. } => {}
        }
    }

    /// Puts probes where [`Self::follow`] saw something new.
    pub fn tick(&mut self, programs: &Programs, in_scope: impl Fn(u32) -> bool) {
        if self.slices.is_open() {
            self.probes.tick(programs, in_scope);
        }
        if self.probes.is_empty() && !self.slices.is_closed() {
            return;
        }
        self.probes.read_cpu();
        let ns_per_call = self.cost.ns_per_call(self.probes.emulated_share(), {
            let (ns, runs) = programs.heap_entry_ns();
            (runs > 0).then(|| ns as f64 / runs as f64)
        });
        let (maps, probes) = (&self.maps, &self.probes);
        if !self.begun {
            self.begun = true;
            self.slices.begin(clock::monotonic_ns(), total_of(maps, probes));
        }
        match self.slices.look(clock::monotonic_ns(), ns_per_call, || total_of(maps, probes)) {
            Turn::Stay => {}
            Turn::Close { sample_share } => {
                self.count(false);
                let now_ns = clock::monotonic_ns();
                self.probes.read_cpu();
                self.slices.closed(now_ns, total_of(&self.maps, &self.probes));
                self.probes.pause();
                // Few calls are seen from now on, so more of them can have their stacks taken.
                let bytes = (self.options.sample_bytes as f64 * sample_share) as u64;
                self.set_sample_bytes(
                    bytes.clamp(LEAST_SAMPLE_BYTES.min(self.options.sample_bytes), self.options.sample_bytes),
                );
            }
            Turn::Open => {
                self.probes.resume(programs);
                self.probes.read_cpu();
                self.slices.opened(clock::monotonic_ns(), total_of(&self.maps, &self.probes));
                self.count(true);
            }
        }
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
        self.probes.is_empty() || self.slices.is_hurried()
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
    pub fn stop(&mut self) {
        self.count(false);
        self.probes.read_cpu();
        self.slices.end(clock::monotonic_ns(), || total_of(&self.maps, &self.probes));
        self.probes.clear();
    }

    /// Hands everything to the aggregate.
    ///
    /// # Errors
    ///
    /// The kernel's tables cannot be read.
    pub fn finish(&mut self, aggregate: &mut Aggregate, processes: &mut Processes) -> Result<(), LoadError> {
        let mut sums = self.maps.sums()?;
        // The map's order is random; equal recordings should give equal files.
        sums.sort_unstable_by_key(|(number, _)| *number);
        let scale = self.slices.scale();
        for (number, sum) in sums {
            let key = if let Some(key) = self.stacks.get(&number) {
                *key
            } else {
                self.unknown_stacks += sum.taken;
                SampleKey {
                    stack: aggregate.remark_only("[stack lost]"),
                    process: processes.identify(&RawSample::of_nobody()),
                    tid: 0,
                    comm: aggregate.comm(b""),
                    cgroup_id: 0,
                }
            };
            aggregate.add_values(key, sum.taken, self.options.values_of(&sum, scale));
        }
        Ok(())
    }

    /// Totals of all calls, by size.
    pub fn allocations(&self, stats: &[(Stat, u64)]) -> Allocations {
        let stat = |wanted| stats.iter().find(|(stat, _)| *stat == wanted).map_or(0, |(_, count)| *count);
        let sizes = self.maps.sizes();
        let sum = |of: fn(&SizeSum) -> u64| sizes.iter().map(of).fold(0, u64::wrapping_add);
        let scale = self.slices.scale();
        let scaled = |count: u64| (count as f64 * scale).round() as u64;
        let buckets = (0_u16..).zip(&sizes).filter(|(_, sum)| sum.count > 0).map(|(bucket, sum)| {
            let (first, last) = bounds(bucket);
            SizeBucket { first, last, count: scaled(sum.count) }
        });
        Allocations {
            calls: scaled(sum(|size| size.count)),
            bytes: scaled(sum(|size| size.bytes)),
            frees: stat(Stat::HeapFrees),
            error_percent: self.slices.error_percent(),
            sizes: buckets.collect(),
            allocators: self.probes.describe(),
        }
    }

    /// What was lost in user space.
    pub fn lost(&self) -> Vec<Counter> {
        let counter =
            |id: &str, what: &str, count| Counter { id: id.to_owned(), what: what.to_owned(), count };
        vec![
            counter("heap_stacks_forgotten", "stacks of allocations past the limit", self.forgotten),
            counter("heap_stack_unknown", "allocations whose stack was lost", self.unknown_stacks),
        ]
    }

    /// What the reader should know of how calls were taken.
    pub fn notes(&self, stats: &[(Stat, u64)]) -> Vec<String> {
        let stat = |wanted| stats.iter().find(|(stat, _)| *stat == wanted).map_or(0, |(_, count)| *count);
        let mut notes = self.probes.notes();
        notes.extend(self.cost.notes());
        notes.push(self.slices.note(self.options.max_overhead));
        if self.slices.is_sliced() {
            notes.push(format!(
                "stacks of {} calls in the slices were taken, one in {} on average, and stand for the others",
                thousands(stat(Stat::HeapStacks)),
                crate::output::bytes(self.sample_bytes)
            ));
        } else if self.options.sample_bytes > 1 {
            notes.push(format!(
                "every call was counted; the stacks of {} were taken, one in {} on average, and stand for the others (--sample-bytes)",
                thousands(stat(Stat::HeapStacks)),
                crate::output::bytes(self.options.sample_bytes)
            ));
        } else {
            notes.push("every call was counted, with its stack".to_owned());
        }
        let mut tell = |wanted: Stat, text: &str| match stat(wanted) {
            0 => {}
            count => notes.push(format!("{} {text}", thousands(count))),
        };
        tell(Stat::HeapFailed, "calls got no memory");
        tell(Stat::HeapAbandoned, "calls were left by an exception or longjmp");
        tell(Stat::BlocksReused, "blocks were freed unseen: their addresses were handed out again");
        tell(Stat::BlocksFull, "blocks found the table full: what became of them is not known");
        notes
    }
}
