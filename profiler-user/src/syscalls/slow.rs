//! The slowest calls of a recording, each with its arguments and its stack.

use std::collections::HashMap;

use profiler_common::syscall::{CALL_SLOW, CallRecord};

use super::arguments::describe;
use super::model::SlowCall;
use super::names::Names;
use crate::aggregate::{Aggregate, MAX_VALUES, StackScope};
use crate::ingest::RawSample;
use crate::process::{CgroupNames, Moment, Processes};
use crate::profile::{Meta, ValueType, clean};
use crate::resolve::{Naming, resolve};
use crate::symbolize::native::Options;

/// Calls that are kept with everything; shorter ones give way.
const KEPT: usize = 32;
/// Descriptions of arguments that wait for their call's stack.
const MAX_DESCRIBED: usize = 4_096;
/// Where looking for the slowest calls begins when the user names no time, nanoseconds.
const FIRST_NS: u64 = 50_000;

struct Kept {
    call: CallRecord,
    arguments: String,
    sample: RawSample,
    moment: Moment,
}

/// The slowest calls so far.
pub(super) struct SlowCalls {
    /// What counts as slow, nanoseconds.
    least_ns: u64,
    kept: Vec<Kept>,
    arguments: HashMap<(u64, u32), String>,
}

impl SlowCalls {
    /// Those slower than this, or the slowest of all.
    pub(super) fn new(slower_than_ns: Option<u64>) -> Self {
        Self { least_ns: slower_than_ns.unwrap_or(FIRST_NS), kept: Vec::new(), arguments: HashMap::new() }
    }

    /// From which length on a call is worth sending, nanoseconds: rises when there are enough.
    pub(super) fn threshold_ns(&self) -> u64 {
        if self.kept.len() < KEPT { self.least_ns } else { self.shortest_ns().max(self.least_ns) }
    }

    /// The length of the shortest call that is listed, or the one that was asked for.
    pub(super) fn listed_from_ns(&self) -> u64 {
        if self.kept.is_empty() { self.least_ns } else { self.shortest_ns() }
    }

    fn shortest_ns(&self) -> u64 {
        self.kept.iter().map(|kept| kept.call.ns).min().unwrap_or(0)
    }

    /// Describes the arguments of a call that has just come, if it is going to be kept.
    pub(super) fn look_at(&mut self, call: &CallRecord, names: &Names) {
        if call.flags & CALL_SLOW != 0
            && call.ns >= self.threshold_ns()
            && self.arguments.len() < MAX_DESCRIBED
        {
            let name = names.call(call.number, call.abi as u16);
            let text = describe(&name, &call.arguments, call.pid);
            self.arguments.insert((call.id, call.tid), text);
        }
    }

    /// Keeps a call whose stack is complete, if it is one of the slowest.
    pub(super) fn keep(&mut self, call: CallRecord, sample: RawSample, moment: Moment) {
        let arguments = self.arguments.remove(&(call.id, call.tid)).unwrap_or_default();
        self.kept.push(Kept { call, arguments, sample, moment });
        if self.kept.len() > KEPT {
            self.kept.sort_by_key(|kept| std::cmp::Reverse(kept.call.ns));
            self.kept.truncate(KEPT);
        }
    }

    /// The calls, slowest first, with names.
    pub(super) fn finish(mut self, processes: &mut Processes, names: &Names) -> Vec<SlowCall> {
        self.kept.sort_by_key(|kept| std::cmp::Reverse(kept.call.ns));
        let mut stacks = named_stacks(&self.kept, processes);
        let calls = self.kept.into_iter().enumerate().map(|(index, kept)| {
            let Kept { call, arguments, sample, .. } = kept;
            SlowCall {
                pid: call.pid,
                tid: call.tid,
                thread: clean(sample.comm()).into(),
                name: names.call(call.number, call.abi as u16).into_owned(),
                ns: call.ns,
                arguments,
                result: result_of(call.result, names),
                stack: stacks.remove(&index).unwrap_or_default(),
            }
        });
        calls.collect()
    }
}

/// The names of the functions of each call's stack, innermost first.
fn named_stacks(calls: &[Kept], processes: &mut Processes) -> HashMap<usize, Vec<String>> {
    let mut aggregate = Aggregate::new(StackScope::UserOnly);
    for (index, kept) in calls.iter().enumerate() {
        let mut key = aggregate.key_of(&kept.sample, &kept.moment, processes);
        // The number of the call stands at the leaf, to find its stack again.
        key.stack = aggregate.remark_on(key.stack, &index.to_string());
        aggregate.add_values(key, 1, [1; MAX_VALUES]);
    }
    let naming = Naming::Full(Options::default());
    let value_types = [ValueType::new("calls", "count")];
    let (known, mut cgroups) = (aggregate.known(processes), CgroupNames::of_host());
    let profile = resolve(&aggregate, &known, &mut cgroups, &value_types, Meta::default(), &naming);
    let stack = |sample: &crate::profile::Sample| {
        let mut frames = profile.stack(sample.stack).iter().flat_map(|id| &profile.location(*id).frames);
        let index = frames.next()?.function.parse().ok()?;
        Some((index, frames.map(|frame| frame.function.to_string()).collect()))
    };
    profile.samples.iter().filter_map(stack).collect()
}

/// What a call returned, for people: `-1 ENOENT`, `4096`, or a pointer in hexadecimal digits.
fn result_of(result: i64, names: &Names) -> String {
    match result {
        -4095..0 => format!("-1 {}", names.error(result.unsigned_abs() as u16)),
        0..=0xffff_ffff => result.to_string(),
        _ => format!("{result:#x}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_as_strace_prints_them() {
        let names = Names::load();
        assert_eq!(result_of(-2, &names), "-1 ENOENT");
        assert_eq!(result_of(4096, &names), "4096");
        assert_eq!(result_of(0x7f00_0000_0000, &names), "0x7f0000000000");
    }
}
