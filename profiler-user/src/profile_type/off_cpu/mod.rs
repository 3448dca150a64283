//! Waits: where threads spend the time in which they do not run.
//!
//! In: numbered stacks from the ring, and sums by those numbers from the kernel's tables. Out, when the recording ends: tallies in the
//! aggregate. A wait is counted whatever becomes of its stack, so that totals are right.

mod carried;
mod notes;
mod open;
mod seed;
mod settle;
mod window;
mod words;

use std::collections::{HashMap, HashSet};

use profiler_common::off_cpu::{
    FIRST_STACK, LONG_WAIT_NS, STACK_NONE, STATE_ESTIMATED, STATE_RUNNABLE, STATE_THINNED, STATES,
    SwitchConfig, SwitchControl, WaitKey, WaitSum,
};

use crate::aggregate::{Aggregate, SampleKey};
use crate::bpf::{LoadError, Programs, WaitTables, Waits};
use crate::ingest::RawSample;
use crate::process::{Moment, Processes};
use crate::profile::{Counter, clean};
use crate::profile_type::ProfileKind;
use crate::profile_type::governor::{Governor, Throttle};
use crate::session::clock::monotonic_ns;
use crate::session::ledger::Waiting;
use carried::Carried;
use seed::Seed;
use settle::Exact;
use words::Words;

/// Time between two emptyings of the kernel's table of sums.
const EPOCH_NS: u64 = 500_000_000;
/// Stacks remembered by number. Past it new ones are counted as lost; a host has some thousands.
const MOST_STACKS: usize = 500_000;
/// Sums kept until the end, likewise.
const MOST_SUMS: usize = 1_000_000;

/// Threads whose stacks are read at one time; a host may have thousands that wait.
const SEEDS_AT_ONCE: usize = 200;

/// The remark on waits in the run queue.
const QUEUED: &str = "[waiting for a CPU]";

/// Rungs of the budget's ladder: thresholds below which waits are called short, nothing on the lowest.
const RUNGS: usize = 10;
/// The threshold of the second rung, 50 µs: half of the stacks of waits that are usually 25 µs long. The cost of stacks falls in proportion to it.
const FIRST_THRESHOLD_NS: u64 = 50_000;

/// The threshold of a rung. The largest is 10 ms: where waits are usually that long their stacks are taken whatever it costs, which is little,
/// for a thread has at most a hundred a second of them.
fn threshold_ns(rung: usize) -> u64 {
    rung.checked_sub(1).map_or(0, |doublings| (FIRST_THRESHOLD_NS << doublings).min(LONG_WAIT_NS))
}

/// Which waits to record, and at what cost.
#[derive(Debug, Clone, PartialEq)]
pub struct WaitOptions {
    /// Leave out waits shorter than this, nanoseconds.
    pub shortest_ns: u64,
    /// Leave out waits longer than this, nanoseconds.
    pub longest_ns: u64,
    /// One bit for each wanted `STATE_` of [`profiler_common::off_cpu`].
    pub states: u32,
    /// Record who woke the thread.
    pub wakers: bool,
    /// Measure the time that threads run too.
    pub runs: bool,
    /// Take every stack, whatever it costs.
    pub exact: bool,
    /// What the programs may cost, as a share of the whole machine's CPU time.
    pub max_overhead: f64,
    /// Room of the kernel's tables.
    pub tables: WaitTables,
}

impl Default for WaitOptions {
    fn default() -> Self {
        Self {
            shortest_ns: 0,
            longest_ns: u64::MAX,
            states: (1 << STATES) - 1,
            wakers: false,
            runs: false,
            exact: false,
            max_overhead: 0.01,
            tables: WaitTables::default(),
        }
    }
}

impl WaitOptions {
    /// What the programs are told; the layout of switches is the kernel's.
    pub fn config(&self, task_state: u32, has_state_argument: bool) -> SwitchConfig {
        SwitchConfig {
            shortest_ns: self.shortest_ns,
            longest_ns: self.longest_ns,
            states: self.states,
            wakers: u32::from(self.wakers),
            has_state_argument: u32::from(has_state_argument),
            exact: u32::from(self.exact),
            task_state,
            runs: u32::from(self.runs),
        }
    }
}

/// A stack that came from the ring.
#[derive(Debug)]
struct Known {
    key: SampleKey,
    /// What the thread waits for.
    what: Option<String>,
    /// Its name and ID, for when it is a waker.
    title: String,
}

/// Running measurement of waits.
pub struct OffCpu {
    options: WaitOptions,
    waits: Waits,
    throttle: Throttle,
    stacks: HashMap<u64, Known>,
    sums: HashMap<WaitKey, WaitSum>,
    exact: Exact,
    carried: Carried,
    /// Sums of the last window whose stacks had not come.
    early: Vec<(WaitKey, WaitSum)>,
    /// Their stacks, and those that were waited for in vain.
    awaited: HashSet<u64>,
    /// Threads that waited before the recording, by the number of their stack.
    seeds: HashMap<u64, Seed>,
    /// Those whose stacks are still to be read.
    unread: Vec<u64>,
    words: Words,
    control: SwitchControl,
    epoch_ns: u64,
    /// Windows that have ended, and the stacks of the last one.
    windows: u64,
    used: HashSet<u64>,
    forgotten: u64,
    unknown_stacks: u64,
    /// Times that the kernel's table of sums could not be read.
    unreadable: u64,
}

impl OffCpu {
    /// Attaches the programs and enters the threads of `processes` that wait already, as far as `wanted` wants them.
    ///
    /// # Errors
    ///
    /// What the kernel refused.
    pub fn start(
        programs: &mut Programs,
        options: &WaitOptions,
        cpus: u32,
        processes: Option<&[u32]>,
        wanted: impl Fn(u32) -> bool,
    ) -> Result<Self, LoadError> {
        let mut waits = programs.take_waits()?;
        let now_ns = monotonic_ns();
        let control = SwitchControl { began_ns: now_ns, ..SwitchControl::default() };
        waits.control(control)?;
        programs.attach_waits()?;
        let seeds = processes.map_or_else(Vec::new, |processes| {
            seed::enter(&mut waits, processes.iter().copied(), wanted, now_ns)
        });
        Ok(Self {
            throttle: Throttle::new(
                Governor::new(
                    options.max_overhead * f64::from(cpus),
                    if options.exact { 1 } else { RUNGS },
                    0,
                ),
                now_ns,
            ),
            options: options.clone(),
            waits,
            stacks: HashMap::new(),
            sums: HashMap::new(),
            exact: Exact::default(),
            carried: Carried::default(),
            early: Vec::new(),
            awaited: HashSet::new(),
            unread: seeds.iter().map(|seed| seed.number).collect(),
            seeds: seeds.into_iter().map(|seed| (seed.number, seed)).collect(),
            words: Words::new(),
            control,
            epoch_ns: now_ns,
            windows: 0,
            used: HashSet::new(),
            forgotten: 0,
            unknown_stacks: 0,
            unreadable: 0,
        })
    }

    /// Looks after the budget, a few times a second. `spent_ns` says what the recording has cost so far.
    pub(crate) fn look(&mut self, spent_ns: u64, now_ns: u64) {
        self.throttle.look(spent_ns, now_ns);
    }

    /// What could still be left out.
    pub(crate) fn waiting(&self) -> Waiting {
        let is_last = self.options.exact || self.throttle.rung() + 1 == RUNGS;
        if is_last { Waiting::AtTheirEnd } else { Waiting::CanGive }
    }

    /// Looks after the kernel side: a few times a second.
    ///
    /// # Errors
    ///
    /// What the kernel refused.
    pub fn tick(&mut self) -> Result<(), LoadError> {
        let now_ns = monotonic_ns();
        let mut control = self.control;
        control.threshold_ns = threshold_ns(self.throttle.rung());
        if now_ns.saturating_sub(self.epoch_ns) >= EPOCH_NS {
            self.epoch_ns = now_ns;
            // A program that read the epoch before this one may still write; by the next turn it has long ended.
            let current = control.epoch;
            self.take_sums(|epoch| epoch != current)?;
            control.epoch = current.wrapping_add(1);
        }
        if control != self.control {
            self.waits.control(control)?;
            self.control = control;
        }
        Ok(())
    }

    /// Leaves the rest of the budget to other recordings.
    pub fn share_budget(&mut self, part: f64) {
        self.throttle.share_budget(part);
    }

    /// Takes as few stacks as it can for a while.
    pub fn shed(&mut self) {
        self.throttle.shed();
    }

    /// Stacks of threads that wait since before the recording, some at each call: they are read from the processes.
    pub fn waiting_before(&mut self) -> Vec<RawSample> {
        let from = self.unread.len().saturating_sub(SEEDS_AT_ONCE);
        let now_ns = monotonic_ns();
        let numbers = self.unread.drain(from..);
        numbers.filter_map(|number| self.seeds.get(&number)?.sample(now_ns)).collect()
    }

    /// Whether there are more of them.
    pub fn has_unread(&self) -> bool {
        !self.unread.is_empty()
    }

    fn take_sums(&mut self, is_over: impl Fn(u32) -> bool) -> Result<(), LoadError> {
        for (key, sum) in self.waits.take_sums(is_over)? {
            self.keep(key, sum);
        }
        Ok(())
    }

    fn keep(&mut self, key: WaitKey, sum: WaitSum) {
        let key = WaitKey { epoch: 0, ..key };
        if !is_wait(key.state) {
            let is_thinned = key.state == STATE_THINNED;
            let sum = if is_thinned { self.carried.ended(key.tid, &sum) } else { sum };
            self.exact.keep(&key, &sum);
            return;
        }
        if self.sums.len() >= MOST_SUMS && !self.sums.contains_key(&key) {
            self.forgotten += sum.count;
            return;
        }
        settle::add(self.sums.entry(key).or_default(), &sum);
    }

    /// Remembers what a number stands for.
    pub fn define(
        &mut self,
        sample: &RawSample,
        moment: &Moment,
        aggregate: &mut Aggregate,
        processes: &mut Processes,
    ) {
        if self.stacks.contains_key(&sample.number) {
            return;
        }
        if self.stacks.len() >= MOST_STACKS {
            self.forgotten += 1;
            return;
        }
        let key = aggregate.key_of(sample, moment, processes);
        let what = sample.syscall.map(|call| self.words.of(sample.pid, call));
        let title = match sample.tid {
            0 => "[idle]".to_owned(),
            tid => format!("{}-{tid}", clean(sample.comm())),
        };
        self.stacks.insert(sample.number, Known { key, what, title });
    }

    fn add(
        &mut self,
        key: &WaitKey,
        sum: &WaitSum,
        kind: &ProfileKind,
        comms: &HashMap<u32, u32>,
        aggregate: &mut Aggregate,
        processes: &mut Processes,
    ) {
        let known = self.stacks.get(&key.stack);
        let mut sample = if let Some(known) = known {
            SampleKey { tid: key.tid, ..known.key }
        } else {
            let remark = match self.seeds.get(&key.stack) {
                Some(seed) => self.before(seed),
                None if key.stack >= FIRST_STACK => {
                    self.unknown_stacks += sum.count;
                    "[stack lost]".to_owned()
                }
                None => "[stack not taken]".to_owned(),
            };
            let stack = aggregate.remark_only(&remark);
            of_thread(key, stack, comms, aggregate, processes)
        };
        let state = key.state & !STATE_ESTIMATED;
        let what = known.and_then(|known| known.what.clone());
        let waker = self.stacks.get(&key.waker).filter(|_| key.waker != STACK_NONE);
        let mut blocked = sample.stack;
        if let Some(what) = what.filter(|_| state != STATE_RUNNABLE) {
            blocked = aggregate.remark_on(blocked, &what);
        }
        if let Some(waker) = waker {
            blocked = aggregate.woken_by(blocked, waker.key.stack, &waker.title);
        }
        let queued = aggregate.remark_on(sample.stack, QUEUED);
        for (stack, count, values) in kind.values_of_waits(state, sum, blocked, queued) {
            sample.stack = stack;
            aggregate.add_values(sample, count, values);
        }
    }

    /// The remark on a wait since before the recording whose stack could not be read.
    fn before(&self, seed: &Seed) -> String {
        match seed.call {
            Some(call) => {
                format!("[{}, waiting since before the recording]", self.words.name(call.syscall.0))
            }
            None => "[waiting since before the recording]".to_owned(),
        }
    }

    /// What was lost in user space.
    pub fn lost(&self) -> Vec<Counter> {
        let counter =
            |id: &str, what: &str, count| Counter { id: id.to_owned(), what: what.to_owned(), count };
        vec![
            counter("waits_forgotten", "waits past the limit on distinct stacks", self.forgotten),
            counter("wait_stack_unknown", "waits whose stack was lost", self.unknown_stacks),
            counter("waits_unreadable", "times that the table of waits could not be read", self.unreadable),
        ]
    }
}

/// Whether a sum is of waits, estimated or not.
fn is_wait(state: u32) -> bool {
    state & !STATE_ESTIMATED < STATES
}

/// What is added up for a thread of which no sample is at hand.
fn of_thread(
    key: &WaitKey,
    stack: u32,
    comms: &HashMap<u32, u32>,
    aggregate: &mut Aggregate,
    processes: &mut Processes,
) -> SampleKey {
    SampleKey {
        stack,
        process: processes.identify(&nobody(key)),
        tid: key.tid,
        comm: comms.get(&key.tid).copied().unwrap_or_else(|| aggregate.comm(b"")),
        cgroup_id: 0,
    }
}

/// A sample of a thread of which nothing but its numbers is known.
fn nobody(key: &WaitKey) -> RawSample {
    RawSample {
        time_ns: 0,
        weight: 0,
        cgroup_id: 0,
        cpu: 0,
        pid: key.pid,
        tid: key.tid,
        comm: [0; profiler_common::sample::COMM_LEN],
        user: Vec::new(),
        kernel: Vec::new(),
        stop: profiler_common::stop::StopReason::Complete,
        in_user_mode: false,
        cold: None,
        number: 0,
        syscall: None,
        memory: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rung_doubles_the_threshold_up_to_long_waits() {
        assert_eq!([0, 1, 2].map(threshold_ns), [0, 50_000, 100_000]);
        assert!(threshold_ns(RUNGS - 2) < LONG_WAIT_NS);
        assert_eq!(threshold_ns(RUNGS - 1), LONG_WAIT_NS);
    }

    /// A host with `rate` waits a second of `length` each: what programs cost in a look under a threshold.
    fn cost(rate: f64, length: u64, threshold: u64) -> u64 {
        let shift = profiler_common::off_cpu::shift_of(length, threshold);
        let per_wait = 300.0 + 2_500.0 / f64::from(1 << shift);
        (rate * 0.1 * per_wait) as u64
    }

    #[test]
    fn a_storm_of_short_waits_is_thinned_out_and_forgotten() {
        let (budget, look_ns) = (0.02, 100_000_000);
        let mut governor = Governor::new(budget, RUNGS, 0);
        let mut over = 0;
        for _ in 0..20 {
            let spent = cost(40_000.0, 20_000, threshold_ns(governor.rung()));
            over += u32::from(spent > look_ns / 50);
            governor.look(spent, look_ns);
        }
        assert!(over <= 10, "over the budget in {over} of 20 looks");
        for _ in 0..300 {
            governor.look(0, look_ns);
        }
        assert_eq!(threshold_ns(governor.rung()), 0);
    }
}
