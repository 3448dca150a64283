//! Single calls: those that were slow, and a sample of all of them, with arguments and user stack.

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::bpf_get_prandom_u32;
use aya_ebpf::helpers::generated::bpf_ringbuf_output;
use aya_ebpf::programs::RawTracePointContext;
use profiler_common::limits::CHAIN_CALL;
use profiler_common::stats::Stat;
use profiler_common::syscall::{
    CALL_RECORD_BYTES, CALL_SAMPLED, CALL_SLOW, CallRecord, MAX_STACKS, NO_SAMPLES, RECORD_CALL,
    SAMPLE_SHIFTS, STACK_WINDOW_NS, ThreadCalls,
};

use super::registers;
use crate::collect::{Next, begin_in_kernel};
use crate::emit::{add_kernel_stack, has_copy, send};
use crate::kernel::TaskIds;
use crate::maps::{PACE, RING, SYSCALL_CONTROL, WALK_RETURN};
use crate::probe::off_cpu::grant_copy;
use crate::scratch::{opaque, scratch};
use crate::stats::count;
use crate::unwind::{Round, walk_on};

/// `BPF_RB_NO_WAKEUP`, include/uapi/linux/bpf.h.
const NO_WAKEUP: u64 = 1;

/// The call that just returned.
pub(super) struct Ended {
    pub(super) number: u32,
    pub(super) abi: u16,
    pub(super) now: u64,
    pub(super) ns: u64,
    pub(super) result: i64,
    pub(super) regs: u64,
}

/// Sends the call if it is slow, or if chance wants it. Does not return if there is a stack to walk.
///
/// # Safety
///
/// `thread` is the current thread's entry.
#[inline(always)]
pub(super) unsafe fn consider(ctx: &RawTracePointContext, thread: *const ThreadCalls, call: &Ended) {
    let Some(control) = SYSCALL_CONTROL.get(0) else { return };
    let mut shift = control.sample_shift;
    let slow = call.ns >= control.slow_ns;
    let sampled = shift != NO_SAMPLES && chance(call.ns, shift);
    if !slow && !sampled {
        return;
    }
    if !may_take(call.now) {
        count(Stat::CallStacksSkipped);
        return;
    }
    opaque(&mut shift);
    let flags = if slow { CALL_SLOW } else { 0 } | if sampled { CALL_SAMPLED } else { 0 };
    let Some(scratch) = scratch(CHAIN_CALL) else {
        count(Stat::NoScratch);
        return;
    };
    // SAFETY: this CPU's scratch of the chain; the frames are still empty and lend their room, which is larger than the record. The
    // entry is valid by the caller.
    unsafe {
        let record = (&raw mut (*scratch).frames).cast::<CallRecord>();
        (*record).kind = RECORD_CALL;
        (*record).flags = flags;
        (*record).id = call.now;
        (*record).ns = call.ns;
        (*record).result = call.result;
        registers::arguments(call.regs, call.abi, &raw mut (*record).arguments);
        (*record).number = call.number;
        (*record).abi = u32::from(call.abi);
        (*record).pid = (*thread).pid;
        (*record).tid = (*thread).tid;
        (*record).sample_shift = shift;
        let ring = (&raw const RING).cast_mut().cast();
        if bpf_ringbuf_output(ring, record.cast(), CALL_RECORD_BYTES as u64, NO_WAKEUP) != 0 {
            count(Stat::RingFull);
            return;
        }
        let ids = TaskIds { pid: (*thread).pid, tid: (*thread).tid };
        let next = begin_in_kernel(scratch, ids);
        (*scratch).header.number = call.now;
        if let Next::Walk = next {
            // The table holds programs of this type only. Returning means that the kernel refused.
            WALK_RETURN.tail_call(ctx, 0);
        }
    }
    finish(ctx);
}

/// Whether a call of this length is part of the sample.
#[inline(always)]
fn chance(ns: u64, shift: u64) -> bool {
    let mut shift = if shift < SAMPLE_SHIFTS.0 { SAMPLE_SHIFTS.0 } else { shift };
    if shift > SAMPLE_SHIFTS.1 {
        shift = SAMPLE_SHIFTS.1;
    }
    // SAFETY: no preconditions.
    ns >> shift != 0 || u64::from(unsafe { bpf_get_prandom_u32() }) < ns << (32 - shift)
}

/// Whether this CPU may take one more stack now.
#[inline(always)]
fn may_take(now: u64) -> bool {
    let Some(pace) = PACE.get_ptr_mut(0) else { return false };
    // SAFETY: this CPU's own.
    unsafe {
        if now.wrapping_sub((*pace).window_ns) > STACK_WINDOW_NS {
            (*pace).window_ns = now;
            (*pace).stacks = 0;
        }
        (*pace).stacks = (*pace).stacks.wrapping_add(1);
        (*pace).stacks <= MAX_STACKS
    }
}

pub(crate) fn walk(ctx: &RawTracePointContext) -> i32 {
    let Some(scratch) = scratch(CHAIN_CALL) else { return 0 };
    // SAFETY: this CPU's scratch; the chain that led here filled it.
    if let Round::Unfinished = unsafe { walk_on(scratch) } {
        // SAFETY: as in `consider`.
        unsafe { WALK_RETURN.tail_call(ctx, 0) };
    }
    finish(ctx);
    0
}

#[inline(always)]
fn finish<C: EbpfContext>(ctx: &C) {
    let Some(scratch) = scratch(CHAIN_CALL) else { return };
    // SAFETY: this CPU's scratch, with a finished walk.
    let sent = unsafe {
        let Some(frames) = add_kernel_stack(ctx, scratch) else { return };
        send(scratch, frames, has_copy(scratch) && grant_copy())
    };
    count(if sent { Stat::Emitted } else { Stat::RingFull });
}
