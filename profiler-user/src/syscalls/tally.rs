//! Adding up what the kernel side counted: calls by owner and number, whole or scaled from slices.

use std::collections::{BTreeMap, HashMap, HashSet};

use profiler_common::histogram::bounds;
use profiler_common::syscall::{
    CELL_ENDED, CELL_ERRNO, CELL_LATE_ERRNO, CELL_LATE_TIME, CELL_REPEATED, CELL_TIME, Cell, CellKey,
    SyscallKey,
};

use super::estimate::{Percentile, Spread, Times};
use super::exposure::Correction;
use super::model::CallStats;
use super::names::Names;

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

/// Sums of one call of one owner.
#[derive(Debug, Clone, Default)]
struct Part {
    count: f64,
    total_ns: f64,
    unreturned: f64,
    repeated: f64,
    errnos: BTreeMap<u16, f64>,
    times: Times,
}

/// One call of one owner, added up over CPUs and slices.
#[derive(Debug, Clone, Default)]
struct Row {
    /// While every call was measured.
    exact: Part,
    /// In slices, scaled to their windows.
    sliced: Part,
    /// How much the slices differ.
    spread: Spread,
    max_ns: u64,
}

/// What a reading stands for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Weight {
    /// Itself: every call was measured since the recording began.
    Exact,
    /// A window of time of which one slice was measured: its length as a multiple of the slice's.
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
    pub(super) fn add(&mut self, counts: &[(CellKey, Cell)], weight: Weight) {
        let factor = match weight {
            Weight::Exact => 1.0,
            Weight::Slice(factor) => factor,
        };
        let mut in_slice: HashMap<RowKey, f64> = HashMap::new();
        for (key, cell) in counts {
            let late = matches!(key.kind, CELL_LATE_TIME | CELL_LATE_ERRNO);
            if late && weight == Weight::Exact {
                self.began_before += if key.kind == CELL_LATE_TIME { cell.count } else { 0 };
                continue;
            }
            let Some(row) = self.row(key.call.into()) else { continue };
            row.max_ns = row.max_ns.max(cell.max_ns);
            let part = if weight == Weight::Exact { &mut row.exact } else { &mut row.sliced };
            let count = cell.count as f64 * factor;
            match key.kind {
                CELL_TIME => *part.times.whole.entry(key.index).or_default() += count,
                CELL_LATE_TIME => *part.times.cut.entry(key.index).or_default() += count,
                CELL_ERRNO | CELL_LATE_ERRNO => *part.errnos.entry(key.index).or_default() += count,
                CELL_ENDED => part.unreturned += count,
                CELL_REPEATED => part.repeated += count,
                _ => {}
            }
            if matches!(key.kind, CELL_TIME | CELL_LATE_TIME | CELL_ENDED) {
                part.count += count;
                part.total_ns += cell.total_ns as f64 * factor;
                *in_slice.entry(key.call.into()).or_default() += count;
            }
        }
        if weight == Weight::Exact {
            return;
        }
        for (key, calls) in in_slice {
            if let Some(row) = self.row(key) {
                row.spread.add(calls);
            }
        }
    }

    /// Adds time of calls that were going on during a slice and did not end in it, nanoseconds of the window.
    pub(super) fn add_open_time(&mut self, key: RowKey, ns: f64) {
        if let Some(row) = self.row(key) {
            row.sliced.total_ns += ns;
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
        self.rows.values().map(|row| (row.exact.count + row.sliced.count) as u64).sum()
    }

    /// Calls that took at least this long, as far as the histograms tell.
    pub(super) fn at_least(&self, ns: u64) -> u64 {
        let parts = self.rows.values().flat_map(|row| [&row.exact, &row.sliced]);
        let long = parts.flat_map(|part| &part.times.whole).filter(|(bucket, _)| bounds(**bucket).1 >= ns);
        long.map(|(_, count)| count).sum::<f64>().round() as u64
    }

    /// Calls that began before the recording and returned in it.
    pub(super) fn began_before(&self) -> u64 {
        self.began_before
    }

    /// Counts that found no room.
    pub(super) fn overflowed(&self) -> u64 {
        self.overflowed
    }

    /// The calls by owner. `slices` and `share` say how many slices were taken, and which share of their time; `corrections` by owner
    /// what their counts lack.
    pub(super) fn stats(
        &self,
        names: &Names,
        slices: u64,
        share: f64,
        corrections: &HashMap<u64, Correction>,
    ) -> HashMap<u64, Vec<(RowKey, CallStats)>> {
        let mut owners: HashMap<u64, Vec<(RowKey, CallStats)>> = HashMap::new();
        for (key, row) in &self.rows {
            let name = names.call(key.number, key.abi).into_owned();
            let correction = corrections.get(&key.owner).copied().unwrap_or(Correction::NONE);
            let stats = row.stats(name, names, (slices, share), correction);
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

impl Part {
    fn since(&self, before: &Self) -> Self {
        Self {
            count: self.count - before.count,
            total_ns: self.total_ns - before.total_ns,
            unreturned: self.unreturned - before.unreturned,
            repeated: self.repeated - before.repeated,
            errnos: subtract(&self.errnos, &before.errnos),
            times: Times {
                whole: subtract(&self.times.whole, &before.times.whole),
                cut: subtract(&self.times.cut, &before.times.cut),
            },
        }
    }

    /// Adds another part, multiplied.
    fn add(&mut self, other: &Self, factor: f64) {
        self.count += other.count * factor;
        self.total_ns += other.total_ns * factor;
        self.unreturned += other.unreturned * factor;
        self.repeated += other.repeated * factor;
        let pairs = [
            (&mut self.errnos, &other.errnos),
            (&mut self.times.whole, &other.times.whole),
            (&mut self.times.cut, &other.times.cut),
        ];
        for (to, from) in pairs {
            for (key, count) in from {
                *to.entry(*key).or_default() += count * factor;
            }
        }
    }
}

impl Row {
    fn is_empty(&self) -> bool {
        self.exact.count <= 0.0 && self.sliced.count <= 0.0
    }

    fn since(&self, before: &Self) -> Self {
        let (exact, sliced) = (self.exact.since(&before.exact), self.sliced.since(&before.sliced));
        // The longest call may have been an earlier one; then the end of the last bucket in use says how long they were at most.
        let last = exact.times.whole.keys().chain(sliced.times.whole.keys()).max();
        let longest = last.map_or(0, |bucket| bounds(*bucket).1);
        Self { exact, sliced, spread: self.spread.since(before.spread), max_ns: self.max_ns.min(longest) }
    }

    fn stats(&self, name: String, names: &Names, slices: (u64, f64), correction: Correction) -> CallStats {
        let mut all = self.exact.clone();
        all.add(&self.sliced, correction.factor);
        let whole = |count: f64| count.round() as u64;
        let errnos =
            all.errnos.iter().map(|(errno, count)| (names.error(*errno).into_owned(), whole(*count)));
        let mut errnos: Vec<(String, u64)> = errnos.collect();
        errnos.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        let error = if self.sliced.count > 0.0 {
            self.spread.error(slices.0, slices.1) * correction.factor + self.sliced.count * correction.error
        } else {
            0.0
        };
        let percentiles = all.times.percentiles([0.5, 0.95, 0.99]);
        let uncertain = percentiles.iter().position(|found| matches!(found, Percentile::Above(_)));
        let at_most = |found: Percentile| match found {
            // A bucket's middle may be past the longest of its calls.
            Percentile::At(ns) => ns.min(self.max_ns),
            Percentile::Above(ns) => ns,
        };
        // Those that ended with their thread have no time.
        let timed = all.count - all.unreturned;
        CallStats {
            name,
            count: whole(all.count),
            count_error: whole(error),
            errnos,
            total_ns: whole(all.total_ns),
            mean_ns: if timed > 0.0 { whole(all.total_ns / timed) } else { 0 },
            p50_ns: at_most(percentiles[0]),
            p95_ns: at_most(percentiles[1]),
            p99_ns: at_most(percentiles[2]),
            at_least_from: uncertain
                .filter(|_| timed > 0.0)
                .and_then(|index| [50, 95, 99].get(index).copied()),
            max_ns: self.max_ns,
            in_flight: 0,
            unreturned: whole(all.unreturned),
            restarted: whole(all.repeated),
            histogram: histogram(&all.times),
        }
    }
}

fn histogram(times: &Times) -> Vec<(u64, u64, u64)> {
    let bucket = |(bucket, weight): (&u16, &f64)| {
        let (first, last) = bounds(*bucket);
        (first, last, weight.round() as u64)
    };
    times.whole.iter().map(bucket).collect()
}
