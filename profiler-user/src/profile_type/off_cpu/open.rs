//! Waits that have no end when a recording ends.

use profiler_common::off_cpu::{
    BRIEF_WAIT_NS, FIRST_STACK, SHIFT_PASSING, STATE_ESTIMATED, STATE_RUNNABLE, STATE_UNSETTLED, Thread,
    WaitKey, WaitSum, slices_shift, weight_shift,
};

use super::WaitOptions;

/// A wait that lasts up to now, by the rules that the programs follow at its end.
///
/// What it adds to the waits of which only some have a stack is counted in the thread's own sum of them.
pub(super) fn open_wait(
    thread: &mut Thread,
    options: &WaitOptions,
    now_ns: u64,
) -> Option<(WaitKey, WaitSum)> {
    if thread.since_ns == 0 || thread.since_ns >= now_ns {
        return None;
    }
    let wait = now_ns - thread.since_ns;
    let wanted = options.states & (1 << (thread.state & 31)) != 0;
    if !wanted || wait < options.shortest_ns || wait > options.longest_ns {
        return None;
    }
    let queued = match thread.state {
        STATE_RUNNABLE => wait,
        _ if thread.woken_ns > thread.since_ns => now_ns.saturating_sub(thread.woken_ns),
        _ => 0,
    };
    let slices = slices_shift(wait, thread.shift);
    let has_passed = thread.shift & SHIFT_PASSING != 0;
    let (weight, estimated) = match weight_shift(wait, thread.shift) {
        _ if thread.shift == SHIFT_PASSING && wait < BRIEF_WAIT_NS => return None,
        Some(_) if has_passed && thread.stack < FIRST_STACK => return None,
        Some(weight) if has_passed => (weight + slices, STATE_ESTIMATED | STATE_UNSETTLED),
        Some(weight) => {
            thread.thinned.count += 1;
            thread.thinned.blocked_ns = thread.thinned.blocked_ns.saturating_add(wait - queued);
            thread.thinned.queued_ns = thread.thinned.queued_ns.saturating_add(queued);
            if thread.stack < FIRST_STACK {
                return None;
            }
            (weight, STATE_ESTIMATED)
        }
        None if slices != 0 => (slices, STATE_ESTIMATED | STATE_UNSETTLED),
        None => (0, 0),
    };
    let key = WaitKey {
        stack: thread.stack,
        waker: thread.waker,
        pid: thread.pid,
        tid: thread.tid,
        state: thread.state | estimated,
        epoch: 0,
    };
    let sum =
        WaitSum { count: 1 << weight, blocked_ns: (wait - queued) << weight, queued_ns: queued << weight };
    Some((key, sum))
}

#[cfg(test)]
mod tests {
    use super::*;
    use profiler_common::off_cpu::{STACK_SKIPPED, STATE_SLEEPING};

    const THREAD: Thread = Thread {
        since_ns: 1_000,
        woken_ns: 0,
        stack: 99,
        waker: 0,
        place: 0,
        switches: 5,
        pid: 7,
        tid: 8,
        state: STATE_SLEEPING,
        shift: 0,
        thinned: WaitSum { count: 0, blocked_ns: 0, queued_ns: 0 },
    };

    #[test]
    fn open_waits_count_up_to_now() {
        let options = WaitOptions::default();
        let (key, sum) = open_wait(&mut { THREAD }, &options, 5_001_000).unwrap();
        assert_eq!((key.tid, sum), (8, WaitSum { count: 1, blocked_ns: 5_000_000, queued_ns: 0 }));
        let woken = Thread { woken_ns: 4_001_000, ..THREAD };
        let (_, sum) = open_wait(&mut { woken }, &options, 5_001_000).unwrap();
        assert_eq!((sum.blocked_ns, sum.queued_ns), (4_000_000, 1_000_000));
        assert_eq!(open_wait(&mut Thread { since_ns: 0, ..THREAD }, &options, 5_001_000), None);
    }

    #[test]
    fn open_waits_follow_the_rules_of_the_others() {
        let options = WaitOptions { shortest_ns: 6_000_000, ..WaitOptions::default() };
        assert_eq!(open_wait(&mut { THREAD }, &options, 5_001_000), None);
        let options = WaitOptions::default();
        let sampled = Thread { shift: 3, ..THREAD };
        let (_, sum) = open_wait(&mut { sampled }, &options, 5_001_000).unwrap();
        assert_eq!((sum.count, sum.blocked_ns), (8, 40_000_000));
        let mut skipped = Thread { stack: STACK_SKIPPED, ..sampled };
        assert_eq!(open_wait(&mut skipped, &options, 5_001_000), None);
        assert_eq!(skipped.thinned, WaitSum { count: 1, blocked_ns: 5_000_000, queued_ns: 0 });
        // Of those that pass nothing but the long ones counts, and those that stand for others.
        let mut passing = Thread { shift: 3 | SHIFT_PASSING, ..skipped };
        assert_eq!(open_wait(&mut passing, &options, 5_001_000), None);
        assert_eq!(open_wait(&mut passing, &options, 50_001_000).unwrap().1.blocked_ns, 50_000_000);
        assert_eq!(passing.thinned, skipped.thinned);
        let mut drawn = Thread { stack: 99, ..passing };
        let (key, sum) = open_wait(&mut drawn, &options, 5_001_000).unwrap();
        assert_eq!(key.state, STATE_SLEEPING | STATE_ESTIMATED | STATE_UNSETTLED);
        assert_eq!((sum.count, drawn.thinned), (8, skipped.thinned));
        // Between slices of time those count that are not brief.
        let mut between = Thread { shift: SHIFT_PASSING, ..skipped };
        assert_eq!(open_wait(&mut between, &options, 501_000), None);
        assert_eq!(open_wait(&mut between, &options, 2_001_000).unwrap().1.blocked_ns, 2_000_000);
        // Long ones count whether their stack was taken or not.
        assert_eq!(open_wait(&mut skipped, &options, 50_001_000).unwrap().1.blocked_ns, 50_000_000);
    }
}
