//! Profiles over time, in a directory of this host: the windows of continuous recording, kept for days in little room.
//!
//! In: closed windows, one [`Profile`](crate::profile::Profile) each ([`Store::append`]). Out: one profile over any stretch of time and any
//! part of the host ([`Reader::select`]), which every output can draw. No server: who reads opens the files, whether somebody
//! writes or not.
//!
//! ```text
//! lock                    held by the one who writes
//! 0000000041.2.windows    windows of ten minutes     each file: what its windows share (names, objects, locations, stacks as
//! 0000000042.1.windows    … of one minute            a tree, label sets) once, in the record that first needs it; windows
//! 0000000043.0.windows    … as recorded              as columns of numbers; each record packed and under a checksum
//! 0000000040.1.windows.damaged    set aside: nothing reads it, and it goes when its time has come
//! ```
//!
//! Records are only added, and synchronized before [`Store::append`] returns: whatever happens, no more is lost than the window that was
//! being written. Merging writes a new file beside the old one and then renames it; of two files with one number the
//! coarser one counts. Room is made by removing whole files, oldest first.

#![forbid(unsafe_code)]

#[cfg(test)]
mod damage_tests;
mod dictionary;
mod entries;
mod error;
mod figures;
mod filter;
mod folder;
mod limits;
mod merge;
mod narrow;
mod notes;
mod open;
mod reader;
mod record;
mod segment;
mod sum;
#[cfg(test)]
mod tests;
mod window;
mod wire;
mod writer;

pub use error::StoreError;
pub use filter::{Filter, Pattern};
pub use limits::{Limits, Loss, Losses};
pub use open::{Aside, Opened};
pub use reader::{Reader, Selected, Series, SeriesBy, SeriesPoint, WindowInfo};
pub use segment::{Level, VERSION};
pub use sum::profile_of_content;
pub use wire::Damage;
pub use writer::{Appended, Store};

/// Where the store of a host is.
pub const DEFAULT_DIRECTORY: &str = "/var/lib/perf-agent/store";
