//! The headers of one ELF file: segments, sections, and where an address lies.
//!
//! In: a [`Source`]. Out: plain tables with 64-bit fields, whatever the file's class. Works from the program headers
//! alone when the section headers are missing or damaged, because the kernel needs no more than those to run a file.
//! Only little-endian files are read: no other kind runs on the machines we support.

use std::fs::File;

use object::elf::{self, FileHeader32, FileHeader64};
use object::read::elf::{FileHeader, ProgramHeader, SectionHeader};
use object::{LittleEndian as LE, pod};

use super::{ObjectError, Result, Source, limits};

/// One program header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// `p_type`.
    pub kind: elf::ProgramType,
    /// Mapped executable.
    pub executable: bool,
    /// Where its bytes are in the file.
    pub file_offset: u64,
    /// Address in the object's own address space.
    pub virt_addr: u64,
    /// Bytes in the file.
    pub file_size: u64,
    /// Bytes in memory; the rest is zero.
    pub mem_size: u64,
}

/// One section header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// Name; bytes that are not UTF-8 are replaced.
    pub name: Box<str>,
    /// `sh_type`.
    pub kind: elf::SectionType,
    /// Holds code.
    pub executable: bool,
    /// Compressed, with a compression header in front.
    pub compressed: bool,
    /// Address in the object's own address space, zero when not loaded.
    pub virt_addr: u64,
    /// Where its bytes are in the file.
    pub file_offset: u64,
    /// Bytes in the file (in memory, for sections without bytes).
    pub size: u64,
    /// `sh_link`: the string table of a symbol table.
    pub link: u32,
    /// `sh_entsize`: bytes of one entry, for sections that are tables; often zero.
    pub entry_size: u64,
}

impl Section {
    /// End of the address range, exclusive.
    pub fn virt_end(&self) -> u64 {
        self.virt_addr.saturating_add(self.size)
    }

    /// True when the section has bytes in the file. In separate debug files the code sections have none.
    pub fn has_bytes(&self) -> bool {
        self.kind != elf::SHT_NOBITS && self.kind != elf::SHT_NULL
    }
}

/// An ELF file's headers, and the means to read the rest.
#[derive(Debug)]
pub struct Elf {
    source: Source,
    is_64: bool,
    machine: elf::Machine,
    segments: Vec<Segment>,
    sections: Vec<Section>,
}

impl Elf {
    /// Reads the headers of an open file. The file's position is not used and not moved.
    ///
    /// # Errors
    /// When it is not an ELF file that can run here, or the program headers are damaged. Damaged section headers
    /// are not an error: the file then has no sections.
    pub fn open(file: File) -> Result<Self> {
        Self::parse(Source::file(file)?)
    }

    /// Reads the headers of an image in memory, such as the vDSO or unpacked `.gnu_debugdata`.
    ///
    /// # Errors
    /// As [`Elf::open`].
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self> {
        Self::parse(Source::memory(bytes))
    }

    fn parse(source: Source) -> Result<Self> {
        let ident = source.read_at(0, 16.min(source.len()))?;
        if ident.len() < 16 || ident[..4] != elf::ELFMAG {
            return Err(ObjectError::NotElf);
        }
        if ident[5] != elf::ELFDATA2LSB.0 {
            return Err(ObjectError::Unsupported("byte order"));
        }
        if ident[4] == elf::ELFCLASS64.0 {
            Self::parse_class::<FileHeader64<LE>>(source, true)
        } else if ident[4] == elf::ELFCLASS32.0 {
            Self::parse_class::<FileHeader32<LE>>(source, false)
        } else {
            Err(ObjectError::Unsupported("class"))
        }
    }

    fn parse_class<H: FileHeader<Endian = LE>>(source: Source, is_64: bool) -> Result<Self> {
        let bytes = source.read_at(0, size_of::<H>() as u64)?;
        let (header, _) =
            pod::from_bytes::<H>(&bytes).map_err(|()| ObjectError::Damaged("the file header is cut off"))?;
        // Damaged section headers are common in packed and hand-made files, and cost only names.
        let sections = read_sections::<H>(&source, header).unwrap_or_default();
        let segments = read_segments::<H>(&source, header)?;
        let machine = header.e_machine(LE);
        Ok(Self { source, is_64, machine, segments, sections })
    }

    /// The file's bytes.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// True for 64-bit files.
    pub fn is_64(&self) -> bool {
        self.is_64
    }

    /// Processor: `EM_X86_64`, `EM_AARCH64`, `EM_386`, …
    pub fn machine(&self) -> elf::Machine {
        self.machine
    }

    /// Program headers in file order.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Section headers in file order; index 0 is the null section. Empty when the file has none, or damaged ones.
    pub fn sections(&self) -> &[Section] {
        &self.sections
    }

    /// The first section of this name.
    pub fn section(&self, name: &str) -> Option<&Section> {
        self.sections.iter().find(|section| &*section.name == name)
    }

    /// The executable section that holds an address.
    pub fn code_section_at(&self, virt_addr: u64) -> Option<&Section> {
        self.sections.iter().find(|section| {
            section.executable && (section.virt_addr..section.virt_end()).contains(&virt_addr)
        })
    }

    /// The address, in the object's own address space, of a place in the file: what a mapping's
    /// `addr - start + offset` has to be translated to before tables of this file can be asked.
    ///
    /// Code segments are asked first: linkers let neighbouring segments share a page of the file.
    pub fn virt_addr(&self, file_offset: u64) -> Option<u64> {
        let within = |segment: &&Segment| {
            file_offset.checked_sub(segment.file_offset).is_some_and(|delta| delta < segment.file_size)
        };
        let mut loaded = self.segments.iter().filter(|segment| segment.kind == elf::PT_LOAD).filter(within);
        let mut first = None;
        let segment = loaded.find(|segment| {
            first.get_or_insert(**segment);
            segment.executable
        });
        let segment = segment.copied().or(first)?;
        Some((file_offset - segment.file_offset).wrapping_add(segment.virt_addr))
    }

    /// The place in the file of an address in the object's own address space; none for memory without bytes.
    pub fn file_offset(&self, virt_addr: u64) -> Option<u64> {
        self.segments.iter().filter(|segment| segment.kind == elf::PT_LOAD).find_map(|segment| {
            let delta = virt_addr.checked_sub(segment.virt_addr)?;
            if delta >= segment.file_size {
                return None;
            }
            segment.file_offset.checked_add(delta)
        })
    }

    /// A copy of `len` bytes at an address in the object's own address space.
    ///
    /// # Errors
    /// When the range is not wholly in the file.
    pub fn read_virt(&self, virt_addr: u64, len: u64) -> Result<Vec<u8>> {
        let offset =
            self.file_offset(virt_addr).ok_or(ObjectError::Damaged("an address outside of all segments"))?;
        self.source.read_at(offset, len)
    }
}

fn read_segments<H: FileHeader<Endian = LE>>(source: &Source, header: &H) -> Result<Vec<Segment>> {
    let count = usize::from(header.e_phnum(LE));
    if count == 0 {
        return Ok(Vec::new());
    }
    if count > limits::SEGMENTS {
        return Err(ObjectError::Limit("program headers"));
    }
    if usize::from(header.e_phentsize(LE)) != size_of::<H::ProgramHeader>() {
        return Err(ObjectError::Damaged("size of a program header"));
    }
    let bytes = source.read_at(header.e_phoff(LE).into(), (count * size_of::<H::ProgramHeader>()) as u64)?;
    let (headers, _) = pod::slice_from_bytes::<H::ProgramHeader>(&bytes, count)
        .map_err(|()| ObjectError::Damaged("program headers"))?;
    let segment = |header: &H::ProgramHeader| Segment {
        kind: header.p_type(LE),
        executable: header.p_flags(LE).contains(elf::PF_X),
        file_offset: header.p_offset(LE).into(),
        virt_addr: header.p_vaddr(LE).into(),
        file_size: header.p_filesz(LE).into(),
        mem_size: header.p_memsz(LE).into(),
    };
    Ok(headers.iter().map(segment).collect())
}

fn read_sections<H: FileHeader<Endian = LE>>(source: &Source, header: &H) -> Result<Vec<Section>> {
    let table: u64 = header.e_shoff(LE).into();
    if table == 0 {
        return Ok(Vec::new());
    }
    let entry_size = size_of::<H::SectionHeader>();
    if usize::from(header.e_shentsize(LE)) != entry_size {
        return Err(ObjectError::Damaged("size of a section header"));
    }
    let first = source.read_at(table, entry_size as u64)?;
    let (null, _) =
        pod::from_bytes::<H::SectionHeader>(&first).map_err(|()| ObjectError::Damaged("section headers"))?;
    // Counts that do not fit in the file header's 16 bits are kept in the null section (generic ABI, chapter 4).
    let count = match header.e_shnum(LE) {
        0 => null.sh_size(LE).into(),
        count => u64::from(count),
    };
    let names_index = match header.e_shstrndx(LE) {
        elf::SHN_XINDEX => null.sh_link(LE) as usize,
        index => usize::from(index.0),
    };
    if count > limits::SECTIONS as u64 {
        return Err(ObjectError::Limit("section headers"));
    }
    let count = count as usize;
    let bytes = source.read_at(table, (count * entry_size) as u64)?;
    let (headers, _) = pod::slice_from_bytes::<H::SectionHeader>(&bytes, count)
        .map_err(|()| ObjectError::Damaged("section headers"))?;
    let names = match headers.get(names_index) {
        Some(header) if header.sh_size(LE).into() <= limits::SECTION_NAMES_BYTES => {
            source.read_at(header.sh_offset(LE).into(), header.sh_size(LE).into())?
        }
        _ => return Err(ObjectError::Damaged("section names")),
    };
    let section = |header: &H::SectionHeader| Section {
        name: name_at(&names, header.sh_name(LE)),
        kind: header.sh_type(LE),
        executable: header.sh_flags(LE).contains(elf::SHF_EXECINSTR),
        compressed: header.sh_flags(LE).contains(elf::SHF_COMPRESSED),
        virt_addr: header.sh_addr(LE).into(),
        file_offset: header.sh_offset(LE).into(),
        size: header.sh_size(LE).into(),
        link: header.sh_link(LE),
        entry_size: header.sh_entsize(LE).into(),
    };
    Ok(headers.iter().map(section).collect())
}

/// A section's name. Names can share one string, so each is cut at a length that no real one reaches: thousands of
/// sections pointing into one long string must not multiply it.
fn name_at(names: &[u8], offset: u32) -> Box<str> {
    const LONGEST: usize = 256;
    let rest = names.get(offset as usize..).unwrap_or_default();
    let rest = &rest[..rest.len().min(LONGEST)];
    let end = rest.iter().position(|byte| *byte == 0).unwrap_or(rest.len());
    String::from_utf8_lossy(&rest[..end]).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> Elf {
        Elf::open(File::open("/proc/self/exe").unwrap()).unwrap()
    }

    #[test]
    fn our_own_code_is_found_by_file_offset_and_back() {
        let elf = own();
        let text = elf.section(".text").unwrap();
        assert!(text.executable && text.has_bytes());
        assert_eq!(elf.virt_addr(text.file_offset), Some(text.virt_addr));
        assert_eq!(elf.file_offset(text.virt_addr), Some(text.file_offset));
        assert_eq!(elf.code_section_at(text.virt_addr).unwrap().name, text.name);
        assert_eq!(elf.virt_addr(u64::MAX), None);
    }

    #[test]
    fn what_is_not_elf_says_so() {
        assert!(matches!(Elf::from_bytes(Vec::new()), Err(ObjectError::NotElf)));
        assert!(matches!(Elf::from_bytes(b"#!/bin/sh\nexit 0\n".to_vec()), Err(ObjectError::NotElf)));
        let mut big_endian = vec![0; 64];
        big_endian[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 2]);
        assert!(matches!(Elf::from_bytes(big_endian), Err(ObjectError::Unsupported("byte order"))));
    }

    #[test]
    fn damaged_section_headers_leave_the_segments() {
        let mut bytes = std::fs::read("/proc/self/exe").unwrap();
        bytes[0x28..0x30].copy_from_slice(&u64::MAX.to_le_bytes());
        let elf = Elf::from_bytes(bytes).unwrap();
        assert!(elf.sections().is_empty());
        assert_eq!(elf.segments(), own().segments());
    }

    proptest::proptest! {
        #[test]
        fn damaged_headers_never_panic(
            at in 0..64_usize,
            with in proptest::collection::vec(proptest::num::u8::ANY, 1..16),
            cut in 0..4096_usize,
        ) {
            let mut bytes = crate::object::vdso_image().unwrap_or_default();
            bytes.truncate(bytes.len().saturating_sub(cut));
            for (byte, new) in bytes.iter_mut().skip(at).zip(with) {
                *byte = new;
            }
            if let Ok(elf) = Elf::from_bytes(bytes) {
                let _ = (elf.virt_addr(0x100), elf.file_offset(0x100), elf.section(".text"));
            }
        }
    }
}
