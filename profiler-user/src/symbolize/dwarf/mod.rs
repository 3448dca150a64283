//! DWARF: functions, inlined calls and source lines of a sorted batch of addresses.
//!
//! In: an object with debug information, its supplementary file, and addresses in the object's own address space. Out:
//! one chain of frames per address that the information covers. Each unit that holds one of the addresses is read
//! once, front to back, and forgotten; so memory grows with the addresses asked for and not with the program. Split
//! units (`.dwo`) are not read: their skeletons give lines, and the symbol table gives names.

mod functions;
mod lines;
mod reader;
mod unit;

use std::sync::Arc;

use gimli::{Dwarf, DwarfSections, SectionId};

use super::Names;
use crate::object::{Elf, ObjectError, Result, SectionData, limits};
use functions::Functions;
use reader::{SectionReader, Work};
use unit::Units;

/// Inlined calls kept for one address. Optimized Rust and C++ reach about twenty.
const INLINE_DEPTH: usize = 64;

/// One function at an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DwarfFrame {
    /// Readable name; none where the information has lines but no function, as for assembly.
    pub(super) function: Option<Arc<str>>,
    pub(super) file: Option<Arc<str>>,
    pub(super) line: Option<u32>,
}

/// The frames of one address, innermost inlined function first; empty when nothing is known.
pub(super) type Chain = Vec<DwarfFrame>;

/// Whether calls that were inlined get frames of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Inlines {
    /// A frame for every inlined call.
    #[default]
    Show,
    /// One frame per address: the function that really exists, and its own line.
    Hide,
}

/// True when there is anything for [`locate`] to read.
pub(super) fn is_in(elf: &Elf) -> bool {
    [".debug_info", ".zdebug_info"]
        .iter()
        .any(|name| elf.section(name).is_some_and(|section| section.has_bytes()))
}

/// Looks up `addresses`, which are sorted. The second value is what kept part of the information from being read.
pub(super) fn locate(
    elf: &Elf,
    supplementary: Option<&Elf>,
    addresses: &[u64],
    inlines: Inlines,
    names: &mut Names,
) -> (Vec<Chain>, Option<ObjectError>) {
    let mut chains = vec![Chain::new(); addresses.len()];
    let mut budget = limits::DECOMPRESSED_BYTES;
    let sections = match load(elf, &mut budget) {
        Ok(sections) => sections,
        Err(error) => return (chains, Some(error)),
    };
    // Without the supplementary file some names are missing; the rest is still worth having.
    let shared = supplementary.map(|elf| load(elf, &mut budget)).and_then(Result::ok);
    let work = Work::default();
    let reader = |data| SectionReader::new(data, &work);
    let dwarf = sections.borrow_with_sup(shared.as_ref(), reader);
    search(&dwarf, addresses, &mut chains, inlines, names, &work);
    let problem = work.is_used_up().then_some(ObjectError::Limit("work on debug information"));
    (chains, problem)
}

/// Goes through all units, and through those that hold addresses in detail.
fn search(
    dwarf: &Dwarf<SectionReader<'_>>,
    addresses: &[u64],
    chains: &mut [Chain],
    inlines: Inlines,
    names: &mut Names,
    work: &Work,
) {
    let mut open = vec![true; addresses.len()];
    let mut left = addresses.len();
    let units = Units::new(dwarf, work);
    let mut headers = dwarf.units();
    while left > 0
        && let Ok(Some(header)) = headers.next()
        && !work.is_used_up()
    {
        // A unit that cannot be read hides its own functions only.
        let Ok(Some(root)) = units.open(header) else { continue };
        let Ok(mut held) = root.holds(dwarf, addresses, work) else { continue };
        held.retain(|index| open[*index]);
        if held.is_empty() {
            continue;
        }
        let wanted: Vec<u64> = held.iter().map(|index| addresses[*index]).collect();
        let mut lines = lines::Lines::of(dwarf, &root);
        let rows = lines.rows(&wanted, work);
        let functions = Functions::of(dwarf, &root.unit, &wanted, work);
        for (position, index) in held.iter().enumerate() {
            let chain = functions.chain(position, rows[position], &units, &mut lines, inlines, names);
            // Units without ranges of their own are asked for everything and know almost nothing.
            if !chain.is_empty() {
                chains[*index] = chain;
                open[*index] = false;
                left -= 1;
            }
        }
    }
}

/// Opens the sections that are needed, and no others.
fn load<'a>(elf: &'a Elf, budget: &mut u64) -> Result<DwarfSections<SectionData<'a>>> {
    DwarfSections::load(|id| match id {
        SectionId::DebugAbbrev
        | SectionId::DebugAddr
        | SectionId::DebugInfo
        | SectionId::DebugLine
        | SectionId::DebugLineStr
        | SectionId::DebugRanges
        | SectionId::DebugRngLists
        | SectionId::DebugStr
        | SectionId::DebugStrOffsets => elf.debug_section(id.name(), budget),
        _ => Ok(SectionData::empty()),
    })
}
