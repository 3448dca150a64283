//! Registers of the interrupted context and of the task's user side, for both architectures.
//!
//! The object is the same for both; the frozen configuration says which one runs, and the verifier never looks at
//! the other branch. Context loads are written in assembly because LLVM may merge two of them into one load through
//! a computed pointer, which the verifier refuses ("dereference of modified ctx ptr").

use core::arch::asm;

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::generated::bpf_probe_read_kernel;
use aya_ebpf::helpers::{bpf_get_current_task_btf, bpf_task_pt_regs};
use profiler_common::config::ARCH_X86_64;
use profiler_common::sample::NO_SYSCALL;
use profiler_common::unwind::{KNOWN_ALL, KNOWN_RBX, Registers};

use crate::kernel::{current_task, read_field};
use crate::maps::config;

/// Offsets in `struct pt_regs` (arch/x86/include/asm/ptrace.h) and `struct user_pt_regs`
/// (arch/arm64/include/uapi/asm/ptrace.h), which is also how `struct pt_regs` of arm64 begins.
mod layout {
    pub(super) const X86_IP: u32 = 128;
    pub(super) const X86_CS: u32 = 136;
    /// `bpf_perf_event_data.sample_period` behind 21 registers.
    pub(super) const X86_PERIOD: u32 = 168;
    pub(super) const X86_WORDS: usize = 21;
    pub(super) const X86_AX: u32 = 80;
    pub(super) const X86_BX: u32 = 40;
    pub(super) const X86_CX: u32 = 88;
    pub(super) const X86_FLAGS: u32 = 144;
    pub(super) const X86_DX: u32 = 96;
    pub(super) const X86_SI: u32 = 104;
    pub(super) const X86_USER_SP: u32 = 152;
    pub(super) const ARM_USER_SP: u32 = 31 * 8;
    pub(super) const X86_DI: u32 = 112;
    pub(super) const X86_ORIG_AX: u32 = 120;
    pub(super) const X86_BP: usize = 6;
    pub(super) const X86_SP: usize = 7;
    pub(super) const ARM_FP: usize = 29;
    pub(super) const ARM_LR: usize = 30;
    pub(super) const ARM_SP: usize = 31;
    pub(super) const ARM_PC: u32 = 32 * 8;
    pub(super) const ARM_PSTATE: u32 = 33 * 8;
    /// `bpf_perf_event_data.sample_period` behind 34 registers.
    pub(super) const ARM_PERIOD: u32 = 34 * 8;
    pub(super) const ARM_WORDS: usize = 34;
    /// `orig_x0` and `syscallno`, which follow what user space knows of the structure.
    pub(super) const ARM_ORIG_X0: u32 = 34 * 8;
    pub(super) const ARM_SYSCALL: u32 = 35 * 8;
}

/// Runs `$set(dwarf_number, pt_regs_offset)` for each general register of x86_64.
macro_rules! each_x86_register {
    ($set:ident) => {
        $set!(0, 80);
        $set!(1, 96);
        $set!(2, 88);
        $set!(3, 40);
        $set!(4, 104);
        $set!(5, 112);
        $set!(6, 32);
        $set!(7, 152);
        $set!(8, 72);
        $set!(9, 64);
        $set!(10, 56);
        $set!(11, 48);
        $set!(12, 24);
        $set!(13, 16);
        $set!(14, 8);
        $set!(15, 0);
    };
}

/// Runs `$set(number, offset)` for x0 to x30 and the stack pointer.
macro_rules! each_arm_register {
    ($set:ident) => {
        each_arm_register!($set: 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31);
    };
    ($set:ident: $($number:literal)*) => {
        $($set!($number, $number * 8);)*
    };
}

/// `__USER32_CS` (arch/x86/include/asm/segment.h): the code segment of 32-bit tasks.
const X86_USER32_CS: u64 = 0x23;
/// `PSR_MODE32_BIT` (arch/arm64/include/uapi/asm/ptrace.h).
const ARM_MODE32: u64 = 0x10;
/// `PSR_MODE_MASK`; zero is EL0, user mode.
const ARM_MODE_MASK: u64 = 0xf;

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

/// What is known of the user side of a task.
pub(crate) enum UserSide {
    /// The registers are filled in.
    Filled,
    /// They are, but the task runs 32-bit code.
    Compat,
    /// A kernel thread, or a worker that never ran in user mode.
    None,
    /// The kernel has no BTF, so its saved registers cannot be asked for.
    Unknown,
}

/// Words of `pt_regs` that hold the first three arguments of a function.
const X86_ARGUMENTS: [u64; 3] = [14, 13, 12];

/// One word of the user registers of a probe in user code, by its index in `pt_regs`: the usual places of arguments from the context, others
/// from the kernel's copy of the same registers.
#[inline(always)]
pub(crate) fn register_word<C: EbpfContext>(ctx: &C, index: u64) -> u64 {
    if config!(arch) == ARCH_X86_64 {
        if index == X86_ARGUMENTS[0] {
            return context_word!(ctx, layout::X86_DI);
        }
        if index == X86_ARGUMENTS[1] {
            return context_word!(ctx, layout::X86_SI);
        }
    } else if index == 0 {
        return context_word!(ctx, 0);
    }
    // SAFETY: no preconditions; the value is only ever read through the checked helper.
    let regs = unsafe { bpf_task_pt_regs(bpf_get_current_task_btf()) } as u64;
    read_field(regs, (index as u32 & 63) * 8).unwrap_or(0)
}

/// One of the first three arguments of a function of Go's: Go passes them in registers of its own choice on x86_64 (`abi-internal.md`).
#[inline(always)]
pub(crate) fn argument_word<C: EbpfContext>(ctx: &C, index: u64) -> u64 {
    let is_x86 = config!(arch) == ARCH_X86_64;
    if index == 0 {
        return if is_x86 { context_word!(ctx, layout::X86_AX) } else { context_word!(ctx, 0) };
    }
    if index == 1 {
        return if is_x86 { context_word!(ctx, layout::X86_BX) } else { context_word!(ctx, 8) };
    }
    if is_x86 { context_word!(ctx, layout::X86_CX) } else { context_word!(ctx, 16) }
}

/// Whether the branch under a probe will be taken that a function of Go's has for too small a stack: `jbe` or `b.ls`, "below or the same".
#[inline(always)]
pub(crate) fn grows_stack<C: EbpfContext>(ctx: &C) -> bool {
    if config!(arch) == ARCH_X86_64 {
        /// Carry and zero of the flags.
        const BELOW_OR_SAME: u64 = 1 | 1 << 6;
        return context_word!(ctx, layout::X86_FLAGS) & BELOW_OR_SAME != 0;
    }
    /// Carry and zero of `PSTATE`.
    const CARRY: u64 = 1 << 29;
    const ZERO: u64 = 1 << 30;
    let flags = context_word!(ctx, layout::ARM_PSTATE);
    flags & CARRY == 0 || flags & ZERO != 0
}

/// The instruction under a probe in user code.
#[inline(always)]
pub(crate) fn instruction_pointer<C: EbpfContext>(ctx: &C) -> u64 {
    if config!(arch) == ARCH_X86_64 {
        context_word!(ctx, layout::X86_IP)
    } else {
        context_word!(ctx, layout::ARM_PC)
    }
}

/// The stack pointer of a probe in user code.
#[inline(always)]
pub(crate) fn stack_pointer<C: EbpfContext>(ctx: &C) -> u64 {
    if config!(arch) == ARCH_X86_64 {
        context_word!(ctx, layout::X86_USER_SP)
    } else {
        context_word!(ctx, layout::ARM_USER_SP)
    }
}

/// What a function returned, at the probe behind its return, and where its stack began.
#[inline(always)]
pub(crate) fn returned<C: EbpfContext>(ctx: &C) -> (u64, u64) {
    if config!(arch) == ARCH_X86_64 {
        // The return address was popped.
        (context_word!(ctx, layout::X86_AX), context_word!(ctx, layout::X86_USER_SP).wrapping_sub(8))
    } else {
        (context_word!(ctx, 0), context_word!(ctx, layout::ARM_USER_SP))
    }
}

/// Takes the user registers of a context that was interrupted in user mode.
///
/// # Safety
///
/// `registers` points into this CPU's scratch.
#[inline(always)]
pub(crate) unsafe fn interrupted_registers<C: EbpfContext>(ctx: &C, registers: *mut Registers) -> UserSide {
    macro_rules! set {
        ($number:expr, $offset:expr) => {{
            let value = context_word!(ctx, $offset);
            // SAFETY: valid by the caller.
            unsafe { (*registers).general[$number] = value }
        }};
    }
    let compat = if config!(arch) == ARCH_X86_64 {
        each_x86_register!(set);
        let ip = context_word!(ctx, layout::X86_IP);
        // SAFETY: valid by the caller, here and below.
        unsafe { (*registers).ip = ip };
        context_word!(ctx, layout::X86_CS) == X86_USER32_CS
    } else {
        each_arm_register!(set);
        let ip = context_word!(ctx, layout::ARM_PC);
        unsafe { (*registers).ip = ip };
        context_word!(ctx, layout::ARM_PSTATE) & ARM_MODE32 != 0
    };
    unsafe { name_registers(registers) };
    if compat { UserSide::Compat } else { UserSide::Filled }
}

/// Fills in what the general registers hold under other names.
///
/// # Safety
///
/// `registers` points into this CPU's scratch.
#[inline(always)]
unsafe fn name_registers(registers: *mut Registers) {
    // SAFETY: valid by the caller.
    unsafe {
        if config!(arch) == ARCH_X86_64 {
            (*registers).sp = (*registers).general[layout::X86_SP];
            (*registers).fp = (*registers).general[layout::X86_BP];
            (*registers).lr = 0;
        } else {
            (*registers).sp = (*registers).general[layout::ARM_SP];
            (*registers).fp = (*registers).general[layout::ARM_FP];
            (*registers).lr = (*registers).general[layout::ARM_LR];
        }
        (*registers).rbx_at = 0;
        (*registers).known = KNOWN_ALL | KNOWN_RBX;
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

/// `bpf_perf_event_data.addr`: where a page fault was. It follows the period.
#[inline(always)]
pub(crate) fn sample_address<C: EbpfContext>(ctx: &C) -> u64 {
    if config!(arch) == ARCH_X86_64 {
        context_word!(ctx, layout::X86_PERIOD + 8)
    } else {
        context_word!(ctx, layout::ARM_PERIOD + 8)
    }
}

/// Takes the registers with which the current task entered the kernel. `words` is room for the kernel's copy of them.
///
/// # Safety
///
/// Both point into this CPU's scratch.
#[inline(always)]
pub(crate) unsafe fn saved_registers(registers: *mut Registers, words: *mut [u64; SAVED_WORDS]) -> UserSide {
    if config!(has_offsets) == 0 {
        return UserSide::Unknown;
    }
    if read_field::<u64>(current_task(), config!(offsets.task_mm)).unwrap_or(0) == 0 {
        return UserSide::None;
    }
    let is_x86 = config!(arch) == ARCH_X86_64;
    let bytes = if is_x86 { layout::X86_WORDS } else { layout::ARM_WORDS } * 8;
    // SAFETY: no preconditions; the first two helpers exist since 5.15 wherever the kernel has BTF. The last one checks its
    // source; its target is valid by the caller.
    let failed = unsafe {
        let regs = bpf_task_pt_regs(bpf_get_current_task_btf());
        bpf_probe_read_kernel(words.cast(), bytes as u32, regs as *const _)
    };
    if failed != 0 {
        return UserSide::None;
    }
    macro_rules! set {
        ($number:expr, $offset:expr) => {
            // SAFETY: valid by the caller.
            unsafe { (*registers).general[$number] = (*words)[$offset / 8] }
        };
    }
    // SAFETY: valid by the caller, here and below.
    let compat = if is_x86 {
        each_x86_register!(set);
        unsafe { (*registers).ip = (*words)[layout::X86_IP as usize / 8] };
        unsafe { (*words)[layout::X86_CS as usize / 8] == X86_USER32_CS }
    } else {
        each_arm_register!(set);
        unsafe { (*registers).ip = (*words)[layout::ARM_PC as usize / 8] };
        unsafe { (*words)[layout::ARM_PSTATE as usize / 8] & ARM_MODE32 != 0 }
    };
    // SAFETY: valid by the caller, here and below.
    unsafe { name_registers(registers) };
    // io_uring workers have the process's memory but never were in user mode: their saved registers are zero.
    if unsafe { (*registers).ip } == 0 {
        UserSide::None
    } else if compat {
        UserSide::Compat
    } else {
        UserSide::Filled
    }
}

/// The user instruction at which the current task entered the kernel; zero for kernel threads. Needs BTF offsets.
#[inline(always)]
pub(crate) fn entry_instruction() -> u64 {
    // SAFETY: no preconditions; the value is only ever read through the checked helper.
    let regs = unsafe { bpf_task_pt_regs(bpf_get_current_task_btf()) } as u64;
    let offset = if config!(arch) == ARCH_X86_64 { layout::X86_IP } else { layout::ARM_PC };
    read_field(regs, offset).unwrap_or(0)
}

/// Number and first argument of the system call that the current task is in; [`NO_SYSCALL`] for kernel threads and for tasks that were
/// interrupted. Needs BTF offsets.
#[inline(always)]
pub(crate) fn current_syscall() -> (u32, u64) {
    if read_field::<u64>(current_task(), config!(offsets.task_mm)).unwrap_or(0) == 0 {
        return (NO_SYSCALL, 0);
    }
    // SAFETY: no preconditions; the value is only ever read through the checked helper.
    let regs = unsafe { bpf_task_pt_regs(bpf_get_current_task_btf()) } as u64;
    let (number, argument) = if config!(arch) == ARCH_X86_64 {
        // An interrupt or exception leaves its error code, or a negative vector number, there.
        (read_field::<i64>(regs, layout::X86_ORIG_AX), read_field(regs, layout::X86_DI))
    } else {
        let number = read_field::<i32>(regs, layout::ARM_SYSCALL);
        (number.map(i64::from), read_field(regs, layout::ARM_ORIG_X0))
    };
    match number {
        Some(number) if (0..MOST_SYSCALLS).contains(&number) => (number as u32, argument.unwrap_or(0)),
        _ => (NO_SYSCALL, 0),
    }
}

/// What a system call that ended was called with and what it returned.
pub(crate) struct EndedCall {
    /// Its number.
    pub(crate) number: u32,
    /// Its second and third argument.
    pub(crate) arguments: [u64; 2],
    /// What it returned.
    pub(crate) result: u64,
}

/// A system call from the registers at `regs` in kernel memory, on its way back to user mode: the arguments are still there, except for the
/// first one on arm64, in whose register the result is.
#[inline(always)]
pub(crate) fn ended_call(regs: u64) -> Option<EndedCall> {
    let is_x86 = config!(arch) == ARCH_X86_64;
    let number = if is_x86 {
        read_field::<u64>(regs, layout::X86_ORIG_AX)? as u32
    } else {
        read_field::<u32>(regs, layout::ARM_SYSCALL)?
    };
    let (second, third, result) =
        if is_x86 { (layout::X86_SI, layout::X86_DX, layout::X86_AX) } else { (8, 16, 0) };
    Some(EndedCall {
        number,
        arguments: [read_field(regs, second)?, read_field(regs, third)?],
        result: read_field(regs, result)?,
    })
}

/// Past any system call of any architecture, x32's offset (`__X32_SYSCALL_BIT`) included.
const MOST_SYSCALLS: i64 = 0x4000_0000 + 1024;

/// Words of the larger `struct pt_regs`.
pub(crate) const SAVED_WORDS: usize = layout::ARM_WORDS;
