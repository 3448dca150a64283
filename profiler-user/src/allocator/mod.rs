//! The allocators of a process: which objects bring one, where their functions begin, and at which instruction a probe is cheap.
//!
//! In: a process's executable mappings. Out: for each object with an allocator the places to probe. Everything in an object is hostile:
//! symbols are read through [`crate::object`], code is decoded within bounds.

mod find;
mod go;
mod go_code;
mod names;
mod site;
mod site_arm;

pub use find::{Allocator, Entry, Flavour, Group, Identity, MappedFile, find, mapped_files};
pub use go::GoChoice;
pub use names::{Call, inner_frames};
pub use site::{Arch, Chosen, Wanted, choose};
