//! End-to-end tests on a real kernel. Those whose name starts with `vm_` also run on every kernel of the matrix.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod alerts;
mod alloc;
mod api;
mod bench_overhead;
mod budget;
mod cli;
mod daemon;
mod daemon_allocations;
mod daemon_beside;
mod daemon_disk;
mod daemon_kill;
mod daemon_windows;
mod faults;
mod foreign;
mod framehop;
mod go_alloc;
mod hosts;
mod leak_lives;
mod leak_strangers;
mod leaks;
mod memory;
mod metrics;
mod off_cpu;
mod page;
mod pprof_golden;
mod preloaded;
mod push;
mod realloc_chains;
mod recording;
mod sched;
mod store;
mod syscalls;
mod truth;
mod unwind;
mod unwind_rows;
