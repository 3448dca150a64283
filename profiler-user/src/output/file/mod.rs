//! Where results go: files that never overwrite anything in silence and belong to the user behind sudo.
//!
//! Two steps. Before a recording [`OutputPlan::open`] settles names and formats and proves that the places can be
//! written, so that nobody waits thirty seconds for an error. Afterwards [`OutputPlan::write`] writes and gives each
//! file its name only when it is complete.

mod directory;
mod draft;
mod names;
mod place;
mod plan;

use std::io;
use std::path::PathBuf;

pub use names::{NameParts, default_stem};
pub use place::{Destination, Existing, Written};
pub use plan::{OutputPlan, PlanRequest};

use super::{OutputError, UnknownFormat, bytes};

/// Why a result was not written.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The name selects no format.
    #[error(transparent)]
    Format(#[from] UnknownFormat),
    /// A placeholder that does not exist.
    #[error(
        "unknown placeholder %{placeholder} in {name:?}; known: %p pid, %c command, %h host, %t time, %m mode, %n number, %% percent"
    )]
    Placeholder {
        /// The name with the placeholder.
        name: String,
        /// The character after the percent sign, or nothing at the end of the name.
        placeholder: String,
    },
    /// The same place twice.
    #[error("{} is given twice", .path.display())]
    Twice {
        /// The place.
        path: PathBuf,
    },
    /// The path does not end in a file name.
    #[error("{} is not a file name", .path.display())]
    NoName {
        /// The path.
        path: PathBuf,
    },
    /// Something that is not a file has that name.
    #[error("{} exists and is {what}, which is not replaced", .path.display())]
    InTheWay {
        /// The path.
        path: PathBuf,
        /// What it is: `a directory`, `a symbolic link`.
        what: &'static str,
    },
    /// The directory can't be written.
    #[error("can't write to {}{who}", .directory.display())]
    Directory {
        /// The directory.
        directory: PathBuf,
        /// What the system said.
        source: io::Error,
        /// Under whose identity, when that is not obvious.
        who: String,
    },
    /// Writing failed in the middle. What was written is removed.
    #[error("can't write {} (stopped after {})", .path.display(), bytes(*.written))]
    Write {
        /// The file.
        path: PathBuf,
        /// Bytes that went well.
        written: u64,
        /// What went wrong.
        source: OutputError,
    },
}

impl FileError {
    /// True for mistakes in the command line, which are told apart from trouble with the system.
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::Format(_) | Self::Placeholder { .. } | Self::Twice { .. } | Self::NoName { .. })
    }
}

#[cfg(test)]
mod tests;
