//! One recording, wired together: programs, side band, processes, aggregate. No domain logic, no output, no clock of
//! its own: the caller calls [`Session::tick`] a few times a second until it has enough.

pub(crate) mod clock;
mod dump;
pub(crate) mod meter;
mod scope;
mod setup;
pub(crate) mod together;

pub use scope::Scope;
pub(crate) use scope::{BaseConfig, enter_targets};
pub use setup::program_figures;

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use profiler_common::stats::Stat;
use thiserror::Error;

use crate::aggregate::{Aggregate, StackScope};
use crate::bpf::{Clock, LoadError, Programs, Targets};
use crate::ingest::{EventKind, ProcessEvent, RawSample, Record, SideBand, decode_record};
use crate::process::{Moment, Processes};
use crate::profile::{Allocations, Counter, Leaks, Overhead, Resident, UnwindTables, ValueType};
use crate::profile_type::{
    Heap, Memory, MemoryError, OffCpu, OnCpu, OnCpuError, ProbesError, ProfileKind, Rate,
};
use crate::unwinder::{Closing, Unwinder};
use dump::StackDump;
use meter::Meter;
use together::Together;

/// Records taken out of the ring in one tick. More than a full ring holds, so it only bounds a tick against a producer that never stops.
const MAX_RECORDS_PER_TICK: usize = 100_000;

/// Whether samples of the idle task are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Idle {
    /// Take them: the profile adds up to all CPU time.
    Include,
    /// Leave them out.
    Exclude,
}

/// Looks at the end of a recording for stacks of threads that wait since before it, and the time between them.
const LAST_LOOKS: u32 = 100;
const LAST_LOOK_EVERY: Duration = Duration::from_millis(5);

/// What to record.
#[derive(Debug, Clone)]
pub struct SessionOptions {
    /// Whom.
    pub scope: Scope,
    /// Whether children of target processes are targets: those that exist and those to come.
    pub follow_forks: bool,
    /// On which CPUs; none for all that are online.
    pub cpus: Option<Vec<u32>>,
    /// What to measure.
    pub kind: ProfileKind,
    /// How often a CPU is sampled.
    pub rate: Rate,
    /// Whether idle CPUs are sampled.
    pub idle: Idle,
    /// Which parts of a stack to keep.
    pub stacks: StackScope,
    /// Memory that unwind tables may take, bytes.
    pub max_table_bytes: u64,
    /// Where to write every sample's registers, stack and frames, to compare the walk with others; none in real use.
    pub dump: Option<PathBuf>,
}

impl SessionOptions {
    /// What the recording may cost, as a share of the machine; one when it may cost what it likes.
    fn max_overhead(&self) -> f64 {
        self.kind.max_overhead().or(self.rate.max_overhead).unwrap_or(1.0)
    }
}

/// Why a recording could not start.
#[derive(Debug, Error)]
pub enum SessionError {
    /// The programs could not be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The sampler could not start.
    #[error(transparent)]
    Sampler(#[from] OnCpuError),
    /// Page faults cannot be sampled.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// Allocations cannot be recorded.
    #[error(transparent)]
    Heap(#[from] ProbesError),
    /// The side band could not be opened.
    #[error("cannot open the perf events that report processes and mappings")]
    SideBand(#[source] std::io::Error),
    /// The thread that builds unwind tables could not be started.
    #[error("cannot start the thread that builds unwind tables")]
    Unwinder(#[source] std::io::Error),
    /// The file for stacks could not be created.
    #[error("cannot create `{path}`")]
    Dump {
        /// The file.
        path: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The list of CPUs could not be read.
    #[error("cannot read the list of online CPUs")]
    Cpus(#[source] std::io::Error),
    /// A feature that was asked for needs something that this kernel lacks.
    #[error("{feature} needs {needs}, which this kernel does not have")]
    Unsupported {
        /// What was asked for.
        feature: &'static str,
        /// What is missing.
        needs: String,
    },
    /// A command whose children are to be followed could not be started.
    #[error("cannot start `{command}`")]
    Command {
        /// The command.
        command: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

/// A running recording.
pub struct Session {
    programs: Programs,
    side_band: SideBand,
    kind: ProfileKind,
    clock: Clock,
    period: u64,
    sampler: Option<OnCpu>,
    waits: Option<OffCpu>,
    memory: Option<Memory>,
    heap: Option<Box<Heap>>,
    processes: Processes,
    unwinder: Unwinder,
    dump: Option<StackDump>,
    aggregate: Aggregate,
    scope: Scope,
    notes: Vec<String>,
    /// Forks are followed by the side band because the kernel has no BTF.
    follow_in_user_space: bool,
    undecodable: u64,
    start_unix_ns: u64,
    meter: Meter,
    /// What the recording may cost, as a share of the machine; one when it may cost what it likes.
    max_overhead: f64,
    together: Together,
}

/// What a recording ended with, ready for symbolization.
pub struct Recorded {
    /// Added-up stacks.
    pub aggregate: Aggregate,
    /// Processes and files behind them.
    pub processes: Processes,
    /// What the values mean.
    pub value_types: Vec<ValueType>,
    /// What triggered it.
    pub trigger: String,
    /// What its entries are called.
    pub counted: &'static str,
    /// Distance of two samples in the unit of the last value type; zero when it varies.
    pub period: u64,
    /// Losses by cause.
    pub lost: Vec<Counter>,
    /// Fallbacks and restrictions.
    pub notes: Vec<String>,
    /// Resident memory over time, where memory was measured.
    pub resident: Vec<Resident>,
    /// Totals of an allocator's calls, where they were recorded.
    pub allocations: Option<Allocations>,
    /// Blocks that were not freed, where leaks were looked for; their stacks are indexes into the aggregate.
    pub leaks: Option<Leaks>,
    /// When it began, Unix nanoseconds.
    pub start_unix_ns: u64,
    /// How long it took, nanoseconds.
    pub duration_ns: u64,
    /// What it cost so far.
    pub overhead: Overhead,
    /// Unwind tables and the walks that were finished in user space.
    pub unwind: UnwindTables,
    /// Tables on their way to disk.
    pub closing: Mutex<Closing>,
}

impl Session {
    /// Takes in everything that has come since the last tick: side band and samples, in one order of time.
    pub fn tick(&mut self) {
        let mut samples: Vec<RawSample> = Vec::new();
        let undecodable = &mut self.undecodable;
        self.programs.drain(MAX_RECORDS_PER_TICK, |record| match decode_record(record) {
            Ok(Record::Sample(sample)) => samples.push(sample),
            Ok(Record::Stack { cpu, time_ns, bytes }) => join_stack(&mut samples, cpu, time_ns, &bytes),
            Err(_) => *undecodable += 1,
        });
        if !self.unwinder.is_waiting() {
            // Each of them brings a piece of stack; while others wait for their tables there is no hurry.
            samples.extend(self.waits.iter_mut().flat_map(OffCpu::waiting_before));
        }
        samples.sort_by_key(|sample: &RawSample| sample.time_ns);
        // Read after the samples: whatever happened before the last of them is in here.
        let events = self.side_band.drain();
        if self.follow_in_user_space {
            self.follow(&events);
        }
        self.unwinder.tick();
        let mut changed = HashSet::new();
        let mut events = events.into_iter().peekable();
        for sample in samples {
            while let Some(event) = events.next_if(|event| event.time_ns <= sample.time_ns) {
                self.apply(&event, &mut changed);
            }
            let moment = self.processes.moment(&sample);
            let sample = match &mut self.dump {
                Some(dump) => dump.write(sample, &moment, &self.processes),
                None => sample,
            };
            if let Some((sample, moment)) = self.unwinder.take((sample, moment), &mut self.processes) {
                self.add(&sample, &moment);
            }
        }
        for event in events {
            self.apply(&event, &mut changed);
        }
        for pid in changed {
            if let Some(mappings) = self.processes.mappings(pid)
                && self.unwinder.is_outdated(pid, mappings)
            {
                self.unwinder.load(pid, mappings);
            }
        }
        for (sample, moment) in self.unwinder.poll(&mut self.processes) {
            self.add(&sample, &moment);
        }
        if let Some(waits) = &mut self.waits
            && waits.tick(|| self.programs.run_time_ns()).is_err()
        {
            self.undecodable += 1;
        }
        self.share_budget();
        if let Some(sampler) = &mut self.sampler
            && sampler.tick(&mut self.programs, |programs| self.meter.spent_ns(programs)).is_err()
        {
            self.undecodable += 1;
        }
        if let Some(heap) = &mut self.heap {
            let scope = &self.scope;
            let targets: HashSet<u32> = self.programs.targets().processes().into_iter().collect();
            heap.tick(&self.programs, |pid| scope.has_process(pid, &targets));
            for pid in heap.take_entered() {
                let anyone = RawSample { pid, tid: pid, ..RawSample::of_nobody() };
                let moment = self.processes.moment(&anyone);
                self.unwinder.prepare(&moment, &mut self.processes);
            }
        }
        if let Some(memory) = &mut self.memory {
            let targets = || self.programs.targets().processes();
            if memory.tick(&self.programs, targets).is_err() {
                self.undecodable += 1;
            }
        }
    }

    /// Leaves their part of the budget to other recordings.
    fn share_budget(&mut self) {
        let spent_ns = || {
            let traps_ns = self.heap.as_ref().map_or(0, |heap| heap.trap_ns(&self.programs));
            self.meter.spent_ns(&self.programs) + traps_ns
        };
        let Some(part) = self.together.look(spent_ns, self.max_overhead) else { return };
        if let Some(sampler) = &mut self.sampler {
            sampler.share_budget(part);
        }
        if let Some(waits) = &mut self.waits {
            waits.share_budget(part);
        }
        if let Some(memory) = &mut self.memory {
            memory.share_budget(part);
        }
        if let Some(heap) = &mut self.heap {
            heap.share_budget(part);
        }
    }

    /// Records as little as it can for a while: the host or the agent is short of something.
    pub fn shed(&mut self) {
        let of_sampler = self.sampler.as_mut().map(|sampler| sampler.shed(&mut self.programs));
        let of_memory = self.memory.as_mut().map(Memory::shed);
        for failed in [of_sampler.and_then(Result::err), of_memory.and_then(Result::err)].iter().flatten() {
            self.notes.push(format!("load could not be shed: {failed}"));
        }
        if let Some(waits) = &mut self.waits {
            waits.shed();
        }
    }

    /// Adds a sample whose walk is over, or remembers what a numbered stack stands for.
    fn add(&mut self, sample: &RawSample, moment: &Moment) {
        match (&mut self.waits, &mut self.memory, sample.memory) {
            (Some(waits), ..) if sample.number != 0 => {
                waits.define(sample, moment, &mut self.aggregate, &mut self.processes);
            }
            _ if sample.number != 0 && self.heap.is_some() => {
                if let Some(heap) = &mut self.heap {
                    heap.define(sample, moment, &mut self.aggregate, &mut self.processes);
                }
            }
            (_, Some(memory), Some(event)) => {
                memory.add(sample, event, moment, &mut self.aggregate, &mut self.processes);
            }
            _ => {
                let values = self.kind.values_of_sample(sample.weight);
                self.aggregate.add(sample, moment, &mut self.processes, values);
            }
        }
    }

    fn apply(&mut self, event: &ProcessEvent, changed: &mut HashSet<u32>) {
        self.unwinder.follow(event);
        if let Some(heap) = &mut self.heap {
            heap.follow(event);
        }
        self.processes.apply(event);
        if matches!(event.kind, EventKind::Map(_)) {
            changed.insert(event.pid);
        }
    }

    /// Whether a look in a few milliseconds is worth while: samples wait for their tables.
    pub fn is_waiting(&self) -> bool {
        self.unwinder.is_waiting() || self.heap.as_ref().is_some_and(|heap| heap.is_waiting())
    }

    /// Time to the next tick that has to come in time, where there is one.
    pub fn next_tick(&self) -> Option<Duration> {
        self.heap.as_ref().and_then(|heap| heap.next_look())
    }

    /// The ring, which wakes up whoever polls it when a table is missing.
    ///
    /// # Errors
    ///
    /// No descriptor is left.
    pub fn ring_fd(&self) -> std::io::Result<OwnedFd> {
        self.programs.ring_fd()
    }

    /// The stand-in for the kernel's own following of forks: a child becomes a target when its fork is read, one tick late.
    fn follow(&mut self, events: &[ProcessEvent]) {
        for event in events {
            match event.kind {
                EventKind::Fork { parent }
                    if self.programs.targets().processes().contains(&parent)
                        && self.programs.targets_mut().add(event.pid).is_err() =>
                {
                    self.undecodable += 1;
                }
                EventKind::Exit => self.programs.targets_mut().remove(event.pid),
                _ => {}
            }
        }
    }

    /// The tables of targets, for a command that is to be in scope.
    pub fn targets_mut(&mut self) -> &mut Targets {
        self.programs.targets_mut()
    }

    /// What is known of leaks so far, with the stacks behind it; none where leaks are not looked for.
    pub fn leaks_now(&mut self) -> Option<(Aggregate, Leaks)> {
        let found = self.heap.as_mut()?.leaks_now(&self.aggregate);
        if found.is_err() {
            self.undecodable += 1;
        }
        found.ok().flatten()
    }

    /// Processes and files behind the stacks.
    pub fn processes(&self) -> &Processes {
        &self.processes
    }

    /// Samples so far.
    pub fn samples(&self) -> u64 {
        self.aggregate.samples()
    }

    /// The name of the process with the most samples so far, and its share.
    pub fn busiest(&self) -> Option<(String, f64)> {
        let mut by_name: std::collections::HashMap<&str, u64> = std::collections::HashMap::new();
        for (key, tally) in self.aggregate.tallies() {
            *by_name.entry(&self.processes.info(key.process).name).or_default() += tally.samples;
        }
        let (name, samples) =
            by_name.into_iter().max_by_key(|(name, samples)| (*samples, std::cmp::Reverse(*name)))?;
        Some((name.to_owned(), samples as f64 / self.samples().max(1) as f64))
    }

    /// Losses so far, by cause.
    pub fn lost(&self) -> Vec<Counter> {
        let mut lost = Vec::new();
        let mut push = |id: &str, what: &str, count: u64| {
            if count > 0 {
                lost.push(Counter { id: id.to_owned(), what: what.to_owned(), count });
            }
        };
        for (stat, count) in self.programs.stats() {
            if stat.is_loss() {
                push(stat.id(), stat.describe(), count);
            }
        }
        push("undecodable", "records that could not be decoded", self.undecodable);
        push("side_band_full", "process events lost, ring full", self.processes.lost_events());
        push("stack_table_full", "stacks not kept apart, table full", self.aggregate.overflowed());
        for counter in
            self.waits.iter().flat_map(OffCpu::lost).chain(self.heap.iter().flat_map(|heap| heap.lost()))
        {
            push(&counter.id, &counter.what, counter.count);
        }
        lost
    }

    /// Whether a target that was named when the recording started still runs. Always true for scopes without an end.
    pub fn has_living_target(&self) -> bool {
        self.scope.has_living_target(self.programs.targets())
    }

    /// When sampling began.
    pub fn started(&self) -> Instant {
        self.meter.since()
    }

    /// What the recording has cost so far.
    pub fn overhead(&self) -> Overhead {
        let mut overhead = self.meter.overhead(&self.programs);
        overhead.probes_ns += self.heap.as_ref().map_or(0, |heap| heap.trap_ns(&self.programs));
        overhead
    }

    /// Stops sampling and takes in what is still in flight.
    pub fn stop(mut self) -> Recorded {
        if let Some(sampler) = &self.sampler {
            sampler.stop();
        }
        if let Some(memory) = &mut self.memory {
            memory.stop();
        }
        if let Some(heap) = &mut self.heap {
            heap.stop(&self.programs);
        }
        let duration_ns = self.started().elapsed().as_nanos() as u64;
        self.tick();
        for _ in 0..LAST_LOOKS {
            if !self.waits.as_ref().is_some_and(OffCpu::has_unread) {
                break;
            }
            std::thread::sleep(LAST_LOOK_EVERY);
            self.tick();
        }
        for (sample, moment) in self.unwinder.finish(&mut self.processes) {
            self.add(&sample, &moment);
        }
        if let Some(waits) = &mut self.waits {
            waits.finish(&mut self.programs, &self.kind, &mut self.aggregate, &mut self.processes);
            self.notes.extend(waits.notes(&self.programs.stats()));
        }
        let mut leaks = None;
        if let Some(heap) = &mut self.heap {
            match heap.finish(&mut self.aggregate, &mut self.processes) {
                Ok(found) => leaks = found,
                Err(_) => self.undecodable += 1,
            }
            self.notes.extend(heap.notes(&self.programs.stats()));
        }
        self.notes.extend(self.sampler.as_ref().and_then(OnCpu::note));
        self.notes.extend(self.together.note());
        if let Some(memory) = &self.memory {
            self.notes.extend(memory.notes(&self.programs.stats()));
        }
        let unwind = self.unwinder.figures();
        let overhead = Overhead { wall_ns: duration_ns, ..self.overhead() };
        let lost = self.lost();
        for (stat, count) in self.programs.stats() {
            match stat {
                Stat::OutsideNamespace if count > 0 => self.notes.push(format!(
                    "{count} samples are of tasks outside this PID namespace, which have no number here"
                )),
                Stat::LateTicks if count > 0 => self.notes.push(format!(
                    "{count} timer ticks were missed by CPUs that stalled or that a hypervisor took away"
                )),
                _ => {}
            }
        }
        self.notes.extend(table_notes(&unwind));
        Recorded {
            value_types: self.kind.value_types(self.clock),
            trigger: self.kind.trigger(self.clock),
            counted: self.kind.counted(),
            period: self.period,
            aggregate: self.aggregate,
            processes: self.processes,
            lost,
            notes: self.notes,
            allocations: self.heap.as_ref().map(|heap| heap.allocations(&self.programs.stats())),
            leaks,
            resident: self.memory.as_ref().map(Memory::resident).unwrap_or_default(),
            start_unix_ns: self.start_unix_ns,
            duration_ns,
            overhead,
            unwind,
            closing: Mutex::new(self.unwinder.close()),
        }
    }
}

/// Adds more of a stack to the sample that it belongs to: the last one of its CPU.
pub(crate) fn join_stack(samples: &mut [RawSample], cpu: u32, time_ns: u64, bytes: &[u8]) {
    let sample = samples.iter_mut().rev().find(|sample| sample.cpu == cpu);
    if let Some(cold) =
        sample.filter(|sample| sample.time_ns == time_ns).and_then(|sample| sample.cold.as_mut())
    {
        cold.stack.extend_from_slice(bytes);
    }
}

/// What the reader should know of the unwind tables: nothing, unless some were missing.
fn table_notes(tables: &UnwindTables) -> Vec<String> {
    let mut notes = Vec::new();
    let mebibytes = tables.pool_bytes >> 20;
    if tables.evicted_pages > 0 {
        notes.push(format!(
            "{} pages of unwind tables gave way to others: the limit of {mebibytes} MiB was reached (--max-memory)",
            tables.evicted_pages
        ));
    }
    if tables.refused_pages > 0 {
        notes.push(format!("{} pages of unwind tables found no room (--max-memory)", tables.refused_pages));
    }
    if tables.refused_mappings > 0 {
        notes.push(format!(
            "{} mappings found no room in the kernel's tables; their stacks were walked in user space",
            tables.refused_mappings
        ));
    }
    if tables.given_up_samples > 0 {
        notes.push(format!(
            "{} samples came before their unwind tables and could not wait for them",
            tables.given_up_samples
        ));
    }
    notes
}
