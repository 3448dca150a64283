//! What each kind of profile attaches to and what its numbers mean.

mod on_cpu;

pub use on_cpu::{OnCpu, OnCpuError, tick_ns};
