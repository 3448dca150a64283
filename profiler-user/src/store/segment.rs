//! One file of the store: the windows of a stretch of time, with the names and stacks that they share.
//!
//! A file begins with a magic number, the version of its form, and their checksum. These 16 bytes stay what they are in every
//! version; all else may change with it.

use std::fs::File;
use std::io::{self, BufReader, Read};

use super::dictionary::{Dictionary, read_sections};
use super::entries::Entries;
use super::folder::Folder;
use super::record::{Cut, Head, Record, Records, checksum};
use super::window::Window;
use super::wire::{Cursor, Damage};

const MAGIC: [u8; 8] = *b"PAWINDOW";

/// The version of the form that this program writes, and the newest that it reads.
pub const VERSION: u32 = 1;

/// Magic number, version, checksum.
pub(super) const HEADER_BYTES: u64 = 16;

/// Ends the names of segment files.
const ENDING: &str = ".windows";

/// How long the windows of a file are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Level {
    /// As they were recorded.
    Recorded,
    /// Merged to one minute.
    Minute,
    /// Merged to ten minutes.
    TenMinutes,
}

impl Level {
    /// All levels, finest first.
    pub const ALL: [Self; 3] = [Self::Recorded, Self::Minute, Self::TenMinutes];

    /// The next coarser level.
    pub fn coarser(self) -> Option<Self> {
        Self::ALL.get(self as usize + 1).copied()
    }

    /// Length of its windows, nanoseconds; none where they are as recorded.
    pub fn window_ns(self) -> Option<u64> {
        match self {
            Self::Recorded => None,
            Self::Minute => Some(60_000_000_000),
            Self::TenMinutes => Some(600_000_000_000),
        }
    }
}

/// What a file is called: its place in the order of time, and how long its windows are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct SegmentName {
    pub(super) number: u64,
    pub(super) level: Level,
}

impl SegmentName {
    pub(super) fn parse(name: &str) -> Option<Self> {
        let (number, level) = name.strip_suffix(ENDING)?.split_once('.')?;
        let level = *Level::ALL.get(level.parse::<usize>().ok()?)?;
        let parsed = Self { number: number.parse().ok()?, level };
        (parsed.file() == name).then_some(parsed)
    }

    pub(super) fn file(self) -> String {
        format!("{:010}.{}{ENDING}", self.number, self.level as usize)
    }
}

/// The first bytes of a file.
pub(super) fn header() -> [u8; HEADER_BYTES as usize] {
    let mut header = [0; HEADER_BYTES as usize];
    header[..8].copy_from_slice(&MAGIC);
    header[8..12].copy_from_slice(&VERSION.to_le_bytes());
    let sum = checksum(&[&header[..12]]);
    header[12..].copy_from_slice(&sum.to_le_bytes());
    header
}

/// Why a file was not opened.
#[derive(Debug)]
pub(super) enum Refused {
    /// A newer version wrote it.
    Newer(u32),
    /// It is no file of ours, or its first bytes are damaged.
    Header(Damage),
    /// It cannot be read at all.
    Io(io::Error),
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Opens a file up to its first record.
pub(super) fn open_records(folder: &Folder, name: &str) -> Result<Records<BufReader<File>>, Refused> {
    let file = folder.read(name)?;
    let length = file.metadata()?.len();
    let mut reader = BufReader::with_capacity(64 << 10, file);
    read_header(&mut reader)?;
    Ok(Records::new(reader, HEADER_BYTES, length))
}

fn read_header(reader: &mut impl Read) -> Result<(), Refused> {
    let mut found = [0; HEADER_BYTES as usize];
    match reader.read_exact(&mut found) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            return Err(Refused::Header(Damage("it ends inside its header")));
        }
        Err(error) => return Err(error.into()),
    }
    let sum = checksum(&[&found[..12]]).to_le_bytes();
    if found[..8] != MAGIC || found[12..] != sum {
        return Err(Refused::Header(Damage("its header is not that of a store")));
    }
    match u32::from_le_bytes([found[8], found[9], found[10], found[11]]) {
        0 => Err(Refused::Header(Damage("its version is zero"))),
        newer if newer > VERSION => Err(Refused::Newer(newer)),
        _ => Ok(()),
    }
}

/// What is in a file.
#[derive(Debug, Clone, Default)]
pub(super) struct Extent {
    /// Windows as they were recorded, also those that were merged since.
    pub(super) windows: u64,
    /// Start of the first one, nanoseconds since the Unix epoch.
    pub(super) first_unix_ns: u64,
    /// End of the last one.
    pub(super) end_unix_ns: u64,
    /// Bytes of the file that are good.
    pub(super) bytes: u64,
}

impl Extent {
    /// Counts one more record.
    pub(super) fn add(&mut self, head: &Head, bytes: u64) {
        self.bytes += bytes;
        if head.parts == 0 {
            return;
        }
        let is_first = self.windows == 0;
        self.windows = self.windows.saturating_add(head.parts);
        self.first_unix_ns =
            if is_first { head.start_unix_ns } else { self.first_unix_ns.min(head.start_unix_ns) };
        self.end_unix_ns = self.end_unix_ns.max(head.end_unix_ns);
    }
}

/// Looks through the records of a file; says where it stops being good.
pub(super) fn measure<R: Read>(records: &mut Records<R>) -> io::Result<(Extent, Option<Cut>)> {
    let mut extent = Extent { bytes: records.at, ..Extent::default() };
    let mut at = records.at;
    while let Some(next) = records.next()? {
        let head = match next {
            Ok(record) => record.head,
            Err(cut) => return Ok((extent, Some(cut))),
        };
        extent.add(&head, records.at - at);
        at = records.at;
    }
    Ok((extent, None))
}

/// Unpacks a record: adds its entries, and returns its window if it has one.
pub(super) fn unpack(
    record: &Record<'_>,
    entries: &mut Entries,
    dictionary: Option<&mut Dictionary>,
) -> Result<Option<Window>, Damage> {
    let content = record.content()?;
    let mut cursor = Cursor::new(&content);
    entries.add(&read_sections(&mut cursor)?, dictionary)?;
    if record.head.parts == 0 {
        return Ok(None);
    }
    let window = Window::read(&mut cursor)?;
    window.check(entries)?;
    if cursor.rest().is_empty() { Ok(Some(window)) } else { Err(Damage("bytes behind the window")) }
}

/// Reads the segment that was written last as far as it is good, to go on with it.
pub(super) fn resume(folder: &Folder, name: &str) -> Result<(Dictionary, Extent, Option<Cut>), Refused> {
    let mut records = open_records(folder, name)?;
    let (mut dictionary, mut entries) = (Dictionary::default(), Entries::default());
    let mut extent = Extent { bytes: records.at, ..Extent::default() };
    loop {
        let at = records.at;
        let head = match records.next()? {
            None => break,
            Some(Err(cut)) => {
                dictionary.commit();
                return Ok((dictionary, extent, Some(cut)));
            }
            Some(Ok(record)) => {
                if let Err(why) = unpack(&record, &mut entries, Some(&mut dictionary)) {
                    return Ok((dictionary, extent, Some(Cut { at, why, is_torn: false })));
                }
                record.head
            }
        };
        extent.add(&head, records.at - at);
        dictionary.commit();
    }
    Ok((dictionary, extent, None))
}
