//! What the programs ask the kernel about a task: numbers in the agent's PID namespace, scope, memory.
//!
//! Fields without a helper are read at offsets that user space took from BTF and checked (see `self_check`).

use aya_ebpf::helpers::{
    bpf_get_current_ancestor_cgroup_id, bpf_get_current_pid_tgid, bpf_get_current_task, bpf_probe_read_kernel,
};
use profiler_common::config::{FILTER_CGROUP, FILTER_PROCESS, FILTER_THREAD, TARGET_SAMPLED};
use profiler_common::limits::MAX_PID_NAMESPACE_LEVEL;

use crate::maps::{TARGETS, THREADS, config};

/// Process and thread number of a task. Zero: it has none in the agent's namespace.
#[derive(Clone, Copy)]
pub(crate) struct TaskIds {
    pub(crate) pid: u32,
    pub(crate) tid: u32,
}

/// A word at `base + offset` of kernel memory.
#[inline(always)]
pub(crate) fn read_field<T>(base: u64, offset: u32) -> Option<T> {
    // SAFETY: the helper checks the address itself and reports a fault as an error.
    unsafe { bpf_probe_read_kernel((base.wrapping_add(u64::from(offset))) as *const T).ok() }
}

/// The current task's numbers.
#[inline(always)]
pub(crate) fn current_ids() -> TaskIds {
    let pid_tgid = bpf_get_current_pid_tgid();
    let initial = TaskIds { pid: (pid_tgid >> 32) as u32, tid: pid_tgid as u32 };
    if config!(pid_namespace_inum) == 0 || initial.tid == 0 {
        // The idle task is number zero in every namespace.
        return initial;
    }
    namespaced_ids(current_task())
}

/// `struct task_struct` of the current task.
#[inline(always)]
pub(crate) fn current_task() -> u64 {
    // SAFETY: no preconditions; the value is only ever read through the checked helper.
    unsafe { bpf_get_current_task() }
}

/// Numbers of any task, in the agent's namespace. Needs BTF offsets.
#[inline(always)]
pub(crate) fn ids_of(task: u64) -> TaskIds {
    if config!(pid_namespace_inum) != 0 {
        return namespaced_ids(task);
    }
    TaskIds {
        pid: read_field(task, config!(offsets.task_tgid)).unwrap_or(0),
        tid: read_field(task, config!(offsets.task_pid)).unwrap_or(0),
    }
}

#[inline(always)]
fn namespaced_ids(task: u64) -> TaskIds {
    let leader = read_field::<u64>(task, config!(offsets.task_group_leader)).unwrap_or(0);
    TaskIds { pid: namespaced_number(leader), tid: namespaced_number(task) }
}

/// The number that `task` has in the agent's PID namespace: the entry of `pid.numbers` for that namespace.
#[inline(always)]
fn namespaced_number(task: u64) -> u32 {
    let pid = read_field::<u64>(task, config!(offsets.task_thread_pid)).unwrap_or(0);
    let level = read_field::<u32>(pid, config!(offsets.pid_level)).unwrap_or(0);
    let wanted = config!(pid_namespace_inum);
    let mut entry = pid.wrapping_add(u64::from(config!(offsets.pid_numbers)));
    for depth in 0..=MAX_PID_NAMESPACE_LEVEL as u32 {
        if depth > level {
            break;
        }
        let namespace = read_field::<u64>(entry, config!(offsets.upid_ns)).unwrap_or(0);
        if read_field::<u32>(namespace, config!(offsets.namespace_inum)) == Some(wanted) {
            return read_field(entry, config!(offsets.upid_nr)).unwrap_or(0);
        }
        entry = entry.wrapping_add(u64::from(config!(offsets.upid_size)));
    }
    0
}

/// Whether the current task is in the recording's scope.
#[inline(always)]
pub(crate) fn in_scope(ids: TaskIds) -> bool {
    let excluded = config!(excluded_pid);
    if excluded != 0 && ids.pid == excluded {
        return false;
    }
    let filter = config!(filter);
    if filter & FILTER_PROCESS != 0 {
        // SAFETY: the value is a plain integer that other CPUs may replace, not free under us.
        let target = unsafe { TARGETS.get(ids.pid) };
        if !matches!(target, Some(kind) if *kind == TARGET_SAMPLED) {
            return false;
        }
    }
    if filter & FILTER_THREAD != 0 {
        // SAFETY: as above.
        if unsafe { THREADS.get(ids.tid) }.is_none() {
            return false;
        }
    }
    if filter & FILTER_CGROUP != 0 {
        // SAFETY: no preconditions; zero for a task that is not that deep.
        let ancestor = unsafe { bpf_get_current_ancestor_cgroup_id(config!(cgroup_level) as i32) };
        if ancestor != config!(cgroup_id) {
            return false;
        }
    }
    true
}
