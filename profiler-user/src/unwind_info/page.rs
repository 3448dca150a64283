//! The table of one text page in the making: a rule for each byte, then rows.
//!
//! In: ranges of addresses and the rule that holds in each. Out: a [`PageTable`]. Painting bytes instead of merging
//! ranges lets the order of calls say what goes before what, and no input can make it slow or large.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;

use object::elf::PT_LOAD;
use profiler_common::unwind::{CFA_UNSUPPORTED, Row, Rule, TEXT_PAGE_BITS, TEXT_PAGE_BYTES};

use super::{PageError, PageTable};
use crate::object::{Elf, Segment, limits};

/// A part of a text page that is code of one segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    /// Where it begins in the page.
    offset: u64,
    /// Addresses in the object's own address space.
    pub(super) virt: Range<u64>,
    /// Addresses of the whole segment, as far as it has bytes in the file.
    pub(super) segment: Range<u64>,
}

impl Piece {
    /// The part of an address range that lies in this piece, as offsets in the page.
    fn offsets(&self, virt: &Range<u64>) -> Range<usize> {
        let start = virt.start.max(self.virt.start);
        let end = virt.end.min(self.virt.end);
        if start >= end {
            return 0..0;
        }
        let from = self.offset + (start - self.virt.start);
        from as usize..(from + (end - start)) as usize
    }
}

fn code_segments(elf: &Elf) -> impl Iterator<Item = &Segment> {
    elf.segments().iter().filter(|segment| segment.kind == PT_LOAD && segment.executable)
}

/// True when an address is code with bytes in the file.
pub(super) fn is_code(elf: &Elf, virt_addr: u64) -> bool {
    code_segments(elf).any(|segment| {
        virt_addr.checked_sub(segment.virt_addr).is_some_and(|delta| delta < segment.file_size)
    })
}

/// Numbers of the text pages that hold code, sorted.
pub(super) fn code_pages(elf: &Elf) -> Vec<u64> {
    let pages = code_segments(elf).filter(|segment| segment.file_size > 0).flat_map(|segment| {
        // A header may claim more than there is.
        let end = segment.file_offset.saturating_add(segment.file_size).min(elf.source().len());
        segment.file_offset >> TEXT_PAGE_BITS..end.div_ceil(TEXT_PAGE_BYTES)
    });
    pages.collect::<BTreeSet<u64>>().into_iter().collect()
}

/// The code of a text page.
pub(super) fn pieces(elf: &Elf, number: u64) -> Vec<Piece> {
    let Some(start) = number.checked_mul(TEXT_PAGE_BYTES) else { return Vec::new() };
    let end = start.saturating_add(TEXT_PAGE_BYTES);
    let piece = |segment: &Segment| {
        let from = segment.file_offset.max(start);
        let to = segment.file_offset.checked_add(segment.file_size)?.min(end);
        let virt_start = segment.virt_addr.checked_add(from.checked_sub(segment.file_offset)?)?;
        let virt_end = virt_start.checked_add(to.checked_sub(from)?)?;
        let segment = segment.virt_addr..segment.virt_addr.checked_add(segment.file_size)?;
        (from < to).then(|| Piece { offset: from - start, virt: virt_start..virt_end, segment })
    };
    code_segments(elf).filter_map(piece).take(limits::PAGE_PIECES).collect()
}

/// Stands for "no rule yet".
const UNPAINTED: u16 = u16::MAX;

/// A page in the making.
pub(super) struct Page {
    painted: Vec<u16>,
    rules: Vec<Rule>,
    numbers: HashMap<Rule, u16>,
}

impl Page {
    /// A page of which nothing is known.
    pub(super) fn new() -> Self {
        Self {
            painted: vec![UNPAINTED; TEXT_PAGE_BYTES as usize],
            rules: Vec::new(),
            numbers: HashMap::new(),
        }
    }

    /// Says which rule holds in a range of addresses, as far as the range lies in the piece and has none yet.
    pub(super) fn fill(&mut self, piece: &Piece, virt: &Range<u64>, rule: Rule) -> Result<(), PageError> {
        let number = self.number(rule)?;
        if let Some(bytes) = self.painted.get_mut(piece.offsets(virt)) {
            bytes.iter_mut().filter(|byte| **byte == UNPAINTED).for_each(|byte| *byte = number);
        }
        Ok(())
    }

    /// Says which rule holds in a range of addresses, whatever was said before.
    pub(super) fn overwrite(&mut self, piece: &Piece, virt: &Range<u64>, rule: Rule) {
        // A page that is full of rules keeps those it has.
        let Ok(number) = self.number(rule) else { return };
        if let Some(bytes) = self.painted.get_mut(piece.offsets(virt)) {
            bytes.fill(number);
        }
    }

    fn number(&mut self, rule: Rule) -> Result<u16, PageError> {
        if let Some(number) = self.numbers.get(&rule) {
            return Ok(*number);
        }
        if self.rules.len() >= limits::PAGE_RULES {
            return Err(PageError::Limit("rules of one page"));
        }
        let number = self.rules.len() as u16;
        self.rules.push(rule);
        self.numbers.insert(rule, number);
        Ok(number)
    }

    /// The rows, with the rules that they really use.
    pub(super) fn into_table(self) -> PageTable {
        const _: () = assert!(TEXT_PAGE_BITS == 16, "an offset has 16 bits");
        let mut table = PageTable { rows: Vec::new(), rules: Vec::new(), unsupported: 0 };
        let mut renumbered: HashMap<Rule, u16> = HashMap::new();
        let mut last = None;
        for (offset, number) in self.painted.iter().enumerate() {
            if last == Some(*number) {
                continue;
            }
            let before = last.and_then(|last: u16| self.rules.get(usize::from(last))).copied();
            let is_first = last.replace(*number).is_none();
            let rule = self.rules.get(usize::from(*number)).copied().unwrap_or(Rule::NONE);
            // The rule "none" that somebody painted and no rule at all are one.
            if !is_first && before.unwrap_or(Rule::NONE) == rule {
                continue;
            }
            let next = renumbered.len() as u16;
            let local = *renumbered.entry(rule).or_insert_with(|| {
                table.rules.push(rule);
                next
            });
            table.unsupported += u32::from(rule.cfa == CFA_UNSUPPORTED);
            table.rows.push(Row::new(offset as u16, local));
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use profiler_common::unwind::{CFA_FP, CFA_SP};

    use super::*;

    #[test]
    fn the_first_rule_stays_unless_it_is_overwritten() {
        let virt = 0x40_0100..0x40_0200;
        let piece = Piece { offset: 0x100, segment: virt.clone(), virt };
        let (first, second) = (Rule::of(CFA_SP), Rule::of(CFA_FP));
        let mut page = Page::new();
        page.fill(&piece, &(0x40_0000..0x40_0110), first).unwrap();
        page.fill(&piece, &(0x40_0108..0x40_0120), second).unwrap();
        page.fill(&piece, &(0x50_0000..0x60_0000), Rule::END).unwrap();
        page.fill(&piece, &(0x40_0130..0x40_0138), Rule::NONE).unwrap();
        page.overwrite(&piece, &(0x40_01ff..u64::MAX), Rule::UNSUPPORTED);
        let table = page.into_table();
        let rows: Vec<_> =
            table.rows.iter().map(|row| (row.offset(), table.rules[usize::from(row.rule())])).collect();
        assert_eq!(
            rows,
            [
                (0, Rule::NONE),
                (0x100, first),
                (0x110, second),
                (0x120, Rule::NONE),
                (0x1ff, Rule::UNSUPPORTED),
                (0x200, Rule::NONE)
            ]
        );
        assert_eq!((table.unsupported, table.rules.len()), (1, 4));
        assert_eq!(
            [0, 0x10f, 0x110, 0xffff].map(|at| table.rule_at(at)),
            [Rule::NONE, first, second, Rule::NONE]
        );
        assert!(Page::new().into_table().is_empty() && !table.is_empty());
    }
}
