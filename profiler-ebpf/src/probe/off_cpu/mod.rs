//! Waits: what a thread does not run, from the switch away from it to the switch back.
//!
//! One program sees both ends. At the beginning of a wait it may take the stack, which is what costs; at the end it adds the wait up in
//! [`WAITS`] by the number of that stack, so that nothing crosses to user space per switch. Each distinct stack is sent once.
//!
//! [`stack`] takes the stacks. Both tracepoints run with interrupts off, so none of these programs interrupts another one of them on its CPU.

pub(crate) mod stack;

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_get_prandom_u32, bpf_ktime_get_ns};
use aya_ebpf::programs::RawTracePointContext;
use profiler_common::limits::{CHAIN_SWITCH, CHAIN_WAKE, MAX_WAIT_PLACES};
use profiler_common::off_cpu::{
    BRAKE_STACKS, BRAKE_THRESHOLD_NS, BRAKE_WINDOW_NS, STACK_NONE, STACK_SKIPPED, STATE_ESTIMATED, STATE_RAN,
    STATE_RUNNABLE, STATE_THINNED, Thread, WaitKey, WaitSum, mix, shift_of, state_of, usual_after,
    weight_shift,
};
use profiler_common::stats::Stat;

use crate::context::entry_instruction;
use crate::kernel::{current_ids, in_scope, read_field};
use crate::maps::{
    OFF_CPU_THREADS, PACE, SWITCH_CONTROL, USUAL_WAITS, WAITS, WALK_SWITCH, WALK_WAKE, config,
};
use crate::scratch::opaque;
use crate::stats::{add, count};
use stack::take_stack;
pub(crate) use stack::{grant_copy, walk_switch, walk_wake};

/// `trace_sched_switch(preempt, prev, next, prev_state)` runs in `prev` (kernel/sched/core.c); the last argument came with 5.18.
pub(crate) fn switched(ctx: &RawTracePointContext) -> i32 {
    let args = ctx.as_ptr().cast::<u64>();
    // SAFETY: this tracepoint has these arguments; the verifier checks the loads.
    let (preempted, previous, next) = unsafe { (*args & 0xff != 0, *args.add(1), *args.add(2)) };
    let bits = left_bits(ctx, previous);
    // SAFETY: no preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    count(Stat::Switches);
    ran_until(now);
    arrive(next, now);
    if let Some(state) = state_of(preempted, bits) {
        leave(ctx, state, now);
    } else {
        end(bpf_get_current_pid_tgid() as u32);
    }
    0
}

/// The current thread ran until `now`. Called at each switch and at each tick of the sampler, so that a thread that keeps its CPU is
/// behind by a tick at most.
#[inline(always)]
pub(crate) fn ran_until(now: u64) {
    if config!(switch.runs) == 0 {
        return;
    }
    let Some(pace) = PACE.get_ptr_mut(0) else { return };
    // SAFETY: this CPU's own, with interrupts off.
    let since = unsafe { (*pace).ran_until_ns };
    unsafe { (*pace).ran_until_ns = now };
    if bpf_get_current_pid_tgid() as u32 == 0 {
        return;
    }
    let since = if since == 0 { began_ns() } else { since };
    let ids = current_ids();
    if since == 0 || since >= now || !in_scope(ids) {
        return;
    }
    let key = WaitKey {
        stack: STACK_NONE,
        waker: STACK_NONE,
        pid: ids.pid,
        tid: ids.tid,
        state: STATE_RAN,
        epoch: epoch(),
    };
    add_up(&key, &WaitSum { count: 0, blocked_ns: now - since, queued_ns: 0 });
}

/// The state in which `previous` leaves its CPU at `sched_switch`, in the kernel's bits.
#[inline(always)]
pub(crate) fn left_bits(ctx: &RawTracePointContext, previous: u64) -> u32 {
    if config!(switch.has_state_argument) != 0 {
        // SAFETY: this kernel's tracepoint has a fourth argument; the verifier checks the load.
        unsafe { *ctx.as_ptr().cast::<u64>().add(3) as u32 }
    } else {
        read_field(previous, config!(switch.task_state)).unwrap_or(0)
    }
}

/// The thread `next` begins to run: its wait, if it was seen to begin, is over.
#[inline(always)]
fn arrive(next: u64, now: u64) {
    let owner = read_field::<u32>(next, config!(offsets.task_pid)).unwrap_or(0);
    if owner == 0 {
        return;
    }
    let Some(thread) = OFF_CPU_THREADS.get_ptr_mut(owner) else { return };
    // SAFETY: the thread is on this CPU from now on, so nobody else writes its entry, here and below.
    let since = unsafe { (*thread).since_ns };
    if since == 0 || since > now {
        return;
    }
    let wait = now - since;
    let (state, shift) = unsafe { ((*thread).state, (*thread).shift) };
    let woken = unsafe { (*thread).woken_ns };
    unsafe { (*thread).since_ns = 0 };
    if let Some(usual) = USUAL_WAITS.get_ptr_mut(unsafe { (*thread).place } as u32) {
        // SAFETY: a single word, which other CPUs may replace as a whole.
        unsafe { usual.write_volatile(usual_after(usual.read_volatile(), wait)) };
    }
    count(Stat::Waits);
    if wait < config!(switch.shortest_ns) || wait > config!(switch.longest_ns) {
        return;
    }
    if config!(switch.states) & (1 << (state & 31)) == 0 {
        return;
    }
    let queued = if state == STATE_RUNNABLE {
        wait
    } else if woken > since && woken <= now {
        now - woken
    } else {
        0
    };
    let stack = unsafe { (*thread).stack };
    let (weight, estimated) = match weight_shift(wait, shift) {
        Some(weight) => {
            let thinned = unsafe { &raw mut (*thread).thinned };
            unsafe { add_to(thinned, &WaitSum { count: 1, blocked_ns: wait - queued, queued_ns: queued }) };
            // Those that were taken stand for the others.
            if stack == STACK_SKIPPED {
                return;
            }
            (weight, STATE_ESTIMATED)
        }
        None => (0, 0),
    };
    let waker = unsafe { (*thread).waker };
    let (pid, tid) = unsafe { ((*thread).pid, (*thread).tid) };
    let key = WaitKey { stack, waker, pid, tid, state: state | estimated, epoch: epoch() };
    let sum =
        WaitSum { count: 1 << weight, blocked_ns: (wait - queued) << weight, queued_ns: queued << weight };
    add_up(&key, &sum);
}

/// The thread `owner` leaves its CPU for good.
#[inline(always)]
fn end(owner: u32) {
    if let Some(thread) = OFF_CPU_THREADS.get_ptr(owner) {
        // SAFETY: the current thread's entry: nobody else writes these fields.
        let (thinned, pid, tid) = unsafe { ((*thread).thinned, (*thread).pid, (*thread).tid) };
        if thinned.count != 0 {
            let (stack, waker) = (STACK_NONE, STACK_NONE);
            add_up(&WaitKey { stack, waker, pid, tid, state: STATE_THINNED, epoch: epoch() }, &thinned);
        }
    }
    let _absent_is_fine = OFF_CPU_THREADS.remove(owner);
}

/// Adds to a sum.
///
/// # Safety
///
/// `sum` points to one that nobody else writes meanwhile.
#[inline(always)]
unsafe fn add_to(sum: *mut WaitSum, more: &WaitSum) {
    // SAFETY: the caller's.
    unsafe {
        (*sum).count = (*sum).count.wrapping_add(more.count);
        (*sum).blocked_ns = (*sum).blocked_ns.wrapping_add(more.blocked_ns);
        (*sum).queued_ns = (*sum).queued_ns.wrapping_add(more.queued_ns);
    }
}

#[inline(always)]
fn add_up(key: &WaitKey, more: &WaitSum) {
    if let Some(sum) = WAITS.get_ptr_mut(key) {
        // SAFETY: the key names a thread, which is on this CPU alone; an epoch that is read is no longer written.
        unsafe { add_to(sum, more) };
        return;
    }
    if WAITS.insert(key, more, 0).is_err() {
        count(Stat::WaitsFull);
        add(Stat::WaitsFullNs, more.blocked_ns.wrapping_add(more.queued_ns));
    }
}

#[inline(always)]
fn epoch() -> u32 {
    // SAFETY: the agent writes the entry in one system call; a torn read is one of two epochs.
    SWITCH_CONTROL.get_ptr(0).map_or(0, |control| unsafe { (*control).epoch })
}

#[inline(always)]
fn began_ns() -> u64 {
    // SAFETY: a word that is written before the programs are attached.
    SWITCH_CONTROL.get_ptr(0).map_or(0, |control| unsafe { (*control).began_ns })
}

/// The current thread leaves its CPU: its wait begins, and its stack is taken now or never.
#[inline(always)]
fn leave(ctx: &RawTracePointContext, state: u32, now: u64) {
    let owner = bpf_get_current_pid_tgid() as u32;
    if owner == 0 {
        return;
    }
    let ids = current_ids();
    if !in_scope(ids) {
        return;
    }
    let Some(thread) = enter(owner) else { return };
    // SAFETY: the current thread's entry: it is still on this CPU. A waker on another CPU writes `woken_ns` and `waker` alone, after
    // it has seen `since_ns`.
    unsafe {
        let (place, shift) = predict(owner, state, now);
        (*thread).place = place;
        (*thread).stack = STACK_SKIPPED;
        (*thread).waker = STACK_NONE;
        (*thread).woken_ns = 0;
        (*thread).pid = ids.pid;
        (*thread).tid = ids.tid;
        (*thread).state = state;
        (*thread).shift = shift;
        (*thread).since_ns = now;
        if config!(switch.states) & (1 << (state & 31)) == 0 {
            return;
        }
        if shift != 0 && bpf_get_prandom_u32() & ((1 << shift) - 1) != 0 {
            count(Stat::WaitStacksSkipped);
            return;
        }
    }
    take_stack(ctx, CHAIN_SWITCH, &WALK_SWITCH, owner);
}

/// The entry of a thread, made if need be.
#[inline(always)]
fn enter(owner: u32) -> Option<*mut Thread> {
    if let Some(thread) = OFF_CPU_THREADS.get_ptr_mut(owner) {
        return Some(thread);
    }
    let new = Thread {
        since_ns: 0,
        woken_ns: 0,
        stack: STACK_NONE,
        waker: STACK_NONE,
        place: 0,
        pid: 0,
        tid: 0,
        state: 0,
        shift: 0,
        thinned: WaitSum { count: 0, blocked_ns: 0, queued_ns: 0 },
    };
    if OFF_CPU_THREADS.insert(owner, new, 0).is_err() {
        count(Stat::WaitingThreadsFull);
        return None;
    }
    OFF_CPU_THREADS.get_ptr_mut(owner)
}

/// Where a wait begins, and with which chance its stack is to be taken.
#[inline(always)]
fn predict(owner: u32, state: u32, now: u64) -> (u64, u32) {
    if config!(switch.exact) != 0 {
        return (0, 0);
    }
    // One thread waits at several places, some for long: the instruction that entered the kernel tells them apart.
    let instruction = if state == STATE_RUNNABLE { 0 } else { entry_instruction() };
    let mut place = mix(u64::from(owner), instruction) & (u64::from(MAX_WAIT_PLACES) - 1);
    opaque(&mut place);
    // SAFETY: a single word, which other CPUs may replace as a whole.
    let usual = USUAL_WAITS.get_ptr(place as u32).map_or(0, |usual| unsafe { usual.read_volatile() });
    // Of the first wait nothing is known, and it may be a long one.
    let shift = if usual == 0 { 0 } else { shift_of(usual, threshold(now)) };
    (place, shift)
}

/// Length below which waits are short now: what the agent said, or what the brake says.
#[inline(always)]
fn threshold(now: u64) -> u64 {
    if config!(switch.exact) != 0 {
        return 0;
    }
    // SAFETY: as in `epoch`.
    let told = SWITCH_CONTROL.get_ptr(0).map_or(0, |control| unsafe { (*control).threshold_ns });
    let Some(pace) = PACE.get_ptr_mut(0) else { return told };
    // SAFETY: this CPU's own.
    let (window, stacks) = unsafe { ((*pace).window_ns, (*pace).stacks) };
    if now.wrapping_sub(window) > BRAKE_WINDOW_NS {
        // SAFETY: as above.
        unsafe {
            (*pace).window_ns = now;
            (*pace).stacks = 0;
        }
        return told;
    }
    if stacks >= BRAKE_STACKS && told < BRAKE_THRESHOLD_NS { BRAKE_THRESHOLD_NS } else { told }
}

/// `trace_sched_waking(task)` runs in the waker, or in an interrupt on top of whoever ran.
pub(crate) fn woken(ctx: &RawTracePointContext) -> i32 {
    // SAFETY: this tracepoint has one argument; the verifier checks the load.
    let task = unsafe { *ctx.as_ptr().cast::<u64>() };
    let owner = read_field::<u32>(task, config!(offsets.task_pid)).unwrap_or(0);
    let Some(thread) = OFF_CPU_THREADS.get_ptr_mut(owner) else { return 0 };
    // SAFETY: the kernel holds the thread's lock, so no second waker is here.
    let (since, woken, state) = unsafe { ((*thread).since_ns, (*thread).woken_ns, (*thread).state) };
    if since == 0 || woken != 0 || state == STATE_RUNNABLE {
        return 0;
    }
    // SAFETY: as above.
    unsafe { (*thread).woken_ns = bpf_ktime_get_ns() };
    // SAFETY: as above.
    if config!(switch.wakers) == 0 || unsafe { (*thread).stack } == STACK_SKIPPED {
        return 0;
    }
    take_stack(ctx, CHAIN_WAKE, &WALK_WAKE, owner);
    0
}
