//! The run queue: how long threads wait for a CPU, how long they keep it, and how they lose it, by process and by CPU.
//!
//! In: histograms that the kernel side keeps ([`crate::bpf::TurnMaps`]). Out: a [`SchedReport`]. [`session`] runs a recording.

pub mod session;

use std::collections::BTreeMap;
use std::sync::Arc;

use profiler_common::histogram::bounds;
use profiler_common::sched::TurnSum;

use crate::profile::{Meta, Quality};
use crate::syscalls::Times;

pub use session::SchedSession;

/// Times of one kind, with their histogram.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Distribution {
    /// How many.
    pub count: u64,
    /// Their sum, nanoseconds.
    pub total_ns: u64,
    /// Their mean, nanoseconds.
    pub mean_ns: u64,
    /// The time that half of them took at most, nanoseconds.
    pub p50_ns: u64,
    /// The time that 95 of 100 took at most, nanoseconds.
    pub p95_ns: u64,
    /// The time that 99 of 100 took at most, nanoseconds.
    pub p99_ns: u64,
    /// The longest, nanoseconds; where it is not known, the end of the last bucket.
    pub max_ns: u64,
    /// Smallest and largest time of a bucket, nanoseconds, and how many are in it. Empty buckets are left out.
    pub histogram: Vec<(u64, u64, u64)>,
}

impl Distribution {
    /// From counts by bucket number.
    fn new(buckets: &BTreeMap<u16, u64>, total_ns: u64, longest_ns: Option<u64>) -> Self {
        let count = buckets.values().sum::<u64>();
        let whole = buckets.iter().map(|(bucket, count)| (*bucket, *count as f64)).collect();
        let times = Times { whole, cut: BTreeMap::new() };
        let last = buckets.keys().next_back().map_or(0, |bucket| bounds(*bucket).1);
        let max_ns = longest_ns.unwrap_or(last);
        // The middle of a bucket may lie above the longest that is in it.
        let percentiles = times.percentiles([0.5, 0.95, 0.99]).map(|percentile| percentile.ns().min(max_ns));
        let [p50_ns, p95_ns, p99_ns] = if count == 0 { [0; 3] } else { percentiles };
        let histogram = buckets.iter().map(|(bucket, count)| {
            let (first, last) = bounds(*bucket);
            (first, last, *count)
        });
        Self {
            count,
            total_ns,
            mean_ns: total_ns / count.max(1),
            p50_ns,
            p95_ns,
            p99_ns,
            max_ns,
            histogram: histogram.collect(),
        }
    }
}

/// The turns of one process or CPU.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Turns {
    /// Times that a thread left its CPU.
    pub switches: u64,
    /// Of these, those of threads that could have gone on.
    pub preempted: u64,
    /// Waits in the run queue.
    pub run_queue: Distribution,
    /// Turns on a CPU.
    pub on_cpu: Distribution,
}

impl Turns {
    /// From the kernel's sums and its histograms, run queue first.
    fn new(sum: &TurnSum, [queued, ran]: &[BTreeMap<u16, u64>; 2]) -> Self {
        Self {
            switches: sum.switches,
            preempted: sum.preempted,
            run_queue: Distribution::new(queued, sum.queued_ns, Some(sum.longest_ns)),
            on_cpu: Distribution::new(ran, sum.ran_ns, None),
        }
    }
}

/// A process with its turns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessTurns {
    /// Process ID.
    pub pid: u32,
    /// Its name.
    pub name: Arc<str>,
    /// Its turns, all threads and CPUs together.
    pub turns: Turns,
}

/// A CPU with its turns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CpuReport {
    /// Its number.
    pub cpu: u32,
    /// Turns of threads in scope on it.
    pub turns: Turns,
}

/// A finished recording.
#[derive(Debug, Clone, PartialEq)]
pub struct SchedReport {
    /// What was recorded.
    pub meta: Meta,
    /// All together.
    pub all: Turns,
    /// By process, most time in the run queue first.
    pub processes: Vec<ProcessTurns>,
    /// By CPU.
    pub cpus: Vec<CpuReport>,
    /// How far the numbers can be trusted.
    pub quality: Quality,
}

#[cfg(test)]
mod tests {
    use super::*;
    use profiler_common::histogram::bucket_of;

    #[test]
    fn percentiles_stay_below_the_longest() {
        let buckets: BTreeMap<u16, u64> =
            [(bucket_of(1_000), 98), (bucket_of(100_000), 2)].into_iter().collect();
        let times = Distribution::new(&buckets, 298_000, Some(100_000));
        assert_eq!((times.count, times.mean_ns, times.max_ns), (100, 2_980, 100_000));
        assert!((950..=1_060).contains(&times.p50_ns) && times.p50_ns == times.p95_ns);
        assert!((94_000..=100_000).contains(&times.p99_ns), "{}", times.p99_ns);
        assert_eq!(times.histogram.iter().map(|(_, _, count)| count).sum::<u64>(), 100);
        assert_eq!(Distribution::new(&BTreeMap::new(), 0, Some(0)), Distribution::default());
    }
}
