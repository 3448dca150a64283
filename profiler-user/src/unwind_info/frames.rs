//! One section of call frame information: its functions, and their rows.
//!
//! In: `.eh_frame` or `.debug_frame` of an object. Out: rules, painted onto a page. A function's information holds up to
//! the next function at most, as it does for the C library's unwinder, which looks for the last one that starts before
//! an address.

use std::collections::HashMap;
use std::ops::Range;

use gimli::{
    BaseAddresses, CieOrFde, CommonInformationEntry, DebugFrame, EhFrame, FrameDescriptionEntry, Reader,
    UnwindContext, UnwindOffset, UnwindSection, Vendor,
};
use profiler_common::unwind::{Arch, Rule};

use super::PageError;
use super::go::GoFunctions;
use super::index::{Entry, Index, LinkerTable};
use super::page::{Page, Piece, is_code};
use super::translate::Function;
use crate::object::{Elf, Section, SectionData, SectionReader, Work, limits};

/// A section and its index.
#[derive(Debug)]
pub(super) struct Frames {
    kind: Kind,
    contents: Contents,
    /// Addresses that encoded pointers are relative to.
    bases: BaseAddresses,
    index: Index,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    EhFrame,
    DebugFrame,
}

/// Where a section's bytes are.
#[derive(Debug)]
enum Contents {
    File(Range<u64>),
    Unpacked(SectionData<'static>),
}

impl Contents {
    fn of(elf: &Elf, section: &Section) -> Option<Self> {
        if !section.has_bytes() || section.size == 0 {
            return None;
        }
        match SectionData::unpacked(elf, section, &mut { limits::DEBUG_FRAME_BYTES }).ok()? {
            Some(unpacked) => Some(Self::Unpacked(unpacked)),
            None => Some(Self::File(section.file_offset..section.file_offset.checked_add(section.size)?)),
        }
    }

    /// Calls `then` with the bytes.
    fn with<T>(&self, elf: &Elf, then: impl FnOnce(&SectionData<'_>) -> T) -> Option<T> {
        match self {
            Self::Unpacked(data) => Some(then(data)),
            Self::File(range) => {
                let data = SectionData::range(elf.source(), range.start, range.end - range.start).ok()?;
                Some(then(&data))
            }
        }
    }
}

impl Frames {
    /// An object's `.eh_frame`; none when it has none that can be used.
    pub(super) fn eh_frame(elf: &Elf, arch: Arch) -> Option<Self> {
        if let Some(table) = LinkerTable::of(elf) {
            let virt_addr = table.frames_virt_addr;
            let start = elf.file_offset(virt_addr);
            let section = elf.section(".eh_frame").filter(|section| section.virt_addr == virt_addr);
            // Without section headers nobody says how long it is; it ends with its segment at the latest.
            let end = match section {
                Some(section) => section.file_offset.checked_add(section.size),
                None => segment_end(elf, virt_addr),
            };
            if let (Some(start), Some(end)) = (start, end)
                && start < end
            {
                let bases = BaseAddresses::default().set_eh_frame(virt_addr);
                let (contents, index) = (Contents::File(start..end), Index::Linker(table));
                let frames = Self { kind: Kind::EhFrame, contents, bases, index };
                if frames.is_plausible(elf, arch) {
                    return Some(frames);
                }
            }
        }
        Self::scanned_eh_frame(elf, arch)
    }

    /// An object's `.eh_frame`, without the linker's table.
    pub(super) fn scanned_eh_frame(elf: &Elf, arch: Arch) -> Option<Self> {
        let section = elf.section(".eh_frame")?;
        let bases = BaseAddresses::default().set_eh_frame(section.virt_addr);
        Self::scanned(Kind::EhFrame, Contents::of(elf, section)?, bases, elf, elf, arch)
    }

    /// The `.debug_frame` of an object or of its debug file, for the code in `code`.
    pub(super) fn debug_frame(elf: &Elf, code: &Elf, arch: Arch) -> Option<Self> {
        let section = elf.section(".debug_frame").or_else(|| elf.section(".zdebug_frame"))?;
        let contents = Contents::of(elf, section)?;
        Self::scanned(Kind::DebugFrame, contents, BaseAddresses::default(), elf, code, arch)
    }

    /// Makes an index by a pass over the section.
    fn scanned(
        kind: Kind,
        contents: Contents,
        bases: BaseAddresses,
        elf: &Elf,
        code: &Elf,
        arch: Arch,
    ) -> Option<Self> {
        let mut frames = Self { kind, contents, bases, index: Index::Own(Vec::new()) };
        let work = Work::of(limits::UNWIND_INDEX_READS);
        let entries = frames.contents.with(elf, |data| match kind {
            Kind::EhFrame => scan(&eh_frame(data, &work, arch), &frames.bases, code),
            Kind::DebugFrame => scan(&debug_frame(data, &work, arch), &frames.bases, code),
        })?;
        if entries.is_empty() {
            return None;
        }
        frames.index = Index::Own(entries);
        Some(frames)
    }

    /// Number of functions.
    pub(super) fn len(&self) -> u64 {
        self.index.len()
    }

    /// True when the linker's table and the section agree in a few places.
    fn is_plausible(&self, elf: &Elf, arch: Arch) -> bool {
        let work = Work::of(limits::PAGE_READS);
        let samples = self.index.samples(elf);
        let agree = |data: &SectionData<'_>| {
            let section = eh_frame(data, &work, arch);
            samples.iter().all(|entry| {
                let offset = u64::from(entry.offset).into();
                let found = section.fde_from_offset(&self.bases, offset, EhFrame::cie_from_offset);
                found.is_ok_and(|found| found.initial_address() == entry.start)
            })
        };
        self.contents.with(elf, agree).unwrap_or(false)
    }

    /// Paints the rules of all functions in a piece of a page.
    pub(super) fn paint(
        &self,
        elf: &Elf,
        arch: Arch,
        go: &GoFunctions,
        piece: &Piece,
        page: &mut Page,
        work: &Work,
    ) -> Result<(), PageError> {
        let Some(entries) = self.index.near(elf, &piece.virt, limits::PAGE_FUNCTIONS) else {
            return Err(PageError::Limit("functions of one page"));
        };
        let mut painter = Painter { arch, go, piece, page, work, bases: &self.bases };
        let painted = self.contents.with(elf, |data| match self.kind {
            Kind::EhFrame => painter.functions(&eh_frame(data, work, arch), &entries, false),
            Kind::DebugFrame => painter.functions(&debug_frame(data, work, arch), &entries, true),
        });
        painted.unwrap_or(Ok(()))
    }
}

fn eh_frame<'a>(data: &'a SectionData<'a>, work: &'a Work, arch: Arch) -> EhFrame<SectionReader<'a>> {
    let mut section = EhFrame::from(SectionReader::new(data, work));
    section.set_address_size(8);
    section.set_vendor(vendor(arch));
    section
}

fn debug_frame<'a>(data: &'a SectionData<'a>, work: &'a Work, arch: Arch) -> DebugFrame<SectionReader<'a>> {
    let mut section = DebugFrame::from(SectionReader::new(data, work));
    section.set_address_size(8);
    section.set_vendor(vendor(arch));
    section
}

/// On AArch64 some numbers of instructions have meanings of their own, for signed return addresses.
fn vendor(arch: Arch) -> Vendor {
    match arch {
        Arch::X86_64 => Vendor::Default,
        Arch::Aarch64 => Vendor::AArch64,
    }
}

/// End of the bytes in the file of the segment that holds an address.
fn segment_end(elf: &Elf, virt_addr: u64) -> Option<u64> {
    let start = elf.file_offset(virt_addr)?;
    let ends = elf.segments().iter().filter_map(|segment| {
        let end = segment.file_offset.checked_add(segment.file_size)?;
        (segment.kind == object::elf::PT_LOAD && (segment.file_offset..end).contains(&start)).then_some(end)
    });
    ends.max().map(|end| end.min(elf.source().len()))
}

/// All functions of a section that are code of the object, sorted.
fn scan<R: Reader<Offset = u64>, S: UnwindSection<R>>(
    section: &S,
    bases: &BaseAddresses,
    code: &Elf,
) -> Vec<Entry>
where
    S::Offset: UnwindOffset<u64> + std::hash::Hash,
{
    let mut cies = Cies::default();
    let mut found = Vec::new();
    let mut entries = section.entries(bases);
    // Damage ends the pass; what was found stays.
    while let Ok(Some(entry)) = entries.next() {
        let CieOrFde::Fde(partial) = entry else { continue };
        let Ok(fde) = partial.parse(|section, bases, offset| cies.parse(section, bases, offset)) else {
            continue;
        };
        // What the linker removed is left at address zero.
        if fde.len() == 0 || !is_code(code, fde.initial_address()) {
            continue;
        }
        let Ok(offset) = u32::try_from(fde.offset()) else { break };
        if found.len() == limits::UNWIND_FUNCTIONS {
            break;
        }
        found.push(Entry { start: fde.initial_address(), offset });
    }
    // By start, then by place in the section: the first one goes before the others.
    found.sort_unstable();
    found
}

/// What functions have in common, parsed once.
struct Cies<R: Reader<Offset = u64>>(HashMap<u64, CommonInformationEntry<R>>);

impl<R: Reader<Offset = u64>> Default for Cies<R> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<R: Reader<Offset = u64>> Cies<R> {
    /// More than any section has; the others are parsed again and again.
    const MOST: usize = 1024;

    fn parse<S: UnwindSection<R>>(
        &mut self,
        section: &S,
        bases: &BaseAddresses,
        offset: S::Offset,
    ) -> gimli::Result<CommonInformationEntry<R>> {
        let key = UnwindOffset::into(offset);
        if let Some(cie) = self.0.get(&key) {
            return Ok(cie.clone());
        }
        let cie = section.cie_from_offset(bases, offset)?;
        if self.0.len() < Self::MOST {
            self.0.insert(key, cie.clone());
        }
        Ok(cie)
    }
}

/// For each entry where the next function begins that does not begin together with it.
fn following(entries: &[Entry]) -> Vec<u64> {
    let mut following = vec![u64::MAX; entries.len()];
    let (mut next, mut last) = (u64::MAX, u64::MAX);
    for (entry, following) in entries.iter().zip(&mut following).rev() {
        if entry.start != last {
            (next, last) = (last, entry.start);
        }
        *following = next;
    }
    following
}

/// Functions without code that may lie at the start of a real one; libclang has twenty-seven in one place. lld writes an entry for the first of them only, and
/// their information follows each other in the section.
const EMPTY_FUNCTIONS: usize = 256;

/// Bytes of the length in front of all information.
const LENGTH_BYTES: u64 = 4;

/// Paints functions onto a piece of a page.
struct Painter<'a> {
    arch: Arch,
    go: &'a GoFunctions,
    piece: &'a Piece,
    page: &'a mut Page,
    work: &'a Work,
    bases: &'a BaseAddresses,
}

impl Painter<'_> {
    /// Paints those `entries`, which are sorted, that lie in the piece.
    fn functions<'s, S>(&mut self, section: &S, entries: &[Entry], may_be_go: bool) -> Result<(), PageError>
    where
        S: UnwindSection<SectionReader<'s>>,
    {
        let mut cies = Cies::default();
        let mut context = UnwindContext::new();
        for (entry, next) in entries.iter().zip(following(entries)) {
            let Some(fde) = self.function(section, entry, &mut cies) else {
                if self.work.is_used_up() {
                    return Err(OVERWORKED);
                }
                // A function that cannot be read is as one that is not there.
                continue;
            };
            let Some(end) = entry.start.checked_add(fde.len()) else { continue };
            let range = entry.start..end.min(next).min(self.piece.virt.end);
            if range.end > self.piece.virt.start {
                let is_go = may_be_go && self.go.contains(entry.start);
                self.rows(section, &fde, &mut context, range, is_go)?;
            }
        }
        Ok(())
    }

    /// The information of the function that an entry means.
    fn function<'s, S>(
        &self,
        section: &S,
        entry: &Entry,
        cies: &mut Cies<SectionReader<'s>>,
    ) -> Option<FrameDescriptionEntry<SectionReader<'s>>>
    where
        S: UnwindSection<SectionReader<'s>>,
    {
        let mut offset = u64::from(entry.offset);
        for _ in 0..EMPTY_FUNCTIONS {
            let fde = section.fde_from_offset(self.bases, offset.into(), |section, bases, offset| {
                cies.parse(section, bases, offset)
            });
            let fde = fde.ok().filter(|fde| fde.initial_address() == entry.start)?;
            if fde.len() > 0 {
                return Some(fde);
            }
            offset = offset.checked_add(LENGTH_BYTES)?.checked_add(fde.entry_len())?;
        }
        None
    }

    fn rows<'s, S>(
        &mut self,
        section: &S,
        fde: &FrameDescriptionEntry<SectionReader<'s>>,
        context: &mut UnwindContext<u64>,
        range: Range<u64>,
        is_go: bool,
    ) -> Result<(), PageError>
    where
        S: UnwindSection<SectionReader<'s>>,
    {
        let is_signal_frame = fde.is_signal_trampoline();
        let function = Function { arch: self.arch, section, cie: fde.cie(), is_signal_frame, is_go };
        let mut at = range.start;
        let Ok(mut table) = fde.rows(section, self.bases, context) else {
            return self.damaged(range);
        };
        while at < range.end {
            let Ok(row) = table.next_row() else {
                return self.damaged(at..range.end);
            };
            let Some(row) = row else { break };
            at = row.end_address();
            if at > self.piece.virt.start {
                let rule = function.rule(row);
                self.page.fill(self.piece, &(row.start_address()..at.min(range.end)), rule)?;
            }
        }
        Ok(())
    }

    /// Information that breaks off.
    fn damaged(&mut self, range: Range<u64>) -> Result<(), PageError> {
        if self.work.is_used_up() {
            return Err(OVERWORKED);
        }
        self.page.fill(self.piece, &range, Rule::UNSUPPORTED)
    }
}

const OVERWORKED: PageError = PageError::Limit("work on one page");
