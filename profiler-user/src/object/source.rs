//! The bytes of an object: an open file that is read with `pread`, or a copy in memory.
//!
//! In: a file or a byte vector. Out: copies of ranges. Never a memory mapping: the file's owner could truncate it, and
//! the first access after that would kill this process with SIGBUS.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};

use super::{ObjectError, Result};

/// Where an object's bytes come from.
#[derive(Debug)]
pub struct Source {
    bytes: Bytes,
    len: u64,
}

#[derive(Debug)]
enum Bytes {
    /// An open file, and its state when it was opened.
    File(File, Stamp),
    Memory(Vec<u8>),
}

/// What tells that a file was written to. The change time is left out: unlinking a file, as every package upgrade
/// does, moves it while the contents stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    len: u64,
    modified_s: i64,
    modified_ns: i64,
}

impl Stamp {
    fn of(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        Ok(Self { len: metadata.len(), modified_s: metadata.mtime(), modified_ns: metadata.mtime_nsec() })
    }
}

impl Source {
    /// A file. Its current length is the limit of every later read.
    ///
    /// # Errors
    /// When the file's metadata cannot be read.
    pub fn file(file: File) -> io::Result<Self> {
        let stamp = Stamp::of(&file)?;
        Ok(Self { len: stamp.len, bytes: Bytes::File(file, stamp) })
    }

    /// A copy in memory.
    pub fn memory(bytes: Vec<u8>) -> Self {
        Self { len: bytes.len() as u64, bytes: Bytes::Memory(bytes) }
    }

    /// Length in bytes when the object was opened.
    #[expect(clippy::len_without_is_empty, reason = "an empty object is not an object")]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// True while a file's length and modification time are those of the beginning. Always true for memory.
    pub fn is_unchanged(&self) -> bool {
        match &self.bytes {
            Bytes::File(file, stamp) => Stamp::of(file).is_ok_and(|now| now == *stamp),
            Bytes::Memory(_) => true,
        }
    }

    /// Fills `buffer` from `offset`.
    ///
    /// # Errors
    /// When the range is not wholly inside the object, or the file got shorter, or the system refuses.
    pub fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let end = offset.checked_add(buffer.len() as u64);
        if end.is_none_or(|end| end > self.len) {
            return Err(ObjectError::Damaged("a range lies outside of the file"));
        }
        match &self.bytes {
            Bytes::File(file, _) => file.read_exact_at(buffer, offset)?,
            Bytes::Memory(bytes) => {
                let start = offset as usize;
                let range = bytes.get(start..start + buffer.len());
                buffer
                    .copy_from_slice(range.ok_or(ObjectError::Damaged("a range lies outside of the file"))?);
            }
        }
        Ok(())
    }

    /// A copy of `len` bytes from `offset`. The range is checked against the file before memory is taken; but a
    /// sparse file can be longer than any disk, so callers limit `len` as well.
    ///
    /// # Errors
    /// As [`Source::read_exact_at`].
    pub fn read_at(&self, offset: u64, len: u64) -> Result<Vec<u8>> {
        if offset.checked_add(len).is_none_or(|end| end > self.len) {
            return Err(ObjectError::Damaged("a range lies outside of the file"));
        }
        let mut buffer = vec![0; len as usize];
        self.read_exact_at(offset, &mut buffer)?;
        Ok(buffer)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn ranges_outside_are_refused_before_memory_is_taken() {
        let source = Source::memory(vec![1, 2, 3]);
        assert_eq!(source.read_at(1, 2).unwrap(), [2, 3]);
        assert!(source.read_at(1, 3).is_err());
        assert!(source.read_at(0, u64::MAX).is_err());
        assert!(source.read_at(u64::MAX, 1).is_err());
    }

    #[test]
    fn a_file_that_shrinks_is_an_error_and_counts_as_changed() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[7; 100]).unwrap();
        let source = Source::file(file.try_clone().unwrap()).unwrap();
        assert!(source.is_unchanged());
        file.set_len(10).unwrap();
        assert!(source.read_at(50, 10).is_err());
        assert!(!source.is_unchanged());
    }
}
