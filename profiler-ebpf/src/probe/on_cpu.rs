//! On-CPU samples: a clock or counter of this CPU overflowed; what runs now stands for one period.

use aya_ebpf::programs::PerfEventContext;
use profiler_common::stats::Stat;

use crate::collect::{Next, begin};
use crate::context::sample_period;
use crate::emit::finish;
use crate::kernel::{current_ids, in_scope};
use crate::maps::{WALK_CPU, config};
use crate::scratch::scratch;
use crate::stats::count;
use crate::unwind::{Round, walk_on};

pub(crate) fn sample(ctx: &PerfEventContext) -> u32 {
    let ids = current_ids();
    if !in_scope(ids) {
        return 0;
    }
    if config!(pid_namespace_inum) != 0 && ids.tid == 0 {
        count(Stat::OutsideNamespace);
    }
    match begin(ctx, ids, sample_period(ctx)) {
        Next::Walk => {
            // SAFETY: the table holds programs of this type only. Returning means that the kernel refused.
            unsafe { WALK_CPU.tail_call(ctx, 0) };
            send(ctx);
        }
        Next::Emit => send(ctx),
        Next::Nothing => {}
    }
    0
}

pub(crate) fn walk(ctx: &PerfEventContext) -> u32 {
    let Some(scratch) = scratch() else { return 0 };
    // SAFETY: this CPU's scratch; the chain that led here filled it.
    if let Round::Unfinished = unsafe { walk_on(scratch) } {
        // SAFETY: as in `sample`.
        unsafe { WALK_CPU.tail_call(ctx, 0) };
    }
    send(ctx);
    0
}

#[inline(always)]
fn send(ctx: &PerfEventContext) {
    if let Some(scratch) = scratch() {
        // SAFETY: this CPU's scratch, with a finished walk.
        unsafe { finish(ctx, scratch) };
    }
}
