//! What a recording of system calls came to: plain data, which every output reads.

use std::sync::Arc;

use crate::profile::{Meta, Profile, Quality};

/// How the calls were measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Measure {
    /// Every call.
    Exact,
    /// Every call for the first part of the recording, then calls in slices of time, scaled.
    Slices {
        /// Slices taken.
        slices: u64,
        /// Share of the sliced part that was measured, from 0 to 1.
        share: f64,
        /// Share of the recording in which every call was measured, from 0 to 1.
        exact_share: f64,
    },
    /// Windows of a recording that goes on, each as its quality notes say.
    Windows,
}

/// One system call of one owner.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct CallStats {
    /// Its name.
    pub name: String,
    /// Calls that ended while they were recorded; scaled when they were measured in slices.
    pub count: u64,
    /// Half the width of the interval in which the true count lies in 99 of 100 recordings; zero when every call was measured.
    pub count_error: u64,
    /// Of these, calls that failed, by the name of the error, most frequent first.
    pub errnos: Vec<(String, u64)>,
    /// Time in these calls, nanoseconds.
    pub total_ns: u64,
    /// Mean time, nanoseconds.
    pub mean_ns: u64,
    /// The time that half of the calls took at most, nanoseconds.
    pub p50_ns: u64,
    /// The time that 95 of 100 calls took at most, nanoseconds.
    pub p95_ns: u64,
    /// The time that 99 of 100 calls took at most, nanoseconds.
    pub p99_ns: u64,
    /// Percentiles that are only known to be at least that long, because the calls outlast a slice: 50, 95 or 99 and those above.
    pub at_least_from: Option<u8>,
    /// The longest call that was seen as a whole, nanoseconds.
    pub max_ns: u64,
    /// Calls that had not returned when the recording ended.
    pub in_flight: u64,
    /// Calls of `count` that never returned, because their thread ended.
    pub unreturned: u64,
    /// Times that a signal made one of the calls begin again, which is not counted as another call.
    pub restarted: u64,
    /// The histogram: smallest and largest time of a bucket, nanoseconds, and calls in it. Empty buckets are left out.
    pub histogram: Vec<(u64, u64, u64)>,
}

impl CallStats {
    /// Calls that failed.
    pub fn errors(&self) -> u64 {
        self.errnos.iter().map(|(_, count)| count).sum()
    }
}

/// All calls of one process, thread or control group.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct OwnerCalls {
    /// Process ID; none for a control group.
    pub pid: Option<u32>,
    /// Thread ID, when threads are told apart.
    pub tid: Option<u32>,
    /// Name of the process or thread, or the path of the control group.
    pub name: Arc<str>,
    /// Its calls, most time first.
    pub calls: Vec<CallStats>,
}

impl OwnerCalls {
    /// Time in all its calls, nanoseconds.
    pub fn total_ns(&self) -> u64 {
        self.calls.iter().fold(0, |sum, call| sum.saturating_add(call.total_ns))
    }

    /// All its calls.
    pub fn count(&self) -> u64 {
        self.calls.iter().fold(0, |sum, call| sum.saturating_add(call.count))
    }

    /// All its failed calls.
    pub fn errors(&self) -> u64 {
        self.calls.iter().fold(0, |sum, call| sum.saturating_add(call.errors()))
    }
}

/// A call that had not returned when the recording ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InFlight {
    /// Process ID.
    pub pid: u32,
    /// Thread ID.
    pub tid: u32,
    /// Name of the thread.
    pub thread: Arc<str>,
    /// Name of the call.
    pub name: String,
    /// How long it has been going on, nanoseconds; none when its beginning fell between two slices.
    pub ns: Option<u64>,
    /// It began before the recording did, and `ns` is only the part that is known.
    pub began_before: bool,
}

/// One of the slowest calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlowCall {
    /// Process ID.
    pub pid: u32,
    /// Thread ID.
    pub tid: u32,
    /// Name of the thread.
    pub thread: Arc<str>,
    /// Name of the call.
    pub name: String,
    /// How long it took, nanoseconds.
    pub ns: u64,
    /// Its arguments, readable.
    pub arguments: String,
    /// What it returned, readable.
    pub result: String,
    /// The functions that led to it, innermost first.
    pub stack: Vec<String>,
}

/// A finished recording.
#[derive(Debug, Clone, PartialEq)]
pub struct CallReport {
    /// What was recorded and how.
    pub meta: Meta,
    /// How the calls were measured.
    pub measure: Measure,
    /// Calls by owner, most time first.
    pub owners: Vec<OwnerCalls>,
    /// Calls that were still going on at the end, longest first.
    pub in_flight: Vec<InFlight>,
    /// The slowest calls, slowest first.
    pub slow: Vec<SlowCall>,
    /// Calls that took at least as long as was asked for, or as the shortest of those that are listed.
    pub slow_total: u64,
    /// Sampled calls by stack: their number and their time. None unless it was asked for.
    pub flame: Option<Profile>,
    /// What it cost the machine's busiest CPU, percent of its time, as far as it could be measured.
    pub slowdown_percent: f64,
    /// How far the numbers can be trusted.
    pub quality: Quality,
}
