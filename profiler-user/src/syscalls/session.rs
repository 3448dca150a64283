//! One recording of system calls: programs, tables, names, and the calls that were going on at both ends.

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::time::Instant;

use profiler_common::config::{Config, STACK_USER};
use profiler_common::stats::Stat;
use profiler_common::syscall::{
    NO_SAMPLES, OWNER_CGROUP, OWNER_PROCESS, OWNER_THREAD, SyscallConfig, SyscallControl, ThreadCalls,
};

use super::cost::{Cost, plain_call_ns};
use super::ended::Ended;
use super::exposure::Exposure;
use super::in_flight::{Waiting, current_call, waiting};
use super::model::CallReport;
use super::names::Names;
use super::outcome::flame;
use super::slices::{Slice, Slices};
use super::slow::SlowCalls;
use super::stacks::Stacks;
use super::tally::{RowKey, Tally, Weight};
use super::upkeep::purge_step;
use super::window::Window;
use crate::bpf::{CallMaps, CallTables, Programs, ProgramsOptions, Targets, Tells};
use crate::ingest::SideBand;
use crate::process::ProcessNames;
use crate::profile::{Meta, Overhead};
use crate::session::meter::Meter;
use crate::session::together::Together;
use crate::session::{BaseConfig, Scope, SessionError, clock, enter_targets};

/// Memory for unwind tables, bytes.
const MAX_TABLE_BYTES: u64 = 16 << 20;

/// The ring carries slow calls and samples of calls, or nothing.
const RING_BYTES: u32 = 4 << 20;
const LEAST_RING_BYTES: u32 = 64 << 10;

/// Threads without a call of their own in a slice that are asked for what they are in. Each costs about ten microseconds.
const QUIET_THREADS: usize = 64;

/// By whom calls are kept apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Owner {
    /// By process.
    #[default]
    Process,
    /// By thread.
    Thread,
    /// By control group (version 2).
    Cgroup,
}

/// What to record.
#[derive(Debug, Clone)]
pub struct CallSessionOptions {
    /// Whom.
    pub scope: Scope,
    /// Whether children of target processes are targets.
    pub follow_forks: bool,
    /// By whom calls are kept apart.
    pub owner: Owner,
    /// What measuring may cost the busiest CPU, as a share of its time; none to measure every call whatever it costs.
    pub budget: Option<f64>,
    /// From which length on calls are listed one by one, nanoseconds; none for the slowest few.
    pub slower_than_ns: Option<u64>,
    /// Whether calls are sampled by stack.
    pub flame: bool,
    /// Whether it is a part of a recording that goes on for months: then it only counts, in windows, and looks at no single call; and what may be
    /// spent is settled already.
    pub windows: bool,
    /// Entries of each of the kernel's tables; none for the usual sizes.
    pub table_entries: Option<u32>,
}

/// A running recording.
pub struct CallSession {
    pub(super) programs: Programs,
    pub(super) maps: CallMaps,
    pub(super) side_band: SideBand,
    pub(super) processes: ProcessNames,
    pub(super) names: Names,
    /// None where no single call is looked at.
    pub(super) stacks: Option<Stacks>,
    pub(super) options: CallSessionOptions,
    pub(super) tally: Tally,
    pub(super) cost: Cost,
    /// None while every call is measured.
    pub(super) slices: Option<Slices>,
    pub(super) exposure: Exposure,
    /// Processes of this window that are counted together.
    pub(super) ended: Ended,
    /// CPU time that the agent needs around a slice, seconds; zero before the first one.
    pub(super) around_s: f64,
    /// How long every call was measured before the slices began, in this window.
    pub(super) exact_ns: u64,
    /// Where this window began: the recording, unless it rotates.
    pub(super) window: Window,
    pub(super) rate_known: bool,
    pub(super) news: Vec<String>,
    /// What was told of the intervals before this one.
    told: Tally,
    interval_began: Instant,
    /// Calls that were going on when the recording began.
    pub(super) before: Vec<Waiting>,
    /// Entries that were removed from the kernel's tables.
    pub(super) removed: u64,
    /// Entries at which the next look for ended processes is due.
    pub(super) purge_at: u64,
    /// Since when calls are measured, nanoseconds of `CLOCK_MONOTONIC`.
    pub(super) since_ns: u64,
    pub(super) failures: u64,
    pub(super) notes: Vec<String>,
    pub(super) meter: Meter,
    pub(super) together: Together,
    /// CPU time that measuring calls took so far, nanoseconds.
    pub(super) spent_ns: f64,
    /// Part of the budget that other recordings leave.
    pub(super) part: f64,
}

impl CallSession {
    /// Loads everything and begins to measure.
    ///
    /// # Errors
    ///
    /// What the kernel refused, or what it lacks.
    pub fn start(options: &CallSessionOptions) -> Result<Self, SessionError> {
        let online = aya::util::online_cpus().map_err(|(_, error)| SessionError::Cpus(error))?;
        let meter = Meter::begin(online.len() as u32);
        let base = BaseConfig::new(&options.scope, options.follow_forks)?;
        let mut notes = Vec::new();
        if let Some(reason) = &base.without_types {
            notes.push(format!(
                "no kernel type information ({reason}): 32-bit calls have the names of 64-bit ones, children are not followed"
            ));
        }
        let owner = match options.owner {
            Owner::Process => OWNER_PROCESS,
            Owner::Thread => OWNER_THREAD,
            Owner::Cgroup => OWNER_CGROUP,
        };
        let config = SyscallConfig { owner, status_offset: base.thread_status };
        let programs_config = Config { stacks: STACK_USER, ..base.config };
        let syscalls = Some(CallTables { config, entries: options.table_entries });
        let mut programs = Programs::load(&ProgramsOptions {
            config: programs_config,
            ring_bytes: if options.windows { LEAST_RING_BYTES } else { RING_BYTES },
            cpu_samples: false,
            waits: None,
            turns: false,
            growth: false,
            heap: None,
            syscalls,
        })?;
        let tells = if options.windows { Tells::Processes } else { Tells::Mappings };
        let side_band = SideBand::open(&online, tells).map_err(SessionError::SideBand)?;
        programs.follow_processes()?;
        let mut maps = programs.load_calls()?;
        let known = enter_targets(programs.targets_mut(), &options.scope, options.follow_forks)?;
        let before = waiting(&known);
        let stacks = (!options.windows).then(|| {
            let slow = SlowCalls::new(options.slower_than_ns);
            Stacks::new(&mut programs, base.config.code_mask, MAX_TABLE_BYTES, &known, slow)
        });
        let stacks = stacks.transpose()?;
        let cost = Cost::calibrate(&mut programs, &mut maps)?;
        let mut session = Self {
            programs,
            maps,
            side_band,
            processes: ProcessNames::of_host(),
            names: Names::load(),
            stacks,
            options: options.clone(),
            tally: Tally::default(),
            cost,
            slices: None,
            exposure: Exposure::default(),
            ended: Ended::default(),
            around_s: 0.0,
            exact_ns: 0,
            rate_known: false,
            news: Vec::new(),
            told: Tally::default(),
            interval_began: Instant::now(),
            before,
            removed: 0,
            purge_at: purge_step(options),
            since_ns: 0,
            failures: 0,
            notes,
            meter,
            together: if options.windows {
                Together::alone(online.len() as u32)
            } else {
                Together::join(online.len() as u32)
            },
            spent_ns: 0.0,
            part: 1.0,
            window: Window::first(),
        };
        session.meter.started();
        session.window = Window::first();
        session.cost.restart(&session.programs);
        session.open()?;
        Ok(session)
    }

    /// When [`CallSession::step`] has something to do; never while every call is measured.
    pub fn next_step(&self) -> Option<Instant> {
        self.slices.as_ref().map(Slices::due)
    }

    /// Measures for one slice of time. Takes as long as the slice: some milliseconds, never more than an eighth of a second.
    ///
    /// # Errors
    ///
    /// What the kernel refused.
    pub fn step(&mut self) -> Result<(), SessionError> {
        let Some(mut slices) = self.slices.take() else { return Ok(()) };
        let began_ns = clock::thread_cpu_ns();
        let plain = plain_call_ns();
        self.programs.attach_calls(&mut self.maps)?;
        self.cost.restart(&self.programs);
        self.open()?;
        std::thread::sleep(slices.length());
        let end_ns = self.close()?;
        let ns = end_ns.saturating_sub(self.since_ns);
        let rate = self.cost.rate(&self.programs, ns as f64 / 1e9);
        self.spent_ns += rate.calls_per_second * self.cost.call_ns() * ns as f64 / 1e9;
        let threads = self.maps.threads()?;
        let counts = self.maps.drain()?;
        self.cost.calibrate_again(&mut self.maps, plain)?;
        self.maps.detach();
        let open = self.open_time(&threads, end_ns);
        self.exposure.add(&threads, self.since_ns, ns);
        let slice = Slice { counts, open, ns };
        let around_s = clock::thread_cpu_ns().saturating_sub(began_ns) as f64 / 1e9;
        self.put_together(slices.pending());
        slices.add(&mut self.tally, slice, rate.busiest_share, around_s);
        self.around_s = slices.around_s();
        self.slices = Some(slices);
        Ok(())
    }

    /// Time that calls took inside the slice that did not end in it, nanoseconds.
    fn open_time(&self, threads: &[ThreadCalls], end_ns: u64) -> Vec<(RowKey, f64)> {
        let mut open = Vec::new();
        let mut quiet: Vec<Waiting> = Vec::new();
        for thread in threads {
            let key = RowKey { owner: thread.owner, number: thread.number, abi: thread.abi as u16 };
            if thread.entered_ns >= self.since_ns {
                open.push((key, end_ns.saturating_sub(thread.entered_ns) as f64));
            } else if thread.left_ns < self.since_ns {
                quiet.push(Waiting {
                    pid: thread.pid,
                    tid: thread.tid,
                    number: thread.number,
                    abi: thread.abi as u16,
                });
            }
        }
        let known: HashSet<u32> = threads.iter().map(|thread| thread.tid).collect();
        quiet.extend(self.before.iter().filter(|call| !known.contains(&call.tid)));
        // They made no call in the slice: those inside of one now were so all the time. A few stand for all of them.
        let step = quiet.len().div_ceil(QUIET_THREADS).max(1);
        let slice_ns = end_ns.saturating_sub(self.since_ns) as f64;
        for call in quiet.iter().skip(end_ns as usize % step).step_by(step) {
            if let Some(number) = current_call(call.pid, call.tid) {
                let key = RowKey { owner: self.owner_of(call), number, abi: call.abi };
                open.push((key, slice_ns * step as f64));
            }
        }
        open
    }

    /// What there is to tell since the last time.
    pub fn take_news(&mut self) -> Vec<String> {
        std::mem::take(&mut self.news)
    }

    /// Ends measuring; returns when.
    pub(super) fn close(&mut self) -> Result<u64, SessionError> {
        let end_ns = clock::monotonic_ns();
        self.maps.control(SyscallControl::since(0))?;
        Ok(end_ns)
    }

    /// Begins to measure.
    pub(super) fn open(&mut self) -> Result<(), SessionError> {
        self.since_ns = clock::monotonic_ns();
        self.tell_programs()
    }

    /// Says since when to measure, and which calls are worth a stack now.
    fn tell_programs(&mut self) -> Result<(), SessionError> {
        let control = SyscallControl {
            since_ns: self.since_ns,
            slow_ns: self.stacks.as_ref().map_or(u64::MAX, |stacks| stacks.slow.threshold_ns()),
            sample_shift: match &self.stacks {
                Some(stacks) if self.options.flame => stacks.sample_shift(),
                _ => NO_SAMPLES,
            },
        };
        Ok(self.maps.control(control)?)
    }

    /// The tables of targets, for a command that is to be in scope.
    pub fn targets_mut(&mut self) -> &mut Targets {
        self.programs.targets_mut()
    }

    /// Whether a target that was named when the recording started still runs.
    pub fn has_living_target(&self) -> bool {
        self.options.scope.has_living_target(self.programs.targets())
    }

    /// The ring, which wakes up whoever polls it when a table is missing.
    ///
    /// # Errors
    ///
    /// No descriptor is left.
    pub fn ring_fd(&self) -> std::io::Result<OwnedFd> {
        self.programs.ring_fd()
    }

    /// When it began.
    pub fn started(&self) -> Instant {
        self.meter.since()
    }

    /// Keeps names up to date and the kernel's tables from filling with processes that have ended.
    ///
    /// # Errors
    ///
    /// What the kernel refused.
    pub fn tick(&mut self) -> Result<(), SessionError> {
        self.keep_up();
        if self.slices.is_none() {
            self.tell_programs()?;
        }
        self.share_budget();
        self.watch_cost()
    }

    pub(super) fn stat(&self, wanted: Stat) -> u64 {
        self.programs.stats().into_iter().find(|(stat, _)| *stat == wanted).map_or(0, |(_, count)| count)
    }

    /// Calls that were counted so far.
    pub fn calls(&self) -> u64 {
        self.tally.calls()
    }

    /// What the recording has cost so far.
    pub fn overhead(&self) -> Overhead {
        self.meter.overhead(&self.programs)
    }

    /// What happened since the last call of this, or since the beginning.
    ///
    /// # Errors
    ///
    /// The kernel's tables cannot be read.
    pub fn interval(&mut self, meta: Meta) -> Result<CallReport, SessionError> {
        self.keep_up();
        let threads = self.maps.threads()?;
        let mut now = self.tally.clone();
        if self.slices.is_none() {
            now.add(&self.maps.read()?, Weight::Exact);
        }
        let new = now.since(&self.told);
        let duration_ns = self.interval_began.elapsed().as_nanos() as u64;
        self.interval_began = Instant::now();
        self.told = now;
        Ok(self.report(&new, &threads, clock::monotonic_ns(), Meta { duration_ns, ..meta }))
    }

    /// Ends the recording.
    ///
    /// # Errors
    ///
    /// The kernel's tables cannot be read.
    pub fn stop(mut self, meta: Meta) -> Result<CallReport, SessionError> {
        let duration_ns = self.started().elapsed().as_nanos() as u64;
        let end_ns = self.close()?;
        let threads = self.maps.threads()?;
        self.maps.detach();
        self.keep_up();
        let mut tally = std::mem::take(&mut self.tally);
        match &mut self.slices {
            Some(slices) => slices.finish(&mut tally, Instant::now()),
            None => tally.add(&self.maps.drain()?, Weight::Exact),
        }
        let meta = Meta { duration_ns, ..meta };
        let mut report = self.report(&tally, &threads, end_ns, meta);
        let factor = self.slices.as_ref().map_or(1.0, |slices| 1.0 / slices.planned_share());
        if let Some(stacks) = self.stacks {
            let mut stacks = stacks.finish(&self.names, factor);
            report.slow_total = tally.at_least(stacks.slow.listed_from_ns());
            if self.options.flame {
                report.flame = Some(flame(&stacks, &report));
            }
            report.slow = stacks.slow.finish(&mut stacks.processes, &self.names);
        }
        Ok(report)
    }
}
