//! The end of every sample: the kernel's frames, then the record into the ring, without waking anyone up.

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::generated::{
    bpf_get_stack, bpf_probe_read_kernel, bpf_probe_read_user, bpf_ringbuf_output, bpf_ringbuf_query,
};
use profiler_common::config::{COPY_ALWAYS, STACK_KERNEL};
use profiler_common::limits::{
    MAX_FRAMES, MAX_KERNEL_FRAMES, MAX_USER_FRAMES, STACK_COPY_BYTES, STACK_COPY_PAGES, STACK_COPY_RECORDS,
    STACK_PAGE_BYTES,
};
use profiler_common::sample::{RECORD_COLD_SAMPLE, RECORD_STACK, SAMPLE_HEADER_BYTES};
use profiler_common::stats::Stat;
use profiler_common::stop::StopReason;
use profiler_common::unwind::{REGISTERS_BYTES, Registers};

use crate::maps::{RING, config};
use crate::scratch::{Scratch, opaque};
use crate::stats::count;

/// `BPF_RB_NO_WAKEUP`, include/uapi/linux/bpf.h: the agent drains by timer; a wake-up costs more than the sample.
const NO_WAKEUP: u64 = 1;
/// Bits of an address inside its page.
const PAGE_MASK: u64 = STACK_PAGE_BYTES as u64 - 1;
/// `BPF_RB_FORCE_WAKEUP`: a record with a stack is large, and says that a table is missing; the agent should come soon.
const FORCE_WAKEUP: u64 = 2;

/// Adds the kernel stack and sends the record.
///
/// # Safety
///
/// `scratch` comes from [`crate::scratch::scratch`] on this CPU, in this program, with a finished walk.
#[inline(always)]
pub(crate) unsafe fn finish<C: EbpfContext>(ctx: &C, scratch: *mut Scratch) {
    // SAFETY: valid by the caller.
    unsafe {
        let Some(frames) = add_kernel_stack(ctx, scratch) else { return };
        let copy = has_copy(scratch) && has_room_for_copies();
        let sent = send(scratch, frames, copy);
        count(if sent { Stat::Emitted } else { Stat::RingFull });
    }
}

/// Puts the kernel's frames behind the user's and both numbers into the header; returns their sum.
///
/// # Safety
///
/// As for [`finish`].
#[inline(always)]
pub(crate) unsafe fn add_kernel_stack<C: EbpfContext>(ctx: &C, scratch: *mut Scratch) -> Option<u64> {
    // SAFETY: valid by the caller.
    let mut user_frames = u64::from(unsafe { (*scratch).walk.frames });
    opaque(&mut user_frames);
    if user_frames > MAX_USER_FRAMES as u64 {
        return None;
    }
    // SAFETY: valid by the caller.
    let user_mode = unsafe { (*scratch).header.in_user_mode } != 0;
    let mut kernel_frames = 0;
    if config!(stacks) & STACK_KERNEL != 0 && !user_mode {
        // SAFETY: `user_frames` leaves room for MAX_KERNEL_FRAMES words; the verifier checks it too.
        let written = unsafe {
            let start = (&raw mut (*scratch).frames).cast::<u64>().add(user_frames as usize);
            bpf_get_stack(ctx.as_ptr(), start.cast(), MAX_KERNEL_FRAMES as u32 * 8, 0)
        };
        if written > 0 {
            kernel_frames = written as u64 / 8;
        }
    }
    opaque(&mut kernel_frames);
    if kernel_frames > MAX_KERNEL_FRAMES as u64 {
        return None;
    }
    // SAFETY: valid by the caller.
    unsafe {
        (*scratch).header.user_frames = user_frames as u16;
        (*scratch).header.kernel_frames = kernel_frames as u16;
    }
    Some(user_frames + kernel_frames)
}

/// Sends the record, with a copy of the stack if user space is to finish the walk; false when the ring is full.
///
/// # Safety
///
/// As for [`finish`]; `frames` comes from [`add_kernel_stack`].
#[inline(always)]
pub(crate) unsafe fn send(scratch: *mut Scratch, frames: u64, copy: bool) -> bool {
    let mut frames = frames;
    opaque(&mut frames);
    if frames > MAX_FRAMES as u64 {
        return false;
    }
    // SAFETY: valid by the caller; `frames` was bounded above.
    let copied = unsafe { if copy { copy_stack(scratch, frames) } else { 0 } };
    let bytes = SAMPLE_HEADER_BYTES as u64 + frames * 8 + copied;
    let wakeup = if copied == 0 { NO_WAKEUP } else { FORCE_WAKEUP };
    // SAFETY: header, frames and copies are adjacent (repr(C)), and `bytes` ends inside the copies.
    let failed =
        unsafe { bpf_ringbuf_output((&raw const RING).cast_mut().cast(), scratch.cast(), bytes, wakeup) };
    if failed == 0 && copied == (REGISTERS_BYTES + STACK_COPY_BYTES) as u64 {
        // SAFETY: valid by the caller.
        unsafe { send_rest_of_stack(scratch) };
    }
    failed == 0
}

/// Whether the stack goes along: user space is to finish the walk, or to compare it.
///
/// # Safety
///
/// `scratch` is this CPU's.
#[inline(always)]
pub(crate) unsafe fn has_copy(scratch: *mut Scratch) -> bool {
    // SAFETY: valid by the caller, here and below.
    let stop = unsafe { (*scratch).header.stop };
    stop == StopReason::NoMapping as u8
        || stop == StopReason::TableMissing as u8
        || (config!(copy_stacks) == COPY_ALWAYS && unsafe { (*scratch).walk.frames } != 0)
}

/// `BPF_RB_AVAIL_DATA` and `BPF_RB_RING_SIZE`, include/uapi/linux/bpf.h.
const WAITING_BYTES: u64 = 0;
const RING_SIZE: u64 = 1;

/// Whether the ring may take one more copy of a stack, a hundred times the size of a record without: until it is half full. A stack that is cut
/// is better than a sample that is lost.
#[inline(always)]
pub(crate) fn has_room_for_copies() -> bool {
    let ring = (&raw const RING).cast_mut().cast();
    // SAFETY: the helper only reads the positions of the ring, and its size.
    unsafe { bpf_ringbuf_query(ring, WAITING_BYTES) < bpf_ringbuf_query(ring, RING_SIZE) / 2 }
}

/// Appends the registers of the walk and its stack behind `frames` frames; returns the bytes appended.
///
/// # Safety
///
/// `scratch` is this CPU's, and `frames` is at most `MAX_FRAMES`.
#[inline(always)]
unsafe fn copy_stack(scratch: *mut Scratch, frames: u64) -> u64 {
    // SAFETY: valid by the caller; the copies have room for the registers and all pages behind the longest stack.
    unsafe {
        let registers = copied_registers(scratch);
        let end = (&raw mut (*scratch).frames).cast::<u64>().add(frames as usize);
        bpf_probe_read_kernel(end.cast(), REGISTERS_BYTES as u32, registers.cast());
        let copied = copy_pages(end.cast::<u8>().add(REGISTERS_BYTES), (*registers).sp & !PAGE_MASK);
        (*scratch).header.kind = RECORD_COLD_SAMPLE;
        (*scratch).header.stack_bytes = copied as u16;
        count(Stat::Cold);
        copied + REGISTERS_BYTES as u64
    }
}

/// The registers that user space begins with: where the walk stopped, or the leaf's where whole walks are compared.
///
/// # Safety
///
/// `scratch` is this CPU's.
#[inline(always)]
unsafe fn copied_registers(scratch: *mut Scratch) -> *const Registers {
    // SAFETY: valid by the caller.
    unsafe {
        if config!(copy_stacks) == COPY_ALWAYS {
            &raw const (*scratch).walk.leaf
        } else {
            &raw const (*scratch).walk.registers
        }
    }
}

/// Copies up to `STACK_COPY_PAGES` pages of user memory; returns the bytes that could be read.
///
/// # Safety
///
/// `target` has room for all pages.
#[inline(always)]
unsafe fn copy_pages(target: *mut u8, base: u64) -> u64 {
    let mut copied = 0;
    // A page is readable as a whole or not at all; the first that is not ends the stack.
    for page in 0..STACK_COPY_PAGES {
        let source = base.wrapping_add((page * STACK_PAGE_BYTES) as u64);
        // SAFETY: valid by the caller; the helper checks the source itself.
        let failed = unsafe {
            let target = target.add(page * STACK_PAGE_BYTES);
            bpf_probe_read_user(target.cast(), STACK_PAGE_BYTES as u32, source as *const _)
        };
        if failed != 0 {
            break;
        }
        copied = (page as u64 + 1) * STACK_PAGE_BYTES as u64;
    }
    copied
}

/// Sends what one record could not hold of a stack, in records of its own.
///
/// # Safety
///
/// `scratch` is this CPU's, and its record was sent.
#[inline(always)]
unsafe fn send_rest_of_stack(scratch: *mut Scratch) {
    // SAFETY: valid by the caller; the frames and copies, which were sent, lend their room.
    unsafe {
        let base = (*copied_registers(scratch)).sp & !PAGE_MASK;
        (*scratch).header.kind = RECORD_STACK;
        for piece in 1..STACK_COPY_RECORDS {
            let source = base.wrapping_add((piece * STACK_COPY_BYTES) as u64);
            let copied = copy_pages((&raw mut (*scratch).frames).cast(), source);
            if copied == 0 {
                return;
            }
            (*scratch).header.stack_bytes = copied as u16;
            let bytes = SAMPLE_HEADER_BYTES as u64 + copied;
            if bpf_ringbuf_output((&raw const RING).cast_mut().cast(), scratch.cast(), bytes, NO_WAKEUP) != 0
            {
                count(Stat::StackCut);
                return;
            }
            if copied != STACK_COPY_BYTES as u64 {
                return;
            }
        }
    }
}
