//! The end of every sample: the kernel's frames, then the record into the ring, without waking anyone up.

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::generated::{bpf_get_stack, bpf_ringbuf_output};
use profiler_common::config::STACK_KERNEL;
use profiler_common::limits::{MAX_KERNEL_FRAMES, MAX_USER_FRAMES};
use profiler_common::sample::SAMPLE_HEADER_BYTES;
use profiler_common::stats::Stat;

use crate::maps::{RING, config};
use crate::scratch::{Scratch, opaque};
use crate::stats::count;

/// `BPF_RB_NO_WAKEUP`, include/uapi/linux/bpf.h: the agent drains by timer; a wake-up costs more than the sample.
const NO_WAKEUP: u64 = 1;

/// Adds the kernel stack and sends the record.
///
/// # Safety
///
/// `scratch` comes from [`crate::scratch::scratch`] on this CPU, in this program, with a finished walk.
#[inline(always)]
pub(crate) unsafe fn finish<C: EbpfContext>(ctx: &C, scratch: *mut Scratch) {
    // SAFETY: valid by the caller.
    let mut user_frames = u64::from(unsafe { (*scratch).walk.frames });
    opaque(&mut user_frames);
    if user_frames > MAX_USER_FRAMES as u64 {
        return;
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
        return;
    }
    // SAFETY: valid by the caller.
    unsafe {
        (*scratch).header.user_frames = user_frames as u16;
        (*scratch).header.kernel_frames = kernel_frames as u16;
    }
    let bytes = SAMPLE_HEADER_BYTES as u64 + (user_frames + kernel_frames) * 8;
    // SAFETY: header and frames are adjacent (repr(C)), and `bytes` ends inside the frames.
    let failed =
        unsafe { bpf_ringbuf_output((&raw const RING).cast_mut().cast(), scratch.cast(), bytes, NO_WAKEUP) };
    count(if failed == 0 { Stat::Emitted } else { Stat::RingFull });
}
