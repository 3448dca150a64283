//! What a call of an allocator is to the other calls of its thread that have not returned: one of its own, a part of another one, or a signal
//! handler's, which interrupted another one.

use profiler_common::heap::{HANDLER, HeapThread, INNER_STACK_BYTES, SIGNAL_FRAME_BYTES};
use profiler_common::stats::Stat;

use crate::maps::HEAP_THREADS;
use crate::stats::count;

/// Where a call that counts is remembered.
pub(super) struct Role {
    /// Key of the thread's entry for it.
    pub(super) key: u32,
    /// [`HeapThread::turn`] of the call that a signal handler interrupted.
    pub(super) turn: Option<u32>,
}

/// The role of a call that begins; none, counted, for one that is left out.
#[inline(always)]
pub(super) fn role_of(owner: u32, stack: u64, slice: u32) -> Option<Role> {
    let turn = match relation(owner, stack, slice, None) {
        Relation::Alone => return Some(Role { key: owner, turn: None }),
        Relation::Part => return None,
        Relation::Stranger(turn) => turn,
    };
    match relation(owner | HANDLER, stack, slice, Some(turn)) {
        Relation::Alone => {
            count(Stat::HeapInHandlers);
            Some(Role { key: owner | HANDLER, turn: Some(turn) })
        }
        Relation::Part => None,
        Relation::Stranger(_) => {
            count(Stat::HeapTooDeep);
            None
        }
    }
}

enum Relation {
    /// There is no other call, or not any more.
    Alone,
    /// It is a part of the other one.
    Part,
    /// It has nothing to do with the other one, whose turn this is.
    Stranger(u32),
}

/// What a call is to the one of an entry.
#[inline(always)]
fn relation(key: u32, stack: u64, slice: u32, turn: Option<u32>) -> Relation {
    let Some(thread) = HEAP_THREADS.get_ptr_mut(key) else { return Relation::Alone };
    // SAFETY: the thread's own entry, here and below.
    let outer = unsafe { (*thread).stack };
    if outer == 0 {
        return Relation::Alone;
    }
    // SAFETY: as above.
    let (encloses, own_turn) = unsafe { ((*thread).encloses != 0, (*thread).turn) };
    // SAFETY: as above.
    if unsafe { (*thread).slice } != slice || turn.is_some_and(|turn| turn != own_turn) {
        // The probe at its return was taken out before it returned, or the handler never returned.
        // SAFETY: as above.
        unsafe { (*thread).stack = 0 };
        return Relation::Alone;
    }
    // Zero where a function that jumps into another one hands its own return address on.
    let below = outer.wrapping_sub(stack);
    if encloses && below < INNER_STACK_BYTES {
        count(Stat::HeapInner);
        if below >= SIGNAL_FRAME_BYTES {
            count(Stat::HeapInnerFar);
        }
        return Relation::Part;
    }
    if stack >= outer && (encloses || stack - outer < INNER_STACK_BYTES) {
        // The outer call's frame is gone: an exception or `longjmp` went past it.
        count(Stat::HeapAbandoned);
        // SAFETY: as above.
        unsafe { (*thread).stack = 0 };
        return Relation::Alone;
    }
    Relation::Stranger(own_turn)
}

/// The entry of a thread, made if need be.
#[inline(always)]
pub(super) fn thread_of(key: u32) -> Option<*mut HeapThread> {
    if let Some(thread) = HEAP_THREADS.get_ptr_mut(key) {
        return Some(thread);
    }
    let new = HeapThread {
        stack: 0,
        size: 0,
        pointer: 0,
        number: 0,
        kind: 0,
        bucket: 0,
        encloses: 0,
        slice: 0,
        turn: 0,
    };
    if HEAP_THREADS.insert(key, new, 0).is_err() {
        count(Stat::HeapThreadsFull);
        return None;
    }
    HEAP_THREADS.get_ptr_mut(key)
}

/// The entry of the call whose return address lay there.
#[inline(always)]
pub(super) fn returning(owner: u32, stack: u64) -> Option<*mut HeapThread> {
    let thread = HEAP_THREADS.get_ptr_mut(owner)?;
    // SAFETY: the thread's own entries, here and below.
    let (outer, turn) = unsafe { ((*thread).stack, (*thread).turn) };
    if outer == stack {
        return Some(thread);
    }
    if outer == 0 {
        return None;
    }
    let inside = HEAP_THREADS.get_ptr_mut(owner | HANDLER)?;
    // SAFETY: as above.
    unsafe { (*inside).stack == stack && (*inside).turn == turn }.then_some(inside)
}
