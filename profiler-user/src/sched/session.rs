//! One recording of the run queue: programs, tables, names.

use std::collections::{BTreeMap, HashMap, HashSet};

use profiler_common::config::FILTER_PROCESS;
use profiler_common::sched::TurnSum;
use profiler_common::stats::Stat;

use super::{CpuReport, ProcessTurns, SchedReport, Turns};
use crate::bpf::{Programs, ProgramsOptions, Targets, Tells, TurnMaps};
use crate::ingest::SideBand;
use crate::process::ProcessNames;
use crate::profile::{Counter, Meta, Overhead, Quality};
use crate::profile_type::WaitOptions;
use crate::session::meter::Meter;
use crate::session::together::Together;
use crate::session::{BaseConfig, Scope, SessionError, clock, enter_targets};

/// The ring carries nothing.
const RING_BYTES: u32 = 512 << 10;

/// A running recording.
pub struct SchedSession {
    programs: Programs,
    maps: TurnMaps,
    side_band: SideBand,
    names: ProcessNames,
    scope: Scope,
    meter: Meter,
    together: Together,
    start_unix_ns: u64,
}

impl SchedSession {
    /// Loads everything and begins to measure.
    ///
    /// # Errors
    ///
    /// What the kernel refused, or what it lacks.
    pub fn start(scope: &Scope, follow_forks: bool) -> Result<Self, SessionError> {
        let online = aya::util::online_cpus().map_err(|(_, error)| SessionError::Cpus(error))?;
        let mut meter = Meter::begin(online.len() as u32);
        let base = BaseConfig::new(scope, follow_forks)?;
        let layout = base.switch.filter(|_| base.without_types.is_none());
        let Some(layout) = layout else {
            return Err(SessionError::Unsupported {
                feature: "measuring the run queue",
                needs: "kernel type information (CONFIG_DEBUG_INFO_BTF)".to_owned(),
            });
        };
        let switch = WaitOptions::default().config(layout);
        let config = profiler_common::config::Config { switch, ..base.config };
        let mut programs = Programs::load(&ProgramsOptions {
            config,
            ring_bytes: RING_BYTES,
            cpu_samples: false,
            waits: None,
            turns: true,
            growth: false,
            heap: None,
            syscalls: None,
        })?;
        let side_band = SideBand::open(&online, Tells::Processes).map_err(SessionError::SideBand)?;
        if config.filter & FILTER_PROCESS != 0 {
            programs.follow_processes()?;
        }
        let maps = programs.load_turns()?;
        enter_targets(programs.targets_mut(), scope, follow_forks)?;
        let names = ProcessNames::of_host();
        programs.attach_turns()?;
        meter.started();
        Ok(Self {
            programs,
            maps,
            side_band,
            names,
            scope: scope.clone(),
            meter,
            together: Together::join(online.len() as u32),
            start_unix_ns: clock::unix_ns(),
        })
    }

    /// The tables of targets, for a command that is to be in scope.
    pub fn targets_mut(&mut self) -> &mut Targets {
        self.programs.targets_mut()
    }

    /// Whether a target that was named when the recording started still runs.
    pub fn has_living_target(&self) -> bool {
        self.scope.has_living_target(self.programs.targets())
    }

    /// Keeps names up to date, those of processes that have ended included.
    pub fn tick(&mut self) {
        let events = self.side_band.drain();
        self.names.apply(&events, |_| true);
        // It has nothing to leave out; the others leave what it takes.
        let _part = self.together.look(|| self.meter.spent(&self.programs).all_ns(), 1.0);
    }

    /// Ends the recording.
    ///
    /// # Errors
    ///
    /// The kernel's tables cannot be read.
    pub fn stop(mut self, meta: Meta) -> Result<SchedReport, SessionError> {
        let duration_ns = self.meter.since().elapsed().as_nanos() as u64;
        self.programs.detach_turns()?;
        self.tick();
        let (all, cpus) = self.by_cpu()?;
        let processes = self.by_process()?;
        let quality = Quality {
            samples: all.switches,
            noun: "switches".to_owned(),
            lost: self.lost(),
            notes: self.notes(),
            overhead: Some(self.overhead(duration_ns)),
            ..Quality::default()
        };
        let meta = Meta { duration_ns, start_unix_ns: self.start_unix_ns, ..meta };
        Ok(SchedReport { meta, all, processes, cpus, quality })
    }

    fn by_cpu(&self) -> Result<(Turns, Vec<CpuReport>), SessionError> {
        let mut all_sum = TurnSum::default();
        let mut all_buckets: [BTreeMap<u16, u64>; 2] = Default::default();
        let mut cpus = Vec::new();
        for cpu in self.maps.cpus()? {
            if cpu.sum.switches == 0 {
                continue;
            }
            let buckets = cpu.buckets.map(|counts| {
                let used = counts.into_iter().enumerate().filter(|(_, count)| *count > 0);
                used.map(|(bucket, count)| (bucket as u16, count)).collect::<BTreeMap<u16, u64>>()
            });
            for (all, own) in all_buckets.iter_mut().zip(&buckets) {
                for (bucket, count) in own {
                    *all.entry(*bucket).or_default() += count;
                }
            }
            all_sum.switches += cpu.sum.switches;
            all_sum.preempted += cpu.sum.preempted;
            all_sum.waits += cpu.sum.waits;
            all_sum.queued_ns += cpu.sum.queued_ns;
            all_sum.longest_ns = all_sum.longest_ns.max(cpu.sum.longest_ns);
            all_sum.ran_ns += cpu.sum.ran_ns;
            cpus.push(CpuReport { cpu: cpu.cpu, turns: Turns::new(&cpu.sum, &buckets) });
        }
        Ok((Turns::new(&all_sum, &all_buckets), cpus))
    }

    fn by_process(&self) -> Result<Vec<ProcessTurns>, SessionError> {
        let mut buckets: HashMap<u32, [BTreeMap<u16, u64>; 2]> = HashMap::new();
        for (key, count) in self.maps.buckets()? {
            if let Some(measure) = buckets.entry(key.pid).or_default().get_mut(usize::from(key.measure)) {
                measure.insert(key.bucket, count);
            }
        }
        let mut processes: Vec<ProcessTurns> = self
            .maps
            .sums()?
            .into_iter()
            .map(|(pid, sum)| {
                let turns = Turns::new(&sum, buckets.get(&pid).unwrap_or(&Default::default()));
                ProcessTurns { pid, name: self.names.name(pid), turns }
            })
            .collect();
        processes.sort_by_key(|process| {
            std::cmp::Reverse((process.turns.run_queue.total_ns, process.turns.switches, process.pid))
        });
        Ok(processes)
    }

    fn lost(&self) -> Vec<Counter> {
        let of_ours: HashSet<Stat> =
            [Stat::TurnsFull, Stat::TurnSumsFull, Stat::TurnBucketsFull, Stat::TargetsFull].into();
        let stats = self.programs.stats().into_iter().filter(|(stat, _)| of_ours.contains(stat));
        stats.filter_map(|(stat, count)| Counter::of(stat.id(), stat.describe(), count)).collect()
    }

    fn notes(&self) -> Vec<String> {
        let lost = self.names.lost();
        let names = (lost > 0)
            .then(|| format!("{lost} process events were lost; some names may be those of the parents"));
        names.into_iter().collect()
    }

    fn overhead(&self, wall_ns: u64) -> Overhead {
        Overhead { wall_ns, ..self.meter.overhead(&self.programs) }
    }
}
