//! perf-agent's build and test driver: the only place that knows toolchains.
//!
//! A library so that the build script of `profiler-user` builds the BPF object by the same code as every `cargo xtask`
//! command. The commands are in the binary.

pub mod bpf;
pub mod toolchain;
