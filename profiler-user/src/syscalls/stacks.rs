//! The user stacks of slow and sampled calls: from the ring over the unwinder to two aggregates.

use std::collections::HashMap;
use std::mem::offset_of;

use profiler_common::syscall::{
    CALL_RECORD_BYTES, CALL_SAMPLED, CALL_SLOW, CallRecord, RECORD_CALL, SAMPLE_SHIFTS,
};

use super::names::Names;
use super::slow::SlowCalls;
use crate::aggregate::{Aggregate, MAX_VALUES, StackScope};
use crate::bpf::Programs;
use crate::ingest::{ProcessEvent, RawSample, Record, decode_record};
use crate::process::{Moment, OutsidePid, Processes, Snapshot};
use crate::session::{clock, join_stack};
use crate::unwinder::{Closing, Unwinder};

/// Records taken out of the ring in one tick.
const MAX_RECORDS_PER_TICK: usize = 100_000;
/// Calls whose stacks may be on their way. More than a full ring holds.
const MAX_WAITING: usize = 16_384;
/// Samples in a tick (a tenth of a second) above and below which fewer or more are taken.
const SAMPLES_PER_TICK: std::ops::RangeInclusive<u64> = 8..=32;
/// Where sampling begins: a call of a millisecond is always taken.
const FIRST_SHIFT: u64 = 20;

/// Stacks of single calls.
pub(super) struct Stacks {
    processes: Processes,
    unwinder: Unwinder,
    /// Sampled calls, with the values of [`super::CallReport::flame`].
    aggregate: Aggregate,
    /// Calls whose stack has not come yet.
    calls: HashMap<(u64, u32), CallRecord>,
    pub(super) slow: SlowCalls,
    sample_shift: u64,
    undecodable: u64,
}

impl Stacks {
    /// For processes that exist, and those to come.
    ///
    /// # Errors
    ///
    /// The thread that builds unwind tables cannot be started, or the maps are gone.
    pub(super) fn new(
        programs: &mut Programs,
        code_mask: u64,
        max_table_bytes: u64,
        known: &[u32],
        slow: SlowCalls,
    ) -> Result<Self, crate::session::SessionError> {
        let mut unwinder = Unwinder::new(programs.take_tables()?, code_mask, max_table_bytes)
            .map_err(crate::session::SessionError::Unwinder)?;
        let mut processes = Processes::new(clock::unix_offset_ns(), OutsidePid::Invisible);
        for snapshot in known.iter().copied().filter_map(Snapshot::read) {
            processes.enter(&snapshot);
        }
        for (pid, mappings) in processes.all() {
            unwinder.load(pid, mappings);
        }
        Ok(Self {
            processes,
            unwinder,
            aggregate: Aggregate::new(StackScope::UserOnly),
            calls: HashMap::new(),
            slow,
            sample_shift: FIRST_SHIFT,
            undecodable: 0,
        })
    }

    /// Takes in what has come. Each sampled call stands for `factor` times what its chance says.
    pub(super) fn tick(
        &mut self,
        programs: &mut Programs,
        events: &[ProcessEvent],
        names: &Names,
        factor: f64,
    ) {
        let mut samples: Vec<RawSample> = Vec::new();
        let mut sampled = 0;
        let (calls, undecodable, slow) = (&mut self.calls, &mut self.undecodable, &mut self.slow);
        programs.drain(MAX_RECORDS_PER_TICK, |record| {
            if let Some(call) = decode_call(record) {
                sampled += u64::from(call.flags & CALL_SAMPLED != 0);
                // Now, while the descriptors are still those of the call.
                slow.look_at(&call, names);
                if calls.len() < MAX_WAITING {
                    calls.insert((call.id, call.tid), call);
                } else {
                    *undecodable += 1;
                }
                return;
            }
            match decode_record(record) {
                Ok(Record::Sample(sample)) => samples.push(sample),
                Ok(Record::Stack { cpu, time_ns, bytes }) => join_stack(&mut samples, cpu, time_ns, &bytes),
                Err(_) => *undecodable += 1,
            }
        });
        samples.sort_by_key(|sample| sample.time_ns);
        self.unwinder.tick();
        self.place(samples, events, names, factor);
        for placed in self.unwinder.poll(&mut self.processes) {
            self.add(placed, names, factor);
        }
        if sampled > *SAMPLES_PER_TICK.end() {
            self.sample_shift = (self.sample_shift + 1).min(SAMPLE_SHIFTS.1);
        } else if sampled < *SAMPLES_PER_TICK.start() {
            self.sample_shift = (self.sample_shift - 1).max(SAMPLE_SHIFTS.0);
        }
    }

    /// Brings samples and events into one order of time, so that each sample meets the mappings of its moment.
    fn place(&mut self, samples: Vec<RawSample>, events: &[ProcessEvent], names: &Names, factor: f64) {
        let mut events = events.iter().peekable();
        for sample in samples {
            while let Some(event) = events.next_if(|event| event.time_ns <= sample.time_ns) {
                self.apply(event);
            }
            let moment = self.processes.moment(&sample);
            if let Some(placed) = self.unwinder.take((sample, moment), &mut self.processes) {
                self.add(placed, names, factor);
            }
        }
        for event in events {
            self.apply(event);
        }
        self.unwinder.catch_up(&self.processes);
    }

    fn apply(&mut self, event: &ProcessEvent) {
        self.unwinder.follow(event);
        self.processes.apply(event);
    }

    fn add(&mut self, (mut sample, moment): (RawSample, Moment), names: &Names, factor: f64) {
        let Some(call) = self.calls.remove(&(sample.number, sample.tid)) else { return };
        // To the aggregate it is a sample like any other.
        sample.number = 0;
        if call.flags & CALL_SAMPLED != 0 {
            let mut key = self.aggregate.key_of(&sample, &moment, &mut self.processes);
            key.stack = self.aggregate.remark_on(key.stack, &names.call(call.number, call.abi as u16));
            self.aggregate.add_values(key, 1, values(&call, factor));
        }
        if call.flags & CALL_SLOW != 0 {
            self.slow.keep(call, sample, moment);
        }
    }

    /// How calls are to be sampled from now on.
    pub(super) fn sample_shift(&self) -> u64 {
        self.sample_shift
    }

    /// Records that could not be decoded or kept.
    pub(super) fn undecodable(&self) -> u64 {
        self.undecodable
    }

    /// Finishes the walks that wait for tables, and hands over what there is.
    pub(super) fn finish(mut self, names: &Names, factor: f64) -> FinishedStacks {
        for placed in self.unwinder.finish(&mut self.processes) {
            self.add(placed, names, factor);
        }
        FinishedStacks {
            aggregate: self.aggregate,
            processes: self.processes,
            slow: self.slow,
            _closing: self.unwinder.close(),
        }
    }
}

/// Stacks of a finished recording.
pub(super) struct FinishedStacks {
    pub(super) aggregate: Aggregate,
    pub(super) processes: Processes,
    pub(super) slow: SlowCalls,
    /// Tables on their way to disk.
    _closing: Closing,
}

/// What a sampled call stands for: calls, and their time in nanoseconds. The chance that it had is its time as a share of the one that is
/// always taken.
fn values(call: &CallRecord, factor: f64) -> [u64; MAX_VALUES] {
    let always = 1_u64 << call.sample_shift.clamp(SAMPLE_SHIFTS.0, SAMPLE_SHIFTS.1);
    let stands_for = (always as f64 / call.ns.max(1) as f64).max(1.0) * factor;
    let mut values = [0; MAX_VALUES];
    values[0] = stands_for.round() as u64;
    values[1] = (call.ns as f64 * stands_for).round() as u64;
    values
}

/// The record of a call; none for other records and for those that are too short.
pub(super) fn decode_call(record: &[u8]) -> Option<CallRecord> {
    let u32_at = |at: usize| Some(u32::from_ne_bytes(*record.get(at..)?.first_chunk()?));
    let u64_at = |at: usize| Some(u64::from_ne_bytes(*record.get(at..)?.first_chunk()?));
    if u32_at(0)? != RECORD_CALL || record.len() < CALL_RECORD_BYTES {
        return None;
    }
    let mut arguments = [0; 6];
    for (index, argument) in arguments.iter_mut().enumerate() {
        *argument = u64_at(offset_of!(CallRecord, arguments) + index * 8)?;
    }
    Some(CallRecord {
        kind: RECORD_CALL,
        flags: u32_at(offset_of!(CallRecord, flags))?,
        id: u64_at(offset_of!(CallRecord, id))?,
        ns: u64_at(offset_of!(CallRecord, ns))?,
        result: u64_at(offset_of!(CallRecord, result))? as i64,
        arguments,
        number: u32_at(offset_of!(CallRecord, number))?,
        abi: u32_at(offset_of!(CallRecord, abi))?,
        pid: u32_at(offset_of!(CallRecord, pid))?,
        tid: u32_at(offset_of!(CallRecord, tid))?,
        sample_shift: u64_at(offset_of!(CallRecord, sample_shift))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn call(ns: u64, sample_shift: u64) -> CallRecord {
        CallRecord {
            kind: RECORD_CALL,
            flags: 0,
            id: 1,
            ns,
            result: 0,
            arguments: [0; 6],
            number: 0,
            abi: 0,
            pid: 1,
            tid: 1,
            sample_shift,
        }
    }

    #[test]
    fn a_sampled_call_stands_for_those_that_chance_left_out() {
        assert_eq!(values(&call(2 << 20, 20), 1.0)[..2], [1, 2 << 20]);
        assert_eq!(values(&call(1 << 10, 20), 1.0)[..2], [1024, 1 << 20]);
        assert_eq!(values(&call(2 << 20, 20), 50.0)[..2], [50, 50 * (2 << 20)]);
    }

    proptest! {
        #[test]
        fn records_of_any_bytes_are_read_or_left(mut bytes in proptest::collection::vec(any::<u8>(), 0..140), is_call: bool) {
            if is_call && bytes.len() >= 4 {
                bytes[..4].copy_from_slice(&RECORD_CALL.to_ne_bytes());
            }
            let found = decode_call(&bytes);
            prop_assert_eq!(found.is_some(), is_call && bytes.len() >= CALL_RECORD_BYTES);
            if let Some(call) = found {
                let _no_panic = values(&call, 3.0);
            }
        }
    }
}
