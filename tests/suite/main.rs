//! End-to-end tests on a real kernel. Those whose name starts with `vm_` also run on every kernel of the matrix.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod cli;
mod faults;
mod foreign;
mod hosts;
mod pprof_golden;
mod truth;
