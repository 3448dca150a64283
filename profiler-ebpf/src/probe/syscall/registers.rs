//! What a system call's saved registers say: its number, its table, the user's stack pointer.
//!
//! Offsets are those of `struct pt_regs`: arch/x86/include/asm/ptrace.h and arch/arm64/include/asm/ptrace.h.

use core::arch::asm;

use aya_ebpf::helpers::bpf_get_current_task_btf;
use profiler_common::config::ARCH_X86_64;
use profiler_common::syscall::{ABI_COMPAT, ABI_NATIVE, ABI_X32, TS_COMPAT, X32_BIT, counted_number};

use crate::kernel::read_field;
use crate::maps::{config, syscall_config};

const X86_ORIG_AX: u32 = 120;
const X86_SP: u32 = 152;
const ARM_SP: u32 = 248;
const ARM_PSTATE: u32 = 264;
const ARM_SYSCALLNO: u32 = 280;

/// Where the arguments are: di, si, dx, r10, r8, r9; for 32-bit calls bx, cx, dx, si, di, bp; on arm64 `orig_x0` and x1 to x5.
const X86_ARGUMENTS: [u32; 6] = [112, 104, 96, 56, 72, 64];
const I386_ARGUMENTS: [u32; 6] = [40, 88, 96, 104, 112, 32];
const ARM_ARGUMENTS: [u32; 6] = [272, 8, 16, 24, 32, 40];

/// `PSR_MODE32_BIT`, arch/arm64/include/uapi/asm/ptrace.h.
const ARM_MODE32: u64 = 0x10;
/// What `orig_ax` is after `rt_sigreturn`: not in a call (arch/x86/kernel/signal_64.c).
const NOT_IN_CALL: i32 = -1;
/// `rt_sigreturn` of x86_64.
const X86_SIGRETURN: u64 = 15;

/// The table through which the current call came; `id` is the number as the kernel was given it.
#[inline(always)]
pub(super) fn abi(regs: u64, id: u64) -> u16 {
    if config!(arch) == ARCH_X86_64 {
        let offset = syscall_config!(status_offset);
        if offset != 0 && status(offset) & TS_COMPAT != 0 {
            return ABI_COMPAT;
        }
        return if id as u32 & X32_BIT != 0 && (id as i32) > 0 { ABI_X32 } else { ABI_NATIVE };
    }
    let pstate = read_field::<u64>(regs, ARM_PSTATE).unwrap_or(0);
    if pstate & ARM_MODE32 != 0 { ABI_COMPAT } else { ABI_NATIVE }
}

/// `thread_info.status` of the current task, by a plain load: a call of a helper would cost several times as much, at each
/// call of the machine.
#[inline(always)]
fn status(offset: u32) -> u32 {
    let value: u64;
    // SAFETY: the verifier knows the type of the task and the offset, which is frozen, and checks the load. In assembly, because only
    // a load through exactly this pointer is one that it knows.
    unsafe {
        let task = bpf_get_current_task_btf().cast::<u8>();
        let field = task.wrapping_add(offset as usize);
        asm!("{value} = *(u32 *)({field} + 0)", value = out(reg) value, field = in(reg) field, options(nostack, readonly));
    }
    value as u32
}

/// The number under which a call is counted.
#[inline(always)]
pub(super) fn number(id: u64, abi: u16) -> u32 {
    let id = id as u32;
    counted_number(if abi == ABI_X32 { id & !X32_BIT } else { id }, abi)
}

/// The number of the call that returns with these registers; none when they cannot be read.
#[inline(always)]
pub(super) fn number_at_return(regs: u64) -> Option<u64> {
    if config!(arch) == ARCH_X86_64 {
        let id = read_field::<u64>(regs, X86_ORIG_AX)?;
        return Some(if id as i32 == NOT_IN_CALL { X86_SIGRETURN } else { id });
    }
    read_field::<u32>(regs, ARM_SYSCALLNO).map(u64::from)
}

/// The six arguments of the call that returns with these registers.
///
/// # Safety
///
/// `into` is valid for writes.
#[inline(always)]
pub(super) unsafe fn arguments(regs: u64, abi: u16, into: *mut [u64; 6]) {
    let offsets = if config!(arch) != ARCH_X86_64 {
        ARM_ARGUMENTS
    } else if abi == ABI_COMPAT {
        I386_ARGUMENTS
    } else {
        X86_ARGUMENTS
    };
    for index in 0..6 {
        // SAFETY: valid by the caller.
        unsafe { (*into)[index] = read_field(regs, offsets[index]).unwrap_or(0) };
    }
}

/// The user's stack pointer.
#[inline(always)]
pub(super) fn stack_pointer(regs: u64) -> u64 {
    let offset = if config!(arch) == ARCH_X86_64 { X86_SP } else { ARM_SP };
    read_field(regs, offset).unwrap_or(0)
}
