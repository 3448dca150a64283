//! Recordings of system calls in the form of a profile, in which they are stored, merged and asked for: below the call its histogram and its errors.

use std::collections::BTreeMap;
use std::sync::Arc;

use profiler_common::histogram::{BUCKETS, bounds, middle};

use super::estimate::Times;
use super::model::{CallReport, CallStats, Measure, OwnerCalls};
use crate::output::duration;
use crate::profile::{
    Frame, FrameKind, Labels, Location, LocationId, Profile, ProfileBuilder, Sample, ValueType,
};

/// Kind and unit of the values.
const VALUES: [(&str, &str); 4] = [
    ("calls", "count"),
    ("errors", "count"),
    ("calls_error_squared", "count_squared"),
    ("syscall_time", "nanoseconds"),
];
const CALLS: usize = 0;
const ERRORS: usize = 1;
const SQUARE: usize = 2;
const TIME: usize = 3;

/// Buckets of a recording that share one here: a quarter of a power of two, so that percentiles are within a ninth.
const COARSER: u16 = 4;
/// What stands for calls that ended with their thread and have no time.
const UNRETURNED: &str = "[never returned]";
/// What has the square of half of the interval around the number of calls, where they were measured in slices: squares add up over windows.
const UNCERTAIN: &str = "[between slices]";

impl CallReport {
    /// As a profile: a sample for each bucket of times and each error of each call of a process. `cgroup` says where a process belongs.
    pub(crate) fn to_profile(&self, cgroup: impl Fn(u32) -> Option<Arc<str>>) -> Profile {
        let value_types = VALUES.map(|(kind, unit)| ValueType::new(kind, unit));
        let mut builder = ProfileBuilder::new(value_types.to_vec());
        for owner in &self.owners {
            let Some(pid) = owner.pid else { continue };
            let labels = Labels {
                pid,
                tid: pid,
                process: Arc::clone(&owner.name),
                thread: Arc::clone(&owner.name),
                cgroup: cgroup(pid),
                cpu: None,
            };
            let labels = builder.labels(labels);
            for call in &owner.calls {
                let root = location(&mut builder, &call.name, FrameKind::Kernel, 0);
                let mut add = |name: &str, bucket: u16, values: [u64; 4]| {
                    let leaf = location(&mut builder, name, FrameKind::Marker, u64::from(bucket));
                    let stack = builder.stack(vec![leaf, root]);
                    builder.add(stack, labels, &values);
                };
                for (errno, count) in &call.errnos {
                    add(&format!("[{errno}]"), 0, [0, *count, 0, 0]);
                }
                if call.unreturned > 0 {
                    add(UNRETURNED, 0, [call.unreturned, 0, 0, 0]);
                }
                if call.count_error > 0 {
                    add(UNCERTAIN, 0, [0, 0, call.count_error.saturating_mul(call.count_error), 0]);
                }
                for (bucket, count, ns) in buckets(call) {
                    let (first, last) = limits(bucket);
                    let name = format!("[{} to {}]", duration(first), duration(last));
                    add(&name, bucket, [count, 0, 0, ns]);
                }
            }
        }
        builder.finish(self.meta.clone(), self.quality.clone())
    }

    /// What a profile of calls says, read back.
    pub(crate) fn of_profile(profile: &Profile) -> Self {
        let mut owners: BTreeMap<(u32, Arc<str>), BTreeMap<Arc<str>, Sums>> = BTreeMap::new();
        for sample in &profile.samples {
            let labels = profile.labels_of(sample);
            let [leaf, root] = profile.stack(sample.stack) else { continue };
            let (leaf, root) = (profile.location(*leaf), profile.location(*root));
            let (Some(what), Some(call)) = (leaf.frames.first(), root.frames.first()) else { continue };
            let calls = owners.entry((labels.pid, Arc::clone(&labels.process))).or_default();
            calls.entry(Arc::clone(&call.function)).or_default().add(&what.function, leaf.address, sample);
        }
        let mut owners: Vec<OwnerCalls> = owners
            .into_iter()
            .map(|((pid, name), calls)| {
                let mut calls: Vec<CallStats> =
                    calls.into_iter().map(|(name, sums)| sums.stats(&name)).collect();
                calls.sort_by(|a, b| (b.total_ns, b.count, &a.name).cmp(&(a.total_ns, a.count, &b.name)));
                OwnerCalls { pid: Some(pid), tid: None, name, calls }
            })
            .collect();
        owners.sort_by_key(|owner| std::cmp::Reverse((owner.total_ns(), owner.count())));
        Self {
            meta: profile.meta.clone(),
            measure: Measure::Windows,
            owners,
            in_flight: Vec::new(),
            slow: Vec::new(),
            slow_total: 0,
            flame: None,
            slowdown_percent: 0.0,
            quality: profile.quality.clone(),
        }
    }
}

fn location(builder: &mut ProfileBuilder, name: &str, kind: FrameKind, address: u64) -> LocationId {
    let frame = Frame { function: builder.name(name), file: None, line: None, inlined: false };
    builder.location(Location { mapping: None, address, kind, frames: vec![frame] })
}

/// The times of a coarser bucket, named by its first one.
fn limits(bucket: u16) -> (u64, u64) {
    (bounds(bucket).0, bounds(bucket.saturating_add(COARSER - 1)).1)
}

/// Coarser buckets of a call, with their calls and their part of its time.
fn buckets(call: &CallStats) -> Vec<(u16, u64, u64)> {
    let mut counts: BTreeMap<u16, (u64, f64)> = BTreeMap::new();
    for (first, last, count) in &call.histogram {
        let bucket = profiler_common::histogram::bucket_of(*first);
        let sum = counts.entry(bucket - bucket % COARSER).or_default();
        sum.0 = sum.0.saturating_add(*count);
        sum.1 += (first + (last - first) / 2).max(1) as f64 * *count as f64;
    }
    let all: f64 = counts.values().map(|(_, ns)| ns).sum();
    let share = |ns: f64| if all > 0.0 { (call.total_ns as f64 * ns / all).round() as u64 } else { 0 };
    counts.into_iter().map(|(bucket, (count, ns))| (bucket, count, share(ns))).collect()
}

/// What the samples of one call add up to.
#[derive(Debug, Default)]
struct Sums {
    errnos: BTreeMap<String, u64>,
    whole: BTreeMap<u16, u64>,
    unreturned: u64,
    square: u64,
    total_ns: u64,
}

impl Sums {
    fn add(&mut self, what: &str, bucket: u64, sample: &Sample) {
        let value = |index: usize| sample.values.get(index).copied().unwrap_or_default();
        let add = |sum: &mut u64, more: u64| *sum = sum.saturating_add(more);
        if value(ERRORS) > 0 {
            let errno = what.trim_matches(['[', ']']).to_owned();
            add(self.errnos.entry(errno).or_default(), value(ERRORS));
        } else if what == UNCERTAIN {
            add(&mut self.square, value(SQUARE));
        } else if what == UNRETURNED {
            add(&mut self.unreturned, value(CALLS));
        } else {
            // Of a damaged file any number may come.
            let bucket = u16::try_from(bucket).unwrap_or(u16::MAX).min(BUCKETS - 1);
            add(self.whole.entry(bucket).or_default(), value(CALLS));
        }
        add(&mut self.total_ns, value(TIME));
    }

    fn stats(self, name: &str) -> CallStats {
        let timed = self.whole.values().fold(0_u64, |sum, count| sum.saturating_add(*count));
        let mean_of = |bucket: u16| middle(bucket.saturating_add(COARSER / 2).min(BUCKETS - 1));
        let whole = self.whole.iter().map(|(bucket, count)| (*bucket, *count as f64)).collect();
        let times = Times { whole, cut: BTreeMap::new() };
        let longest = self.whole.keys().next_back().map_or(0, |bucket| limits(*bucket).1);
        let percentiles = times.percentiles([0.5, 0.95, 0.99]).map(|found| {
            mean_of(profiler_common::histogram::bucket_of(found.ns()) / COARSER * COARSER).min(longest)
        });
        let mut errnos: Vec<(String, u64)> = self.errnos.into_iter().collect();
        errnos.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        let histogram = self.whole.iter().map(|(bucket, count)| {
            let (first, last) = limits(*bucket);
            (first, last, *count)
        });
        CallStats {
            name: name.to_owned(),
            count: timed.saturating_add(self.unreturned),
            count_error: (self.square as f64).sqrt().round() as u64,
            errnos,
            total_ns: self.total_ns,
            mean_ns: self.total_ns.checked_div(timed).unwrap_or_default(),
            p50_ns: percentiles[0],
            p95_ns: percentiles[1],
            p99_ns: percentiles[2],
            max_ns: longest,
            unreturned: self.unreturned,
            histogram: histogram.collect(),
            ..CallStats::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use profiler_common::histogram::bucket_of;

    use super::*;
    use crate::profile::{Meta, Quality};

    fn report(calls: Vec<CallStats>) -> CallReport {
        CallReport {
            meta: Meta { profile_type: "syscalls".to_owned(), ..Meta::default() },
            measure: Measure::Exact,
            owners: vec![OwnerCalls { pid: Some(7), tid: None, name: Arc::from("nginx"), calls }],
            in_flight: Vec::new(),
            slow: Vec::new(),
            slow_total: 0,
            flame: None,
            slowdown_percent: 0.0,
            quality: Quality::default(),
        }
    }

    fn histogram(times: &[(u64, u64)]) -> Vec<(u64, u64, u64)> {
        times.iter().map(|(ns, count)| (bounds(bucket_of(*ns)).0, bounds(bucket_of(*ns)).1, *count)).collect()
    }

    #[test]
    fn what_is_stored_is_read_back() {
        let read = CallStats {
            name: "read".to_owned(),
            count: 1_003,
            count_error: 77,
            errnos: vec![("EAGAIN".to_owned(), 40), ("EINTR".to_owned(), 2)],
            total_ns: 30_000_000,
            unreturned: 3,
            histogram: histogram(&[(1_000, 900), (250_000, 98), (5_000_000, 2)]),
            ..CallStats::default()
        };
        let profile =
            report(vec![read.clone()]).to_profile(|_| Some(Arc::from("/system.slice/nginx.service")));
        assert_eq!(profile.total(TIME), 30_000_000);
        let back = CallReport::of_profile(&profile);
        let call = &back.owners[0].calls[0];
        assert_eq!((back.owners[0].pid, &*back.owners[0].name, &*call.name), (Some(7), "nginx", "read"));
        assert_eq!((call.count, call.count_error, call.unreturned), (1_003, 77, 3));
        assert_eq!(call.errnos, read.errnos);
        assert_eq!((call.total_ns, call.mean_ns), (30_000_000, 30_000));
        let near = |found: u64, truth: u64| found.abs_diff(truth) * 8 <= truth;
        assert!(
            near(call.p50_ns, 1_000) && near(call.p95_ns, 250_000) && near(call.p99_ns, 250_000),
            "{call:?}"
        );
        assert!(call.max_ns >= 5_000_000 && call.max_ns < 6_500_000);
    }

    #[test]
    fn profiles_of_something_else_are_no_calls() {
        let back = CallReport::of_profile(&crate::output::fixture::hostile());
        assert!(back.owners.iter().all(|owner| owner.calls.iter().all(|call| call.max_ns < u64::MAX)));
    }
}
