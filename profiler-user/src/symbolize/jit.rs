//! Names for code generated at run time, from perf maps: `/tmp/perf-<pid>.map`, as Node.js, the JVM, .NET, PHP and
//! Python write them on request.
//!
//! In: the target's root directory, its PID inside its own namespace, its user, and a sorted batch of addresses. Out:
//! names. The directory is open to everybody, so a map counts only as a regular file of the target's own user, never
//! through a link. The file is streamed past the addresses; it is not kept.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::MetadataExt;
use std::rc::Rc;
use std::sync::Arc;

use super::Names;
use super::kernel::parse_hex;
use crate::object::open_in_root_no_follow;

/// Bytes read of one map. A busy JVM writes about ten megabytes.
const MAP_BYTES: u64 = 64 << 20;

/// Lines read of one map.
const LINES: u64 = 2_000_000;

/// Times that a line may be noted for an address, in all: hostile lines could each cover every address.
const NOTES: u64 = 64 << 20;

/// Longest line that is kept; the rest of it is passed over.
const LINE_BYTES: usize = 8 << 10;

/// Why a perf map is not used.
#[derive(Debug, thiserror::Error)]
pub enum PerfMapError {
    /// The program writes none, or not to the usual place.
    #[error("no perf map")]
    Missing,
    /// Someone else's file lies in its place.
    #[error("the perf map belongs to user {owner}, the process to user {expected}")]
    ForeignOwner {
        /// Owner of the file.
        owner: u32,
        /// User of the process.
        expected: u32,
    },
    /// A link, a device or another thing that is not a regular file, or the system refuses.
    #[error("can't open the perf map: {0}")]
    Io(#[from] io::Error),
}

/// What a perf map said about a batch of addresses.
#[derive(Debug, Default)]
pub struct PerfMapNames {
    /// One entry per address asked for, same order.
    pub names: Vec<Option<Arc<str>>>,
    /// Lines that were understood.
    pub lines: u64,
    /// Lines of another form, passed over.
    pub garbage_lines: u64,
    /// True when the map was longer than the limits: names that were added last are missing.
    pub truncated: bool,
}

/// Opens the perf map of a process.
///
/// `root` stands for the target's `/` (`/proc/<pid>/root`), `pid` is its number inside its own PID namespace, and `uid`
/// the effective user that it runs as, as this process sees users. A map of root counts for a process of root only.
///
/// # Errors
/// When there is none, or it may not be trusted.
pub fn open_perf_map(root: BorrowedFd<'_>, pid: u32, uid: u32) -> Result<File, PerfMapError> {
    let file = match open_in_root_no_follow(root, format!("/tmp/perf-{pid}.map")) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(PerfMapError::Missing),
        Err(error) => return Err(error.into()),
    };
    let owner = file.metadata()?.uid();
    if owner != uid {
        return Err(PerfMapError::ForeignOwner { owner, expected: uid });
    }
    Ok(file)
}

/// Looks up `addresses`, which are sorted, in a perf map. Where lines overlap the later one wins: programs append a
/// line when they reuse memory.
pub fn symbolize(map: impl Read, addresses: &[u64], names: &mut Names) -> PerfMapNames {
    let mut reader = BufReader::with_capacity(64 << 10, map.take(MAP_BYTES + 1));
    let mut result = PerfMapNames::default();
    let mut found: Vec<Option<Rc<[u8]>>> = vec![None; addresses.len()];
    let (mut line, mut bytes, mut notes) = (Vec::with_capacity(512), 0, 0);
    // A file that can't be read to its end has said something before.
    while let Ok(read @ 1..) = read_line(&mut reader, &mut line) {
        bytes += read;
        if bytes > MAP_BYTES || result.lines + result.garbage_lines >= LINES || notes > NOTES {
            result.truncated = true;
            break;
        }
        let Some((start, end, name)) = parse(&line) else {
            result.garbage_lines += 1;
            continue;
        };
        result.lines += 1;
        let first = addresses.partition_point(|address| *address < start);
        let covered = addresses[first..].partition_point(|address| *address < end);
        notes += covered as u64;
        if covered > 0 {
            found[first..first + covered].fill(Some(Rc::from(name)));
        }
    }
    result.names = found.into_iter().map(|raw| raw.map(|raw| names.function(&raw))).collect();
    result
}

/// Reads one line into `line`, cut at a limit; returns the bytes that it takes in the file.
fn read_line(reader: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<u64> {
    line.clear();
    let mut read = 0;
    loop {
        let buffer = reader.fill_buf()?;
        let (part, ended) = match buffer.iter().position(|byte| *byte == b'\n') {
            Some(end) => (end + 1, true),
            None => (buffer.len(), buffer.is_empty()),
        };
        let room = LINE_BYTES.saturating_sub(line.len()).min(part);
        line.extend_from_slice(&buffer[..room]);
        reader.consume(part);
        read += part as u64;
        if ended {
            return Ok(read);
        }
    }
}

/// `START SIZE name with spaces`, numbers in hexadecimal, with or without `0x`.
fn parse(line: &[u8]) -> Option<(u64, u64, &[u8])> {
    let line = line.trim_ascii();
    let mut fields = line.splitn(3, |byte| *byte == b' ');
    let mut number = || {
        let digits = fields.next()?;
        parse_hex(digits.strip_prefix(b"0x").unwrap_or(digits))
    };
    let (start, size) = (number()?, number()?);
    let name = fields.next()?.trim_ascii();
    (!name.is_empty()).then_some((start, start.checked_add(size)?, name))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    fn look_up(map: &str, addresses: &[u64]) -> (Vec<String>, PerfMapNames) {
        let result = symbolize(map.as_bytes(), addresses, &mut Names::default());
        (result.names.iter().map(|name| name.as_deref().unwrap_or("-").to_owned()).collect(), result)
    }

    #[test]
    fn later_lines_win_and_garbage_is_counted() {
        let map =
            "1000 100 LazyCompile:~first file.js:1:2\nnonsense\n0x1080 0x10 second\n\n2000 10\nzz 10 x\n";
        let (names, result) = look_up(map, &[0xfff, 0x1000, 0x1085, 0x1090, 0x1100]);
        assert_eq!(
            names,
            ["-", "LazyCompile:~first file.js:1:2", "second", "LazyCompile:~first file.js:1:2", "-"]
        );
        assert_eq!((result.lines, result.garbage_lines, result.truncated), (2, 4, false));
    }

    #[test]
    fn names_are_cleaned_and_lines_bounded() {
        let (names, _) = look_up("10 10 a\u{1b}[2Jb\n", &[0x10]);
        assert_eq!(names, ["a\\x1b[2Jb"]);
        let long = format!("10 10 {}\n30 10 next\n", "x".repeat(1 << 20));
        let (names, _) = look_up(&long, &[0x10, 0x30]);
        assert!(names[0].len() < LINE_BYTES && names[1] == "next");
    }

    #[test]
    fn only_a_regular_file_of_the_same_user_counts() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("tmp")).unwrap();
        let map = root.path().join("tmp/perf-7.map");
        let dir = File::open(root.path()).unwrap();
        assert!(matches!(open_perf_map(dir.as_fd(), 7, 0), Err(PerfMapError::Missing)));
        std::fs::write(&map, "10 10 x\n").unwrap();
        let own = std::fs::metadata(&map).unwrap().uid();
        assert!(open_perf_map(dir.as_fd(), 7, own).is_ok());
        assert!(matches!(open_perf_map(dir.as_fd(), 7, own + 1), Err(PerfMapError::ForeignOwner { .. })));
        std::os::unix::fs::symlink("perf-7.map", root.path().join("tmp/perf-8.map")).unwrap();
        assert!(matches!(open_perf_map(dir.as_fd(), 8, own), Err(PerfMapError::Io(_))));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_survived(map in proptest::collection::vec(proptest::num::u8::ANY, 0..500)) {
            let _ = symbolize(&map[..], &[0, 1, 0x10, u64::MAX], &mut Names::default());
        }

        #[test]
        fn the_stream_finds_the_last_line_that_covers(
            lines in proptest::collection::vec((0..200_u64, 0..50_u64), 0..30),
            mut addresses in proptest::collection::vec(0..260_u64, 1..30),
        ) {
            addresses.sort_unstable();
            let line = |(n, (start, size)): (usize, &(u64, u64))| format!("{start:x} {size:x} f{n}");
            let map = lines.iter().enumerate().map(line).collect::<Vec<_>>().join("\n");
            let (names, _) = look_up(&map, &addresses);
            for (address, name) in addresses.iter().zip(names) {
                let last = lines.iter().rposition(|(start, size)| (*start..start + size).contains(address));
                proptest::prop_assert_eq!(name, last.map_or("-".to_owned(), |n| format!("f{n}")));
            }
        }
    }
}
