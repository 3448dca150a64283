//! Which functions have unwind information, sorted by address.
//!
//! In: the table that linkers write into `.eh_frame_hdr`; or, where there is none or it contradicts itself, what a pass
//! over the section found. Out: for a range of addresses, where the information of its functions is. The linker's table
//! is searched in the file and costs no memory.

use std::ops::Range;

use object::elf::PT_GNU_EH_FRAME;

use crate::object::{Elf, Section, SectionData, limits};

/// `.eh_frame_hdr` begins with a version and three encodings: of the pointer to `.eh_frame`, of the number of entries
/// and of the entries. These are the only ones that linkers use: 32 bits relative to the field itself, plain 32 bits,
/// and pairs of 32 bits relative to the table's beginning.
const HEADER: [u8; 4] = [1, 0x1b, 0x03, 0x3b];

/// Bytes before the entries.
const HEADER_BYTES: u64 = 12;

/// Bytes of an entry: a function's start, and the place of its information.
const ENTRY_BYTES: u64 = 8;

/// Where one function's information is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Entry {
    /// The function's start.
    pub(super) start: u64,
    /// Offset of its information in the section.
    pub(super) offset: u32,
}

/// A sorted list of functions.
#[derive(Debug)]
pub(super) enum Index {
    Linker(LinkerTable),
    Own(Vec<Entry>),
}

/// The table that the linker wrote.
#[derive(Debug)]
pub(super) struct LinkerTable {
    file_offset: u64,
    /// The table's own address, which its entries are relative to.
    virt_addr: u64,
    entries: u64,
    /// Address of `.eh_frame`.
    pub(super) frames_virt_addr: u64,
}

impl LinkerTable {
    /// Finds the table and checks that it is sorted.
    pub(super) fn of(elf: &Elf) -> Option<Self> {
        // The program header is what the C library goes by, and stays when section headers are stripped.
        let segment = elf.segments().iter().find(|segment| segment.kind == PT_GNU_EH_FRAME);
        let segment = segment.map(|segment| (segment.file_offset, segment.virt_addr, segment.file_size));
        let section = || {
            let section = elf.section(".eh_frame_hdr").filter(|section| Section::has_bytes(section))?;
            Some((section.file_offset, section.virt_addr, section.size))
        };
        let (file_offset, virt_addr, size) = segment.or_else(section)?;
        let head: [u8; HEADER_BYTES as usize] =
            elf.source().read_at(file_offset, HEADER_BYTES).ok()?.try_into().ok()?;
        let (encodings, rest) = head.split_first_chunk::<4>()?;
        let (pointer, rest) = rest.split_first_chunk::<4>()?;
        let entries = u64::from(u32::from_le_bytes(*rest.first_chunk()?));
        if *encodings != HEADER || entries == 0 || entries > limits::SYMBOLS {
            return None;
        }
        let table = Self {
            file_offset,
            virt_addr,
            entries,
            frames_virt_addr: virt_addr
                .wrapping_add(4)
                .wrapping_add_signed(i32::from_le_bytes(*pointer).into()),
        };
        let fits = entries * ENTRY_BYTES + HEADER_BYTES <= size;
        (fits && table.is_sorted(&table.data(elf)?)).then_some(table)
    }

    fn data<'a>(&self, elf: &'a Elf) -> Option<SectionData<'a>> {
        SectionData::range(elf.source(), self.file_offset + HEADER_BYTES, self.entries * ENTRY_BYTES).ok()
    }

    fn is_sorted(&self, data: &SectionData<'_>) -> bool {
        let mut buffer = [0; 4096];
        let (mut at, mut last) = (0, 0);
        while at < data.len() {
            let part = &mut buffer[..(data.len() - at).min(4096) as usize];
            if data.read_exact_at(at, part).is_err() {
                return false;
            }
            for entry in part.chunks_exact(ENTRY_BYTES as usize) {
                let start = entry.first_chunk().map_or(0, |start| self.address(*start));
                if start < last {
                    return false;
                }
                last = start;
            }
            at += part.len() as u64;
        }
        true
    }

    fn address(&self, field: [u8; 4]) -> u64 {
        self.virt_addr.wrapping_add_signed(i32::from_le_bytes(field).into())
    }

    fn entry(&self, data: &SectionData<'_>, index: u64) -> Option<Entry> {
        let mut bytes = [0; ENTRY_BYTES as usize];
        data.read_exact_at(index * ENTRY_BYTES, &mut bytes).ok()?;
        let (start, place) = bytes.split_first_chunk::<4>()?;
        let offset = self.address(*place.first_chunk()?).wrapping_sub(self.frames_virt_addr);
        // A place that is not in the section becomes one that cannot be read.
        Some(Entry { start: self.address(*start), offset: u32::try_from(offset).unwrap_or(u32::MAX) })
    }

    /// The first entry at or after an address.
    fn first_from(&self, data: &SectionData<'_>, virt_addr: u64) -> Option<u64> {
        let (mut low, mut high) = (0, self.entries);
        while low < high {
            let middle = low.midpoint(high);
            if self.entry(data, middle)?.start < virt_addr { low = middle + 1 } else { high = middle }
        }
        Some(low)
    }
}

impl Index {
    /// Number of functions.
    pub(super) fn len(&self) -> u64 {
        match self {
            Self::Linker(table) => table.entries,
            Self::Own(entries) => entries.len() as u64,
        }
    }

    /// Some functions all over the list, to check it by.
    pub(super) fn samples(&self, elf: &Elf) -> Vec<Entry> {
        match self {
            Self::Linker(table) => {
                let last = table.entries - 1;
                let Some(data) = table.data(elf) else { return Vec::new() };
                [0, last / 3, last / 2, last].iter().filter_map(|index| table.entry(&data, *index)).collect()
            }
            Self::Own(_) => Vec::new(),
        }
    }

    /// The functions that may lie in a range of addresses: those that start in it, one that starts before it, and one that
    /// starts behind it. At most `most`, or none when there are more.
    pub(super) fn near(&self, elf: &Elf, virt: &Range<u64>, most: usize) -> Option<Vec<Entry>> {
        match self {
            Self::Own(entries) => {
                let first = entries.partition_point(|entry| entry.start < virt.start);
                // The one before may be one of several that begin together; the first of them counts.
                let first = first
                    .checked_sub(1)
                    .and_then(|last| entries.get(last))
                    .map_or(first, |before| entries.partition_point(|entry| entry.start < before.start));
                let last = entries.partition_point(|entry| entry.start < virt.end).saturating_add(1);
                let found = entries.get(first..last.min(entries.len()))?;
                (found.len() <= most).then(|| found.to_vec())
            }
            Self::Linker(table) => {
                let data = table.data(elf)?;
                let first = table.first_from(&data, virt.start)?;
                let first = match first.checked_sub(1) {
                    Some(before) => table.first_from(&data, table.entry(&data, before)?.start)?,
                    None => first,
                };
                let last = table.first_from(&data, virt.end)?.saturating_add(1).min(table.entries);
                let count = usize::try_from(last.checked_sub(first)?).ok()?;
                if count > most {
                    return None;
                }
                (first..last).map(|index| table.entry(&data, index)).collect()
            }
        }
    }
}
