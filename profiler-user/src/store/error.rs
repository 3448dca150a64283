//! Why the store could not do what it was asked for.

use std::io;
use std::path::PathBuf;

/// An error of the store. A damaged file is none: it is set aside and reported.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no such directory.
    #[error("there is no store at {}", path.display())]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// Others could have put files there, or could read what is there.
    #[error("{} cannot hold a store: {why}", path.display())]
    NotOurs {
        /// The directory or file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
        /// A command that mends it, where there is one.
        fix: Option<String>,
    },
    /// Another process writes to it.
    #[error("{} is being written to by another perf-agent{}", path.display(), .pid.map(|pid| format!(" (process {pid})")).unwrap_or_default())]
    Locked {
        /// The directory.
        path: PathBuf,
        /// The other process, where it said who it is.
        pid: Option<u32>,
    },
    /// One window is larger than the whole store may be.
    #[error("a window of {bytes} bytes does not fit into a store of {limit} bytes")]
    TooLarge {
        /// Its size as it would be written.
        bytes: u64,
        /// What there is room for.
        limit: u64,
    },
    /// The file system is full, and nothing of the store is left to drop.
    #[error("no room for a window at {}, with nothing left to drop", path.display())]
    Full {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The system refused something.
    #[error("cannot {what} in {}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// The directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}
