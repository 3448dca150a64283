//! Whom a recording covers, and what follows from it for the programs, whatever they record.

use std::collections::HashSet;
use std::path::Path;

use profiler_common::config::{
    ARCH_AARCH64, ARCH_X86_64, Config, FILTER_CGROUP, FILTER_PROCESS, FILTER_THREAD, KernelOffsets,
};

use super::SessionError;
use crate::bpf::Targets;
use crate::process::{CgroupNames, is_below_cgroup, numeric_entries};
use crate::system::btf::KernelTypes;

/// `PROC_PID_INIT_INO`, include/linux/proc_ns.h: the inode number of the initial PID namespace.
const INITIAL_PID_NAMESPACE: u64 = 0xeff_ffffc;

/// Whom a recording covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// Everything that runs.
    Host,
    /// These processes, with all their threads.
    Processes(Vec<u32>),
    /// These threads.
    Threads(Vec<u32>),
    /// Everything below a control group (v2).
    Cgroup {
        /// Its ID (inode number).
        id: u64,
        /// Its depth below the root of the hierarchy.
        level: u32,
    },
    /// The command that the caller starts with [`Targets::follow_children`].
    Command,
}

impl Scope {
    /// The `FILTER_` bits that keep everybody else out.
    fn filter(&self) -> u32 {
        match self {
            Self::Host => 0,
            Self::Processes(_) | Self::Command => FILTER_PROCESS,
            Self::Threads(_) => FILTER_THREAD,
            Self::Cgroup { .. } => FILTER_CGROUP,
        }
    }

    /// Whether a process is in scope; `targets` are those that the programs look at.
    pub(crate) fn has_process(&self, pid: u32, targets: &HashSet<u32>) -> bool {
        match self {
            Self::Host => true,
            Self::Processes(_) | Self::Command => targets.contains(&pid),
            Self::Threads(tids) => tids.iter().any(|tid| process_of(*tid) == Some(pid)),
            Self::Cgroup { id, .. } => {
                CgroupNames::of_host().name(*id).is_some_and(|group| is_below_cgroup(pid, &group))
            }
        }
    }

    /// Whether a target that was named when the recording started still runs. Always true for scopes without an end.
    pub(crate) fn has_living_target(&self, targets: &Targets) -> bool {
        match self {
            Self::Processes(_) => targets.processes().into_iter().any(is_alive),
            Self::Threads(tids) => tids.iter().copied().any(is_alive),
            Self::Host | Self::Cgroup { .. } | Self::Command => true,
        }
    }
}

/// The part of the configuration that does not depend on what is recorded.
pub(crate) struct BaseConfig {
    /// Architecture, filter, namespace, kernel offsets; everything else is zero.
    pub(crate) config: Config,
    /// Why there are no kernel offsets, where there are none.
    pub(crate) without_types: Option<String>,
    /// What context switches look like on this kernel, as far as it says.
    pub(crate) switch: Option<SwitchLayout>,
    /// Offset of `thread_info.status` in `task_struct`, which only x86 has; zero elsewhere.
    pub(crate) thread_status: u32,
}

/// What context switches look like on a kernel.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SwitchLayout {
    /// Offset of `task_struct.__state`.
    pub(crate) task_state: u32,
    /// Offsets of `task_struct.nvcsw` and `task_struct.nivcsw`.
    pub(crate) task_switches: [u32; 2],
    /// Whether the state is the fourth argument of `sched_switch` (since Linux 5.18).
    pub(crate) has_state_argument: bool,
}

impl SwitchLayout {
    fn find(types: &KernelTypes) -> Option<Self> {
        Some(Self {
            // Renamed in 5.14.
            task_state: types.any_field("task_struct", &["__state", "state"])?.offset,
            task_switches: [
                types.offset_of("task_struct", "nvcsw")?,
                types.offset_of("task_struct", "nivcsw")?,
            ],
            has_state_argument: types.tracepoint_arguments("sched_switch")? >= 4,
        })
    }
}

impl BaseConfig {
    /// For a scope on this kernel.
    ///
    /// # Errors
    ///
    /// The kernel says too little about itself to tell who is who in this PID namespace.
    pub(crate) fn new(scope: &Scope, follow_forks: bool) -> Result<Self, SessionError> {
        let types = KernelTypes::load();
        let offsets = match &types {
            Ok(types) => kernel_offsets(types).map_err(|field| format!("the kernel's BTF has no `{field}`")),
            Err(error) => Err(error.to_string()),
        };
        let switch = types.as_ref().ok().and_then(SwitchLayout::find);
        let thread_status = types.ok().and_then(|types| {
            let info = types.offset_of("task_struct", "thread_info")?;
            Some(info + types.offset_of("thread_info", "status")?)
        });
        let namespace = pid_namespace_inode();
        let nested = namespace != INITIAL_PID_NAMESPACE;
        if let (Err(reason), true) = (&offsets, nested) {
            return Err(SessionError::Unsupported {
                feature: "profiling inside a PID namespace",
                needs: format!("BTF ({reason})"),
            });
        }
        let (cgroup_id, cgroup_level) = match scope {
            Scope::Cgroup { id, level } => (*id, *level),
            _ => (0, 0),
        };
        let config = Config {
            arch: if cfg!(target_arch = "x86_64") { ARCH_X86_64 } else { ARCH_AARCH64 },
            filter: scope.filter(),
            has_offsets: u32::from(offsets.is_ok()),
            follow_forks: u32::from(follow_forks),
            excluded_pid: std::process::id(),
            pid_namespace_inum: if nested { namespace as u32 } else { 0 },
            cgroup_level,
            cgroup_id,
            // 48 bits of user address unless the kernel and the program opted into more; the rest may be a signature.
            code_mask: if cfg!(target_arch = "aarch64") { (1 << 48) - 1 } else { u64::MAX },
            offsets: offsets.as_ref().copied().unwrap_or_default(),
            ..Config::default()
        };
        let thread_status = thread_status.unwrap_or(0);
        Ok(Self { config, without_types: offsets.err(), switch, thread_status })
    }
}

/// Names the targets to the kernel and says which processes to look at before the recording begins.
pub(crate) fn enter_targets(
    targets: &mut Targets,
    scope: &Scope,
    follow_forks: bool,
) -> Result<Vec<u32>, SessionError> {
    match scope {
        Scope::Host | Scope::Cgroup { .. } => Ok(numeric_entries(Path::new("/proc"))),
        Scope::Command => Ok(Vec::new()),
        Scope::Threads(tids) => {
            for tid in tids {
                targets.add_thread(*tid)?;
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
                    targets.add(pid)?;
                    known.insert(pid);
                }
                if follow_forks {
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
fn is_alive(pid: u32) -> bool {
    let Ok(stat) = std::fs::read(format!("/proc/{pid}/stat")) else { return false };
    // The name in parentheses may hold anything; the state follows its last parenthesis.
    let state = stat.iter().rposition(|byte| *byte == b')').and_then(|end| stat.get(end + 2));
    !matches!(state, None | Some(b'Z' | b'X'))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn we_are_alive_and_our_thread_belongs_to_us() {
        assert!(is_alive(std::process::id()));
        assert!(!is_alive(u32::MAX));
        // SAFETY: no preconditions.
        let tid = unsafe { libc::gettid() } as u32;
        assert_eq!(process_of(tid), Some(std::process::id()));
    }
}
