//! Blocks that are not freed, looked at again and again while a recording runs.
//!
//! In: the kernel's table of blocks, at moments of our choice while every call is watched, and at the end of each slice where not. Out: for each
//! stack what [`crate::report::leaks`] needs. What the table cannot hold, and processes that end, are looked after here too.

use std::collections::HashMap;

use profiler_common::heap::{Block, BlockKey, WEIGHT_BITS};

use super::cohorts::{SliceCohorts, weighted_bytes};
use super::growth::Growth;
use crate::bpf::{HeapMaps, LoadError};
use crate::profile::{LeakSums, Leaks};

/// How leaks are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeakOptions {
    /// Blocks younger than this are left out, nanoseconds; none: five seconds, or a quarter of the recording if that is less.
    pub older_ns: Option<u64>,
    /// Sites with fewer live bytes are left out of tables.
    pub min_bytes: u64,
}

/// Age that is left out unless told otherwise, 5 s: longer than most requests live.
const USUAL_OLDER_NS: u64 = 5_000_000_000;
/// Part of a recording that is left out at most.
const OLDER_PART: u64 = 4;

/// Looks that are kept; when they are full, every second one goes.
const MOST_MOMENTS: usize = 64;
/// Time between the first looks, 250 ms.
const FIRST_EVERY_NS: u64 = 250_000_000;
/// Least time between two looks, as a multiple of what one takes; less where that leaves too few.
const LOOK_SHARE: u64 = 50;
/// Looks in a recording, at least.
const FEWEST_LOOKS: u64 = 24;
/// Stacks whose live bytes are kept over time.
const MOST_STACKS: usize = 16_384;
/// A process that ended this long ago leaves nothing that anybody asks for, 1 s.
const FORGET_AFTER_NS: u64 = 1_000_000_000;
/// Processes that end together: the last of a target, 200 ms.
const TOGETHER_NS: u64 = 200_000_000;

/// Live bytes of a stack over time: all, and those of blocks that are old enough.
#[derive(Default)]
struct Series {
    all: Vec<f32>,
    old: Vec<f32>,
}

/// Everything but the stacks, and what is known of each stack, by its number.
pub(super) type Found = (Leaks, HashMap<u64, LeakSums>);

/// The state of a watch.
pub(super) struct Watch {
    options: LeakOptions,
    /// Blocks that the table holds.
    table_blocks: usize,
    began_ns: u64,
    next_look_ns: u64,
    every_ns: u64,
    moments_ns: Vec<u64>,
    series: HashMap<u64, Series>,
    cohorts: SliceCohorts,
    growth: Growth,
    /// When processes ended, or became other programs.
    ended: HashMap<u32, u64>,
    ended_count: f64,
    ended_bytes: f64,
    crowded_out: u64,
    /// Blocks in the table from which on fewer are followed.
    room_until: usize,
    thinned: u32,
}

/// What to do after a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    /// Nothing.
    Enough,
    /// Follow fewer blocks from now on.
    Little,
}

impl Watch {
    pub(super) fn new(options: LeakOptions, table_blocks: u32, now_ns: u64) -> Self {
        let table_blocks = table_blocks as usize;
        Self {
            options,
            table_blocks,
            began_ns: now_ns,
            next_look_ns: now_ns + FIRST_EVERY_NS,
            every_ns: FIRST_EVERY_NS,
            moments_ns: Vec::new(),
            series: HashMap::new(),
            cohorts: SliceCohorts::default(),
            growth: Growth::default(),
            ended: HashMap::new(),
            ended_count: 0.0,
            ended_bytes: 0.0,
            crowded_out: 0,
            room_until: table_blocks / 2,
            thinned: 0,
        }
    }

    /// The first probes are in, in these processes.
    pub(super) fn begin(&mut self, now_ns: u64, pids: impl Iterator<Item = u32>) {
        self.growth.look(pids, now_ns);
        self.began_ns = now_ns;
        self.next_look_ns = now_ns + self.every_ns;
    }

    /// Sees what the target's memory has grown to.
    pub(super) fn look_at_target(&mut self, now_ns: u64, pids: impl Iterator<Item = u32>) {
        self.growth.look(pids, now_ns);
    }

    /// Time since the first probe, nanoseconds.
    pub(super) fn watched_ns(&self, now_ns: u64) -> u64 {
        now_ns.saturating_sub(self.began_ns)
    }

    /// A process ended or became another program: what it had is gone.
    pub(super) fn ended(&mut self, pid: u32, time_ns: u64) {
        self.ended.insert(pid, time_ns);
    }

    /// What slices saw.
    pub(super) fn cohorts(&self) -> &SliceCohorts {
        &self.cohorts
    }

    /// Age that is left out of a recording of this length, nanoseconds.
    fn older_ns(&self, watched_ns: u64) -> u64 {
        self.options.older_ns.unwrap_or_else(|| USUAL_OLDER_NS.min(watched_ns / OLDER_PART))
    }

    /// Looks at all blocks if it is time, while every call is watched.
    ///
    /// # Errors
    ///
    /// The kernel's table cannot be read.
    pub(super) fn tick(
        &mut self,
        maps: &HeapMaps,
        clock: fn() -> u64,
        lives: impl Fn(u32) -> bool,
    ) -> Result<Room, LoadError> {
        let now_ns = clock();
        if now_ns < self.next_look_ns {
            return Ok(Room::Enough);
        }
        let blocks = self.read(maps, now_ns, lives)?;
        self.add_point(&blocks, now_ns);
        let took_ns = clock().saturating_sub(now_ns);
        let elapsed_ns = now_ns.saturating_sub(self.began_ns);
        self.next_look_ns = now_ns + self.every_ns.max((took_ns * LOOK_SHARE).min(elapsed_ns / FEWEST_LOOKS));
        Ok(self.room(blocks.len()))
    }

    /// Whether the table has room for as many again.
    fn room(&mut self, blocks: usize) -> Room {
        if blocks <= self.room_until {
            return Room::Enough;
        }
        // Those that are in it stay.
        self.room_until = blocks + self.table_blocks.saturating_sub(blocks) / 2;
        self.thinned += 1;
        Room::Little
    }

    /// A slice of this length is over; the probes are out.
    ///
    /// # Errors
    ///
    /// The kernel's table cannot be read.
    pub(super) fn slice_ended(
        &mut self,
        maps: &HeapMaps,
        now_ns: u64,
        length_ns: u64,
        lives: impl Fn(u32) -> bool,
    ) -> Result<Room, LoadError> {
        let blocks = self.read(maps, now_ns, lives)?;
        self.series.clear();
        self.moments_ns.clear();
        self.cohorts.look(&blocks, now_ns.saturating_sub(self.began_ns), length_ns);
        Ok(self.room(blocks.len()))
    }

    /// Blocks of processes that are there; what others left is taken out of the table and counted.
    fn read(
        &mut self,
        maps: &HeapMaps,
        now_ns: u64,
        lives: impl Fn(u32) -> bool,
    ) -> Result<Vec<(BlockKey, Block)>, LoadError> {
        let mut blocks = maps.blocks()?;
        // Those without weight are parts of chains and stand for nothing.
        let counts = |(_, block): &(BlockKey, Block)| block.weight > 0;
        if self.ended.is_empty() {
            blocks.retain(counts);
            return Ok(blocks);
        }
        let last_ns = self.ended.values().copied().max().unwrap_or(0);
        let anybody = blocks.iter().any(|(key, _)| lives(key.pid));
        let mut forgotten = Vec::new();
        blocks.retain(|(key, block)| {
            let Some(ended_ns) = self.ended.get(&key.pid).copied() else { return true };
            if block.since_ns > ended_ns {
                return true;
            }
            // When all have ended, what the last of them held at their end is what is asked for.
            if !anybody && !lives(key.pid) && ended_ns + TOGETHER_NS >= last_ns {
                return true;
            }
            if lives(key.pid) || now_ns.saturating_sub(ended_ns) > FORGET_AFTER_NS {
                self.ended_count += block.weight as f64 / f64::from(1_u32 << WEIGHT_BITS);
                self.ended_bytes += weighted_bytes(block);
                forgotten.push(*key);
            }
            false
        });
        maps.forget_blocks(&forgotten)?;
        blocks.retain(counts);
        Ok(blocks)
    }

    fn add_point(&mut self, blocks: &[(BlockKey, Block)], now_ns: u64) {
        if self.moments_ns.len() >= MOST_MOMENTS {
            let thin = |values: &mut Vec<f32>| {
                let mut index = 0;
                values.retain(|_| {
                    index += 1;
                    index % 2 == 0
                });
            };
            let mut index = 0;
            self.moments_ns.retain(|_| {
                index += 1;
                index % 2 == 0
            });
            for series in self.series.values_mut() {
                thin(&mut series.all);
                thin(&mut series.old);
            }
            self.every_ns *= 2;
        }
        let moment = self.moments_ns.len();
        let moment_ns = now_ns.saturating_sub(self.began_ns);
        let older_ns = self.options.older_ns.unwrap_or(USUAL_OLDER_NS);
        self.moments_ns.push(moment_ns);
        for (_, block) in blocks {
            if self.series.len() >= MOST_STACKS && !self.series.contains_key(&block.number) {
                self.crowded_out += 1;
                continue;
            }
            let series = self.series.entry(block.number).or_default();
            let bytes = weighted_bytes(block) as f32;
            let add = |values: &mut Vec<f32>| {
                values.resize(moment + 1, 0.0);
                values[moment] += bytes;
            };
            add(&mut series.all);
            if now_ns.saturating_sub(block.since_ns) >= older_ns {
                add(&mut series.old);
            }
        }
    }

    /// What is known now. `correction` is what the target does without probes for each that it did in a slice, with its error.
    ///
    /// # Errors
    ///
    /// The kernel's table cannot be read.
    pub(super) fn result(
        &mut self,
        maps: &HeapMaps,
        now_ns: u64,
        (correction, rate_error): (f64, f64),
        lives: impl Fn(u32) -> bool,
    ) -> Result<Found, LoadError> {
        let blocks = self.read(maps, now_ns, lives)?;
        let watched_ns = now_ns.saturating_sub(self.began_ns);
        let older_ns = self.older_ns(watched_ns);
        let mut by_number: HashMap<u64, LeakSums> = HashMap::new();
        let (mut young_count, mut young_bytes) = (0.0, 0.0);
        for (key, block) in &blocks {
            let scale = self.cohorts.factor(key, block) * correction;
            let count = block.weight as f64 / f64::from(1_u32 << WEIGHT_BITS) * scale;
            let bytes = weighted_bytes(block) * scale;
            let age_ns = now_ns.saturating_sub(block.since_ns);
            if age_ns < older_ns {
                young_count += count;
                young_bytes += bytes;
                continue;
            }
            let sums = by_number.entry(block.number).or_default();
            sums.live_count += count;
            sums.live_bytes += bytes;
            sums.live_squares += bytes * bytes * (1.0 - 1.0 / count.max(1.0));
            sums.byte_seconds += bytes * age_ns as f64 / 1e9;
            sums.oldest_ns = sums.oldest_ns.max(age_ns);
            if age_ns >= watched_ns / 2 {
                sums.early_bytes += bytes;
            }
        }
        let (moments_ns, open_ns, slices) = match self.cohorts.slices() {
            Some((moments, open, slices)) => {
                for number in self.cohorts.numbers() {
                    by_number.entry(number).or_default().cohorts = self.cohorts.of(number);
                }
                (moments.to_vec(), open.to_vec(), Some(slices))
            }
            None => (self.add_series(&mut by_number, watched_ns, older_ns), Vec::new(), None),
        };
        let leaks = Leaks {
            watched_ns,
            older_ns,
            min_bytes: self.options.min_bytes,
            moments_ns,
            slices,
            open_ns,
            grown_bytes: slices.and_then(|_| self.growth.bytes()),
            correction,
            rate_error,
            windows: None,
            stacks: Vec::new(),
            young_count: young_count as u64,
            young_bytes: young_bytes as u64,
            unfollowed_count: 0,
            unfollowed_bytes: 0,
            ended_count: self.ended_count as u64,
            ended_bytes: self.ended_bytes as u64,
        };
        Ok((leaks, by_number))
    }

    /// Adds each stack's live bytes over time; returns when that was.
    fn add_series(&self, by_number: &mut HashMap<u64, LeakSums>, watched_ns: u64, older_ns: u64) -> Vec<u64> {
        let usual_ns = self.options.older_ns.unwrap_or(USUAL_OLDER_NS);
        // Before blocks can be old enough there is nothing to see; a short recording has no time to lose.
        let of_old = older_ns == usual_ns && watched_ns >= OLDER_PART * usual_ns;
        let first = if of_old { self.moments_ns.partition_point(|moment| *moment < usual_ns) } else { 0 };
        for (number, series) in &self.series {
            let values = if of_old { &series.old } else { &series.all };
            let mut values: Vec<f64> = values.iter().skip(first).map(|value| f64::from(*value)).collect();
            values.resize(self.moments_ns.len() - first, 0.0);
            by_number.entry(*number).or_default().series = values;
        }
        self.moments_ns[first..].to_vec()
    }

    /// What the reader should know.
    pub(super) fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if self.thinned > 0 {
            notes.push(
                "many blocks are in use: from some time on fewer of them were followed, at random by bytes, and stand for the others"
                    .to_owned(),
            );
        }
        let crowded_out = self.crowded_out + self.cohorts.crowded_out();
        if crowded_out > 0 {
            notes.push(format!(
                "growth is not known of stacks past the first {}; {} looks at their blocks were left out",
                crate::output::thousands(MOST_STACKS as u64),
                crate::output::thousands(crowded_out)
            ));
        }
        notes
    }
}
