//! One file per trigger: what fires, and what a sample of it is worth.

pub(crate) mod go_heap;
pub(crate) mod heap;
pub(crate) mod lifecycle;
pub(crate) mod memory;
pub(crate) mod off_cpu;
pub(crate) mod on_cpu;
pub(crate) mod sched;
pub(crate) mod self_check;
pub(crate) mod syscall;
