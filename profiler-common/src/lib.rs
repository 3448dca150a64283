//! What crosses the border between perf-agent's BPF programs and its user side, and the code that runs on both.
//!
//! [`sample`] is what the programs send, [`config`] what they are told when they load, [`stats`] what they count.
//! [`heap`] is how calls of an allocator are counted, [`memory`] is what events of memory say, [`off_cpu`] is how waits are measured and added up, [`mapping`] is how the programs find unwind rows,
//! [`unwind`] the stack walker itself: pure functions over a [`unwind::Memory`], compiled into the BPF programs
//! and into the host's tests alike. Layouts are asserted at compile time, because both sides read them as bytes.
#![no_std]
#![cfg_attr(not(feature = "user"), forbid(unsafe_code))]

#[cfg(test)]
extern crate std;

pub mod config;
pub mod heap;
pub mod histogram;
pub mod limits;
pub mod mapping;
pub mod memory;
pub mod off_cpu;
pub mod sample;
pub mod sched;
pub mod stats;
pub mod stop;
pub mod syscall;
pub mod unwind;
