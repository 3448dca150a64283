//! perf-agent's library: everything but the command line's glue.
//!
//! A sample's way, which is also the order of the folders:
//!
//! ```text
//! kernel event ─► bpf/ (programs, maps) ─► ingest/ (ring, decode) ─► process/ (whose address is it)
//!      ─► unwinder/ over unwind_info/ (tables in, stacks whole) ─► aggregate (count equal stacks) ─► symbolize/ over object/ ─► profile/ (the one model) ─► output/
//! files that were written before ─► import/ ─► profile/ ─► report/ (tables) ─► output/
//! ```
//!
//! `session` wires one recording together, `continuous` lets its windows rotate day and night, `serve` answers whoever asks what is stored, `profile_type` says what to attach for each kind of profile, `system`
//! answers what this kernel can do. The library is usable without the command line in `cli`.

pub mod aggregate;
pub mod alert;
pub mod allocator;
pub mod bpf;
mod causes;
pub mod cli;
pub mod continuous;
pub mod import;
pub mod ingest;
mod intern;
pub mod object;
pub mod output;
pub mod post;
pub mod process;
pub mod profile;
pub mod profile_type;
pub mod push;
mod quantity;
mod question;
pub mod report;
pub mod resolve;
pub mod sched;
pub mod serve;
pub mod session;
pub mod statistics;
pub mod store;
pub mod symbolize;
pub mod syscalls;
pub mod system;
mod trust;
pub mod unwind_info;
pub mod unwinder;
