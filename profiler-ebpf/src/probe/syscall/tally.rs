//! Adding a call to the sums of its owner, on this CPU.

use aya_ebpf::helpers::bpf_get_smp_processor_id;
use profiler_common::histogram::bucket_of;
use profiler_common::stats::Stat;
use profiler_common::syscall::{
    CELL_ENDED, CELL_ERRNO, CELL_LATE_ERRNO, CELL_LATE_TIME, CELL_REPEATED, CELL_TIME, Cell, CellKey,
    SyscallKey,
};

use crate::maps::SYSCALL_CELLS;
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
    let call = SyscallKey { owner: call.owner, number: call.number, abi: call.abi, cpu };
    let (kind, ns, errno_kind, errno) = match outcome {
        Outcome::Measured { ns, errno } => (CELL_TIME, ns, CELL_ERRNO, errno),
        Outcome::Late { seen_ns, errno } => (CELL_LATE_TIME, seen_ns, CELL_LATE_ERRNO, errno),
        Outcome::Ended => (CELL_ENDED, 0, 0, 0),
        Outcome::Repeated => (CELL_REPEATED, 0, 0, 0),
    };
    add_to(CellKey { call, kind, index: bucket_of(ns), padding: 0 }, ns);
    if errno != 0 {
        add_to(CellKey { call, kind: errno_kind, index: errno as u16, padding: 0 }, 0);
    }
}

#[inline(always)]
fn add_to(key: CellKey, ns: u64) {
    if let Some(cell) = SYSCALL_CELLS.get_ptr_mut(key) {
        // SAFETY: the entry is this CPU's own, and a program of this kind is not preempted by another one (`__bpf_trace_run` and
        // the callers of the tracepoints disable preemption).
        unsafe {
            (*cell).count = (*cell).count.wrapping_add(1);
            (*cell).total_ns = (*cell).total_ns.wrapping_add(ns);
            if ns > (*cell).max_ns {
                (*cell).max_ns = ns;
            }
        }
    } else if SYSCALL_CELLS.insert(key, Cell { count: 1, total_ns: ns, max_ns: ns }, 0).is_ok() {
        count(Stat::SyscallEntries);
    } else {
        count(Stat::SyscallCellsFull);
    }
}
