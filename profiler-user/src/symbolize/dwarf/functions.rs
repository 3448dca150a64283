//! Functions and inlined calls: one pass over a unit's entries for a sorted batch of addresses.
//!
//! In: a unit and the addresses that it holds. Out: for each address the entry of its function and of the calls inlined
//! there. Entries are read in file order, parents before children, so the calls of an address come outermost first.

use gimli::{AttributeValue, Dwarf, EntriesRaw, Result, Unit, UnitOffset, constants};

use super::super::Names;
use super::lines::{Lines, Row};
use super::unit::{end_address, indexes};
use super::units::{EntryName, Units};
use super::{Chain, Detail, DwarfFrame, FunctionName, INLINE_DEPTH};
use crate::object::{SectionReader, Work};

type Reader<'a> = SectionReader<'a>;

/// What a unit knows about its addresses.
pub(super) struct Functions<'u, 'a> {
    unit: &'u Unit<Reader<'a>>,
    found: Vec<Hit>,
}

#[derive(Debug, Clone, Default)]
struct Hit {
    function: Option<UnitOffset<u64>>,
    /// Outermost first.
    inlined: Vec<Call>,
}

/// An inlined call: what was called, and where the call is written.
#[derive(Debug, Clone, Copy)]
struct Call {
    entry: UnitOffset<u64>,
    at: Option<Row>,
}

/// An entry around the current one.
#[derive(Debug, Clone, Copy)]
struct Scope {
    depth: isize,
    entry: UnitOffset<u64>,
    /// None for a function.
    call: Option<Call>,
}

/// The attributes of a function or inlined call that matter here.
struct Code<'a> {
    low_pc: Option<AttributeValue<Reader<'a>>>,
    high_pc: Option<AttributeValue<Reader<'a>>>,
    ranges: Option<AttributeValue<Reader<'a>>>,
    sibling: Option<UnitOffset<u64>>,
    call_file: Option<u64>,
    call_line: Option<u32>,
}

impl<'u, 'a> Functions<'u, 'a> {
    /// Reads the unit.
    pub(super) fn of(
        dwarf: &Dwarf<Reader<'a>>,
        unit: &'u Unit<Reader<'a>>,
        addresses: &[u64],
        work: &Work,
    ) -> Self {
        let mut functions = Self { unit, found: vec![Hit::default(); addresses.len()] };
        // Damage further on does not take away what was found before it.
        let _ = functions.walk(dwarf, addresses, work);
        functions
    }

    fn walk(&mut self, dwarf: &Dwarf<Reader<'a>>, addresses: &[u64], work: &Work) -> Result<()> {
        let unit = self.unit;
        let mut entries = unit.entries_raw(None)?;
        // Depth at which `entries` was started anew after skipping.
        let mut base = 0;
        // The calls and functions around the current entry, innermost last. Functions nest too: closures, local classes.
        let mut around: Vec<Scope> = Vec::new();
        while !entries.is_empty() {
            let (offset, depth) = (entries.next_offset(), base + entries.next_depth());
            let Some(abbreviation) = entries.read_abbreviation()? else { continue };
            // For every entry: a block after a nested declaration is no part of that declaration.
            while around.last().is_some_and(|scope| scope.depth >= depth) {
                around.pop();
            }
            let tag = abbreviation.tag();
            let is_call = tag == constants::DW_TAG_inlined_subroutine;
            if !is_call && tag != constants::DW_TAG_subprogram {
                entries.skip_attributes(abbreviation.attributes())?;
                continue;
            }
            let code = Code::read(&mut entries, abbreviation.attributes())?;
            let inside = code.addresses(dwarf, unit, addresses, work)?;
            let call = is_call.then(|| Call { entry: offset, at: code.call_site() });
            around.push(Scope { depth, entry: offset, call });
            if is_call {
                work.charge((inside.len() * around.len()) as u64)?;
                self.add_call(&inside, &around);
            } else {
                self.add_function(&inside, offset);
            }
            // Most functions hold none of the addresses, and most of a unit's entries are inside functions. A call that
            // holds none is different: gcc writes empty ranges for calls around others that do.
            if inside.is_empty()
                && !is_call
                && abbreviation.has_children()
                && let Some(sibling) = code.sibling.filter(|sibling| *sibling > entries.next_offset())
            {
                entries = unit.entries_raw(Some(sibling))?;
                base = depth;
            }
        }
        Ok(())
    }

    /// The first function to claim an address keeps it: identical functions that a linker folded into one all do.
    fn add_function(&mut self, inside: &[usize], entry: UnitOffset<u64>) {
        for index in inside {
            self.found[*index].function.get_or_insert(entry);
        }
    }

    /// Notes the innermost of the calls `around` for the addresses inside it, with all calls that it is nested in. Where
    /// calls beside each other claim the same address, the first of the deepest keeps it.
    fn add_call(&mut self, inside: &[usize], around: &[Scope]) {
        let Some(function) = around.iter().rposition(|scope| scope.call.is_none()) else { return };
        let calls = &around[function + 1..];
        let calls = &calls[..calls.len().min(INLINE_DEPTH)];
        for index in inside {
            let hit = &mut self.found[*index];
            if hit.function == Some(around[function].entry) && hit.inlined.len() < calls.len() {
                hit.inlined.clear();
                hit.inlined.extend(calls.iter().filter_map(|scope| scope.call));
            }
        }
    }

    /// The frames of the address at `position`, whose line table row is `row`.
    pub(super) fn chain(
        &self,
        position: usize,
        row: Option<Row>,
        units: &Units<'_, 'a>,
        lines: &mut Lines<'_, '_, 'a>,
        detail: Detail,
        names: &mut Names,
    ) -> Chain {
        let hit = &self.found[position];
        if hit.function.is_none() && row.is_none() {
            return Chain::new();
        }
        let mut chain = Chain::with_capacity(hit.inlined.len() + 1);
        let mut at = row;
        let mut frame = |entry: Option<UnitOffset<u64>>, at: Option<Row>| DwarfFrame {
            function: entry.and_then(|entry| units.name(self.unit, entry).ok().flatten()).map(|name| {
                match name {
                    EntryName::Linkage(name) => FunctionName::Full(names.function(&name)),
                    EntryName::Plain(name) => FunctionName::Plain(names.function(&name)),
                }
            }),
            file: at.and_then(|row| lines.file(row.file, names)),
            line: at.and_then(|row| row.line),
        };
        for call in hit.inlined.iter().rev() {
            if detail == Detail::Inlines {
                chain.push(frame(Some(call.entry), at));
            }
            at = call.at;
        }
        chain.push(frame(hit.function, at));
        chain
    }
}

impl<'a> Code<'a> {
    fn read(
        entries: &mut EntriesRaw<'_, Reader<'a>>,
        specs: &[gimli::AttributeSpecification],
    ) -> Result<Self> {
        let mut code = Self {
            low_pc: None,
            high_pc: None,
            ranges: None,
            sibling: None,
            call_file: None,
            call_line: None,
        };
        for spec in specs {
            let attribute = entries.read_attribute(*spec)?;
            match attribute.name() {
                constants::DW_AT_low_pc => code.low_pc = Some(attribute.value()),
                constants::DW_AT_high_pc => code.high_pc = Some(attribute.value()),
                constants::DW_AT_ranges => code.ranges = Some(attribute.value()),
                constants::DW_AT_sibling => {
                    if let AttributeValue::UnitRef(offset) = attribute.value() {
                        code.sibling = Some(offset);
                    }
                }
                constants::DW_AT_call_file => {
                    if let AttributeValue::FileIndex(index) = attribute.value() {
                        code.call_file = Some(index);
                    }
                }
                constants::DW_AT_call_line => {
                    code.call_line = attribute.udata_value().and_then(|line| u32::try_from(line).ok());
                }
                _ => {}
            }
        }
        Ok(code)
    }

    fn call_site(&self) -> Option<Row> {
        self.call_file.map(|file| Row { file, line: self.call_line.filter(|line| *line != 0) })
    }

    /// Positions of the sorted `addresses` inside this code, each once.
    fn addresses(
        &self,
        dwarf: &Dwarf<Reader<'a>>,
        unit: &Unit<Reader<'a>>,
        addresses: &[u64],
        work: &Work,
    ) -> Result<Vec<usize>> {
        let mut inside = Vec::new();
        if let Some(ranges) = &self.ranges {
            if let Ok(Some(mut ranges)) = dwarf.attr_ranges(unit, *ranges) {
                while let Some(range) = ranges.next()? {
                    let part = indexes(addresses, range.begin, range.end);
                    work.charge(1 + part.len() as u64)?;
                    inside.extend(part);
                }
            }
            inside.sort_unstable();
            inside.dedup();
        } else if let (Some(low_pc), Some(high_pc)) = (self.low_pc, self.high_pc)
            && let Ok(Some(low_pc)) = dwarf.attr_address(unit, low_pc)
        {
            inside.extend(indexes(addresses, low_pc, end_address(dwarf, unit, low_pc, high_pc)));
            work.charge(1 + inside.len() as u64)?;
        }
        Ok(inside)
    }
}
