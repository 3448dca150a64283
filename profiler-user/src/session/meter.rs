//! What a recording costs, by cause: the BPF programs, the way into them, and the agent itself.
//!
//! The kernel counts how long programs run, but not what it takes to get to them: the timer's interrupt, the tracepoint. What one of
//! each costs ([`EntryCosts`]) is multiplied with how often each program ran.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::bpf::{EntryCosts, ProgramRuns, Programs, Trigger, map_memory_bytes};
use crate::profile::{
    Overhead, ProgramCost, STAGE_DRAIN, STAGE_START, STAGE_TABLES, STAGE_WINDOWS, StageCost,
};
use crate::session::clock;
use crate::session::ledger::Spent;

/// A running measurement.
#[derive(Debug)]
pub(crate) struct Meter {
    cpus: u32,
    entry: EntryCosts,
    cpu_at_start_ns: u64,
    recording: Option<Recording>,
    /// CPU time of the thread that takes closed windows, as it says itself, nanoseconds.
    windows_ns: Arc<AtomicU64>,
}

/// Where the recording itself began.
#[derive(Debug, Clone, Copy)]
struct Recording {
    started: Instant,
    own_ns: u64,
    thread_ns: u64,
    busy_ns: u64,
}

impl Meter {
    /// Begins with what the start of a recording takes.
    pub(crate) fn begin(cpus: u32) -> Self {
        let cpu_at_start_ns = clock::own_cpu_ns();
        Self {
            cpus,
            entry: EntryCosts::default(),
            cpu_at_start_ns,
            recording: None,
            windows_ns: Arc::default(),
        }
    }

    /// Measures what an interrupt of the sampler costs; for recordings that have one.
    pub(crate) fn calibrate(&mut self) {
        self.entry = EntryCosts::measure();
    }

    /// The recording begins now, on the thread that will drain.
    pub(crate) fn started(&mut self) {
        self.recording = Some(Recording {
            started: Instant::now(),
            own_ns: clock::own_cpu_ns(),
            thread_ns: clock::thread_cpu_ns(),
            busy_ns: clock::machine_busy_ns(),
        });
    }

    /// Where the thread that takes closed windows says what CPU time it has used so far, nanoseconds.
    pub(crate) fn windows_ns(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.windows_ns)
    }

    /// CPUs of the machine.
    pub(crate) fn cpus(&self) -> u32 {
        self.cpus
    }

    /// When the recording began; now, as long as it has not.
    pub(crate) fn since(&self) -> Instant {
        self.recording.map_or_else(Instant::now, |recording| recording.started)
    }

    /// CPU time that goes on as long as the recording does, so far. Unwind tables are not in it: they cost the same however often is sampled.
    /// To be called on the thread that drains.
    pub(crate) fn spent(&self, programs: &Programs) -> Spent {
        let drain_ns = |recording: Recording| clock::thread_cpu_ns().saturating_sub(recording.thread_ns);
        let of_program = |cost: &ProgramRuns| cost.ns + self.entry.ns(cost.trigger, cost.runs);
        let costs = programs.costs();
        let of = |trigger| costs.iter().filter(|cost| cost.trigger == trigger).map(of_program).sum();
        Spent {
            programs_ns: costs.iter().map(of_program).sum(),
            sampler_ns: of(Trigger::Timer),
            scheduler_ns: of(Trigger::Scheduler),
            drain_ns: self.recording.map_or(0, drain_ns),
            windows_ns: self.windows_ns.load(Ordering::Relaxed),
        }
    }

    /// What the recording has cost so far. To be called on the thread that drains.
    pub(crate) fn overhead(&self, programs: &Programs) -> Overhead {
        let own_ns = clock::own_cpu_ns();
        let costs = programs.costs();
        let probes_ns = costs.iter().map(|cost| self.entry.ns(cost.trigger, cost.runs)).sum();
        let mut stages = Vec::new();
        let mut stage = |name: &str, cpu_ns| stages.push(StageCost { name: name.to_owned(), cpu_ns });
        if let Some(recording) = self.recording {
            let drain_ns = clock::thread_cpu_ns().saturating_sub(recording.thread_ns);
            stage(STAGE_START, recording.own_ns.saturating_sub(self.cpu_at_start_ns));
            stage(STAGE_DRAIN, drain_ns);
            let rest_ns = own_ns.saturating_sub(recording.own_ns).saturating_sub(drain_ns);
            let windows_ns = self.windows_ns.load(Ordering::Relaxed).min(rest_ns);
            stage(STAGE_TABLES, rest_ns - windows_ns);
            if windows_ns > 0 {
                stage(STAGE_WINDOWS, windows_ns);
            }
        }
        Overhead {
            agent_cpu_ns: own_ns.saturating_sub(self.cpu_at_start_ns),
            bpf_ns: costs.iter().map(|cost| cost.ns).sum(),
            probes_ns,
            busy_ns: self
                .recording
                .map_or(0, |recording| clock::machine_busy_ns().saturating_sub(recording.busy_ns)),
            wall_ns: self.since().elapsed().as_nanos() as u64,
            cpus: self.cpus,
            rss_peak_bytes: clock::rss_peak_bytes(),
            bpf_map_bytes: map_memory_bytes(),
            programs: costs
                .into_iter()
                .filter(|cost| cost.runs > 0)
                .map(|cost| ProgramCost { name: cost.name, runs: cost.runs, ns: cost.ns })
                .collect(),
            stages,
        }
    }
}
