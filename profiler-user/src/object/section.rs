//! A section's contents: read piecewise where they are plain, unpacked as a whole where they are compressed.
//!
//! In: an [`Elf`] and one of its [`Section`]s. Out: [`SectionData`], random access by offset. Plain sections are read
//! through a window of fixed size, so a gigabyte of debug information costs a megabyte of memory here; compressed
//! ones are charged to a budget that all sections of one object share.

use std::cell::{Cell, RefCell};

use object::elf::{self, CompressionHeader32, CompressionHeader64};
use object::read::elf::CompressionHeader;
use object::read::{CompressedData, CompressionFormat};
use object::{LittleEndian as LE, pod};

use super::{Elf, ObjectError, Result, Section, Source, limits};

/// Bytes read from the file at a time.
const CHUNK_BYTES: usize = 32 << 10;

/// Chunks kept per section. Neighbouring chunks never displace each other: a run of this many, one megabyte, stays.
const CHUNKS: usize = 32;

/// The contents of one section.
#[derive(Debug)]
pub struct SectionData<'a> {
    len: u64,
    bytes: Bytes<'a>,
}

#[derive(Debug)]
enum Bytes<'a> {
    Memory(Vec<u8>),
    Window { source: &'a Source, start: u64, chunks: RefCell<Chunks>, misses: Cell<u64> },
}

/// A direct-mapped cache: chunk `n` of the section lives in slot `n % CHUNKS`.
#[derive(Debug, Default)]
struct Chunks {
    slots: Vec<Option<Chunk>>,
    /// The chunk that was displaced last. Two that share a slot and are read in turns, as a function's unwind
    /// information and what it has in common with others, would displace each other with every read.
    displaced: Option<Chunk>,
}

/// A chunk's number and bytes.
type Chunk = (u64, Box<[u8]>);

impl<'a> SectionData<'a> {
    /// A section without contents.
    pub fn empty() -> Self {
        Self { len: 0, bytes: Bytes::Memory(Vec::new()) }
    }

    /// Contents that are in memory already.
    pub(crate) fn memory(bytes: Vec<u8>) -> Self {
        Self { len: bytes.len() as u64, bytes: Bytes::Memory(bytes) }
    }

    /// Opens a section's contents. `budget` is what all decompressed sections of the object may still take, bytes;
    /// what this one takes is subtracted.
    ///
    /// # Errors
    /// When the section lies outside of the file, is damaged, or unpacks to more than the budget.
    pub fn open(elf: &'a Elf, section: &Section, budget: &mut u64) -> Result<Self> {
        if !section.has_bytes() || section.size == 0 {
            return Ok(Self::empty());
        }
        match Self::unpacked(elf, section, budget)? {
            Some(unpacked) => Ok(unpacked),
            None => Self::range(elf.source(), section.file_offset, section.size),
        }
    }

    /// The contents of a compressed section, which need the object no longer; none for a plain one. `budget` is as in
    /// [`SectionData::open`].
    ///
    /// # Errors
    /// When the section is damaged, or unpacks to more than the budget.
    pub fn unpacked(elf: &Elf, section: &Section, budget: &mut u64) -> Result<Option<SectionData<'static>>> {
        match Packed::of(elf, section)? {
            Some(packed) => Ok(Some(SectionData::memory(packed.unpack(elf, budget)?))),
            None => Ok(None),
        }
    }

    /// Opens a range of the file.
    ///
    /// # Errors
    /// When it lies outside.
    pub fn range(source: &'a Source, file_offset: u64, len: u64) -> Result<Self> {
        if file_offset.checked_add(len).is_none_or(|end| end > source.len()) {
            return Err(ObjectError::Damaged("a section lies outside of the file"));
        }
        let (chunks, misses) = (RefCell::default(), Cell::new(0));
        Ok(Self { len, bytes: Bytes::Window { source, start: file_offset, chunks, misses } })
    }

    /// Length, decompressed.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// True when there is nothing to read.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How often the file had to be read, for callers that limit work.
    pub fn misses(&self) -> u64 {
        match &self.bytes {
            Bytes::Memory(_) => 0,
            Bytes::Window { misses, .. } => misses.get(),
        }
    }

    /// Fills `buffer` from `offset`.
    ///
    /// # Errors
    /// When the range is not wholly inside the section, or the file cannot be read.
    #[inline]
    pub fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        if offset.checked_add(buffer.len() as u64).is_none_or(|end| end > self.len) {
            return Err(ObjectError::Damaged("a range lies outside of its section"));
        }
        match &self.bytes {
            Bytes::Memory(bytes) => {
                let range = bytes.get(offset as usize..offset as usize + buffer.len());
                buffer.copy_from_slice(
                    range.ok_or(ObjectError::Damaged("a range lies outside of its section"))?,
                );
            }
            Bytes::Window { source, start, chunks, misses } => {
                let mut chunks = chunks.borrow_mut();
                let (mut at, mut rest) = (offset, buffer);
                while !rest.is_empty() {
                    let chunk = chunks.load(source, *start, self.len, at / CHUNK_BYTES as u64, misses)?;
                    let from = (at % CHUNK_BYTES as u64) as usize;
                    let count = rest.len().min(chunk.len().saturating_sub(from));
                    let (now, later) = rest.split_at_mut(count);
                    now.copy_from_slice(&chunk[from..from + count]);
                    rest = later;
                    at += count as u64;
                }
            }
        }
        Ok(())
    }

    /// Offset of the first `byte` at or after `from`, if there is one before `until`.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn find(&self, byte: u8, from: u64, until: u64) -> Result<Option<u64>> {
        let mut buffer = [0; 256];
        let (mut at, until) = (from, until.min(self.len));
        while at < until {
            let part = &mut buffer[..(until - at).min(256) as usize];
            self.read_exact_at(at, part)?;
            if let Some(found) = part.iter().position(|b| *b == byte) {
                return Ok(Some(at + found as u64));
            }
            at += part.len() as u64;
        }
        Ok(None)
    }

    /// The bytes up to the next zero byte, at most `longest` of them.
    ///
    /// # Errors
    /// When `offset` is outside of the section, or the file cannot be read.
    pub fn string_at(&self, offset: u64, longest: usize) -> Result<Vec<u8>> {
        if offset >= self.len {
            return Err(ObjectError::Damaged("a string lies outside of its section"));
        }
        let until = offset.saturating_add(longest as u64).min(self.len);
        let end = self.find(0, offset, until)?.unwrap_or(until);
        let mut bytes = vec![0; (end - offset) as usize];
        self.read_exact_at(offset, &mut bytes)?;
        Ok(bytes)
    }
}

impl Elf {
    /// Opens a debug section by its usual name (`.debug_info`), also where it has the older name for compressed ones
    /// (`.zdebug_info`). A section that is not there, or has no bytes, is empty.
    ///
    /// # Errors
    /// As [`SectionData::open`].
    pub fn debug_section(&self, name: &str, budget: &mut u64) -> Result<SectionData<'_>> {
        let older = || self.section(&format!(".z{}", name.strip_prefix('.')?));
        match self.section(name).or_else(older) {
            Some(section) => SectionData::open(self, section, budget),
            None => Ok(SectionData::empty()),
        }
    }
}

impl Chunks {
    #[inline]
    fn load(
        &mut self,
        source: &Source,
        start: u64,
        len: u64,
        number: u64,
        misses: &Cell<u64>,
    ) -> Result<&[u8]> {
        if self.slots.is_empty() {
            self.slots.resize_with(CHUNKS, || None);
        }
        let is_loaded = |chunk: &Option<Chunk>| chunk.as_ref().is_some_and(|(loaded, _)| *loaded == number);
        let slot = &mut self.slots[number as usize % CHUNKS];
        if !is_loaded(slot) && is_loaded(&self.displaced) {
            std::mem::swap(slot, &mut self.displaced);
        }
        if !is_loaded(slot) {
            misses.set(misses.get() + 1);
            let from = number * CHUNK_BYTES as u64;
            let bytes = source.read_at(start + from, (len - from).min(CHUNK_BYTES as u64))?;
            self.displaced = slot.replace((number, bytes.into_boxed_slice()));
        }
        slot.as_ref().map(|(_, bytes)| &**bytes).ok_or(ObjectError::Damaged("a section"))
    }
}

/// Where compressed contents lie and what they unpack to.
struct Packed {
    format: CompressionFormat,
    file_offset: u64,
    stored_len: u64,
    len: u64,
}

impl Packed {
    fn of(elf: &Elf, section: &Section) -> Result<Option<Self>> {
        if section.compressed {
            return if elf.is_64() {
                Self::with_header::<CompressionHeader64<LE>>(elf, section).map(Some)
            } else {
                Self::with_header::<CompressionHeader32<LE>>(elf, section).map(Some)
            };
        }
        // The older GNU way: `.zdebug_*`, "ZLIB" and a big-endian size in front.
        if section.name.starts_with(".zdebug_") && section.size > 12 {
            let head = elf.source().read_at(section.file_offset, 12)?;
            if let Some(size) = head.strip_prefix(b"ZLIB").and_then(|size| size.try_into().ok()) {
                return Ok(Some(Self {
                    format: CompressionFormat::Zlib,
                    file_offset: section.file_offset + 12,
                    stored_len: section.size - 12,
                    len: u64::from_be_bytes(size),
                }));
            }
        }
        Ok(None)
    }

    fn with_header<H: CompressionHeader<Endian = LE>>(elf: &Elf, section: &Section) -> Result<Self> {
        let header_size = size_of::<H>() as u64;
        let damaged = ObjectError::Damaged("a compression header");
        let Some(stored_len) = section.size.checked_sub(header_size) else {
            return Err(damaged);
        };
        let head = elf.source().read_at(section.file_offset, header_size)?;
        let Ok((header, _)) = pod::from_bytes::<H>(&head) else {
            return Err(damaged);
        };
        let format = match header.ch_type(LE) {
            elf::ELFCOMPRESS_ZLIB => CompressionFormat::Zlib,
            elf::ELFCOMPRESS_ZSTD => CompressionFormat::Zstandard,
            _ => return Err(ObjectError::Unsupported("compression method")),
        };
        let file_offset = section.file_offset + header_size;
        Ok(Self { format, file_offset, stored_len, len: header.ch_size(LE).into() })
    }

    fn unpack(&self, elf: &Elf, budget: &mut u64) -> Result<Vec<u8>> {
        if self.len > *budget || self.stored_len > limits::DECOMPRESSED_BYTES {
            return Err(ObjectError::Limit("decompressed sections"));
        }
        *budget -= self.len;
        let packed = elf.source().read_at(self.file_offset, self.stored_len)?;
        let data = CompressedData { format: self.format, data: &packed, uncompressed_size: self.len };
        let unpacked = data.decompress().map_err(|_| ObjectError::Damaged("a compressed section"))?;
        Ok(unpacked.into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> Elf {
        Elf::open(std::fs::File::open("/proc/self/exe").unwrap()).unwrap()
    }

    #[test]
    fn a_window_reads_what_the_file_has_in_any_order() {
        let elf = own();
        let section = elf.section(".text").unwrap();
        let data = SectionData::open(&elf, section, &mut 0).unwrap();
        let whole = elf.source().read_at(section.file_offset, section.size).unwrap();
        let mut state = 12345_u64;
        for _ in 0..2000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let at = (state >> 33) % section.size;
            let mut buffer = vec![0; ((state >> 20) % 40_000).min(section.size - at) as usize];
            data.read_exact_at(at, &mut buffer).unwrap();
            assert_eq!(buffer, whole[at as usize..at as usize + buffer.len()]);
        }
        assert!(data.read_exact_at(section.size, &mut [0]).is_err());
        assert!(data.read_exact_at(u64::MAX, &mut [0]).is_err());
        assert!(data.misses() > 0);
    }

    #[test]
    fn two_chunks_that_share_a_slot_stay() {
        let bytes: Vec<u8> = (0..CHUNK_BYTES * (CHUNKS + 1)).map(|at| (at / CHUNK_BYTES) as u8).collect();
        let source = Source::memory(bytes);
        let data = SectionData::range(&source, 0, source.len()).unwrap();
        for _ in 0..100 {
            for chunk in [0, CHUNKS] {
                let mut byte = [0xff];
                data.read_exact_at((chunk * CHUNK_BYTES) as u64, &mut byte).unwrap();
                assert_eq!(usize::from(byte[0]), chunk);
            }
        }
        assert_eq!(data.misses(), 2);
    }

    #[test]
    fn strings_end_at_zero_or_at_the_limit() {
        let data = SectionData { len: 7, bytes: Bytes::Memory(b"ab\0cdef".to_vec()) };
        assert_eq!(data.string_at(0, 10).unwrap(), b"ab");
        assert_eq!(data.string_at(3, 10).unwrap(), b"cdef");
        assert_eq!(data.string_at(3, 2).unwrap(), b"cd");
        assert!(data.string_at(7, 10).is_err());
    }
}
