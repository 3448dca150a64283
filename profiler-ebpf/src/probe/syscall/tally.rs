//! Adding a call to the sums of its owner, on this CPU.

use aya_ebpf::helpers::bpf_get_smp_processor_id;
use profiler_common::histogram::bucket_of;
use profiler_common::stats::Stat;
use profiler_common::syscall::{
    CELL_ERRNO, CELL_LATE_ERRNO, CELL_LATE_TIME, CELL_TIME, CellKey, Sums, SyscallKey,
};

use crate::maps::{SYSCALL_CELLS, SYSCALL_SUMS};
use crate::stats::count;

/// Whose call it is, and which.
#[derive(Clone, Copy)]
pub(super) struct Call {
    pub(super) owner: u64,
    pub(super) number: u32,
    pub(super) abi: u16,
}

/// How it ended.
pub(super) enum Outcome {
    /// It returned after this time; the errno is zero when it did not fail.
    Measured { ns: u64, errno: u32 },
    /// It returned, and its beginning was not seen.
    Late { seen_ns: u64, errno: u32 },
    /// Its thread ended.
    Ended,
    /// It begins again after a signal.
    Repeated,
}

/// Adds one call.
#[inline(always)]
pub(super) fn add(call: Call, outcome: Outcome) {
    // SAFETY: no preconditions.
    let cpu = unsafe { bpf_get_smp_processor_id() } as u16;
    let key = SyscallKey { owner: call.owner, number: call.number, abi: call.abi, cpu };
    let Some(sums) = sums_of(&key) else {
        count(Stat::SyscallSumsFull);
        return;
    };
    // SAFETY: the entry is this CPU's own, and a program of this kind is not preempted by another one
    // (`__bpf_trace_run` and the callers of the tracepoints disable preemption).
    unsafe {
        match outcome {
            Outcome::Measured { ns, errno } => {
                (*sums).measured = (*sums).measured.wrapping_add(1);
                (*sums).total_ns = (*sums).total_ns.wrapping_add(ns);
                if ns > (*sums).max_ns {
                    (*sums).max_ns = ns;
                }
                add_cell(key, CELL_TIME, bucket_of(ns));
                if errno != 0 {
                    add_cell(key, CELL_ERRNO, errno as u16);
                }
            }
            Outcome::Late { seen_ns, errno } => {
                (*sums).late = (*sums).late.wrapping_add(1);
                (*sums).late_ns = (*sums).late_ns.wrapping_add(seen_ns);
                add_cell(key, CELL_LATE_TIME, bucket_of(seen_ns));
                if errno != 0 {
                    add_cell(key, CELL_LATE_ERRNO, errno as u16);
                }
            }
            Outcome::Ended => (*sums).ended = (*sums).ended.wrapping_add(1),
            Outcome::Repeated => (*sums).repeated = (*sums).repeated.wrapping_add(1),
        }
    }
}

#[inline(always)]
fn sums_of(key: &SyscallKey) -> Option<*mut Sums> {
    if let Some(sums) = SYSCALL_SUMS.get_ptr_mut(key) {
        return Some(sums);
    }
    if SYSCALL_SUMS.insert(key, Sums::default(), 0).is_ok() {
        count(Stat::SyscallEntries);
    }
    SYSCALL_SUMS.get_ptr_mut(key)
}

#[inline(always)]
fn add_cell(call: SyscallKey, kind: u16, index: u16) {
    let key = CellKey { call, kind, index, padding: 0 };
    if let Some(cell) = SYSCALL_CELLS.get_ptr_mut(key) {
        // SAFETY: the entry is this CPU's own.
        unsafe { *cell = (*cell).wrapping_add(1) };
    } else if SYSCALL_CELLS.insert(key, 1, 0).is_ok() {
        count(Stat::SyscallEntries);
    } else {
        count(Stat::SyscallCellsFull);
    }
}
