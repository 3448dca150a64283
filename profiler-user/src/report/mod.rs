//! Tables computed from a profile: who is hot, who calls whom.
//!
//! In: a finished [`Profile`](crate::profile::Profile). Out: plain data that the outputs print. Nothing here formats
//! or writes. All tables name functions through [`Functions`], so they agree on what "the same function" means.

#![forbid(unsafe_code)]

mod callers;
mod changes;
mod functions;
mod hotspots;
pub mod leaks;
mod tree;

pub use callers::{Branch, MAX_LEVELS, Neighbours, NoSuchFunction, Side, neighbours};
pub use changes::{Change, Changes, changes};
pub use functions::{Detail, Function, FunctionClass, FunctionId, Functions};
pub use hotspots::{Hotspot, Hotspots, SortBy, hotspots};
pub use tree::{CallTree, Merge, Node, Roots};
