//! What the kernel sends, decoded: samples from the BPF ring, process events from the perf side band.
//!
//! In: bytes. Out: [`RawSample`]s (addresses only) and [`ProcessEvent`]s, both stamped with `CLOCK_MONOTONIC`, so that
//! the session can put them into one order. Nothing here looks at a file or knows what an address means.

mod decode;
mod event;
mod side_band;

pub use decode::{Cold, DecodeError, MemoryEvent, RawSample, Record, decode_record};
pub use event::{EventKind, MapEvent, ProcessEvent, decode_event};
pub use side_band::SideBand;
