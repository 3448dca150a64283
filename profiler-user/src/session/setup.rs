//! How a recording starts: what this kernel offers, what the programs are told, and the order that leaves no gap.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use profiler_common::config::{
    COPY_ALWAYS, COPY_WHEN_COLD, Config, FILTER_CGROUP, FILTER_PROCESS, FILTER_THREAD, STACK_KERNEL,
    STACK_USER,
};

use super::dump::StackDump;
use super::scope::{BaseConfig, enter_targets};
use super::{Idle, Scope, Session, SessionError, SessionOptions};
use crate::aggregate::{Aggregate, StackScope};
use crate::bpf::{Clock, ProgramFigures, Programs, ProgramsOptions};
use crate::ingest::SideBand;
use crate::process::{OutsidePid, Processes, Snapshot};
use crate::profile_type::{OnCpu, tick_ns};
use crate::unwinder::Unwinder;

/// Ring for the samples of one CPU at 99 Hz: about one second of stacks of ordinary depth, several times the drain interval.
const RING_BYTES_PER_CPU_AT_99_HZ: u64 = 128 << 10;
/// Bounds of the ring's size.
const RING_BYTES: std::ops::RangeInclusive<u64> = 512 << 10..=16 << 20;

impl Session {
    /// Starts a recording.
    ///
    /// The order leaves no gap: events first, then the processes that exist, then samples; so every sample finds its process.
    ///
    /// # Errors
    ///
    /// What the kernel refused, or what it lacks.
    pub fn start(options: &SessionOptions) -> Result<Self, SessionError> {
        let cpu_at_start_ns = super::own_cpu_ns();
        raise_descriptor_limit();
        let online = online_cpus()?;
        let wanted = options.cpus.as_ref();
        let sampled: Vec<u32> =
            online.iter().copied().filter(|cpu| wanted.is_none_or(|cpus| cpus.contains(cpu))).collect();
        let mut notes = Vec::new();
        let config = configure(options, &mut notes)?;
        let ring_bytes = ring_bytes(sampled.len() as u64, options.frequency_hz);
        let mut programs = Programs::load(&ProgramsOptions { config, ring_bytes })?;
        let side_band = SideBand::open(&online).map_err(SessionError::SideBand)?;
        let follow_in_kernel = config.filter & FILTER_PROCESS != 0 && config.has_offsets != 0;
        if follow_in_kernel || config.stacks & STACK_USER != 0 {
            programs.follow_processes()?;
        }
        let mut unwinder = Unwinder::new(programs.take_tables()?, config.code_mask, options.max_table_bytes)
            .map_err(SessionError::Unwinder)?;
        let mut processes = Processes::new(
            unix_offset_ns(),
            if config.pid_namespace_inum == 0 { OutsidePid::Idle } else { OutsidePid::Invisible },
        );
        let known = enter_targets(programs.targets_mut(), &options.scope, options.follow_forks)?;
        for snapshot in known.into_iter().filter_map(Snapshot::read) {
            processes.enter(&snapshot);
        }
        if config.stacks & STACK_USER != 0 {
            for (pid, mappings) in processes.all() {
                unwinder.load(pid, mappings);
            }
        }
        let sampler = OnCpu::attach(&mut programs, &sampled, options.clock, options.frequency_hz)?;
        let start_unix_ns = unix_ns();
        sampler
            .start()
            .map_err(|source| crate::profile_type::OnCpuError::Attach { cpu: sampled[0], source })?;
        Ok(Self {
            programs,
            side_band,
            sampler,
            processes,
            unwinder,
            dump: options.dump.as_deref().map(StackDump::create).transpose()?,
            aggregate: Aggregate::new(options.stacks),
            scope: options.scope.clone(),
            notes,
            follow_in_user_space: options.follow_forks
                && config.filter & FILTER_PROCESS != 0
                && !follow_in_kernel,
            undecodable: 0,
            started: Instant::now(),
            start_unix_ns,
            cpu_at_start_ns,
            cpus: online.len() as u32,
        })
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
        clock: Clock::CpuClock,
        frequency_hz: 99,
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
    let mut programs = Programs::load(&ProgramsOptions { config, ring_bytes })?;
    programs.follow_processes()?;
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
    Ok(Config {
        stacks,
        tick_ns: tick_ns(options.clock, options.frequency_hz),
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

fn unix_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

/// What to add to `CLOCK_MONOTONIC` to get Unix time.
fn unix_offset_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is valid for writes.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    unix_ns().saturating_sub(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
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
