//! One row of call frame information, as a rule.
//!
//! In: a row that gimli evaluated. Out: the [`Rule`] that says the same of the frame address, the return address, the
//! frame pointer and rbx; or one that says why there is none.

use gimli::{
    CfaRule, CommonInformationEntry, Reader, Register, RegisterRule, UnwindExpression, UnwindSection,
    UnwindTableRow,
};
use profiler_common::unwind::{
    AT_FP, Arch, CFA_DEREF, CFA_FP, CFA_PLT, CFA_REGISTER, CFA_SIGNAL, CFA_SP, IN_REGISTER, Rule, SAME, SAVED,
};

use super::expression::Shape;

/// DWARF numbers: System V ABI AMD64, figure 3.36. The return address has a column that stands for rip.
const X86_RBX: u16 = 3;
const X86_RBP: u16 = 6;
pub(super) const X86_RSP: u16 = 7;
pub(super) const X86_RA: u16 = 16;

/// DWARF numbers: DWARF for the Arm 64-bit Architecture 4.1.
const ARM_FP: u16 = 29;
const ARM_LR: u16 = 30;
const ARM_SP: u16 = 31;

/// Bytes from r8, where the kernel's `struct sigcontext` of x86_64 begins, to its rip
/// (arch/x86/include/uapi/asm/sigcontext.h).
const SIGCONTEXT_RIP: i64 = 128;

/// What holds for all rows of one function.
pub(super) struct Function<'a, R: Reader, S> {
    pub(super) arch: Arch,
    pub(super) section: &'a S,
    pub(super) cie: &'a CommonInformationEntry<R>,
    pub(super) is_signal_frame: bool,
    /// Compiled by Go, whose information has no rule for the frame pointer.
    pub(super) is_go: bool,
}

impl<R: Reader, S: UnwindSection<R>> Function<'_, R, S> {
    /// The rule of a row.
    pub(super) fn rule(&self, row: &UnwindTableRow<R::Offset>) -> Rule {
        let return_address = row.register(self.cie.return_address_register());
        if matches!(return_address, Some(RegisterRule::Undefined)) {
            return Rule::END;
        }
        if self.is_signal_frame && matches!(self.arch, Arch::X86_64) {
            return self.signal_frame(return_address.as_ref()).unwrap_or(Rule::UNSUPPORTED);
        }
        self.ordinary(row, return_address.as_ref()).unwrap_or(Rule::UNSUPPORTED)
    }

    /// The C library says where the kernel saved each register; where it saved rip tells the place of all.
    fn signal_frame(&self, return_address: Option<&RegisterRule<R::Offset>>) -> Option<Rule> {
        let Some(RegisterRule::Expression(expression)) = return_address else { return None };
        let Shape::Register { register: X86_RSP, offset } = self.shape(*expression) else { return None };
        let saved = offset.checked_sub(SIGCONTEXT_RIP)?;
        Some(Rule { cfa_offset: i32::try_from(saved).ok()?, ..Rule::of(CFA_SIGNAL) })
    }

    fn ordinary(
        &self,
        row: &UnwindTableRow<R::Offset>,
        return_address: Option<&RegisterRule<R::Offset>>,
    ) -> Option<Rule> {
        // The caller's stack pointer is the frame address, except where a function changes to another context.
        let stack_pointer = row.register(Register(self.stack_pointer()));
        if !matches!(stack_pointer, None | Some(RegisterRule::ValOffset(0))) {
            return None;
        }
        let mut rule = Rule::of(0);
        self.frame_address(row.cfa(), &mut rule)?;
        let base = self.cfa_base(row.cfa());

        (rule.ra, rule.ra_offset) = match return_address {
            Some(RegisterRule::Offset(bytes)) => (SAVED, words(*bytes)?),
            None | Some(RegisterRule::SameValue) if matches!(self.arch, Arch::Aarch64) => {
                self.in_register(self.cie.return_address_register())?
            }
            Some(RegisterRule::Register(register)) => self.in_register(*register)?,
            Some(RegisterRule::Expression(expression)) => (SAVED, self.words_above(base, *expression)?),
            _ => return None,
        };
        let frame_pointer = row.register(Register(self.frame_pointer()));
        (rule.fp, rule.fp_offset) = match frame_pointer {
            None | Some(RegisterRule::SameValue | RegisterRule::Undefined) => (SAME, 0),
            Some(RegisterRule::Offset(bytes)) => (SAVED, words(bytes)?),
            Some(RegisterRule::Register(register)) if register.0 == self.frame_pointer() => (SAME, 0),
            Some(RegisterRule::Register(register)) => (IN_REGISTER, self.general(register)?),
            Some(RegisterRule::Expression(expression)) => match self.shape(expression) {
                Shape::Register { register, offset } if register == self.frame_pointer() => {
                    (AT_FP, words(offset)?)
                }
                _ => (SAVED, self.words_above(base, expression)?),
            },
            Some(_) => return None,
        };
        if self.is_go && rule.fp == SAME && rule.ra == SAVED && self.has_go_frame(&rule) {
            (rule.fp, rule.fp_offset) = (SAVED, rule.ra_offset.checked_sub(1)?);
        }
        if matches!(self.arch, Arch::X86_64)
            && let Some(RegisterRule::Offset(bytes)) = row.register(Register(X86_RBX))
        {
            rule.rbx_offset = words(bytes)?;
        }
        Some(rule)
    }

    /// Go's frames have the caller's frame pointer in the word below the return address, on both processors, once
    /// they are larger than what the call itself pushed (cmd/internal/obj/x86/obj6.go, cmd/internal/obj/arm64/obj7.go).
    fn has_go_frame(&self, rule: &Rule) -> bool {
        match self.arch {
            Arch::X86_64 => rule.cfa == CFA_SP && rule.cfa_offset > 8,
            Arch::Aarch64 => rule.cfa == CFA_SP,
        }
    }

    fn frame_address(&self, cfa: &CfaRule<R::Offset>, rule: &mut Rule) -> Option<()> {
        let (register, offset) = match cfa {
            // What gimli has where nothing defined the frame address.
            CfaRule::RegisterAndOffset { register: Register(0), offset: 0 } => return None,
            CfaRule::RegisterAndOffset { register, offset } => (register.0, *offset),
            CfaRule::Expression(expression) => match self.shape(*expression) {
                Shape::Register { register, offset } => (register, offset),
                Shape::Word { register, offset, add } => {
                    rule.cfa = CFA_DEREF;
                    rule.cfa_add = i16::try_from(add).ok()?;
                    (register, offset)
                }
                Shape::Plt { threshold } if matches!(self.arch, Arch::X86_64) => {
                    rule.cfa = CFA_PLT;
                    // Above 15 no byte counts, which the largest number says as well.
                    rule.cfa_add = threshold.min(16) as i16;
                    return Some(());
                }
                Shape::Plt { .. } | Shape::Other => return None,
            },
        };
        rule.cfa |= if register == self.stack_pointer() {
            CFA_SP
        } else if register == self.frame_pointer() {
            CFA_FP
        } else {
            rule.register = self.general(Register(register))? as u8;
            CFA_REGISTER
        };
        rule.cfa_offset = i32::try_from(offset).ok()?;
        Some(())
    }

    /// The register and offset that the frame address is the sum of.
    fn cfa_base(&self, cfa: &CfaRule<R::Offset>) -> Option<(u16, i64)> {
        match cfa {
            CfaRule::RegisterAndOffset { register, offset } => Some((register.0, *offset)),
            CfaRule::Expression(expression) => match self.shape(*expression) {
                Shape::Register { register, offset } => Some((register, offset)),
                _ => None,
            },
        }
    }

    /// A place that an expression names, as words above the frame address: both must count from the same register.
    fn words_above(&self, base: Option<(u16, i64)>, expression: UnwindExpression<R::Offset>) -> Option<i16> {
        let (base, cfa_offset) = base?;
        match self.shape(expression) {
            Shape::Register { register, offset } if register == base => {
                words(offset.checked_sub(cfa_offset)?)
            }
            _ => None,
        }
    }

    fn shape(&self, expression: UnwindExpression<R::Offset>) -> Shape {
        expression
            .get(self.section)
            .map_or(Shape::Other, |expression| Shape::of(expression, self.cie.encoding()))
    }

    fn frame_pointer(&self) -> u16 {
        match self.arch {
            Arch::X86_64 => X86_RBP,
            Arch::Aarch64 => ARM_FP,
        }
    }

    fn stack_pointer(&self) -> u16 {
        match self.arch {
            Arch::X86_64 => X86_RSP,
            Arch::Aarch64 => ARM_SP,
        }
    }

    /// A return address in a register. Not all functions of AArch64 get theirs in x30: glibc's resolvers of thread-local
    /// variables are called with another one.
    fn in_register(&self, register: Register) -> Option<(u8, i16)> {
        match (self.arch, register.0) {
            (Arch::Aarch64, ARM_LR) => Some((SAME, 0)),
            _ => Some((IN_REGISTER, self.general(register)?)),
        }
    }

    /// The number of a general register, as a rule says it.
    fn general(&self, register: Register) -> Option<i16> {
        let last = match self.arch {
            Arch::X86_64 => X86_RA - 1,
            Arch::Aarch64 => ARM_LR,
        };
        (register.0 <= last).then_some(register.0 as i16)
    }
}

/// Bytes as words of eight.
fn words(bytes: i64) -> Option<i16> {
    (bytes % 8 == 0).then(|| i16::try_from(bytes / 8).ok())?
}
