//! Every call, or time slices: what the probes may cost decides.
//!
//! Pure: times, totals and costs in, turns out. The beginning measures how often the allocator is called. Where counting every call stays
//! inside the budget, it goes on to the end. Else the probes are in for a slice and out for longer, so that both together stay inside, at
//! random times, so that a program with a rhythm does not hide from them. What slices say of all calls is [`super::estimate`]'s part.

use super::estimate::{Estimate, Slice, USUALLY_DEARER, estimate, is_saturated};
use super::threads::ThreadsTime;
use crate::output::{duration, percent, thousands};
use crate::statistics::Chance;

/// Length of the first look, 10 ms: enough to learn a rate.
const FIRST_NS: u64 = 10_000_000;
/// Time to the next look while every call is counted, 50 ms.
const LOOK_NS: u64 = 50_000_000;
/// Mean time from slice to slice where slices can be as short as that asks for, 100 ms.
const PERIOD_NS: f64 = 1e8;
/// Shortest slice, 4 ms: putting probes in and out costs a small part of it.
const SHORTEST_NS: f64 = 4e6;
/// Time with probes before a slice, 1 ms: what a target with time to spare puts off, it puts off from the beginning, and at its end it is as far behind.
pub(super) const BEFORE_NS: f64 = 1e6;
/// Longest slice, 50 ms, and so the largest share of time that slices cover is a half.
const LONGEST_NS: f64 = 5e7;
/// Longest pause between slices, 10 s.
const LONGEST_PAUSE_NS: f64 = 1e10;
/// One slice in so many has other probes.
const OTHER: u64 = 3;
/// Share of a slice that probes take from which it matters how the target bears that.
const NOTICED: f64 = 0.05;
/// Part of the budget that slices are planned for: the look at the beginning counts every call, and what a slice costs is known only after it.
const PLANNED: f64 = 0.85;
/// Slices after which what the probes take of the target is looked at less often.
const LEARNED: usize = 64;
/// Most slices that are kept apart; then neighbours become one.
const MOST_SLICES: usize = 8192;

/// So far.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Total {
    pub(super) calls: u64,
    pub(super) bytes: u64,
    /// CPU time that the target has used, nanoseconds. Right in the long run.
    pub(super) cpu_ns: u64,
    /// CPU time that probes took, nanoseconds.
    pub(super) probe_ns: f64,
}

/// What a slice took, from before its probes came until after they were gone, nanoseconds of CPU time.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Paid {
    /// Probes, by what they take of us.
    pub(super) probe_ns: f64,
    /// The agent, to put them in and out.
    pub(super) own_ns: f64,
}

/// What to do with the probes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Turn {
    /// Nothing.
    Stay,
    /// Take them out: slices from now on.
    Close,
    /// Put them in for so long, now.
    Slice {
        length_ns: u64,
        /// Not the usual ones, to learn from the difference.
        other: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Phase {
    /// Counting every call; looked at then, if there is a budget.
    Always {
        look_ns: Option<u64>,
    },
    /// The next slice begins then.
    Slices {
        next_ns: u64,
    },
    Ended,
}

/// The state of a recording.
#[derive(Debug)]
pub(super) struct Slices {
    /// Share of one CPU; none when every call is counted whatever it costs.
    whole_budget: Option<f64>,
    /// Part of it that other recordings leave.
    part: f64,
    /// Time that probes go on to cost something after they were taken out, nanoseconds.
    linger_ns: f64,
    phase: Phase,
    began_ns: u64,
    ended_ns: u64,
    /// When the last look was, and what it saw.
    looked_ns: u64,
    looked: Total,
    /// Time in which every call was counted, before the first slice, nanoseconds, and what there was.
    always_ns: u64,
    always: Total,
    seen: Vec<Slice>,
    /// What all slices and the time before each of them counted, and of that, what stacks may have been taken of.
    counted: u64,
    with_stacks: u64,
    /// Blocks are followed in slices with the usual probes. The other ones count calls only.
    follows: bool,
    /// CPUs of the machine.
    cpus: f64,
    /// How many times what they take of us the probes take of the target, where that was learned.
    dearer: Option<f64>,
    /// Time and CPU time of the target and of probes in all slices, nanoseconds.
    on: (f64, f64, f64),
    /// Slices, and what they took from before each began until after it.
    paid: (f64, Paid),
    /// CPU time of the target from the first slice on, in slices and in all, nanoseconds.
    cpu_in: u64,
    cpu_all: u64,
    off_ns: u64,
    /// CPU time that probes had taken when the recording began, on ourselves, nanoseconds.
    before_ns: f64,
    /// CPU time that all probes took since, nanoseconds.
    spent_ns: f64,
    /// Share of one CPU that counting every call would take.
    expected: Option<f64>,
    calls_a_second: f64,
    chance: Chance,
}

impl Slices {
    pub(super) fn new(budget: Option<f64>, linger_ns: f64, follows: bool, now_ns: u64) -> Self {
        Self {
            whole_budget: budget,
            part: 1.0,
            linger_ns,
            phase: Phase::Always { look_ns: budget.map(|_| now_ns + FIRST_NS) },
            began_ns: now_ns,
            ended_ns: now_ns,
            looked_ns: now_ns,
            looked: Total::default(),
            always_ns: 0,
            always: Total::default(),
            seen: Vec::new(),
            counted: 0,
            with_stacks: 0,
            follows,
            cpus: std::thread::available_parallelism().map_or(1.0, |cpus| cpus.get() as f64),
            dearer: None,
            on: (0.0, 0.0, 0.0),
            paid: (0.0, Paid::default()),
            cpu_in: 0,
            cpu_all: 0,
            off_ns: 0,
            before_ns: 0.0,
            spent_ns: 0.0,
            expected: None,
            calls_a_second: 0.0,
            chance: Chance::of_now(),
        }
    }

    /// Share of one CPU that this recording may take now.
    fn budget(&self) -> Option<f64> {
        self.whole_budget.map(|budget| budget * self.part * PLANNED)
    }

    /// Leaves the rest of the budget to other recordings.
    pub(super) fn share_budget(&mut self, part: f64) {
        self.part = part;
    }

    /// The target's first probes are in: counting begins now.
    pub(super) fn begin(&mut self, now_ns: u64, total: Total) {
        self.phase = Phase::Always { look_ns: self.whole_budget.map(|_| now_ns + FIRST_NS) };
        (self.began_ns, self.looked_ns, self.looked) = (now_ns, now_ns, total);
        self.before_ns = total.probe_ns;
    }

    /// Whether every call is counted for now.
    pub(super) fn is_always(&self) -> bool {
        matches!(self.phase, Phase::Always { .. })
    }

    /// When the next look should come.
    pub(super) fn next_ns(&self) -> Option<u64> {
        match self.phase {
            Phase::Always { look_ns } => look_ns,
            Phase::Slices { next_ns } => Some(next_ns),
            Phase::Ended => None,
        }
    }

    /// Whether not every call was counted.
    pub(super) fn is_sliced(&self) -> bool {
        !self.seen.is_empty() || matches!(self.phase, Phase::Slices { .. })
    }

    /// Share of the time that slices cover, by what they cost so far.
    pub(super) fn share_of_time(&self) -> f64 {
        let (wall_ns, _, probe_ns) = self.on;
        let Some(budget) = self.budget() else { return 1.0 };
        (budget * self.target_cpus() * wall_ns / (probe_ns * self.dearer()).max(1.0)).clamp(1e-6, 0.5)
    }

    /// CPUs that the target uses, one at least: it pays on each of them, and has as many times one CPU to pay from.
    fn target_cpus(&self) -> f64 {
        let (wall_ns, cpu_ns, _) = self.on;
        (cpu_ns / wall_ns.max(1.0)).max(1.0)
    }

    /// How many times what they take of us the probes take of the target, by what is known so far.
    fn dearer(&self) -> f64 {
        // One that waits for its time by spinning loses nothing, but its CPU does.
        self.dearer.unwrap_or(USUALLY_DEARER.0).max(1.0)
    }

    /// Says what to do next.
    pub(super) fn look(&mut self, now_ns: u64, total: impl FnOnce() -> Total) -> Turn {
        match self.phase {
            Phase::Always { look_ns: Some(look_ns) } if now_ns >= look_ns => {
                self.measure(now_ns, total());
                let Some(budget) = self.budget() else { return Turn::Stay };
                let allowed = budget * self.target_cpus();
                if self.expected.is_some_and(|expected| expected * self.dearer() > allowed) {
                    return Turn::Close;
                }
                // What was cheap may become dear.
                self.phase = Phase::Always { look_ns: Some(now_ns + LOOK_NS) };
                Turn::Stay
            }
            Phase::Slices { next_ns } if now_ns >= next_ns => {
                let length = self.length_ns();
                let matters = self.on.2 > NOTICED * self.on.0 && is_saturated(self.inside());
                Turn::Slice { length_ns: length as u64, other: matters && self.chance.below(OTHER) == 0 }
            }
            _ => Turn::Stay,
        }
    }

    /// Learns what counting every call costs, from the time since the last look.
    fn measure(&mut self, now_ns: u64, total: Total) {
        let wall = now_ns.saturating_sub(self.looked_ns).max(1) as f64;
        let calls = total.calls.saturating_sub(self.looked.calls) as f64;
        let cpu = total.cpu_ns.saturating_sub(self.looked.cpu_ns) as f64;
        let probe = (total.probe_ns - self.looked.probe_ns).max(0.0);
        self.on = (wall, cpu, probe);
        self.expected = Some(self.expected.unwrap_or(0.0).max(probe / wall));
        self.calls_a_second = self.calls_a_second.max(calls * 1e9 / wall);
        (self.looked_ns, self.looked) = (now_ns, total);
    }

    /// The probes are out, after [`Turn::Close`].
    pub(super) fn closed(&mut self, now_ns: u64, total: Total) {
        self.always_ns = now_ns.saturating_sub(self.began_ns);
        self.always = total;
        self.pause(now_ns);
    }

    /// A slice is over, after [`Turn::Slice`]: the time and what there was when the probes came, when the slice began and when it ended; and the time
    /// of threads a little later, when those that waited at the end have run and the kernel knows that they did.
    pub(super) fn add(
        &mut self,
        looks: [(u64, Total, ThreadsTime); 3],
        later: ThreadsTime,
        other: bool,
        paid: Paid,
    ) {
        let [(came_ns, came, came_threads), (began_ns, began, began_threads), (now_ns, ended, threads)] =
            looks;
        let cpu_ns = threads.cpu_ns.saturating_sub(began_threads.cpu_ns);
        let slice = Slice {
            calls: ended.calls.saturating_sub(began.calls) as f64,
            bytes: ended.bytes.saturating_sub(began.bytes) as f64,
            wall_ns: now_ns.saturating_sub(began_ns) as f64,
            cpu_ns: cpu_ns as f64,
            waited_ns: later.waited_ns.saturating_sub(began_threads.waited_ns) as f64,
            probe_ns: (ended.probe_ns - began.probe_ns).max(0.0),
            other,
        };
        self.on = (self.on.0 + slice.wall_ns, self.on.1 + slice.cpu_ns, self.on.2 + slice.probe_ns);
        let lingering = self.linger_ns * slice.probe_ns / slice.wall_ns.max(1.0);
        let (slices, before) = self.paid;
        let paid = Paid {
            probe_ns: before.probe_ns + paid.probe_ns.max(0.0) + lingering,
            own_ns: before.own_ns + paid.own_ns,
        };
        self.paid = (slices + 1.0, paid);
        let counted = ended.calls.saturating_sub(came.calls);
        self.counted += counted;
        if !(other && self.follows) {
            self.with_stacks += counted;
        }
        self.cpu_in += threads.cpu_ns.saturating_sub(came_threads.cpu_ns);
        self.cpu_all = ended.cpu_ns.saturating_sub(self.always.cpu_ns);
        self.off_ns += now_ns.saturating_sub(came_ns);
        self.seen.push(slice);
        // Of many slices each one says little more, and looking at all of them takes time.
        if self.seen.len() < LEARNED || self.seen.len().is_multiple_of(LEARNED) {
            self.dearer = self.estimate().and_then(|found| found.dearer);
        }
        if self.seen.len() > MOST_SLICES {
            let (other, usual): (Vec<Slice>, Vec<Slice>) = self.seen.iter().partition(|slice| slice.other);
            let joined = [other, usual].into_iter().flat_map(|slices| {
                slices
                    .chunks(2)
                    .map(|pair| pair[1..].iter().fold(pair[0], |a, b| a.join(*b)))
                    .collect::<Vec<_>>()
            });
            self.seen = joined.collect();
        }
        self.looked_ns = now_ns;
        self.pause(now_ns);
    }

    /// Least time from slice to slice that the agent's own work for them allows.
    fn least_period_ns(&self) -> f64 {
        let (slices, paid) = self.paid;
        paid.own_ns / f64::max(slices, 1.0) / (self.budget().unwrap_or(1.0) * self.cpus)
    }

    /// Length of the next slice: where slices have to be few, they can be longer.
    fn length_ns(&self) -> f64 {
        let period = self.least_period_ns().max(PERIOD_NS);
        (period * self.share_of_time()).clamp(SHORTEST_NS, LONGEST_NS)
    }

    fn pause(&mut self, now_ns: u64) {
        let length = self.length_ns();
        let (slices, paid) = self.paid;
        let pause = if slices > 0.0 {
            // What the agent takes of the machine adds to what probes take of the target: the two halves of a core slow each other down.
            let target = paid.probe_ns * self.dearer() / (self.budget().unwrap_or(1.0) * self.target_cpus());
            (target / slices + self.least_period_ns()).max(2.0 * length) - length
        } else {
            (BEFORE_NS + length + self.linger_ns) / self.share_of_time() - length
        };
        let pause = pause.min(LONGEST_PAUSE_NS) as u64;
        // Anywhere from half of it to half more, so that the mean is right.
        self.phase = Phase::Slices { next_ns: now_ns + pause / 2 + self.chance.below(pause) };
    }

    /// The recording is over.
    pub(super) fn end(&mut self, now_ns: u64, total: impl FnOnce() -> Total) {
        let total = total();
        self.spent_ns = (total.probe_ns - self.before_ns).max(0.0);
        if self.is_always() {
            self.measure(now_ns, total);
            self.always_ns = now_ns.saturating_sub(self.began_ns);
        } else {
            self.cpu_all = total.cpu_ns.saturating_sub(self.always.cpu_ns);
        }
        self.phase = Phase::Ended;
        self.ended_ns = now_ns;
    }

    /// Share of one CPU that the target used, or waited for, in slices.
    fn inside(&self) -> f64 {
        let (wall_ns, busy_ns) = self
            .seen
            .iter()
            .fold((1.0, 0.0), |sum, slice| (sum.0 + slice.wall_ns, sum.1 + slice.busy() * slice.wall_ns));
        busy_ns / wall_ns
    }

    /// Share of one CPU that it used outside of them.
    fn outside(&self) -> f64 {
        let last_ns = self.ended_ns.max(self.looked_ns);
        let all_ns = last_ns.saturating_sub(self.began_ns + self.always_ns);
        self.cpu_all.saturating_sub(self.cpu_in) as f64 / all_ns.saturating_sub(self.off_ns).max(1) as f64
    }

    fn estimate(&self) -> Option<Estimate> {
        estimate(&self.seen, self.outside())
    }

    /// What one call that was counted since the first slice stands for.
    pub(super) fn scale_of_calls(&self) -> f64 {
        self.scale(self.counted)
    }

    /// What one call stands for of those whose stack was taken, or could have been.
    pub(super) fn scale_of_stacks(&self) -> f64 {
        self.scale(self.with_stacks)
    }

    fn scale(&self, counted: u64) -> f64 {
        if counted == 0 { 1.0 } else { self.calls_since() / counted as f64 }
    }

    /// What the target does in a second without probes, for each that it did in a slice, and half of the 95 % interval of that, as a share.
    pub(super) fn correction(&self) -> (f64, f64) {
        match self.estimate() {
            Some(found) => (found.correction, found.error),
            None => (1.0, if self.is_sliced() { 1.0 } else { 0.0 }),
        }
    }

    /// Calls since the first slice, by what slices saw.
    fn calls_since(&self) -> f64 {
        let (wall_ns, _) = self.in_slices();
        let calls: f64 = self.seen.iter().map(|slice| slice.calls).sum();
        let left_ns = self.ended_ns.saturating_sub(self.began_ns).saturating_sub(self.always_ns) as f64;
        let correction = self.estimate().map_or(1.0, |found| found.correction);
        calls * left_ns / wall_ns.max(1.0) * correction
    }

    /// Half of the 95 % interval of scaled totals, percent.
    pub(super) fn error_percent(&self) -> f64 {
        if !self.is_sliced() {
            return 0.0;
        }
        let since = self.calls_since();
        let share = since / (since + self.always.calls as f64).max(1.0);
        self.estimate().map_or(100.0, |found| found.error * share * 100.0)
    }

    /// Time in slices, nanoseconds, and their number.
    fn in_slices(&self) -> (f64, usize) {
        (self.seen.iter().map(|slice| slice.wall_ns).sum(), self.seen.len())
    }

    /// How the calls were counted and what it took, in words.
    pub(super) fn notes(&self, max_overhead: f64) -> Vec<String> {
        let whole_ns = self.ended_ns.saturating_sub(self.began_ns).max(1);
        let spent_ns = self.spent_ns * self.dearer();
        let mut costs = format!("probes took {} of a CPU", percent(spent_ns / whole_ns as f64 * 100.0));
        if let Some(expected) = self.expected.map(|expected| expected * self.dearer()) {
            let all = format!(
                "; counting every one of about {} calls a second takes about {}",
                thousands(self.calls_a_second as u64),
                percent(expected * 100.0)
            );
            costs.push_str(&all);
        }
        if !self.is_sliced() {
            return vec!["exact: every call was counted".to_owned(), costs];
        }
        if let Some(dearer) = self.dearer {
            let times = format!("; it takes {dearer:.2} times as long in the target as on ourselves");
            costs.push_str(&times);
        }
        let (wall_ns, count) = self.in_slices();
        let slices = format!(
            "time slices: calls were counted in {} of {} ({count} slices) and scaled, to stay within --max-overhead {} (--exact counts all)",
            duration(wall_ns as u64 + self.always_ns),
            duration(whole_ns),
            percent(max_overhead * 100.0)
        );
        vec![slices, costs]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// A program that makes `rate` calls a second on a CPU that it leaves idle otherwise, run for ten seconds; returns the state, the share of
    /// time that probes took, and calls found for each one there was.
    fn run(rate: f64, ns_per_call: f64, budget: Option<f64>) -> (Slices, f64, f64) {
        run_with(rate, ns_per_call, budget, 0.0)
    }

    /// The same, where each slice takes the agent so long.
    fn run_with(rate: f64, ns_per_call: f64, budget: Option<f64>, own_ns: f64) -> (Slices, f64, f64) {
        let mut slices = Slices::new(budget, 0.0, false, 0);
        let (mut now_ns, mut counted, mut cost) = (0, 0.0, 0.0);
        let total = |counted: f64, cost: f64| Total {
            calls: counted as u64,
            bytes: counted as u64 * 100,
            cpu_ns: cost as u64,
            probe_ns: cost,
        };
        let mut pass = |ns: u64, on: bool, now_ns: &mut u64| {
            *now_ns += ns;
            let calls = if on { rate * ns as f64 / 1e9 } else { 0.0 };
            counted += calls;
            cost += calls * ns_per_call;
            (counted, cost)
        };
        let mut last = (0.0, 0.0);
        while now_ns < 10_000 * MS {
            match slices.look(now_ns, || total(last.0, last.1)) {
                Turn::Stay => last = pass(5 * MS, slices.is_always(), &mut now_ns),
                Turn::Close => slices.closed(now_ns, total(last.0, last.1)),
                Turn::Slice { length_ns, .. } => {
                    let mut look = |ns: u64, now_ns: &mut u64| {
                        last = pass(ns, true, now_ns);
                        let threads = ThreadsTime { cpu_ns: last.1 as u64, waited_ns: 0 };
                        (*now_ns, total(last.0, last.1), threads)
                    };
                    let came = look(0, &mut now_ns);
                    let began = look(BEFORE_NS as u64, &mut now_ns);
                    let ended = look(length_ns, &mut now_ns);
                    let paid = Paid { probe_ns: ended.1.probe_ns - came.1.probe_ns, own_ns };
                    slices.add([came, began, ended], ended.2, false, paid);
                }
            }
        }
        slices.end(now_ns, || total(last.0, last.1));
        let always = slices.always.calls as f64;
        let found =
            if slices.is_sliced() { always + (last.0 - always) * slices.scale_of_calls() } else { last.0 };
        (slices, last.1 / now_ns as f64, found / (rate * now_ns as f64 / 1e9))
    }

    #[test]
    fn cheap_programs_are_counted_exactly() {
        let (slices, cost, found) = run(5_000.0, 700.0, Some(0.01));
        assert!(!slices.is_sliced() && cost < 0.01 && (found - 1.0).abs() < 0.01);
        assert!(
            (slices.scale_of_calls() - 1.0).abs() < f64::EPSILON && slices.error_percent() < f64::EPSILON
        );
        assert!(slices.notes(0.01)[0].starts_with("exact"));
    }

    #[test]
    fn a_million_calls_a_second_stay_inside_the_budget() {
        let (slices, cost, found) = run(1_000_000.0, 700.0, Some(0.01));
        assert!(slices.is_sliced() && cost < 0.01, "{cost}");
        assert!((found - 1.0).abs() < 0.01, "{found} of the calls");
        assert!(slices.error_percent() < 30.0, "{}", slices.error_percent());
        assert!(slices.seen.len() > 15, "{} slices", slices.seen.len());
        assert!(slices.notes(0.01)[0].contains("time slices"), "{:?}", slices.notes(0.01));
    }

    #[test]
    fn slices_that_are_dear_to_the_agent_are_few() {
        let own_ns = 2e7;
        let (mut slices, ..) = run_with(1_000_000.0, 700.0, Some(0.01), 0.0);
        let many = slices.seen.len();
        (slices, ..) = run_with(1_000_000.0, 700.0, Some(0.01), own_ns);
        let share = slices.seen.len() as f64 * own_ns / 1e10 / slices.cpus;
        assert!(slices.seen.len() < many && share < 0.02, "{share} of the machine");
    }

    #[test]
    fn slices_are_longer_where_calls_are_fewer() {
        let (slices, cost, found) = run(50_000.0, 700.0, Some(0.01));
        assert!(slices.is_sliced() && (0.005..0.012).contains(&cost), "{cost}");
        assert!((found - 1.0).abs() < 0.01, "{found} of the calls");
        assert!(slices.seen.iter().all(|slice| slice.wall_ns > 2.0 * SHORTEST_NS));
    }

    #[test]
    fn whoever_asks_for_all_gets_all() {
        let (slices, cost, _) = run(1_000_000.0, 700.0, None);
        assert!(!slices.is_sliced() && cost > 0.3);
    }

    #[test]
    fn long_recordings_keep_a_bounded_number_of_slices() {
        let mut slices = Slices::new(Some(0.01), 0.0, false, 0);
        slices.closed(0, Total::default());
        for index in 0..30_000_u64 {
            let look = |ns: u64| {
                let total = Total { calls: ns, bytes: ns, cpu_ns: ns, probe_ns: ns as f64 };
                (ns, total, ThreadsTime::default())
            };
            let at = index * 100;
            slices.add(
                [look(at), look(at + 10), look(at + 60)],
                ThreadsTime::default(),
                index % 3 == 0,
                Paid::default(),
            );
        }
        assert!(slices.seen.len() <= MOST_SLICES + 1);
        let wall: f64 = slices.seen.iter().map(|slice| slice.wall_ns).sum();
        assert!((wall - 30_000.0 * 50.0).abs() < 1.0);
    }
}
