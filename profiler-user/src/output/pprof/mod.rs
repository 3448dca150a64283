//! pprof's profile.proto, compressed with gzip: what `go tool pprof` and most profile stores read.
//!
//! Lossless for perf-agent: the model's own words (what was recorded, the quality, the kind of code where it can't
//! be told from the mapping) travel as the last entry of the string table, `perf-agent: {json}`, which nothing refers
//! to. A comment would do as well, but `go tool pprof` prints comments above every table; only words for people
//! are there.

pub(crate) mod extra;
pub(crate) mod proto;
mod write;

pub(super) use write::{write, write_uncompressed};
