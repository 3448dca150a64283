//! The stacks of waits: walked by tail calls, numbered by a hash, sent to user space the first time that they are met.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::maps::ProgramArray;
use aya_ebpf::programs::RawTracePointContext;
use profiler_common::limits::{CHAIN_SWITCH, CHAIN_WAKE, MAX_FRAMES, MAX_STACKS_SENT};
use profiler_common::off_cpu::{COPY_TOKEN_NS, COPY_TOKENS, mix, sent_places, stack_number};
use profiler_common::stats::Stat;

use crate::collect::{Next, begin_in_kernel};
use crate::context::current_syscall;
use crate::emit::{add_kernel_stack, has_copy, has_room_for_copies, send};
use crate::kernel::current_ids;
use crate::maps::{OFF_CPU_THREADS, PACE, Pace, STACKS_SENT, WALK_SWITCH, WALK_WAKE};
use crate::scratch::{Scratch, opaque, scratch};
use crate::stats::count;
use crate::unwind::{Round, walk_on};

/// Walks the current task's stack for the wait of the thread `owner`.
#[inline(always)]
pub(super) fn take_stack(ctx: &RawTracePointContext, chain: u32, walk: &ProgramArray, owner: u32) {
    let Some(scratch) = scratch(chain) else {
        count(Stat::NoScratch);
        return;
    };
    count(Stat::WaitStacks);
    if let Some(pace) = PACE.get_ptr_mut(0) {
        // SAFETY: this CPU's own.
        unsafe { (*pace).stacks = (*pace).stacks.wrapping_add(1) };
    }
    // SAFETY: this CPU's scratch of the chain.
    let next = unsafe {
        (*scratch).walk.owner = owner;
        begin_in_kernel(scratch, current_ids())
    };
    if let Next::Walk = next {
        // SAFETY: the table holds programs of this type only. Returning means that the kernel refused.
        unsafe { walk.tail_call(ctx, 0) };
    }
    finish(ctx, chain);
}

pub(crate) fn walk_switch(ctx: &RawTracePointContext) -> i32 {
    walk(ctx, CHAIN_SWITCH, &WALK_SWITCH)
}

pub(crate) fn walk_wake(ctx: &RawTracePointContext) -> i32 {
    walk(ctx, CHAIN_WAKE, &WALK_WAKE)
}

#[inline(always)]
fn walk(ctx: &RawTracePointContext, chain: u32, next: &ProgramArray) -> i32 {
    let Some(scratch) = scratch(chain) else { return 0 };
    // SAFETY: this CPU's scratch; the chain that led here filled it.
    if let Round::Unfinished = unsafe { walk_on(scratch) } {
        // SAFETY: as in `take_stack`.
        unsafe { next.tail_call(ctx, 0) };
    }
    finish(ctx, chain);
    0
}

/// Numbers the stack, sends it if it is new, and notes its number with the thread that waits.
#[inline(always)]
fn finish(ctx: &RawTracePointContext, chain: u32) {
    let Some(scratch) = scratch(chain) else { return };
    // SAFETY: this CPU's scratch, with a finished walk, here and below.
    let Some(frames) = (unsafe { add_kernel_stack(ctx, scratch) }) else { return };
    let hash = unsafe { hash_frames(scratch) };
    let copy = unsafe { has_copy(scratch) } && grant_copy();
    let number = unsafe {
        let (syscall, argument) = current_syscall();
        (*scratch).header.syscall = syscall;
        (*scratch).header.weight = argument;
        let hash = hash_header(scratch, hash);
        // A stack that user space finishes is like no other: those that begin alike may go on differently.
        stack_number(if copy { mix(hash, (*scratch).header.time_ns) } else { hash })
    };
    let owner = unsafe { (*scratch).walk.owner };
    let Some(thread) = OFF_CPU_THREADS.get_ptr_mut(owner) else { return };
    unsafe {
        if chain == CHAIN_SWITCH {
            (*thread).stack = number;
        } else {
            (*thread).waker = number;
        }
        (*scratch).header.number = number;
    }
    if !copy && was_sent(number) {
        return;
    }
    // SAFETY: as above; a copy is sent by nobody else.
    if unsafe { send(scratch, frames, copy) } {
        count(Stat::Emitted);
        if !copy {
            remember(number);
        }
    } else {
        count(Stat::WaitStackLost);
    }
}

/// Hash of a stack's frames.
///
/// # Safety
///
/// `scratch` is this CPU's, after [`add_kernel_stack`].
#[inline(always)]
pub(crate) unsafe fn hash_frames(scratch: *mut Scratch) -> u64 {
    // Read anew: what the loop teaches the verifier of its end would stay with the caller's number, and each number of turns would be
    // another program to it.
    // SAFETY: valid by the caller.
    let frames = unsafe {
        let header = &raw const (*scratch).header;
        u64::from((&raw const (*header).user_frames).read_volatile())
            + u64::from((&raw const (*header).kernel_frames).read_volatile())
    };
    let mut hash = 0;
    for index in 0..MAX_FRAMES as u64 {
        if index >= frames {
            break;
        }
        // SAFETY: valid by the caller; the index is below the number of frames that the record holds.
        let word = unsafe { (&raw const (*scratch).frames).cast::<u64>().add(index as usize).read() };
        hash = mix(hash, word);
    }
    hash
}

/// A hash with who has the stack and what it waits for mixed in.
///
/// # Safety
///
/// `scratch` is this CPU's.
#[inline(always)]
pub(crate) unsafe fn hash_header(scratch: *mut Scratch, frames: u64) -> u64 {
    // SAFETY: valid by the caller, here and below.
    let header = unsafe { &raw const (*scratch).header };
    let comm = unsafe { (&raw const (*header).comm).cast::<[u64; 2]>().read_unaligned() };
    let ends = unsafe { u64::from((*header).user_frames) << 8 | u64::from((*header).stop) };
    let mut hash = mix(frames, ends << 32 | u64::from(unsafe { (*header).pid }));
    hash = mix(hash, comm[0]);
    hash = mix(hash, comm[1]);
    hash = mix(hash, unsafe { (*header).cgroup_id });
    hash = mix(hash, u64::from(unsafe { (*header).syscall }));
    mix(hash, unsafe { (*header).weight })
}

/// Whether this CPU may send one more copy of a stack: it has not sent many lately, and half of the ring is left for stacks alone. The
/// first seconds of a recording meet many tables that are not loaded yet, and a copy is a hundred times a stack.
#[inline(always)]
pub(crate) fn grant_copy() -> bool {
    if !has_room_for_copies() {
        return false;
    }
    let Some(pace) = PACE.get_ptr_mut(0) else { return false };
    // SAFETY: no preconditions; the pace is this CPU's own.
    unsafe {
        let now = bpf_ktime_get_ns();
        let granted = now.wrapping_sub((*pace).granted_ns) / COPY_TOKEN_NS;
        if granted > 0 {
            let copies = (*pace).copies.wrapping_add(granted);
            (*pace).copies = if copies < COPY_TOKENS { copies } else { COPY_TOKENS };
            (*pace).granted_ns = now;
        }
        if (*pace).copies == 0 {
            return false;
        }
        (*pace).copies -= 1;
    }
    true
}

/// The two places at which a number may be remembered.
#[inline(always)]
fn places(number: u64) -> (Option<*mut u64>, Option<*mut u64>) {
    let (mut first, mut second) = sent_places(number);
    opaque(&mut first);
    opaque(&mut second);
    (STACKS_SENT.get_ptr_mut(first as u32), STACKS_SENT.get_ptr_mut(second as u32))
}

#[inline(always)]
pub(crate) fn was_sent(number: u64) -> bool {
    let (first, second) = places(number);
    // SAFETY: single words, which other CPUs may replace as wholes.
    let is = |place: Option<*mut u64>| place.is_some_and(|place| unsafe { place.read_volatile() } == number);
    is(first) || is(second)
}

#[inline(always)]
pub(crate) fn remember(number: u64) {
    let (Some(first), Some(second)) = places(number) else { return };
    // SAFETY: as in `was_sent`.
    unsafe {
        let place = if first.read_volatile() == 0 { first } else { second };
        place.write_volatile(number);
    }
}

const _: () = {
    assert!(MAX_STACKS_SENT.is_power_of_two());
    assert!(size_of::<Pace>() == 40);
};
