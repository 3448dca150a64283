//! Reads profiles back: pprof (ours and foreign) and folded stacks.
//!
//! In: bytes that anyone may have written. Out: a [`Profile`] that satisfies the model's rules (ids in range, names
//! cleaned), or an error that says what is wrong and where. Size limits keep a small hostile file from taking much
//! memory; nothing here panics on any input.

#![forbid(unsafe_code)]

mod folded;
mod foreign;
mod limits;
mod pprof;
mod tables;
mod wire;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

pub use folded::read_folded;
pub use limits::{MAX_DECOMPRESSED_BYTES, MAX_FILE_BYTES};
pub use pprof::read_pprof;

use crate::profile::Profile;

/// Why a profile file was not read.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The file can't be opened or read.
    #[error("can't read {}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is damaged or not a profile.
    #[error("{} is not a profile that can be read", .path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: FormatError,
    },
}

/// What is wrong with the bytes of a profile.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// Nothing there.
    #[error("it is empty")]
    Empty,
    /// Neither pprof nor folded stacks.
    #[error("neither pprof nor folded stacks{hint}")]
    Unknown {
        /// What it looks like instead, if that is known.
        hint: &'static str,
    },
    /// The gzip stream is damaged or cut off.
    #[error("the gzip data is damaged or cut off after {unpacked} unpacked bytes: {reason}")]
    Gzip {
        /// Bytes that could be unpacked.
        unpacked: usize,
        /// What the decompressor said.
        reason: String,
    },
    /// A pprof field is damaged or cut off.
    #[error("damaged or cut off at byte {offset}: {what}")]
    Damaged {
        /// Where, in the unpacked bytes.
        offset: usize,
        /// What is wrong there.
        what: String,
    },
    /// A reference that leads nowhere.
    #[error("{what} {id} does not exist")]
    Dangling {
        /// What was referred to: `location`, `string`.
        what: &'static str,
        /// The id.
        id: u64,
    },
    /// A line of folded stacks without a count.
    #[error("line {line} does not end in a count: {text:?}")]
    NoCount {
        /// Line number, from 1.
        line: usize,
        /// Beginning of the line.
        text: String,
    },
    /// Larger than any real profile.
    #[error("too large: {what} over {limit}")]
    TooLarge {
        /// What grew too large.
        what: &'static str,
        /// The limit, with its unit.
        limit: String,
    },
}

/// Reads a profile file of any known format. The content decides, not the name.
///
/// # Errors
/// When the file can't be read, or is not a sound profile.
pub fn read_file(path: &Path) -> Result<Profile, ImportError> {
    let unreadable = |source| ImportError::Unreadable { path: path.to_owned(), source };
    let file = File::open(path).map_err(unreadable)?;
    if file.metadata().map_err(unreadable)?.is_dir() {
        return Err(unreadable(io::Error::from(io::ErrorKind::IsADirectory)));
    }
    read_from(file, path)
}

/// Reads a profile from a stream, such as standard input. `path` is for messages only.
///
/// # Errors
/// When the stream can't be read, or does not hold a sound profile.
pub fn read_from(stream: impl Read, path: &Path) -> Result<Profile, ImportError> {
    let mut bytes = Vec::new();
    let unreadable = |source| ImportError::Unreadable { path: path.to_owned(), source };
    stream.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    let mut profile =
        read_bytes(&bytes).map_err(|source| ImportError::Invalid { path: path.to_owned(), source })?;
    if profile.meta.target.is_empty() {
        let name = path.file_name().unwrap_or(path.as_os_str());
        profile.meta.target = crate::profile::clean(name.as_encoded_bytes());
    }
    Ok(profile)
}

/// Reads a profile of any known format.
///
/// # Errors
/// When the bytes are not a sound profile.
pub fn read_bytes(bytes: &[u8]) -> Result<Profile, FormatError> {
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(limits::too_large("the file is", MAX_FILE_BYTES));
    }
    if bytes.is_empty() {
        return Err(FormatError::Empty);
    }
    if bytes.starts_with(&[0x1f, 0x8b]) {
        return read_pprof(bytes);
    }
    match folded::sniff(bytes) {
        folded::Sniff::Folded => read_folded(bytes),
        folded::Sniff::Text(hint) => Err(FormatError::Unknown { hint }),
        folded::Sniff::Binary => match read_pprof(bytes) {
            // Not even the first field makes sense: another kind of file, not a damaged profile.
            Err(FormatError::Damaged { offset: 0, .. }) => Err(FormatError::Unknown { hint: "" }),
            result => result,
        },
    }
}

#[cfg(test)]
mod tests;
