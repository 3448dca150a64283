//! What each kind of profile attaches to and what its numbers mean.

pub(crate) mod governor;
mod heap;
mod kind;
mod memory;
mod off_cpu;
mod on_cpu;

pub use heap::{Heap, HeapOptions, LeakOptions, ProbesError};
pub use kind::ProfileKind;
pub use memory::{MappingsWanted, Memory, MemoryError, MemoryOptions, Whom, mapping_calls};
pub use off_cpu::{OffCpu, WaitOptions};
pub use on_cpu::{OnCpu, OnCpuError, Rate, tick_ns};
