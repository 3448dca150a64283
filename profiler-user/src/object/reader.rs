//! How gimli reads a section that is not in memory, within a limit on work.
//!
//! In: [`SectionData`]. Out: a gimli [`Reader`]. Every read is charged, so any loop that a hostile file can make a
//! parser run ends: gimli sees the end of its input when the work is used up, and [`Work::is_used_up`] tells why.

use std::borrow::Cow;
use std::cell::Cell;

use gimli::{Error, LittleEndian, Reader, ReaderOffsetId, Result};

use super::SectionData;

/// Reads that one object's debug information may take, unless the caller says otherwise. A read is 5 to 20 ns with what the parser does between, so this
/// is two to four seconds of one core; two thousand addresses all over a 40 MB test binary take a fortieth of it.
const READS: u64 = 200_000_000;

/// What one read from the file counts for: a system call that copies 32 KiB.
const MISS_READS: u64 = 2000;

/// Longest piece that is copied out whole. Only strings are, and the model cuts them at 4 KiB.
const LONGEST_COPY_BYTES: u64 = 16 << 10;

/// The work that is left.
#[derive(Debug)]
pub(crate) struct Work(Cell<u64>);

impl Default for Work {
    fn default() -> Self {
        Self(Cell::new(READS))
    }
}

impl Work {
    /// A limit of one's own.
    pub(crate) fn of(reads: u64) -> Self {
        Self(Cell::new(reads))
    }

    /// True once the limit was reached; every read since then failed.
    pub(crate) fn is_used_up(&self) -> bool {
        self.0.get() == 0
    }

    /// Subtracts work that is not a read.
    ///
    /// # Errors
    /// When nothing is left.
    #[inline]
    pub(crate) fn charge(&self, reads: u64) -> Result<()> {
        let left = self.0.get().saturating_sub(reads);
        self.0.set(left);
        if left == 0 { Err(Error::UnexpectedEof(ReaderOffsetId(0))) } else { Ok(()) }
    }
}

/// A part of a section.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SectionReader<'a> {
    data: &'a SectionData<'a>,
    work: &'a Work,
    at: u64,
    end: u64,
}

impl<'a> SectionReader<'a> {
    /// A whole section.
    pub(crate) fn new(data: &'a SectionData<'a>, work: &'a Work) -> Self {
        Self { data, work, at: 0, end: data.len() }
    }

    /// The same section, seen as if it ended at `end`.
    pub(crate) fn cut_at(self, end: u64) -> Self {
        Self { end: self.end.min(end), ..self }
    }

    /// All bytes that are left, up to the longest piece that is copied.
    pub(crate) fn bytes(&self) -> Result<Vec<u8>> {
        let mut bytes = vec![0; self.len().min(LONGEST_COPY_BYTES) as usize];
        self.fill(self.at, &mut bytes)?;
        Ok(bytes)
    }

    fn eof(&self) -> Error {
        Error::UnexpectedEof(ReaderOffsetId(self.at))
    }

    #[inline]
    fn fill(&self, at: u64, buffer: &mut [u8]) -> Result<()> {
        let misses = self.data.misses();
        self.data.read_exact_at(at, buffer).map_err(|_| self.eof())?;
        self.work.charge(1 + (self.data.misses() - misses) * MISS_READS)
    }

    #[inline]
    fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        if self.end - self.at < N as u64 {
            return Err(self.eof());
        }
        let mut bytes = [0; N];
        self.fill(self.at, &mut bytes)?;
        self.at += N as u64;
        Ok(bytes)
    }
}

impl Reader for SectionReader<'_> {
    type Endian = LittleEndian;
    type Offset = u64;

    #[inline]
    fn endian(&self) -> LittleEndian {
        LittleEndian
    }

    #[inline]
    fn len(&self) -> u64 {
        self.end - self.at
    }

    #[inline]
    fn empty(&mut self) {
        self.at = self.end;
    }

    #[inline]
    fn truncate(&mut self, len: u64) -> Result<()> {
        if len > self.len() {
            return Err(self.eof());
        }
        self.end = self.at + len;
        Ok(())
    }

    #[inline]
    fn offset_from(&self, base: &Self) -> u64 {
        self.at.saturating_sub(base.at)
    }

    #[inline]
    fn offset_id(&self) -> ReaderOffsetId {
        ReaderOffsetId(self.at)
    }

    #[inline]
    fn lookup_offset_id(&self, id: ReaderOffsetId) -> Option<u64> {
        (self.at..=self.end).contains(&id.0).then(|| id.0 - self.at)
    }

    fn find(&self, byte: u8) -> Result<u64> {
        let misses = self.data.misses();
        let found = self.data.find(byte, self.at, self.end).ok().flatten().ok_or_else(|| self.eof())?;
        let read = (found - self.at) / 16 + (self.data.misses() - misses) * MISS_READS;
        self.work.charge(1 + read)?;
        Ok(found - self.at)
    }

    #[inline]
    fn skip(&mut self, len: u64) -> Result<()> {
        if len > self.len() {
            return Err(self.eof());
        }
        self.at += len;
        Ok(())
    }

    #[inline]
    fn split(&mut self, len: u64) -> Result<Self> {
        let mut first = *self;
        first.truncate(len)?;
        self.at += len;
        Ok(first)
    }

    fn to_slice(&self) -> Result<Cow<'_, [u8]>> {
        self.bytes().map(Cow::Owned)
    }

    fn to_string(&self) -> Result<Cow<'_, str>> {
        String::from_utf8(self.bytes()?).map(Cow::Owned).map_err(|_| Error::BadUtf8)
    }

    fn to_string_lossy(&self) -> Result<Cow<'_, str>> {
        Ok(Cow::Owned(String::from_utf8_lossy(&self.bytes()?).into_owned()))
    }

    #[inline]
    fn read_slice(&mut self, buffer: &mut [u8]) -> Result<()> {
        let len = buffer.len() as u64;
        if len > self.len() {
            return Err(self.eof());
        }
        self.fill(self.at, buffer)?;
        self.at += len;
        Ok(())
    }

    #[inline]
    fn read_u8(&mut self) -> Result<u8> {
        self.take::<1>().map(|bytes| bytes[0])
    }

    #[inline]
    fn read_u16(&mut self) -> Result<u16> {
        self.take().map(u16::from_le_bytes)
    }

    #[inline]
    fn read_u32(&mut self) -> Result<u32> {
        self.take().map(u32::from_le_bytes)
    }

    #[inline]
    fn read_u64(&mut self) -> Result<u64> {
        self.take().map(u64::from_le_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_ends_when_the_work_is_used_up() {
        let elf = crate::object::Elf::open(std::fs::File::open("/proc/self/exe").unwrap()).unwrap();
        let data = elf.debug_section(".debug_info", &mut (1 << 30)).unwrap();
        let work = Work::of(10_000);
        let mut reader = SectionReader::new(&data, &work);
        let mut reads = 0;
        while reader.read_u8().is_ok() {
            reads += 1;
        }
        assert!(work.is_used_up() && !reader.is_empty());
        assert!((1_000..=10_000).contains(&reads), "{reads}");
    }
}
