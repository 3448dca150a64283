//! Waits over the ends of windows: what was counted of a wait that goes on, so that its end counts the rest.
//!
//! The programs add a wait up when it ends, as a whole. A window that ends before counts the part up to there; the sum that comes later is
//! less by that part. So a thread that sleeps all day has slept ten seconds in each window of ten, and all windows together count once.

use std::collections::HashMap;

use profiler_common::off_cpu::{LONG_WAIT_NS, Passing, Thread, WaitKey, WaitSum};

use super::WaitOptions;
use super::open::open_wait;
use super::settle::{Exact, add};

/// What an earlier window counted of a wait.
#[derive(Debug, Clone, Copy)]
struct Counted {
    key: WaitKey,
    since_ns: u64,
    sum: WaitSum,
}

/// A wait that goes on.
#[derive(Debug, Clone, Copy)]
pub(super) struct OpenWait {
    pub(super) key: WaitKey,
    /// Up to now.
    pub(super) whole: WaitSum,
    /// What of it no window has counted yet.
    pub(super) rest: WaitSum,
}

/// What windows hand on.
#[derive(Debug, Default)]
pub(super) struct Carried {
    /// Waits that went on at the end of the last window, by thread.
    open: HashMap<u32, Counted>,
    /// What was counted of waits that have ended, until their sums have come; and whether a window has ended since.
    owed: HashMap<WaitKey, (WaitSum, bool)>,
    /// What threads had of waits of which only some have a stack.
    thinned: HashMap<u32, WaitSum>,
    /// How many waits of threads had passed.
    passed: HashMap<u32, u64>,
}

impl Carried {
    /// What is new in a sum of waits of which only some have a stack, of a thread that has ended.
    pub(super) fn ended(&mut self, tid: u32, thinned: &WaitSum) -> WaitSum {
        let before = self.thinned.remove(&tid).unwrap_or_default();
        less(thinned, &before)
    }

    /// What is new of the waits that passed, of a thread that lost its place.
    pub(super) fn lost_place(&mut self, tid: u32, passed: u64) -> u64 {
        passed.saturating_sub(self.passed.remove(&tid).unwrap_or_default())
    }

    /// What has passed since the last window ended.
    pub(super) fn settle_passed(&mut self, places: &[Passing], exact: &mut Exact) {
        for place in places.iter().filter(|place| place.passed > 0) {
            let told = self.passed.insert(place.tid, place.passed).unwrap_or_default();
            exact.keep_passed(place.pid, place.tid, place.passed.saturating_sub(told));
        }
        let living: std::collections::HashSet<u32> = places.iter().map(|place| place.tid).collect();
        self.passed.retain(|tid, _| living.contains(tid));
    }

    /// What the waits of all threads, as they are now, add to the window that ends. Waits that go on and are long already are counted up to
    /// now; in the last window the short ones too.
    pub(super) fn settle(
        &mut self,
        threads: &mut [Thread],
        options: &WaitOptions,
        now_ns: u64,
        is_last: bool,
        exact: &mut Exact,
    ) -> Vec<OpenWait> {
        let mut new = Vec::new();
        let (mut open, mut thinned) = (HashMap::new(), HashMap::new());
        for thread in threads {
            let before = self.open.get(&thread.tid).copied();
            let before = before.filter(|counted| counted.since_ns == thread.since_ns);
            // Of a short one the end may still make it stand for others. With its waker it would have another key then.
            let is_due =
                is_last || (now_ns.saturating_sub(thread.since_ns) >= LONG_WAIT_NS && !options.wakers);
            if is_due && let Some((key, sum)) = open_wait(thread, options, now_ns) {
                let rest = before.map_or(sum, |before| less(&sum, &before.sum));
                new.push(OpenWait { key, whole: sum, rest });
                if before.is_some() {
                    self.open.remove(&thread.tid);
                }
                open.insert(thread.tid, Counted { key, since_ns: thread.since_ns, sum });
            }
            if thread.thinned.count > 0 {
                let told = self.thinned.get(&thread.tid).copied().unwrap_or_default();
                exact.keep_thinned(thread, &less(&thread.thinned, &told));
                thinned.insert(thread.tid, thread.thinned);
            }
        }
        for (_, ended) in std::mem::replace(&mut self.open, open) {
            add(&mut self.owed.entry(ended.key).or_default().0, &ended.sum);
        }
        self.thinned = thinned;
        new
    }

    /// No end will be seen of the waits that go on.
    pub(super) fn forget_open(&mut self) {
        self.open.clear();
    }

    /// Takes what is owed off the sums. What finds no sum may come in the next window, and not later.
    pub(super) fn pay(&mut self, sums: &mut HashMap<WaitKey, WaitSum>) {
        self.owed.retain(|key, (owed, is_old)| {
            if let Some(sum) = sums.get_mut(key) {
                let rest = less(sum, owed);
                *owed = less(owed, sum);
                *sum = rest;
                if rest == WaitSum::default() {
                    sums.remove(key);
                }
            }
            !std::mem::replace(is_old, true) && *owed != WaitSum::default()
        });
    }

    /// Stacks that a wait which goes on will be counted under.
    pub(super) fn stacks(&self) -> impl Iterator<Item = u64> {
        self.open.values().map(|counted| counted.key).chain(self.owed.keys().copied()).map(|key| key.stack)
    }
}

fn less(sum: &WaitSum, part: &WaitSum) -> WaitSum {
    WaitSum {
        count: sum.count.saturating_sub(part.count),
        blocked_ns: sum.blocked_ns.saturating_sub(part.blocked_ns),
        queued_ns: sum.queued_ns.saturating_sub(part.queued_ns),
    }
}

#[cfg(test)]
mod tests {
    use profiler_common::off_cpu::{
        FIRST_STACK, STACK_NONE, STATE_ESTIMATED, STATE_SLEEPING, STATE_UNSETTLED,
    };
    use proptest::prelude::*;

    use super::*;

    const WINDOW_NS: u64 = 1_000_000_000;

    fn key(tid: u32, stack: u64) -> WaitKey {
        WaitKey { stack, waker: STACK_NONE, pid: 1, tid, state: STATE_SLEEPING, epoch: 0 }
    }

    /// Threads that wait one after the other, each at one of two places, as the programs would see them; the sums of each window.
    fn windows(waits: &[Vec<(u64, u64)>], ends: usize) -> Vec<HashMap<WaitKey, WaitSum>> {
        let (mut carried, mut exact) = (Carried::default(), Exact::default());
        let options = WaitOptions::default();
        let mut windows = Vec::new();
        for end in 1..=ends as u64 {
            let (from, to) = ((end - 1) * WINDOW_NS + 1, end * WINDOW_NS + 1);
            let (mut sums, mut threads) = (HashMap::<WaitKey, WaitSum>::new(), Vec::new());
            for (tid, waits) in waits.iter().enumerate() {
                let (tid, mut since_ns) = (tid as u32, 1);
                let mut thread = Thread { pid: 1, tid, state: STATE_SLEEPING, ..Thread::default() };
                for (place, length) in waits {
                    let (stack, ended) = (FIRST_STACK + place, since_ns + length);
                    if (from..to).contains(&ended) {
                        let sum = sums.entry(key(tid, stack)).or_default();
                        sum.count += 1;
                        sum.blocked_ns += length;
                    } else if since_ns < to && ended >= to {
                        thread = Thread { since_ns, stack, ..thread };
                    }
                    since_ns = ended;
                }
                threads.push(thread);
            }
            let is_last = end == ends as u64;
            let open = carried.settle(&mut threads, &options, to, is_last, &mut exact);
            carried.pay(&mut sums);
            for OpenWait { key, rest, .. } in open {
                let kept = sums.entry(key).or_default();
                kept.count += rest.count;
                kept.blocked_ns += rest.blocked_ns;
            }
            windows.push(sums);
        }
        windows
    }

    fn total(window: &HashMap<WaitKey, WaitSum>) -> (u64, u64) {
        (window.values().map(|sum| sum.count).sum(), window.values().map(|sum| sum.blocked_ns).sum())
    }

    #[test]
    fn a_thread_that_sleeps_on_has_slept_a_window_in_each() {
        let windows = windows(&[vec![(0, WINDOW_NS * 5 / 2), (0, WINDOW_NS / 4), (0, WINDOW_NS)]], 4);
        let totals: Vec<(u64, u64)> = windows.iter().map(total).collect();
        assert_eq!(totals, [(1, WINDOW_NS), (0, WINDOW_NS), (2, WINDOW_NS), (0, WINDOW_NS * 3 / 4)]);
    }

    #[test]
    fn what_is_owed_is_taken_from_the_next_window_and_not_from_later_ones() {
        let mut carried = Carried::default();
        let sum = WaitSum { count: 1, blocked_ns: 50, queued_ns: 5 };
        carried.owed.insert(key(1, 20), (sum, false));
        let mut sums = HashMap::from([(key(1, 20), WaitSum { count: 1, blocked_ns: 20, queued_ns: 7 })]);
        carried.pay(&mut sums);
        assert_eq!(sums[&key(1, 20)], WaitSum { count: 0, blocked_ns: 0, queued_ns: 2 });
        assert_eq!(carried.stacks().collect::<Vec<_>>(), [20]);
        carried.pay(&mut HashMap::new());
        assert!(carried.owed.is_empty());
    }

    #[test]
    fn what_passed_is_told_once() {
        let (mut carried, mut exact) = (Carried::default(), Exact::default());
        let place = |passed| Passing { owner: 1, pid: 1, tid: 1, passed, ..Passing::default() };
        let estimate = WaitKey { state: STATE_SLEEPING | STATE_ESTIMATED | STATE_UNSETTLED, ..key(1, 20) };
        let mut window = |carried: &mut Carried, passed| {
            carried.settle_passed(&[place(passed)], &mut exact);
            let mut sums = HashMap::from([(estimate, WaitSum { count: 16, blocked_ns: 32, queued_ns: 0 })]);
            exact.settle_waits(&mut sums, |_| 8.0);
            sums[&estimate].count
        };
        assert_eq!((window(&mut carried, 10), window(&mut carried, 30)), (10, 20));
        assert_eq!((carried.lost_place(1, 35), carried.lost_place(1, 4)), (5, 4));
    }

    proptest! {
        #[test]
        fn windows_of_waits_add_up_to_the_whole(
            waits in proptest::collection::vec(
                proptest::collection::vec((0..2u64, 1..3 * WINDOW_NS), 1..30), 1..5),
            ends in 1..6_usize,
        ) {
            let (mut parts, mut whole) = (HashMap::<WaitKey, (u64, u64)>::new(), 0);
            let (one, windows) = (windows(&waits, ends), windows(&waits, ends));
            prop_assert_eq!(one.len(), windows.len());
            for window in &windows {
                let (_, blocked_ns) = total(window);
                prop_assert!(blocked_ns <= (WINDOW_NS + LONG_WAIT_NS) * waits.len() as u64);
                whole += blocked_ns;
                for (key, sum) in window {
                    let part = parts.entry(*key).or_default();
                    *part = (part.0 + sum.count, part.1 + sum.blocked_ns);
                }
            }
            let until = ends as u64 * WINDOW_NS;
            let lasted = |waits: &Vec<(u64, u64)>| until.min(waits.iter().map(|wait| wait.1).sum::<u64>());
            prop_assert_eq!(whole, waits.iter().map(lasted).sum::<u64>());
        }
    }
}
