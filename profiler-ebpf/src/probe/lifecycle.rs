//! Keeps the tables of processes right in the kernel: a child is in scope, and its stacks can be walked, from its first
//! instruction on; a number that is given out again is somebody else; a program that was replaced has other mappings.

use aya_ebpf::EbpfContext;
use aya_ebpf::programs::RawTracePointContext;
use profiler_common::config::TARGET_SAMPLED;
use profiler_common::stats::Stat;

use crate::kernel::{current_ids, current_task, ids_of, read_field};
use crate::maps::{SPACES, TARGETS, config};
use crate::probe::off_cpu;
use crate::stats::count;

/// `CLONE_THREAD`, include/uapi/linux/sched.h.
const CLONE_THREAD: u64 = 0x0001_0000;

/// `trace_task_newtask(task, clone_flags)` runs in the parent, before the child is woken up (kernel/fork.c).
pub(crate) fn forked(ctx: &RawTracePointContext) -> i32 {
    if config!(has_offsets) == 0 {
        return 0;
    }
    let args = ctx.as_ptr().cast::<u64>();
    // SAFETY: this tracepoint has two arguments; the verifier checks the loads.
    let (child, clone_flags) = unsafe { (*args, *args.add(1)) };
    if clone_flags & CLONE_THREAD != 0 {
        return 0;
    }
    let parent = current_ids().pid;
    let child = ids_of(child).pid;
    if child == 0 {
        return 0;
    }
    // SAFETY: the value is a plain integer.
    if let Some(space) = unsafe { SPACES.get(parent) } {
        if SPACES.insert(child, *space, 0).is_err() {
            count(Stat::SpacesFull);
        }
    }
    if config!(follow_forks) == 0 {
        return 0;
    }
    // SAFETY: the value is a plain integer.
    if unsafe { TARGETS.get(parent) }.is_some() && TARGETS.insert(child, TARGET_SAMPLED, 0).is_err() {
        count(Stat::TargetsFull);
    }
    0
}

/// `trace_sched_process_exit(task)` runs in the dying thread; when `signal->live` is zero it was the last one.
pub(crate) fn exited(_ctx: &RawTracePointContext) -> i32 {
    off_cpu::forget_ended();
    if config!(has_offsets) == 0 {
        return 0;
    }
    let pid = current_ids().pid;
    let signal = read_field::<u64>(current_task(), config!(offsets.task_signal)).unwrap_or(0);
    if read_field::<u32>(signal, config!(offsets.signal_live)) == Some(0) {
        let _absent_is_fine = TARGETS.remove(pid);
        let _absent_is_fine = SPACES.remove(pid);
    }
    0
}

/// `trace_sched_process_exec(task, old_pid, bprm)` runs in the task that just became another program (fs/exec.c): its old
/// mappings are gone.
pub(crate) fn executed(_ctx: &RawTracePointContext) -> i32 {
    let _absent_is_fine = SPACES.remove(current_ids().pid);
    0
}
