//! System calls: who makes which, how often, with what errors, and how long they take.
//!
//! In: sums that the kernel side keeps by owner, call and CPU ([`crate::bpf::CallMaps`]). Out: a [`CallReport`]. The kernel sends no
//! event per call. [`session`] runs a recording, [`upkeep`] keeps it going and inside its budget,
//! [`outcome`] makes the report of it, [`tally`] adds up what it reads, [`model`] is what outputs read.

mod arguments;
pub mod choice;
mod cost;
mod ended;
pub mod estimate;
mod exposure;
mod in_flight;
pub mod model;
pub mod names;
mod outcome;
mod profile;
pub mod session;
mod slices;
mod slow;
mod stacks;
mod tally;
mod upkeep;
mod window;

pub use choice::CallChoice;
pub use estimate::Times;
pub use model::{CallReport, CallStats, InFlight, Measure, OwnerCalls, SlowCall};
pub use session::{CallSession, CallSessionOptions, Owner};
