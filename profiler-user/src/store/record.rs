//! One record of a segment file: a length, a checksum, a head that says which window it is, and packed content.
//!
//! Records are only ever added. Whatever stopped a writer, everything before the record that it was writing is whole.

use std::io::{self, Read, Write};

use flate2::Compression;
use flate2::read::DeflateDecoder;
use flate2::write::DeflateEncoder;

use super::wire::{Cursor, Damage, put, put_blob};

/// Largest content of a record, unpacked. A window of ten seconds on a busy host is a hundredth of it.
pub(super) const MOST_CONTENT_BYTES: usize = 32 << 20;

/// Largest record as it is written: content that does not pack, and its head.
const MOST_BODY_BYTES: u32 = (MOST_CONTENT_BYTES + (1 << 20)) as u32;

/// Length and checksum.
const PREFIX_BYTES: u64 = 8;

/// Which window a record holds. Records of names alone have an empty profile type.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Head {
    /// In the words of the command line: `cpu`.
    pub(super) profile_type: String,
    /// Nanoseconds since the Unix epoch.
    pub(super) start_unix_ns: u64,
    /// Nanoseconds, without gaps: the sum of what was merged.
    pub(super) duration_ns: u64,
    /// End of the last window that was merged, nanoseconds since the Unix epoch.
    pub(super) end_unix_ns: u64,
    /// Windows that were merged into this one; zero for a record without a window.
    pub(super) parts: u64,
}

/// A record as it is written.
pub(super) fn pack(head: &Head, content: &[u8]) -> io::Result<Vec<u8>> {
    if content.len() > MOST_CONTENT_BYTES {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "a window is too large"));
    }
    let mut record = vec![0; PREFIX_BYTES as usize];
    put_blob(&mut record, head.profile_type.as_bytes());
    for number in [head.start_unix_ns, head.duration_ns, head.end_unix_ns, head.parts] {
        put(&mut record, number);
    }
    let mut packer = DeflateEncoder::new(record, Compression::default());
    packer.write_all(content)?;
    let mut record = packer.finish()?;
    let length = (record.len() as u32 - PREFIX_BYTES as u32).to_le_bytes();
    let sum = checksum(&[&length, &record[PREFIX_BYTES as usize..]]).to_le_bytes();
    record[..4].copy_from_slice(&length);
    record[4..8].copy_from_slice(&sum);
    Ok(record)
}

/// A record that was read: its checksum is right.
#[derive(Debug)]
pub(super) struct Record<'a> {
    pub(super) head: Head,
    packed: &'a [u8],
}

impl Record<'_> {
    /// Its content.
    pub(super) fn content(&self) -> Result<Vec<u8>, Damage> {
        let mut content = Vec::new();
        let mut unpacker = DeflateDecoder::new(self.packed).take(MOST_CONTENT_BYTES as u64 + 1);
        unpacker.read_to_end(&mut content).map_err(|_| Damage("it does not unpack"))?;
        if content.len() > MOST_CONTENT_BYTES { Err(Damage("it is too large")) } else { Ok(content) }
    }
}

/// Where a file stops being readable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cut {
    /// Bytes before that place, which are good.
    pub(super) at: u64,
    /// What is wrong there.
    pub(super) why: Damage,
    /// It looks like a record that was being written when its writer stopped: nothing comes behind it.
    pub(super) is_torn: bool,
}

/// Reads the records of a file, one after the other.
pub(super) struct Records<R> {
    reader: R,
    /// Offset of the next record.
    pub(super) at: u64,
    length: u64,
    body: Vec<u8>,
}

impl<R: Read> Records<R> {
    /// Records of a file of `length` bytes, of which `at` were read.
    pub(super) fn new(reader: R, at: u64, length: u64) -> Self {
        Self { reader, at, length, body: Vec::new() }
    }

    /// The next record; none at the end. After a cut there are no more.
    pub(super) fn next(&mut self) -> io::Result<Option<Result<Record<'_>, Cut>>> {
        let rest = self.length.saturating_sub(self.at);
        if rest == 0 {
            return Ok(None);
        }
        let at = self.at;
        let cut = |why, is_torn| Ok(Some(Err(Cut { at, why: Damage(why), is_torn })));
        // Whatever is wrong, there is no second try.
        self.at = self.length;
        let mut prefix = [0; PREFIX_BYTES as usize];
        if rest < PREFIX_BYTES || !fill(&mut self.reader, &mut prefix)? {
            return cut("it ends inside a record", true);
        }
        let [length, sum] =
            [&prefix[..4], &prefix[4..]].map(|word| u32::from_le_bytes(word.try_into().unwrap_or_default()));
        if length == 0 {
            // A file system that lost power may have made room without the bytes.
            return cut("a record is empty", true);
        }
        if length > MOST_BODY_BYTES {
            return cut("a record is too large", false);
        }
        let end = at + PREFIX_BYTES + u64::from(length);
        if end > self.length {
            return cut("it ends inside a record", true);
        }
        self.body.resize(length as usize, 0);
        if !fill(&mut self.reader, &mut self.body)? {
            return cut("it ends inside a record", true);
        }
        if checksum(&[&prefix[..4], &self.body]) != sum {
            return cut("a checksum is wrong", end == self.length);
        }
        let mut cursor = Cursor::new(&self.body);
        let Ok(head) = read_head(&mut cursor) else { return cut("a record has no head", false) };
        let packed_at = self.body.len() - cursor.rest().len();
        self.at = end;
        Ok(Some(Ok(Record { head, packed: &self.body[packed_at..] })))
    }
}

/// The head of the record that these bytes begin with, and the size of the record. The checksum is not looked at.
pub(super) fn head_at(bytes: &[u8]) -> Option<(Head, u64)> {
    let length = u32::from_le_bytes(*bytes.first_chunk()?);
    let head = read_head(&mut Cursor::new(bytes.get(PREFIX_BYTES as usize..)?)).ok()?;
    (length > 0).then_some((head, PREFIX_BYTES + u64::from(length)))
}

fn read_head(cursor: &mut Cursor<'_>) -> Result<Head, Damage> {
    let profile_type = crate::profile::clean(cursor.blob()?);
    let (start_unix_ns, duration_ns) = (cursor.number()?, cursor.number()?);
    let (end_unix_ns, parts) = (cursor.number()?, cursor.number()?);
    Ok(Head { profile_type, start_unix_ns, duration_ns, end_unix_ns, parts })
}

/// Whether there were enough bytes.
fn fill(reader: &mut impl Read, bytes: &mut [u8]) -> io::Result<bool> {
    match reader.read_exact(bytes) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

/// CRC-32 of several pieces, one behind the other.
pub(super) fn checksum(parts: &[&[u8]]) -> u32 {
    let mut crc = flate2::Crc::new();
    for part in parts {
        crc.update(part);
    }
    crc.sum()
}
