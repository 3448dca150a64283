//! Exact times of threads, and the estimates that are brought to them.
//!
//! The switches know how long each thread ran and waited. Where it ran is known from samples, of which a short time has few, and none
//! where interrupts are off, as in a switch; where it waited for short is known of a random few waits. Both say how the time is shared
//! out; how much there is to share out, this says.

use std::collections::{BTreeMap, HashMap};

use profiler_common::off_cpu::{
    STACK_NONE, STATE_ESTIMATED, STATE_PASSED, STATE_RAN, STATE_SLEEPING, STATE_THINNED, STATE_UNSETTLED,
    Thread, WaitKey, WaitSum,
};

use crate::aggregate::Aggregate;

/// The remark on a thread that ran and has no sample.
pub(super) const UNSAMPLED: &str = "[running, between samples]";

/// Threads remembered. Past it estimates stay as they are.
const MOST_THREADS: usize = 1_000_000;

/// Numbers of waits that passed, by thread.
type Passed = HashMap<u32, (WaitKey, u64)>;

/// What is known exactly, by thread.
#[derive(Debug, Default)]
pub(super) struct Exact {
    ran: HashMap<u32, (WaitKey, u64)>,
    /// Waits of which only some have a stack.
    thinned: HashMap<u32, (WaitKey, WaitSum)>,
    /// Waits that passed, and those that stand for them.
    passed: Passed,
    /// Those that are taken to have passed while nobody watched.
    missed: Passed,
    /// Those of them that passed in the current turn, in the last one, and in all that stand together for the pauses between them.
    turn: Passed,
    last: Passed,
    pool: Passed,
}

impl Exact {
    /// Takes in a sum that is not one of waits.
    pub(super) fn keep(&mut self, key: &WaitKey, sum: &WaitSum) {
        if self.ran.len() + self.thinned.len() + self.passed.len() >= MOST_THREADS {
            return;
        }
        match key.state {
            STATE_RAN => {
                let thread = self.ran.entry(key.tid).or_insert((*key, 0));
                thread.1 = thread.1.saturating_add(sum.blocked_ns);
            }
            STATE_THINNED => {
                let thread = self.thinned.entry(key.tid).or_insert((*key, WaitSum::default()));
                add(&mut thread.1, sum);
            }
            STATE_PASSED => {
                count(&mut self.passed, key, sum.count);
                count(&mut self.turn, key, sum.count);
            }
            _ => {}
        }
    }

    /// The same from a thread that still lives: what is new since the last time.
    pub(super) fn keep_thinned(&mut self, thread: &Thread, new: &WaitSum) {
        if *new != WaitSum::default() {
            let (pid, tid) = (thread.pid, thread.tid);
            let key =
                WaitKey { stack: STACK_NONE, waker: STACK_NONE, pid, tid, state: STATE_THINNED, epoch: 0 };
            self.keep(&key, new);
        }
    }

    /// The number of waits that passed, of a thread that still lives: what is new since the last time.
    pub(super) fn keep_passed(&mut self, pid: u32, tid: u32, new: u64) {
        if new > 0 {
            let key =
                WaitKey { stack: STACK_NONE, waker: STACK_NONE, pid, tid, state: STATE_PASSED, epoch: 0 };
            self.keep(&key, &WaitSum { count: new, blocked_ns: 0, queued_ns: 0 });
        }
    }

    /// Turns begin, or end for good: none has been so far.
    pub(super) fn forget_turns(&mut self) {
        (self.turn, self.last, self.pool) = Default::default();
    }

    /// A turn has ended.
    pub(super) fn end_turn(&mut self) {
        self.last = std::mem::take(&mut self.turn);
        for (key, passed) in self.last.values() {
            count(&mut self.pool, key, *passed);
        }
    }

    /// Lets what passed in the turns, and in the current one if `with_turn`, stand for so much more, in which nobody watched. The last turn is
    /// among those that stand for the next pauses.
    pub(super) fn settle_turns(&mut self, by: f64, with_turn: bool) {
        let pool = std::mem::replace(&mut self.pool, self.last.clone());
        for (key, passed) in pool.values().chain(self.turn.values().filter(|_| with_turn)) {
            count(&mut self.missed, key, (*passed as f64 * by).round() as u64);
        }
    }

    /// Brings the samples in the aggregate, whose weights are their values, to the measured times; returns the threads that have none.
    pub(super) fn settle_runs(&mut self, aggregate: &mut Aggregate) -> Vec<(WaitKey, u64)> {
        let mut sampled: BTreeMap<u32, u64> = BTreeMap::new();
        for (key, tally) in aggregate.tallies() {
            let sum = sampled.entry(key.tid).or_default();
            *sum = sum.saturating_add(tally.values[0]);
        }
        aggregate.revalue(|key, values| {
            if let Some(((_, ran_ns), sampled_ns)) = self.ran.get(&key.tid).zip(sampled.get(&key.tid)) {
                for value in values {
                    *value = scale(*value, *ran_ns, *sampled_ns);
                }
            }
        });
        let is_sampled = |tid: &u32| sampled.get(tid).is_some_and(|sampled_ns| *sampled_ns > 0);
        let mut rest: Vec<(WaitKey, u64)> = self
            .ran
            .drain()
            .filter_map(|(tid, thread)| (!is_sampled(&tid) && thread.1 > 0).then_some(thread))
            .collect();
        rest.sort_unstable_by_key(|(key, _)| *key);
        rest
    }

    /// Brings the estimates among `sums` to the measured times. What no estimate stands for is added without a stack.
    ///
    /// `stands_for` says for how many a wait of some length, nanoseconds, stands that was drawn from those that pass.
    pub(super) fn settle_waits(
        &mut self,
        sums: &mut HashMap<WaitKey, WaitSum>,
        stands_for: impl Fn(u64) -> f64,
    ) {
        self.settle_passed(sums, stands_for);
        let estimated = by_thread(sums, STATE_ESTIMATED);
        for (key, sum) in sums.iter_mut().filter(|(key, _)| is(key, STATE_ESTIMATED)) {
            if let Some(((_, exact), estimate)) = self.thinned.get(&key.tid).zip(estimated.get(&key.tid)) {
                *sum = WaitSum {
                    count: scale(sum.count, exact.count, estimate.count),
                    blocked_ns: scale(sum.blocked_ns, exact.blocked_ns, estimate.blocked_ns),
                    queued_ns: scale(sum.queued_ns, exact.queued_ns, estimate.queued_ns),
                };
            }
        }
        for (tid, (key, exact)) in self.thinned.drain() {
            let estimate = estimated.get(&tid).copied().unwrap_or_default();
            let rest = |exact, estimate| if estimate == 0 { exact } else { 0 };
            let rest = WaitSum {
                count: rest(exact.count, estimate.count),
                blocked_ns: rest(exact.blocked_ns, estimate.blocked_ns),
                queued_ns: rest(exact.queued_ns, estimate.queued_ns),
            };
            if rest != WaitSum::default() {
                add(sums.entry(WaitKey { state: STATE_SLEEPING, ..key }).or_default(), &rest);
            }
        }
    }

    /// Of waits that passed the number is known, not the time: estimates are brought to it, and then stand for what passed unwatched, all alike.
    ///
    /// Those give way that are least sure: the variance of a sum of draws is its count times what each draw stands for. So a single brief wait that
    /// was drawn, and stands for two thousand, does not change what is known of the thread's long ones. Where all draws of a thread stand for as
    /// many, all are brought to it in proportion.
    fn settle_passed(&mut self, sums: &mut HashMap<WaitKey, WaitSum>, stands_for: impl Fn(u64) -> f64) {
        let variance = |sum: &WaitSum| {
            let mean_ns = sum.blocked_ns.saturating_add(sum.queued_ns) / sum.count.max(1);
            sum.count as f64 * stands_for(mean_ns)
        };
        // Count and variance, by thread.
        let mut threads: HashMap<u32, [f64; 2]> = HashMap::new();
        for (key, sum) in sums.iter().filter(|(key, _)| is(key, UNSETTLED)) {
            let [count, all] = threads.entry(key.tid).or_default();
            (*count, *all) = (*count + sum.count as f64, *all + variance(sum));
        }
        // What is beyond the error of the draws was too brief to be drawn: it has no part in their time.
        let passed = |tid: u32| {
            let [count, all] = threads.get(&tid).copied().unwrap_or_default();
            self.passed.get(&tid).map(|(_, passed)| (*passed as f64).min(count + 2.0 * all.sqrt()))
        };
        let all_passed = |tid: u32| self.passed.get(&tid).map(|(_, passed)| *passed as f64);
        let missed = |tid: u32| self.missed.get(&tid).map_or(0.0, |(_, missed)| *missed as f64);
        let brought = |key: &WaitKey, sum: &WaitSum, [count, all]: [f64; 2]| {
            let more = passed(key.tid).map_or(0.0, |passed| passed - count);
            (sum.count as f64 + more * variance(sum) / all.max(1.0)).max(0.0)
        };
        let mut come: HashMap<u32, f64> = HashMap::new();
        for (key, sum) in sums.iter().filter(|(key, _)| is(key, UNSETTLED)) {
            if let Some(thread) = threads.get(&key.tid) {
                *come.entry(key.tid).or_default() += brought(key, sum, *thread);
            }
        }
        let mut brief: Vec<(WaitKey, u64)> = Vec::new();
        for (tid, (key, all)) in self.passed.iter().filter(|(tid, _)| threads.contains_key(tid)) {
            let all = *all as f64;
            let rest = all - passed(*tid).unwrap_or(all);
            brief.push((*key, (rest * (1.0 + missed(*tid) / all.max(1.0))).round() as u64));
        }
        for (key, sum) in sums.iter_mut().filter(|(key, _)| is(key, UNSETTLED)) {
            if let Some(thread) = threads.get(&key.tid) {
                let passed = passed(key.tid);
                let by = passed.map_or(1.0, |passed| {
                    // Some may have come to nothing; the others then share what is left.
                    let come = come.get(&key.tid).copied().unwrap_or_default().max(1.0);
                    brought(key, sum, *thread) / sum.count.max(1) as f64 * passed / come
                });
                let watched = all_passed(key.tid).unwrap_or(thread[0]).max(1.0);
                *sum = stretched(sum, by * (1.0 + missed(key.tid) / watched));
            }
        }
        let undrawn = self.passed.drain().chain(self.missed.drain());
        let undrawn = undrawn.filter(|(tid, _)| !threads.contains_key(tid)).map(|(_, passed)| passed);
        for (key, count) in undrawn.chain(brief).filter(|(_, count)| *count > 0) {
            let rest = WaitSum { count, blocked_ns: 0, queued_ns: 0 };
            add(sums.entry(WaitKey { state: STATE_SLEEPING, ..key }).or_default(), &rest);
        }
    }
}

fn count(passed: &mut Passed, key: &WaitKey, more: u64) {
    let thread = passed.entry(key.tid).or_insert((*key, 0));
    thread.1 = thread.1.saturating_add(more);
}

const UNSETTLED: u32 = STATE_ESTIMATED | STATE_UNSETTLED;

/// Whether a sum is an estimate of this kind.
fn is(key: &WaitKey, kind: u32) -> bool {
    key.state & UNSETTLED == kind
}

/// The estimates of this kind by thread.
fn by_thread(sums: &HashMap<WaitKey, WaitSum>, kind: u32) -> HashMap<u32, WaitSum> {
    let mut estimated: HashMap<u32, WaitSum> = HashMap::new();
    for (key, sum) in sums.iter().filter(|(key, _)| is(key, kind)) {
        add(estimated.entry(key.tid).or_default(), sum);
    }
    estimated
}

/// Adds to a sum of waits.
pub(super) fn add(sum: &mut WaitSum, more: &WaitSum) {
    sum.count = sum.count.saturating_add(more.count);
    sum.blocked_ns = sum.blocked_ns.saturating_add(more.blocked_ns);
    sum.queued_ns = sum.queued_ns.saturating_add(more.queued_ns);
}

/// So many times a sum.
pub(super) fn stretched(sum: &WaitSum, by: f64) -> WaitSum {
    let times = |value: u64| (value as f64 * by).round() as u64;
    WaitSum { count: times(sum.count), blocked_ns: times(sum.blocked_ns), queued_ns: times(sum.queued_ns) }
}

/// `value` × `to` / `from`, rounded to the nearest; unchanged where there is nothing to go by.
fn scale(value: u64, to: u64, from: u64) -> u64 {
    if from == 0 {
        return value;
    }
    let scaled = (u128::from(value) * u128::from(to) + u128::from(from) / 2) / u128::from(from);
    u64::try_from(scaled).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregate::{SampleKey, values};
    use crate::process::ProcessId;

    fn key(tid: u32, state: u32) -> WaitKey {
        WaitKey { stack: STACK_NONE, waker: STACK_NONE, pid: 1, tid, state, epoch: 0 }
    }

    fn sum(count: u64, blocked_ns: u64, queued_ns: u64) -> WaitSum {
        WaitSum { count, blocked_ns, queued_ns }
    }

    #[test]
    fn samples_of_a_thread_are_brought_to_the_time_that_it_ran() {
        let mut aggregate = Aggregate::default();
        for (tid, stack, ns) in [(1, 0, 30), (1, 1, 10), (2, 0, 10)] {
            let key = SampleKey { stack, process: ProcessId(0), tid, comm: 0, cgroup_id: 0 };
            aggregate.add_values(key, 1, values([ns, 0, ns]));
        }
        let mut exact = Exact::default();
        exact.keep(&key(1, STATE_RAN), &sum(0, 15, 0));
        exact.keep(&key(1, STATE_RAN), &sum(0, 5, 0));
        exact.keep(&key(3, STATE_RAN), &sum(0, 7, 0));
        assert_eq!(exact.settle_runs(&mut aggregate), [(key(3, STATE_RAN), 7)]);
        let mut found: Vec<(u32, u32, [u64; 3])> = aggregate
            .tallies()
            .map(|(key, tally)| (key.tid, key.stack, [tally.values[0], tally.values[1], tally.values[2]]))
            .collect();
        found.sort_unstable();
        assert_eq!(found, [(1, 0, [15, 0, 15]), (1, 1, [5, 0, 5]), (2, 0, [10, 0, 10])]);
    }

    #[test]
    fn estimates_are_brought_to_what_their_thread_waited() {
        let estimated = |stack| WaitKey { stack, ..key(1, STATE_SLEEPING | STATE_ESTIMATED) };
        let certain = WaitKey { stack: 20, ..key(1, STATE_SLEEPING) };
        let unsettled = WaitKey { stack: 20, ..key(1, STATE_SLEEPING | STATE_ESTIMATED | STATE_UNSETTLED) };
        let mut sums = HashMap::from([
            (estimated(20), sum(16, 3_000, 0)),
            (estimated(21), sum(16, 1_000, 0)),
            (certain, sum(1, 500, 9)),
            (unsettled, sum(8, 800, 0)),
        ]);
        let mut exact = Exact::default();
        exact.keep(&key(1, STATE_THINNED), &sum(10, 1_000, 70));
        exact.keep_thinned(&Thread { pid: 1, tid: 1, ..Thread::default() }, &sum(30, 1_000, 0));
        exact.keep_thinned(&Thread { pid: 1, tid: 2, ..Thread::default() }, &sum(3, 33, 3));
        exact.settle_waits(&mut sums, |_| 8.0);
        assert_eq!(sums[&estimated(20)], sum(20, 1_500, 0));
        assert_eq!(sums[&estimated(21)], sum(20, 500, 0));
        assert_eq!(sums[&certain], sum(1, 500, 9), "what is certain stays");
        assert_eq!(sums[&unsettled], sum(8, 800, 0), "nothing is known of those that passed");
        assert_eq!(sums[&key(1, STATE_SLEEPING)], sum(0, 0, 70), "no estimate has time in the queue");
        assert_eq!(sums[&key(2, STATE_SLEEPING)], sum(3, 33, 3), "no stack was taken");
    }

    #[test]
    fn what_is_least_sure_gives_way() {
        let drawn = |stack| WaitKey { stack, ..key(1, STATE_SLEEPING | STATE_ESTIMATED | STATE_UNSETTLED) };
        let settled = |brief: u64, passed: u64| {
            // Waits of 4 ms, of which each that is drawn stands for four, and of 1 us, for 2,048.
            let mut sums = HashMap::from([
                (drawn(20), sum(5_000, 20_000_000_000, 0)),
                (drawn(21), sum(brief, 1_000 * brief, 0)),
            ]);
            let mut exact = Exact::default();
            exact.keep_passed(1, 1, passed);
            exact.settle_waits(&mut sums, |ns| if ns > 1_000_000 { 4.0 } else { 2_048.0 });
            (sums[&drawn(20)], sums[&drawn(21)].count)
        };
        let (long, brief) = settled(2_048, 5_100);
        assert!((4_970..=5_000).contains(&long.count) && brief <= 120, "{long:?} {brief}");
        assert!((19_900_000_000..=20_000_000_000).contains(&long.blocked_ns), "{long:?}");
        let (long, brief) = settled(2_048, 9_000);
        assert!((5_000..5_030).contains(&long.count) && (3_970..=4_000).contains(&brief), "{long:?} {brief}");
        // No brief one is left to give way.
        let (long, brief) = settled(2_048, 2_500);
        assert!((2_495..=2_505).contains(&(long.count + brief)), "{long:?} {brief}");
        assert_eq!(settled(0, 0).0.count, 5_000, "nobody counted");
    }

    #[test]
    fn brief_waits_that_none_was_drawn_of_take_no_time() {
        let drawn = WaitKey { stack: 20, ..key(1, STATE_SLEEPING | STATE_ESTIMATED | STATE_UNSETTLED) };
        // 80 sleeps of 2 ms, of which each eighth is drawn, and 120 waits for a disk, of each 2,048th: in one turn of ten.
        let mut sums = HashMap::from([(drawn, sum(80, 160_000_000, 0))]);
        let mut exact = Exact::default();
        exact.keep_passed(1, 1, 200);
        exact.end_turn();
        exact.settle_turns(9.0, false);
        exact.settle_waits(&mut sums, |_| 8.0);
        let slept = sums[&drawn];
        assert!((1_600_000_000..2_700_000_000).contains(&slept.blocked_ns), "{slept:?}");
        let rest = sums[&key(1, STATE_SLEEPING)];
        assert_eq!((slept.count + rest.count, rest.blocked_ns), (2_000, 0), "all of them are counted");
    }

    #[test]
    fn what_passed_unwatched_was_like_all_that_was_watched() {
        let drawn = |stack| WaitKey { stack, ..key(1, STATE_SLEEPING | STATE_ESTIMATED | STATE_UNSETTLED) };
        // Waits of 1 ms and as many of 50 us, in one turn of ten.
        let mut sums = HashMap::from([
            (drawn(20), sum(160, 160_000_000, 0)),
            (drawn(21), sum(256, 12_800_000, 0)),
            (WaitKey { tid: 2, ..drawn(22) }, sum(8, 8_000, 0)),
        ]);
        let mut exact = Exact::default();
        exact.keep_passed(1, 1, 416);
        exact.keep_passed(1, 3, 10);
        exact.end_turn();
        exact.settle_turns(9.0, false);
        exact.settle_waits(&mut sums, |ns| if ns > 500_000 { 32.0 } else { 2_048.0 });
        assert_eq!(sums[&drawn(20)], sum(1_600, 1_600_000_000, 0));
        assert_eq!(sums[&drawn(21)], sum(2_560, 128_000_000, 0));
        assert_eq!(sums[&WaitKey { tid: 2, ..drawn(22) }], sum(8, 8_000, 0));
        assert_eq!(sums[&key(3, STATE_SLEEPING)], sum(100, 0, 0), "none of them was drawn");

        // The next window is in the same pause.
        let mut sums = HashMap::from([(drawn(20), sum(32, 32_000_000, 0))]);
        exact.settle_turns(1.0, false);
        exact.settle_waits(&mut sums, |_| 32.0);
        assert_eq!(sums[&drawn(20)], sum(448, 448_000_000, 0));
    }

    #[test]
    fn turns_stand_together_for_the_pauses_between_them() {
        let mut exact = Exact::default();
        let passed = |exact: &mut Exact| {
            let all = [std::mem::take(&mut exact.passed), std::mem::take(&mut exact.missed)];
            all.iter().filter_map(|counts| counts.get(&1)).map(|(_, count)| count).sum::<u64>()
        };
        exact.keep_passed(1, 1, 1_000);
        exact.forget_turns();
        exact.settle_turns(3.0, true);
        assert_eq!(passed(&mut exact), 1_000, "what passed before there were turns stands for itself");
        exact.keep_passed(1, 1, 100);
        exact.end_turn();
        exact.keep_passed(1, 1, 10);
        exact.end_turn();
        exact.keep_passed(1, 1, 1);
        exact.settle_turns(2.0, true);
        assert_eq!(passed(&mut exact), 111 + 222);
        exact.settle_turns(2.0, false);
        assert_eq!(passed(&mut exact), 20, "the last turn that has ended stands for what comes");
        exact.end_turn();
        exact.settle_turns(1.0, false);
        assert_eq!(passed(&mut exact), 11, "and then the next one too");
    }

    #[test]
    fn large_times_do_not_overflow() {
        assert_eq!(scale(u64::MAX, u64::MAX, 1), u64::MAX);
        assert_eq!(scale(7, 1, 0), 7);
    }
}
