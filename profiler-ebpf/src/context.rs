//! Registers of the interrupted context and of the task's user side, for both architectures.
//!
//! The object is the same for both; the frozen configuration says which one runs, and the verifier never looks at
//! the other branch. Context loads are written in assembly because LLVM may merge two of them into one load through
//! a computed pointer, which the verifier refuses ("dereference of modified ctx ptr").

use core::arch::asm;

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::{bpf_get_current_task_btf, bpf_task_pt_regs};
use profiler_common::config::ARCH_X86_64;

use crate::kernel::{current_task, read_field};
use crate::maps::config;

/// Offsets in `struct pt_regs` (arch/x86/include/asm/ptrace.h) and `struct user_pt_regs`
/// (arch/arm64/include/uapi/asm/ptrace.h), which is also how `struct pt_regs` of arm64 begins.
mod layout {
    pub(super) const X86_BP: u32 = 32;
    pub(super) const X86_IP: u32 = 128;
    pub(super) const X86_CS: u32 = 136;
    pub(super) const X86_SP: u32 = 152;
    /// `bpf_perf_event_data.sample_period` behind 21 registers.
    pub(super) const X86_PERIOD: u32 = 168;
    pub(super) const ARM_FP: u32 = 29 * 8;
    pub(super) const ARM_SP: u32 = 31 * 8;
    pub(super) const ARM_PC: u32 = 32 * 8;
    pub(super) const ARM_PSTATE: u32 = 33 * 8;
    /// `bpf_perf_event_data.sample_period` behind 34 registers.
    pub(super) const ARM_PERIOD: u32 = 34 * 8;
}

/// `__USER32_CS` (arch/x86/include/asm/segment.h): the code segment of 32-bit tasks.
const X86_USER32_CS: u64 = 0x23;
/// `PSR_MODE32_BIT` (arch/arm64/include/uapi/asm/ptrace.h).
const ARM_MODE32: u64 = 0x10;
/// `PSR_MODE_MASK`; zero is EL0, user mode.
const ARM_MODE_MASK: u64 = 0xf;

/// Registers that a user walk starts from.
#[derive(Clone, Copy)]
pub(crate) struct UserRegisters {
    pub(crate) ip: u64,
    pub(crate) sp: u64,
    pub(crate) fp: u64,
    /// True for a 32-bit task.
    pub(crate) compat: bool,
}

/// One 64-bit load from the context at a constant offset.
macro_rules! context_word {
    ($ctx:expr, $offset:expr) => {{
        let value: u64;
        // SAFETY: the verifier checks the load against the layout of the program type's context.
        unsafe {
            asm!("{value} = *(u64 *)({ctx} + {offset})", value = out(reg) value, ctx = in(reg) $ctx.as_ptr(),
                 offset = const $offset, options(nostack));
        }
        value
    }};
}

/// True when a context whose registers are `pt_regs` was interrupted in user mode.
#[inline(always)]
pub(crate) fn in_user_mode<C: EbpfContext>(ctx: &C) -> bool {
    if config!(arch) == ARCH_X86_64 {
        context_word!(ctx, layout::X86_CS) & 3 == 3
    } else {
        context_word!(ctx, layout::ARM_PSTATE) & ARM_MODE_MASK == 0
    }
}

/// The user registers of a context that was interrupted in user mode.
#[inline(always)]
pub(crate) fn interrupted_registers<C: EbpfContext>(ctx: &C) -> UserRegisters {
    if config!(arch) == ARCH_X86_64 {
        UserRegisters {
            ip: context_word!(ctx, layout::X86_IP),
            sp: context_word!(ctx, layout::X86_SP),
            fp: context_word!(ctx, layout::X86_BP),
            compat: context_word!(ctx, layout::X86_CS) == X86_USER32_CS,
        }
    } else {
        UserRegisters {
            ip: context_word!(ctx, layout::ARM_PC),
            sp: context_word!(ctx, layout::ARM_SP),
            fp: context_word!(ctx, layout::ARM_FP),
            compat: context_word!(ctx, layout::ARM_PSTATE) & ARM_MODE32 != 0,
        }
    }
}

/// `bpf_perf_event_data.sample_period`.
#[inline(always)]
pub(crate) fn sample_period<C: EbpfContext>(ctx: &C) -> u64 {
    if config!(arch) == ARCH_X86_64 {
        context_word!(ctx, layout::X86_PERIOD)
    } else {
        context_word!(ctx, layout::ARM_PERIOD)
    }
}

/// What is known of the user side of a task that was interrupted in the kernel.
pub(crate) enum UserSide {
    Registers(UserRegisters),
    /// A kernel thread, or a worker that never ran in user mode.
    None,
    /// The kernel has no BTF, so its saved registers cannot be asked for.
    Unknown,
}

/// The registers with which the current task entered the kernel.
#[inline(always)]
pub(crate) fn saved_registers() -> UserSide {
    if config!(has_offsets) == 0 {
        return UserSide::Unknown;
    }
    if read_field::<u64>(current_task(), config!(offsets.task_mm)).unwrap_or(0) == 0 {
        return UserSide::None;
    }
    // SAFETY: no preconditions; both helpers exist since 5.15 wherever the kernel has BTF.
    let regs = unsafe { bpf_task_pt_regs(bpf_get_current_task_btf()) } as u64;
    let registers = if config!(arch) == ARCH_X86_64 {
        UserRegisters {
            ip: read_field(regs, layout::X86_IP).unwrap_or(0),
            sp: read_field(regs, layout::X86_SP).unwrap_or(0),
            fp: read_field(regs, layout::X86_BP).unwrap_or(0),
            compat: read_field::<u64>(regs, layout::X86_CS) == Some(X86_USER32_CS),
        }
    } else {
        UserRegisters {
            ip: read_field(regs, layout::ARM_PC).unwrap_or(0),
            sp: read_field(regs, layout::ARM_SP).unwrap_or(0),
            fp: read_field(regs, layout::ARM_FP).unwrap_or(0),
            compat: read_field::<u64>(regs, layout::ARM_PSTATE).unwrap_or(0) & ARM_MODE32 != 0,
        }
    };
    // io_uring workers have the process's memory but never were in user mode: their saved registers are zero.
    if registers.ip == 0 { UserSide::None } else { UserSide::Registers(registers) }
}
