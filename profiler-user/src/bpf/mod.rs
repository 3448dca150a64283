//! The kernel side as user space sees it: loading the programs, opening perf events, reading counters.
//!
//! In: what to record ([`profiler_common::config::Config`]). Out: a running [`Programs`] whose ring fills with records. Everything is
//! a file descriptor; when the agent dies, however it dies, the kernel takes all of it away.

mod batch;
mod entry;
mod figures;
mod growth;
mod heap;
mod loader;
#[cfg(feature = "bpf-log")]
mod log;
pub(crate) mod memory;
mod multi;
mod perf_event;
mod raw;
mod slabs;
mod syscalls;
pub(crate) mod tables;
mod targets;
mod turns;
mod uprobe;
mod waits;

pub use entry::{EntryCosts, ProgramRuns, Trigger};
pub use figures::ProgramFigures;
pub use growth::GrowthPrograms;
pub use heap::{HeapMaps, HeapRuns, HeapTables};
pub use loader::{
    CallTables, LoadError, Programs, ProgramsOptions, WaitTables, map_memory_bytes, time_programs,
};
pub(crate) use perf_event::SIDE_BAND_TRAILER_BYTES;
pub use perf_event::{Clock, Faults, PerfEvent, Tells};
pub use syscalls::{CallCounts, CallMaps};
pub use tables::TableMaps;
pub use targets::Targets;
pub use turns::{CpuTurns, TurnMaps};
pub use uprobe::{Place, Probing, Uprobe, UprobeUnit, When};
pub use waits::Waits;
