//! A step by a rule from the binary's own unwind information.

use super::registers::X86_RBX;
use super::{
    AT_FP, Arch, CFA_DEREF, CFA_FP, CFA_PLT, CFA_REGISTER, CFA_SP, IN_REGISTER, KNOWN_ALL, KNOWN_RBX, Memory,
    Registers, Rule, SAVED, Step, judge_return_address,
};
use crate::stop::StopReason;

/// To the caller, by the rule of the place in `registers`.
#[inline(always)]
#[expect(
    clippy::inline_always,
    reason = "a call costs the BPF verifier a frame of its own and a spilled state"
)]
pub(super) fn step(
    arch: Arch,
    rule: &Rule,
    registers: &mut Registers,
    code_mask: u64,
    memory: &impl Memory,
) -> Step {
    let is_interrupted = registers.known & KNOWN_ALL != 0;
    let cfa = match canonical_frame_address(arch, rule, registers, memory) {
        Ok(cfa) => cfa,
        Err(reason) => return Step::Stop(reason),
    };
    // The stack grows down: a caller's frame lies above, so that no walk goes in circles. A leaf of AArch64 has no frame.
    if cfa & 7 != 0 || cfa < registers.sp || (cfa == registers.sp && !is_interrupted) {
        return Step::Stop(StopReason::BadFrameAddress);
    }
    let mut fp = registers.fp;
    let is_fp_saved = rule.fp == SAVED || rule.fp == AT_FP;
    let fp_at = word_at(if rule.fp == AT_FP { registers.fp } else { cfa }, rule.fp_offset);
    let saved_ip;
    if rule.ra == SAVED {
        let at = word_at(cfa, rule.ra_offset);
        if is_fp_saved && fp_at.wrapping_add(8) == at {
            // The usual prologue leaves both in one place: one read for two words.
            let Some([saved_fp, word]) = memory.word_pair(fp_at) else {
                return Step::Stop(StopReason::UnreadableStack);
            };
            fp = saved_fp;
            saved_ip = word;
        } else {
            let Some(word) = memory.word(at) else {
                return Step::Stop(StopReason::UnreadableStack);
            };
            saved_ip = word;
            if is_fp_saved {
                let Some(word) = memory.word(fp_at) else {
                    return Step::Stop(StopReason::UnreadableStack);
                };
                fp = word;
            }
        }
    } else {
        // Only where nothing was called yet does a register hold the return address.
        if !is_interrupted {
            return Step::Stop(StopReason::UnknownRegister);
        }
        saved_ip =
            if rule.ra == IN_REGISTER { general(registers, rule.ra_offset as u64) } else { registers.lr };
        if is_fp_saved {
            let Some(word) = memory.word(fp_at) else {
                return Step::Stop(StopReason::UnreadableStack);
            };
            fp = word;
        }
    }
    if rule.fp == IN_REGISTER {
        if !is_interrupted {
            return Step::Stop(StopReason::UnknownRegister);
        }
        fp = general(registers, rule.fp_offset as u64);
    }
    let ip = match judge_return_address(saved_ip, code_mask) {
        Ok(ip) => ip,
        Err(reason) => return Step::Stop(reason),
    };
    if rule.rbx_offset != 0 {
        registers.rbx_at = word_at(cfa, rule.rbx_offset);
        registers.known = KNOWN_RBX;
    } else {
        registers.known &= KNOWN_RBX;
    }
    registers.ip = ip;
    registers.sp = cfa;
    registers.fp = fp;
    Step::Caller
}

#[inline(always)]
#[expect(clippy::inline_always, reason = "as above")]
fn canonical_frame_address(
    arch: Arch,
    rule: &Rule,
    registers: &Registers,
    memory: &impl Memory,
) -> Result<u64, StopReason> {
    if rule.cfa == CFA_PLT {
        // `plt0` and its entries push the relocation's number half-way through their 16 bytes.
        let pushed = registers.ip & 15 >= u64::from(rule.cfa_add as u16);
        return Ok(registers.sp.wrapping_add(if pushed { 16 } else { 8 }));
    }
    let base = match rule.cfa & !CFA_DEREF {
        CFA_SP => registers.sp,
        CFA_FP => registers.fp,
        CFA_REGISTER => {
            let number = u64::from(rule.register);
            if registers.known & KNOWN_ALL != 0 {
                general(registers, number)
            } else if matches!(arch, Arch::X86_64) && number == X86_RBX && registers.known & KNOWN_RBX != 0 {
                if registers.rbx_at == 0 {
                    general(registers, number)
                } else {
                    memory.word(registers.rbx_at).ok_or(StopReason::UnreadableStack)?
                }
            } else {
                return Err(StopReason::UnknownRegister);
            }
        }
        _ => return Err(StopReason::UnsupportedRule),
    };
    let address = base.wrapping_add_signed(i64::from(rule.cfa_offset));
    if rule.cfa & CFA_DEREF == 0 {
        return Ok(address);
    }
    let word = memory.word(address).ok_or(StopReason::UnreadableStack)?;
    Ok(word.wrapping_add_signed(i64::from(rule.cfa_add)))
}

#[inline(always)]
#[expect(clippy::inline_always, reason = "as above")]
fn word_at(cfa: u64, words: i16) -> u64 {
    cfa.wrapping_add_signed(i64::from(words) * 8)
}

/// A general register by DWARF number; numbers come from a table of ours, the mask is for the verifier.
#[inline(always)]
#[expect(clippy::inline_always, reason = "as above")]
fn general(registers: &Registers, number: u64) -> u64 {
    registers.general[(number & 31) as usize]
}

#[cfg(test)]
mod tests {
    use super::super::test_stack::{BASE, Stack};
    use super::super::{SAME, step};
    use super::*;

    const RA: u64 = 0x40_1000;

    fn leaf() -> Registers {
        Registers::interrupted(0x40_0500, BASE, 0x77, 0)
    }

    fn x86(rule: &Rule, registers: &mut Registers, stack: &[u64]) -> Step {
        step(Arch::X86_64, rule, registers, u64::MAX, &Stack(stack.to_vec())).unwrap_or(Step::Caller)
    }

    #[test]
    fn return_address_and_frame_pointer_by_offset() {
        let rule = Rule { cfa_offset: 32, ra_offset: -1, fp: SAVED, fp_offset: -2, ..Rule::of(CFA_SP) };
        let mut registers = leaf();
        assert_eq!(x86(&rule, &mut registers, &[1, 2, 3, RA]), Step::Caller);
        assert_eq!(
            (registers.ip, registers.sp, registers.fp, registers.known),
            (RA, BASE + 32, 3, KNOWN_RBX)
        );
        let apart = Rule { fp_offset: -3, ..rule };
        let mut registers = leaf();
        assert_eq!(x86(&apart, &mut registers, &[1, 2, 3, RA]), Step::Caller);
        assert_eq!(registers.fp, 2);
    }

    #[test]
    fn a_frame_address_may_be_dereferenced_or_in_any_register_of_the_leaf() {
        // gcc's realigned stack: the frame address is saved below the frame pointer.
        let rule = Rule { cfa_offset: -8, ra_offset: -1, ..Rule::of(CFA_FP | CFA_DEREF) };
        let mut registers = Registers { fp: BASE + 8, ..leaf() };
        assert_eq!(x86(&rule, &mut registers, &[BASE + 24, 0, RA]), Step::Caller);
        assert_eq!((registers.ip, registers.sp, registers.fp), (RA, BASE + 24, BASE + 8));
        // The caller's frame pointer is where this one points, not below the frame address.
        let mut registers = Registers { fp: BASE + 8, ..leaf() };
        assert_eq!(x86(&Rule { fp: AT_FP, ..rule }, &mut registers, &[BASE + 32, 0x99, 0, RA]), Step::Caller);
        assert_eq!((registers.ip, registers.sp, registers.fp), (RA, BASE + 32, 0x99));
        let rule = Rule { register: 10, ra_offset: -1, ..Rule::of(CFA_REGISTER) };
        let mut registers = leaf();
        registers.general[10] = BASE + 16;
        assert_eq!(x86(&rule, &mut registers, &[0, RA]), Step::Caller);
        // In a caller nobody knows what r10 was.
        assert_eq!(x86(&rule, &mut registers, &[0, RA, 0, RA]), Step::Stop(StopReason::UnknownRegister));
    }

    #[test]
    fn rbx_is_followed_through_its_callees() {
        let saves = Rule { cfa_offset: 24, ra_offset: -1, rbx_offset: -2, ..Rule::of(CFA_SP) };
        let uses = Rule { register: 3, cfa_offset: 8, ra_offset: -1, ..Rule::of(CFA_REGISTER) };
        let mut registers = leaf();
        let stack = [0, BASE + 40, RA, 0, 0, RA + 1];
        assert_eq!(x86(&saves, &mut registers, &stack), Step::Caller);
        assert_eq!(x86(&uses, &mut registers, &stack), Step::Caller);
        assert_eq!((registers.ip, registers.sp), (RA + 1, BASE + 48));
    }

    #[test]
    fn a_return_address_may_be_in_a_register_of_the_leaf_only() {
        // After vfork the C library keeps it in rdi.
        let rule = Rule { cfa_offset: 0, ra: IN_REGISTER, ra_offset: 5, ..Rule::of(CFA_SP) };
        let mut registers = leaf();
        registers.general[5] = RA;
        assert_eq!(x86(&rule, &mut registers, &[]), Step::Caller);
        assert_eq!((registers.ip, registers.sp), (RA, BASE));
        let above = Rule { cfa_offset: 8, ..rule };
        assert_eq!(x86(&above, &mut registers, &[]), Step::Stop(StopReason::UnknownRegister));
        // A leaf of AArch64.
        let rule = Rule { ra: SAME, ..Rule::of(CFA_SP) };
        let mut registers = Registers { lr: 0x00b3_0000_0000_0000 | RA, ..leaf() };
        assert_eq!(
            step(Arch::Aarch64, &rule, &mut registers, (1 << 48) - 1, &Stack(std::vec![])),
            Ok(Step::Caller)
        );
        assert_eq!(registers.ip, RA);
    }

    #[test]
    fn plt_stubs_push_half_way() {
        let rule = Rule { cfa_add: 11, ra_offset: -1, ..Rule::of(CFA_PLT) };
        let mut before = Registers { ip: 0x1005, ..leaf() };
        assert_eq!(x86(&rule, &mut before, &[RA]), Step::Caller);
        let mut after = Registers { ip: 0x100b, ..leaf() };
        assert_eq!(x86(&rule, &mut after, &[7, RA]), Step::Caller);
        assert_eq!((before.sp, after.sp), (BASE + 8, BASE + 16));
    }

    #[test]
    fn what_leads_nowhere_has_a_reason() {
        let rule = Rule { cfa_offset: 8, ra_offset: -1, ..Rule::of(CFA_SP) };
        let reason = |rule: &Rule, stack: &[u64]| x86(rule, &mut leaf(), stack);
        assert_eq!(reason(&rule, &[0]), Step::Stop(StopReason::Complete));
        assert_eq!(reason(&rule, &[1]), Step::Stop(StopReason::BadReturnAddress));
        assert_eq!(reason(&rule, &[]), Step::Stop(StopReason::UnreadableStack));
        assert_eq!(reason(&Rule { cfa_offset: -8, ..rule }, &[RA]), Step::Stop(StopReason::BadFrameAddress));
        assert_eq!(reason(&Rule { cfa_offset: 4, ..rule }, &[RA]), Step::Stop(StopReason::BadFrameAddress));
    }

    proptest::proptest! {
        #[test]
        fn any_rule_on_any_stack_ends_or_climbs(
            cfa in 0u8..32, register in proptest::num::u8::ANY, ra in 0u8..4, fp in 0u8..4,
            offsets in proptest::array::uniform4(-40i16..40), cfa_offset in -64i32..256,
            words in proptest::collection::vec(0u64..64, 2..64), is_leaf in proptest::bool::ANY,
        ) {
            let stack: std::vec::Vec<u64> =
                words.iter().map(|word| if word % 3 == 0 { *word << 12 } else { BASE + word * 8 }).collect();
            let rule = Rule {
                cfa, register, ra, fp, cfa_offset,
                cfa_add: offsets[0], ra_offset: offsets[1], fp_offset: offsets[2], rbx_offset: offsets[3],
            };
            let mut registers = Registers { fp: BASE + 64, general: [BASE + 32; crate::unwind::REGISTERS], ..leaf() };
            registers.known = if is_leaf { KNOWN_ALL | KNOWN_RBX } else { KNOWN_RBX };
            let sp = registers.sp;
            let is_signal = cfa == super::super::CFA_SIGNAL || cfa == super::super::CFA_SWITCH;
            if x86(&rule, &mut registers, &stack) == Step::Caller && !is_signal {
                proptest::prop_assert!(registers.sp > sp || (is_leaf && registers.sp == sp));
            }
        }
    }
}
