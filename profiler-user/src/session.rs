//! One recording, wired together: programs, side band, processes, aggregate. No domain logic, no output, no clock of
//! its own: the caller calls [`Session::tick`] a few times a second until it has enough.

pub(crate) mod clock;
mod dump;
pub(crate) mod ledger;
pub(crate) mod meter;
mod scope;
mod setup;
mod sums;
pub(crate) mod together;
mod window;

pub use scope::Scope;
pub(crate) use scope::{BaseConfig, SwitchLayout, enter_targets};
pub use setup::program_figures;
pub use window::{Beside, Recorded};

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use thiserror::Error;

use profiler_common::stats::Stat;

use crate::aggregate::{Aggregate, StackScope};
use crate::bpf::{Clock, LoadError, Programs, Targets};
use crate::ingest::{EventKind, ProcessEvent, RawSample, Record, SideBand, decode_record};
use crate::process::{Moment, Processes, Snapshot};
use crate::profile::{Counter, Leaks, Overhead};
use crate::profile_type::{
    Heap, Memory, MemoryError, OffCpu, OnCpu, OnCpuError, ProbesError, ProfileKind, Rate, tick_ns,
};
use crate::unwinder::Unwinder;
use dump::StackDump;
use ledger::{Ledger, Waiting};
use meter::Meter;
use sums::AllSums;
use together::Together;
use window::Before;

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
    /// What else to measure in the same time, in profiles of their own: waits, the growth of memory.
    pub beside: Vec<ProfileKind>,
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
    /// All that is measured.
    fn kinds(&self) -> impl Iterator<Item = &ProfileKind> {
        std::iter::once(&self.kind).chain(&self.beside)
    }

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
    /// A thread could not be started.
    #[error("cannot start a thread of the recording")]
    Thread(#[source] std::io::Error),
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

/// What the programs of a recording lost, by cause.
pub(crate) fn lost_by(programs: &Programs) -> impl Iterator<Item = Counter> + use<> {
    let losses = programs.stats().into_iter().filter(|(stat, _)| stat.is_loss());
    losses.filter_map(|(stat, count)| Counter::of(stat.id(), stat.describe(), count))
}

/// A running recording.
pub struct Session {
    programs: Box<Programs>,
    side_band: SideBand,
    clock: Clock,
    period: u64,
    sampler: Option<OnCpu>,
    waits: Option<Box<OffCpu>>,
    memory: Option<Memory>,
    heap: Option<Box<Heap>>,
    processes: Processes,
    unwinder: Unwinder,
    dump: Option<StackDump>,
    sums: AllSums,
    scope: Scope,
    /// What holds for all windows.
    notes: Vec<String>,
    /// Load could not be shed in this window, and why.
    shed_failed: Option<String>,
    /// Where this window began.
    window: Before,
    /// Forks are followed by the side band because the kernel has no BTF.
    follow_in_user_space: bool,
    undecodable: u64,
    meter: Meter,
    ledger: Ledger,
    /// What the recording may cost, as a share of the machine; one when it may cost what it likes.
    max_overhead: f64,
    together: Together,
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
            samples.extend(self.waits.iter_mut().flat_map(|waits| waits.waiting_before()));
        }
        samples.sort_by_key(|sample: &RawSample| sample.time_ns);
        // Read after the samples: whatever happened before the last of them is in here.
        let events = self.side_band.drain();
        if self.follow_in_user_space {
            self.follow(&events);
        }
        self.unwinder.tick();
        let mut events = events.into_iter().peekable();
        for sample in samples {
            while let Some(event) = events.next_if(|event| event.time_ns <= sample.time_ns) {
                self.apply(&event);
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
            self.apply(&event);
        }
        self.unwinder.catch_up(&self.processes);
        for (sample, moment) in self.unwinder.poll(&mut self.processes) {
            self.add(&sample, &moment);
        }
        self.share_budget();
        if self.keep_budget().is_err() {
            self.undecodable += 1;
        }
        if let Some(waits) = &mut self.waits
            && waits.tick(&mut self.programs).is_err()
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

    /// Tells collectors what was spent, a few times a second.
    fn keep_budget(&mut self) -> Result<(), LoadError> {
        let now_ns = clock::monotonic_ns();
        if (self.waits.is_none() && self.sampler.is_none()) || !self.ledger.is_due(now_ns) {
            return Ok(());
        }
        let waiting = self.waits.as_ref().map_or(Waiting::Not, |waits| waits.waiting());
        let spent = self.meter.spent(&self.programs);
        let told = self.ledger.look(now_ns, spent, waiting);
        if let Some(waits) = &mut self.waits {
            let switches = self.programs.stat(Stat::Switches);
            waits.look(told.waits_ns, spent.scheduler_ns, switches, now_ns);
        }
        self.sampler
            .as_mut()
            .map_or(Ok(()), |sampler| sampler.look(&mut self.programs, told.sampler_ns, now_ns))
    }

    /// Leaves their part of the budget to other recordings.
    fn share_budget(&mut self) {
        let spent_ns = || {
            let traps_ns = self.heap.as_ref().map_or(0, |heap| heap.trap_ns(&self.programs));
            self.meter.spent(&self.programs).all_ns() + traps_ns
        };
        let Some(part) = self.together.look(spent_ns, self.max_overhead) else { return };
        self.ledger.set_budget(self.max_overhead * f64::from(self.meter.cpus()) * part);
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

    /// Records the allocations of this process too, from now on.
    ///
    /// # Errors
    ///
    /// What the kernel refused.
    pub(crate) fn enter(&mut self, pid: u32) -> Result<(), SessionError> {
        // What happened to it before is not to come later.
        self.tick();
        self.programs.targets_mut().add(pid)?;
        if let Some(snapshot) = Snapshot::read(pid) {
            self.processes.enter(&snapshot);
        }
        if let Some(mappings) = self.processes.mappings(pid) {
            self.unwinder.load(pid, mappings);
        }
        if let Some(heap) = &mut self.heap {
            heap.enter(&self.programs, pid)?;
        }
        Ok(())
    }

    /// Leaves this process alone from now on. One that is gone, or was never entered, is fine.
    pub(crate) fn leave(&mut self, pid: u32) {
        self.tick();
        self.programs.targets_mut().remove(pid);
        if let Some(heap) = &mut self.heap {
            heap.leave(pid);
        }
    }

    /// Whether blocks of this process are followed, or will be from the next slice of time on.
    pub(crate) fn follows(&self, pid: u32) -> bool {
        self.heap.as_ref().is_some_and(|heap| heap.follows(pid))
    }

    /// Whether allocations are watched in slices of time.
    pub(crate) fn watches_in_slices(&self) -> bool {
        self.heap.as_ref().is_some_and(|heap| heap.is_sliced())
    }

    /// Records as little as it can for a while: the host or the agent is short of something.
    pub fn shed(&mut self) {
        let of_sampler = self.sampler.as_mut().map(|sampler| sampler.shed(&mut self.programs));
        let of_memory = self.memory.as_mut().map(Memory::shed);
        for failed in [of_sampler.and_then(Result::err), of_memory.and_then(Result::err)].iter().flatten() {
            self.shed_failed = Some(format!("load could not be shed: {failed}"));
        }
        if let Some(waits) = &mut self.waits {
            waits.shed();
        }
    }

    /// Adds a sample whose walk is over, or remembers what a numbered stack stands for.
    fn add(&mut self, sample: &RawSample, moment: &Moment) {
        match (&mut self.waits, &mut self.memory, sample.memory) {
            (Some(waits), ..) if sample.number != 0 => {
                let sums = self.sums.of(|kind| kind.waits().is_some());
                waits.define(sample, moment, &mut sums.aggregate, &mut self.processes);
            }
            _ if sample.number != 0 && self.heap.is_some() => {
                if let Some(heap) = &mut self.heap {
                    heap.define(sample, moment, &mut self.sums.first_mut().aggregate, &mut self.processes);
                }
            }
            (_, Some(memory), Some(event)) => {
                let sums = self.sums.of(|kind| kind.memory().is_some());
                memory.add(sample, event, moment, &mut sums.aggregate, &mut self.processes);
            }
            _ => {
                let sums = self.sums.of(ProfileKind::samples_cpus);
                let values = sums.kind.values_of_sample(sample.weight);
                sums.aggregate.add(sample, moment, &mut self.processes, values);
            }
        }
    }

    fn apply(&mut self, event: &ProcessEvent) {
        self.unwinder.follow(event);
        if let Some(heap) = &mut self.heap {
            heap.follow(event);
        }
        self.processes.apply(event);
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
        let found = self.heap.as_mut()?.leaks_now(&self.sums.first().aggregate);
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
        self.sums.first().aggregate.samples()
    }

    /// The name of the process with the most samples so far, and its share.
    pub fn busiest(&self) -> Option<(String, f64)> {
        let mut by_name: std::collections::HashMap<&str, u64> = std::collections::HashMap::new();
        for (key, tally) in self.sums.first().aggregate.tallies() {
            let Some(info) = self.processes.info(key.process) else { continue };
            *by_name.entry(&info.name).or_default() += tally.samples;
        }
        let (name, samples) =
            by_name.into_iter().max_by_key(|(name, samples)| (*samples, std::cmp::Reverse(*name)))?;
        Some((name.to_owned(), samples as f64 / self.samples().max(1) as f64))
    }

    /// Losses so far, by cause.
    pub fn lost(&self) -> Vec<Counter> {
        let of_ours = [
            Counter::of("undecodable", "records that could not be decoded", self.undecodable),
            Counter::of("side_band_full", "process events lost, ring full", self.processes.lost_events()),
            Counter::of("stack_table_full", "stacks not kept apart, table full", self.sums.overflowed()),
        ];
        let of_waits = self.waits.iter().flat_map(|waits| waits.lost());
        let of_heap = self.heap.iter().flat_map(|heap| heap.lost());
        let of_collectors = of_waits.chain(of_heap).filter(|counter| counter.count > 0);
        lost_by(&self.programs).chain(of_ours.into_iter().flatten()).chain(of_collectors).collect()
    }

    /// Whether a target that was named when the recording started still runs. Always true for scopes without an end.
    pub fn has_living_target(&self) -> bool {
        self.scope.has_living_target(self.programs.targets())
    }

    /// When sampling began.
    pub fn started(&self) -> Instant {
        self.meter.since()
    }

    /// Samples CPUs at another rate, inside another budget, from now on.
    ///
    /// # Errors
    ///
    /// What the kernel refused.
    pub fn set_rate(&mut self, rate: Rate) -> Result<(), SessionError> {
        self.max_overhead = rate.max_overhead.unwrap_or(1.0);
        self.ledger.set_budget(self.max_overhead * f64::from(self.meter.cpus()));
        if let Some(sampler) = &mut self.sampler {
            let told_ns = self.ledger.told().sampler_ns;
            sampler.set_rate(&mut self.programs, rate, self.meter.cpus(), told_ns)?;
            self.period = if self.sums.first().kind.waits().is_none() {
                tick_ns(self.clock, rate.frequency_hz)
            } else {
                0
            };
        }
        Ok(())
    }

    /// Where whoever takes closed windows on a thread of its own says what CPU time that has used so far, nanoseconds.
    pub fn windows_cpu_ns(&self) -> Arc<AtomicU64> {
        self.meter.windows_ns()
    }

    /// What the recording has cost so far.
    pub fn overhead(&self) -> Overhead {
        let mut overhead = self.meter.overhead(&self.programs);
        overhead.probes_ns += self.heap.as_ref().map_or(0, |heap| heap.trap_ns(&self.programs));
        overhead
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
