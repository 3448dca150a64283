//! Waits: where threads spend the time in which they do not run.
//!
//! In: numbered stacks from the ring, and sums by those numbers from the kernel's tables. Out, when the recording ends: tallies in the
//! aggregate. A wait is counted whatever becomes of its stack, so that totals are right.

mod carried;
mod ladder;
mod notes;
mod open;
mod pause;
mod seed;
mod settle;
mod watch;
mod window;
mod words;

use std::collections::{HashMap, HashSet};

use profiler_common::off_cpu::{
    FIRST_STACK, STACK_NONE, STATE_ESTIMATED, STATE_PASSED, STATE_RUNNABLE, STATE_THINNED, STATE_UNSETTLED,
    STATES, SwitchConfig, SwitchControl, WaitKey, WaitSum,
};

use crate::aggregate::{Aggregate, SampleKey};
use crate::bpf::{LoadError, Programs, WaitTables, Waits};
use crate::ingest::RawSample;
use crate::process::{Moment, Processes};
use crate::profile::{Counter, clean};
use crate::profile_type::ProfileKind;
use crate::profile_type::governor::{Governor, Throttle};
use crate::session::SwitchLayout;
use crate::session::clock::monotonic_ns;
use crate::session::ledger::Waiting;
use carried::Carried;
use ladder::Rung;
use seed::Seed;
use settle::Exact;
use watch::{Turn, Watch, Watched};
use words::Words;

/// Time between two emptyings of the kernel's table of sums.
const EPOCH_NS: u64 = 500_000_000;
/// Stacks remembered by number. Past it new ones are counted as lost; a host has some thousands.
const MOST_STACKS: usize = 500_000;
/// Sums kept until the end, likewise.
const MOST_SUMS: usize = 1_000_000;

/// What a switch and the wake-up before it cost on the last rung, nanoseconds: 424 in a storm that does nothing else, 680 with pgbench, 850 with
/// redis-benchmark, whose programs leave little of ours in the caches.
const SWITCH_NS: u64 = 600;
/// The least cost at which waits are not watched all the time, a share of the machine: turns cost something too.
const LEAST_TO_PAUSE: f64 = 0.003;
/// How long it has to cost that much, or switches alone as if all were counted on the last rung: a third of a second of a storm is in a window of five
/// seconds what the rest of it may cost.
const PAUSE_AFTER_NS: u64 = 300_000_000;
/// Rungs of pauses: down to a sixteenth of the time is left.
const PAUSES: usize = 5;

/// Threads whose stacks are read at one time; a host may have thousands that wait.
const SEEDS_AT_ONCE: usize = 200;

/// The remark on waits in the run queue.
const QUEUED: &str = "[waiting for a CPU]";

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
    /// Whether no wait is left out for its length or state.
    fn takes_all_waits(&self) -> bool {
        let all = Self::default();
        (self.shortest_ns, self.longest_ns, self.states) == (all.shortest_ns, all.longest_ns, all.states)
    }

    /// What the programs are told; the layout of switches is the kernel's.
    pub(crate) fn config(&self, layout: SwitchLayout) -> SwitchConfig {
        SwitchConfig {
            shortest_ns: self.shortest_ns,
            longest_ns: self.longest_ns,
            states: self.states,
            wakers: u32::from(self.wakers),
            has_state_argument: u32::from(layout.has_state_argument),
            exact: u32::from(self.exact),
            task_state: layout.task_state,
            runs: u32::from(self.runs),
            task_waits: layout.task_switches[0],
            task_preemptions: layout.task_switches[1],
        }
    }
}

/// A stack that came from the ring.
#[derive(Debug)]
struct Known {
    key: SampleKey,
    /// What the thread waits for.
    what: Option<String>,
}

/// Name and ID of a waker.
fn title(waker: &SampleKey, aggregate: &Aggregate) -> String {
    match waker.tid {
        0 => "[idle]".to_owned(),
        tid => format!("{}-{tid}", clean(&aggregate.comms()[waker.comm as usize])),
    }
}

/// Running measurement of waits.
pub struct OffCpu {
    options: WaitOptions,
    waits: Waits,
    throttle: Throttle,
    ladder: &'static [Rung],
    /// How much of the time to pause, on the last rung.
    pauses: Throttle,
    /// What the programs took by the last look, and what switches took of that, stacks aside.
    programs_ns: u64,
    switches_ns: u64,
    /// What pauses would have left out part of: what switches took, and on the last rung stacks too.
    pausable_ns: u64,
    watch: Watch,
    /// How far waits were watched in the last window.
    watched: Watched,
    stacks: HashMap<u64, Known>,
    sums: HashMap<WaitKey, WaitSum>,
    /// Those of waits that were measured in this turn, or in the one before the pause.
    turn: HashMap<WaitKey, WaitSum>,
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
    /// Stacks that are to be sent again, and are still known for waits that began before.
    leaving: HashSet<u64>,
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
        let mut watch = Watch::new(now_ns);
        watch.looks_from(pause::counts(programs));
        let ladder = ladder::of(options);
        let governor = Governor::new(options.max_overhead * f64::from(cpus), ladder.len(), 0);
        Ok(Self {
            throttle: Throttle::new(governor, now_ns),
            ladder,
            pauses: Throttle::new(
                Governor::new(
                    options.max_overhead.max(LEAST_TO_PAUSE) * f64::from(cpus),
                    if ladder::may_pause(options) { PAUSES } else { 1 },
                    0,
                ),
                now_ns,
            ),
            programs_ns: 0,
            switches_ns: 0,
            pausable_ns: 0,
            watch,
            watched: Watched::default(),
            options: options.clone(),
            waits,
            stacks: HashMap::new(),
            sums: HashMap::new(),
            turn: HashMap::new(),
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
            leaving: HashSet::new(),
            forgotten: 0,
            unknown_stacks: 0,
            unreadable: 0,
        })
    }

    /// Looks after the budget, a few times a second. `spent_ns` says what the recording has cost so far, `programs_ns` what the programs that watch
    /// switches took of it, `switches` how many there were while they did.
    pub(crate) fn look(&mut self, spent_ns: u64, programs_ns: u64, switches: u64, now_ns: u64) {
        self.add_pausable(programs_ns, switches.saturating_mul(SWITCH_NS));
        if self.pauses.rung() > 0 {
            // As long as it has to pause there is no way down; and of pauses and what is between them a whole turn is looked at.
            self.throttle.skip(spent_ns, now_ns);
            return;
        }
        self.throttle.look(spent_ns, now_ns);
        if self.pauses.since_look_ns(now_ns) < PAUSE_AFTER_NS {
            return;
        }
        if ladder::may_pause(&self.options) && self.pauses.is_over(self.pausable_ns, now_ns) {
            self.throttle.leap();
        }
        if self.is_on_last_rung() {
            self.pauses.look(self.pausable_ns, now_ns);
        } else {
            self.pauses.skip(self.pausable_ns, now_ns);
        }
    }

    /// On the last rung long waits still have their stacks, which with few switches may cost more than these.
    fn add_pausable(&mut self, programs_ns: u64, switches_ns: u64) {
        let of_switches = switches_ns.saturating_sub(std::mem::replace(&mut self.switches_ns, switches_ns));
        let of_all = programs_ns.saturating_sub(std::mem::replace(&mut self.programs_ns, programs_ns));
        self.pausable_ns += if self.is_on_last_rung() { of_switches.max(of_all) } else { of_switches };
    }

    fn is_on_last_rung(&self) -> bool {
        self.throttle.rung() + 1 == self.ladder.len()
    }

    /// What could still be left out.
    pub(crate) fn waiting(&self) -> Waiting {
        if self.is_on_last_rung() { Waiting::AtTheirEnd } else { Waiting::CanGive }
    }

    /// Looks after the kernel side: a few times a second.
    ///
    /// # Errors
    ///
    /// What the kernel refused.
    pub fn tick(&mut self, programs: &mut Programs) -> Result<(), LoadError> {
        let now_ns = monotonic_ns();
        match self.watch.turn(self.pauses.rung(), now_ns) {
            Turn::Stay => {}
            Turn::Begin => self.begin_turns(programs)?,
            Turn::End => self.end_turns(),
            Turn::Pause => {
                self.pause(programs)?;
                self.pauses.look(self.pausable_ns, now_ns);
            }
            Turn::Resume => self.resume(programs)?,
        }
        let mut control = self.control;
        let rung = self.ladder[self.throttle.rung()];
        control.threshold_ns = rung.threshold_ns;
        control.slices_shift = rung.slices_shift;
        control.passing = u8::from(rung.passing);
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
        self.pauses.share_budget(part);
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
            if self.watch.takes_turns() && pause::is_certain(&key) && self.turn.len() < MOST_SUMS {
                settle::add(self.turn.entry(WaitKey { epoch: 0, ..key }).or_default(), &sum);
            }
            self.keep(key, sum);
        }
        Ok(())
    }

    fn keep(&mut self, key: WaitKey, sum: WaitSum) {
        let key = WaitKey { epoch: 0, ..key };
        if !is_wait(key.state) {
            let sum = match key.state {
                STATE_THINNED => self.carried.ended(key.tid, &sum),
                STATE_PASSED => WaitSum { count: self.carried.lost_place(key.tid, sum.count), ..sum },
                _ => sum,
            };
            if key.state != STATE_PASSED || self.options.takes_all_waits() {
                self.exact.keep(&key, &sum);
            }
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
        self.stacks.insert(sample.number, Known { key, what });
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
        let state = state_of_wait(key.state);
        let what = known.and_then(|known| known.what.clone());
        let waker = self.stacks.get(&key.waker).filter(|_| key.waker != STACK_NONE);
        let mut blocked = sample.stack;
        if let Some(what) = what.filter(|_| state != STATE_RUNNABLE) {
            blocked = aggregate.remark_on(blocked, &what);
        }
        if let Some(waker) = waker {
            let title = title(&waker.key, aggregate);
            blocked = aggregate.woken_by(blocked, waker.key.stack, &title);
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
    state_of_wait(state) < STATES
}

fn state_of_wait(state: u32) -> u32 {
    state & !(STATE_ESTIMATED | STATE_UNSETTLED)
}

/// What is added up for a thread of which no sample is at hand.
fn of_thread(
    key: &WaitKey,
    stack: u32,
    comms: &HashMap<u32, u32>,
    aggregate: &mut Aggregate,
    processes: &mut Processes,
) -> SampleKey {
    let Some(process) = processes.identify_by_number(&nobody(key)) else {
        let (process, comm) = (processes.nameless(), aggregate.comm(b""));
        return SampleKey { stack, process, tid: 0, comm, cgroup_id: 0 };
    };
    let comm = comms.get(&key.tid).copied().unwrap_or_else(|| aggregate.comm(b""));
    SampleKey { stack, process, tid: key.tid, comm, cgroup_id: 0 }
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
