//! What each BPF program takes of the kernel's limits: instructions that the verifier went through, and stack.
//!
//! Both limits differ from kernel to kernel and both are met only when a program is loaded, so a test holds them below a budget.

use aya_obj::generated::bpf_insn;
use serde::Serialize;

use super::{LoadError, Programs};

/// One program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProgramFigures {
    /// Its name.
    pub name: String,
    /// Instructions that the verifier went through, of the million that it allows; none before kernel 5.16.
    pub verified: Option<u32>,
    /// Instructions of the program.
    pub instructions: u64,
    /// Bytes of stack, of 512.
    pub stack_bytes: u64,
}

impl Programs {
    /// The figures of all programs that are loaded.
    ///
    /// # Errors
    ///
    /// The object cannot be read.
    pub fn figures(&self) -> Result<Vec<ProgramFigures>, LoadError> {
        let object = aya_obj::Object::parse(super::loader::OBJECT)
            .map_err(|error| LoadError::Object(Box::new(aya::EbpfError::ParseError(error))))?;
        let mut figures: Vec<ProgramFigures> = self
            .loaded()
            .into_iter()
            .filter_map(|(name, verified)| {
                let function = object.functions.values().find(|function| function.name == name)?;
                Some(ProgramFigures {
                    name,
                    verified,
                    instructions: function.instructions.len() as u64,
                    stack_bytes: stack_bytes(&function.instructions),
                })
            })
            .collect();
        figures.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(figures)
    }
}

/// The frame pointer of a BPF program; its stack lies below.
const FRAME_POINTER: u8 = 10;
/// `BPF_ALU64 | BPF_MOV | BPF_X` and `BPF_ALU64 | BPF_ADD | BPF_K`.
const MOVE: u8 = 0xbf;
const ADD: u8 = 0x07;
/// Classes of an instruction: the low three bits of its code.
const LOAD: u8 = 0x01;
const STORE: u8 = 0x02;
const STORE_REGISTER: u8 = 0x03;

/// The lowest place below the frame pointer that the program loads, stores, or takes the address of.
fn stack_bytes(code: &[bpf_insn]) -> u64 {
    let mut deepest = 0_i64;
    // The register that the frame pointer was copied to by the instruction before.
    let mut copy = None;
    for instruction in code {
        let (dst, src) = (instruction.dst_reg(), instruction.src_reg());
        let offset = match instruction.code & 7 {
            LOAD if src == FRAME_POINTER => i64::from(instruction.off),
            STORE | STORE_REGISTER if dst == FRAME_POINTER => i64::from(instruction.off),
            _ if instruction.code == ADD && copy == Some(dst) => i64::from(instruction.imm),
            _ => 0,
        };
        deepest = deepest.min(offset);
        copy = (instruction.code == MOVE && src == FRAME_POINTER).then_some(dst);
    }
    deepest.unsigned_abs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stack_is_what_is_reached_below_the_frame_pointer() {
        let instruction = |code, dst: u8, src: u8, off, imm| {
            let registers = bpf_insn::new_bitfield_1(dst, src);
            bpf_insn { code, _bitfield_align_1: [], _bitfield_1: registers, off, imm }
        };
        // *(u64 *)(r10 - 16) = r1; r2 = r10; r2 += -40; r3 += -400
        let code = [
            instruction(0x7b, 10, 1, -16, 0),
            instruction(MOVE, 2, 10, 0, 0),
            instruction(ADD, 2, 0, 0, -40),
            instruction(ADD, 3, 0, 0, -400),
        ];
        assert_eq!(stack_bytes(&code), 40);
        assert_eq!(stack_bytes(&code[..1]), 16);
    }
}
