//! One recording of system calls: programs, tables, names, and the calls that were going on at both ends.

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use profiler_common::config::FILTER_PROCESS;
use profiler_common::stats::Stat;
use profiler_common::syscall::{
    MAX_SUMS, OWNER_CGROUP, OWNER_PROCESS, OWNER_THREAD, PENDING_NONE, SyscallConfig, SyscallControl,
    ThreadCalls,
};

use super::in_flight::{Waiting, current_call, waiting};
use super::model::{CallReport, CallStats, InFlight, Measure, OwnerCalls};
use super::names::Names;
use super::tally::{RowKey, Tally, Weight};
use crate::bpf::{CallCounts, CallMaps, CallTables, Programs, ProgramsOptions, Targets, map_memory_bytes};
use crate::ingest::SideBand;
use crate::process::{CgroupNames, ProcessNames};
use crate::profile::{Counter, Meta, Overhead, Quality};
use crate::session::{BaseConfig, Scope, SessionError, clock, enter_targets};

/// The ring carries slow calls only.
const RING_BYTES: u32 = 512 << 10;

/// Share of the kernel's tables that may fill before the entries of ended processes are taken out.
const PURGE_SHARE: u64 = 4;

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
    /// Entries of each of the kernel's tables; none for the usual sizes.
    pub table_entries: Option<u32>,
}

/// A running recording.
pub struct CallSession {
    programs: Programs,
    maps: CallMaps,
    side_band: SideBand,
    processes: ProcessNames,
    names: Names,
    options: CallSessionOptions,
    tally: Tally,
    /// What was told of the intervals before this one.
    told: Tally,
    interval_began: Instant,
    /// Calls that were going on when the recording began.
    before: Vec<Waiting>,
    /// Entries that were removed from the kernel's tables.
    removed: u64,
    /// Entries at which the next look for ended processes is due.
    purge_at: u64,
    /// Since when calls are measured, nanoseconds of `CLOCK_MONOTONIC`.
    since_ns: u64,
    failures: u64,
    notes: Vec<String>,
    started: Instant,
    start_unix_ns: u64,
    cpu_at_start_ns: u64,
    cpus: u32,
}

impl CallSession {
    /// Loads everything and begins to measure.
    ///
    /// # Errors
    ///
    /// What the kernel refused, or what it lacks.
    pub fn start(options: &CallSessionOptions) -> Result<Self, SessionError> {
        let cpu_at_start_ns = clock::own_cpu_ns();
        let online = aya::util::online_cpus().map_err(|(_, error)| SessionError::Cpus(error))?;
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
        let syscalls = Some(CallTables { config, entries: options.table_entries });
        let mut programs = Programs::load(&ProgramsOptions {
            config: base.config,
            ring_bytes: RING_BYTES,
            cpu_samples: false,
            waits: false,
            turns: false,
            syscalls,
        })?;
        let side_band = SideBand::open(&online).map_err(SessionError::SideBand)?;
        if base.config.filter & FILTER_PROCESS != 0 && base.config.has_offsets != 0 {
            programs.follow_processes()?;
        }
        let mut maps = programs.load_calls()?;
        let known = enter_targets(programs.targets_mut(), &options.scope, options.follow_forks)?;
        let before = waiting(&known);
        programs.attach_calls(&mut maps)?;
        let mut session = Self {
            programs,
            maps,
            side_band,
            processes: ProcessNames::of_host(),
            names: Names::load(),
            options: options.clone(),
            tally: Tally::default(),
            told: Tally::default(),
            interval_began: Instant::now(),
            before,
            removed: 0,
            purge_at: purge_step(options),
            since_ns: 0,
            failures: 0,
            notes,
            started: Instant::now(),
            start_unix_ns: clock::unix_ns(),
            cpu_at_start_ns,
            cpus: online.len() as u32,
        };
        session.open()?;
        Ok(session)
    }

    /// Begins to measure.
    fn open(&mut self) -> Result<(), SessionError> {
        self.since_ns = clock::monotonic_ns();
        Ok(self.maps.control(SyscallControl { since_ns: self.since_ns, slow_ns: u64::MAX })?)
    }

    /// The tables of targets, for a command that is to be in scope.
    pub fn targets_mut(&mut self) -> &mut Targets {
        self.programs.targets_mut()
    }

    /// Whether a target that was named when the recording started still runs.
    pub fn has_living_target(&self) -> bool {
        self.options.scope.has_living_target(self.programs.targets())
    }

    /// When it began.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Keeps names up to date and the kernel's tables from filling with processes that have ended.
    pub fn tick(&mut self) {
        let events = self.side_band.drain();
        let owners = self.tally.owners();
        self.processes.apply(&events, |pid| owners.contains(&u64::from(pid)));
        let made = self.stat(Stat::SyscallEntries);
        if self.options.owner != Owner::Cgroup && made.saturating_sub(self.removed) >= self.purge_at {
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
        let CallCounts { sums, cells } = counts;
        let all = sums.len() + cells.len();
        let gone = CallCounts {
            sums: sums.into_iter().filter(|(key, _)| !is_alive(key.owner)).collect(),
            cells: cells.into_iter().filter(|(key, _)| !is_alive(key.call.owner)).collect(),
        };
        let removed = gone.sums.len() + gone.cells.len();
        if self.maps.remove(&gone).is_err() {
            self.failures += 1;
        }
        self.tally.add(&gone, Weight::Exact);
        self.removed += removed as u64;
        // What is left belongs to the living; the next look is worth while when as much has come again.
        self.purge_at = (all - removed) as u64 + purge_step(&self.options);
    }

    fn stat(&self, wanted: Stat) -> u64 {
        self.programs.stats().into_iter().find(|(stat, _)| *stat == wanted).map_or(0, |(_, count)| count)
    }

    /// Calls that were counted so far.
    pub fn calls(&self) -> u64 {
        self.tally.calls()
    }

    /// What the recording has cost so far.
    pub fn overhead(&self) -> Overhead {
        Overhead {
            agent_cpu_ns: clock::own_cpu_ns().saturating_sub(self.cpu_at_start_ns),
            bpf_ns: self.programs.run_time_ns(),
            wall_ns: self.started.elapsed().as_nanos() as u64,
            cpus: self.cpus,
            rss_peak_bytes: clock::rss_peak_bytes(),
            bpf_map_bytes: map_memory_bytes(),
        }
    }

    /// Losses so far, by cause.
    fn lost(&self) -> Vec<Counter> {
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
        self.tick();
        let threads = self.maps.threads()?;
        let mut now = self.tally.clone();
        now.add(&self.maps.read()?, Weight::Exact);
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
        let end_ns = clock::monotonic_ns();
        let duration_ns = self.started.elapsed().as_nanos() as u64;
        self.maps.control(SyscallControl { since_ns: 0, slow_ns: u64::MAX })?;
        let threads = self.maps.threads()?;
        self.maps.detach();
        self.tick();
        let mut tally = std::mem::take(&mut self.tally);
        tally.add(&self.maps.read()?, Weight::Exact);
        Ok(self.report(&tally, &threads, end_ns, Meta { duration_ns, ..meta }))
    }

    fn report(&self, tally: &Tally, threads: &[ThreadCalls], end_ns: u64, meta: Meta) -> CallReport {
        let in_flight = self.in_flight(threads, end_ns);
        let overhead = Overhead { wall_ns: self.started.elapsed().as_nanos() as u64, ..self.overhead() };
        let mut notes = self.notes.clone();
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
        let quality = Quality {
            samples: tally.calls(),
            lost: self.lost(),
            notes,
            overhead: Some(overhead),
            ..Quality::default()
        };
        CallReport {
            meta: Meta { start_unix_ns: self.start_unix_ns, ..meta },
            measure: Measure::Exact,
            owners: self.owners(tally, &in_flight),
            in_flight: in_flight.into_iter().map(|(_, call)| call).take(LISTED_IN_FLIGHT).collect(),
            slowdown_percent: 0.0,
            quality,
        }
    }

    /// The calls that have not returned, longest first.
    fn in_flight(&self, threads: &[ThreadCalls], end_ns: u64) -> Vec<(RowKey, InFlight)> {
        let mut found = Vec::new();
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
                self.unfinished(thread.pid, thread.tid, key, end_ns.saturating_sub(since), false),
            ));
        }
        let active: HashSet<u32> = threads.iter().map(|thread| thread.tid).collect();
        for call in &self.before {
            let still = !active.contains(&call.tid) && current_call(call.pid, call.tid) == Some(call.number);
            if still {
                let key = RowKey { owner: self.owner_of(call), number: call.number, abi: call.abi };
                let ns = end_ns.saturating_sub(self.since_ns);
                found.push((key, self.unfinished(call.pid, call.tid, key, ns, true)));
            }
        }
        found.sort_by_key(|(_, call)| std::cmp::Reverse((call.began_before, call.ns)));
        found
    }

    fn unfinished(&self, pid: u32, tid: u32, key: RowKey, ns: u64, began_before: bool) -> InFlight {
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

    fn owners(&self, tally: &Tally, in_flight: &[(RowKey, InFlight)]) -> Vec<OwnerCalls> {
        let mut by_owner = tally.stats(&self.names, 0, 1.0);
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
                let (pid, tid) = match self.options.owner {
                    Owner::Process => (Some(owner as u32), None),
                    Owner::Thread => (Some((owner >> 32) as u32), Some(owner as u32)),
                    Owner::Cgroup => (None, None),
                };
                let name = match (pid, tid) {
                    (Some(pid), Some(tid)) => self.processes.thread_name(pid, tid),
                    (Some(pid), None) => self.processes.name(pid),
                    _ => cgroups.name(owner).unwrap_or_else(|| "/".into()),
                };
                OwnerCalls { pid, tid, name, calls }
            })
            .collect();
        owners.sort_by_key(|owner| {
            std::cmp::Reverse((owner.total_ns(), owner.count(), std::cmp::Reverse(owner.pid)))
        });
        owners
    }
}

/// New entries after which a look for ended processes is worth while.
fn purge_step(options: &CallSessionOptions) -> u64 {
    // The smaller of the two tables fills first, when each process makes few calls of many kinds.
    u64::from(options.table_entries.unwrap_or(MAX_SUMS)) / PURGE_SHARE
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
