//! Names for addresses: functions, inlined calls, source lines.
//!
//! In: addresses with the object, kernel or generated code that they lie in. Out: frames for [`crate::profile`]. Each
//! source of names has a file: [`native`] for object files, [`kernel`] for `/proc/kallsyms`, [`jit`] for perf maps.
//! An address without a name is data, not an error: it becomes a frame `[libfoo.so+0x1a2b]` and a reason. Which
//! process an address belongs to is decided before this stage.

mod demangle;
mod dwarf;
mod go;
pub mod jit;
pub mod kernel;
mod names;
pub mod native;
mod plt;
mod symbols;
mod unknown;

pub use demangle::demangle;
pub(crate) use go::go_code;
pub use names::Names;
pub use unknown::{Unknown, unknown_frame};
