//! Simulated allocators whose blocks live as long as is known, watched in slices.

use std::collections::BinaryHeap;

use super::*;
use crate::report::leaks::random::Random;
use crate::report::leaks::{Survival, survival};

const MS: f64 = 1e-3;

/// How long the blocks of a site live, seconds.
#[derive(Debug, Clone, Copy)]
struct Lives {
    /// Share that is never freed.
    leaked: f64,
    /// Mean of the others, exponential.
    mean_s: f64,
}

impl Lives {
    fn beyond(&self, age_s: f64) -> f64 {
        self.leaked + (1.0 - self.leaked) * (-age_s / self.mean_s).exp()
    }
}

/// What an allocator does with addresses that were freed.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Addresses {
    Fresh,
    LastFreedFirst,
}

const SITE: u64 = 1;
const OTHERS: u64 = 2;

/// Seconds that are simulated.
const LENGTH_S: f64 = 15.0;

/// An allocator with a site and with others that come and go at once, watched in slices of 20 ms.
fn watch(lives: Lives, addresses: Addresses, gap_s: f64, seed: u64) -> Survival {
    let mut random = Random::new(seed);
    let mut cohorts = SliceCohorts::default();
    let mut blocks: HashMap<BlockKey, Block> = HashMap::new();
    let mut frees: BinaryHeap<(std::cmp::Reverse<u64>, u64)> = BinaryHeap::new();
    let (mut idle, mut next_address): (Vec<u64>, u64) = (Vec::new(), 1);
    let (mut open_from, mut open_to) = (0.0, 20.0 * MS);
    let (mut now, mut born, mut brief) = (0.0, 0.0, 0.0);
    let key = |address| BlockKey { address, pid: 1, padding: 0 };
    while now < LENGTH_S {
        now += random.exponential(2.0 * MS);
        while let Some((std::cmp::Reverse(due), address)) = frees.peek().copied() {
            if due as f64 / 1e9 > now {
                break;
            }
            frees.pop();
            let at = due as f64 / 1e9;
            if at >= open_from && at < open_to {
                blocks.remove(&key(address));
            }
            if addresses == Addresses::LastFreedFirst {
                idle.push(address);
            }
        }
        if now >= open_to {
            let list: Vec<(BlockKey, Block)> = blocks.iter().map(|(key, block)| (*key, *block)).collect();
            cohorts.look(&list, (open_to * 1e9) as u64, 20_000_000);
            open_from = open_to + gap_s * (0.1 + 1.8 * random.uniform());
            open_to = open_from + 20.0 * MS;
        }
        let address = idle.pop().unwrap_or_else(|| {
            next_address += 1;
            next_address
        });
        let of_site = random.below(2) == 0;
        let lives_s = match of_site {
            true if random.uniform() < lives.leaked => f64::MAX,
            true => random.exponential(lives.mean_s),
            false => random.exponential(5.0 * MS),
        };
        if lives_s < 1e6 {
            frees.push((std::cmp::Reverse(((now + lives_s) * 1e9) as u64), address));
        }
        if now >= open_from && now < open_to {
            let number = if of_site { SITE } else { OTHERS };
            born += f64::from(u8::from(of_site)) * 64.0;
            brief += f64::from(u8::from(of_site && lives_s < MS && now + lives_s < open_to)) * 64.0;
            blocks.insert(
                key(address),
                Block { number, size: 64, since_ns: (now * 1e9) as u64, weight: 256, ..Block::default() },
            );
        }
    }
    let (_, _, slices) = cohorts.slices().unwrap();
    survival(&Cohorts { born, brief, ..cohorts.of(SITE) }, &slices)
}

/// Runs of which at least nine in ten have to hold the truth.
const RUNS: u64 = 20;

fn assert_covered(addresses: Addresses, gap_s: f64) {
    for (leaked, mean_s) in [(0.0, 0.05), (0.0, 0.5), (0.0, 5.0), (0.2, 0.05), (0.2, 2.0), (1.0, 1.0)] {
        let lives = Lives { leaked, mean_s };
        // Of what outlives its slice (by half of its length on average), what outlives the recording.
        let truth = lives.beyond(LENGTH_S) / lives.beyond(10.0 * MS);
        let runs: Vec<Survival> = (0..RUNS).map(|seed| watch(lives, addresses, gap_s, seed)).collect();
        let covered = runs.iter().filter(|found| found.low <= truth && truth <= found.high).count();
        assert!(
            covered as f64 >= 0.9 * RUNS as f64,
            "{lives:?}, {addresses:?}, {gap_s} s between slices: {covered} of {RUNS} hold {truth:.3}, the first is {:?}",
            runs[0]
        );
    }
}

#[test]
fn bounds_hold_the_truth_where_no_address_comes_back() {
    assert_covered(Addresses::Fresh, 0.2);
    assert_covered(Addresses::Fresh, 1.0);
}

#[test]
fn bounds_hold_the_truth_where_addresses_come_back_at_once() {
    assert_covered(Addresses::LastFreedFirst, 0.2);
    assert_covered(Addresses::LastFreedFirst, 1.0);
}

#[test]
fn a_leak_and_its_opposite_are_told_apart() {
    for seed in 0..5 {
        let leak = watch(Lives { leaked: 1.0, mean_s: 1.0 }, Addresses::LastFreedFirst, 0.2, seed);
        assert!(leak.low > 0.5 && leak.likely > 0.9, "{leak:?}");
        let brief = watch(Lives { leaked: 0.0, mean_s: 0.05 }, Addresses::LastFreedFirst, 0.2, seed);
        assert!(brief.low < 1e-3 && brief.high < 0.2, "{brief:?}");
    }
}

#[test]
fn old_entries_are_merged_and_nothing_is_lost() {
    let mut cohorts = SliceCohorts::default();
    let block = Block { number: 7, size: 10, since_ns: 0, weight: 256, ..Block::default() };
    let mut blocks = Vec::new();
    for slice in 0..1_000 {
        blocks.push((BlockKey { address: slice, pid: 1, padding: 0 }, block));
        cohorts.look(&blocks, slice * 1_000, 100);
    }
    let found = cohorts.of(7);
    let (moments, open_ns, slices) = cohorts.slices().unwrap();
    assert_eq!((open_ns.len(), open_ns.iter().sum::<u64>()), (moments.len(), 100_000));
    assert!(moments.len() <= MOST_MOMENTS && found.kept.len() == moments.len());
    assert!((found.kept.iter().sum::<f64>() - 10_000.0).abs() < 1e-6);
    assert_eq!((slices.count, slices.open_ns, slices.span_ns), (1_000, 100_000, 999_000));
    assert!((found.at_risk.iter().sum::<f64>() - 10.0 * 999.0 * 500.0).abs() < 1.0);
}
