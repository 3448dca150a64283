//! On-CPU samples: a clock or counter of this CPU overflowed; what runs now stands for one period.

use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns};
use aya_ebpf::programs::PerfEventContext;
use profiler_common::limits::{CHAIN_CPU, MAX_TICKS_PER_SAMPLE};
use profiler_common::stats::Stat;

use crate::collect::{Next, begin};
use crate::context::sample_period;
use crate::emit::finish;
use crate::kernel::{current_ids, in_scope};
use crate::maps::{LAST_TICK, WALK_CPU, config};
use crate::probe::off_cpu::ran_until;
use crate::scratch::scratch;
use crate::stats::{add, count};
use crate::unwind::{Round, walk_on};

pub(crate) fn sample(ctx: &PerfEventContext) -> u32 {
    // First of all, so that the ticks of idle and of tasks out of scope are seen too.
    let idle = is_idle();
    let ticks = ticks_passed(idle);
    // An NMI may come in the middle of a switch; a timer does not.
    if config!(tick_ns) != 0 {
        // SAFETY: no preconditions.
        ran_until(unsafe { bpf_ktime_get_ns() });
    }
    if config!(include_idle) == 0 && idle {
        return 0;
    }
    let ids = current_ids();
    if !in_scope(ids) {
        return 0;
    }
    if ticks > 1 {
        add(Stat::LateTicks, ticks - 1);
    }
    let ticks = if config!(carry_late_ticks) != 0 { ticks } else { 1 };
    if config!(pid_namespace_inum) != 0 && ids.tid == 0 {
        count(Stat::OutsideNamespace);
    }
    let weight =
        if config!(tick_ns) != 0 { config!(tick_ns).wrapping_mul(ticks) } else { sample_period(ctx) };
    let Some(scratch) = scratch(CHAIN_CPU) else {
        count(Stat::NoScratch);
        return 0;
    };
    // SAFETY: this CPU's scratch.
    if let Next::Walk = unsafe { begin(ctx, scratch, ids, weight) } {
        // SAFETY: the table holds programs of this type only. Returning means that the kernel refused.
        unsafe { WALK_CPU.tail_call(ctx, 0) };
    }
    send(ctx);
    0
}

/// Ticks since this CPU's timer fired last. More than one when the CPU stalled: the kernel's timer stays on its grid and leaves out what
/// it missed (`hrtimer_forward_now` in `perf_swevent_hrtimer`, kernel/events/core.c).
///
/// A gap after an idle tick is one: what runs now has only just begun.
#[inline(always)]
fn ticks_passed(idle: bool) -> u64 {
    let tick_ns = config!(tick_ns);
    if tick_ns == 0 {
        return 1;
    }
    let Some(last) = LAST_TICK.get_ptr_mut(0) else { return 1 };
    // SAFETY: no preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    // SAFETY: the entry belongs to this CPU, and only this program, which does not interrupt itself, uses it.
    let (grid, was_idle) = unsafe {
        let was_idle = (*last).idle;
        (*last).idle = u64::from(idle);
        ((*last).grid_ns, was_idle)
    };
    let passed = now.wrapping_sub(grid) / tick_ns;
    let on_grid = grid != 0 && passed != 0;
    // A tick is never early. One that seems to be shows that the grid was laid by a late one; it is laid anew.
    let grid = if on_grid { grid.wrapping_add(passed.wrapping_mul(tick_ns)) } else { now };
    // SAFETY: as above.
    unsafe { (*last).grid_ns = grid };
    if !on_grid || was_idle != 0 {
        return 1;
    }
    if passed < MAX_TICKS_PER_SAMPLE { passed } else { MAX_TICKS_PER_SAMPLE }
}

/// The idle task is number zero in the initial namespace.
#[inline(always)]
fn is_idle() -> bool {
    bpf_get_current_pid_tgid() as u32 == 0
}

pub(crate) fn walk(ctx: &PerfEventContext) -> u32 {
    let Some(scratch) = scratch(CHAIN_CPU) else { return 0 };
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
    if let Some(scratch) = scratch(CHAIN_CPU) {
        // SAFETY: this CPU's scratch, with a finished walk.
        unsafe { finish(ctx, scratch) };
    }
}
