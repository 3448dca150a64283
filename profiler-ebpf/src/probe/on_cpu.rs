//! On-CPU samples: a clock or counter of this CPU overflowed; what runs now stands for one period.

use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns};
use aya_ebpf::programs::PerfEventContext;
use profiler_common::limits::{CHAIN_CPU, MAX_TICKS_PER_SAMPLE};
use profiler_common::stats::Stat;

use crate::collect::{Next, begin};
use crate::context::sample_period;
use crate::emit::finish;
use crate::kernel::{current_ids, in_scope};
use crate::maps::{LAST_TICK, TICK_NS, WALK_CPU, config};
use crate::probe::off_cpu::ran_until;
use crate::scratch::scratch;
use crate::stats::{add, count};
use crate::unwind::{Round, walk_on};

pub(crate) fn sample(ctx: &PerfEventContext) -> u32 {
    // First of all, so that the ticks of idle and of tasks out of scope are seen too.
    let idle = is_idle();
    let (timed_ns, late) = time_since_last(idle);
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
    if late > 0 {
        add(Stat::LateTicks, late);
    }
    if config!(pid_namespace_inum) != 0 && ids.tid == 0 {
        count(Stat::OutsideNamespace);
    }
    let weight = if config!(tick_ns) != 0 { timed_ns } else { sample_period(ctx) };
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

/// The distance to which the timer is set.
#[inline(always)]
fn tick_ns() -> u64 {
    match TICK_NS.get(0) {
        Some(&tick_ns) if tick_ns != 0 => tick_ns,
        _ => config!(tick_ns),
    }
}

/// The time for which a sample stands, nanoseconds, and how many ticks this CPU's timer missed before it; nothing where a counter samples.
///
/// Ticks are missed when the CPU stalls: the kernel's timer stays on its grid and leaves out those that are past
/// (`hrtimer_forward_now` in `perf_swevent_hrtimer`, kernel/events/core.c). A gap after an idle tick is one: what runs now has only just begun.
/// The first tick after the distance has changed stands for all the time since the last, wherever in between the timer was set anew: so no
/// time is lost or counted twice, however often it changes.
#[inline(always)]
fn time_since_last(idle: bool) -> (u64, u64) {
    if config!(tick_ns) == 0 {
        return (0, 0);
    }
    let tick_ns = tick_ns();
    let Some(last) = LAST_TICK.get_ptr_mut(0) else { return (tick_ns, 0) };
    // SAFETY: no preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    // SAFETY: the entry belongs to this CPU, and only this program, which does not interrupt itself, uses it.
    let (grid, before_ns, was_idle) = unsafe {
        let last_tick = ((*last).grid_ns, (*last).tick_ns, (*last).idle);
        (*last).idle = u64::from(idle);
        (*last).tick_ns = tick_ns;
        last_tick
    };
    let since = now.wrapping_sub(grid);
    if grid != 0 && before_ns != tick_ns {
        // SAFETY: as above.
        unsafe { (*last).grid_ns = now };
        let most = before_ns.wrapping_add(tick_ns);
        return (
            if was_idle != 0 {
                tick_ns
            } else if since < most {
                since
            } else {
                most
            },
            0,
        );
    }
    let passed = if tick_ns == 0 { 0 } else { since / tick_ns };
    let on_grid = grid != 0 && passed != 0;
    // A tick is never early. One that seems to be shows that the grid was laid by a late one; it is laid anew.
    let grid = if on_grid { grid.wrapping_add(passed.wrapping_mul(tick_ns)) } else { now };
    // SAFETY: as above.
    unsafe { (*last).grid_ns = grid };
    if !on_grid || was_idle != 0 {
        return (tick_ns, 0);
    }
    let ticks = if passed < MAX_TICKS_PER_SAMPLE { passed } else { MAX_TICKS_PER_SAMPLE };
    let counted = if config!(carry_late_ticks) != 0 { ticks } else { 1 };
    (tick_ns.wrapping_mul(counted), ticks.wrapping_sub(1))
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
