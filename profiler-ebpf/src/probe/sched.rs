//! The run queue: how long threads wait for a CPU, and how long they keep it, in histograms.
//!
//! A turn is added up when it ends, for then its thread is the current one, and whether it is in scope can be asked.

use core::arch::asm;

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns};
use aya_ebpf::programs::RawTracePointContext;
use profiler_common::histogram::{BUCKETS, bucket_of};
use profiler_common::off_cpu::{STATE_RUNNABLE, state_of};
use profiler_common::sched::{MEASURE_QUEUED, MEASURE_RAN, Turn, TurnBucket, TurnSum};
use profiler_common::stats::Stat;

use crate::kernel::{current_ids, in_scope, read_field};
use crate::maps::{CPU_TURN_BUCKETS, CPU_TURNS, TURN_BUCKETS, TURN_SUMS, TURNS, config};
use crate::probe::off_cpu::left_bits;
use crate::scratch::opaque;
use crate::stats::{add, count};

/// `trace_sched_wakeup(task)` and `trace_sched_wakeup_new(task)`: a thread enters the run queue (kernel/sched/core.c).
pub(crate) fn queued(ctx: &RawTracePointContext) -> i32 {
    // SAFETY: these tracepoints have one argument; the verifier checks the load.
    let task = unsafe { *ctx.as_ptr().cast::<u64>() };
    let tid = read_field::<u32>(task, config!(offsets.task_pid)).unwrap_or(0);
    if tid == 0 {
        return 0;
    }
    // SAFETY: no preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    match TURNS.get_ptr_mut(tid) {
        // SAFETY: the thread is in no turn, and the kernel holds its lock.
        Some(turn) => unsafe { (*turn).queued_since_ns = now },
        None => begin(tid, Turn { queued_since_ns: now, ran_since_ns: 0, queued_ns: Turn::NOT_SEEN }),
    }
    0
}

/// `trace_sched_switch(preempt, prev, next, prev_state)`.
pub(crate) fn switched(ctx: &RawTracePointContext) -> i32 {
    let args = ctx.as_ptr().cast::<u64>();
    // SAFETY: this tracepoint has these arguments; the verifier checks the loads.
    let (preempted, previous, next) = unsafe { (*args & 0xff != 0, *args.add(1), *args.add(2)) };
    let state = state_of(preempted, left_bits(ctx, previous));
    // SAFETY: no preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    count(Stat::Switches);
    arrive(next, now);
    leave(state, now);
    0
}

/// The thread's turn begins.
#[inline(always)]
fn arrive(next: u64, now: u64) {
    let tid = read_field::<u32>(next, config!(offsets.task_pid)).unwrap_or(0);
    if tid == 0 {
        return;
    }
    let Some(turn) = TURNS.get_ptr_mut(tid) else {
        begin(tid, Turn { queued_since_ns: 0, ran_since_ns: now, queued_ns: Turn::NOT_SEEN });
        return;
    };
    // SAFETY: the thread is on this CPU from now on, so nobody else writes its entry.
    unsafe {
        let since = (*turn).queued_since_ns;
        (*turn).queued_ns = if since != 0 && since <= now { now - since } else { Turn::NOT_SEEN };
        (*turn).queued_since_ns = 0;
        (*turn).ran_since_ns = now;
    }
}

#[inline(always)]
fn begin(tid: u32, turn: Turn) {
    if TURNS.insert(tid, turn, 0).is_err() {
        count(Stat::TurnsFull);
    }
}

/// The current thread's turn is over; `state` is none when the thread will not come back.
#[inline(always)]
fn leave(state: Option<u32>, now: u64) {
    let tid = bpf_get_current_pid_tgid() as u32;
    if tid == 0 {
        return;
    }
    let Some(turn) = TURNS.get_ptr_mut(tid) else { return };
    let preempted = state == Some(STATE_RUNNABLE);
    // SAFETY: the thread is still on this CPU, so nobody else writes its entry.
    let (queued, since) = unsafe {
        (*turn).queued_since_ns = if preempted { now } else { 0 };
        ((*turn).queued_ns, (*turn).ran_since_ns)
    };
    if state.is_none() {
        let _absent_is_fine = TURNS.remove(tid);
    }
    let ids = current_ids();
    if !in_scope(ids) {
        return;
    }
    let ran = if since != 0 && since <= now { now - since } else { Turn::NOT_SEEN };
    if let Some(sum) = CPU_TURNS.get_ptr_mut(0) {
        add_up(sum, preempted, queued, ran);
    }
    if let Some(buckets) = CPU_TURN_BUCKETS.get_ptr_mut(0) {
        count_on_cpu(buckets.cast(), MEASURE_QUEUED, queued);
        count_on_cpu(buckets.cast(), MEASURE_RAN, ran);
    }
    match TURN_SUMS.get_ptr_mut(ids.pid) {
        Some(sum) => add_up(sum, preempted, queued, ran),
        None => {
            let empty =
                TurnSum { switches: 0, preempted: 0, waits: 0, queued_ns: 0, longest_ns: 0, ran_ns: 0 };
            // Another CPU may have made it meanwhile.
            let _full_or_there = TURN_SUMS.insert(ids.pid, empty, NO_EXIST);
            match TURN_SUMS.get_ptr_mut(ids.pid) {
                Some(sum) => add_up(sum, preempted, queued, ran),
                None => {
                    count(Stat::TurnSumsFull);
                    return;
                }
            }
        }
    }
    count_of_process(ids.pid, MEASURE_QUEUED, queued);
    count_of_process(ids.pid, MEASURE_RAN, ran);
}

/// `BPF_NOEXIST`, include/uapi/linux/bpf.h.
const NO_EXIST: u64 = 1;

/// Adds a turn to a sum that other CPUs may add to at the same time.
#[inline(always)]
fn add_up(sum: *mut TurnSum, preempted: bool, queued: u64, ran: u64) {
    // SAFETY: the sum is a value of a map, which stays where it is while this program runs.
    unsafe {
        add_to(&raw mut (*sum).switches, 1);
        if preempted {
            add_to(&raw mut (*sum).preempted, 1);
        }
        if queued != Turn::NOT_SEEN {
            add_to(&raw mut (*sum).waits, 1);
            add_to(&raw mut (*sum).queued_ns, queued);
            // Two CPUs at the same moment may leave the smaller of two; the second look makes that a matter of nanoseconds.
            for _ in 0..2 {
                if queued > (&raw const (*sum).longest_ns).read_volatile() {
                    (&raw mut (*sum).longest_ns).write_volatile(queued);
                }
            }
        }
        if ran != Turn::NOT_SEEN {
            add_to(&raw mut (*sum).ran_ns, ran);
        }
    }
}

/// # Safety
///
/// `counter` lies in a map's value.
#[inline(always)]
unsafe fn add_to(counter: *mut u64, amount: u64) {
    // The target knows no atomic types in `core`, but the machine has had this instruction from the beginning.
    // SAFETY: valid by the caller, aligned as every u64 of a map.
    unsafe {
        asm!("lock *(u64 *)({counter} + 0) += {amount}", counter = in(reg) counter, amount = in(reg) amount,
             options(nostack));
    }
}

#[inline(always)]
fn count_on_cpu(buckets: *mut u64, measure: u16, ns: u64) {
    if ns == Turn::NOT_SEEN {
        return;
    }
    let mut index = u64::from(bucket_of(ns));
    opaque(&mut index);
    if index >= u64::from(BUCKETS) {
        return;
    }
    // SAFETY: this CPU's own; the index was checked right here, and both histograms are adjacent.
    unsafe {
        let bucket = buckets.add(measure as usize * BUCKETS as usize).add(index as usize);
        *bucket = (*bucket).wrapping_add(1);
    }
}

#[inline(always)]
fn count_of_process(pid: u32, measure: u16, ns: u64) {
    if ns == Turn::NOT_SEEN {
        return;
    }
    let key = TurnBucket { pid, measure, bucket: bucket_of(ns) };
    if let Some(counter) = TURN_BUCKETS.get_ptr_mut(key) {
        // SAFETY: a map's value.
        unsafe { add_to(counter, 1) };
    } else if TURN_BUCKETS.insert(key, 1, NO_EXIST).is_err() {
        match TURN_BUCKETS.get_ptr_mut(key) {
            // Another CPU made it meanwhile.
            // SAFETY: as above.
            Some(counter) => unsafe { add_to(counter, 1) },
            None => add(Stat::TurnBucketsFull, 1),
        }
    }
}
