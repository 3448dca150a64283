//! The blocks of time slices: who outlives the slice that saw it allocated, and what later slices see of it.
//!
//! Pure: after each slice the blocks that are followed come in. Outside of slices nothing is seen, so a block that was not seen to go may be gone
//! all the same; [`crate::report::leaks`] makes of it what can be said.

use std::collections::HashMap;

use profiler_common::heap::{Block, BlockKey, WEIGHT_BITS};

use crate::profile::{Cohorts, WatchedSlices, age_bucket};

/// Entries over time; when they are full, each two become one.
const MOST_MOMENTS: usize = 64;
/// Stacks whose blocks outlive a slice.
const MOST_STACKS: usize = 16_384;

struct Known {
    since_ns: u64,
    slice: u64,
    number: u64,
    bytes: f64,
    /// Blocks like it for each that its slice saw.
    factor: f64,
}

/// All blocks that slices left behind.
#[derive(Default)]
pub(super) struct SliceCohorts {
    known: HashMap<BlockKey, Known>,
    by_number: HashMap<u64, Cohorts>,
    moments_ns: Vec<u64>,
    /// Time in slices since the moment before.
    open_ns: Vec<u64>,
    slices: WatchedSlices,
    last_end_ns: Option<u64>,
    /// Blocks of stacks past the limit.
    crowded_out: u64,
}

/// Bytes that a block stands for.
pub(super) fn weighted_bytes(block: &Block) -> f64 {
    block.size as f64 * block.weight as f64 / f64::from(1_u32 << WEIGHT_BITS)
}

impl SliceCohorts {
    /// Takes in what is followed at the end of a slice of this length; the clock counts from the first probe on.
    pub(super) fn look(&mut self, blocks: &[(BlockKey, Block)], end_ns: u64, length_ns: u64) {
        let slice = self.slices.count;
        self.slices.count += 1;
        self.slices.open_ns += length_ns;
        let period_ns = end_ns.saturating_sub(self.last_end_ns.unwrap_or(0)).max(length_ns);
        self.slices.span_ns += self.last_end_ns.map_or(0, |_| period_ns);
        self.last_end_ns = Some(end_ns);
        let factor = period_ns as f64 / length_ns.max(1) as f64;
        let now: HashMap<BlockKey, &Block> = blocks.iter().map(|(key, block)| (*key, block)).collect();
        let (known, by_number) = (&mut self.known, &mut self.by_number);
        known.retain(|key, known| {
            let Some(cohorts) = by_number.get_mut(&known.number) else { return false };
            let bucket = age_bucket(slice - known.slice);
            if cohorts.at_risk.len() <= bucket {
                cohorts.at_risk.resize(bucket + 1, 0.0);
                cohorts.gone.resize(bucket + 1, 0.0);
            }
            cohorts.at_risk[bucket] += known.bytes;
            let stays = now.get(key).is_some_and(|block| block.since_ns == known.since_ns);
            if !stays {
                cohorts.gone[bucket] += known.bytes;
                cohorts.gone_squares += known.bytes * known.bytes;
            }
            stays
        });
        let moment = self.next_moment(end_ns);
        self.open_ns[moment] += length_ns;
        for (key, block) in blocks {
            if self.known.contains_key(key) {
                continue;
            }
            if self.by_number.len() >= MOST_STACKS && !self.by_number.contains_key(&block.number) {
                self.crowded_out += 1;
                continue;
            }
            let cohorts = self.by_number.entry(block.number).or_default();
            if cohorts.kept.len() <= moment {
                cohorts.kept.resize(moment + 1, 0.0);
            }
            let bytes = weighted_bytes(block);
            cohorts.kept[moment] += bytes;
            cohorts.kept_squares += bytes * bytes;
            self.known
                .insert(*key, Known { since_ns: block.since_ns, slice, number: block.number, bytes, factor });
        }
    }

    /// Where the slice that ended now belongs.
    fn next_moment(&mut self, end_ns: u64) -> usize {
        let merged = self.slices.merged.max(1);
        self.slices.merged = merged;
        let moment = ((self.slices.count - 1) / merged) as usize;
        if moment < MOST_MOMENTS {
            if let Some(known) = self.moments_ns.get_mut(moment) {
                *known = end_ns;
            } else {
                self.moments_ns.push(end_ns);
                self.open_ns.push(0);
            }
            return moment;
        }
        self.slices.merged = merged * 2;
        self.moments_ns = self.moments_ns.chunks(2).map(|pair| pair[pair.len() - 1]).collect();
        self.open_ns = self.open_ns.chunks(2).map(|pair| pair.iter().sum()).collect();
        for cohorts in self.by_number.values_mut() {
            cohorts.kept = cohorts.kept.chunks(2).map(|pair| pair.iter().sum()).collect();
        }
        self.next_moment(end_ns)
    }

    /// When slices ended, how long they were, and the slices; none before the first.
    pub(super) fn slices(&self) -> Option<(&[u64], &[u64], WatchedSlices)> {
        (self.slices.count > 0).then_some((&*self.moments_ns, &*self.open_ns, self.slices))
    }

    /// What a block stands for that came in a slice: the time since the slice before is longer than the slice.
    pub(super) fn factor(&self, key: &BlockKey, block: &Block) -> f64 {
        self.known.get(key).filter(|known| known.since_ns == block.since_ns).map_or(1.0, |known| known.factor)
    }

    /// What was seen of a stack's blocks.
    pub(super) fn of(&self, number: u64) -> Cohorts {
        self.by_number.get(&number).cloned().unwrap_or_default()
    }

    /// Numbers of stacks whose blocks outlived a slice.
    pub(super) fn numbers(&self) -> impl Iterator<Item = u64> {
        self.by_number.keys().copied()
    }

    pub(super) fn crowded_out(&self) -> u64 {
        self.crowded_out
    }
}

#[cfg(test)]
mod tests;
