//! The user walk inside BPF: the shared steps of `profiler_common::unwind` over the task's memory.
//!
//! A program walks `FRAMES_PER_PROGRAM` frames and tail-calls itself; the state waits in the scratch.

use aya_ebpf::helpers::bpf_probe_read_user;
use profiler_common::config::ARCH_X86_64;
use profiler_common::limits::{FRAMES_PER_PROGRAM, MAX_USER_FRAMES};
use profiler_common::stop::StopReason;
use profiler_common::unwind::{Arch, Memory, Registers, Step, step};

use crate::maps::config;
use crate::scratch::{Scratch, put_user_frame};

/// The current task's user memory. Reads never fault pages in: what is not resident is an error.
struct UserMemory;

impl Memory for UserMemory {
    #[inline(always)]
    fn word_pair(&self, abs_addr: u64) -> Option<[u64; 2]> {
        // SAFETY: the helper checks the address itself and reports a fault as an error.
        unsafe { bpf_probe_read_user(abs_addr as *const [u64; 2]).ok() }
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
    let arch = if config!(arch) == ARCH_X86_64 { Arch::X86_64 } else { Arch::Aarch64 };
    let code_mask = config!(code_mask);
    // SAFETY: valid by the caller, here and below.
    let state = unsafe { &raw mut (*scratch).walk };
    let mut registers = unsafe { Registers { ip: (*state).ip, sp: (*state).sp, fp: (*state).fp } };
    let mut frames = unsafe { (*state).frames };
    for _ in 0..FRAMES_PER_PROGRAM {
        let stop = match step(arch, &registers, code_mask, &UserMemory) {
            Step::Caller(caller) => {
                if unsafe { put_user_frame(scratch, frames, caller.ip) } {
                    frames += 1;
                    registers = caller;
                    continue;
                }
                StopReason::TooDeep
            }
            Step::Stop(reason) => reason,
        };
        unsafe {
            (*scratch).header.stop = stop as u8;
            (*state).frames = frames;
        }
        return Round::Finished;
    }
    unsafe {
        (*state).ip = registers.ip;
        (*state).sp = registers.sp;
        (*state).fp = registers.fp;
        (*state).frames = frames;
        if frames as usize >= MAX_USER_FRAMES {
            // One more step would tell "exactly full" from "too deep"; the next round takes it.
            (*scratch).header.stop = StopReason::TooDeep as u8;
        }
    }
    Round::Unfinished
}
