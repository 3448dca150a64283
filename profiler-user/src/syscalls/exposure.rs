//! How much of the slices programs had for themselves.
//!
//! A call that is measured takes longer, so a busy thread makes fewer of them while a slice lasts. That is put right: a thread that
//! made `n` calls, each longer by `c`, was watched for the length of the slices less `n × c` of its own time. Where threads
//! compete for a CPU they wait longer too: by the same part of their waiting as of their running, if the others are like them.
//! Sums over all slices are compared, because within one slice a thread may happen to run all the time or not at all.

use std::collections::HashMap;

use profiler_common::syscall::ThreadCalls;

/// Threads kept apart; the calls of others count as made by threads that lost nothing.
const MAX_THREADS: usize = 16_384;

/// Threads that are asked in each slice how long they wait for a CPU. Each costs some microseconds.
const ASKED: usize = 32;

/// Longest waiting that is believed, as a multiple of running.
const MOST_WAITING: f64 = 4.0;

/// The least that is left to a thread: what a call costs is an estimate.
const LEAST_LEFT: f64 = 0.1;

/// By what a count has to be multiplied.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Correction {
    /// To make up for the calls that programs could not make meanwhile.
    pub(super) factor: f64,
    /// How wrong that may be: what waiting adds, and what follows from a call's cost that is wrong by a tenth.
    pub(super) error: f64,
}

impl Correction {
    /// Nothing was lost.
    pub(super) const NONE: Self = Self { factor: 1.0, error: 0.0 };
}

#[derive(Debug, Default, Clone, Copy)]
struct Thread {
    owner: u64,
    calls: f64,
    /// Running and waiting at the first look and at the last one, nanoseconds.
    first: Option<(u64, u64)>,
    last: (u64, u64),
}

/// Sums over all slices.
#[derive(Debug, Default)]
pub(super) struct Exposure {
    threads: HashMap<u32, Thread>,
    measured_ns: f64,
}

impl Exposure {
    /// Adds what the threads did in a slice of this length that began at `since_ns`.
    pub(super) fn add(&mut self, threads: &[ThreadCalls], since_ns: u64, slice_ns: u64) {
        self.measured_ns += slice_ns as f64;
        let mut active: Vec<&ThreadCalls> =
            threads.iter().filter(|thread| thread.left_ns >= since_ns).collect();
        active.sort_by_key(|thread| std::cmp::Reverse(thread.calls));
        for (index, found) in active.into_iter().enumerate() {
            if self.threads.len() >= MAX_THREADS && !self.threads.contains_key(&found.tid) {
                continue;
            }
            let thread = self.threads.entry(found.tid).or_default();
            thread.owner = found.owner;
            thread.calls += found.calls as f64;
            if index < ASKED
                && let Some(now) = schedule(found.pid, found.tid)
            {
                thread.first.get_or_insert(now);
                thread.last = now;
            }
        }
    }

    /// What the counts of each owner have to be multiplied by, when a call takes `call_ns` longer. `owner` says under which one the calls of
    /// another are counted.
    pub(super) fn corrections(&self, call_ns: f64, owner: impl Fn(u64) -> u64) -> HashMap<u64, Correction> {
        let mut sums: HashMap<u64, [f64; 4]> = HashMap::new();
        for thread in self.threads.values().filter(|thread| thread.calls > 0.0) {
            let lost = |waits: f64, ns: f64| thread.calls * ns * (1.0 + waits) / self.measured_ns.max(1.0);
            let factor = |waits: f64, ns: f64| 1.0 / (1.0 - lost(waits, ns)).max(LEAST_LEFT);
            let waits = thread.waits();
            let sum = sums.entry(owner(thread.owner)).or_default();
            let whole = factor(waits, call_ns);
            for (sum, value) in
                sum.iter_mut().zip([1.0, whole, factor(0.0, call_ns), factor(waits, call_ns * 1.1)])
            {
                *sum += value * thread.calls;
            }
        }
        let correction = |[calls, whole, alone, dearer]: [f64; 4]| Correction {
            factor: whole / calls,
            error: ((whole - alone) + (dearer - whole)) / calls,
        };
        sums.into_iter().map(|(owner, sums)| (owner, correction(sums))).collect()
    }
}

impl Thread {
    /// How long it waited for a CPU, as a multiple of the time that it ran.
    fn waits(&self) -> f64 {
        let Some(first) = self.first else { return 0.0 };
        let (ran, waited) = (self.last.0.saturating_sub(first.0), self.last.1.saturating_sub(first.1));
        if ran == 0 { 0.0 } else { (waited as f64 / ran as f64).min(MOST_WAITING) }
    }
}

/// How long a thread ran and how long it waited for a CPU so far, nanoseconds (Documentation/scheduler/sched-stats.rst).
fn schedule(pid: u32, tid: u32) -> Option<(u64, u64)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/schedstat")).ok()?;
    let mut words = text.split_whitespace().map(str::parse);
    Some((words.next()?.ok()?, words.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn factor(threads: &[(u64, f64, (u64, u64))], owner: u64) -> f64 {
        let thread = |&(owner, calls, last): &(u64, f64, (u64, u64))| Thread {
            owner,
            calls,
            first: Some((0, 0)),
            last,
        };
        let threads = threads.iter().map(thread).enumerate().map(|(tid, thread)| (tid as u32, thread));
        let exposure = Exposure { threads: threads.collect(), measured_ns: 1_000_000.0 };
        exposure.corrections(100.0, |owner| owner).get(&owner).map_or(1.0, |correction| correction.factor)
    }

    #[test]
    fn what_measuring_takes_from_threads_is_put_right() {
        // One thread lost half of its time to its calls, the other nothing; they share an owner, and the first made nearly all calls.
        assert!((factor(&[(1, 5_000.0, (0, 0)), (1, 1.0, (0, 0))], 1) - 2.0).abs() < 0.01);
        assert!(
            (factor(&[(1, 5_000.0, (0, 0))], 2) - 1.0).abs() < f64::EPSILON,
            "who made no calls lost nothing"
        );
        // Two threads that take turns on one CPU: each loses what the other does.
        assert!((factor(&[(1, 2_500.0, (500, 500)), (1, 2_500.0, (500, 500))], 1) - 2.0).abs() < 0.01);
        assert!((factor(&[(1, 1e9, (0, 0))], 1) - 1.0 / LEAST_LEFT).abs() < 1e-9);
    }

    #[test]
    fn threads_of_this_process_run_and_wait() {
        // SAFETY: no preconditions.
        let tid = unsafe { libc::gettid() } as u32;
        assert!(schedule(std::process::id(), tid).is_some());
        assert_eq!(schedule(u32::MAX, u32::MAX), None);
    }
}
