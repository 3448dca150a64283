//! The few parts of a 64-bit ELF file that advice needs: headers, section names, notes (elf(5)).

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::profile::clean;

const HEADER_BYTES: u64 = 64;
const SEGMENT_BYTES: usize = 56;
const SECTION_BYTES: usize = 64;
/// Most section names read; real tables are a few hundred bytes.
const SECTION_NAMES_BYTES: u64 = 1 << 20;
/// Most headers of each kind; compilers with a section per function strip them when linking.
const MOST_HEADERS: usize = 4096;
/// Most of a note, link or interpreter section.
const SMALL_SECTION_BYTES: u64 = 4096;
/// A build ID is 20 bytes by default; `--build-id=0x…` allows any length.
const LONGEST_BUILD_ID: usize = 64;

const PT_LOAD: u32 = 1;
const PT_INTERP: u32 = 3;
const PT_NOTE: u32 = 4;
const PT_GNU_EH_FRAME: u32 = 0x6474_e550;
const NT_GNU_BUILD_ID: u32 = 3;

/// Why a file cannot be looked over.
#[derive(Debug, thiserror::Error)]
pub enum ElfError {
    /// The file cannot be read.
    #[error("can't read it: {0}")]
    Read(#[from] io::Error),
    /// No ELF magic number.
    #[error("it is not an ELF file")]
    NotElf,
    /// 32-bit or big-endian.
    #[error("it is not a 64-bit little-endian program")]
    OtherClass,
    /// Headers that point outside of the file.
    #[error("its headers are damaged")]
    Damaged,
}

/// What processor a program is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Machine {
    /// x86_64.
    X86_64,
    /// arm64.
    Aarch64,
    /// Another one, by its number in the ELF header.
    Other(u16),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SectionKind {
    /// The full symbol table.
    Symbols,
    /// The symbols needed for dynamic linking.
    DynamicSymbols,
    Other,
}

#[derive(Debug)]
pub(super) struct Section {
    pub(super) name: Vec<u8>,
    pub(super) kind: SectionKind,
    pub(super) offset: u64,
    pub(super) size: u64,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Segment {
    kind: u32,
    pub(super) offset: u64,
    pub(super) virt_addr: u64,
    pub(super) file_size: u64,
}

#[derive(Debug)]
pub(super) struct Elf {
    file: File,
    file_bytes: u64,
    pub(super) machine: Machine,
    pub(super) sections: Vec<Section>,
    segments: Vec<Segment>,
}

impl Elf {
    pub(super) fn open(file: File) -> Result<Self, ElfError> {
        let meta = file.metadata()?;
        if !meta.is_file() || meta.len() < HEADER_BYTES {
            return Err(ElfError::NotElf);
        }
        let mut elf = Self {
            file,
            file_bytes: meta.len(),
            machine: Machine::Other(0),
            sections: Vec::new(),
            segments: Vec::new(),
        };
        let header = elf.read(0, HEADER_BYTES).ok_or(ElfError::NotElf)?;
        if !header.starts_with(b"\x7fELF") {
            return Err(ElfError::NotElf);
        }
        // EI_CLASS 2 is 64-bit, EI_DATA 1 is little-endian.
        if header.get(4..6) != Some(&[2, 1]) {
            return Err(ElfError::OtherClass);
        }
        elf.machine = match u16_at(&header, 18).ok_or(ElfError::Damaged)? {
            62 => Machine::X86_64,
            183 => Machine::Aarch64,
            other => Machine::Other(other),
        };
        elf.segments = elf.read_segments(&header).ok_or(ElfError::Damaged)?;
        // Section headers may be stripped altogether; a program runs without them.
        elf.sections = elf.read_sections(&header).unwrap_or_default();
        Ok(elf)
    }

    /// Bytes at an offset; None when they are not all there.
    pub(super) fn read(&self, offset: u64, size: u64) -> Option<Vec<u8>> {
        if offset.checked_add(size)? > self.file_bytes {
            return None;
        }
        let mut data = vec![0; usize::try_from(size).ok()?];
        self.file.read_exact_at(&mut data, offset).ok()?;
        Some(data)
    }

    pub(super) fn section(&self, name: &[u8]) -> Option<&Section> {
        self.sections.iter().find(|section| section.name == name)
    }

    /// Where the byte at a virtual address lies in the file, and how many follow it in its segment.
    pub(super) fn file_offset(&self, virt_addr: u64) -> Option<(u64, u64)> {
        self.segments.iter().filter(|segment| segment.kind == PT_LOAD).find_map(|segment| {
            let inside = virt_addr.checked_sub(segment.virt_addr)?;
            let left = segment.file_size.checked_sub(inside).filter(|left| *left > 0)?;
            Some((segment.offset.checked_add(inside)?, left))
        })
    }

    /// The sorted index over the unwind tables (`.eh_frame_hdr`).
    pub(super) fn unwind_index(&self) -> Option<Segment> {
        self.segment(PT_GNU_EH_FRAME)
    }

    pub(super) fn interpreter(&self) -> Option<String> {
        let path = self.small_segment(self.segment(PT_INTERP)?)?;
        Some(clean(path.split(|byte| *byte == 0).next()?))
    }

    pub(super) fn debug_link(&self) -> Option<String> {
        let section = self.section(b".gnu_debuglink")?;
        let data = self.read(section.offset, section.size.min(SMALL_SECTION_BYTES))?;
        let name = data.split(|byte| *byte == 0).next().filter(|name| !name.is_empty())?;
        Some(clean(name))
    }

    /// The build ID is looked for in segments: they are there even when section headers are not.
    pub(super) fn build_id(&self) -> Option<String> {
        let mut notes = self.segments.iter().filter(|segment| segment.kind == PT_NOTE);
        notes.find_map(|segment| gnu_build_id(&self.small_segment(*segment)?))
    }

    fn segment(&self, kind: u32) -> Option<Segment> {
        self.segments.iter().find(|segment| segment.kind == kind).copied()
    }

    fn small_segment(&self, segment: Segment) -> Option<Vec<u8>> {
        self.read(segment.offset, segment.file_size.min(SMALL_SECTION_BYTES))
    }

    fn read_segments(&self, header: &[u8]) -> Option<Vec<Segment>> {
        let table = self.read_table(header, 32, 54, 56, SEGMENT_BYTES)?;
        let parse = |entry: &[u8]| {
            Some(Segment {
                kind: u32_at(entry, 0)?,
                offset: u64_at(entry, 8)?,
                virt_addr: u64_at(entry, 16)?,
                file_size: u64_at(entry, 32)?,
            })
        };
        table.chunks_exact(SEGMENT_BYTES).map(parse).collect()
    }

    fn read_sections(&self, header: &[u8]) -> Option<Vec<Section>> {
        let table = self.read_table(header, 40, 58, 60, SECTION_BYTES)?;
        let entries: Vec<&[u8]> = table.chunks_exact(SECTION_BYTES).collect();
        let names = entries.get(usize::from(u16_at(header, 62)?))?;
        let names = self.read(u64_at(names, 24)?, u64_at(names, 32)?.min(SECTION_NAMES_BYTES))?;
        let parse = |entry: &&[u8]| {
            let name = names.get(u32_at(entry, 0)? as usize..)?.split(|byte| *byte == 0).next()?;
            Some(Section {
                name: name.to_vec(),
                kind: match u32_at(entry, 4)? {
                    2 => SectionKind::Symbols,
                    11 => SectionKind::DynamicSymbols,
                    _ => SectionKind::Other,
                },
                offset: u64_at(entry, 24)?,
                size: u64_at(entry, 32)?,
            })
        };
        Some(entries.iter().filter_map(parse).collect())
    }

    /// A header table, from the places in the file header that hold its offset, entry size and number of entries.
    fn read_table(
        &self,
        header: &[u8],
        offset: usize,
        entry: usize,
        count: usize,
        bytes: usize,
    ) -> Option<Vec<u8>> {
        let count = usize::from(u16_at(header, count)?);
        if count > MOST_HEADERS || (count > 0 && usize::from(u16_at(header, entry)?) != bytes) {
            return None;
        }
        self.read(u64_at(header, offset)?, (count * bytes) as u64)
    }
}

/// Walks notes (name size, description size, type, name, description; each padded to four bytes).
fn gnu_build_id(notes: &[u8]) -> Option<String> {
    let padded = |size: usize| size.checked_next_multiple_of(4);
    let mut rest = notes;
    loop {
        let name_size = u32_at(rest, 0)? as usize;
        let size = u32_at(rest, 4)? as usize;
        let start = padded(name_size)?.checked_add(12)?;
        if u32_at(rest, 8)? == NT_GNU_BUILD_ID && rest.get(12..12 + 4) == Some(b"GNU\0") && name_size == 4 {
            let id = rest.get(start..start.checked_add(size)?)?;
            let id = id.get(..LONGEST_BUILD_ID).unwrap_or(id);
            let digit = |value: u8| char::from_digit(u32::from(value), 16);
            return id.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 0xf)]).collect();
        }
        rest = rest.get(start.checked_add(padded(size)?)?..)?;
    }
}

pub(super) fn u16_at(data: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(data.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

pub(super) fn u32_at(data: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(data.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

pub(super) fn u64_at(data: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(data.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_build_id_is_found_among_other_notes() {
        let note = |name: &[u8], kind: u32, data: &[u8]| {
            let mut out = Vec::new();
            for word in [name.len() as u32, data.len() as u32, kind] {
                out.extend_from_slice(&word.to_le_bytes());
            }
            for part in [name, data] {
                out.extend_from_slice(part);
                out.resize(out.len().next_multiple_of(4), 0);
            }
            out
        };
        let notes =
            [note(b"Go\0", 4, b"abcde"), note(b"GNU\0", 1, &[0; 16]), note(b"GNU\0", 3, &[0xab, 0x01])];
        assert_eq!(gnu_build_id(&notes.concat()).as_deref(), Some("ab01"));
        assert_eq!(gnu_build_id(&notes[..2].concat()), None);
        assert_eq!(gnu_build_id(&[0xff; 64]), None);
    }
}
