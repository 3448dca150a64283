//! Pauses: the programs go off and on again, and what turns between pauses saw stands for these.
//!
//! Nothing is known of a pause but its length and how many switches the host made. Threads that wait when a turn begins are counted from there: most
//! of them wait where they did when the last turn ended, and the programs find out at the end of the wait, by the thread's count of switches.

use std::collections::HashMap;

use profiler_common::off_cpu::{LONG_WAIT_NS, Passing, STATE_ESTIMATED, STATE_UNSETTLED, WaitKey};
use profiler_common::stats::Stat;

use super::watch::Counts;
use super::{MOST_SUMS, OffCpu, is_wait, seed, settle};
use crate::bpf::{LoadError, Programs};
use crate::session::clock::{monotonic_ns, switches};

/// What the host has counted so far.
pub(super) fn counts(programs: &Programs) -> Counts {
    Counts { ns: monotonic_ns(), switches: switches(), waits: programs.stat(Stat::WaitsPassed) }
}

/// Whether a sum is one of waits that were measured one by one.
pub(super) fn is_certain(key: &WaitKey) -> bool {
    key.state & (STATE_ESTIMATED | STATE_UNSETTLED) == 0 && is_wait(key.state)
}

impl OffCpu {
    /// From now on turns stand for pauses: they begin without what was before.
    ///
    /// # Errors
    ///
    /// What the kernel refused.
    pub(super) fn begin_turns(&mut self, programs: &mut Programs) -> Result<(), LoadError> {
        self.take_off(programs)?;
        self.put_on(programs)?;
        self.forget_turns();
        Ok(())
    }

    /// There are no pauses any more: turns stand for those that were, and then for nothing.
    pub(super) fn end_turns(&mut self) {
        self.settle_pauses(None);
        self.forget_turns();
        self.waits.forget_gone(self.control.began_ns);
    }

    /// Takes the programs off for a while. Waits that go on count up to now, without their end.
    ///
    /// # Errors
    ///
    /// What the kernel refused.
    pub(super) fn pause(&mut self, programs: &mut Programs) -> Result<(), LoadError> {
        let end = self.take_off(programs)?;
        self.watch.saw(end);
        self.exact.end_turn();
        if self.watch.is_pool_over(self.pauses.rung(), end.ns) {
            self.settle_pauses(None);
        }
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
        let long: Vec<Passing> = self.waits.passing().filter(is_long).collect();
        for wait in long {
            if let Some(switches) = seed::switches_of(wait.pid, wait.tid) {
                self.waits.follow(&wait, switches as u32);
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

    fn forget_turns(&mut self) {
        self.exact.forget_turns();
        self.turn = HashMap::new();
    }

    /// Lets what the last turn measured stand for the pause so far.
    pub(super) fn settle_turn(&mut self, programs: &Programs) {
        if self.watch.is_paused() {
            self.stretch_turn(counts(programs));
        }
    }

    /// Lets what passed in turns stand for the pauses so far. In the middle of a turn `now` has that count too, as far as it has been taken in.
    pub(super) fn settle_pauses(&mut self, now: Option<Counts>) {
        let by = self.watch.settle(self.pauses.rung(), now, monotonic_ns());
        self.exact.settle_turns(by, now.is_some());
    }

    fn stretch_turn(&mut self, now: Counts) {
        let by = self.watch.misses(now);
        for (key, sum) in &self.turn {
            let more = settle::stretched(sum, by);
            if self.sums.len() < MOST_SUMS || self.sums.contains_key(key) {
                settle::add(self.sums.entry(*key).or_default(), &more);
            } else {
                self.forgotten += more.count;
            }
        }
    }
}
