//! Growth of memory: page faults, sampled by count, and system calls that change mappings.
//!
//! The software events of minor and major faults fire after the fault was handled, with its address, in the context of whoever faulted
//! (`mm_account_fault`, mm/memory.c); failed and repeated ones are not counted. The calls are seen at their end, when it is known whether
//! they did anything.

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::bpf_get_prandom_u32;
use aya_ebpf::programs::{PerfEventContext, RawTracePointContext};
use profiler_common::limits::CHAIN_HEAP;
use profiler_common::memory::{FAULT, MAX_CALL_SHIFT, pack_remap};
use profiler_common::stats::Stat;

use crate::collect::{Next, begin, begin_in_kernel};
use crate::context::{ended_call, sample_address, sample_period};
use crate::emit::{add_kernel_stack, has_copy, has_room_for_copies, send};
use crate::kernel::{current_ids, in_scope};
use crate::maps::{MEMORY_CONTROL, WALK_CALL, WALK_FAULT, config};
use crate::scratch::{Scratch, scratch};
use crate::stats::{add, count};
use crate::unwind::{Round, walk_on};

/// Largest return value that is an error, as an address: `MAX_ERRNO`, include/linux/err.h.
const FIRST_ERROR: u64 = -4095_i64 as u64;

pub(crate) fn faulted(ctx: &PerfEventContext) -> u32 {
    let period = sample_period(ctx);
    add(Stat::Faults, period);
    let ids = current_ids();
    if !in_scope(ids) {
        return 0;
    }
    let Some(scratch) = scratch(CHAIN_HEAP) else {
        count(Stat::NoScratch);
        return 0;
    };
    // SAFETY: this CPU's scratch; a fault does not interrupt another program of the chain, whose reads of user memory do not fault.
    let next = unsafe {
        let next = begin(ctx, scratch, ids, sample_address(ctx));
        (*scratch).header.syscall = FAULT;
        (*scratch).header.events = period as u32;
        next
    };
    if let Next::Walk = next {
        // SAFETY: the table holds programs of this type only. Returning means that the kernel refused.
        unsafe { WALK_FAULT.tail_call(ctx, 0) };
    }
    // SAFETY: as above.
    unsafe { send_event(ctx, scratch) };
    0
}

pub(crate) fn walk_fault(ctx: &PerfEventContext) -> u32 {
    let Some(scratch) = scratch(CHAIN_HEAP) else { return 0 };
    // SAFETY: this CPU's scratch; the chain that led here filled it.
    if let Round::Unfinished = unsafe { walk_on(scratch) } {
        // SAFETY: as in `faulted`.
        unsafe { WALK_FAULT.tail_call(ctx, 0) };
    }
    // SAFETY: as above.
    unsafe { send_event(ctx, scratch) };
    0
}

/// `trace_sys_exit(regs, ret)`, include/trace/events/syscalls.h.
pub(crate) fn call_ended(ctx: &RawTracePointContext) -> i32 {
    // SAFETY: this tracepoint has these arguments; the verifier checks the load.
    let regs = unsafe { *ctx.as_ptr().cast::<u64>() };
    let Some(call) = ended_call(regs) else { return 0 };
    let weight = if call.number == config!(mappings.mmap) || call.number == config!(mappings.munmap) {
        call.arguments[0]
    } else if call.number == config!(mappings.mremap) {
        pack_remap(call.arguments[0], call.arguments[1])
    } else if call.number == config!(mappings.brk) {
        call.result
    } else {
        return 0;
    };
    if call.result >= FIRST_ERROR {
        return 0;
    }
    let ids = current_ids();
    if !in_scope(ids) {
        return 0;
    }
    count(Stat::MappingCalls);
    let shift = if call.number == config!(mappings.brk) { 0 } else { call_shift() };
    // SAFETY: no preconditions.
    if shift != 0 && unsafe { bpf_get_prandom_u32() } & ((1 << shift) - 1) != 0 {
        return 0;
    }
    let Some(scratch) = scratch(CHAIN_HEAP) else {
        count(Stat::NoScratch);
        return 0;
    };
    // SAFETY: this CPU's scratch; tracepoints of system calls do not interrupt programs.
    let next = unsafe {
        let next = begin_in_kernel(scratch, ids);
        (*scratch).header.weight = weight;
        (*scratch).header.syscall = call.number;
        (*scratch).header.events = 1 << shift;
        // There is nothing to see of the kernel at the end of a call.
        (*scratch).header.in_user_mode = 1;
        next
    };
    if let Next::Walk = next {
        // SAFETY: the table holds programs of this type only. Returning means that the kernel refused.
        unsafe { WALK_CALL.tail_call(ctx, 0) };
    }
    // SAFETY: as above.
    unsafe { send_event(ctx, scratch) };
    0
}

/// The agent's word on how many calls to leave out.
#[inline(always)]
fn call_shift() -> u32 {
    // SAFETY: a single word, which the agent replaces as a whole.
    let shift = MEMORY_CONTROL.get_ptr(0).map_or(0, |control| unsafe { (*control).shift });
    if shift < MAX_CALL_SHIFT { shift } else { MAX_CALL_SHIFT }
}

pub(crate) fn walk_call(ctx: &RawTracePointContext) -> i32 {
    let Some(scratch) = scratch(CHAIN_HEAP) else { return 0 };
    // SAFETY: this CPU's scratch; the chain that led here filled it.
    if let Round::Unfinished = unsafe { walk_on(scratch) } {
        // SAFETY: as in `call_ended`.
        unsafe { WALK_CALL.tail_call(ctx, 0) };
    }
    // SAFETY: as above.
    unsafe { send_event(ctx, scratch) };
    0
}

/// Sends an event. Where the ring has no room for a copy of the stack, its frames go alone.
///
/// # Safety
///
/// `scratch` is this CPU's, with a finished walk.
#[inline(always)]
unsafe fn send_event<C: EbpfContext>(ctx: &C, scratch: *mut Scratch) {
    // SAFETY: valid by the caller.
    unsafe {
        let Some(frames) = add_kernel_stack(ctx, scratch) else { return };
        let events = u64::from((*scratch).header.events);
        let copy = has_copy(scratch) && has_room_for_copies();
        if send(scratch, frames, copy) {
            count(Stat::Emitted);
        } else {
            add(Stat::RingFull, events);
        }
    }
}
