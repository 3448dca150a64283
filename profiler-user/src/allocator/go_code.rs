//! What is read of Go's machine code: the check of the stack with which a function begins, and where a word in memory is compared with one.

use iced_x86::{Code, Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind, Register};

use super::site::Arch;

/// A place for a probe behind that check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct GoPlace {
    /// Bytes behind the beginning of the function.
    pub(super) offset: u64,
    /// The kernel emulates the instruction.
    pub(super) emulated: bool,
}

/// The branch to where the stack grows, if a function begins with the check that Go's compiler puts there: the stack pointer, less what the
/// function needs, against a word of the goroutine (`stacksplit` in `src/cmd/internal/obj/x86/obj6.go` and `…/arm64/obj7.go`). The goroutine lies
/// in a register since arguments do. The kernel emulates that branch, arguments are intact, and nothing has been pushed.
pub(super) fn after_stack_check(arch: Arch, code: &[u8]) -> Option<GoPlace> {
    let offset = match arch {
        Arch::X86_64 => x86_stack_check(code),
        Arch::Aarch64 => arm_stack_check(code),
    }?;
    Some(GoPlace { offset, emulated: true })
}

fn x86_stack_check(code: &[u8]) -> Option<u64> {
    let mut decoder = Decoder::with_ip(64, code, 0, DecoderOptions::NONE);
    let mut next = || decoder.can_decode().then(|| decoder.decode());
    let mut compared = Register::RSP;
    let mut instruction = next()?;
    if instruction.code() == Code::Lea_r64_m && instruction.memory_base() == Register::RSP {
        compared = instruction.op0_register();
        instruction = next()?;
    }
    let checks = instruction.mnemonic() == Mnemonic::Cmp
        && instruction.op0_kind() == OpKind::Register
        && instruction.op0_register() == compared
        && matches!(compared, Register::RSP | Register::R12 | Register::R13)
        && instruction.op1_kind() == OpKind::Memory
        && instruction.memory_base() == Register::R14
        && instruction.memory_displacement64() == STACK_GUARD;
    let branch = next()?;
    (checks && matches!(branch.code(), Code::Jbe_rel8_64 | Code::Jbe_rel32_64)).then(|| branch.ip())
}

/// `stackguard0` of the goroutine (`g` in `src/runtime/runtime2.go`), which stands behind the two bounds of its stack.
const STACK_GUARD: u64 = 16;

fn arm_stack_check(code: &[u8]) -> Option<u64> {
    /// `ldr x16, [x28, #16]`
    const GUARD: u32 = 0xf940_0b90;
    /// `cmp sp, x16` and `cmp x17, x16`
    const COMPARE: [u32; 2] = [0xeb30_63ff, 0xeb10_023f];
    // `sub x17, sp, #imm`, shifted or not, or `mov x17, sp`
    let is_less = |word: u32| word & 0xff80_03ff == 0xd100_03f1 || word == 0x9100_03f1;
    let is_below = |word: u32| word & 0xff00_001f == 0x5400_0009;
    let words: Vec<u32> = words(code).take(4).collect();
    let (first, rest) = words.split_first()?;
    let rest = rest.split_first().filter(|(word, _)| is_less(**word)).map_or(rest, |(_, rest)| rest);
    let found = *first == GUARD && COMPARE.contains(rest.first()?) && is_below(*rest.get(1)?);
    found.then(|| (words.len() - rest.len() + 1) as u64 * 4)
}

fn words(code: &[u8]) -> impl Iterator<Item = u32> {
    code.as_chunks().0.iter().map(|word| u32::from_le_bytes(*word))
}

/// Instructions between a load and the comparison.
const BETWEEN: usize = 3;

/// The address of the first word in memory that is loaded, relative to the instruction, to be compared with one. `start` is where the code is.
/// `runtime.nextSample` has no other such word than `MemProfileRate`; often it is part of `profilealloc`.
pub(super) fn compared_with_one(arch: Arch, code: &[u8], start: u64) -> Option<u64> {
    match arch {
        Arch::X86_64 => x86_compared(code, start),
        Arch::Aarch64 => arm_compared(code, start),
    }
}

fn x86_compared(code: &[u8], start: u64) -> Option<u64> {
    let mut loaded: Option<(Register, u64, usize)> = None;
    for (index, instruction) in
        Decoder::with_ip(64, code, start, DecoderOptions::NONE).into_iter().enumerate()
    {
        if instruction.is_invalid() {
            return None;
        }
        let with_one = instruction.mnemonic() == Mnemonic::Cmp
            && instruction.try_immediate(1).is_ok_and(|value| value == 1);
        if with_one && instruction.is_ip_rel_memory_operand() && instruction.memory_size().size() == 8 {
            return Some(instruction.ip_rel_memory_address());
        }
        if let Some((register, address, at)) = loaded {
            if with_one
                && instruction.op0_kind() == OpKind::Register
                && instruction.op0_register() == register
            {
                return Some(address);
            }
            if index - at > BETWEEN || instruction.flow_control() == FlowControl::UnconditionalBranch {
                loaded = None;
            }
        }
        if is_load(&instruction) {
            loaded = Some((instruction.op0_register(), instruction.ip_rel_memory_address(), index));
        }
    }
    None
}

fn is_load(instruction: &Instruction) -> bool {
    instruction.code() == Code::Mov_r64_rm64 && instruction.is_ip_rel_memory_operand()
}

fn arm_compared(code: &[u8], start: u64) -> Option<u64> {
    let register = |word: u32, low: u32| (word >> low & 31) as usize;
    let mut pages: [Option<u64>; 32] = [None; 32];
    let mut loaded: [Option<(u64, usize)>; 32] = [None; 32];
    for (index, word) in words(code).enumerate() {
        let place = start.wrapping_add(index as u64 * 4);
        if word & 0x9f00_0000 == 0x9000_0000 {
            // adrp: 21 bits of signed pages.
            let pages_away = i64::from(((word >> 3 & 0x1f_fffc | word >> 29 & 3) << 11).cast_signed() >> 11);
            pages[register(word, 0)] = Some((place & !0xfff).wrapping_add_signed(pages_away << 12));
        } else if word & 0xffc0_0000 == 0xf940_0000 {
            // ldr with an offset in words of eight bytes.
            let page = pages[register(word, 5)];
            loaded[register(word, 0)] =
                page.map(|page| (page.wrapping_add(u64::from(word >> 10 & 0xfff) * 8), index));
        } else if word & 0xffc0_0000 == 0x9100_0000 {
            // add: the offset in a page, if the load has none.
            let page = pages[register(word, 5)];
            pages[register(word, 0)] = page.map(|page| page.wrapping_add(u64::from(word >> 10 & 0xfff)));
        } else if word & 0xffff_fc1f == 0xf100_041f {
            // cmp with one.
            let near = loaded[register(word, 5)].filter(|(_, at)| index - at <= BETWEEN);
            if let Some((address, _)) = near {
                return Some(address);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stack_check_of_go_is_known() {
        let at = |code: &[u8]| after_stack_check(Arch::X86_64, code).map(|place| place.offset);
        // cmp rsp,[r14+16]; jbe
        assert_eq!(at(&[0x49, 0x3b, 0x66, 0x10, 0x0f, 0x86, 0x9c, 0, 0, 0]), Some(4));
        // lea r12,[rsp-24]; cmp r12,[r14+16]; jbe
        assert_eq!(at(&[0x4c, 0x8d, 0x64, 0x24, 0xe8, 0x4d, 0x3b, 0x66, 0x10, 0x76, 0x10]), Some(9));
        // Go 1.16: mov rcx,fs:[-8]; cmp rsp,[rcx+16]; jbe
        let old = [0x64, 0x48, 0x8b, 0x0c, 0x25, 0xf8, 0xff, 0xff, 0xff, 0x48, 0x3b, 0x61, 0x10, 0x76, 0x10];
        assert_eq!(at(&old), None);
        assert_eq!(at(&[0x49, 0x3b, 0x66, 0x10]), None);
        let code = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
        let at = |words: &[u32]| after_stack_check(Arch::Aarch64, &code(words)).map(|place| place.offset);
        assert_eq!(at(&[0xf940_0b90, 0xeb30_63ff, 0x5400_0529]), Some(8));
        // sub x17,sp,#16 between.
        assert_eq!(at(&[0xf940_0b90, 0xd100_43f1, 0xeb10_023f, 0x5400_0529]), Some(12));
        // Another register; another condition; too short.
        assert_eq!(at(&[0xf940_0b81, 0xeb30_63ff, 0x5400_0529]), None);
        assert_eq!(at(&[0xf940_0b90, 0xeb30_63ff, 0x5400_0528]), None);
        assert_eq!(at(&[0xf940_0b90]), None);
    }

    #[test]
    fn the_word_that_is_compared_with_one_is_found() {
        // mov rdx,[rip+8]; test rdx,rdx; mov rax,[rip+0x100]; cmp rax,1
        let code = [
            0x48, 0x8b, 0x15, 8, 0, 0, 0, 0x48, 0x85, 0xd2, 0x48, 0x8b, 0x05, 0, 1, 0, 0, 0x48, 0x83, 0xf8, 1,
        ];
        assert_eq!(compared_with_one(Arch::X86_64, &code, 0x1000), Some(0x1000 + 17 + 0x100));
        // cmp qword [rip+0x100],1
        let code = [0x48, 0x83, 0x3d, 0, 1, 0, 0, 1];
        assert_eq!(compared_with_one(Arch::X86_64, &code, 0x1000), Some(0x1108));
        assert_eq!(compared_with_one(Arch::X86_64, &[0x48, 0x85, 0xd2], 0), None);
        // adrp x27,+2 pages; ldr x0,[x27,#0x28]; cmp x0,#1
        let words: [u32; 3] = [0xd000_001b, 0xf940_1760, 0xf100_041f];
        let code: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        assert_eq!(compared_with_one(Arch::Aarch64, &code, 0x5008), Some(0x7028));
        assert_eq!(compared_with_one(Arch::Aarch64, &code[4..], 0x5008), None);
    }

    proptest::proptest! {
        #[test]
        fn any_code_is_survived(code in proptest::collection::vec(proptest::num::u8::ANY, 0..200), start: u64) {
            for arch in [Arch::X86_64, Arch::Aarch64] {
                let _ = compared_with_one(arch, &code, start);
                if let Some(place) = after_stack_check(arch, &code) {
                    proptest::prop_assert!((place.offset as usize) < code.len());
                }
            }
        }
    }
}
