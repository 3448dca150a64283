//! Every call, or time slices: what the probes may cost decides.
//!
//! Pure: times, totals and costs in, turns out. The first slice measures how often the allocator is called. Where counting every call stays
//! inside the budget, it goes on to the end. Else the probes are in for a slice and out for longer, so that both together stay inside, at
//! random times, so that a program with a rhythm does not hide from them.
//!
//! What the slices saw is scaled by time. A target that has time to spare does as much in a slice as outside. One that has none does less, because
//! probes take its time: then calls for each second that it worked are scaled by the seconds that it worked in all, and the result is as
//! uncertain as the cost of a probe.

use crate::output::{duration, percent, thousands};

/// Length of the first slice, 30 ms: enough to learn a rate.
const FIRST_NS: u64 = 30_000_000;
/// Length of the others, 20 ms. Taking the probes out costs the target more than a shorter one would save.
const SLICE_NS: u64 = 20_000_000;
/// Longest time without a slice, 2 s.
const LONGEST_PAUSE_NS: u64 = 2_000_000_000;
/// Shortest, 200 ms: probes are taken out in about half of that.
const SHORTEST_PAUSE_NS: u64 = 200_000_000;

/// Time to the next look while every call is counted, 100 ms.
const LOOK_NS: u64 = 100_000_000;
/// Least share of a slice that is taken for the target's own work: below it the probes are most of what it does, and their cost is not known
/// well enough to take it off.
const LEAST_WORK: f64 = 0.05;
/// Share of one CPU from which a target has no time to spare.
const BUSY: f64 = 0.9;
/// Share of a slice that probes may take before it is unknown how much less was done in it.
const MOST_PROBES: f64 = 0.6;
/// Standard error of what a probe costs, as a share: what it costs here against what it cost when it was measured.
const COST_ERROR: f64 = 0.2;

/// Calls so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Total {
    pub(super) calls: u64,
    pub(super) bytes: u64,
    /// CPU time that the target has used, nanoseconds.
    pub(super) cpu_ns: u64,
}

/// What to do with the probes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Turn {
    /// Nothing.
    Stay,
    /// Take them out.
    Close {
        /// Share of time that slices cover from now on.
        sample_share: f64,
    },
    /// Put them back.
    Open,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Phase {
    /// Counting since then; until then, if there is an end.
    On {
        since_ns: u64,
        until_ns: Option<u64>,
    },
    Off {
        until_ns: u64,
    },
    Ended,
}

/// The state of a recording.
#[derive(Debug)]
pub(super) struct Slices {
    /// Share of one CPU; none when every call is counted whatever it costs.
    budget: Option<f64>,
    phase: Phase,
    began_ns: u64,
    ended_ns: u64,
    at_start: Total,
    at_first: Total,
    at_end: Total,
    /// Of each slice: calls, bytes, nanoseconds of CPU time without probes, and its length, nanoseconds.
    seen: Vec<(f64, f64, f64, f64)>,
    /// CPU time of the target in all slices, nanoseconds.
    cpu_on_ns: f64,
    on_ns: u64,
    /// CPU time of probes in all slices, nanoseconds.
    probe_ns: f64,
    ns_per_call: f64,
    /// Share of one CPU that counting every call would take, by the last slice.
    expected: Option<f64>,
    calls_a_second: f64,
    sliced: bool,
    /// Length of the pause that comes next, nanoseconds.
    pause_ns: u64,
    random: u64,
}

impl Slices {
    pub(super) fn new(budget: Option<f64>, now_ns: u64) -> Self {
        Self {
            budget,
            phase: Phase::On { since_ns: now_ns, until_ns: Some(now_ns + FIRST_NS) },
            began_ns: now_ns,
            ended_ns: now_ns,
            at_start: Total::default(),
            at_first: Total::default(),
            at_end: Total::default(),
            seen: Vec::new(),
            cpu_on_ns: 0.0,
            on_ns: 0,
            probe_ns: 0.0,
            ns_per_call: 0.0,
            expected: None,
            calls_a_second: 0.0,
            sliced: false,
            pause_ns: SHORTEST_PAUSE_NS,
            random: now_ns | 1,
        }
    }

    /// Whether calls are counted now.
    pub(super) fn is_open(&self) -> bool {
        matches!(self.phase, Phase::On { .. })
    }

    /// Whether probes are out for now.
    pub(super) fn is_closed(&self) -> bool {
        matches!(self.phase, Phase::Off { .. })
    }

    /// Whether the next look should come in milliseconds.
    pub(super) fn is_hurried(&self) -> bool {
        self.budget.is_some() && matches!(self.phase, Phase::On { until_ns: Some(_), .. })
    }

    /// Whether not every call was counted.
    pub(super) fn is_sliced(&self) -> bool {
        self.sliced
    }

    /// Says what to do next.
    pub(super) fn look(&mut self, now_ns: u64, ns_per_call: f64, total: impl FnOnce() -> Total) -> Turn {
        match self.phase {
            Phase::On { since_ns, until_ns: Some(until_ns) } if now_ns >= until_ns => {
                let elapsed_ns = now_ns.saturating_sub(since_ns).max(1);
                self.ns_per_call = ns_per_call;
                let total = total();
                let calls = total.calls.saturating_sub(self.at_start.calls) as f64;
                // Of the wall's time, for the budget: two threads that are slowed down count twice.
                let share = calls * ns_per_call / elapsed_ns as f64;
                let cpu_ns = total.cpu_ns.saturating_sub(self.at_start.cpu_ns) as f64;
                // Without probes the same work would take this much less, if there is no time to spare.
                let is_busy = cpu_ns > BUSY * elapsed_ns as f64;
                let quicker = if is_busy { (1.0 - share).clamp(LEAST_WORK, 1.0) } else { 1.0 };
                let expected = share / quicker;
                self.expected = Some(self.expected.map_or(expected, |before| before.max(expected)));
                self.calls_a_second = self.calls_a_second.max(calls * 1e9 / elapsed_ns as f64 / quicker);
                match self.budget {
                    Some(budget) if expected > budget => {
                        // The slice costs its share of probes; the pause makes up for it.
                        let pause = SLICE_NS as f64 * share / budget;
                        let pause = (pause as u64).clamp(SHORTEST_PAUSE_NS, LONGEST_PAUSE_NS);
                        // Anywhere from half of it to half more, so that the mean is right.
                        self.pause_ns = pause / 2 + self.draw(pause);
                        self.sliced = true;
                        Turn::Close { sample_share: SLICE_NS as f64 / (pause + SLICE_NS) as f64 }
                    }
                    // What was cheap may become dear.
                    Some(_) if !self.sliced => {
                        self.phase = Phase::On { since_ns: now_ns, until_ns: Some(now_ns + LOOK_NS) };
                        self.keep(elapsed_ns, total);
                        Turn::Stay
                    }
                    Some(_) => {
                        // Cheap again; slices go on, with the shortest pauses, since what came before was not counted.
                        self.pause_ns = SHORTEST_PAUSE_NS / 2 + self.draw(SHORTEST_PAUSE_NS);
                        Turn::Close { sample_share: SLICE_NS as f64 / (SHORTEST_PAUSE_NS + SLICE_NS) as f64 }
                    }
                    None => {
                        self.phase = Phase::On { since_ns: now_ns, until_ns: None };
                        self.keep(elapsed_ns, total);
                        Turn::Stay
                    }
                }
            }
            Phase::Off { until_ns } if now_ns >= until_ns => Turn::Open,
            _ => Turn::Stay,
        }
    }

    /// Calls are no longer counted, after [`Turn::Close`].
    pub(super) fn closed(&mut self, now_ns: u64, total: Total) {
        self.close(now_ns, total);
        self.phase = Phase::Off { until_ns: now_ns + self.pause_ns };
    }

    /// The probes are in again.
    pub(super) fn opened(&mut self, now_ns: u64, total: Total) {
        self.at_start = total;
        self.phase = Phase::On { since_ns: now_ns, until_ns: Some(now_ns + SLICE_NS) };
    }

    fn close(&mut self, now_ns: u64, total: Total) {
        if let Phase::On { since_ns, .. } = self.phase {
            self.keep(now_ns.saturating_sub(since_ns), total);
        }
    }

    /// Notes what a stretch of counting saw.
    fn keep(&mut self, elapsed_ns: u64, total: Total) {
        let calls = total.calls.saturating_sub(self.at_start.calls) as f64;
        let bytes = total.bytes.saturating_sub(self.at_start.bytes) as f64;
        let cpu_ns = total.cpu_ns.saturating_sub(self.at_start.cpu_ns) as f64;
        let probe_ns = calls * self.ns_per_call;
        self.seen.push((calls, bytes, (cpu_ns - probe_ns).max(cpu_ns * LEAST_WORK), elapsed_ns as f64));
        self.cpu_on_ns += cpu_ns;
        self.on_ns += elapsed_ns;
        self.probe_ns += probe_ns.min(cpu_ns);
        self.at_start = total;
    }

    /// The target's first probes are in: counting begins now.
    pub(super) fn begin(&mut self, now_ns: u64, total: Total) {
        let until_ns = Some(now_ns + FIRST_NS);
        self.phase = Phase::On { since_ns: now_ns, until_ns };
        (self.began_ns, self.at_start, self.at_first) = (now_ns, total, total);
    }

    /// The recording is over.
    pub(super) fn end(&mut self, now_ns: u64, total: impl FnOnce() -> Total) {
        let total = total();
        self.at_end = total;
        if self.is_open() {
            self.close(now_ns, total);
        }
        self.phase = Phase::Ended;
        self.ended_ns = now_ns;
    }

    /// Shares of one CPU that the target used in slices and outside of them, and what probes took in slices.
    fn use_of_cpu(&self) -> (f64, f64, f64) {
        let on_ns = self.on_ns.max(1) as f64;
        let off_ns = (self.ended_ns.saturating_sub(self.began_ns) as f64 - on_ns).max(1.0);
        let all_ns = self.at_end.cpu_ns.saturating_sub(self.at_first.cpu_ns) as f64;
        (self.cpu_on_ns / on_ns, (all_ns - self.cpu_on_ns).max(0.0) / off_ns, self.probe_ns / on_ns)
    }

    /// Whether the target did less in slices: it used as much CPU time as outside although probes took part of it.
    fn was_held_up(&self) -> bool {
        let (inside, outside, probes) = self.use_of_cpu();
        inside > BUSY && inside - outside < probes / 2.0
    }

    /// What one counted call stands for.
    pub(super) fn scale(&self) -> f64 {
        if !self.sliced {
            return 1.0;
        }
        if self.was_held_up() {
            let worked: f64 = self.seen.iter().map(|slice| slice.2).sum();
            let all = self.at_end.cpu_ns.saturating_sub(self.at_first.cpu_ns) as f64 - self.probe_ns;
            return (all / worked.max(1.0)).max(1.0);
        }
        self.ended_ns.saturating_sub(self.began_ns) as f64 / self.on_ns.max(1) as f64
    }

    /// Standard error of scaled totals, percent: how much slices differ in what is called for each second of work, and how well the cost of a
    /// probe is known.
    pub(super) fn error_percent(&self) -> f64 {
        if !self.sliced {
            return 0.0;
        }
        let count = self.seen.len() as f64;
        if self.seen.len() < 2 {
            return 100.0;
        }
        let held_up = self.was_held_up();
        let base = |slice: &(f64, f64, f64, f64)| if held_up { slice.2 } else { slice.3 };
        let whole: f64 = self.seen.iter().map(base).sum();
        // The error of a ratio of sums (Cochran, Sampling Techniques, 2.11).
        let spread = |of: fn(&(f64, f64, f64, f64)) -> f64| {
            let all: f64 = self.seen.iter().map(of).sum();
            let ratio = all / whole.max(1.0);
            let squares: f64 = self.seen.iter().map(|slice| (of(slice) - ratio * base(slice)).powi(2)).sum();
            if all > 0.0 { (squares * count / (count - 1.0)).sqrt() / all } else { 0.0 }
        };
        let (inside, _, probes) = self.use_of_cpu();
        let of_cost = if held_up {
            COST_ERROR * self.probe_ns / whole.max(1.0)
        } else if inside > BUSY || probes > MOST_PROBES {
            // It had time to spare until the probes took it all, and did an unknown part of its work later.
            (COST_ERROR * probes).max(1.0)
        } else {
            0.0
        };
        // A few slices show less of a spread than there is.
        let few = 1.0 + 3.0 / count;
        (few * spread(|slice| slice.0).max(spread(|slice| slice.1))).hypot(of_cost) * 100.0
    }

    /// A random number below `below`.
    fn draw(&mut self, below: u64) -> u64 {
        // xorshift64 (Marsaglia 2003): good enough to break a rhythm.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % below.max(1)
    }

    /// How the calls were counted, in words.
    pub(super) fn note(&self, max_overhead: f64) -> String {
        let expected = self.expected.map_or_else(String::new, |expected| {
            format!(
                "; counting every one of about {} calls a second costs about {} of a CPU",
                thousands(self.calls_a_second as u64),
                percent(expected * 100.0)
            )
        });
        if self.sliced {
            format!(
                "time slices: calls were counted in {} of {} ({} slices) and scaled, to stay within --max-overhead {}{expected} (--exact counts all)",
                duration(self.on_ns),
                duration(self.ended_ns.saturating_sub(self.began_ns)),
                self.seen.len(),
                percent(max_overhead * 100.0)
            )
        } else {
            format!("exact: every call was counted{expected}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// A program that calls `rate` times a second, run for ten seconds; returns the state, the share of time that probes took, and calls found for each one there was.
    fn run(rate: f64, ns_per_call: f64, budget: Option<f64>) -> (Slices, f64, f64) {
        let mut slices = Slices::new(budget, 0);
        let (mut total, mut open) = (Total::default(), true);
        let (mut counted, mut cost, mut truth) = (0.0, 0.0, 0.0);
        for now in 1..=2_000 {
            if open {
                let calls = rate / 200.0 / (1.0 + rate * ns_per_call / 1e9);
                counted += calls;
                total.calls = counted as u64;
                total.bytes = total.calls * 100;
                truth += calls;
                cost += calls * ns_per_call;
            }
            truth += if open { 0.0 } else { rate / 200.0 };
            total.cpu_ns = now * 5 * MS;
            match slices.look(now * 5 * MS, ns_per_call, || total) {
                Turn::Stay => {}
                Turn::Close { .. } => {
                    open = false;
                    slices.closed(now * 5 * MS, total);
                }
                Turn::Open => {
                    open = true;
                    slices.opened(now * 5 * MS, total);
                }
            }
        }
        slices.end(10_000 * MS, || total);
        let found = total.calls as f64 * slices.scale();
        (slices, cost / 1e10, found / truth)
    }

    #[test]
    fn cheap_programs_are_counted_exactly() {
        let (slices, cost, found) = run(5_000.0, 700.0, Some(0.01));
        assert!(!slices.is_sliced() && cost < 0.01 && (found - 1.0).abs() < 0.01);
        assert!((slices.scale() - 1.0).abs() < f64::EPSILON && slices.error_percent() < f64::EPSILON);
        assert!(slices.note(0.01).starts_with("exact"));
    }

    #[test]
    fn a_million_calls_a_second_stay_inside_the_budget() {
        let (slices, cost, found) = run(1_000_000.0, 700.0, Some(0.01));
        assert!(slices.is_sliced() && cost < 0.015, "{cost}");
        assert!((found - 1.0).abs() < 0.03, "{found} of the calls");
        assert!((1.0..30.0).contains(&slices.error_percent()), "{}", slices.error_percent());
        assert!(slices.scale() > 10.0 && slices.seen.len() > 4);
        assert!(slices.note(0.01).contains("time slices"), "{}", slices.note(0.01));
    }

    #[test]
    fn whoever_asks_for_all_gets_all() {
        let (slices, cost, _) = run(1_000_000.0, 700.0, None);
        assert!(!slices.is_sliced() && cost > 0.3);
    }
}
