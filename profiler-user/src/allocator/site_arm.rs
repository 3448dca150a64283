//! Where to put a probe in the first instructions of a function for AArch64.
//!
//! The kernel simulates branches and `adr`, `adrp` (arch/arm64/kernel/probes/decode-insn.c), which is one exception; all others it runs out of line,
//! which is two. Functions that need the address of something global take it with `adrp` soon: the C library's `malloc` at the fourth instruction,
//! behind two that save registers. Hints (`bti`, `paciasp`) are stepped, and `nop` is simulated since 6.13 only, so they are passed over. Where the
//! return is probed as well, the place has to be the beginning: the kernel takes the return address from its register there, and one that was
//! saved before would not be replaced. `free` begins with a branch anyway.

use super::site::{Chosen, Jump, Wanted};

/// Instructions that may precede the probe.
const MOST_INSTRUCTIONS: usize = 12;
/// The number of the stack pointer, and of the register that holds the return address.
const SP: u32 = 31;
const LINK: u32 = 30;

/// Chooses a place in a function whose code begins with `code`.
pub(super) fn choose(code: &[u8], wanted: Wanted) -> Chosen {
    let words: Vec<u32> = code.as_chunks().0.iter().map(|word| u32::from_le_bytes(*word)).collect();
    let first = Chosen {
        offset: 0,
        words: wanted.arguments.map(u64::from),
        pushed_words: 0,
        emulated: words.first().is_some_and(|word| is_simulated(*word)),
        jumps: words.first().map_or(Jump::None, |word| jump_of(*word)),
    };
    if first.emulated || wanted.at_return {
        return first;
    }
    let is_needed =
        |register| register == LINK || wanted.arguments.iter().any(|one| u32::from(*one) == register);
    let mut pushed = 0;
    for (index, word) in words.iter().enumerate().take(MOST_INSTRUCTIONS) {
        if is_simulated(*word) {
            if is_jumped_to(&words, index) {
                break;
            }
            return Chosen { offset: index as u64 * 4, pushed_words: pushed, emulated: true, ..first };
        }
        match effect(*word) {
            Some(Effect::Pushes(more)) if pushed + more < 64 => pushed += more,
            Some(Effect::Writes(register)) if !is_needed(register) => {}
            Some(Effect::Nothing) => {}
            _ => break,
        }
    }
    first
}

/// What an instruction does that may precede a probe.
enum Effect {
    /// Nothing that matters here.
    Nothing,
    /// Puts so many words onto the stack.
    Pushes(u64),
    /// Writes this register.
    Writes(u32),
}

/// None for all that is not known to be harmless. Encodings are of the Arm ARM, C4.1.
fn effect(word: u32) -> Option<Effect> {
    let (low, base) = (word & 31, word >> 5 & 31);
    let pushed = |bytes: i32| {
        u64::try_from(-bytes).ok().filter(|bytes| bytes % 8 == 0).map(|bytes| Effect::Pushes(bytes / 8))
    };
    // stp of 64-bit registers to the stack: in place, or with the stack moved down before.
    if word & 0xffc0_0000 == 0xa900_0000 && base == SP {
        return Some(Effect::Nothing);
    }
    if word & 0xffc0_0000 == 0xa980_0000 && base == SP {
        return pushed((word << 10).cast_signed() >> 25 << 3);
    }
    // str likewise.
    if word & 0xffc0_0000 == 0xf900_0000 && base == SP {
        return Some(Effect::Nothing);
    }
    if word & 0xffe0_0c00 == 0xf800_0c00 && base == SP {
        return pushed((word << 11).cast_signed() >> 23);
    }
    // sub sp, sp, #imm
    if word & 0xffc0_03ff == 0xd100_03ff {
        return pushed(-(word >> 10 & 0xfff).cast_signed());
    }
    // add of an immediate: `mov x29, sp` is one; it may not move the stack.
    if word & 0xffc0_0000 == 0x9100_0000 && low != SP {
        return Some(Effect::Writes(low));
    }
    // mov of a register.
    if word & 0xffe0_ffe0 == 0xaa00_03e0 {
        return Some(Effect::Writes(low));
    }
    // cmp with an immediate or a register.
    if matches!(word & 0x7f80_001f, 0x7100_001f) || matches!(word & 0x7fe0_fc1f, 0x6b00_001f) {
        return Some(Effect::Nothing);
    }
    // mrs of the thread's pointer.
    if word & 0xffff_ffe0 == 0xd53b_d040 {
        return Some(Effect::Writes(low));
    }
    // ldr from an address in a register, 32 or 64 bits.
    if word & 0xbfc0_0000 == 0xb940_0000 {
        return Some(Effect::Writes(low));
    }
    // Hints: nop, paciasp, pacibsp, bti. Those that wait for events are none of a function's first.
    let is_hint = matches!(
        word,
        0xd503_201f | 0xd503_233f | 0xd503_237f | 0xd503_241f | 0xd503_245f | 0xd503_249f | 0xd503_24df
    );
    is_hint.then_some(Effect::Nothing)
}

fn is_simulated(word: u32) -> bool {
    let branch = word >> 26 == 0b00_0101 || word >> 26 == 0b10_0101;
    let conditional = word >> 24 == 0x54;
    let compare_or_test = matches!((word >> 24) & 0x7f, 0x34..=0x37);
    let address = (word >> 24) & 0x1f == 0x10;
    branch || conditional || compare_or_test || address
}

/// The distance that an unconditional branch goes (`B`, Arm ARM, C6.2.26).
fn jump_of(word: u32) -> Jump {
    let is_branch = word >> 26 == 0b00_0101;
    // 26 bits of signed words.
    if is_branch { Jump::By(i64::from((word << 6).cast_signed() >> 6) * 4) } else { Jump::None }
}

/// Instructions that a branch inside a function goes, if the word is one.
fn branch_of(word: u32) -> Option<i64> {
    let signed = |high: u32, bits: u32| i64::from((word << high).cast_signed() >> (32 - bits));
    if word >> 26 == 0b00_0101 {
        return Some(signed(6, 26));
    }
    match (word >> 24) & 0x7f {
        // b.cond, cbz, cbnz; tbz, tbnz.
        0x54 | 0x34 | 0x35 => Some(signed(8, 19)),
        0x36 | 0x37 => Some(signed(13, 14)),
        _ => None,
    }
}

/// Whether a branch of the code leads to instruction `index` or to one before it, the first excepted.
fn is_jumped_to(words: &[u32], index: usize) -> bool {
    let targets = words.iter().enumerate().filter_map(|(at, word)| Some(at as i64 + branch_of(*word)?));
    targets.into_iter().any(|target| (1..=index as i64).contains(&target))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Wanted = Wanted { arguments: [0; 3], at_return: false };

    fn place(words: &[u32], wanted: Wanted) -> (u64, u64, bool) {
        let code: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let chosen = choose(&code, wanted);
        (chosen.offset, chosen.pushed_words, chosen.emulated)
    }

    /// stp x29,x30,[sp,#-64]!; mov x29,sp; stp x23,x24,[sp,#48]; adrp x23; add x1,x23,#0x958
    const MALLOC: [u32; 5] = [0xa9bc_7bfd, 0x9100_03fd, 0xa903_63f7, 0xd000_08b7, 0x9125_62e1];

    #[test]
    fn the_c_librarys_malloc_is_probed_where_it_takes_an_address() {
        assert_eq!(place(&MALLOC, ONE), (12, 8, true));
        // Where the return is probed too, the return address has to be in its register.
        assert_eq!(place(&MALLOC, Wanted { at_return: true, ..ONE }), (0, 0, false));
        // With pointer authentication: paciasp before.
        let signed: Vec<u32> = [0xd503_233f].into_iter().chain(MALLOC).collect();
        assert_eq!(place(&signed, ONE), (16, 8, true));
    }

    #[test]
    fn arguments_that_are_lost_or_jumps_to_the_place_forbid_it() {
        // mov x0,x1 before.
        let lost: Vec<u32> = [0xaa01_03e0].into_iter().chain(MALLOC).collect();
        assert_eq!(place(&lost, ONE), (0, 0, false));
        assert_eq!(place(&lost, Wanted { arguments: [1; 3], at_return: false }), (16, 8, true));
        // A loop back to the `adrp`: b -2.
        let looped: Vec<u32> = MALLOC.into_iter().chain([0x17ff_fffe]).collect();
        assert_eq!(place(&looped, ONE), (0, 0, false));
        // Something unknown before: umulh x2,x0,x1 (calloc).
        assert_eq!(place(&[0xa9bb_7bfd, 0x9bc1_7c02, 0xd000_08b7], ONE), (0, 0, false));
        // sub sp,sp,#32; cmp x0,#0x1000; b.hi
        assert_eq!(place(&[0xd100_83ff, 0xf140_041f, 0x5400_0048], ONE), (8, 4, true));
    }

    #[test]
    fn branches_and_addresses_are_simulated() {
        // cbz x0; adrp x16; b; stp x29,x30,[sp,#-16]!
        assert!([0xb400_0040, 0x9000_0010, 0x1400_0002].into_iter().all(is_simulated));
        assert!(!is_simulated(0xa9bf_7bfd) && !is_simulated(0xd503_245f));
        assert_eq!(place(&[0xb400_0040], Wanted { at_return: true, ..ONE }), (0, 0, true));
        assert_eq!(jump_of(0x17ff_ffff), Jump::By(-4));
        assert_eq!(
            (branch_of(0x17ff_ffff), branch_of(0x54ff_ffe8), branch_of(0x3707_ffe0)),
            (Some(-1), Some(-1), Some(-1))
        );
        assert_eq!(place(&[], ONE), (0, 0, false));
    }
}
