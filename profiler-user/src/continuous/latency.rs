//! How long system calls took since the recorder began: a coarse histogram for each of the most frequent calls, and one for the others.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::live::make_room;
use crate::syscalls::CallReport;

/// Calls with a histogram of their own. Of those that were not made in a window, the one that was made longest ago gives way.
pub const MOST_CALLS: usize = 20;
/// Upper ends of the buckets, nanoseconds: powers of four from a microsecond to seventeen seconds. Powers of two, so that no bucket that is stored lies across one.
pub const BOUNDS_NS: [u64; 13] = bounds();

const fn bounds() -> [u64; 13] {
    let mut all = [0; 13];
    let mut at = 0;
    while at < all.len() {
        all[at] = 1 << (10 + 2 * at);
        at += 1;
    }
    all
}

/// Times of one call.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Latency {
    /// Calls in each of the buckets; the last one has those above all bounds.
    pub buckets: [u64; BOUNDS_NS.len() + 1],
    /// Time in them, nanoseconds.
    pub total_ns: u64,
}

impl Latency {
    /// Calls.
    pub fn count(&self) -> u64 {
        self.buckets.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    fn add(&mut self, other: &Self) {
        for (sum, count) in self.buckets.iter_mut().zip(other.buckets) {
            *sum = sum.saturating_add(count);
        }
        self.total_ns = self.total_ns.saturating_add(other.total_ns);
    }
}

/// Times of all calls since the recorder began.
#[derive(Debug, Clone, Default)]
pub struct Latencies {
    /// By call: times since it has a histogram of its own, and the window in which it was last made.
    pub by_call: BTreeMap<Arc<str>, (Latency, u64)>,
    /// Those of others. Never falls.
    pub other: Latency,
    windows: u64,
}

impl Latencies {
    /// Adds a window.
    pub(super) fn add(&mut self, report: &CallReport) {
        self.windows += 1;
        let mut window: BTreeMap<&str, Latency> = BTreeMap::new();
        for call in report.owners.iter().flat_map(|owner| &owner.calls) {
            let times = window.entry(&call.name).or_default();
            times.total_ns = times.total_ns.saturating_add(call.total_ns);
            for (_, last, count) in &call.histogram {
                let bucket = BOUNDS_NS.partition_point(|bound| bound < last);
                times.buckets[bucket] = times.buckets[bucket].saturating_add(*count);
            }
        }
        let mut window: Vec<(&str, Latency)> =
            window.into_iter().filter(|(_, times)| times.count() > 0).collect();
        window.sort_by_key(|(_, times)| std::cmp::Reverse(times.count()));
        for (name, times) in window {
            if let Some((sum, last)) = self.by_call.get_mut(name) {
                sum.add(&times);
                *last = self.windows;
            } else if make_room(&mut self.by_call, MOST_CALLS, self.windows) {
                self.by_call.insert(Arc::from(name), (times, self.windows));
            } else {
                self.other.add(&times);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::{Meta, Quality};
    use crate::syscalls::{CallStats, Measure, OwnerCalls};

    type Times = Vec<(u64, u64, u64)>;

    fn report(calls: Vec<(String, Times)>) -> CallReport {
        let calls = calls.into_iter().map(|(name, histogram)| {
            let total_ns = histogram.iter().map(|(first, _, count)| first * count).sum();
            CallStats { name, total_ns, histogram, ..CallStats::default() }
        });
        CallReport {
            meta: Meta::default(),
            measure: Measure::Windows,
            owners: vec![OwnerCalls {
                pid: Some(7),
                tid: None,
                name: Arc::from("x"),
                calls: calls.collect(),
            }],
            in_flight: Vec::new(),
            slow: Vec::new(),
            slow_total: 0,
            flame: None,
            slowdown_percent: 0.0,
            quality: Quality::default(),
        }
    }

    #[test]
    fn calls_are_in_the_bucket_that_ends_at_or_above_them() {
        let mut all = Latencies::default();
        let times = vec![(896, 1_023, 5), (1_024, 1_279, 7), (1 << 34, 1 << 35, 1)];
        for _ in 0..2 {
            all.add(&report(vec![("read".to_owned(), times.clone())]));
        }
        let read = &all.by_call["read"].0;
        assert_eq!((read.buckets[0], read.buckets[1], read.buckets[13], read.count()), (10, 14, 2, 26));
        assert_eq!(read.total_ns, 2 * (896 * 5 + 1_024 * 7 + (1 << 34)));
    }

    #[test]
    fn there_are_few_histograms_and_none_falls() {
        let mut all = Latencies::default();
        let (mut others, mut made) = (0, 0);
        for window in 0..100_u64 {
            let names = (0..30).map(|offset| format!("call{}", window * 3 + offset));
            let calls = names.map(|name| (name, vec![(1_000, 1_023, 2)])).collect();
            let before = all.by_call.clone();
            all.add(&report(calls));
            made += 60;
            assert!(all.by_call.len() <= MOST_CALLS && all.other.count() >= others);
            for (name, (times, _)) in &all.by_call {
                assert!(before.get(name).is_none_or(|(before, _)| times.count() >= before.count()));
            }
            others = all.other.count();
        }
        assert!(others > 0 && others < made);
    }
}
