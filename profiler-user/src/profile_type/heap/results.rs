//! What a recording of allocations ends with: sums by stack, totals by size, losses and remarks.

use std::collections::{BTreeMap, HashMap};

use profiler_common::heap::{ChainSum, HeapSum, SizeSum, WEIGHT_BITS};
use profiler_common::histogram::bounds;
use profiler_common::stats::Stat;

use super::Heap;
use super::watch::Found;
use crate::aggregate::{Aggregate, SampleKey, values};
use crate::bpf::{HeapMaps, LoadError};
use crate::ingest::RawSample;
use crate::output::thousands;
use crate::process::Processes;
use crate::profile::{
    Allocations, ChainStack, ChainSums, Counter, LeakStack, LeakSums, Leaks, SizeBucket, StackId, UnseenFrees,
};
use crate::session::clock;

/// Stacks of which a table is made while the recording goes on. Each takes time to name.
const MOST_SHOWN: usize = 200;

/// Sums of the time before the first slice, in which every call was counted: they stand for themselves.
#[derive(Debug, Default)]
pub(super) struct Always {
    /// By number of the stack.
    sums: HashMap<u64, HeapSum>,
    /// By bucket of the size.
    sizes: Vec<SizeSum>,
}

impl Always {
    /// What the tables hold now. A table that cannot be read is reported when the recording ends and it is read again.
    pub(super) fn read(maps: &HeapMaps) -> Self {
        Self { sums: maps.sums().unwrap_or_default().into_iter().collect(), sizes: maps.sizes() }
    }
}

/// What stands for a stack that did not come.
pub(super) fn lost_stack(aggregate: &mut Aggregate, processes: &mut Processes) -> SampleKey {
    SampleKey {
        stack: aggregate.remark_only("[stack lost]"),
        process: processes.identify(&RawSample::of_nobody()),
        tid: 0,
        comm: aggregate.comm(b""),
        cgroup_id: 0,
    }
}

/// What came since.
pub(super) fn since(now: &HeapSum, before: &HeapSum) -> HeapSum {
    HeapSum {
        taken: now.taken.saturating_sub(before.taken),
        uncertain: now.uncertain.saturating_sub(before.uncertain),
        objects: now.objects.saturating_sub(before.objects),
        bytes: now.bytes.saturating_sub(before.bytes),
        freed_objects: now.freed_objects.saturating_sub(before.freed_objects),
        freed_bytes: now.freed_bytes.saturating_sub(before.freed_bytes),
        brief_objects: now.brief_objects.saturating_sub(before.brief_objects),
        unfollowed_bytes: now.unfollowed_bytes.saturating_sub(before.unfollowed_bytes),
        unfollowed_objects: now.unfollowed_objects.saturating_sub(before.unfollowed_objects),
        chosen: now.chosen.saturating_sub(before.chosen),
    }
}

/// Half of the 95 % interval of totals that blocks leave open which programs chose themselves, as a share. Calls of one stack are mostly of one size:
/// as many as were chosen, each with the same weight.
fn chosen_error<'s>(sums: impl Iterator<Item = &'s HeapSum>, total: SizeSum) -> f64 {
    /// Standard errors in it.
    const NORMAL: f64 = 1.96;
    let whole = f64::from(1_u32 << WEIGHT_BITS);
    let (mut objects, mut bytes) = (0.0, 0.0);
    for sum in sums.filter(|sum| sum.chosen > 0) {
        let share = sum.uncertain as f64 / (sum.chosen as f64).powi(2);
        objects += (sum.objects as f64 / whole).powi(2) * share;
        bytes += (sum.bytes as f64 / whole).powi(2) * share;
    }
    NORMAL * (objects.sqrt() / total.count.max(1) as f64).max(bytes.sqrt() / total.bytes.max(1) as f64)
}

fn chain_sums(sum: &ChainSum) -> ChainSums {
    let whole = |weighted: u64| weighted as f64 / f64::from(1_u32 << WEIGHT_BITS);
    ChainSums {
        chains: whole(sum.chains),
        followed: sum.followed,
        steps: whole(sum.steps),
        longest: sum.longest,
        first_bytes: whole(sum.first_bytes),
        last_bytes: whole(sum.last_bytes),
        moves: whole(sum.moves),
        moved_bytes: whole(sum.moved_bytes),
    }
}

/// What a watch knows of a stack's blocks, with what its sum knows of all of them. A block that was counted stands for `scale` of them.
fn leak_sums(known: Option<&LeakSums>, sum: &HeapSum, scale: f64) -> LeakSums {
    let whole = f64::from(1_u32 << WEIGHT_BITS);
    let mut found = known.cloned().unwrap_or_default();
    found.unfollowed_bytes = sum.unfollowed_bytes as f64 / whole * scale;
    if !found.cohorts.kept.is_empty() {
        let mean = sum.bytes as f64 / (sum.objects as f64).max(1.0);
        found.cohorts.born = sum.bytes as f64 / whole;
        found.cohorts.brief = sum.brief_objects as f64 * mean / whole;
    }
    found
}

/// Blocks that could not be followed, with their bytes. One that was counted stands for `scale` of them.
fn unfollowed<'s>(sums: impl Iterator<Item = &'s HeapSum>, scale: f64) -> (u64, u64) {
    let (count, bytes) = sums.fold((0, 0), |(count, bytes): (u64, u64), sum| {
        (count.saturating_add(sum.unfollowed_objects), bytes.saturating_add(sum.unfollowed_bytes))
    });
    let whole = |weighted: u64| (weighted as f64 * scale / f64::from(1_u32 << WEIGHT_BITS)).round() as u64;
    (whole(count), whole(bytes))
}

/// Of all frees those that blocks which were followed do not account for; `known` is what these stand for, `squares` the squares of that.
fn unseen_frees(frees: u64, known: u64, squares: u64) -> UnseenFrees {
    let whole = f64::from(1_u32 << WEIGHT_BITS);
    let (known, squares) = (known as f64 / whole, squares as f64 / whole);
    // Each was taken with a chance of one in what it stands for: the variance of a Horvitz-Thompson sum (1952).
    let error = 1.96 * (squares - known).max(0.0).sqrt();
    UnseenFrees { count: (frees as f64 - known).max(0.0).round() as u64, error: error.round() as u64 }
}

impl Heap {
    /// Hands everything to the aggregate. Leaks name stacks by their index there.
    ///
    /// # Errors
    ///
    /// The kernel's tables cannot be read.
    pub fn finish(
        &mut self,
        aggregate: &mut Aggregate,
        processes: &mut Processes,
    ) -> Result<Option<Leaks>, LoadError> {
        let mut sums = self.maps.sums()?;
        // The map's order is random; equal recordings should give equal files.
        sums.sort_unstable_by_key(|(number, _)| *number);
        self.chains = self.resized()?;
        self.chosen_error = chosen_error(sums.iter().map(|(_, sum)| sum), self.maps.total());
        let scale = self.slices.scale_of_stacks();
        let leaks = self.leaks()?;
        self.unfollowed = unfollowed(sums.iter().map(|(_, sum)| sum), scale);
        let mut by_stack: BTreeMap<u32, LeakSums> = BTreeMap::new();
        for (number, sum) in sums {
            let always = self.always.sums.get(&number).copied().unwrap_or_default();
            let key = if let Some(key) = self.stacks.get(&number) {
                *key
            } else {
                self.unknown_stacks += sum.taken;
                lost_stack(aggregate, processes)
            };
            let mut values = self.options.values_of(&always, 1.0);
            for (value, more) in values.iter_mut().zip(self.options.values_of(&since(&sum, &always), scale)) {
                *value += more;
            }
            if let Some((_, by_number)) = &leaks {
                let found = leak_sums(by_number.get(&number), &sum, scale);
                values[4] = found.live_count.round() as u64;
                values[5] = found.live_bytes.round() as u64;
                by_stack.entry(key.stack).or_default().add(&found);
            }
            aggregate.add_values(key, sum.taken, values);
        }
        Ok(leaks.map(|(leaks, _)| {
            let stacks = by_stack.into_iter().map(|(stack, sums)| LeakStack { stack: StackId(stack), sums });
            let stacks = stacks.filter(|stack| stack.sums.says_something()).collect();
            let (unfollowed_count, unfollowed_bytes) = self.unfollowed;
            Leaks { stacks, unfollowed_count, unfollowed_bytes, ..leaks }
        }))
    }

    /// Blocks that were resized. Slices see parts of what became of a block, which say nothing of it.
    fn resized(&self) -> Result<Vec<ChainStack>, LoadError> {
        if !self.options.live || self.slices.is_sliced() {
            return Ok(Vec::new());
        }
        let mut by_stack: BTreeMap<u32, ChainSums> = BTreeMap::new();
        for (number, sum) in self.maps.chains()? {
            // Whose stack was lost was counted with its calls.
            let Some(key) = self.stacks.get(&number) else { continue };
            by_stack.entry(key.stack).or_default().add(&chain_sums(&sum));
        }
        Ok(by_stack.into_iter().map(|(stack, sums)| ChainStack { stack: StackId(stack), sums }).collect())
    }

    /// What is known of leaks while the recording goes on: of the stacks that hold most, with an aggregate of nothing else.
    ///
    /// # Errors
    ///
    /// The kernel's tables cannot be read.
    pub fn leaks_now(&mut self, aggregate: &Aggregate) -> Result<Option<(Aggregate, Leaks)>, LoadError> {
        let Some((leaks, by_number)) = self.leaks()? else { return Ok(None) };
        let sums = self.maps.sums()?;
        let scale = self.slices.scale_of_stacks();
        let (unfollowed_count, unfollowed_bytes) = unfollowed(sums.iter().map(|(_, sum)| sum), scale);
        let known = |number: &u64| self.stacks.get(number).copied();
        let mut found: Vec<(SampleKey, LeakSums)> = sums
            .iter()
            .filter_map(|(number, sum)| Some((known(number)?, leak_sums(by_number.get(number), sum, scale))))
            .filter(|(_, sums)| sums.says_something())
            .collect();
        found.sort_by(|(a_key, a), (b_key, b)| {
            b.live_bytes.total_cmp(&a.live_bytes).then_with(|| a_key.stack.cmp(&b_key.stack))
        });
        found.truncate(MOST_SHOWN);
        let (mut part, numbers) = aggregate.part(found.iter().map(|(key, _)| key.stack));
        let mut stacks = Vec::new();
        for (key, sums) in found {
            let key = SampleKey { stack: numbers[&key.stack], ..key };
            let live = [sums.live_count.round() as u64, sums.live_bytes.round() as u64];
            part.add_values(key, 1, values([0, 0, 0, 0, live[0], live[1]]));
            stacks.push(LeakStack { stack: StackId(key.stack), sums });
        }
        Ok(Some((part, Leaks { stacks, unfollowed_count, unfollowed_bytes, ..leaks })))
    }

    fn leaks(&mut self) -> Result<Option<Found>, LoadError> {
        let (maps, probes) = (&self.maps, &self.probes);
        let Some(watch) = &mut self.watch else { return Ok(None) };
        let now_ns = self.stopped_ns.unwrap_or_else(clock::monotonic_ns);
        watch.result(maps, now_ns, self.slices.correction(), |pid| probes.knows(pid)).map(Some)
    }

    /// Totals of all calls, by size.
    pub fn allocations(&self, stats: &[(Stat, u64)]) -> Allocations {
        let stat = |wanted| stats.iter().find(|(stat, _)| *stat == wanted).map_or(0, |(_, count)| *count);
        let scale = self.slices.scale_of_calls();
        let scaled = |size: &SizeSum, always: &SizeSum, of: fn(&SizeSum) -> u64| {
            of(always) + (of(size).saturating_sub(of(always)) as f64 * scale).round() as u64
        };
        let sizes = self.maps.sizes();
        let none = SizeSum::default();
        let pairs = || {
            let always = self.always.sizes.iter().chain(std::iter::repeat(&none));
            (0_u16..).zip(sizes.iter().zip(always)).filter(|(_, (size, _))| size.count > 0)
        };
        let sum = |of: fn(&SizeSum) -> u64| {
            pairs().map(|(_, (size, always))| scaled(size, always, of)).fold(0, u64::wrapping_add)
        };
        let buckets = pairs().map(|(bucket, (size, always))| {
            let (first, last) = bounds(bucket);
            SizeBucket { first, last, count: scaled(size, always, |size| size.count) }
        });
        Allocations {
            calls: sum(|size| size.count),
            bytes: sum(|size| size.bytes),
            frees: if self.options.live { stat(Stat::HeapFrees) } else { 0 },
            unseen_frees: (self.options.live && !self.slices.is_sliced()).then(|| {
                unseen_frees(
                    stat(Stat::HeapFrees),
                    stat(Stat::HeapFreesKnown),
                    stat(Stat::HeapFreesKnownSquares),
                )
            }),
            unfollowed_count: self.unfollowed.0,
            unfollowed_bytes: self.unfollowed.1,
            error_percent: self.slices.error_percent().hypot(self.chosen_error * 100.0),
            common_error_percent: self.slices.error_percent(),
            sizes: buckets.collect(),
            allocators: self.probes.describe(),
            chains: self.chains.clone(),
        }
    }

    /// What was lost in user space.
    pub fn lost(&self) -> Vec<Counter> {
        let counter =
            |id: &str, what: &str, count| Counter { id: id.to_owned(), what: what.to_owned(), count };
        vec![
            counter("heap_stacks_forgotten", "stacks of allocations past the limit", self.forgotten),
            counter("blocks_unread", "looks at blocks that failed", self.unread),
            counter("heap_stack_unknown", "allocations whose stack was lost", self.unknown_stacks),
        ]
    }

    /// What the reader should know of how calls were taken.
    pub fn notes(&self, stats: &[(Stat, u64)]) -> Vec<String> {
        let stat = |wanted| stats.iter().find(|(stat, _)| *stat == wanted).map_or(0, |(_, count)| *count);
        let mut notes = self.probes.notes();
        notes.extend(self.cost.notes());
        let chosen = self.probes.all_chosen() && !self.slices.is_sliced();
        let of_slices = self.slices.notes(self.options.max_overhead).into_iter();
        notes.extend(of_slices.filter(|note| !chosen || !note.starts_with("exact:")));
        if self.options.live && self.slices.is_sliced() && self.probes.any_chosen() {
            notes.push(
                "Go's collector frees in bursts, and what falls between time slices is not seen: live bytes are too many; --exact watches all, and costs \
                 a Go program little"
                    .to_owned(),
            );
        }
        if chosen {
            // What the allocator's own note says is all that there is to say.
        } else if self.slices.is_sliced() {
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
        notes.extend(self.watch.iter().flat_map(|watch| watch.notes()));
        let mut tell = |wanted: Stat, text: &str| match stat(wanted) {
            0 => {}
            count => notes.push(format!("{} {text}", thousands(count))),
        };
        tell(Stat::HeapFailed, "calls got no memory");
        tell(Stat::HeapAbandoned, "calls were left by an exception or longjmp");
        tell(Stat::BlocksReused, "blocks were freed unseen: their addresses were handed out again");
        tell(
            Stat::HeapInHandlers,
            "calls were a signal handler's in the middle of another one, and counted like any other",
        );
        tell(
            Stat::HeapInnerFar,
            "calls were left out as parts of others although they came from far inside: signal handlers' may be among them",
        );
        if stat(Stat::BlocksFull) > 0 {
            let (count, bytes) = self.unfollowed;
            notes.push(format!(
                "the table of {} blocks was full: what became of {} blocks with {} is not known, and live bytes are a lower bound (a larger \
                 --sample-bytes follows fewer)",
                thousands(u64::from(self.options.table_blocks)),
                thousands(count),
                crate::output::bytes(bytes)
            ));
        }
        notes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_that_programs_choose_leave_totals_open() {
        let sum = |chosen, uncertain| HeapSum {
            chosen,
            uncertain,
            objects: 256 * 5000,
            bytes: 256 * 5_000_000,
            ..HeapSum::default()
        };
        let total = SizeSum { count: 10_000, bytes: 10_000_000 };
        // A hundred chosen: ten percent of half of the total, twice the standard error.
        let found = chosen_error([sum(100, 100), sum(0, 100)].iter(), total);
        assert!((found - 0.098).abs() < 1e-6, "{found}");
        // Blocks so large that each is chosen stand for themselves.
        assert!(chosen_error([sum(100, 0)].iter(), total) < f64::EPSILON);
    }

    #[test]
    fn frees_that_no_block_accounts_for_are_unseen() {
        assert_eq!(unseen_frees(100, 100 << 8, 100 << 8), UnseenFrees { count: 0, error: 0 });
        assert_eq!(unseen_frees(100, 60 << 8, 60 << 8), UnseenFrees { count: 40, error: 0 });
        // Ten blocks that stand for a hundred each.
        let found = unseen_frees(1500, 1000 << 8, 100_000 << 8);
        assert_eq!((found.count, found.error), (500, 617));
        assert_eq!(unseen_frees(0, u64::MAX, 0).count, 0);
    }

    #[test]
    fn blocks_without_room_add_up() {
        let sum = HeapSum { unfollowed_objects: 2 << 8, unfollowed_bytes: 300 << 8, ..HeapSum::default() };
        assert_eq!(unfollowed([&sum, &sum].into_iter(), 2.0), (8, 1200));
        assert_eq!(unfollowed([].into_iter(), 2.0), (0, 0));
    }
}
