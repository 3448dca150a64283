//! DWARF: functions, inlined calls and source lines of a sorted batch of addresses.
//!
//! In: an object with debug information, its supplementary file, and addresses in the object's own address space. Out:
//! one chain of frames per address that the information covers. Each unit that holds one of the addresses is read
//! once, front to back, and forgotten; so memory grows with the addresses asked for and not with the program. Split
//! units (`.dwo`) are not read: their skeletons give lines, and the symbol table gives names.

mod functions;
mod lines;
mod unit;
mod units;

use std::sync::Arc;

use gimli::{Dwarf, DwarfSections, SectionId};

use super::Names;
use crate::object::{Elf, ObjectError, Result, Section, SectionData, SectionReader, Work};
use functions::Functions;
use units::Units;

/// Inlined calls kept for one address. Optimized Rust and C++ reach about twenty.
const INLINE_DEPTH: usize = 64;

/// One function at an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DwarfFrame {
    /// Readable name; none where the information has lines but no function, as for assembly.
    pub(super) function: Option<FunctionName>,
    pub(super) file: Option<Arc<str>>,
    pub(super) line: Option<u32>,
}

/// A readable name, and whether a symbol table can know better.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum FunctionName {
    /// From a linkage name: everything that there is to know.
    Full(Arc<str>),
    /// The bare name. rustc writes no more than that with line tables only, and the symbol has the path.
    Plain(Arc<str>),
}

impl FunctionName {
    pub(super) fn into_text(self) -> Arc<str> {
        match self {
            Self::Full(name) | Self::Plain(name) => name,
        }
    }
}

/// The frames of one address, innermost inlined function first; empty when nothing is known.
pub(super) type Chain = Vec<DwarfFrame>;

/// How much to say about an address. Each step costs more than the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Detail {
    /// The function, from symbol tables only.
    Names,
    /// The function that really exists at the address, with the line in its own source.
    Lines,
    /// A frame for every inlined call as well.
    #[default]
    Inlines,
}

/// True when there is anything for [`locate`] to read.
pub(super) fn is_in(elf: &Elf) -> bool {
    [".debug_info", ".zdebug_info"].iter().any(|name| elf.section(name).is_some_and(Section::has_bytes))
}

/// Looks up `addresses`, which are sorted. Compressed sections may take `budget` bytes of memory. The second value is what kept part of the information from being read.
pub(super) fn locate(
    elf: &Elf,
    supplementary: Option<&Elf>,
    addresses: &[u64],
    detail: Detail,
    mut budget: u64,
    names: &mut Names,
) -> (Vec<Chain>, Option<ObjectError>) {
    let mut chains = vec![Chain::new(); addresses.len()];
    let sections = match load(elf, &mut budget) {
        Ok(sections) => sections,
        Err(error) => return (chains, Some(error)),
    };
    // Without the supplementary file some names are missing; the rest is still worth having.
    let shared = supplementary.map(|elf| load(elf, &mut budget)).and_then(Result::ok);
    let work = Work::default();
    let reader = |data| SectionReader::new(data, &work);
    let dwarf = sections.borrow_with_sup(shared.as_ref(), reader);
    search(&dwarf, addresses, &mut chains, detail, names, &work);
    let problem = work.is_used_up().then_some(ObjectError::Limit("work on debug information"));
    (chains, problem)
}

/// Goes through all units, and through those that hold addresses in detail.
fn search(
    dwarf: &Dwarf<SectionReader<'_>>,
    addresses: &[u64],
    chains: &mut [Chain],
    detail: Detail,
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
            let chain = functions.chain(position, rows[position], &units, &mut lines, detail, names);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::symbolize::demangle;

    fn own() -> Elf {
        Elf::open(std::fs::File::open("/proc/self/exe").unwrap()).unwrap()
    }

    /// Addresses spread over our own code, sorted.
    fn spread(elf: &Elf, count: u64) -> Vec<u64> {
        let text = elf.section(".text").unwrap();
        (0..count).map(|n| text.virt_addr + text.size / count * n).collect()
    }

    /// Frames as another reader of the same information has them: function, file, line; innermost first.
    fn reference(
        loader: &addr2line::Loader,
        address: u64,
    ) -> Vec<(Option<String>, Option<String>, Option<u32>)> {
        let (mut frames, mut out) = (loader.find_frames(address).unwrap(), Vec::new());
        while let Some(frame) = frames.next().unwrap() {
            let function = frame.function.map(|function| {
                String::from_utf8(
                    demangle(&function.raw_name().unwrap().into_owned().into_bytes()).into_owned(),
                )
                .unwrap()
            });
            let line = frame.location.as_ref().and_then(|at| at.line).filter(|line| *line != 0);
            out.push((function, frame.location.and_then(|at| at.file.map(str::to_owned)), line));
        }
        out
    }

    #[test]
    fn frames_are_those_of_another_reader() {
        let (elf, loader) = (own(), addr2line::Loader::new("/proc/self/exe").unwrap());
        let addresses = spread(&elf, 3000);
        let (chains, problem) =
            locate(&elf, None, &addresses, Detail::Inlines, 1 << 30, &mut Names::default());
        assert!(problem.is_none());
        let mut compared = 0;
        for (address, chain) in addresses.iter().zip(chains) {
            // The other reader has no order among identical functions that the linker folded into one.
            let expected = reference(&loader, *address);
            let ours: Vec<_> = chain
                .into_iter()
                .map(|frame| {
                    let function = frame.function.map(|name| name.into_text().to_string());
                    (function, frame.file.map(|file| file.to_string()), frame.line)
                })
                .collect();
            if !expected.is_empty() && ours.first().is_some_and(|frame| frame.0.is_some()) {
                assert_eq!(ours, expected, "at {address:#x}");
                compared += 1;
            }
        }
        assert!(compared > 2000, "only {compared} addresses have debug information");
    }

    #[test]
    fn hiding_inlined_calls_leaves_the_function_and_its_own_line() {
        let elf = own();
        let addresses = spread(&elf, 500);
        let (shown, _) = locate(&elf, None, &addresses, Detail::Inlines, 1 << 30, &mut Names::default());
        let (hidden, _) = locate(&elf, None, &addresses, Detail::Lines, 1 << 30, &mut Names::default());
        assert!(shown.iter().any(|chain| chain.len() > 1));
        for (shown, hidden) in shown.iter().zip(&hidden) {
            assert_eq!(shown.last(), hidden.last());
            assert!(hidden.len() <= 1);
        }
    }
}
