//! The allocators of a process: which objects bring one, where their functions begin, and at which instruction a probe is cheap.
//!
//! In: a process's executable mappings. Out: for each object with an allocator the places to probe. Everything in an object is hostile:
//! symbols are read through [`crate::object`], code is decoded within bounds.

mod find;
mod names;
mod site;

pub use find::{Allocator, Entry, Flavour, MappedFile, find, mapped_files};
pub use names::{Call, is_entry};
pub use site::{Arch, Chosen, Wanted, choose};
