//! Counting: what user space prints when something was lost.

use profiler_common::stats::Stat;

use crate::maps::STATS;

/// Adds one to this CPU's counter.
#[inline(always)]
pub(crate) fn count(stat: Stat) {
    add(stat, 1);
}

/// Adds to this CPU's counter.
#[inline(always)]
pub(crate) fn add(stat: Stat, amount: u64) {
    if let Some(counter) = STATS.get_ptr_mut(stat as u32) {
        // SAFETY: the slot belongs to this CPU; a program that interrupts this one may lose us one count, not more.
        unsafe { *counter = (*counter).wrapping_add(amount) };
    }
}
