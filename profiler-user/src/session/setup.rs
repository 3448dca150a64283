//! How a recording starts: what this kernel offers, what the programs are told, and the order that leaves no gap.

use std::collections::HashSet;
use std::path::Path;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use profiler_common::config::{
    ARCH_AARCH64, ARCH_X86_64, COPY_ALWAYS, COPY_WHEN_COLD, Config, FILTER_CGROUP, FILTER_PROCESS,
    FILTER_THREAD, KernelOffsets, STACK_KERNEL, STACK_USER, TARGET_SAMPLED,
};

use super::dump::StackDump;
use super::{Idle, Scope, Session, SessionError, SessionOptions};
use crate::aggregate::{Aggregate, StackScope};
use crate::bpf::{Clock, ProgramFigures, Programs, ProgramsOptions};
use crate::ingest::SideBand;
use crate::process::{OutsidePid, Processes, Snapshot, numeric_entries};
use crate::profile_type::{OnCpu, tick_ns};
use crate::system::btf::KernelTypes;
use crate::unwinder::Unwinder;

/// `PROC_PID_INIT_INO`, include/linux/proc_ns.h: the inode number of the initial PID namespace.
const INITIAL_PID_NAMESPACE: u64 = 0xeff_ffffc;

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
        let known = enter_targets(&mut programs, options)?;
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

/// Names the targets to the kernel and says which processes to look at before the first sample.
fn enter_targets(programs: &mut Programs, options: &SessionOptions) -> Result<Vec<u32>, SessionError> {
    match &options.scope {
        Scope::Host | Scope::Cgroup { .. } => Ok(numeric_entries(Path::new("/proc"))),
        Scope::Command => Ok(Vec::new()),
        Scope::Threads(tids) => {
            for tid in tids {
                programs.add_thread(*tid)?;
            }
            Ok(tids.iter().filter_map(|tid| process_of(*tid)).collect())
        }
        Scope::Processes(pids) => {
            let mut known: HashSet<u32> = HashSet::new();
            let mut found: Vec<u32> = pids.clone();
            // A process may fork between the look at `/proc` and its entry into the table; once it is in, the kernel follows it. So
            // look again until a look finds nobody new.
            while !found.is_empty() {
                for pid in found.drain(..) {
                    programs.add_target(pid, TARGET_SAMPLED)?;
                    known.insert(pid);
                }
                if options.follow_forks {
                    found = children_of(&known);
                }
            }
            Ok(known.into_iter().collect())
        }
    }
}

/// Processes whose parent is in `known` and that are not in it themselves.
fn children_of(known: &HashSet<u32>) -> Vec<u32> {
    let processes = numeric_entries(Path::new("/proc"));
    let is_child =
        |pid: &u32| !known.contains(pid) && parent_of(*pid).is_some_and(|parent| known.contains(&parent));
    processes.into_iter().filter(is_child).collect()
}

fn parent_of(pid: u32) -> Option<u32> {
    let stat = procfs::process::Process::new(pid as i32).ok()?.stat().ok()?;
    u32::try_from(stat.ppid).ok()
}

/// The process that a thread belongs to.
fn process_of(tid: u32) -> Option<u32> {
    let status = std::fs::read_to_string(format!("/proc/{tid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("Tgid:"))?.trim().parse().ok()
}

/// Whether a process or thread still runs: there, and not a zombie.
pub(super) fn is_alive(pid: u32) -> bool {
    let Ok(stat) = std::fs::read(format!("/proc/{pid}/stat")) else { return false };
    // The name in parentheses may hold anything; the state follows its last parenthesis.
    let state = stat.iter().rposition(|byte| *byte == b')').and_then(|end| stat.get(end + 2));
    !matches!(state, None | Some(b'Z' | b'X'))
}

fn configure(options: &SessionOptions, notes: &mut Vec<String>) -> Result<Config, SessionError> {
    let offsets = match KernelTypes::load() {
        Ok(types) => kernel_offsets(&types).map_err(|field| format!("the kernel's BTF has no `{field}`")),
        Err(error) => Err(error.to_string()),
    };
    let namespace = pid_namespace_inode();
    let nested = namespace != INITIAL_PID_NAMESPACE;
    if let (Err(reason), true) = (&offsets, nested) {
        return Err(SessionError::Unsupported {
            feature: "profiling inside a PID namespace",
            needs: format!("BTF ({reason})"),
        });
    }
    let filter = match &options.scope {
        Scope::Host => 0,
        Scope::Processes(_) | Scope::Command => FILTER_PROCESS,
        Scope::Threads(_) => FILTER_THREAD,
        Scope::Cgroup { .. } => FILTER_CGROUP,
    };
    if let Err(reason) = &offsets {
        notes.push(format!(
            "no kernel type information ({reason}): samples taken in the kernel have no user frames"
        ));
        if options.follow_forks && filter == FILTER_PROCESS {
            notes.push("children are followed from their first 0.1 s on".to_owned());
        }
    }
    let (cgroup_id, cgroup_level) = match options.scope {
        Scope::Cgroup { id, level } => (id, level),
        _ => (0, 0),
    };
    let stacks = match options.stacks {
        StackScope::Both => STACK_KERNEL | STACK_USER,
        StackScope::KernelOnly => STACK_KERNEL,
        StackScope::UserOnly => STACK_USER,
    };
    Ok(Config {
        arch: if cfg!(target_arch = "x86_64") { ARCH_X86_64 } else { ARCH_AARCH64 },
        filter,
        stacks,
        has_offsets: u32::from(offsets.is_ok()),
        follow_forks: u32::from(options.follow_forks),
        excluded_pid: std::process::id(),
        pid_namespace_inum: if nested { namespace as u32 } else { 0 },
        cgroup_level,
        cgroup_id,
        tick_ns: tick_ns(options.clock, options.frequency_hz),
        copy_stacks: if options.dump.is_some() { COPY_ALWAYS } else { COPY_WHEN_COLD },
        padding: 0,
        include_idle: u32::from(options.idle == Idle::Include),
        carry_late_ticks: u32::from(!accounts_stolen_time()),
        // 48 bits of user address unless the kernel and the program opted into more; the rest may be a signature.
        code_mask: if cfg!(target_arch = "aarch64") { (1 << 48) - 1 } else { u64::MAX },
        offsets: offsets.unwrap_or_default(),
    })
}

/// Whether the kernel knows what a hypervisor takes away from it: the eighth number of the first line of `/proc/stat` (proc(5)).
fn accounts_stolen_time() -> bool {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let stolen = stat.lines().next().and_then(|line| line.split_whitespace().nth(8)?.parse::<u64>().ok());
    stolen.is_some_and(|ticks| ticks > 0)
}

fn kernel_offsets(types: &KernelTypes) -> Result<KernelOffsets, String> {
    let offset = |structure: &str, member: &str| {
        types.offset_of(structure, member).ok_or_else(|| format!("{structure}.{member}"))
    };
    Ok(KernelOffsets {
        task_pid: offset("task_struct", "pid")?,
        task_tgid: offset("task_struct", "tgid")?,
        task_mm: offset("task_struct", "mm")?,
        task_thread_pid: offset("task_struct", "thread_pid")?,
        task_group_leader: offset("task_struct", "group_leader")?,
        task_signal: offset("task_struct", "signal")?,
        signal_live: offset("signal_struct", "live")?,
        pid_level: offset("pid", "level")?,
        pid_numbers: offset("pid", "numbers")?,
        upid_nr: offset("upid", "nr")?,
        upid_ns: offset("upid", "ns")?,
        upid_size: types.struct_size("upid").ok_or("upid")?,
        namespace_inum: offset("pid_namespace", "ns")? + offset("ns_common", "inum")?,
        padding: 0,
    })
}

fn pid_namespace_inode() -> u64 {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self/ns/pid").map_or(INITIAL_PID_NAMESPACE, |metadata| metadata.ino())
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

    #[test]
    fn we_are_alive_and_our_thread_belongs_to_us() {
        assert!(is_alive(std::process::id()));
        assert!(!is_alive(u32::MAX));
        // SAFETY: no preconditions.
        let tid = unsafe { libc::gettid() } as u32;
        assert_eq!(process_of(tid), Some(std::process::id()));
    }
}
