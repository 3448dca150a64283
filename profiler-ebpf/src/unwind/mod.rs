//! The user walk inside BPF: the shared steps of `profiler_common::unwind` over the task's memory and the agent's tables.
//!
//! A program walks `FRAMES_PER_PROGRAM` frames and tail-calls itself; the state waits in the scratch.

mod tables;

use aya_ebpf::helpers::{bpf_probe_read_user, generated};
use profiler_common::config::ARCH_X86_64;
use profiler_common::limits::{FRAMES_PER_PROGRAM, MAX_USER_FRAMES};
use profiler_common::stop::StopReason;
use profiler_common::unwind::{Arch, Memory, SignalFrame, Step, advance};

use crate::maps::config;
use crate::scratch::{Scratch, put_user_frame};
use tables::KernelTables;

/// The current task's user memory. Reads never fault pages in: what is not resident is an error.
struct UserMemory;

impl Memory for UserMemory {
    #[inline(always)]
    fn word(&self, abs_addr: u64) -> Option<u64> {
        // SAFETY: the helper checks the address itself and reports a fault as an error.
        unsafe { bpf_probe_read_user(abs_addr as *const u64).ok() }
    }

    #[inline(always)]
    fn word_pair(&self, abs_addr: u64) -> Option<[u64; 2]> {
        // SAFETY: the helper checks the address itself and reports a fault as an error.
        unsafe { bpf_probe_read_user(abs_addr as *const [u64; 2]).ok() }
    }

    #[inline(always)]
    fn words(&self, abs_addr: u64, into: &mut [u64]) -> bool {
        // SAFETY: as above, and it writes no more than the length.
        unsafe {
            generated::bpf_probe_read_user(
                into.as_mut_ptr().cast(),
                size_of_val(into) as u32,
                abs_addr as *const _,
            ) == 0
        }
    }
}

/// What a round of the walk came to.
pub(crate) enum Round {
    /// There may be more frames.
    Unfinished,
    /// The walk ended; the record knows why.
    Finished,
}

/// Walks up to `FRAMES_PER_PROGRAM` frames on.
///
/// # Safety
///
/// `scratch` comes from [`crate::scratch::scratch`] on this CPU, in this program, after [`crate::collect::begin`].
#[inline(always)]
pub(crate) unsafe fn walk_on(scratch: *mut Scratch) -> Round {
    // SAFETY: passed on from the caller; nothing else refers to the record while a round runs.
    unsafe {
        if let Err(reason) = walk_round(scratch) {
            (*scratch).header.stop = reason as u8;
            return Round::Finished;
        }
        if (*scratch).walk.frames as usize >= MAX_USER_FRAMES {
            // One more step would tell "exactly full" from "too deep"; the next round takes it.
            (*scratch).header.stop = StopReason::TooDeep as u8;
        }
    }
    Round::Unfinished
}

/// # Safety
///
/// As for [`walk_on`].
#[inline(always)]
unsafe fn walk_round(scratch: *mut Scratch) -> Result<(), StopReason> {
    let arch = if config!(arch) == ARCH_X86_64 { Arch::X86_64 } else { Arch::Aarch64 };
    let code_mask = config!(code_mask);
    // The whole state stays in map memory, which the verifier does not track: each turn of the loop looks the same to it.
    // SAFETY: valid by the caller, here and below; the tables touch no registers.
    let (state, registers) =
        unsafe { (&raw mut (*scratch).walk, &mut *(&raw mut (*scratch).walk.registers)) };
    // SAFETY: as above.
    let saved_at = unsafe { (*state).signal };
    if saved_at != 0 {
        // SAFETY: as above.
        unsafe { (*state).signal = 0 };
        if let Step::Stop(reason) = (SignalFrame { saved_at }).leave(arch, registers, &UserMemory) {
            return Err(reason);
        }
        // SAFETY: as above.
        unsafe { write_frame(scratch)? };
    }
    for _ in 0..FRAMES_PER_PROGRAM {
        match advance(arch, registers, code_mask, &mut KernelTables { walk: state }, &UserMemory) {
            Ok(Step::Caller) => {}
            Ok(Step::Stop(reason)) => return Err(reason),
            Err(frame) => {
                // The next program begins with it: its step stands once in the program, outside of the loop.
                // SAFETY: as above.
                unsafe { (*state).signal = frame.saved_at };
                return Ok(());
            }
        }
        // SAFETY: as above.
        unsafe { write_frame(scratch)? };
    }
    Ok(())
}

/// Writes the frame down that the walk has come to.
///
/// # Safety
///
/// As for [`walk_on`].
#[inline(always)]
unsafe fn write_frame(scratch: *mut Scratch) -> Result<(), StopReason> {
    // SAFETY: valid by the caller.
    unsafe {
        let walk = &raw mut (*scratch).walk;
        let frames = (*walk).frames;
        if !put_user_frame(scratch, frames, (*(&raw const (*walk).registers)).caller_address()) {
            return Err(StopReason::TooDeep);
        }
        (*walk).frames = frames.wrapping_add(1);
    }
    Ok(())
}
