//! Continuous recording: one session whose windows rotate, day and night.
//!
//! In: a configuration. Out: windows in a store. The caller drives a [`Recorder`] as it would a session; windows are closed on the clock, and
//! named and stored on a thread of their own ([`writer`]), so that the ring is drained meanwhile. Nothing here talks to people or reads signals.

mod align;
mod allocations;
mod calls;
pub mod config;
mod feeds;
mod filter;
mod latency;
mod live;
mod recorder;
mod resources;
pub mod status;
mod words;
mod writer;

pub use allocations::AllocationStatus;
pub use config::{ApiConfig, Config};
pub use filter::{Filter, Rule};
pub use latency::{BOUNDS_NS, Latencies, Latency, MOST_CALLS};
pub use live::{Live, MOST_PROCESSES, Sums, WindowSums};
pub use recorder::{Recorder, StartError, WriterGone};
pub use words::Words;
pub use writer::Written;
