//! Object files: opening them safely, and reading what they say about addresses.
//!
//! In: open files, paths below a target's root, bytes of the vDSO. Out: segments, sections, build IDs and separate
//! debug files, for the symbolizer and for the unwind tables. Everything in a file is hostile: contents are copied
//! with `pread` (a mapping would raise SIGBUS when the target truncates the file), counts and sizes are limited, and
//! no parser here panics. This module does not look up names.

mod build_id;
mod debug_file;
mod dynamic;
mod elf;
pub mod limits;
mod open;
mod reader;
mod section;
mod source;
mod symbol_table;
mod vdso;

use std::io;

pub use build_id::BuildId;
pub use debug_file::{DebugFiles, mini_debug_info, supplementary};
pub use elf::{Elf, Section, Segment};
pub use open::open_in_root;
pub(crate) use open::open_in_root_no_follow;
pub(crate) use reader::{SectionReader, Work};
pub use section::SectionData;
pub use source::Source;
pub use symbol_table::{Symbol, SymbolTable};
pub use vdso::vdso_image;

/// Why an object could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// The system refused a read.
    #[error("can't read the file: {0}")]
    Io(#[from] io::Error),
    /// The file does not start as an ELF file does.
    #[error("not an ELF file")]
    NotElf,
    /// An ELF file of a kind that cannot run here.
    #[error("unsupported ELF file: {0}")]
    Unsupported(&'static str),
    /// A header points outside of the file or contradicts itself.
    #[error("damaged ELF file: {0}")]
    Damaged(&'static str),
    /// The file asks for more than [`limits`] allow.
    #[error("over the limit for {0}")]
    Limit(&'static str),
}

/// Result of reading an object.
pub type Result<T, E = ObjectError> = std::result::Result<T, E>;

/// The small ELF files that tests read; `tests/fixtures/symbols/build.sh` says how they were made.
#[cfg(test)]
pub(crate) mod fixtures {
    use std::fs::File;
    use std::path::PathBuf;

    /// Where a file lies.
    pub(crate) fn path(name: &str) -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/symbols").join(name)
    }

    /// A file, open.
    pub(crate) fn open(name: &str) -> File {
        File::open(path(name)).unwrap()
    }

    /// A file's headers.
    pub(crate) fn elf(name: &str) -> super::Elf {
        super::Elf::open(open(name)).unwrap()
    }
}
