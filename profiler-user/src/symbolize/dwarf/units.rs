//! All units of an object: opening them, and finding the name of an entry anywhere in them.
//!
//! In: unit headers, and references to entries. Out: root entries ([`Root`]), and names followed across units, and into
//! the supplementary file, to where a function was declared.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use gimli::{
    Abbreviations, AttributeValue, DebugAbbrev, DebugInfoOffset, Dwarf, Error, Result, Section as _, Unit,
    UnitHeader, UnitOffset, constants,
};

use super::unit::{Root, bare_unit};
use crate::object::{SectionReader, Work};

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
