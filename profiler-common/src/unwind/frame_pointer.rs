//! A step by frame pointer, with the checks that keep a register that is no frame pointer from being followed.
//!
//! Both ABIs chain frames alike: the frame pointer points at the caller's saved frame pointer, the return address
//! lies in the word above (System V ABI AMD64 3.2.2; AAPCS64 6.4.6), and the outermost frame has a zero.

use super::{Arch, KNOWN_ALL, Memory, Registers, Step, judge_return_address};
use crate::stop::StopReason;

/// Largest distance between two frames of one chain. A frame larger than this (a huge array on the stack) cuts the
/// walk; a general-purpose register that happens to hold a pointer nearly always lies further away.
const MAX_FRAME_BYTES: u64 = 4 << 20;

/// Where the caller's frame may be.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Stack {
    /// Above this one, on the same stack.
    Same,
    /// Anywhere: the function is known to switch stacks.
    Other,
}

/// To the caller of the frame in `registers`.
#[inline(always)]
#[expect(
    clippy::inline_always,
    reason = "a call costs the BPF verifier a frame of its own and a spilled state"
)]
pub(super) fn step(
    arch: Arch,
    registers: &mut Registers,
    code_mask: u64,
    memory: &impl Memory,
    stack: Stack,
) -> Step {
    if registers.known & KNOWN_ALL != 0 {
        match frame_of_leaf(arch, registers, memory) {
            LeafFrame::None => return frameless_step(arch, registers, code_mask, memory),
            // The frame pointer is still, or again, the caller's; this frame's lies at the stack pointer.
            LeafFrame::Pushed => registers.fp = registers.sp,
            LeafFrame::Established => {}
        }
    }
    let fp = registers.fp;
    if fp == 0 {
        return Step::Stop(StopReason::Complete);
    }
    // x86_64 only guarantees the word; Go's frame records on AArch64 are aligned to eight as well.
    if fp & 7 != 0
        || (stack == Stack::Same && (fp < registers.sp || fp.wrapping_sub(registers.sp) > MAX_FRAME_BYTES))
    {
        return Step::Stop(StopReason::BadFramePointer);
    }
    let Some([caller_fp, saved_ip]) = memory.word_pair(fp) else {
        return Step::Stop(StopReason::UnreadableStack);
    };
    let ip = match judge_return_address(saved_ip, code_mask) {
        Ok(ip) => ip,
        Err(reason) => return Step::Stop(reason),
    };
    // The caller's frame starts above this pair, so the stack pointer rises with every step on one stack: the walk cannot loop.
    registers.ip = ip;
    registers.sp = fp.wrapping_add(16);
    registers.fp = caller_fp;
    registers.known = 0;
    Step::Caller
}

/// How far a leaf's frame is set up.
#[derive(Clone, Copy, PartialEq, Eq)]
enum LeafFrame {
    /// Not at all: the return address is where the call left it.
    None,
    /// Caller's frame pointer and return address are on the stack, the frame pointer does not point there.
    Pushed,
    /// As in every function's body; also when the code says nothing.
    Established,
}

/// Looks at the instruction that the leaf was about to run: the first and last ones of a function tell by themselves where the
/// caller is, and a step by frame pointer would leave the caller out.
#[inline(always)]
#[expect(clippy::inline_always, reason = "as above")]
fn frame_of_leaf(arch: Arch, registers: &Registers, memory: &impl Memory) -> LeafFrame {
    let Some(code) = memory.word(registers.ip) else { return LeafFrame::Established };
    match arch {
        Arch::X86_64 => {
            // endbr64 in front of a prologue.
            let code = if code & 0xffff_ffff == 0xfa1e_0ff3 { code >> 32 } else { code };
            match code & 0xff {
                // push rbp; ret
                0x55 | 0xc3 => LeafFrame::None,
                // pop rbp
                0x5d => LeafFrame::Pushed,
                // mov rbp, rsp in both encodings
                0x48 if code & 0xff_ffff == 0xe5_8948 || code & 0xff_ffff == 0xec_8b48 => LeafFrame::Pushed,
                _ => LeafFrame::Established,
            }
        }
        Arch::Aarch64 => match code & 0xffff_ffff {
            // paciasp; ret
            0xd503_233f | 0xd65f_03c0 => LeafFrame::None,
            // stp x29, x30, [sp, #-n]!
            word if word & 0xffc0_7fff == 0xa980_7bfd => LeafFrame::None,
            // mov x29, sp
            0x9100_03fd => LeafFrame::Pushed,
            _ => LeafFrame::Established,
        },
    }
}

/// To the caller of a leaf that has no frame yet, or none any more.
#[inline(always)]
#[expect(clippy::inline_always, reason = "as above")]
fn frameless_step(arch: Arch, registers: &mut Registers, code_mask: u64, memory: &impl Memory) -> Step {
    let saved_ip = match arch {
        Arch::X86_64 => match memory.word(registers.sp) {
            Some(word) => word,
            None => return Step::Stop(StopReason::UnreadableStack),
        },
        Arch::Aarch64 => registers.lr,
    };
    let ip = match judge_return_address(saved_ip, code_mask) {
        Ok(ip) => ip,
        Err(reason) => return Step::Stop(reason),
    };
    registers.ip = ip;
    if matches!(arch, Arch::X86_64) {
        registers.sp = registers.sp.wrapping_add(8);
    }
    registers.known = 0;
    Step::Caller
}

#[cfg(test)]
mod tests {
    use super::super::test_stack::{BASE, Stack as Words};
    use super::super::{Arch, Rule, step};
    use super::*;
    use std::vec::Vec;

    fn start(fp: u64) -> Registers {
        Registers::interrupted(0x40_0500, BASE, fp, 0)
    }

    fn walk(stack: &Words, mut registers: Registers, mask: u64) -> (Vec<u64>, StopReason) {
        let mut frames = std::vec![registers.ip];
        for _ in 0..crate::limits::MAX_USER_FRAMES {
            match step(Arch::X86_64, &Rule::NONE, &mut registers, mask, stack).unwrap() {
                Step::Caller => frames.push(registers.ip),
                Step::Stop(reason) => return (frames, reason),
            }
        }
        (frames, StopReason::TooDeep)
    }

    #[test]
    fn a_chain_ends_at_the_zero_frame_pointer() {
        //                        0: local  1: fp      2: ra    3: local 4: fp 5: ra
        let stack = Words(std::vec![7, BASE + 32, 0x40_1000, 9, 0, 0x40_2000]);
        let start = start(BASE + 8);
        let (frames, reason) = walk(&stack, start, u64::MAX);
        assert_eq!(frames, [0x40_0500, 0x40_1000, 0x40_2000]);
        assert_eq!(reason, StopReason::Complete);
    }

    #[test]
    fn registers_that_are_no_frame_pointers_are_not_followed() {
        let stack = Words(std::vec![0; 16]);
        for fp in [BASE + 3, BASE - 8, BASE + (8 << 20), 1, u64::MAX - 7] {
            let start = start(fp);
            assert_eq!(walk(&stack, start, u64::MAX).1, StopReason::BadFramePointer, "{fp:#x}");
        }
    }

    #[test]
    fn a_frame_that_points_at_itself_ends_the_walk() {
        let stack = Words(std::vec![BASE, 0x40_1000]);
        let start = start(BASE);
        let (frames, reason) = walk(&stack, start, u64::MAX);
        assert_eq!((frames.len(), reason), (2, StopReason::BadFramePointer));
    }

    #[test]
    fn signed_return_addresses_lose_their_signature() {
        let stack = Words(std::vec![0, 0x00b3_0000_0040_1000]);
        let start = start(BASE);
        let (frames, reason) = walk(&stack, start, (1 << 48) - 1);
        assert_eq!(frames, [0x40_0500, 0x40_1000]);
        assert_eq!(reason, StopReason::Complete);
    }

    #[test]
    fn the_first_and_last_instructions_of_a_leaf_say_where_its_caller_is() {
        const CODE: u64 = 0x40_0500;
        /// A stack and the instruction at [`CODE`].
        struct WithCode(Words, u64);
        impl Memory for WithCode {
            fn word(&self, abs_addr: u64) -> Option<u64> {
                if abs_addr == CODE { Some(self.1) } else { self.0.word(abs_addr) }
            }
            fn word_pair(&self, abs_addr: u64) -> Option<[u64; 2]> {
                self.0.word_pair(abs_addr)
            }
        }
        // 0: saved fp or return address  1: return address  2, 3: the caller's frame
        let caller = |arch, code, words: [u64; 4]| {
            let mut registers = Registers::interrupted(CODE, BASE, BASE + 16, 0x40_7000);
            let memory = WithCode(Words(words.to_vec()), code);
            assert_eq!(step(arch, &Rule::NONE, &mut registers, u64::MAX, &memory), Ok(Step::Caller));
            (registers.ip, registers.sp - BASE, registers.fp)
        };
        let pushed = [BASE + 16, 0x40_1000, 0, 0x40_2000];
        let bare = [0x40_1000, 0, 0, 0x40_2000];
        for code in [0x55, 0xc3, 0x55_fa1e_0ff3] {
            assert_eq!(caller(Arch::X86_64, code, bare), (0x40_1000, 8, BASE + 16), "{code:#x}");
        }
        for code in [0x5d, 0xe5_8948, 0xec_8b48] {
            assert_eq!(caller(Arch::X86_64, code, pushed), (0x40_1000, 16, BASE + 16), "{code:#x}");
        }
        assert_eq!(caller(Arch::X86_64, 0x90, bare), (0x40_2000, 32, 0));
        for code in [0xd503_233f, 0xd65f_03c0, 0xa9bf_7bfd, 0xa9b7_7bfd] {
            assert_eq!(caller(Arch::Aarch64, code, bare), (0x40_7000, 0, BASE + 16), "{code:#x}");
        }
        assert_eq!(caller(Arch::Aarch64, 0x9100_03fd, pushed), (0x40_1000, 16, BASE + 16));
    }

    #[test]
    fn unreadable_memory_and_wild_return_addresses_have_reasons() {
        let start = start(BASE + 8);
        assert_eq!(walk(&Words(std::vec![0]), start, u64::MAX).1, StopReason::UnreadableStack);
        let wild = Words(std::vec![0, BASE + 24, 0xffff_ffff_8000_0000]);
        assert_eq!(walk(&wild, start, u64::MAX).1, StopReason::BadReturnAddress);
    }

    proptest::proptest! {
        #[test]
        fn any_memory_ends_with_rising_stack_pointers(words in proptest::collection::vec(0u64..64, 2..64), fp in 0u64..64) {
            // Small words become plausible pointers into the stack, so that chains form and loops would show.
            let stack = Words(words.iter().map(|word| if word % 3 == 0 { *word } else { BASE + word * 8 }).collect());
            let mut registers = start(BASE + fp * 8);
            let mut steps = 0;
            let mut sp = 0;
            while step(Arch::X86_64, &Rule::NONE, &mut registers, u64::MAX, &stack) == Ok(Step::Caller) {
                proptest::prop_assert!(registers.sp > sp);
                sp = registers.sp;
                steps += 1;
                proptest::prop_assert!(steps <= 64);
            }
        }
    }
}
