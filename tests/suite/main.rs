//! End-to-end tests on a real kernel. Those whose name starts with `vm_` also run on every kernel of the matrix.

mod cli;
mod faults;
mod foreign;
mod hosts;
mod pprof_golden;
mod truth;
