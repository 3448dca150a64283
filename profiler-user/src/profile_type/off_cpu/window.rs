//! The end of a recording of waits, and of each window of one that goes on.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use profiler_common::off_cpu::{FIRST_STACK, Passing, WaitKey, WaitSum};

use super::carried::OpenWait;
use super::settle::UNSAMPLED;
use super::{OffCpu, of_thread, pause};
use crate::aggregate::Aggregate;
use crate::bpf::{LoadError, Programs};
use crate::process::Processes;
use crate::profile_type::ProfileKind;
use crate::session::clock::monotonic_ns;

/// How long a program may still write to an epoch that has ended: some microseconds with interrupts off, unless a hypervisor takes its CPU away.
const EPOCH_ENDS: Duration = Duration::from_millis(2);
/// Windows between two looks for stacks that no thread waits with any more: a minute in windows of ten seconds.
const FORGET_EVERY: u64 = 6;

impl OffCpu {
    /// Takes the programs off, and counts the waits that are not over up to now.
    pub fn stop(&mut self, programs: &mut Programs) {
        let now_ns = monotonic_ns();
        self.settle_turn(programs);
        if !self.watch.is_paused() {
            let _gone_with_us = programs.detach_waits();
            if self.take_sums(|_| true).is_err() {
                self.unreadable += 1;
            }
            let open = self.open_waits(now_ns, true);
            self.settle(open);
        }
        self.settle_window(programs, now_ns);
    }

    /// Once everything of the window has been taken in.
    fn settle_window(&mut self, programs: &Programs, now_ns: u64) {
        if self.watch.takes_turns() {
            let turn = (!self.watch.is_paused()).then(|| pause::counts(programs));
            self.settle_pauses(turn);
        } else {
            self.exact.forget_turns();
        }
        self.watched = self.watch.take(now_ns);
    }

    /// Hands everything to the aggregate, once the last stacks have come.
    pub fn finish(&mut self, kind: &ProfileKind, aggregate: &mut Aggregate, processes: &mut Processes) {
        self.hand_over(kind, true, aggregate, processes);
    }

    /// Hands the waits of a window to the aggregate. Those that go on are counted up to now, and in later windows from now on.
    ///
    /// # Errors
    ///
    /// What the kernel refused.
    pub fn end_window(
        &mut self,
        programs: &Programs,
        kind: &ProfileKind,
        aggregate: &mut Aggregate,
        processes: &mut Processes,
    ) -> Result<(), LoadError> {
        self.control.epoch = self.control.epoch.wrapping_add(1);
        self.waits.control(self.control)?;
        self.epoch_ns = monotonic_ns();
        std::thread::sleep(EPOCH_ENDS);
        let current = self.control.epoch;
        self.take_sums(|epoch| epoch != current)?;
        let now_ns = monotonic_ns();
        self.settle_turn(programs);
        if !self.watch.is_paused() {
            if self.watch.takes_turns() {
                self.waits.forget_gone(self.control.began_ns);
            }
            let open = self.open_waits(now_ns, false);
            self.settle(open);
        }
        self.settle_window(programs, now_ns);
        self.used = self.sums.keys().map(|key| key.stack).collect();
        self.hand_over(kind, false, aggregate, processes);
        Ok(())
    }

    /// The waits that have no end yet, up to `now_ns`. The sums must have been taken: what they say of threads that have ended or lost their
    /// place is more than an earlier window told, and what that was is forgotten here.
    pub(super) fn open_waits(&mut self, now_ns: u64, is_last: bool) -> Vec<OpenWait> {
        let passing: Vec<Passing> = self.waits.passing().collect();
        if self.options.takes_all_waits() {
            self.carried.settle_passed(&passing, &mut self.exact);
        }
        let began_ns = self.control.began_ns;
        let mut threads = self.waits.threads();
        for thread in threads.iter_mut().filter(|thread| thread.since_ns != 0 && thread.since_ns < began_ns) {
            // As the programs do at their end.
            (thread.since_ns, thread.shift) = (began_ns, 0);
        }
        let passing = passing.iter().filter_map(Passing::as_thread);
        threads.extend(passing.filter(|thread| thread.since_ns >= began_ns));
        self.carried.settle(&mut threads, &self.options, now_ns, is_last, &mut self.exact)
    }

    /// Takes what earlier windows counted off the sums, and adds what waits on.
    pub(super) fn settle(&mut self, open: Vec<OpenWait>) {
        self.carried.pay(&mut self.sums);
        for wait in open {
            self.keep(wait.key, wait.rest);
        }
    }

    fn hand_over(
        &mut self,
        kind: &ProfileKind,
        is_last: bool,
        aggregate: &mut Aggregate,
        processes: &mut Processes,
    ) {
        let mut comms: HashMap<u32, u32> = HashMap::new();
        for known in self.stacks.values() {
            comms.insert(known.key.tid, known.key.comm);
        }
        for seed in self.seeds.values() {
            comms.entry(seed.tid).or_insert_with(|| aggregate.comm(&seed.comm));
        }
        for (key, ran_ns) in self.exact.settle_runs(aggregate) {
            let stack = aggregate.remark_only(UNSAMPLED);
            let sample = of_thread(&key, stack, &comms, aggregate, processes);
            aggregate.add_values(sample, 0, kind.values_of_sample(ran_ns));
        }
        let rung = self.ladder[self.throttle.rung()];
        self.exact.settle_waits(&mut self.sums, |ns| rung.stands_for(ns));
        let mut sums: Vec<(WaitKey, WaitSum)> = self.sums.drain().collect();
        if is_last {
            sums.append(&mut self.early);
        } else {
            // Stacks whose walk waits for an unwind table are known by the next window.
            let unknown = |key: &WaitKey| key.stack >= FIRST_STACK && !self.is_known(key.stack);
            let (unknown, mut known): (Vec<_>, Vec<_>) = sums.into_iter().partition(|(key, _)| unknown(key));
            // Once is enough: what has not come by then will not.
            let (late, early): (Vec<_>, Vec<_>) =
                unknown.iter().partition(|(key, _)| self.awaited.contains(&key.stack));
            self.awaited = unknown.iter().map(|(key, _)| key.stack).collect();
            known.extend(late);
            sums = known;
            sums.extend(std::mem::replace(&mut self.early, early));
        }
        // The map's order is random; equal recordings should give equal files.
        sums.sort_unstable_by_key(|(key, _)| *key);
        for (key, sum) in sums {
            self.add(&key, &sum, kind, &comms, aggregate, processes);
        }
    }

    fn is_known(&self, stack: u64) -> bool {
        self.stacks.contains_key(&stack) || self.seeds.contains_key(&stack)
    }

    /// Forgets now and then stacks that no wait of the last window had: the host's programs come and go for months. Who waits there again has it
    /// sent again; for waits that began before that was said, it stays until the next time. The sums of the window have been taken out of the aggregate.
    ///
    /// # Errors
    ///
    /// What the kernel refused.
    pub fn forget(&mut self, aggregate: &mut Aggregate) -> Result<(), LoadError> {
        self.windows += 1;
        if !self.windows.is_multiple_of(FORGET_EVERY) {
            return Ok(());
        }
        let waiting = self.waits.threads().into_iter().flat_map(|thread| [thread.stack, thread.waker]);
        let early = self.early.iter().map(|(key, _)| key.stack);
        let turn = self.turn.keys().map(|key| key.stack);
        let used = self.used.iter().copied().chain(turn);
        let wanted: HashSet<u64> = waiting.chain(self.carried.stacks()).chain(early).chain(used).collect();
        let unwanted: HashSet<u64> =
            self.stacks.keys().copied().filter(|number| !wanted.contains(number)).collect();
        let were_sent = self.waits.forget_sent(unwanted.iter().copied())?;
        let gone = leave(unwanted, &mut self.leaving, &were_sent);
        self.stacks.retain(|number, _| !gone.contains(number));
        self.seeds.retain(|number, _| wanted.contains(number));
        let old = std::mem::replace(aggregate, aggregate.empty());
        for known in self.stacks.values_mut() {
            known.key = aggregate.copy_key(&old, &known.key);
        }
        self.stacks.shrink_to_fit();
        Ok(())
    }
}

/// Of the stacks that are not wanted those that can be forgotten: nobody has waited there since they were to be sent again. The others are `leaving`.
fn leave(unwanted: HashSet<u64>, leaving: &mut HashSet<u64>, were_sent: &HashSet<u64>) -> HashSet<u64> {
    let (gone, stay) =
        unwanted.into_iter().partition(|number| leaving.contains(number) && !were_sent.contains(number));
    *leaving = stay;
    gone
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stack_is_known_until_no_wait_can_have_it_any_more() {
        let set = |numbers: &[u64]| numbers.iter().copied().collect::<HashSet<u64>>();
        let mut leaving = HashSet::new();
        assert_eq!(leave(set(&[5, 6]), &mut leaving, &set(&[5, 6])), set(&[]));
        // Somebody has waited at the second one meanwhile, and then no more.
        assert_eq!(leave(set(&[5, 6]), &mut leaving, &set(&[6])), set(&[5]));
        assert_eq!(leave(set(&[6]), &mut leaving, &set(&[])), set(&[6]));
        // One that was wanted in between begins anew.
        assert_eq!(leave(set(&[7]), &mut leaving, &set(&[7])), set(&[]));
        assert_eq!(leave(set(&[]), &mut leaving, &set(&[])), set(&[]));
        assert_eq!(leave(set(&[7]), &mut leaving, &set(&[])), set(&[]));
        assert_eq!(leave(set(&[7]), &mut leaving, &set(&[])), set(&[7]));
    }
}
