//! The per-CPU record under construction, and the state that a walk carries from program to program.
//!
//! It lives in a map because the stack of a BPF program holds 512 bytes. It is never cleared: lengths say what counts.

use core::arch::asm;

use profiler_common::limits::{MAX_FRAMES, MAX_USER_FRAMES, STACK_COPY_BYTES};
use profiler_common::mapping::Mapping;
use profiler_common::sample::SampleHeader;
use profiler_common::unwind::{REGISTERS_BYTES, Registers};

use crate::maps::SCRATCH;

/// Words that may follow the frames: the registers and the stack of a walk that user space finishes.
const COPY_WORDS: usize = (REGISTERS_BYTES + STACK_COPY_BYTES) / 8;

/// A record as it goes to the ring (header, frames, copies, adjacent), then what stays here.
#[repr(C)]
pub(crate) struct Scratch {
    pub(crate) header: SampleHeader,
    pub(crate) frames: [u64; MAX_FRAMES],
    /// Room for what follows the last frame.
    copies: [u64; COPY_WORDS],
    pub(crate) walk: WalkState,
}

/// Where a user walk stands.
#[repr(C)]
pub(crate) struct WalkState {
    pub(crate) registers: Registers,
    /// The mapping of the last address: most frames lie in the same one as the frame before.
    pub(crate) mapping: Mapping,
    /// Registers of the leaf, where every stack is copied.
    pub(crate) leaf: Registers,
    /// Where the interrupted registers of the signal frame lie that the walk has come to, or zero.
    pub(crate) signal: u64,
    /// User frames written so far.
    pub(crate) frames: u32,
    /// Number of the address space, or zero when it is not known here.
    pub(crate) space: u32,
    /// Thread whose wait the stack belongs to, by the kernel's own ID.
    pub(crate) owner: u32,
    /// Of an allocation, bytes.
    pub(crate) size: u64,
    /// What it stands for: see [`profiler_common::heap::Rate::weight`].
    pub(crate) weight: u64,
    /// Its address; [`BLOCK_RETURNED`] while the function has not returned, [`BLOCK_UNKNOWN`] where nobody will know.
    pub(crate) block: u64,
    /// One where the program itself chose the block.
    pub(crate) chosen: u64,
    /// Thread that takes a stack in this scratch, one more than its ID by the kernel: programs of allocations can be preempted. Zero for none.
    pub(crate) busy: u64,
}

/// The block's address comes with the return of the function.
pub(crate) const BLOCK_RETURNED: u64 = 0;
/// Nobody sees the block's address.
pub(crate) const BLOCK_UNKNOWN: u64 = u64::MAX;

/// This CPU's scratch for one of the `CHAIN_`s.
#[inline(always)]
pub(crate) fn scratch(chain: u32) -> Option<*mut Scratch> {
    SCRATCH.get_ptr_mut(chain)
}

/// Writes user frame number `index`; false when the record is full.
///
/// # Safety
///
/// `scratch` comes from [`scratch`] on this CPU, in this program.
#[inline(always)]
pub(crate) unsafe fn put_user_frame(scratch: *mut Scratch, index: u32, address: u64) -> bool {
    let mut index = u64::from(index);
    opaque(&mut index);
    if index >= MAX_USER_FRAMES as u64 {
        return false;
    }
    // SAFETY: the index was checked against the length, right here where the verifier can see it.
    unsafe { (&raw mut (*scratch).frames).cast::<u64>().add(index as usize).write(address) };
    true
}

/// Hides a value's origin from LLVM, which otherwise proves a bound, drops the branch that checks it, and leaves the
/// verifier, which cannot prove it, without the check. A real move, because an empty statement leaves two source lines
/// for one instruction, which the kernel refuses ("Invalid line_info").
#[inline(always)]
pub(crate) fn opaque(value: &mut u64) {
    // SAFETY: moves a register onto itself.
    unsafe { asm!("{0} = {0}", inout(reg) * value, options(nomem, nostack, preserves_flags)) };
}
