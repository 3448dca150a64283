//! Bounded reading of small kernel and process files.
//!
//! Files under `/proc` and `/sys` report no size, and some are written by whoever runs a target, so every read here
//! states the most it will take.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

/// Most bytes that [`line`] and [`text`] take: far more than any one-value file or `/proc/PID/status` holds.
const SMALL_FILE_BYTES: u64 = 1 << 16;

/// A file's first `most` bytes.
pub(crate) fn bounded(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    // Files under /sys/kernel/btf report their length; one exact allocation instead of doublings.
    let expected = file.metadata().map_or(0, |data| data.len()).min(most);
    let mut data = Vec::with_capacity(expected as usize + 1);
    file.take(most).read_to_end(&mut data)?;
    Ok(data)
}

/// A small text file; bytes that are not UTF-8 are replaced.
pub(crate) fn text(path: impl AsRef<Path>) -> io::Result<String> {
    bounded(path.as_ref(), SMALL_FILE_BYTES).map(|data| String::from_utf8_lossy(&data).into_owned())
}

/// A one-line file without its surrounding white space; None when it is absent or unreadable.
pub(crate) fn line(path: impl AsRef<Path>) -> Option<String> {
    text(path).ok().map(|text| text.trim().to_owned())
}

/// A one-number file; None when it is absent, unreadable or not a number.
pub(crate) fn number(path: impl AsRef<Path>) -> Option<i64> {
    line(path)?.parse().ok()
}

/// What a symbolic link says, as bytes turned into text.
pub(crate) fn link(path: impl AsRef<Path>) -> Option<Vec<u8>> {
    use std::os::unix::ffi::OsStringExt;
    fs::read_link(path).ok().map(|target| target.into_os_string().into_vec())
}

/// A line `NAME: 1234 kB` of `/proc/PID/status` or `/proc/meminfo` (proc(5)), in bytes; none where it is missing or no such number.
pub(crate) fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name))?;
    value.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}
