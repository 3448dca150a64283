//! Adding up what the kernel side counted: calls by owner and number, whole or scaled from slices.

use std::collections::{BTreeMap, HashMap, HashSet};

use profiler_common::histogram::bounds;
use profiler_common::syscall::{CELL_ERRNO, CELL_LATE_ERRNO, CELL_LATE_TIME, CELL_TIME, SyscallKey};

use super::estimate::{Percentile, Spread, Times};
use super::model::CallStats;
use super::names::Names;
use crate::bpf::CallCounts;

/// Calls kept apart. Past it, calls of new owners are counted as one loss each.
const MAX_ROWS: usize = 200_000;

/// Whose calls, and which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct RowKey {
    pub(super) owner: u64,
    pub(super) number: u32,
    pub(super) abi: u16,
}

impl From<SyscallKey> for RowKey {
    fn from(key: SyscallKey) -> Self {
        Self { owner: key.owner, number: key.number, abi: key.abi }
    }
}

/// One call of one owner, added up over CPUs and slices.
#[derive(Debug, Clone, Default)]
struct Row {
    /// Calls measured one by one, exactly.
    exact: u64,
    /// Calls in slices.
    sliced: Spread,
    total_ns: f64,
    max_ns: u64,
    unreturned: f64,
    repeated: f64,
    errnos: BTreeMap<u16, f64>,
    times: Times,
}

/// What a reading stands for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Weight {
    /// Itself: every call was measured since the recording began.
    Exact,
    /// A window of time of which one slice was measured: its length as a multiple of the slice's.
    #[expect(dead_code, reason = "for recordings in slices of time")]
    Slice(f64),
}

/// All calls so far.
#[derive(Debug, Clone, Default)]
pub(super) struct Tally {
    rows: HashMap<RowKey, Row>,
    /// Calls that began before the recording and returned in it.
    began_before: u64,
    overflowed: u64,
}

impl Tally {
    /// Adds what was read from the tables.
    pub(super) fn add(&mut self, counts: &CallCounts, weight: Weight) {
        let factor = match weight {
            Weight::Exact => 1.0,
            Weight::Slice(factor) => factor,
        };
        let mut in_slice: HashMap<RowKey, f64> = HashMap::new();
        for (key, sums) in &counts.sums {
            let Some(row) = self.row((*key).into()) else { continue };
            row.total_ns += sums.total_ns as f64 * factor;
            row.max_ns = row.max_ns.max(sums.max_ns);
            row.unreturned += sums.ended as f64 * factor;
            row.repeated += sums.repeated as f64 * factor;
            match weight {
                Weight::Exact => {
                    row.exact += sums.measured + sums.ended;
                    self.began_before += sums.late;
                }
                Weight::Slice(_) => {
                    row.total_ns += sums.late_ns as f64 * factor;
                    let calls = sums.measured + sums.late + sums.ended;
                    *in_slice.entry((*key).into()).or_default() += calls as f64 * factor;
                }
            }
        }
        for (key, calls) in in_slice {
            if let Some(row) = self.row(key) {
                row.sliced.add(calls);
            }
        }
        for (key, count) in &counts.cells {
            let late = matches!(key.kind, CELL_LATE_ERRNO | CELL_LATE_TIME);
            if late && weight == Weight::Exact {
                continue;
            }
            let Some(row) = self.row(key.call.into()) else { continue };
            let cell = match key.kind {
                CELL_ERRNO | CELL_LATE_ERRNO => row.errnos.entry(key.index).or_default(),
                CELL_TIME => row.times.whole.entry(key.index).or_default(),
                CELL_LATE_TIME => row.times.cut.entry(key.index).or_default(),
                _ => continue,
            };
            *cell += *count as f64 * factor;
        }
    }

    /// Adds time of calls that were going on during a slice and did not end in it, nanoseconds of the window.
    #[expect(dead_code, reason = "as above")]
    pub(super) fn add_open_time(&mut self, key: RowKey, ns: f64) {
        if let Some(row) = self.row(key) {
            row.total_ns += ns;
        }
    }

    /// What has come since an earlier state of the same tally.
    pub(super) fn since(&self, earlier: &Self) -> Self {
        let rows = self.rows.iter().filter_map(|(key, row)| {
            let new = earlier.rows.get(key).map_or_else(|| row.clone(), |before| row.since(before));
            (!new.is_empty()).then_some((*key, new))
        });
        Self {
            rows: rows.collect(),
            began_before: self.began_before - earlier.began_before,
            overflowed: self.overflowed - earlier.overflowed,
        }
    }

    fn row(&mut self, key: RowKey) -> Option<&mut Row> {
        if self.rows.len() >= MAX_ROWS && !self.rows.contains_key(&key) {
            self.overflowed += 1;
            return None;
        }
        Some(self.rows.entry(key).or_default())
    }

    /// The owners of all calls.
    pub(super) fn owners(&self) -> HashSet<u64> {
        self.rows.keys().map(|key| key.owner).collect()
    }

    /// Calls that returned so far, as far as they were measured from their beginning on.
    pub(super) fn calls(&self) -> u64 {
        self.rows.values().map(|row| row.exact + row.sliced.total() as u64).sum()
    }

    /// Calls that began before the recording and returned in it.
    pub(super) fn began_before(&self) -> u64 {
        self.began_before
    }

    /// Counts that found no room.
    pub(super) fn overflowed(&self) -> u64 {
        self.overflowed
    }

    /// The calls by owner. `slices` and `share` say how many slices were taken, and which share of their time.
    pub(super) fn stats(
        &self,
        names: &Names,
        slices: u64,
        share: f64,
    ) -> HashMap<u64, Vec<(RowKey, CallStats)>> {
        let mut owners: HashMap<u64, Vec<(RowKey, CallStats)>> = HashMap::new();
        for (key, row) in &self.rows {
            let name = names.call(key.number, key.abi).into_owned();
            let stats = row.stats(name, names, slices, share);
            owners.entry(key.owner).or_default().push((*key, stats));
        }
        owners
    }
}

/// Takes the counts of `before` away.
fn subtract(from: &BTreeMap<u16, f64>, before: &BTreeMap<u16, f64>) -> BTreeMap<u16, f64> {
    let left = from.iter().map(|(key, count)| (*key, count - before.get(key).copied().unwrap_or(0.0)));
    left.filter(|(_, count)| *count > 0.0).collect()
}

impl Row {
    fn is_empty(&self) -> bool {
        self.exact == 0 && self.sliced.total() <= 0.0
    }

    fn since(&self, before: &Self) -> Self {
        let whole = subtract(&self.times.whole, &before.times.whole);
        // The longest call may have been an earlier one; then the end of the last bucket in use says how long they were at most.
        let longest = whole.keys().next_back().map_or(0, |bucket| bounds(*bucket).1);
        Self {
            exact: self.exact - before.exact,
            sliced: self.sliced.since(before.sliced),
            total_ns: self.total_ns - before.total_ns,
            max_ns: self.max_ns.min(longest),
            unreturned: self.unreturned - before.unreturned,
            repeated: self.repeated - before.repeated,
            errnos: subtract(&self.errnos, &before.errnos),
            times: Times { whole, cut: subtract(&self.times.cut, &before.times.cut) },
        }
    }

    fn stats(&self, name: String, names: &Names, slices: u64, share: f64) -> CallStats {
        let count = self.exact + self.sliced.total().round() as u64;
        let mut errnos: Vec<(String, u64)> = self
            .errnos
            .iter()
            .map(|(errno, count)| (names.error(*errno).into_owned(), count.round() as u64))
            .collect();
        errnos.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        let timed: f64 = self.times.whole.values().sum();
        let percentiles = self.times.percentiles([0.5, 0.95, 0.99]);
        let uncertain = percentiles.iter().position(|found| matches!(found, Percentile::Above(_)));
        let at_most = |found: Percentile| match found {
            // A bucket's middle may be past the longest of its calls.
            Percentile::At(ns) => ns.min(self.max_ns),
            Percentile::Above(ns) => ns,
        };
        let sliced = self.sliced.total() > 0.0;
        let error = if sliced { self.sliced.error(slices, share).round() as u64 } else { 0 };
        let divisor = if sliced { self.exact as f64 + self.sliced.total() } else { timed };
        CallStats {
            name,
            count,
            count_error: error,
            errnos,
            total_ns: self.total_ns.round() as u64,
            mean_ns: if divisor > 0.0 { (self.total_ns / divisor).round() as u64 } else { 0 },
            p50_ns: at_most(percentiles[0]),
            p95_ns: at_most(percentiles[1]),
            p99_ns: at_most(percentiles[2]),
            at_least_from: (timed > 0.0 || !self.times.cut.is_empty())
                .then_some(uncertain.and_then(|index| [50, 95, 99].get(index).copied()))
                .flatten(),
            max_ns: self.max_ns,
            in_flight: 0,
            unreturned: self.unreturned.round() as u64,
            restarted: self.repeated.round() as u64,
            histogram: self.histogram(),
        }
    }

    fn histogram(&self) -> Vec<(u64, u64, u64)> {
        let bucket = |(bucket, weight): (&u16, &f64)| {
            let (first, last) = bounds(*bucket);
            (first, last, weight.round() as u64)
        };
        self.times.whole.iter().map(bucket).collect()
    }
}
