//! Compilation units: their root entries, the addresses that they hold, and names anywhere in them.
//!
//! In: unit headers. Out: a [`Unit`] without its line program (parsing all of those takes most of the time in other
//! readers, and few are needed), and names followed across units to where they are declared.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use gimli::{
    Abbreviations, AttributeValue, DebugAbbrev, DebugAddrBase, DebugInfoOffset, DebugLineOffset, Dwarf,
    Error, Result, Section as _, Unit, UnitHeader, UnitOffset, constants,
};

use super::reader::{SectionReader, Work};

/// Bytes of one unit's abbreviations. They grow fivefold when parsed; real tables have a few kilobytes, those of
/// whole-program optimization a few hundred.
const ABBREVIATIONS_BYTES: u64 = 2 << 20;

/// Units kept open for references into them. Those of `dwz` and of link-time optimization go to a few shared units.
const OPEN_UNITS: usize = 16;

/// Units listed for references between units: eight megabytes of offsets.
const UNITS: usize = 1 << 20;

/// Steps from a function that was inlined or cloned to the entry that has its name.
const REFERENCE_STEPS: usize = 16;

type Reader<'a> = SectionReader<'a>;

/// Opens units, with the abbreviations of the last one at hand: neighbours often share them.
pub(super) struct Units<'d, 'a> {
    dwarf: &'d Dwarf<Reader<'a>>,
    work: &'a Work,
    abbreviations: RefCell<Option<(u64, Arc<Abbreviations>)>>,
    open: RefCell<Vec<OpenUnit<'a>>>,
    /// Offsets at which units start, by [`Info`]; empty until needed.
    starts: [RefCell<Vec<u64>>; 2],
}

struct OpenUnit<'a> {
    file: Info,
    start: u64,
    end: u64,
    unit: Rc<Unit<Reader<'a>>>,
}

/// Which of the two files an entry is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Info {
    Main,
    Supplementary,
}

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

impl<'d, 'a> Units<'d, 'a> {
    pub(super) fn new(dwarf: &'d Dwarf<Reader<'a>>, work: &'a Work) -> Self {
        Self {
            dwarf,
            work,
            abbreviations: RefCell::default(),
            open: RefCell::default(),
            starts: Default::default(),
        }
    }

    /// Reads a unit's root entry; none for units that hold no code (types, and parts that other units share).
    pub(super) fn open(&self, header: UnitHeader<Reader<'a>>) -> Result<Option<Root<'a>>> {
        let abbreviations = self.abbreviations(self.dwarf, &header)?;
        Root::read(self.dwarf, header, abbreviations)
    }

    fn abbreviations(
        &self,
        dwarf: &Dwarf<Reader<'a>>,
        header: &UnitHeader<Reader<'a>>,
    ) -> Result<Arc<Abbreviations>> {
        let offset = header.debug_abbrev_offset();
        // The cache is for the main file; its twin in the supplementary one has other offsets.
        let main = std::ptr::eq(dwarf, self.dwarf);
        if main
            && let Some((known, abbreviations)) = &*self.abbreviations.borrow()
            && *known == offset.0
        {
            return Ok(Arc::clone(abbreviations));
        }
        let cut = dwarf.debug_abbrev.reader().cut_at(offset.0.saturating_add(ABBREVIATIONS_BYTES));
        let abbreviations = Arc::new(DebugAbbrev::from(cut).abbreviations(offset)?);
        if main {
            self.abbreviations.replace(Some((offset.0, Arc::clone(&abbreviations))));
        }
        Ok(abbreviations)
    }

    fn dwarf(&self, file: Info) -> Option<&Dwarf<Reader<'a>>> {
        match file {
            Info::Main => Some(self.dwarf),
            Info::Supplementary => self.dwarf.sup(),
        }
    }

    /// The unit that holds an offset of `.debug_info`.
    fn unit_at(&self, file: Info, offset: u64) -> Result<Rc<Unit<Reader<'a>>>> {
        let known = self.open.borrow().iter().find_map(|open| {
            (open.file == file && (open.start..open.end).contains(&offset)).then(|| Rc::clone(&open.unit))
        });
        if let Some(unit) = known {
            return Ok(unit);
        }
        let dwarf = self.dwarf(file).ok_or(Error::MissingUnitDie)?;
        let start = self.unit_start(file, dwarf, offset)?;
        let header = dwarf.unit_header(DebugInfoOffset(start))?;
        let end = start.saturating_add(header.length_including_self());
        let abbreviations = self.abbreviations(dwarf, &header)?;
        let unit = Rc::new(bare_unit(header, abbreviations));
        let mut open = self.open.borrow_mut();
        if open.len() >= OPEN_UNITS {
            open.remove(0);
        }
        open.push(OpenUnit { file, start, end, unit: Rc::clone(&unit) });
        Ok(unit)
    }

    /// Start of the unit that holds an offset. The list of all starts is made when the first reference needs it.
    fn unit_start(&self, file: Info, dwarf: &Dwarf<Reader<'a>>, offset: u64) -> Result<u64> {
        let starts = &self.starts[file as usize];
        if starts.borrow().is_empty() {
            let mut list = Vec::new();
            let mut headers = dwarf.units();
            while let Some(header) = headers.next()?
                && list.len() < UNITS
            {
                list.extend(header.debug_info_offset().map(|start| start.0));
            }
            starts.replace(list);
        }
        let starts = starts.borrow();
        let after = starts.partition_point(|start| *start <= offset);
        after.checked_sub(1).and_then(|index| starts.get(index)).copied().ok_or(Error::MissingUnitDie)
    }

    /// The linkage name of an entry, or its plain name, following references to where it was declared.
    pub(super) fn name(&self, unit: &Unit<Reader<'a>>, offset: UnitOffset<u64>) -> Result<Option<EntryName>> {
        let mut next = self.name_or_reference(Info::Main, unit, offset)?;
        for _ in 0..REFERENCE_STEPS {
            match next {
                Found::Name(name) => return Ok(Some(name)),
                Found::Nothing => return Ok(None),
                Found::Reference(file, at) => {
                    self.work.charge(1)?;
                    let other = self.unit_at(file, at.0)?;
                    let inside = at.to_unit_offset(&other.header).ok_or(Error::MissingUnitDie)?;
                    next = self.name_or_reference(file, &other, inside)?;
                }
            }
        }
        Ok(None)
    }

    fn name_or_reference(
        &self,
        file: Info,
        unit: &Unit<Reader<'a>>,
        offset: UnitOffset<u64>,
    ) -> Result<Found> {
        let Some(dwarf) = self.dwarf(file) else { return Ok(Found::Nothing) };
        let mut entries = unit.entries_raw(Some(offset))?;
        let Some(abbreviation) = entries.read_abbreviation()? else { return Ok(Found::Nothing) };
        let (mut name, mut reference) = (None, None);
        for spec in abbreviation.attributes() {
            let attribute = entries.read_attribute(*spec)?;
            match attribute.name() {
                constants::DW_AT_linkage_name | constants::DW_AT_MIPS_linkage_name => {
                    if let Ok(text) = dwarf.attr_string(unit, attribute.value()) {
                        return text.bytes().map(EntryName::Linkage).map(Found::Name);
                    }
                }
                constants::DW_AT_name => name = dwarf.attr_string(unit, attribute.value()).ok(),
                constants::DW_AT_abstract_origin | constants::DW_AT_specification => {
                    reference = reference_target(file, unit, &attribute.value());
                }
                _ => {}
            }
        }
        match (name, reference) {
            (Some(name), _) => name.bytes().map(EntryName::Plain).map(Found::Name),
            (None, Some((file, at))) => Ok(Found::Reference(file, at)),
            (None, None) => Ok(Found::Nothing),
        }
    }
}

/// A function's name as an entry has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum EntryName {
    /// What the linker sees: unique, and in C++ and Rust mangled with all that it is part of.
    Linkage(Vec<u8>),
    /// What the source says, without namespace, type or module.
    Plain(Vec<u8>),
}

enum Found {
    Name(EntryName),
    Reference(Info, DebugInfoOffset<u64>),
    Nothing,
}

fn reference_target(
    file: Info,
    unit: &Unit<Reader<'_>>,
    value: &AttributeValue<Reader<'_>>,
) -> Option<(Info, DebugInfoOffset<u64>)> {
    match value {
        AttributeValue::UnitRef(offset) => offset.to_debug_info_offset(&unit.header).map(|at| (file, at)),
        AttributeValue::DebugInfoRef(offset) => Some((file, *offset)),
        AttributeValue::DebugInfoRefSup(offset) => Some((Info::Supplementary, *offset)),
        _ => None,
    }
}

impl<'a> Root<'a> {
    fn read(
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
fn bare_unit(header: UnitHeader<Reader<'_>>, abbreviations: Arc<Abbreviations>) -> Unit<Reader<'_>> {
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
