//! Waits that pass: usually short, not drawn to be followed, and represented by those that are. All that is kept of one is what tells, at its
//! end, whether it became a long one after all, in an array instead of a table with hashes: a host with a hundred thousand
//! switches a second pays for little else.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use profiler_common::limits::MAX_PASSING;
use profiler_common::off_cpu::{
    BRIEF_WAIT_NS, Passing, SHIFT_PASSING, STACK_NONE, STACK_SKIPPED, STATE_RUNNABLE,
};

use super::{Ended, usually, where_it_waits};
use crate::kernel::TaskIds;
use crate::maps::PASSING;
use crate::scratch::opaque;

/// The place of the thread `owner`.
#[inline(always)]
fn place_of(owner: u32) -> Option<*mut Passing> {
    let mut index = u64::from(owner) & (u64::from(MAX_PASSING) - 1);
    opaque(&mut index);
    PASSING.get_ptr_mut(index as u32)
}

/// The wait that the current thread begins passes; false when its place belongs to another thread, until that one ends.
///
/// Two threads that begin at the same moment on two CPUs may both find the place free. The wait of one is then lost to it, as one that passed
/// and stayed short.
#[inline(always)]
pub(super) fn let_pass(owner: u32, ids: TaskIds, place: u64, state: u32, shift: u32, now: u64) -> bool {
    let Some(wait) = place_of(owner) else { return false };
    // SAFETY: single words of a map's value, here and below; the thread is on this CPU.
    unsafe {
        if (*wait).owner != owner && (*wait).owner != 0 {
            return false;
        }
        (*wait).owner = owner;
        (*wait).pid = ids.pid;
        (*wait).tid = ids.tid;
        (*wait).place = place as u32;
        (*wait).state = state;
        (*wait).shift = shift;
        (*wait).woken_ns = 0;
        (*wait).since_ns = now;
    }
    true
}

/// The same between slices, where waits are usually brief, for a thread whose last one to pass was at its place; false for others.
#[inline(always)]
pub(super) fn let_pass_again(owner: u32, state: u32, now: u64) -> bool {
    let Some(wait) = place_of(owner) else { return false };
    // SAFETY: as above.
    if unsafe { (*wait).owner } != owner {
        return false;
    }
    let place = where_it_waits(owner, state);
    let usual = usually(place);
    if usual == 0 || usual >= BRIEF_WAIT_NS {
        return false;
    }
    // SAFETY: as above.
    unsafe {
        (*wait).place = place as u32;
        (*wait).state = state;
        (*wait).shift = SHIFT_PASSING;
        (*wait).woken_ns = 0;
        (*wait).since_ns = now;
    }
    true
}

/// The wait of a thread that runs again passed between slices and was brief: nobody is to know of it. Else false, and nothing happens.
#[inline(always)]
pub(super) fn end_brief(owner: u32, now: u64) -> bool {
    let Some(wait) = place_of(owner) else { return false };
    // SAFETY: as above.
    unsafe {
        let since = (*wait).since_ns;
        let is_between = (*wait).shift == SHIFT_PASSING;
        if since == 0 || (*wait).owner != owner || !is_between || now >= since + BRIEF_WAIT_NS {
            return false;
        }
        (*wait).since_ns = 0;
        (*wait).passed += 1;
    }
    true
}

/// Counts a wait of the thread `owner` that passed, or stands for such.
#[inline(always)]
pub(super) fn tally(owner: u32) {
    let Some(wait) = place_of(owner) else { return };
    // SAFETY: as above.
    unsafe {
        if (*wait).owner == owner {
            (*wait).passed += 1;
        }
    }
}

/// The wait of a thread that runs again, if it passed.
#[inline(always)]
pub(super) fn end(owner: u32) -> Option<Ended> {
    let wait = place_of(owner)?;
    // SAFETY: as above.
    unsafe {
        let since = (*wait).since_ns;
        if since == 0 || (*wait).owner != owner {
            return None;
        }
        (*wait).since_ns = 0;
        Some(Ended {
            since,
            woken: (*wait).woken_ns,
            stack: STACK_SKIPPED,
            waker: STACK_NONE,
            place: (*wait).place,
            pid: (*wait).pid,
            tid: (*wait).tid,
            state: (*wait).state,
            shift: (*wait).shift,
            thread: core::ptr::null_mut(),
        })
    }
}

/// Notes the wake-up of a thread whose wait passes; false when it is another thread's, or none.
#[inline(always)]
pub(super) fn wake(owner: u32) -> bool {
    let Some(wait) = place_of(owner) else { return false };
    // SAFETY: as above; the kernel holds the thread's lock, so no second waker is here.
    unsafe {
        if (*wait).since_ns == 0 || (*wait).owner != owner {
            return false;
        }
        if (*wait).woken_ns == 0 && (*wait).state != STATE_RUNNABLE {
            (*wait).woken_ns = bpf_ktime_get_ns();
        }
    }
    true
}

/// The thread `owner` is gone and its place free; returns how many of its waits passed, and its numbers.
#[inline(always)]
pub(super) fn forget(owner: u32) -> (u64, u32, u32) {
    let Some(wait) = place_of(owner) else { return (0, 0, 0) };
    // SAFETY: as above.
    unsafe {
        if (*wait).owner != owner {
            return (0, 0, 0);
        }
        let passed = (*wait).passed;
        (*wait).passed = 0;
        (*wait).since_ns = 0;
        (*wait).owner = 0;
        (passed, (*wait).pid, (*wait).tid)
    }
}
