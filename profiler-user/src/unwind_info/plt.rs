//! Stubs of the procedure linkage table, where the linker left them out of the unwind information.
//!
//! In: an object's section headers, and the first bytes of its stubs. Out: rules for stubs that have none. lld describes none of
//! its stubs, and no linker those of AArch64; a step by frame pointer would leave the caller out. Which stub has which
//! form is known by its first instructions; an unknown form has no rule.

use std::ops::Range;

use profiler_common::unwind::{Arch, CFA_PLT, CFA_SP, Rule, SAME};

use super::PageError;
use super::page::{Page, Piece};
use crate::object::{Elf, limits};

/// Bytes of a stub; the first of a `.plt` calls the dynamic linker, and on AArch64 takes two places.
const STUB_BYTES: u64 = 16;

/// `push offset(%rip)`: how the first stub begins. The address of the object, then a jump to the dynamic linker.
const X86_PUSH_OBJECT: [u8; 2] = [0xff, 0x35];

/// `jmp *offset(%rip)`, six bytes, then `push $number`, five bytes.
const X86_JUMP: [u8; 2] = [0xff, 0x25];
const X86_JUMP_BYTES: usize = 6;
const X86_PUSH_NUMBER: u8 = 0x68;
const X86_PUSH_NUMBER_BYTES: usize = 5;

/// `endbr64`, four bytes, which begins stubs for processors that check jumps.
const X86_END_BRANCH: [u8; 4] = [0xf3, 0x0f, 0x1e, 0xfa];

/// `stp x16, x30, [sp, #-16]!`: how the first stub of AArch64 begins; and `bti c`, which may come before.
const ARM_SAVE: [u8; 4] = 0xa9bf_7bf0_u32.to_le_bytes();
const ARM_TARGET: [u8; 4] = 0xd503_245f_u32.to_le_bytes();

/// The stubs of an object: ranges of addresses and their rules.
#[derive(Debug, Default)]
pub(super) struct Stubs(Vec<(Range<u64>, Rule)>);

impl Stubs {
    /// Finds the stubs of an object.
    pub(super) fn of(elf: &Elf, arch: Arch) -> Self {
        let mut found = Self::default();
        let named = |name: &str| name == ".iplt" || name == ".plt" || name.starts_with(".plt.");
        let sections = elf.sections().iter().filter(|section| {
            section.executable && section.has_bytes() && section.size >= STUB_BYTES && named(&section.name)
        });
        for section in sections.take(limits::STUB_SECTIONS) {
            let range = section.virt_addr..section.virt_end();
            // The first two stubs tell the form of all.
            let len = section.size.min(2 * STUB_BYTES);
            let Ok(code) = elf.source().read_at(section.file_offset, len) else { continue };
            match arch {
                Arch::X86_64 => found.x86(range, &code),
                Arch::Aarch64 => found.arm(range, &code),
            }
        }
        found
    }

    fn x86(&mut self, range: Range<u64>, code: &[u8]) {
        if !code.starts_with(&X86_PUSH_OBJECT) {
            // Stubs that are bound from the start: one jump.
            let code = code.strip_prefix(&X86_END_BRANCH).unwrap_or(code);
            if code.starts_with(&X86_JUMP) {
                self.0.push((range, above_stack_pointer(8)));
            }
            return;
        }
        // The stub that all others jump to finds the number of a function above the return address.
        let pushed = range.start.saturating_add(X86_JUMP_BYTES as u64);
        let second = range.start.saturating_add(STUB_BYTES).min(range.end);
        self.0.push((range.start..pushed, above_stack_pointer(16)));
        self.0.push((pushed..second, above_stack_pointer(24)));
        let Some(stub) = code.get(STUB_BYTES as usize..) else { return };
        let number_at = if stub.starts_with(&X86_JUMP) { X86_JUMP_BYTES } else { X86_END_BRANCH.len() };
        let is_known = stub.starts_with(&X86_JUMP) || stub.starts_with(&X86_END_BRANCH);
        // The rule counts bytes by the last digit of an address.
        if is_known && stub.get(number_at) == Some(&X86_PUSH_NUMBER) && range.start.is_multiple_of(STUB_BYTES)
        {
            let threshold = (number_at + X86_PUSH_NUMBER_BYTES) as i16;
            self.0.push((second..range.end, Rule { cfa_add: threshold, ra_offset: -1, ..Rule::of(CFA_PLT) }));
        }
    }

    fn arm(&mut self, range: Range<u64>, code: &[u8]) {
        let untouched = Rule { ra: SAME, ..Rule::of(CFA_SP) };
        let target = if code.starts_with(&ARM_TARGET) { ARM_TARGET.len() } else { 0 };
        if !code.get(target..).is_some_and(|code| code.starts_with(&ARM_SAVE)) {
            self.0.push((range, untouched));
            return;
        }
        let saved = range.start.saturating_add((target + ARM_SAVE.len()) as u64);
        let second = range.start.saturating_add(2 * STUB_BYTES).min(range.end);
        self.0.push((range.start..saved, untouched));
        self.0.push((saved..second, above_stack_pointer(16)));
        self.0.push((second..range.end, untouched));
    }

    /// Puts the rules where nothing else is known.
    pub(super) fn paint(&self, piece: &Piece, page: &mut Page) -> Result<(), PageError> {
        for (range, rule) in &self.0 {
            if range.start < piece.virt.end && piece.virt.start < range.end {
                page.fill(piece, range, *rule)?;
            }
        }
        Ok(())
    }

    /// True for an address in a stub.
    pub(super) fn contains(&self, virt_addr: u64) -> bool {
        self.0.iter().any(|(range, _)| range.contains(&virt_addr))
    }
}

/// The frame of a function that saved nothing but has `bytes` on the stack.
const fn above_stack_pointer(bytes: i32) -> Rule {
    Rule { cfa_offset: bytes, ra_offset: -1, ..Rule::of(CFA_SP) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn x86(code: &[u8]) -> Vec<(Range<u64>, Rule)> {
        let mut stubs = Stubs::default();
        stubs.x86(0x1000..0x1040, code);
        stubs.0
    }

    #[test]
    fn x86_stubs_push_a_number_and_their_object() {
        let mut code = [0x90; 32];
        code[..2].copy_from_slice(&X86_PUSH_OBJECT);
        code[16..18].copy_from_slice(&X86_JUMP);
        code[22] = X86_PUSH_NUMBER;
        let first = [(0x1000..0x1006, above_stack_pointer(16)), (0x1006..0x1010, above_stack_pointer(24))];
        let stub = |cfa_add| Rule { cfa_add, ra_offset: -1, ..Rule::of(CFA_PLT) };
        assert_eq!(x86(&code), [&first[..], &[(0x1010..0x1040, stub(11))]].concat());
        code[16..20].copy_from_slice(&X86_END_BRANCH);
        code[20] = X86_PUSH_NUMBER;
        assert_eq!(x86(&code), [&first[..], &[(0x1010..0x1040, stub(9))]].concat());
        code[16] = 0;
        assert_eq!(x86(&code), first);
        assert_eq!(x86(&code[..16]), first);
    }

    #[test]
    fn stubs_that_are_bound_from_the_start_only_jump() {
        let jump = [&X86_JUMP[..], &[0; 14]].concat();
        let all = [(0x1000..0x1040, above_stack_pointer(8))];
        assert_eq!(x86(&jump), all);
        assert_eq!(x86(&[&X86_END_BRANCH[..], &jump].concat()), all);
        assert_eq!(x86(&[0x90; 32]), []);
    }

    #[test]
    fn stubs_of_aarch64_leave_the_stack_alone_but_for_the_first() {
        let arm = |code: &[u8]| {
            let mut stubs = Stubs::default();
            stubs.arm(0x1000..0x1040, code);
            stubs.0
        };
        let leaf = Rule { ra: SAME, ..Rule::of(CFA_SP) };
        assert_eq!(
            arm(&ARM_SAVE),
            [(0x1000..0x1004, leaf), (0x1004..0x1020, above_stack_pointer(16)), (0x1020..0x1040, leaf)]
        );
        assert_eq!(arm(&[ARM_TARGET, ARM_SAVE].concat())[0], (0x1000..0x1008, leaf));
        assert_eq!(arm(&[0; 16]), [(0x1000..0x1040, leaf)]);
    }
}
