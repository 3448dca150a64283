//! Reads our own process the way samples read others, for the agent to compare with what it knows of itself.

use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use aya_ebpf::programs::RawTracePointContext;

use crate::kernel::{current_ids, current_task, read_field};
use crate::maps::{SELF_CHECK, config};

/// Shows that the log arrives, before there is anything to debug.
#[cfg(feature = "bpf-log")]
fn log(ctx: &RawTracePointContext) {
    aya_log_ebpf::info!(ctx, "self-check as {}", current_ids().pid);
}

#[cfg(not(feature = "bpf-log"))]
fn log(_ctx: &RawTracePointContext) {}

pub(crate) fn run(ctx: &RawTracePointContext) -> i32 {
    log(ctx);
    let Some(result) = SELF_CHECK.get_ptr_mut(0) else { return 0 };
    let ids = current_ids();
    let task = current_task();
    // SAFETY: the map's only entry, written field by field by the only run of this program.
    unsafe {
        (*result).pid_tgid = bpf_get_current_pid_tgid();
        (*result).own_pid = ids.pid;
        (*result).own_tid = ids.tid;
        if config!(has_offsets) != 0 {
            (*result).task_pid = read_field(task, config!(offsets.task_pid)).unwrap_or(0);
            (*result).task_tgid = read_field(task, config!(offsets.task_tgid)).unwrap_or(0);
            (*result).has_mm = u32::from(read_field::<u64>(task, config!(offsets.task_mm)).unwrap_or(0) != 0);
            let signal = read_field::<u64>(task, config!(offsets.task_signal)).unwrap_or(0);
            (*result).live_threads = read_field(signal, config!(offsets.signal_live)).unwrap_or(0);
        }
        (*result).ran = 1;
    }
    0
}
