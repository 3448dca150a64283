//! Where resident memory grows: page faults sampled by count, and calls that map and unmap.
//!
//! In: events of memory from the ring. Out: tallies in the aggregate whose root says what kind of memory it was, and the resident set
//! over time, from `/proc`.
//!
//! A fault is not a page. A fault on anonymous memory maps one folio, which may be a huge page: its size is looked up in `/proc/kpageflags`.
//! A fault that reads a file maps the cached pages around it as well (`fault_around_bytes`, mm/memory.c, 64 KiB): those that are present in
//! that window are counted. What a process gives back later is not taken off: bytes by stack say where memory was asked for, the resident
//! set over time says what became of it.

mod pages;
mod regions;
mod resident;

use std::collections::HashMap;

use profiler_common::memory::{FAULT, MappingCalls, MemoryControl, unpack_remap};
use profiler_common::stats::Stat;

use crate::aggregate::{Aggregate, MAX_VALUES, SampleKey, values};
use crate::bpf::{Faults, GrowthPrograms, LoadError, PerfEvent, Programs};
use crate::ingest::{MemoryEvent, RawSample};
use crate::output::thousands;
use crate::process::{Moment, ProcessId, Processes};
use crate::profile::{Resident, ValueType};
use crate::profile_type::governor::{Governor, Throttle};
use crate::session::{Scope, clock};
use pages::FolioSizes;
use regions::{Class, Space};
use resident::Series;
pub use resident::Whom;
pub(super) use resident::anonymous_bytes;

/// What the agent spends on an event itself, nanoseconds: to find its memory and to add it up. Its own CPU time would be no measure, because
/// most of it goes into names and unwind tables, which cost the same however few events are taken.
const AGENT_NS_PER_EVENT: u64 = 10_000;
/// What the walk of a call that maps memory costs in the kernel, nanoseconds. The run time of its program is mostly spent on other calls.
const KERNEL_NS_PER_CALL: u64 = 3_000;
/// What watching the ends of system calls may cost above the budget before it is given up, in seconds of the budget: a quarter of what a window of five
/// seconds may cost.
const PATIENCE_WITH_CALLS_S: f64 = 1.25;
/// Address spaces whose mappings are remembered.
const MOST_SPACES: usize = 256;

/// Rungs of the budget's ladder: distances of samples. Prime, so that a program whose faults repeat in a pattern does not march in step with them.
const PERIODS: [u64; 10] = [7, 13, 31, 61, 127, 251, 509, 1021, 2039, 4093];
/// The first: one fault in 31 costs a few nanoseconds for each fault, which takes some hundred itself.
const FIRST: usize = 2;
/// Rung from which on calls that map memory are left out too, half of them for each.
const CALLS_FROM: usize = 4;

/// One in 2^shift calls that map memory is taken on a rung.
fn call_shift(rung: usize) -> u32 {
    rung.saturating_sub(CALLS_FROM) as u32
}

/// Whether calls that map memory are recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MappingsWanted {
    /// For named targets yes, for the whole host no: watching the end of system calls makes each call of the machine a little longer.
    #[default]
    Auto,
    /// Yes.
    On,
    /// No.
    Off,
}

impl MappingsWanted {
    /// Whether they are recorded for this scope.
    pub fn for_scope(self, scope: &Scope) -> bool {
        match self {
            Self::Auto => *scope != Scope::Host,
            Self::On => true,
            Self::Off => false,
        }
    }
}

/// How the growth of memory is measured.
#[derive(Debug, Clone, PartialEq)]
pub struct MemoryOptions {
    /// Take one page fault in this many; none to let the cost decide.
    pub period: Option<u64>,
    /// Record calls that map and unmap memory.
    pub calls: bool,
    /// What programs and agent may cost, as a share of the whole machine's CPU time.
    pub max_overhead: f64,
}

impl Default for MemoryOptions {
    fn default() -> Self {
        Self { period: None, calls: true, max_overhead: 0.01 }
    }
}

impl MemoryOptions {
    /// What the numbers of the profile mean.
    pub fn value_types(&self) -> Vec<ValueType> {
        let bytes = |kind| ValueType::new(kind, "bytes");
        let calls = self.calls.then(|| [bytes("unmapped"), bytes("mapped")]);
        let faults = [ValueType::new("faults", "count"), bytes("file"), bytes("anon"), bytes("resident")];
        calls.into_iter().flatten().chain(faults).collect()
    }

    /// Page faults for one that is taken, on a rung of the budget's ladder.
    fn period_of(&self, rung: usize) -> u64 {
        self.period.unwrap_or(PERIODS[rung.min(PERIODS.len() - 1)])
    }

    /// Values of page faults.
    fn of_faults(&self, faults: u64, class: Class, bytes: u64) -> [u64; MAX_VALUES] {
        let (file, anon) = match class {
            Class::File => (bytes, 0),
            Class::Anonymous => (0, bytes),
            Class::Unknown => (0, 0),
        };
        let faults = [faults, file, anon, bytes];
        if self.calls { values([0, 0, faults[0], faults[1], faults[2], faults[3]]) } else { values(faults) }
    }
}

/// The numbers of the calls on this machine. A process of another architecture (32-bit) has others and is left out.
pub fn mapping_calls() -> MappingCalls {
    MappingCalls {
        mmap: libc::SYS_mmap as u32,
        munmap: libc::SYS_munmap as u32,
        mremap: libc::SYS_mremap as u32,
        brk: libc::SYS_brk as u32,
    }
}

/// Running measurement of memory.
pub struct Memory {
    options: MemoryOptions,
    programs: GrowthPrograms,
    samplers: Vec<PerfEvent>,
    counters: Vec<PerfEvent>,
    throttle: Throttle,
    spaces: HashMap<ProcessId, Space>,
    folios: FolioSizes,
    heap_ends: HashMap<ProcessId, u64>,
    series: Series,
    /// Of one CPU.
    budget: f64,
    cost_of_calls: CostOfCalls,
    calls_given_up_ns: Option<u64>,
    began_ns: u64,
    looked_ns: u64,
    /// Ticks so far, the clock by which mappings are read anew.
    ticks: u64,
    unknown_kind: u64,
    /// Events that were added.
    taken: u64,
    /// Of these, calls.
    taken_calls: u64,
    /// Sum of the squares of the bytes that samples of faults stand for.
    squares: f64,
    /// Page faults of the machine when the window began, and when everything was stopped.
    counted: u64,
    stopped: Option<u64>,
}

/// Why page faults cannot be sampled.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The kernel does not give us the event.
    #[error("cannot open a page-fault event on CPU {cpu}")]
    Open {
        /// The CPU.
        cpu: u32,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
    /// The programs could not be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
}

impl Memory {
    /// Loads and attaches everything and starts it.
    ///
    /// # Errors
    ///
    /// What the kernel refused. CPUs that are offline are left out.
    pub fn start(
        programs: &mut Programs,
        options: &MemoryOptions,
        online: &[u32],
        whom: Whom,
    ) -> Result<Self, MemoryError> {
        let mut growth = programs.load_growth(options.calls)?;
        let budget = options.max_overhead * online.len() as f64;
        let rungs = if options.period.is_some() { 1 } else { PERIODS.len() };
        let throttle = Throttle::new(Governor::new(budget, rungs, FIRST), clock::monotonic_ns());
        let program = programs.fault_sampler()?;
        let (mut samplers, mut counters) = (Vec::new(), Vec::new());
        for cpu in online.iter().copied() {
            for kind in [Faults::Minor, Faults::Major] {
                let open = |event: std::io::Result<PerfEvent>| match event {
                    Ok(event) => Ok(Some(event)),
                    Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
                    Err(source) => Err(MemoryError::Open { cpu, source }),
                };
                let Some(sampler) =
                    open(PerfEvent::open_faults(cpu, kind, options.period_of(throttle.rung())))?
                else {
                    continue;
                };
                sampler.set_program(program).map_err(|source| MemoryError::Open { cpu, source })?;
                samplers.push(sampler);
                counters.extend(open(PerfEvent::open_fault_counter(cpu, kind))?);
            }
        }
        for sampler in &samplers {
            sampler.enable().map_err(|source| MemoryError::Open { cpu: online[0], source })?;
        }
        if options.calls {
            programs.attach_mapping_calls(&mut growth)?;
        }
        let counted = total(&counters);
        Ok(Self {
            options: options.clone(),
            programs: growth,
            samplers,
            counters,
            throttle,
            spaces: HashMap::new(),
            folios: FolioSizes::open(),
            heap_ends: HashMap::new(),
            series: Series::new(whom),
            budget,
            cost_of_calls: CostOfCalls::default(),
            calls_given_up_ns: None,
            began_ns: clock::monotonic_ns(),
            looked_ns: clock::monotonic_ns(),
            ticks: 0,
            unknown_kind: 0,
            taken: 0,
            taken_calls: 0,
            squares: 0.0,
            counted,
            stopped: None,
        })
    }

    /// Looks after cost and resident set, a few times a second. `targets` are the processes in scope where the scope is one of processes.
    ///
    /// # Errors
    ///
    /// What the kernel refused.
    pub fn tick(&mut self, programs: &Programs, targets: impl FnOnce() -> Vec<u32>) -> Result<(), LoadError> {
        self.ticks += 1;
        let now_ns = clock::monotonic_ns();
        self.series.look(now_ns, targets);
        if !self.throttle.is_due(now_ns) {
            return Ok(());
        }
        let elapsed = now_ns.saturating_sub(self.looked_ns);
        self.looked_ns = now_ns;
        self.watch_calls(programs.run_time_of_ns("call_ended"), elapsed);
        let spent_ns = programs.run_time_of_ns("page_faulted")
            + self.taken * AGENT_NS_PER_EVENT
            + self.taken_calls * KERNEL_NS_PER_CALL;
        if self.throttle.look(spent_ns, now_ns) { self.apply() } else { Ok(()) }
    }

    /// Leaves the rest of the budget to other recordings.
    pub fn share_budget(&mut self, part: f64) {
        self.throttle.share_budget(part);
    }

    /// Takes as few events as it can for a while.
    ///
    /// # Errors
    ///
    /// What the kernel refused.
    pub fn shed(&mut self) -> Result<(), LoadError> {
        if self.throttle.shed() { self.apply() } else { Ok(()) }
    }

    fn apply(&mut self) -> Result<(), LoadError> {
        let rung = self.throttle.rung();
        for sampler in &self.samplers {
            // The only way to fail is a closed descriptor, and we hold it.
            let _cannot_fail = sampler.set_period(self.options.period_of(rung));
        }
        self.programs.control(MemoryControl { shift: call_shift(rung), padding: 0 })
    }

    /// Gives up the recording of calls when the machine makes so many of any kind that looking at each is too much.
    fn watch_calls(&mut self, spent_ns: u64, elapsed_ns: u64) {
        if self.cost_of_calls.is_too_much(spent_ns, elapsed_ns, self.budget)
            && self.calls_given_up_ns.is_none()
        {
            self.programs.detach_calls();
            self.calls_given_up_ns = Some(self.looked_ns.saturating_sub(self.began_ns));
        }
    }

    /// Adds an event.
    pub fn add(
        &mut self,
        sample: &RawSample,
        event: MemoryEvent,
        moment: &Moment,
        aggregate: &mut Aggregate,
        processes: &mut Processes,
    ) {
        let key = aggregate.key_of(sample, moment, processes);
        let events = u64::from(event.events);
        self.taken += 1;
        let (root, values) = if event.kind == FAULT {
            let ticks = self.ticks;
            let fault = space(&mut self.spaces, key.process, sample.pid).fault(sample.weight, ticks);
            let fault = fault.sized(sample.weight, &mut self.folios);
            self.unknown_kind += if fault.class == Class::Unknown { events } else { 0 };
            let bytes = fault.bytes.saturating_mul(events);
            // A sample that stands for itself alone has no error.
            self.squares += if events > 1 { (bytes as f64).powi(2) } else { 0.0 };
            (fault.root, self.options.of_faults(events, fault.class, bytes))
        } else {
            self.taken_calls += 1;
            let (root, unmapped, mapped) = self.call(sample, event.kind, key.process);
            if unmapped == 0 && mapped == 0 {
                return;
            }
            (root.to_owned(), values([unmapped.saturating_mul(events), mapped.saturating_mul(events)]))
        };
        let stack = aggregate.remark_below(key.stack, &root);
        aggregate.add_values(SampleKey { stack, ..key }, events, values);
    }

    /// Name of a call that changed mappings, and the bytes that it unmapped and mapped.
    fn call(&mut self, sample: &RawSample, number: u32, process: ProcessId) -> (&'static str, u64, u64) {
        let calls = mapping_calls();
        if number == calls.mmap {
            ("[mmap]", 0, sample.weight)
        } else if number == calls.munmap {
            ("[munmap]", sample.weight, 0)
        } else if number == calls.mremap {
            let (old, new) = unpack_remap(sample.weight);
            ("[mremap]", old.saturating_sub(new), new.saturating_sub(old))
        } else {
            let known = self.heap_ends.get(&process).copied();
            let before = known
                .or_else(|| space(&mut self.spaces, process, sample.pid).heap_end())
                .unwrap_or(sample.weight);
            if known.is_some() || self.heap_ends.len() < MOST_SPACES * 16 {
                self.heap_ends.insert(process, sample.weight);
            }
            ("[brk]", before.saturating_sub(sample.weight), sample.weight.saturating_sub(before))
        }
    }

    /// Stops everything; samples in flight still arrive.
    pub fn stop(&mut self) {
        for sampler in &self.samplers {
            // The only way to fail is a closed descriptor, and we hold it.
            let _cannot_fail = sampler.disable();
        }
        self.stopped = Some(total(&self.counters));
        self.programs.detach_calls();
    }

    /// The resident set over time, since the last window.
    pub fn take_resident(&mut self) -> Vec<Resident> {
        self.series.take()
    }

    /// Forgets what it remembers of processes that are gone.
    pub fn forget(&mut self, is_known: impl Fn(ProcessId) -> bool) {
        self.spaces.retain(|process, _| is_known(*process));
        self.heap_ends.retain(|process, _| is_known(*process));
    }

    /// What the reader should know of how the events of a window were taken; `stats` are the window's.
    pub fn take_notes(&mut self, stats: &[(Stat, u64)]) -> Vec<String> {
        let in_all = self.stopped.unwrap_or_else(|| total(&self.counters));
        let counted = in_all.saturating_sub(std::mem::replace(&mut self.counted, in_all));
        let squares = std::mem::take(&mut self.squares);
        let unknown_kind = std::mem::take(&mut self.unknown_kind);
        let story = self.throttle.take_story();
        let stat = |wanted| stats.iter().find(|(stat, _)| *stat == wanted).map_or(0, |(_, count)| *count);
        let mut notes = Vec::new();
        let (least, most) = (self.options.period_of(story.rungs.0), self.options.period_of(story.rungs.1));
        let seen = stat(Stat::Faults);
        let taken = if least == most { format!("{least}") } else { format!("{least} to {most}") };
        notes.push(format!(
            "one in {taken} page faults was taken and stands for the others, by count; {} in all on this machine",
            thousands(counted)
        ));
        if squares > 0.0 {
            notes.push(format!(
                "resident bytes are ± {} in all (standard error); a huge page is taken as rarely as a small one and counts as much more",
                crate::output::bytes(squares.sqrt() as u64)
            ));
        }
        // What the samples stand for may differ by a period on each CPU and for each change of it.
        let slack = most * (self.samplers.len() as u64) * (2 + story.changes);
        if counted > seen + slack + counted / 100 {
            notes.push(format!(
                "{} page faults were not sampled: the kernel held the events back (kernel.perf_event_max_sample_rate)",
                thousands(counted - seen)
            ));
        }
        if call_shift(story.rungs.1) > 0 {
            notes.push(format!(
                "of calls that map memory one in {} or more was taken, to stay within --max-overhead",
                1_u64 << call_shift(story.rungs.1)
            ));
        }
        if let Some(after) = self.calls_given_up_ns {
            notes.push(format!(
                "calls that map memory were recorded for the first {} only: this machine makes so many system calls that looking at each \
                 costs more than --max-overhead",
                crate::output::duration(after)
            ));
        }
        if unknown_kind > 0 {
            notes.push(format!(
                "{} page faults are of processes that had ended, or of mappings that were gone, when their kind was looked up: one page each",
                thousands(unknown_kind)
            ));
        }
        if !self.folios.is_known() {
            notes.push(
                "huge pages are counted as small ones: /proc/kpageflags cannot be read (needs CAP_SYS_ADMIN)"
                    .to_owned(),
            );
        }
        notes
    }
}

/// What looking at the end of every system call has cost, and how far it is above the budget.
#[derive(Debug, Default)]
struct CostOfCalls {
    spent_ns: u64,
    over_ns: f64,
}

impl CostOfCalls {
    /// Takes in what was spent up to now; the budget is a share of one CPU. A burst is forgiven by what is left of the budget after it.
    fn is_too_much(&mut self, spent_ns: u64, elapsed_ns: u64, budget: f64) -> bool {
        let spent = spent_ns.saturating_sub(std::mem::replace(&mut self.spent_ns, spent_ns));
        self.over_ns = (self.over_ns + spent as f64 - elapsed_ns as f64 * budget).max(0.0);
        self.over_ns > budget * PATIENCE_WITH_CALLS_S * 1e9
    }
}

fn space(spaces: &mut HashMap<ProcessId, Space>, process: ProcessId, pid: u32) -> &mut Space {
    if spaces.len() >= MOST_SPACES && !spaces.contains_key(&process) {
        spaces.clear();
    }
    spaces.entry(process).or_insert_with(|| Space::open(pid))
}

fn total(counters: &[PerfEvent]) -> u64 {
    counters.iter().filter_map(|counter| counter.count().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storm_of_faults_is_thinned_out_and_forgotten() {
        let look_ns = 100_000_000;
        let options = MemoryOptions::default();
        let mut governor = Governor::new(0.02, PERIODS.len(), FIRST);
        // A million faults a second at two microseconds for each that is taken.
        let cost = |governor: &Governor| look_ns / 1_000 * 2_000 / options.period_of(governor.rung());
        for _ in 0..20 {
            governor.look(cost(&governor), look_ns);
        }
        assert!(cost(&governor) <= look_ns / 50, "period {}", options.period_of(governor.rung()));
        for _ in 0..400 {
            governor.look(0, look_ns);
        }
        assert_eq!((options.period_of(governor.rung()), call_shift(governor.rung())), (PERIODS[0], 0));
        assert!(call_shift(PERIODS.len() - 1) <= profiler_common::memory::MAX_CALL_SHIFT);
    }

    #[test]
    fn looking_at_every_call_is_given_up_before_a_window_is_over_its_budget() {
        // Looks of a tenth of a second on a machine of two CPUs, budget one percent of it; what they cost as a multiple of that.
        let given_up_after = |multiples: &[f64]| {
            let (mut cost, mut spent) = (CostOfCalls::default(), 0.0);
            let is_too_much = |multiple: &f64| {
                spent += multiple * 0.02 * 1e8;
                cost.is_too_much(spent as u64, 100_000_000, 0.02)
            };
            multiples.iter().map(is_too_much).position(|is| is)
        };
        assert_eq!(given_up_after(&[5.0; 100]), Some(3));
        assert_eq!(given_up_after(&[20.0; 100]), Some(0));
        assert_eq!(given_up_after(&[1.0; 1_000]), None);
        // A program starts now and then.
        let bursts: Vec<f64> = (0..1_000).map(|look| if look % 20 == 0 { 10.0 } else { 0.3 }).collect();
        assert_eq!(given_up_after(&bursts), None);
    }

    #[test]
    fn a_distance_that_was_asked_for_stays() {
        let options = MemoryOptions { period: Some(1), ..MemoryOptions::default() };
        assert_eq!([0, 9].map(|rung| options.period_of(rung)), [1, 1]);
    }
}
