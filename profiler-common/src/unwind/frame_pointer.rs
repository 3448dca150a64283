//! A step by frame pointer, with the checks that keep a register that is no frame pointer from being followed.
//!
//! Both ABIs chain frames alike: the frame pointer points at the caller's saved frame pointer, the return address
//! lies in the word above (System V ABI AMD64 3.2.2; AAPCS64 6.4.6), and the outermost frame has a zero.

use super::{Arch, Memory, Registers, Step};
use crate::stop::StopReason;

/// Largest distance between two frames of one chain. A frame larger than this (a huge array on the stack) cuts the
/// walk; a general-purpose register that happens to hold a pointer nearly always lies further away.
const MAX_FRAME_BYTES: u64 = 4 << 20;

/// User addresses end below this on both architectures (x86_64 with five-level page tables: 2^56).
const USER_ADDRESS_LIMIT: u64 = 1 << 56;

/// Lowest address that code can have: `vm.mmap_min_addr` keeps the first pages free on every distribution.
const LOWEST_CODE_ADDRESS: u64 = 0x1000;

/// The caller of the frame in `registers`. `code_mask` removes the signature of an AArch64 return address.
#[inline(always)]
#[expect(
    clippy::inline_always,
    reason = "a call costs the BPF verifier a frame of its own and a spilled state"
)]
pub fn step(arch: Arch, registers: &Registers, code_mask: u64, memory: &impl Memory) -> Step {
    let fp = registers.fp;
    if fp == 0 {
        return Step::Stop(StopReason::Complete);
    }
    // Saved pairs are 16-byte aligned on AArch64; x86_64 only guarantees the word.
    let alignment_mask = match arch {
        Arch::X86_64 => 7,
        Arch::Aarch64 => 15,
    };
    if fp & alignment_mask != 0 || fp < registers.sp || fp.wrapping_sub(registers.sp) > MAX_FRAME_BYTES {
        return Step::Stop(StopReason::BadFramePointer);
    }
    let Some([caller_fp, saved_ip]) = memory.word_pair(fp) else {
        return Step::Stop(StopReason::UnreadableStack);
    };
    let ip = saved_ip & code_mask;
    if ip == 0 {
        return Step::Stop(StopReason::Complete);
    }
    if !(LOWEST_CODE_ADDRESS..USER_ADDRESS_LIMIT).contains(&ip) {
        return Step::Stop(StopReason::BadReturnAddress);
    }
    // The caller's frame starts above this pair, so the stack pointer rises with every step: the walk cannot loop.
    Step::Caller(Registers { ip, sp: fp.wrapping_add(16), fp: caller_fp })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    /// An array as the stack: word `n` lies at `BASE + 8 * n`.
    struct Stack(Vec<u64>);
    const BASE: u64 = 0x7fff_0000_0000;

    impl Memory for Stack {
        fn word_pair(&self, abs_addr: u64) -> Option<[u64; 2]> {
            let offset = abs_addr.checked_sub(BASE)?;
            if offset % 8 != 0 {
                return None;
            }
            let index = usize::try_from(offset / 8).ok()?;
            Some([*self.0.get(index)?, *self.0.get(index + 1)?])
        }
    }

    fn walk(stack: &Stack, mut registers: Registers, arch: Arch, mask: u64) -> (Vec<u64>, StopReason) {
        let mut frames = std::vec![registers.ip];
        for _ in 0..crate::limits::MAX_USER_FRAMES {
            match step(arch, &registers, mask, stack) {
                Step::Caller(caller) => {
                    frames.push(caller.ip);
                    registers = caller;
                }
                Step::Stop(reason) => return (frames, reason),
            }
        }
        (frames, StopReason::TooDeep)
    }

    #[test]
    fn a_chain_ends_at_the_zero_frame_pointer() {
        //                        0: local  1: fp      2: ra    3: local 4: fp 5: ra
        let stack = Stack(std::vec![7, BASE + 32, 0x40_1000, 9, 0, 0x40_2000]);
        let start = Registers { ip: 0x40_0500, sp: BASE, fp: BASE + 8 };
        let (frames, reason) = walk(&stack, start, Arch::X86_64, u64::MAX);
        assert_eq!(frames, [0x40_0500, 0x40_1000, 0x40_2000]);
        assert_eq!(reason, StopReason::Complete);
    }

    #[test]
    fn registers_that_are_no_frame_pointers_are_not_followed() {
        let stack = Stack(std::vec![0; 16]);
        for fp in [BASE + 3, BASE - 8, BASE + (8 << 20), 1, u64::MAX - 7] {
            let start = Registers { ip: 0x40_0500, sp: BASE, fp };
            assert_eq!(walk(&stack, start, Arch::X86_64, u64::MAX).1, StopReason::BadFramePointer, "{fp:#x}");
        }
    }

    #[test]
    fn a_frame_that_points_at_itself_ends_the_walk() {
        let stack = Stack(std::vec![BASE, 0x40_1000]);
        let start = Registers { ip: 0x40_0500, sp: BASE, fp: BASE };
        let (frames, reason) = walk(&stack, start, Arch::X86_64, u64::MAX);
        assert_eq!((frames.len(), reason), (2, StopReason::BadFramePointer));
    }

    #[test]
    fn signed_return_addresses_lose_their_signature() {
        let stack = Stack(std::vec![0, 0x00b3_0000_0040_1000]);
        let start = Registers { ip: 0x40_0500, sp: BASE, fp: BASE };
        let (frames, reason) = walk(&stack, start, Arch::Aarch64, (1 << 48) - 1);
        assert_eq!(frames, [0x40_0500, 0x40_1000]);
        assert_eq!(reason, StopReason::Complete);
    }

    #[test]
    fn unreadable_memory_and_wild_return_addresses_have_reasons() {
        let start = Registers { ip: 0x40_0500, sp: BASE, fp: BASE + 8 };
        assert_eq!(walk(&Stack(std::vec![0]), start, Arch::X86_64, u64::MAX).1, StopReason::UnreadableStack);
        let wild = Stack(std::vec![0, BASE + 24, 0xffff_ffff_8000_0000]);
        assert_eq!(walk(&wild, start, Arch::X86_64, u64::MAX).1, StopReason::BadReturnAddress);
    }

    proptest::proptest! {
        #[test]
        fn any_memory_ends_with_rising_stack_pointers(words in proptest::collection::vec(0u64..64, 2..64), fp in 0u64..64) {
            // Small words become plausible pointers into the stack, so that chains form and loops would show.
            let stack = Stack(words.iter().map(|word| if word % 3 == 0 { *word } else { BASE + word * 8 }).collect());
            let mut registers = Registers { ip: 0x40_0000, sp: BASE, fp: BASE + fp * 8 };
            let mut steps = 0;
            while let Step::Caller(caller) = step(Arch::X86_64, &registers, u64::MAX, &stack) {
                proptest::prop_assert!(caller.sp > registers.sp);
                registers = caller;
                steps += 1;
                proptest::prop_assert!(steps <= 64);
            }
        }
    }
}
