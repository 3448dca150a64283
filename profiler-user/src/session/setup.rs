//! How a recording starts: what this kernel offers, what the programs are told, and the order that leaves no gap.

use std::collections::HashSet;

use profiler_common::config::{
    COPY_ALWAYS, COPY_WHEN_COLD, Config, FILTER_CGROUP, FILTER_PROCESS, FILTER_THREAD, STACK_KERNEL,
    STACK_USER,
};

use profiler_common::limits::{MAX_BLOCKS, MEMORY_RING_BYTES};
use profiler_common::off_cpu::SwitchConfig;
use profiler_common::syscall::{OWNER_CGROUP, SyscallConfig};

use super::dump::StackDump;
use super::ledger::Ledger;
use super::meter::Meter;
use super::scope::{BaseConfig, enter_targets};
use super::sums::AllSums;
use super::together::Together;
use super::window::Before;
use super::{Idle, Scope, Session, SessionError, SessionOptions, clock};
use crate::aggregate::StackScope;
use crate::bpf::{
    CallTables, Clock, HeapTables, ProgramFigures, Programs, ProgramsOptions, Tells, WaitTables,
};
use crate::ingest::SideBand;
use crate::process::{CgroupNames, OutsidePid, Processes, Snapshot, is_below_cgroup};
use crate::profile_type::{
    Heap, HeapOptions, Memory, OffCpu, OnCpu, ProfileKind, Rate, WaitOptions, Whom, mapping_calls, tick_ns,
};
use crate::system::features::Mounts;
use crate::unwinder::Unwinder;

/// Ring for the samples of one CPU at 99 Hz: about one second of stacks of ordinary depth, several times the drain interval.
const RING_BYTES_PER_CPU_AT_99_HZ: u64 = 128 << 10;
/// Least ring of a recording of waits: the copies that all of eight CPUs may send at once fit it twice at their usual size, 24 KiB.
const LEAST_RING_BYTES_OF_WAITS: u32 = 2 << 20;
/// Bounds of the ring's size.
const RING_BYTES: std::ops::RangeInclusive<u64> = 512 << 10..=16 << 20;

/// Told with the result: the budget is kept by what is counted.
const NOT_TIMED: &str = "what BPF programs cost is not in the cost, and not kept to --max-overhead: without CAP_SYS_ADMIN the kernel does not count it \
                         for us; run as root, or: sudo sysctl kernel.bpf_stats_enabled=1";

impl Session {
    /// Starts a recording.
    ///
    /// The order leaves no gap: events first, then the processes that exist, then samples; so every sample finds its process.
    ///
    /// # Errors
    ///
    /// What the kernel refused, or what it lacks.
    pub fn start(options: &SessionOptions) -> Result<Self, SessionError> {
        let online = online_cpus()?;
        let mut meter = Meter::begin(online.len() as u32);
        raise_descriptor_limit();
        let wanted = options.cpus.as_ref();
        let sampled: Vec<u32> =
            online.iter().copied().filter(|cpu| wanted.is_none_or(|cpus| cpus.contains(cpu))).collect();
        let mut notes = Vec::new();
        let config = configure(options, &mut notes)?;
        let waits = options.kinds().find_map(ProfileKind::waits);
        let ring_bytes = ring_bytes(sampled.len() as u64, options.rate.frequency_hz);
        // Numbered stacks come in a burst when a recording begins, many with a copy.
        let ring_bytes = if waits.is_some() { ring_bytes.max(LEAST_RING_BYTES_OF_WAITS) } else { ring_bytes };
        let growth = options.kinds().find_map(ProfileKind::memory);
        // Beside other kinds memory may lose events of a storm, which are counted: who records for months counts every page too.
        let ring_bytes = if options.kind.memory().is_some() || options.kind.heap().is_some() {
            ring_bytes.max(MEMORY_RING_BYTES)
        } else {
            ring_bytes
        };
        let samples_cpus = options.kinds().any(ProfileKind::samples_cpus);
        let mut programs = Programs::load(&ProgramsOptions {
            config,
            ring_bytes,
            cpu_samples: samples_cpus,
            waits: waits.map(|waits| waits.tables),
            turns: false,
            growth: growth.is_some(),
            heap: options.kind.heap().map(HeapOptions::tables),
            syscalls: None,
        })?;
        if !programs.are_timed() {
            notes.push(NOT_TIMED.to_owned());
        }
        if samples_cpus {
            meter.calibrate();
        }
        let side_band = SideBand::open(&online, Tells::Mappings).map_err(SessionError::SideBand)?;
        let follow_in_kernel = config.filter & FILTER_PROCESS != 0 && config.has_offsets != 0;
        if follow_in_kernel || config.stacks & STACK_USER != 0 {
            programs.follow_processes()?;
        }
        let mut unwinder = Unwinder::new(programs.take_tables()?, config.code_mask, options.max_table_bytes)
            .map_err(SessionError::Unwinder)?;
        let mut processes = Processes::new(
            clock::unix_offset_ns(),
            if config.pid_namespace_inum == 0 { OutsidePid::Idle } else { OutsidePid::Invisible },
        );
        let known = enter_targets(programs.targets_mut(), &options.scope, options.follow_forks)?;
        for snapshot in known.iter().copied().filter_map(Snapshot::read) {
            processes.enter(&snapshot);
        }
        if config.stacks & STACK_USER != 0 {
            for (pid, mappings) in processes.all() {
                unwinder.load(pid, mappings);
            }
        }
        let sampler = samples_cpus
            .then(|| OnCpu::attach(&mut programs, &sampled, options.rate, online.len() as u32))
            .transpose()?;
        // Loads, measures and places its probes, and counts only then: all of that is the start's.
        let heap = options.kind.heap().map(|heap| {
            let targets: HashSet<u32> = known.iter().copied().collect();
            let pids: Vec<u32> =
                known.iter().copied().filter(|pid| options.scope.has_process(*pid, &targets)).collect();
            Heap::start(&mut programs, heap, &pids).map(Box::new)
        });
        let heap = heap.transpose()?;
        let window = Before::first();
        meter.started();
        let waits = waits.map(|waits| {
            start_waits(&mut programs, waits, options, &config, online.len() as u32, &known, &mut notes)
        });
        let waits = waits.transpose()?;
        let memory = growth.map(|memory| Memory::start(&mut programs, memory, &online, whom(&options.scope)));
        let memory = memory.transpose()?;
        if let Some(sampler) = &sampler {
            sampler
                .start()
                .map_err(|source| crate::profile_type::OnCpuError::Attach { cpu: sampled[0], source })?;
        }
        Ok(Self {
            programs: Box::new(programs),
            side_band,
            clock: options.rate.clock,
            period: if sampler.is_some() && options.kind.waits().is_none() {
                tick_ns(options.rate.clock, options.rate.frequency_hz)
            } else {
                0
            },
            sampler,
            waits,
            memory,
            heap,
            processes,
            unwinder,
            dump: options.dump.as_deref().map(StackDump::create).transpose()?,
            sums: AllSums::new(&options.kind, &options.beside, options.stacks),
            scope: options.scope.clone(),
            notes,
            shed_failed: None,
            window,
            follow_in_user_space: options.follow_forks
                && config.filter & FILTER_PROCESS != 0
                && !follow_in_kernel,
            undecodable: 0,
            meter,
            ledger: Ledger::new(options.max_overhead() * online.len() as f64, clock::monotonic_ns()),
            max_overhead: options.max_overhead(),
            together: if options.kind.heap().is_some_and(|heap| heap.windows) {
                // Part of a recording that has its place among others.
                Together::alone(online.len() as u32)
            } else {
                Together::join(online.len() as u32)
            },
        })
    }
}

/// Begins to measure waits, those that have begun already included where we can name their threads to the kernel.
fn start_waits(
    programs: &mut Programs,
    waits: &WaitOptions,
    options: &SessionOptions,
    config: &Config,
    cpus: u32,
    known: &[u32],
    notes: &mut Vec<String>,
) -> Result<Box<OffCpu>, SessionError> {
    let nested = config.pid_namespace_inum != 0;
    if nested {
        notes.push("waits that began before the recording are left out: inside a PID namespace their threads cannot be named".to_owned());
    }
    // Below a control group only its own processes wait for us; the kernel filters the others, `/proc` does not.
    let group = match &options.scope {
        Scope::Cgroup { id, .. } => CgroupNames::of_host().name(*id),
        _ => None,
    };
    let in_group = |pid: u32| group.as_ref().is_none_or(|group| is_below_cgroup(pid, group));
    let others = known.iter().copied().filter(|pid| *pid != config.excluded_pid && in_group(*pid));
    let others: Vec<u32> = others.collect();
    let wanted = |tid: u32| match &options.scope {
        Scope::Threads(tids) => tids.contains(&tid),
        _ => true,
    };
    Ok(Box::new(OffCpu::start(programs, waits, cpus, (!nested).then_some(&*others), wanted)?))
}

/// Whose resident set to show beside the growth.
fn whom(scope: &Scope) -> Whom {
    match scope {
        Scope::Host => Whom::Host,
        Scope::Processes(_) | Scope::Command => Whom::Processes,
        Scope::Threads(_) => Whom::Threads,
        Scope::Cgroup { id, .. } => {
            let mount = Mounts::gather().unified();
            let name = CgroupNames::of_host().name(*id).unwrap_or_default();
            Whom::Group(mount.unwrap_or_default().join(name.trim_start_matches('/')))
        }
    }
}

/// Loads all programs in their largest form, with every filter on, and says what they take of the kernel's limits.
///
/// # Errors
///
/// What the kernel refused.
pub fn program_figures() -> Result<Vec<ProgramFigures>, SessionError> {
    let options = SessionOptions {
        scope: Scope::Host,
        follow_forks: true,
        cpus: None,
        kind: ProfileKind::Wall(WaitOptions { wakers: true, ..WaitOptions::default() }),
        beside: Vec::new(),
        rate: Rate { clock: Clock::CpuClock, frequency_hz: 99, max_overhead: None },
        idle: Idle::Exclude,
        stacks: StackScope::Both,
        max_table_bytes: 0,
        dump: None,
    };
    let config = Config {
        filter: FILTER_CGROUP | FILTER_PROCESS | FILTER_THREAD,
        carry_late_ticks: 1,
        ..configure(&options, &mut Vec::new())?
    };
    let ring_bytes = *RING_BYTES.start() as u32;
    let config_of_calls = SyscallConfig { owner: OWNER_CGROUP, status_offset: 8 };
    let syscalls = Some(CallTables { config: config_of_calls, entries: None });
    let mut programs = Programs::load(&ProgramsOptions {
        config,
        ring_bytes,
        cpu_samples: true,
        waits: Some(WaitTables::default()),
        turns: true,
        growth: true,
        heap: Some(HeapTables::Blocks(MAX_BLOCKS)),
        syscalls,
    })?;
    programs.follow_processes()?;
    programs.load_calls()?;
    programs.load_turns()?;
    let _loaded = programs.load_growth(true)?;
    let _loaded = programs.load_heap()?;
    Ok(programs.figures()?)
}

/// Takes all descriptors that we may have: each file with samples in it is held open, and the usual soft limit (1024) is for programs
/// that call `select`.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // Without it some files of a host with thousands of them have no names, and the result says so.
    let _as_it_was = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

fn configure(options: &SessionOptions, notes: &mut Vec<String>) -> Result<Config, SessionError> {
    let base = BaseConfig::new(&options.scope, options.follow_forks)?;
    if let Some(reason) = &base.without_types {
        notes.push(format!(
            "no kernel type information ({reason}): samples taken in the kernel have no user frames"
        ));
        if options.follow_forks && base.config.filter == FILTER_PROCESS {
            notes.push("children are followed from their first 0.1 s on".to_owned());
        }
    }
    let stacks = match options.stacks {
        StackScope::Both => STACK_KERNEL | STACK_USER,
        StackScope::KernelOnly => STACK_KERNEL,
        StackScope::UserOnly => STACK_USER,
    };
    let switch = match (options.kinds().find_map(ProfileKind::waits), base.switch) {
        (Some(waits), Some(layout)) if base.without_types.is_none() => waits.config(layout),
        (Some(_), _) => {
            return Err(SessionError::Unsupported {
                feature: "measuring waits",
                needs: "kernel type information (CONFIG_DEBUG_INFO_BTF)".to_owned(),
            });
        }
        (None, _) => SwitchConfig::default(),
    };
    Ok(Config {
        switch,
        mappings: mapping_calls(),
        stacks,
        tick_ns: tick_ns(options.rate.clock, options.rate.frequency_hz),
        copy_stacks: if options.dump.is_some() { COPY_ALWAYS } else { COPY_WHEN_COLD },
        include_idle: u32::from(options.idle == Idle::Include),
        carry_late_ticks: u32::from(!accounts_stolen_time()),
        ..base.config
    })
}

/// Whether the kernel knows what a hypervisor takes away from it: the eighth number of the first line of `/proc/stat` (proc(5)).
fn accounts_stolen_time() -> bool {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let stolen = stat.lines().next().and_then(|line| line.split_whitespace().nth(8)?.parse::<u64>().ok());
    stolen.is_some_and(|ticks| ticks > 0)
}

fn ring_bytes(cpus: u64, frequency_hz: u64) -> u32 {
    let wanted = cpus.saturating_mul(RING_BYTES_PER_CPU_AT_99_HZ).saturating_mul(frequency_hz.max(99)) / 99;
    wanted.clamp(*RING_BYTES.start(), *RING_BYTES.end()).next_power_of_two() as u32
}

fn online_cpus() -> Result<Vec<u32>, SessionError> {
    aya::util::online_cpus().map_err(|(_, error)| SessionError::Cpus(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ring_grows_with_cpus_and_rate_and_stays_a_power_of_two() {
        assert_eq!(ring_bytes(2, 99), 512 << 10);
        assert_eq!(ring_bytes(64, 99), 8 << 20);
        assert_eq!(ring_bytes(3, 4000), 16 << 20);
        assert_eq!(ring_bytes(1000, 1_000_000), 16 << 20);
    }
}
