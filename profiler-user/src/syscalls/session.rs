//! One recording of system calls: programs, tables, names, and the calls that were going on at both ends.

use std::collections::{HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use profiler_common::config::{Config, STACK_USER};
use profiler_common::stats::Stat;
use profiler_common::syscall::{
    MAX_CELLS, NO_SAMPLES, OWNER_CGROUP, OWNER_PROCESS, OWNER_THREAD, PENDING_NONE, SyscallConfig,
    SyscallControl, ThreadCalls,
};

use super::cost::{Cost, plain_call_ns};
use super::ended::Ended;
use super::exposure::Exposure;
use super::in_flight::{Waiting, current_call, waiting};
use super::model::{CallReport, CallStats, InFlight, Measure, OwnerCalls};
use super::names::Names;
use super::slices::{Slice, Slices, owners_of};
use super::slow::SlowCalls;
use super::stacks::{FinishedStacks, Stacks};
use super::tally::{RowKey, Tally, Weight};
use super::window::Window;
use crate::bpf::{CallCounts, CallMaps, CallTables, Programs, ProgramsOptions, Targets, Tells};
use crate::ingest::SideBand;
use crate::output::{percent, thousands};
use crate::process::{CgroupNames, ProcessNames};
use crate::profile::{Counter, Meta, Overhead, Profile, Quality, ValueType};
use crate::resolve::{Naming, resolve};
use crate::session::meter::Meter;
use crate::session::together::Together;
use crate::session::{BaseConfig, Scope, SessionError, clock, enter_targets};
use crate::symbolize::native;

/// Memory for unwind tables, bytes.
const MAX_TABLE_BYTES: u64 = 16 << 20;

/// The ring carries slow calls and samples of calls, or nothing.
const RING_BYTES: u32 = 4 << 20;
const LEAST_RING_BYTES: u32 = 64 << 10;

/// Share of the kernel's table that may fill before the entries of ended processes are taken out.
const PURGE_SHARE: u64 = 4;

/// Time over which the cost is judged, so that a burst of calls, as when a program starts, does not count as its habit.
const COST_WINDOW: Duration = Duration::from_millis(500);

/// As a multiple of the budget: what is not tolerated for that long either.
const FAR_TOO_MUCH: f64 = 5.0;

/// Threads without a call of their own in a slice that are asked for what they are in. Each costs about ten microseconds.
const QUIET_THREADS: usize = 64;

/// Calls in flight that a report lists; the rest is only counted.
const LISTED_IN_FLIGHT: usize = 1_000;

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
    side_band: SideBand,
    pub(super) processes: ProcessNames,
    names: Names,
    /// None where no single call is looked at.
    stacks: Option<Stacks>,
    pub(super) options: CallSessionOptions,
    pub(super) tally: Tally,
    pub(super) cost: Cost,
    /// None while every call is measured.
    pub(super) slices: Option<Slices>,
    pub(super) exposure: Exposure,
    /// Processes of this window that are counted together.
    pub(super) ended: Ended,
    /// CPU time that the agent needs around a slice, seconds; zero before the first one.
    around_s: f64,
    /// How long every call was measured before the slices began, in this window.
    pub(super) exact_ns: u64,
    /// Where this window began: the recording, unless it rotates.
    pub(super) window: Window,
    rate_known: bool,
    news: Vec<String>,
    /// What was told of the intervals before this one.
    told: Tally,
    interval_began: Instant,
    /// Calls that were going on when the recording began.
    before: Vec<Waiting>,
    /// Entries that were removed from the kernel's tables.
    pub(super) removed: u64,
    /// Entries at which the next look for ended processes is due.
    pub(super) purge_at: u64,
    /// Since when calls are measured, nanoseconds of `CLOCK_MONOTONIC`.
    since_ns: u64,
    failures: u64,
    notes: Vec<String>,
    meter: Meter,
    together: Together,
    /// CPU time that measuring calls took so far, nanoseconds.
    spent_ns: f64,
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

    /// Compares what measuring costs with what it may cost, and goes over to slices when it is too much.
    fn watch_cost(&mut self) -> Result<(), SessionError> {
        let (Some(budget), None) = (self.options.budget, &self.slices) else { return Ok(()) };
        let budget = budget * self.part;
        let rate = self.cost.peek(&self.programs);
        let settled = self.cost.looked_for() >= COST_WINDOW;
        if settled || rate.busiest_share > budget * FAR_TOO_MUCH {
            self.spent_ns +=
                rate.calls_per_second * self.cost.call_ns() * self.cost.looked_for().as_secs_f64();
            self.cost.restart(&self.programs);
        } else if self.rate_known {
            return Ok(());
        }
        let what = format!(
            "{} calls a second on this machine, {:.2} µs each: measuring every call costs {} of the busiest CPU",
            thousands(rate.calls_per_second as u64),
            self.cost.call_ns() / 1e3,
            percent(rate.busiest_share * 100.0),
        );
        let slices = Slices::new(budget, rate.busiest_share, self.around_s, Instant::now());
        // Slices cost something too; less than that cannot be had.
        let least = budget.max(slices.spent());
        let too_much = if settled { least } else { least * FAR_TOO_MUCH };
        if rate.busiest_share <= too_much {
            if !self.rate_known {
                self.news.push(what);
            }
            self.rate_known = true;
            return Ok(());
        }
        self.rate_known = true;
        let end_ns = self.close()?;
        self.maps.detach();
        self.exact_ns = end_ns.saturating_sub(self.since_ns.max(self.window.since_ns));
        let counts = self.maps.drain()?;
        self.add_exact(counts);
        self.removed = self.stat(Stat::SyscallEntries);
        self.news.push(format!(
            "{what}; from now on in slices of time, {} of it (--exact measures every call)",
            percent(slices.planned_share() * 100.0)
        ));
        self.slices = Some(slices);
        Ok(())
    }

    /// What there is to tell since the last time.
    pub fn take_news(&mut self) -> Vec<String> {
        std::mem::take(&mut self.news)
    }

    /// Ends measuring; returns when.
    fn close(&mut self) -> Result<u64, SessionError> {
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

    /// Leaves their part of the budget to other recordings.
    fn share_budget(&mut self) {
        let Some(budget) = self.options.budget else { return };
        if let Some(part) =
            self.together.look(|| self.meter.spent(&self.programs).all_ns() + self.spent_ns as u64, budget)
        {
            self.part = part;
            if let Some(slices) = &mut self.slices {
                slices.set_budget(budget * part);
            }
        }
    }

    pub(super) fn keep_up(&mut self) {
        let events = self.side_band.drain();
        let owners = self.tally.owners();
        self.processes.apply(&events, |pid| owners.contains(&u64::from(pid)));
        let made = self.stat(Stat::SyscallEntries);
        let factor = self.slices.as_ref().map_or(1.0, |slices| 1.0 / slices.planned_share());
        if let Some(stacks) = &mut self.stacks {
            stacks.tick(&mut self.programs, &events, &self.names, factor);
        }
        let measuring = self.slices.is_none();
        if measuring
            && self.options.owner != Owner::Cgroup
            && made.saturating_sub(self.removed) >= self.purge_at
        {
            self.purge();
        }
    }

    /// Takes out what was counted for processes that have ended.
    fn purge(&mut self) {
        let Ok(counts) = self.maps.read() else {
            self.failures += 1;
            return;
        };
        let mut alive: HashMap<u64, bool> = HashMap::new();
        let owner_kind = self.options.owner;
        let mut is_alive = |owner: u64| *alive.entry(owner).or_insert_with(|| exists(owner_kind, owner));
        let all = counts.len();
        let gone: CallCounts = counts.into_iter().filter(|(key, _)| !is_alive(key.call.owner)).collect();
        let removed = gone.len();
        if self.maps.remove(&gone).is_err() {
            self.failures += 1;
        }
        self.add_exact(gone);
        self.removed += removed as u64;
        // What is left belongs to the living; the next look is worth while when as much has come again.
        self.purge_at = (all - removed) as u64 + purge_step(&self.options);
    }

    /// Adds what was counted while every call was measured.
    pub(super) fn add_exact(&mut self, mut counts: CallCounts) {
        if self.puts_together() {
            self.ended.put_together(owners_of(&mut counts), self.tally.owners(), &self.processes);
        }
        self.tally.add(&counts, Weight::Exact);
    }

    /// Makes a slice ready that is about to be added: most short processes of it have ended by now.
    pub(super) fn put_together(&mut self, slice: Option<&mut Slice>) {
        if let Some(slice) = slice.filter(|_| self.puts_together()) {
            self.ended.put_together(slice.owners(), self.tally.owners(), &self.processes);
        }
    }

    /// Whether processes that have ended may be counted together: not where somebody waits for the table of this one recording.
    fn puts_together(&self) -> bool {
        self.options.windows && self.options.owner == Owner::Process
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

    /// Losses so far, by cause.
    pub(super) fn lost(&self) -> Vec<Counter> {
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
        push(
            "undecodable",
            "records that could not be decoded",
            self.stacks.as_ref().map_or(0, Stacks::undecodable),
        );
        push("owners_full", "counts not kept apart, table full", self.tally.overflowed());
        push("unreadable", "times that a table could not be read", self.failures);
        lost
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

    pub(super) fn report(
        &mut self,
        tally: &Tally,
        threads: &[ThreadCalls],
        end_ns: u64,
        meta: Meta,
    ) -> CallReport {
        let in_flight = self.in_flight(threads, end_ns);
        let seen = self.window.new_calls(&self.programs.calls_seen());
        let cost_ns = |calls: u64| calls as f64 * self.cost.call_ns();
        let wall_ns = self.window.began.elapsed().as_nanos() as u64;
        let overhead = self.overhead().since(&self.window.overhead);
        let overhead = Overhead { bpf_ns: cost_ns(seen.iter().sum()) as u64, wall_ns, ..overhead };
        let busiest_ns = cost_ns(seen.iter().max().copied().unwrap_or(0));
        let (slices, share) =
            self.slices.as_ref().map_or((0, 1.0), |slices| (slices.taken(), slices.share()));
        let measure = match self.slices {
            None => Measure::Exact,
            Some(_) => {
                Measure::Slices { slices, share, exact_share: self.exact_ns as f64 / wall_ns.max(1) as f64 }
            }
        };
        let mut notes = self.notes.clone();
        notes.extend(self.together.take_note());
        let skipped = self.stat(Stat::CallStacksSkipped);
        if skipped > 0 {
            notes.push(format!("{skipped} slow or sampled calls have no stack here: too many came at once"));
        }
        if self.slices.is_some() {
            notes.push(
                "calls that programs could not make because measuring slowed them down are added; ± holds in 99 of 100 recordings"
                    .to_owned(),
            );
        }
        if tally.began_before() > 0 {
            notes.push(format!(
                "{} calls had begun before the recording and returned in it; they are not counted",
                tally.began_before()
            ));
        }
        if self.processes.lost() > 0 {
            notes.push(format!(
                "{} process events were lost; some names may be those of the parents",
                self.processes.lost()
            ));
        }
        notes.extend(self.ended.note());
        let owners = self.owners(tally, &in_flight, slices, share);
        let quality = Quality {
            samples: owners.iter().map(OwnerCalls::count).sum(),
            lost: Counter::since(&self.lost(), &self.window.lost),
            notes,
            overhead: Some(overhead),
            ..Quality::default()
        };
        CallReport {
            meta: Meta { start_unix_ns: self.window.start_unix_ns, ..meta },
            measure,
            owners,
            in_flight: in_flight.into_iter().map(|(_, call)| call).take(LISTED_IN_FLIGHT).collect(),
            slow: Vec::new(),
            slow_total: 0,
            flame: None,
            slowdown_percent: busiest_ns * 100.0 / wall_ns.max(1) as f64,
            quality,
        }
    }

    /// The calls that have not returned, longest first.
    fn in_flight(&self, threads: &[ThreadCalls], end_ns: u64) -> Vec<(RowKey, InFlight)> {
        let mut found = Vec::new();
        if self.options.windows {
            return found;
        }
        if self.slices.is_some() {
            // Between slices a thread may have returned and called again; only what it does now is known.
            for thread in threads {
                if let Some(number) = current_call(thread.pid, thread.tid) {
                    let key = RowKey { owner: thread.owner, number, abi: thread.abi as u16 };
                    found.push((key, self.unfinished(thread.pid, thread.tid, key, None, false)));
                }
            }
            return found;
        }
        for thread in threads {
            let current = thread.entered_ns >= self.since_ns;
            let interrupted = thread.pending != PENDING_NONE && thread.pending_entered_ns >= self.since_ns;
            let (number, abi, since) = if current {
                (thread.number, thread.abi as u16, thread.entered_ns)
            } else if interrupted {
                (thread.pending_number, (thread.pending >> 16) as u16, thread.pending_entered_ns)
            } else {
                continue;
            };
            let key = RowKey { owner: thread.owner, number, abi };
            found.push((
                key,
                self.unfinished(thread.pid, thread.tid, key, Some(end_ns.saturating_sub(since)), false),
            ));
        }
        let active: HashSet<u32> = threads.iter().map(|thread| thread.tid).collect();
        for call in &self.before {
            let still = !active.contains(&call.tid) && current_call(call.pid, call.tid) == Some(call.number);
            if still {
                let key = RowKey { owner: self.owner_of(call), number: call.number, abi: call.abi };
                let ns = end_ns.saturating_sub(self.since_ns);
                found.push((key, self.unfinished(call.pid, call.tid, key, Some(ns), true)));
            }
        }
        found.sort_by_key(|(_, call)| std::cmp::Reverse((call.began_before, call.ns)));
        found
    }

    fn unfinished(&self, pid: u32, tid: u32, key: RowKey, ns: Option<u64>, began_before: bool) -> InFlight {
        let name = self.names.call(key.number, key.abi).into_owned();
        InFlight { pid, tid, thread: self.processes.thread_name(pid, tid), name, ns, began_before }
    }

    fn owner_of(&self, call: &Waiting) -> u64 {
        match self.options.owner {
            Owner::Process => u64::from(call.pid),
            Owner::Thread => thread_owner(call.pid, call.tid),
            // Zero is no group: such calls are listed, but not among those of a group.
            Owner::Cgroup => 0,
        }
    }

    fn owners(
        &self,
        tally: &Tally,
        in_flight: &[(RowKey, InFlight)],
        slices: u64,
        share: f64,
    ) -> Vec<OwnerCalls> {
        let corrections = self.exposure.corrections(self.cost.call_ns(), |owner| self.ended.owner(owner));
        let mut by_owner = tally.stats(&self.names, slices, share, &corrections);
        for (key, call) in in_flight {
            let calls = by_owner.entry(key.owner).or_default();
            match calls.iter_mut().find(|(known, _)| known == key) {
                Some((_, stats)) => stats.in_flight += 1,
                None => calls.push((
                    *key,
                    CallStats { name: call.name.clone(), in_flight: 1, ..CallStats::default() },
                )),
            }
        }
        let mut cgroups = CgroupNames::of_host();
        let mut owners: Vec<OwnerCalls> = by_owner
            .into_iter()
            .map(|(owner, calls)| {
                let mut calls: Vec<CallStats> = calls.into_iter().map(|(_, stats)| stats).collect();
                calls.sort_by(|a, b| (b.total_ns, b.count, &a.name).cmp(&(a.total_ns, a.count, &b.name)));
                let together = self.ended.name(owner).filter(|_| self.puts_together());
                let (pid, tid) = match self.options.owner {
                    Owner::Process if together.is_some() => (Some(0), None),
                    Owner::Process => (Some(owner as u32), None),
                    Owner::Thread => (Some((owner >> 32) as u32), Some(owner as u32)),
                    Owner::Cgroup => (None, None),
                };
                let name = together.unwrap_or_else(|| match (pid, tid) {
                    (Some(pid), Some(tid)) => self.processes.thread_name(pid, tid),
                    (Some(pid), None) => self.processes.name(pid),
                    _ => cgroups.name(owner).unwrap_or_else(|| "/".into()),
                });
                OwnerCalls { pid, tid, name, calls }
            })
            .collect();
        owners.sort_by_key(|owner| {
            std::cmp::Reverse((owner.total_ns(), owner.count(), std::cmp::Reverse(owner.pid)))
        });
        owners
    }
}

/// Sampled calls by stack, as a profile like any other.
fn flame(stacks: &FinishedStacks, report: &CallReport) -> Profile {
    let value_types = [ValueType::new("calls", "count"), ValueType::new("syscall_time", "nanoseconds")];
    let naming = Naming::Full(native::Options::default());
    let mut profile = resolve(
        &stacks.aggregate,
        &stacks.aggregate.known(&stacks.processes),
        &mut CgroupNames::of_host(),
        &value_types,
        report.meta.clone(),
        &naming,
    );
    profile.quality.lost.clone_from(&report.quality.lost);
    profile.quality.notes.clone_from(&report.quality.notes);
    profile.quality.overhead.clone_from(&report.quality.overhead);
    profile
}

/// New entries after which a look for ended processes is worth while.
pub(super) fn purge_step(options: &CallSessionOptions) -> u64 {
    u64::from(options.table_entries.unwrap_or(MAX_CELLS)) / PURGE_SHARE
}

fn thread_owner(pid: u32, tid: u32) -> u64 {
    u64::from(pid) << 32 | u64::from(tid)
}

fn exists(kind: Owner, owner: u64) -> bool {
    let path = match kind {
        Owner::Process => format!("/proc/{owner}"),
        Owner::Thread => format!("/proc/{}/task/{}", owner >> 32, owner as u32),
        Owner::Cgroup => return true,
    };
    std::path::Path::new(&path).exists()
}
