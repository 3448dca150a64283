//! Where to put a probe in the first instructions of a function.
//!
//! A probe replaces an instruction by a trap. What the kernel does with the replaced one decides what a hit costs: it emulates `push` of a
//! register, `nop`, jumps and near calls (arch/x86/kernel/uprobes.c), all others it runs out of line, one step at a time, which takes nine
//! times as long. So the probe goes to the first instruction that is emulated, if every call passes it, nothing jumps to it from elsewhere, and
//! the arguments are still in registers. Where there is none, it goes to the first instruction. For AArch64 see [`super::site_arm`].

use iced_x86::{
    Code, Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess,
    OpKind, Register,
};

/// Most bytes of a function that are searched for jumps. A larger one is taken as if it had none: its beginning is no loop.
const MOST_CODE: usize = 16 << 10;
/// Instructions that may precede the probe.
const MOST_INSTRUCTIONS: usize = 24;

/// The processor that the code is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arch {
    /// x86_64.
    X86_64,
    /// AArch64.
    Aarch64,
}

/// What the probe needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// Indexes of the arguments that are read.
    pub arguments: [u8; 3],
    /// A probe at the return is attached at the same place: the stack pointer has to be that of the beginning.
    pub at_return: bool,
}

/// A place for a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chosen {
    /// Bytes behind the beginning of the function.
    pub offset: u64,
    /// Word of `pt_regs` that holds each argument.
    pub words: [u64; 3],
    /// Words between the stack pointer and the return address.
    pub pushed_words: u64,
    /// The kernel emulates the instruction.
    pub emulated: bool,
    /// Whether the function is nothing but a jump to another one.
    pub jumps: Jump,
}

/// A function that is nothing but a jump.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Jump {
    /// It is more than that.
    None,
    /// To this distance from its own beginning.
    By(i64),
    /// To where a register or a word in memory says.
    Indirect,
}

/// Chooses a place in a function whose code begins with `code`.
pub fn choose(arch: Arch, code: &[u8], wanted: Wanted) -> Chosen {
    match arch {
        Arch::X86_64 => choose_x86(code, wanted),
        Arch::Aarch64 => super::site_arm::choose(&code[..code.len().min(MOST_CODE)], wanted),
    }
}

/// Registers that arguments are passed in (System V ABI), in order.
const ARGUMENTS: [Register; 4] = [Register::RDI, Register::RSI, Register::RDX, Register::RCX];

/// Which registers hold each argument, as bits by register number.
struct Holders([u32; 4]);

impl Holders {
    fn new() -> Self {
        Self(ARGUMENTS.map(|register| 1 << register.number()))
    }

    fn forget(&mut self, register: Register) {
        let full = register.full_register();
        if full.is_gpr64() {
            for holders in &mut self.0 {
                *holders &= !(1 << full.number());
            }
        }
    }

    fn copy(&mut self, from: Register, to: Register) {
        let held: Vec<bool> = self.0.iter().map(|holders| holders >> from.number() & 1 != 0).collect();
        self.forget(to);
        for (holders, held) in self.0.iter_mut().zip(held) {
            *holders |= u32::from(held) << to.number();
        }
    }

    /// The words of `pt_regs` that hold these arguments, if all are still there.
    fn words(&self, arguments: [u8; 3]) -> Option<[u64; 3]> {
        let mut words = [0; 3];
        for (word, argument) in words.iter_mut().zip(arguments) {
            let index = usize::from(argument);
            let holders = *self.0.get(index)?;
            let own = ARGUMENTS[index].number();
            let register = if holders >> own & 1 != 0 { own } else { holders.trailing_zeros() as usize };
            *word = *WORDS.get(register)?;
        }
        Some(words)
    }
}

/// Index in `struct pt_regs` (arch/x86/include/asm/ptrace.h) by the processor's register number.
const WORDS: [u64; 16] = [10, 11, 12, 5, 19, 4, 13, 14, 9, 8, 7, 6, 3, 2, 1, 0];

fn choose_x86(code: &[u8], wanted: Wanted) -> Chosen {
    let code = &code[..code.len().min(MOST_CODE)];
    let first = Chosen {
        offset: 0,
        words: Holders::new().words(wanted.arguments).unwrap_or_default(),
        pushed_words: 0,
        emulated: false,
        jumps: Jump::None,
    };
    let mut decoder = Decoder::with_ip(64, code, 0, DecoderOptions::NONE);
    let mut factory = InstructionInfoFactory::new();
    let mut holders = Holders::new();
    let mut pushed_words = 0;
    let mut instruction = Instruction::default();
    for index in 0..MOST_INSTRUCTIONS {
        if !decoder.can_decode() {
            break;
        }
        decoder.decode_out(&mut instruction);
        if instruction.is_invalid() {
            break;
        }
        if index == 0 && matches!(instruction.code(), Code::Jmp_rel32_64 | Code::Jmp_rel8_64) {
            let distance = instruction.near_branch_target().cast_signed();
            return Chosen { jumps: Jump::By(distance), emulated: true, ..first };
        }
        if index == 0 && instruction.code() == Code::Jmp_rm64 {
            return Chosen { jumps: Jump::Indirect, ..first };
        }
        if is_emulated(&instruction) && pushed_words < 64 && (pushed_words == 0 || !wanted.at_return) {
            let words = holders.words(wanted.arguments);
            if let Some(words) = words.filter(|_| !is_jumped_to(code, 1..=instruction.ip())) {
                return Chosen {
                    offset: instruction.ip(),
                    words,
                    pushed_words,
                    emulated: true,
                    jumps: Jump::None,
                };
            }
        }
        if instruction.flow_control() != FlowControl::Next {
            break;
        }
        match moved_stack(&instruction) {
            Some(words) => pushed_words += words,
            None => break,
        }
        if instruction.code() == Code::Mov_r64_rm64 && instruction.op1_kind() == OpKind::Register
            || instruction.code() == Code::Mov_rm64_r64 && instruction.op0_kind() == OpKind::Register
        {
            holders.copy(instruction.op1_register(), instruction.op0_register());
            continue;
        }
        for used in factory.info(&instruction).used_registers() {
            if !matches!(
                used.access(),
                OpAccess::Read | OpAccess::CondRead | OpAccess::NoMemAccess | OpAccess::None
            ) {
                holders.forget(used.register());
            }
        }
    }
    first
}

/// What `uprobe_init_insn` and its like emulate on every kernel since 4.18. Larger `nop`s are emulated by few.
fn is_emulated(instruction: &Instruction) -> bool {
    match instruction.code() {
        Code::Nopd => instruction.len() == 1,
        Code::Push_r64 | Code::Jmp_rel8_64 | Code::Jmp_rel32_64 | Code::Call_rel32_64 => true,
        _ => instruction.is_jcc_short_or_near() && instruction.len() <= 6,
    }
}

/// Words by which an instruction grows the stack; none where that cannot be told.
fn moved_stack(instruction: &Instruction) -> Option<u64> {
    if instruction.mnemonic() == Mnemonic::Sub && instruction.op0_register() == Register::RSP {
        let bytes = instruction.try_immediate(1).ok().filter(|bytes| *bytes < 256 && bytes % 8 == 0)?;
        return Some(bytes / 8);
    }
    match instruction.stack_pointer_increment() {
        0 => {
            let writes = instruction.op0_kind() == OpKind::Register
                && instruction.op0_register().full_register() == Register::RSP
                && !matches!(instruction.mnemonic(), Mnemonic::Cmp | Mnemonic::Test);
            (!writes).then_some(0)
        }
        -8 => Some(1),
        _ => None,
    }
}

/// Whether a jump inside the code leads to one of these offsets.
fn is_jumped_to(code: &[u8], offsets: std::ops::RangeInclusive<u64>) -> bool {
    let mut decoder = Decoder::with_ip(64, code, 0, DecoderOptions::NONE);
    let mut instruction = Instruction::default();
    while decoder.can_decode() {
        decoder.decode_out(&mut instruction);
        let is_jump = matches!(
            instruction.flow_control(),
            FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch
        );
        if is_jump && offsets.contains(&instruction.near_branch_target()) {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Wanted = Wanted { arguments: [0; 3], at_return: false };

    #[test]
    fn glibcs_free_is_probed_at_its_jump() {
        // test rdi,rdi; je; push rbp
        let code = [0x48, 0x85, 0xff, 0x0f, 0x84, 0xbf, 0, 0, 0, 0x55];
        let chosen = choose(Arch::X86_64, &code, ONE);
        assert_eq!((chosen.offset, chosen.emulated, chosen.words[0]), (3, true, 14));
    }

    #[test]
    fn a_first_push_is_good_for_the_return_as_well() {
        // push r12; push rbp; mov rbx,rdi
        let code = [0x41, 0x54, 0x55, 0x48, 0x89, 0xfb];
        let chosen = choose(Arch::X86_64, &code, Wanted { at_return: true, ..ONE });
        assert_eq!((chosen.offset, chosen.pushed_words, chosen.emulated), (0, 0, true));
    }

    #[test]
    fn arguments_are_followed_into_other_registers() {
        // mov rax,[rip+x]; mov rsi,rdi; mov rdi,fs:[rax]; cmp rsi,0x400; ja (mimalloc)
        let code = [
            0x48, 0x8b, 0x05, 0x49, 0xb4, 0, 0, 0x48, 0x89, 0xfe, 0x64, 0x48, 0x8b, 0x38, 0x48, 0x81, 0xfe,
            0, 4, 0, 0, 0x77, 0x29,
        ];
        let chosen = choose(Arch::X86_64, &code, ONE);
        assert_eq!((chosen.offset, chosen.words[0], chosen.emulated), (21, 13, true));
        // The second argument was overwritten on the way.
        let chosen = choose(Arch::X86_64, &code, Wanted { arguments: [1; 3], at_return: false });
        assert_eq!((chosen.offset, chosen.words[0], chosen.emulated), (0, 13, false));
    }

    #[test]
    fn pushes_before_the_place_are_counted_unless_the_return_is_probed() {
        // sub rsp,24; cmp byte [rip+x],0; je
        let code = [0x48, 0x83, 0xec, 0x18, 0x80, 0x3d, 1, 0, 0, 0, 0, 0x74, 0x05];
        let chosen = choose(Arch::X86_64, &code, ONE);
        assert_eq!((chosen.offset, chosen.pushed_words), (11, 3));
        let chosen = choose(Arch::X86_64, &code, Wanted { at_return: true, ..ONE });
        assert_eq!((chosen.offset, chosen.emulated), (0, false));
    }

    #[test]
    fn places_that_others_jump_to_are_left_alone() {
        // test rdi,rdi; push rbp; jmp back to the push
        let code = [0x48, 0x85, 0xff, 0x55, 0xeb, 0xfd];
        assert!(!choose(Arch::X86_64, &code, ONE).emulated);
        assert_eq!(choose(Arch::X86_64, &[0xe9, 1, 0, 0, 0], ONE).jumps, Jump::By(6));
    }

    proptest::proptest! {
        #[test]
        fn any_code_gets_a_place_inside_it(
            code in proptest::collection::vec(proptest::num::u8::ANY, 0..200),
            argument in 0_u8..4,
            at_return in proptest::bool::ANY,
        ) {
            for arch in [Arch::X86_64, Arch::Aarch64] {
                let chosen = choose(arch, &code, Wanted { arguments: [argument; 3], at_return });
                proptest::prop_assert!(chosen.offset == 0 || (chosen.offset as usize) < code.len());
                proptest::prop_assert!(chosen.words.iter().all(|word| *word < 64) && chosen.pushed_words < 64);
            }
        }
    }
}
