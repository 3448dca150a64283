//! Unwinding of user stacks, one frame at a time, over a [`Memory`].
//!
//! Pure and bounded: no allocation, no loops that depend on input, no panics, so that the BPF verifier accepts it
//! and the host can test and fuzz it. In: registers and stack memory. Out: the caller's registers, or why there is
//! none. Finding the module of an address and writing frames down is the caller's business.

mod frame_pointer;

pub use frame_pointer::step;

use crate::stop::StopReason;

/// Stack memory of the walked task.
pub trait Memory {
    /// The two 64-bit words at `abs_addr` and `abs_addr + 8`, or none when they cannot be read.
    fn word_pair(&self, abs_addr: u64) -> Option<[u64; 2]>;
}

/// The instruction set, as far as a stack walk differs by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arch {
    /// x86_64: the call pushes the return address.
    X86_64,
    /// AArch64: the call leaves the return address in x30; it may be signed.
    Aarch64,
}

/// Registers that a walk starts from and carries from frame to frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Registers {
    /// Instruction pointer of the leaf, return address of every other frame.
    pub ip: u64,
    /// Stack pointer.
    pub sp: u64,
    /// Frame pointer: rbp, or x29.
    pub fp: u64,
}

/// What one step of a walk found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The caller's registers; `ip` is a return address.
    Caller(Registers),
    /// There is no caller, or none that can be found.
    Stop(StopReason),
}
