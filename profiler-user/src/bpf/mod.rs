//! The kernel side as user space sees it: loading the programs, opening perf events, reading counters.
//!
//! In: what to record ([`profiler_common::config::Config`]). Out: a running [`Programs`] whose ring fills with records. Everything is
//! a file descriptor; when the agent dies, however it dies, the kernel takes all of it away.

mod loader;
#[cfg(feature = "bpf-log")]
mod log;
mod perf_event;

pub use loader::{LoadError, Programs, ProgramsOptions, map_memory_bytes};
pub(crate) use perf_event::SIDE_BAND_TRAILER_BYTES;
pub use perf_event::{Clock, PerfEvent};
