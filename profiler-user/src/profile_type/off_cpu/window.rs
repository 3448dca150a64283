//! The end of a recording of waits, and of each window of one that goes on.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use profiler_common::off_cpu::{
    FIRST_STACK, LONG_WAIT_NS, Passing, STATE_ESTIMATED, STATE_UNSETTLED, WaitKey, WaitSum,
};
use profiler_common::stats::Stat;

use super::carried::OpenWait;
use super::settle::UNSAMPLED;
use super::watch::Counts;
use super::{MOST_SUMS, OffCpu, is_wait, of_thread, seed, settle};
use crate::aggregate::Aggregate;
use crate::bpf::{LoadError, Programs};
use crate::process::Processes;
use crate::profile_type::ProfileKind;
use crate::session::clock::{monotonic_ns, switches};

/// How long a program may still write to an epoch that has ended: some microseconds with interrupts off, unless a hypervisor takes its CPU away.
const EPOCH_ENDS: Duration = Duration::from_millis(2);
/// Windows between two looks for stacks that no thread waits with any more: a minute in windows of ten seconds.
const FORGET_EVERY: u64 = 6;

/// What the host has counted so far.
pub(super) fn counts(programs: &Programs) -> Counts {
    Counts { ns: monotonic_ns(), switches: switches(), waits: programs.stat(Stat::WaitsPassed) }
}

/// Whether a sum is one of waits that were measured one by one.
pub(super) fn is_certain(key: &WaitKey) -> bool {
    key.state & (STATE_ESTIMATED | STATE_UNSETTLED) == 0 && is_wait(key.state)
}

impl OffCpu {
    /// Takes the programs off, and counts the waits that are not over up to now.
    pub fn stop(&mut self, programs: &mut Programs) {
        let now_ns = monotonic_ns();
        self.settle_turn(programs);
        self.watched = self.watch.take(now_ns);
        if self.watch.is_paused() {
            return;
        }
        let _gone_with_us = programs.detach_waits();
        if self.take_sums(|_| true).is_err() {
            self.unreadable += 1;
        }
        let open = self.open_waits(now_ns, true);
        self.settle(open);
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
        self.watched = self.watch.take(now_ns);
        if !self.watch.is_paused() {
            if self.watched.share < 1.0 {
                self.waits.forget_gone(self.control.began_ns);
            }
            let open = self.open_waits(now_ns, false);
            self.settle(open);
        }
        if !self.watch.takes_turns() {
            self.exact.begin_turn();
        }
        self.used = self.sums.keys().map(|key| key.stack).collect();
        self.hand_over(kind, false, aggregate, processes);
        Ok(())
    }

    /// From now on turns stand for pauses: they begin without what was before.
    ///
    /// # Errors
    ///
    /// What the kernel refused.
    pub(super) fn begin_turns(&mut self, programs: &mut Programs) -> Result<(), LoadError> {
        self.take_off(programs)?;
        self.put_on(programs)?;
        self.exact.begin_turn();
        self.turn = HashMap::new();
        Ok(())
    }

    /// Takes the programs off for a while. Waits that go on count up to now, without their end.
    ///
    /// # Errors
    ///
    /// What the kernel refused.
    pub(super) fn pause(&mut self, programs: &mut Programs) -> Result<(), LoadError> {
        let end = self.take_off(programs)?;
        self.watch.saw(end);
        Ok(())
    }

    /// Puts the programs back. Waits that go on count from now.
    ///
    /// # Errors
    ///
    /// What the kernel refused.
    pub(super) fn resume(&mut self, programs: &mut Programs) -> Result<(), LoadError> {
        let begin = self.put_on(programs)?;
        self.stretch_turn(begin);
        self.exact.begin_turn();
        self.turn = HashMap::new();
        Ok(())
    }

    /// Returns the moment from which on the programs see nothing.
    fn take_off(&mut self, programs: &mut Programs) -> Result<Counts, LoadError> {
        self.control.paused = 1;
        self.waits.control(self.control)?;
        let end = counts(programs);
        programs.detach_waits()?;
        self.take_sums(|_| true)?;
        let mut open = self.open_waits(end.ns, true);
        // Short ones that stand for others are too short for it to matter.
        open.retain(|wait| is_certain(&wait.key));
        for wait in &mut open {
            // They are counted at their end, if somebody sees it.
            (wait.rest.count, wait.whole.count) = (0, 0);
            settle::add(self.turn.entry(wait.key).or_default(), &wait.whole);
        }
        self.settle(open);
        self.carried.forget_open();
        self.follow_long(end.ns);
        Ok(end)
    }

    /// Waits that pass are not known again after a pause. Of those that turned out long somebody may want to know the end.
    fn follow_long(&mut self, now_ns: u64) {
        let began_ns = self.control.began_ns;
        let is_long =
            |wait: &Passing| wait.since_ns >= began_ns && wait.since_ns.saturating_add(LONG_WAIT_NS) < now_ns;
        for wait in self.waits.passing().unwrap_or_default().iter().filter(|wait| is_long(wait)) {
            if let Some(switches) = seed::switches_of(wait.pid, wait.tid) {
                self.waits.follow(wait, switches as u32);
            }
        }
    }

    /// Returns the moment from which on they see everything.
    fn put_on(&mut self, programs: &mut Programs) -> Result<Counts, LoadError> {
        programs.attach_waits()?;
        let begin = counts(programs);
        self.control.began_ns = begin.ns;
        self.control.paused = 0;
        self.waits.control(self.control)?;
        self.watch.looks_from(begin);
        Ok(begin)
    }

    /// Lets the last turn stand for the pause so far.
    fn settle_turn(&mut self, programs: &Programs) {
        if self.watch.is_paused() {
            self.stretch_turn(counts(programs));
        }
    }

    fn stretch_turn(&mut self, now: Counts) {
        let stretch = self.watch.stretch(now);
        self.exact.stretch_turn(stretch.by_switches);
        for (key, sum) in &self.turn {
            let more = settle::stretched(sum, stretch.by_time);
            if self.sums.len() < MOST_SUMS || self.sums.contains_key(key) {
                settle::add(self.sums.entry(*key).or_default(), &more);
            } else {
                self.forgotten += more.count;
            }
        }
    }

    /// The waits that have no end yet, up to `now_ns`. The sums must have been taken: what they say of threads that have ended or lost their
    /// place is more than an earlier window told, and what that was is forgotten here.
    fn open_waits(&mut self, now_ns: u64, is_last: bool) -> Vec<OpenWait> {
        let passing = self.waits.passing().unwrap_or_else(|_| {
            self.unreadable += 1;
            Vec::new()
        });
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
    fn settle(&mut self, open: Vec<OpenWait>) {
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
    /// sent again. The sums of the window have been taken out of the aggregate.
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
        let unwanted = self.stacks.keys().copied().filter(|number| !wanted.contains(number));
        self.waits.forget_sent(unwanted)?;
        self.stacks.retain(|number, _| wanted.contains(number));
        self.seeds.retain(|number, _| wanted.contains(number));
        let old = std::mem::replace(aggregate, aggregate.empty());
        for known in self.stacks.values_mut() {
            known.key = aggregate.copy_key(&old, &known.key);
        }
        self.stacks.shrink_to_fit();
        Ok(())
    }
}
