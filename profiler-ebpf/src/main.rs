//! perf-agent's BPF programs: entry points only.
//!
//! Every probe takes the same way: scope → header → user walk (tail calls) → kernel stack → ring. The programs look
//! maps up and write per-CPU memory; only the process programs, which no sampler interrupts half-way, insert into maps.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod collect;
mod context;
mod emit;
mod kernel;
mod maps;
mod probe;
mod scratch;
mod stats;
mod unwind;

use aya_ebpf::macros::{perf_event, raw_tracepoint, uprobe, uretprobe};
use aya_ebpf::programs::{PerfEventContext, ProbeContext, RawTracePointContext, RetProbeContext};

/// A CPU sample: the clock or the hardware counter of this CPU fired.
#[perf_event]
pub fn sample_cpu(ctx: PerfEventContext) -> u32 {
    probe::on_cpu::sample(&ctx)
}

/// The user walk of a CPU sample, sixteen frames at a time.
#[perf_event]
pub fn walk_cpu(ctx: PerfEventContext) -> u32 {
    probe::on_cpu::walk(&ctx)
}

/// `sched_switch`: one thread leaves this CPU, another one begins to run on it.
#[raw_tracepoint]
pub fn thread_switched(ctx: RawTracePointContext) -> i32 {
    probe::off_cpu::switched(&ctx)
}

/// `sched_waking`: the current task, or an interrupt, wakes a thread.
#[raw_tracepoint]
pub fn thread_woken(ctx: RawTracePointContext) -> i32 {
    probe::off_cpu::woken(&ctx)
}

/// The user walk of a thread that leaves its CPU.
#[raw_tracepoint]
pub fn walk_switch(ctx: RawTracePointContext) -> i32 {
    probe::off_cpu::walk_switch(&ctx)
}

/// The user walk of a thread that wakes another one.
#[raw_tracepoint]
pub fn walk_wake(ctx: RawTracePointContext) -> i32 {
    probe::off_cpu::walk_wake(&ctx)
}

/// `sched_wakeup`, `sched_wakeup_new`: a thread waits for a CPU from now on.
#[raw_tracepoint]
pub fn thread_queued(ctx: RawTracePointContext) -> i32 {
    probe::sched::queued(&ctx)
}

/// `sched_switch`: a turn on this CPU is over, another one begins.
#[raw_tracepoint]
pub fn turn_switched(ctx: RawTracePointContext) -> i32 {
    probe::sched::switched(&ctx)
}

/// A function of an allocator begins.
#[uprobe]
pub fn heap_entered(ctx: ProbeContext) -> u32 {
    probe::heap::entered(&ctx)
}

/// A function of Go's allocator begins.
#[uprobe]
pub fn go_heap_entered(ctx: ProbeContext) -> u32 {
    probe::go_heap::entered(&ctx)
}

/// A function of an allocator returns.
#[uretprobe]
pub fn heap_returned(ctx: RetProbeContext) -> u32 {
    probe::heap::left(&ctx)
}

/// The user walk of an allocation.
#[uprobe]
pub fn walk_heap(ctx: ProbeContext) -> u32 {
    probe::heap::walk(&ctx)
}

/// A page fault was handled: one in as many as the event's period.
#[perf_event]
pub fn page_faulted(ctx: PerfEventContext) -> u32 {
    probe::memory::faulted(&ctx)
}

/// The user walk of a page fault.
#[perf_event]
pub fn walk_fault(ctx: PerfEventContext) -> u32 {
    probe::memory::walk_fault(&ctx)
}

/// `sys_exit`: a system call ends, perhaps one that maps memory.
#[raw_tracepoint]
pub fn call_ended(ctx: RawTracePointContext) -> i32 {
    probe::memory::call_ended(&ctx)
}

/// The user walk of a thread that has mapped memory.
#[raw_tracepoint]
pub fn walk_call(ctx: RawTracePointContext) -> i32 {
    probe::memory::walk_call(&ctx)
}

/// `task_newtask`: a process forked; before the child runs it is what its parent is.
#[raw_tracepoint]
pub fn process_forked(ctx: RawTracePointContext) -> i32 {
    probe::lifecycle::forked(&ctx)
}

/// `sched_process_exit`: a process is gone, its number may be given to somebody else.
#[raw_tracepoint]
pub fn process_exited(ctx: RawTracePointContext) -> i32 {
    probe::lifecycle::exited(&ctx)
}

/// `sched_process_exec`: a process became another program, with other mappings.
#[raw_tracepoint]
pub fn process_executed(ctx: RawTracePointContext) -> i32 {
    probe::lifecycle::executed(&ctx)
}

/// `sys_enter`: a system call begins.
#[raw_tracepoint]
pub fn call_entered(ctx: RawTracePointContext) -> i32 {
    probe::syscall::entered(&ctx)
}

/// `sys_exit`: a system call returns.
#[raw_tracepoint]
pub fn call_returned(ctx: RawTracePointContext) -> i32 {
    probe::syscall::returned(&ctx)
}

/// The user walk of a call that was slow, or that is part of the sample.
#[raw_tracepoint]
pub fn walk_return(ctx: RawTracePointContext) -> i32 {
    probe::syscall::walk(&ctx)
}

/// `sched_process_exit`: a thread ends, perhaps inside a call.
#[raw_tracepoint]
pub fn caller_ended(ctx: RawTracePointContext) -> i32 {
    probe::syscall::thread_ended(&ctx)
}

/// `sched_process_exec`: a thread became another program, and may have another number now.
#[raw_tracepoint]
pub fn caller_executed(ctx: RawTracePointContext) -> i32 {
    probe::syscall::executed(&ctx)
}

/// Run by the agent on itself: reads what samples will read, for the agent to compare with what it knows.
#[raw_tracepoint]
pub fn self_check(ctx: RawTracePointContext) -> i32 {
    probe::self_check::run(&ctx)
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

/// The kernel lets programs call GPL-only helpers (stacks, user memory) only under a compatible licence.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
