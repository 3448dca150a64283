//! A step out of a signal handler: the kernel saved every register of what it interrupted on the handler's stack.

use super::{
    Arch, KNOWN_ALL, KNOWN_RBX, LOWEST_CODE_ADDRESS, Memory, REGISTERS, Registers, Rule, Step,
    USER_ADDRESS_LIMIT,
};
use crate::stop::StopReason;

/// Words of `struct sigcontext` (arch/x86/include/uapi/asm/sigcontext.h) up to rip.
const X86_WORDS: usize = 17;
/// Words of `regs`, `sp`, `pc` in `struct sigcontext` (arch/arm64/include/uapi/asm/sigcontext.h): their DWARF order.
const ARM_WORDS: usize = 33;

const X86_RBP: usize = 6;
const X86_RSP: usize = 7;
const X86_RIP: usize = 16;
const ARM_FP: usize = 29;
const ARM_LR: usize = 30;
const ARM_SP: usize = 31;
const ARM_PC: usize = 32;

/// A frame that the kernel made for the return from a signal handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SignalFrame {
    /// Where the interrupted registers are saved: the general ones of `struct sigcontext`.
    pub saved_at: u64,
}

impl SignalFrame {
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "also compiled into BPF programs")]
    pub(super) fn of(rule: &Rule, registers: &Registers) -> Self {
        Self { saved_at: registers.sp.wrapping_add_signed(i64::from(rule.cfa_offset)) }
    }

    /// Steps to the interrupted frame.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "also compiled into BPF programs")]
    pub fn leave(self, arch: Arch, registers: &mut Registers, memory: &impl Memory) -> Step {
        let general = &mut registers.general;
        let words = match arch {
            Arch::X86_64 => &mut general[..X86_WORDS],
            Arch::Aarch64 => &mut general[..ARM_WORDS],
        };
        if !memory.words(self.saved_at, words) {
            return Step::Stop(StopReason::UnreadableStack);
        }
        match arch {
            Arch::X86_64 => {
                into_dwarf_order(general);
                registers.ip = general[X86_RIP];
                registers.sp = general[X86_RSP];
                registers.fp = general[X86_RBP];
            }
            Arch::Aarch64 => {
                registers.ip = general[ARM_PC];
                registers.sp = general[ARM_SP];
                registers.fp = general[ARM_FP];
                registers.lr = general[ARM_LR];
            }
        }
        registers.rbx_at = 0;
        registers.known = KNOWN_ALL | KNOWN_RBX;
        if !(LOWEST_CODE_ADDRESS..USER_ADDRESS_LIMIT).contains(&registers.ip) {
            return Step::Stop(StopReason::BadReturnAddress);
        }
        Step::Caller
    }
}

/// Moves r8 … r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp (the order of x86_64's `struct sigcontext`) to their DWARF numbers;
/// rip has its number already.
#[inline(always)]
#[expect(clippy::inline_always, reason = "as above")]
fn into_dwarf_order(general: &mut [u64; REGISTERS]) {
    let [r8, r9, r10, r11, r12, r13, r14, r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, ..] = *general;
    [general[0], general[1], general[2], general[3]] = [rax, rdx, rcx, rbx];
    [general[4], general[5], general[6], general[7]] = [rsi, rdi, rbp, rsp];
    [general[8], general[9], general[10], general[11]] = [r8, r9, r10, r11];
    [general[12], general[13], general[14], general[15]] = [r12, r13, r14, r15];
}

#[cfg(test)]
mod tests {
    use super::super::test_stack::{BASE, Stack};
    use super::super::{CFA_SIGNAL, step};
    use super::*;

    #[test]
    fn an_interrupted_frame_has_all_its_registers_back() {
        let rule = Rule { cfa_offset: 40, ..Rule::of(CFA_SIGNAL) };
        // flags, link, stack (3), then r8 … rip with their own word numbers as values.
        let mut words = std::vec![0; 5];
        words.extend((0..17).map(|word| 0x40_0000 + word));
        let mut registers = Registers::interrupted(0x1234, BASE, 0, 0);
        registers.known = 0;
        let memory = Stack(words);
        let frame = step(Arch::X86_64, &rule, &mut registers, u64::MAX, &memory).unwrap_err();
        assert_eq!(frame.leave(Arch::X86_64, &mut registers, &memory), Step::Caller);
        assert_eq!((registers.ip, registers.sp, registers.fp), (0x40_0010, 0x40_000f, 0x40_000a));
        // rax, rbx, r8, r15
        assert_eq!([0, 3, 8, 15].map(|number| registers.general[number] - 0x40_0000), [13, 11, 0, 7]);
        assert_eq!((registers.lookup_address(), registers.caller_address()), (0x40_0010, 0x40_0011));
    }

    #[test]
    fn on_aarch64_the_words_are_in_order() {
        let rule = Rule { cfa_offset: 312, ..Rule::of(CFA_SIGNAL) };
        let mut words = std::vec![0; 39];
        words.extend((0..33).map(|word| 0x40_0000 + word));
        let mut registers = Registers::interrupted(0x1234, BASE, 0, 0);
        let memory = Stack(words);
        let frame = step(Arch::Aarch64, &rule, &mut registers, u64::MAX, &memory).unwrap_err();
        assert_eq!(frame.leave(Arch::Aarch64, &mut registers, &memory), Step::Caller);
        assert_eq!((registers.ip, registers.sp), (0x40_0020, 0x40_001f));
        assert_eq!((registers.fp, registers.lr, registers.general[7]), (0x40_001d, 0x40_001e, 0x40_0007));
    }
}
