//! Unwind rules and rows: what the tables of a binary come down to.
//!
//! A text page of 64 KiB has a sorted list of [`Row`]s; each says from which offset on which [`Rule`] holds. Rules are
//! shared by all binaries: there are few distinct ones, however much code there is.

use core::mem::offset_of;

/// Bits of an address inside its text page. Pages are counted in file offsets, so that a table needs no knowledge of
/// where the kernel put the binary.
pub const TEXT_PAGE_BITS: u32 = 16;

/// Bytes of one text page.
pub const TEXT_PAGE_BYTES: u64 = 1 << TEXT_PAGE_BITS;

/// Most rows of one text page: one for each byte.
pub const MAX_PAGE_ROWS: usize = TEXT_PAGE_BYTES as usize;

/// A row: the offset in the text page from which on a rule holds (high half), and the rule's number (low half). Rows
/// of a page are sorted, the first one is at offset zero.
#[repr(transparent)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Row(pub u32);

impl Row {
    /// A row.
    pub const fn new(offset: u16, rule: u16) -> Self {
        Self((offset as u32) << 16 | rule as u32)
    }

    /// Offset in the text page.
    pub const fn offset(self) -> u16 {
        (self.0 >> 16) as u16
    }

    /// Number of the rule.
    pub const fn rule(self) -> u16 {
        self.0 as u16
    }
}

/// The number of the rule "no information": where a binary has no unwind information for a place, a frame-pointer step
/// is tried.
pub const RULE_NONE: u16 = 0;

/// `cfa`: nothing is known here; try the frame pointer.
pub const CFA_NONE: u8 = 0;
/// `cfa`: the entry of a process or thread; the stack ends here (`DW_CFA_undefined` of the return address).
pub const CFA_END: u8 = 1;
/// `cfa`: there is information, but of a kind that no rule can say.
pub const CFA_UNSUPPORTED: u8 = 2;
/// `cfa`: stack pointer + `cfa_offset`.
pub const CFA_SP: u8 = 3;
/// `cfa`: frame pointer + `cfa_offset`.
pub const CFA_FP: u8 = 4;
/// `cfa`: the register `register` (DWARF number) + `cfa_offset`. Known in the leaf and behind a signal frame; of the
/// callers only rbx is followed.
pub const CFA_REGISTER: u8 = 5;
/// `cfa`: a stub of the procedure linkage table: stack pointer + 8, and 8 more from offset `cfa_add` of its 16 bytes on.
pub const CFA_PLT: u8 = 6;
/// `cfa`: a signal frame; the kernel saved all registers `cfa_offset` bytes above the stack pointer, in the order of
/// `struct sigcontext`.
pub const CFA_SIGNAL: u8 = 7;
/// `cfa`: a function that switched to this stack from another; the frame pointer leads back there.
pub const CFA_SWITCH: u8 = 8;
/// `cfa`, added to [`CFA_SP`], [`CFA_FP`] or [`CFA_REGISTER`]: the word found there, + `cfa_add`.
pub const CFA_DEREF: u8 = 0x10;

/// `ra`: saved at CFA + 8 × `ra_offset`.
pub const SAVED: u8 = 0;
/// `ra`: in the register with the number `ra_offset`; `fp`: likewise with `fp_offset`.
pub const IN_REGISTER: u8 = 1;
/// `fp`: unchanged. `ra` of AArch64: still in x30.
pub const SAME: u8 = 2;
/// `fp`: saved at the frame pointer + 8 × `fp_offset`. GCC says it this way in functions that realign their stack, where
/// the distance to the CFA is known at run time only.
pub const AT_FP: u8 = 3;

/// How to find the caller of a frame. Offsets of saved registers are in words of 8 bytes.
///
/// DWARF register numbers: System V ABI AMD64 3.6.2; DWARF for the Arm 64-bit Architecture 4.1.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Rule {
    /// How to compute the canonical frame address: one of the `CFA_` numbers.
    pub cfa: u8,
    /// DWARF number of the register of [`CFA_REGISTER`].
    pub register: u8,
    /// Where the return address is: [`SAVED`], [`IN_REGISTER`] or [`SAME`].
    pub ra: u8,
    /// Where the caller's frame pointer is: [`SAVED`], [`IN_REGISTER`], [`SAME`] or [`AT_FP`].
    pub fp: u8,
    /// Bytes.
    pub cfa_offset: i32,
    /// Bytes added to a dereferenced CFA, or a PLT stub's threshold.
    pub cfa_add: i16,
    /// Words above the CFA, or a register number.
    pub ra_offset: i16,
    /// Words above the CFA or the frame pointer, or a register number.
    pub fp_offset: i16,
    /// Words above the CFA where the caller's rbx is saved; zero when it is unchanged.
    pub rbx_offset: i16,
}

impl Rule {
    /// "No information": what [`RULE_NONE`] stands for.
    pub const NONE: Self = Self::of(CFA_NONE);
    /// The end of every stack.
    pub const END: Self = Self::of(CFA_END);
    /// Information that no rule can say.
    pub const UNSUPPORTED: Self = Self::of(CFA_UNSUPPORTED);

    /// A rule without offsets.
    pub const fn of(cfa: u8) -> Self {
        Self {
            cfa,
            register: 0,
            ra: SAVED,
            fp: SAME,
            cfa_offset: 0,
            cfa_add: 0,
            ra_offset: 0,
            fp_offset: 0,
            rbx_offset: 0,
        }
    }
}

const _: () = {
    assert!(size_of::<Row>() == 4);
    assert!(size_of::<Rule>() == 16);
    assert!(offset_of!(Rule, cfa_offset) == 4 && offset_of!(Rule, rbx_offset) == 14);
};

/// The rows of a slab, by index.
pub trait Rows {
    /// Row `index`, or any other value past the end.
    fn row(&self, index: u64) -> u64;

    /// The same value. The BPF side hides it from the compiler, which otherwise makes branches of arithmetic: two paths a
    /// round are 65,536 for the verifier.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "also compiled into BPF programs")]
    fn hide(&self, value: u64) -> u64 {
        value
    }
}

/// The row that holds at `offset` of the page whose rows lie from `start` to `start + last`; `top_step` is the largest power
/// of two that is not above `last`, or zero.
///
/// Without branches on data: the verifier sees one path through each round, and the processor mispredicts nothing. The
/// index counts from the slab's start because the verifier knows nothing of `start`; one that began at zero would be a
/// different number in each round, and each a state of its own.
#[inline(always)]
#[expect(
    clippy::inline_always,
    reason = "a call costs the BPF verifier a frame of its own and a spilled state"
)]
pub fn search(rows: &impl Rows, start: u64, last: u64, top_step: u64, offset: u64) -> Row {
    let end = start.wrapping_add(last);
    let mut at = start;
    let mut step = top_step;
    for _ in 0..TEXT_PAGE_BITS {
        let next = at.wrapping_add(step);
        // What is read past the end is another page's, and refused as `outside`.
        let found = rows.row(next) >> 16;
        let outside = rows.hide(end.wrapping_sub(next)) as i64 >> 63;
        let behind = rows.hide(offset.wrapping_sub(found)) as i64 >> 63;
        at = at.wrapping_add(step & !(outside | behind) as u64);
        step >>= 1;
    }
    Row(rows.row(at) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    impl Rows for Vec<Row> {
        fn row(&self, index: u64) -> u64 {
            // What lies behind a page's rows in the pool is another page's.
            self.get(index as usize).map_or(0, |row| u64::from(row.0))
        }
    }

    proptest::proptest! {
        #[test]
        fn the_search_finds_what_a_scan_finds(
            offsets in proptest::collection::btree_set(1u16.., 0..300),
            probes in proptest::collection::vec(proptest::num::u16::ANY, 1..50),
        ) {
            let rows: Vec<Row> = core::iter::once(0).chain(offsets).enumerate()
                .map(|(number, offset)| Row::new(offset, number as u16)).collect();
            let last = rows.len() as u64 - 1;
            let top_step = if last == 0 { 0 } else { 1 << last.ilog2() };
            for probe in probes {
                let scanned = rows.iter().rev().find(|row| row.offset() <= probe).unwrap();
                proptest::prop_assert_eq!(search(&rows, 0, last, top_step, u64::from(probe)), *scanned);
            }
        }
    }
}
