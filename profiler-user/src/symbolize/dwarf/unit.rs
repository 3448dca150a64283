//! One compilation unit: its root entry, and which of the addresses it holds.
//!
//! In: a unit header with its abbreviations. Out: a [`Root`], with a gimli unit that lacks its line program: parsing
//! the programs of all units takes most of the time in other readers, and few are needed.

use std::sync::Arc;

use gimli::{
    Abbreviations, AttributeValue, DebugAddrBase, DebugLineOffset, Dwarf, Result, Unit, UnitHeader, constants,
};

use crate::object::{SectionReader, Work};

type Reader<'a> = SectionReader<'a>;

/// A unit's root entry.
pub(super) struct Root<'a> {
    pub(super) unit: Unit<Reader<'a>>,
    pub(super) line_program: Option<DebugLineOffset<u64>>,
    name: Option<AttributeValue<Reader<'a>>>,
    comp_dir: Option<AttributeValue<Reader<'a>>>,
    high_pc: Option<AttributeValue<Reader<'a>>>,
    ranges: Option<AttributeValue<Reader<'a>>>,
    has_low_pc: bool,
}

impl<'a> Root<'a> {
    /// Reads the root entry; none for units that hold no code (types, and parts that other units share).
    pub(super) fn read(
        dwarf: &Dwarf<Reader<'a>>,
        header: UnitHeader<Reader<'a>>,
        abbreviations: Arc<Abbreviations>,
    ) -> Result<Option<Self>> {
        let mut root = Self {
            unit: bare_unit(header, abbreviations),
            line_program: None,
            name: None,
            comp_dir: None,
            high_pc: None,
            ranges: None,
            has_low_pc: false,
        };
        let abbreviations = Arc::clone(&root.unit.abbreviations);
        let mut entries = root.unit.header.entries_raw(&abbreviations, None)?;
        let Some(abbreviation) = entries.read_abbreviation()? else { return Ok(None) };
        if !matches!(abbreviation.tag(), constants::DW_TAG_compile_unit | constants::DW_TAG_skeleton_unit) {
            return Ok(None);
        }
        let mut low_pc = None;
        for spec in abbreviation.attributes() {
            let attribute = entries.read_attribute(*spec)?;
            match (attribute.name(), attribute.value()) {
                (constants::DW_AT_stmt_list, AttributeValue::DebugLineRef(offset)) => {
                    root.line_program = Some(offset);
                }
                (constants::DW_AT_str_offsets_base, AttributeValue::DebugStrOffsetsBase(base)) => {
                    root.unit.str_offsets_base = base;
                }
                (
                    constants::DW_AT_addr_base | constants::DW_AT_GNU_addr_base,
                    AttributeValue::DebugAddrBase(base),
                ) => root.unit.addr_base = base,
                (
                    constants::DW_AT_rnglists_base | constants::DW_AT_GNU_ranges_base,
                    AttributeValue::DebugRngListsBase(base),
                ) => root.unit.rnglists_base = base,
                (constants::DW_AT_name, value) => root.name = Some(value),
                (constants::DW_AT_comp_dir, value) => root.comp_dir = Some(value),
                (constants::DW_AT_low_pc, value) => low_pc = Some(value),
                (constants::DW_AT_high_pc, value) => root.high_pc = Some(value),
                (constants::DW_AT_ranges, value) => root.ranges = Some(value),
                _ => {}
            }
        }
        // An indexed address needs the base, which may come after it.
        let low_pc = low_pc.and_then(|value| dwarf.attr_address(&root.unit, value).ok().flatten());
        root.has_low_pc = low_pc.is_some();
        root.unit.low_pc = low_pc.unwrap_or(0);
        Ok(Some(root))
    }

    /// Indexes of the `addresses` (sorted) inside this unit, sorted. A unit that does not say what it holds may hold
    /// any of them.
    pub(super) fn holds(
        &self,
        dwarf: &Dwarf<Reader<'a>>,
        addresses: &[u64],
        work: &Work,
    ) -> Result<Vec<usize>> {
        let mut held = Vec::new();
        match (&self.ranges, self.high_pc) {
            (Some(ranges), _) => {
                if let Some(mut ranges) = dwarf.attr_ranges(&self.unit, *ranges)? {
                    while let Some(range) = ranges.next()? {
                        let inside = indexes(addresses, range.begin, range.end);
                        work.charge(1 + inside.len() as u64)?;
                        held.extend(inside);
                    }
                }
            }
            (None, Some(high_pc)) if self.has_low_pc => {
                let end = end_address(dwarf, &self.unit, self.unit.low_pc, high_pc);
                held.extend(indexes(addresses, self.unit.low_pc, end));
            }
            _ if self.line_program.is_some() => held.extend(0..addresses.len()),
            _ => {}
        }
        held.sort_unstable();
        held.dedup();
        work.charge(1 + held.len() as u64)?;
        Ok(held)
    }

    /// Name and compilation directory of the source file.
    pub(super) fn source_file(&self, dwarf: &Dwarf<Reader<'a>>) -> (Option<Reader<'a>>, Option<Reader<'a>>) {
        let string = |value: Option<AttributeValue<Reader<'a>>>| {
            value.and_then(|value| dwarf.attr_string(&self.unit, value).ok())
        };
        (string(self.name), string(self.comp_dir))
    }
}

/// Positions in the sorted `addresses` of those in `begin..end`.
pub(super) fn indexes(addresses: &[u64], begin: u64, end: u64) -> std::ops::Range<usize> {
    let first = addresses.partition_point(|address| *address < begin);
    let rest = &addresses[first..];
    first..first + rest.partition_point(|address| *address < end)
}

/// The end that `DW_AT_high_pc` gives: an address, or an offset from the start.
pub(super) fn end_address<'a>(
    dwarf: &Dwarf<Reader<'a>>,
    unit: &Unit<Reader<'a>>,
    low_pc: u64,
    high_pc: AttributeValue<Reader<'a>>,
) -> u64 {
    if let Some(size) = high_pc.udata_value() {
        return low_pc.saturating_add(size);
    }
    dwarf.attr_address(unit, high_pc).ok().flatten().unwrap_or(low_pc)
}

/// A unit as its header describes it, before the root entry is read.
pub(super) fn bare_unit(
    header: UnitHeader<Reader<'_>>,
    abbreviations: Arc<Abbreviations>,
) -> Unit<Reader<'_>> {
    let encoding = header.encoding();
    let file_type = gimli::DwarfFileType::Main;
    Unit {
        header,
        abbreviations,
        name: None,
        comp_dir: None,
        low_pc: 0,
        str_offsets_base: gimli::DebugStrOffsetsBase::default_for_encoding_and_file(encoding, file_type),
        addr_base: DebugAddrBase(0),
        loclists_base: gimli::DebugLocListsBase::default_for_encoding_and_file(encoding, file_type),
        rnglists_base: gimli::DebugRngListsBase::default_for_encoding_and_file(encoding, file_type),
        line_program: None,
        dwo_id: None,
    }
}
