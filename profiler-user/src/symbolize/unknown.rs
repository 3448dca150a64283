//! Addresses without a name: why, and what stands in the place of the name.
//!
//! An unknown address is data. It keeps its place in the stack as a frame that says where it is, and the reason is
//! counted by module, so that the reader learns what to install or to ask for.

use std::fmt;

use super::Names;
use crate::object::ObjectError;
use crate::profile::{Frame, clean};

/// Why an address has no name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Unknown {
    /// The file could not be opened any more.
    FileGone,
    /// The file was written to or replaced since the samples were taken.
    FileChanged,
    /// The file could not be read.
    Unreadable,
    /// The mapped file holds no code that we could know: data, a script, a JIT's shared memory.
    NotElf,
    /// An ELF file whose headers contradict themselves, or of another machine's kind.
    BadElf,
    /// The offset is in no segment of the file.
    OutsideSegments,
    /// The object has no symbols at all.
    NoSymbols,
    /// The object was stripped to the symbols that it exports, and none of these covers the address.
    OnlyExported,
    /// The object has a full symbol table, and nothing in it covers the address.
    NotCovered,
    /// The object exceeds a limit on work or memory.
    Limit,
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::FileGone => "file is gone",
            Self::FileChanged => "file changed",
            Self::Unreadable => "file can't be read",
            Self::NotElf => "not an ELF file",
            Self::BadElf => "damaged ELF file",
            Self::OutsideSegments => "outside of the file's segments",
            Self::NoSymbols => "no symbols",
            Self::OnlyExported => "stripped to exported symbols",
            Self::NotCovered => "no symbol covers it",
            Self::Limit => "over a limit",
        })
    }
}

impl From<&ObjectError> for Unknown {
    fn from(error: &ObjectError) -> Self {
        match error {
            ObjectError::Io(_) => Self::Unreadable,
            ObjectError::NotElf => Self::NotElf,
            ObjectError::Unsupported(_) | ObjectError::Damaged(_) => Self::BadElf,
            ObjectError::Limit(_) => Self::Limit,
        }
    }
}

/// The frame of an address without a name: module and address, `[libfoo.so+0x1a2b]`.
pub fn unknown_frame(path: &str, address: u64, names: &mut Names) -> Frame {
    let path = path.strip_suffix(" (deleted)").unwrap_or(path);
    let module = path.rsplit('/').find(|part| !part.is_empty()).unwrap_or(path);
    let module = clean(module.trim_start_matches('[').trim_end_matches(']').as_bytes());
    let function = names.share(&format!("[{module}+{address:#x}]"));
    Frame { function, file: None, line: None, inlined: false }
}
