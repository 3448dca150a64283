//! pprof's profile.proto, compressed with gzip: what `go tool pprof` and most profile stores read.
//!
//! Lossless for perf-agent: the model's own words (what was recorded, the quality, the kind of code where it can't
//! be told from the mapping) travel in one comment line, `perf-agent: {json}`, which [`crate::import`] reads back.

pub(crate) mod extra;
pub(crate) mod proto;
mod write;

pub(super) use write::{write, write_uncompressed};
