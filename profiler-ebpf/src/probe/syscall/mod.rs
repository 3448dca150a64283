//! System calls: how many, how long, with which errors, summed up here so that no call costs an event.
//!
//! A thread's call begins in [`entered`] and ends in [`returned`]. A call that a signal interrupts and that begins again is one
//! call; the kernel's own return values for that never count as errors. A thread may end inside a call ([`thread_ended`]), and one
//! that starts another program may get another number on the way ([`executed`]).

mod registers;
mod stack;
mod tally;

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::{bpf_get_current_cgroup_id, bpf_get_current_pid_tgid, bpf_ktime_get_ns};
use aya_ebpf::programs::RawTracePointContext;
use profiler_common::config::{ARCH_X86_64, FILTER_CGROUP};
use profiler_common::stats::Stat;
use profiler_common::syscall::{
    INTERRUPTED, LOWEST_ERROR, NOT_A_RESTART, OWNER_CGROUP, OWNER_PROCESS, PENDING_FRESH, PENDING_IN_HANDLER,
    PENDING_NONE, PENDING_REPEATS, RESTART_CODES, ThreadCalls, is_sigreturn, makes_task, restart_number,
};

use crate::kernel::{TaskIds, current_ids, in_scope};
use crate::maps::{SYSCALL_CONTROL, SYSCALL_THREADS, config, syscall_config};
use crate::stats::count;
pub(crate) use stack::walk;
use tally::{Call, Outcome};

/// Since when calls are measured; zero: not now.
#[inline(always)]
fn measured_since() -> u64 {
    // SAFETY: the entry lives as long as the map, and a word is read whole.
    SYSCALL_CONTROL.get(0).map_or(0, |control| unsafe { (&raw const control.since_ns).read_volatile() })
}

#[inline(always)]
fn own_tid() -> u32 {
    bpf_get_current_pid_tgid() as u32
}

#[inline(always)]
fn is_x86() -> bool {
    config!(arch) == ARCH_X86_64
}

/// Argument number `index` of a tracepoint.
#[inline(always)]
fn argument(ctx: &RawTracePointContext, index: usize) -> u64 {
    // SAFETY: both tracepoints of calls have two arguments, the one of exec three; the verifier checks the load.
    unsafe { *ctx.as_ptr().cast::<u64>().add(index) }
}

#[inline(always)]
fn owner_of(ids: TaskIds) -> u64 {
    match syscall_config!(owner) {
        OWNER_PROCESS => u64::from(ids.pid),
        // SAFETY: no preconditions.
        OWNER_CGROUP => unsafe { bpf_get_current_cgroup_id() },
        _ => u64::from(ids.pid) << 32 | u64::from(ids.tid),
    }
}

/// What is remembered of the current thread, made when it is not there yet; none for threads out of scope.
#[inline(always)]
fn current_thread() -> Option<*mut ThreadCalls> {
    let tid = own_tid();
    if let Some(thread) = SYSCALL_THREADS.get_ptr_mut(tid) {
        // Whoever has an entry was in scope when it was made. Only a control group can be left alive.
        let may_leave = config!(filter) & FILTER_CGROUP != 0;
        // SAFETY: the entry is this thread's own.
        let ids = unsafe { TaskIds { pid: (*thread).pid, tid: (*thread).tid } };
        return if may_leave && !in_scope(ids) { None } else { Some(thread) };
    }
    let ids = current_ids();
    if !in_scope(ids) {
        return None;
    }
    let new = ThreadCalls { pid: ids.pid, tid: ids.tid, owner: owner_of(ids), ..ThreadCalls::default() };
    if SYSCALL_THREADS.insert(tid, new, 0).is_err() {
        count(Stat::SyscallThreadsFull);
    }
    SYSCALL_THREADS.get_ptr_mut(tid)
}

/// `trace_sys_enter(regs, id)`: a call begins.
pub(crate) fn entered(ctx: &RawTracePointContext) -> i32 {
    let since = measured_since();
    if since == 0 {
        return 0;
    }
    count(Stat::SyscallsSeen);
    let Some(thread) = current_thread() else { return 0 };
    let abi = registers::abi(argument(ctx, 0), argument(ctx, 1));
    let number = registers::number(argument(ctx, 1), abi);
    // SAFETY: the entry is this thread's own, and nobody else writes it.
    unsafe {
        if syscall_config!(owner) == OWNER_CGROUP {
            (*thread).owner = owner_of(TaskIds { pid: 0, tid: 0 });
        }
        if (*thread).pending != PENDING_NONE && resume(ctx, thread, number, abi, since) {
            return 0;
        }
        (*thread).number = number;
        (*thread).abi = u32::from(abi);
        // Last, so that the agent never sees a beginning with another call's number.
        (*thread).entered_ns = bpf_ktime_get_ns();
    }
    0
}

/// Decides what a call is that follows an interrupted one: true when it is the same call again, which goes on.
///
/// # Safety
///
/// `thread` is the current thread's entry.
#[inline(always)]
unsafe fn resume(
    ctx: &RawTracePointContext,
    thread: *mut ThreadCalls,
    number: u32,
    abi: u16,
    since: u64,
) -> bool {
    // SAFETY: valid by the caller.
    unsafe {
        let pending = (*thread).pending & 0xffff;
        if (*thread).pending_entered_ns < since {
            (*thread).pending = PENDING_NONE;
            return false;
        }
        let same = number == (*thread).pending_number || number == restart_number(is_x86(), abi);
        let at_once = pending == PENDING_FRESH
            && same
            && registers::stack_pointer(argument(ctx, 0)) == (*thread).pending_sp;
        if at_once || (pending == PENDING_REPEATS && same) {
            let call = Call { owner: (*thread).owner, number: (*thread).pending_number, abi };
            (*thread).number = call.number;
            (*thread).abi = u32::from(abi);
            (*thread).entered_ns = (*thread).pending_entered_ns;
            (*thread).pending = PENDING_NONE;
            tally::add(call, Outcome::Repeated);
            return true;
        }
        if pending == PENDING_REPEATS {
            settle(thread);
        } else {
            (*thread).pending = (*thread).pending & !0xffff | PENDING_IN_HANDLER;
        }
    }
    false
}

/// Counts the interrupted call as what the program saw: a call that failed with `EINTR`.
///
/// # Safety
///
/// `thread` is the current thread's entry.
#[inline(always)]
unsafe fn settle(thread: *mut ThreadCalls) {
    // SAFETY: valid by the caller.
    unsafe {
        let abi = ((*thread).pending >> 16) as u16;
        let call = Call { owner: (*thread).owner, number: (*thread).pending_number, abi };
        let ns = (*thread).pending_left_ns.wrapping_sub((*thread).pending_entered_ns);
        (*thread).pending = PENDING_NONE;
        tally::add(call, Outcome::Measured { ns, errno: INTERRUPTED });
    }
}

/// `trace_sys_exit(regs, ret)`: a call returns.
pub(crate) fn returned(ctx: &RawTracePointContext) -> i32 {
    let since = measured_since();
    if since == 0 {
        return 0;
    }
    match SYSCALL_THREADS.get_ptr_mut(own_tid()) {
        // SAFETY: the entry is this thread's own; it was made only if the thread is in scope.
        Some(thread) if unsafe { (*thread).entered_ns } >= since => unsafe { measured(ctx, thread, since) },
        _ => late(ctx, since),
    }
    0
}

/// # Safety
///
/// `thread` is the current thread's entry, with a call that began while calls were measured.
#[inline(always)]
unsafe fn measured(ctx: &RawTracePointContext, thread: *mut ThreadCalls, since: u64) {
    // SAFETY: valid by the caller.
    unsafe {
        let now = bpf_ktime_get_ns();
        let result = argument(ctx, 1) as i64;
        let (number, abi) = ((*thread).number, (*thread).abi as u16);
        let entered = (*thread).entered_ns;
        (*thread).entered_ns = 0;
        left(thread, now, since);
        let sigreturn = is_sigreturn(is_x86(), abi, number);
        let interrupted = is_restart(result) && !sigreturn;
        let pending = (*thread).pending & 0xffff;
        let handled = sigreturn && pending == PENDING_IN_HANDLER;
        if handled && result != -i64::from(INTERRUPTED) {
            (*thread).pending = (*thread).pending & !0xffff | PENDING_REPEATS;
        } else if pending != PENDING_NONE && (handled || interrupted) {
            if (*thread).pending_entered_ns >= since {
                settle(thread);
            }
            (*thread).pending = PENDING_NONE;
        }
        if interrupted {
            (*thread).pending_entered_ns = entered;
            (*thread).pending_left_ns = now;
            (*thread).pending_sp = registers::stack_pointer(argument(ctx, 0));
            (*thread).pending_number = number;
            (*thread).pending = u32::from(abi) << 16 | PENDING_FRESH;
            return;
        }
        let call = Call { owner: (*thread).owner, number, abi };
        let errno = if sigreturn { 0 } else { errno_of(result) };
        let ns = now.wrapping_sub(entered);
        tally::add(call, Outcome::Measured { ns, errno });
        let regs = argument(ctx, 0);
        stack::consider(ctx, thread, &stack::Ended { number, abi, now, ns, result, regs });
    }
}

/// Writes down that a call returned.
///
/// # Safety
///
/// `thread` is the current thread's entry.
#[inline(always)]
unsafe fn left(thread: *mut ThreadCalls, now: u64, since: u64) {
    // SAFETY: valid by the caller.
    unsafe {
        let before = if (*thread).left_ns < since { 0 } else { (*thread).calls };
        (*thread).calls = before.wrapping_add(1);
        (*thread).left_ns = now;
    }
}

/// A call returns whose beginning was not seen.
#[inline(always)]
fn late(ctx: &RawTracePointContext, since: u64) {
    let Some(thread) = current_thread() else { return };
    let regs = argument(ctx, 0);
    let result = argument(ctx, 1) as i64;
    let Some(raw) = registers::number_at_return(regs) else { return };
    let abi = registers::abi(regs, raw);
    let number = registers::number(raw, abi);
    if makes_task(is_x86(), abi, number) && result == 0 {
        // The new task comes back from a call that its parent made.
        return;
    }
    // SAFETY: no preconditions; the entry is this thread's own. It says to the agent that what the thread did before is over.
    let (now, owner) = unsafe {
        let now = bpf_ktime_get_ns();
        left(thread, now, since);
        (now, (*thread).owner)
    };
    if is_restart(result) {
        return;
    }
    let seen_ns = now.wrapping_sub(since);
    tally::add(Call { owner, number, abi }, Outcome::Late { seen_ns, errno: errno_of(result) });
}

/// `trace_sched_process_exit(task)` runs in the dying thread.
pub(crate) fn thread_ended(_ctx: &RawTracePointContext) -> i32 {
    let tid = own_tid();
    let Some(thread) = SYSCALL_THREADS.get_ptr_mut(tid) else { return 0 };
    let since = measured_since();
    // SAFETY: the entry is this thread's own.
    unsafe {
        let inside = since != 0 && (*thread).entered_ns >= since;
        let interrupted =
            since != 0 && (*thread).pending != PENDING_NONE && (*thread).pending_entered_ns >= since;
        if inside {
            let call = Call { owner: (*thread).owner, number: (*thread).number, abi: (*thread).abi as u16 };
            tally::add(call, Outcome::Ended);
        } else if interrupted {
            let abi = ((*thread).pending >> 16) as u16;
            let call = Call { owner: (*thread).owner, number: (*thread).pending_number, abi };
            tally::add(call, Outcome::Ended);
        }
    }
    let _absent_is_fine = SYSCALL_THREADS.remove(tid);
    0
}

/// `trace_sched_process_exec(task, old_pid, bprm)`: a thread that is not the first of its process takes over the first one's
/// number (`de_thread`, fs/exec.c), in the middle of its call.
pub(crate) fn executed(ctx: &RawTracePointContext) -> i32 {
    let (old, new) = (argument(ctx, 1) as u32, own_tid());
    if old == new {
        return 0;
    }
    // SAFETY: the entry is this thread's own under its old number.
    if let Some(thread) = unsafe { SYSCALL_THREADS.get(old) } {
        let mut moved = *thread;
        moved.tid = current_ids().tid;
        if SYSCALL_THREADS.insert(new, moved, 0).is_err() {
            count(Stat::SyscallThreadsFull);
        }
    }
    let _absent_is_fine = SYSCALL_THREADS.remove(old);
    0
}

#[inline(always)]
fn is_restart(result: i64) -> bool {
    result >= RESTART_CODES.0 && result <= RESTART_CODES.1 && result != NOT_A_RESTART
}

/// The errno of a result; zero when it is none.
#[inline(always)]
fn errno_of(result: i64) -> u32 {
    if (LOWEST_ERROR..0).contains(&result) { result.wrapping_neg() as u32 } else { 0 }
}
