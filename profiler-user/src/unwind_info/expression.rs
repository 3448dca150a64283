//! The few DWARF expressions that compilers and linkers really write into unwind information.
//!
//! In: an expression. Out: which of the known shapes it has. Nothing is evaluated: what has another shape cannot be
//! said by a rule.

use gimli::{Encoding, Expression, Operation, Reader};

use super::translate::{X86_RA, X86_RSP};

/// Operations of the longest known shape, that of PLT stubs.
const LONGEST: usize = 9;

/// A shape that a rule can say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// A register + a constant.
    Register { register: u16, offset: i64 },
    /// The word at a register + `offset`, + `add`.
    Word { register: u16, offset: i64, add: i64 },
    /// Stack pointer + 8, and 8 more from byte `threshold` of each 16 on: what binutils writes for `.plt`.
    Plt { threshold: u64 },
    /// Anything else.
    Other,
}

impl Shape {
    /// The shape of an expression.
    pub(super) fn of<R: Reader>(expression: Expression<R>, encoding: Encoding) -> Self {
        let mut operations = Vec::with_capacity(LONGEST);
        let mut rest = expression.operations(encoding);
        loop {
            match rest.next() {
                Ok(Some(operation)) if operations.len() < LONGEST => operations.push(operation),
                Ok(None) => return Self::of_operations(&operations),
                _ => return Self::Other,
            }
        }
    }

    fn of_operations<R: Reader>(operations: &[Operation<R>]) -> Self {
        use Operation::{And, Deref, Ge, Plus, RegisterOffset, Shl, UnsignedConstant};

        match operations {
            [
                RegisterOffset { register: sp, offset: 8, .. },
                RegisterOffset { register: ip, offset: 0, .. },
                UnsignedConstant { value: 15 },
                And,
                UnsignedConstant { value: threshold },
                Ge,
                UnsignedConstant { value: 3 },
                Shl,
                Plus,
            ] if sp.0 == X86_RSP && ip.0 == X86_RA => Self::Plt { threshold: *threshold },
            [RegisterOffset { register, offset, .. }, Deref { size: 8, space: false, .. }, rest @ ..] => {
                match constant(rest) {
                    Some(add) => Self::Word { register: register.0, offset: *offset, add },
                    None => Self::Other,
                }
            }
            [RegisterOffset { register, offset, .. }, rest @ ..] => {
                match constant(rest).and_then(|add| offset.checked_add(add)) {
                    Some(offset) => Self::Register { register: register.0, offset },
                    None => Self::Other,
                }
            }
            _ => Self::Other,
        }
    }
}

/// What operations add that only add constants; none when they do anything else.
fn constant<R: Reader>(mut operations: &[Operation<R>]) -> Option<i64> {
    use Operation::{Plus, PlusConstant, SignedConstant, UnsignedConstant};

    let mut sum = 0_i64;
    while !operations.is_empty() {
        let value;
        (value, operations) = match operations {
            [PlusConstant { value }, rest @ ..] | [UnsignedConstant { value }, Plus, rest @ ..] => {
                (i64::try_from(*value).ok()?, rest)
            }
            [SignedConstant { value }, Plus, rest @ ..] => (*value, rest),
            _ => return None,
        };
        sum = sum.checked_add(value)?;
    }
    Some(sum)
}

#[cfg(test)]
mod tests {
    use gimli::{EndianSlice, Format, LittleEndian};

    use super::*;

    fn shape(bytes: &[u8]) -> Shape {
        let encoding = Encoding { address_size: 8, format: Format::Dwarf32, version: 4 };
        Shape::of(Expression(EndianSlice::new(bytes, LittleEndian)), encoding)
    }

    #[test]
    fn what_compilers_write_is_known() {
        // The opcodes: breg0 0x70, deref 0x06, plus_uconst 0x23, lit0 0x30, plus 0x22 (DWARF 5, section 7.7.1).
        assert_eq!(shape(&[0x76, 0]), Shape::Register { register: 6, offset: 0 });
        assert_eq!(shape(&[0x77, 0xa8, 0x01]), Shape::Register { register: 7, offset: 168 });
        assert_eq!(shape(&[0x76, 0x78, 0x06]), Shape::Word { register: 6, offset: -8, add: 0 });
        assert_eq!(shape(&[0x77, 0x10, 0x06, 0x23, 8]), Shape::Word { register: 7, offset: 16, add: 8 });
        assert_eq!(shape(&[0x77, 0x10, 0x06, 0x38, 0x22]), Shape::Word { register: 7, offset: 16, add: 8 });
        assert_eq!(
            shape(&[0x77, 8, 0x80, 0, 0x3f, 0x1a, 0x3b, 0x2a, 0x33, 0x24, 0x22]),
            Shape::Plt { threshold: 11 }
        );
    }

    #[test]
    fn what_is_not_known_says_so() {
        // OpenSSL's `rsp + 8 + r9 * 8`; a dereferenced sum; a cut-off operand; nothing; more than any shape.
        assert_eq!(shape(&[0x77, 8, 0x79, 0, 0x38, 0x1e, 0x22, 0x06, 0x23, 8]), Shape::Other);
        assert_eq!(shape(&[0x77, 8, 0x06, 0x06]), Shape::Other);
        assert_eq!(shape(&[0x77]), Shape::Other);
        assert_eq!(shape(&[]), Shape::Other);
        assert_eq!(
            shape(&[0x76, 0, 0x23, 1].iter().copied().chain([0x23, 1].repeat(9)).collect::<Vec<_>>()),
            Shape::Other
        );
    }
}
