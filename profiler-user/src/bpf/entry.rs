//! What the ways into programs cost on this machine, beside the programs: measured on ourselves.

use std::time::{Duration, Instant};

use super::PerfEvent;

/// Distance of the interrupts that are timed: as a test, ten thousand a second for some milliseconds.
const INTERRUPT_PERIOD_NS: u64 = 100_000;
const INTERRUPT_TIME: Duration = Duration::from_millis(5);
/// Interrupts that must have been seen.
const LEAST_INTERRUPTS: usize = 10;
/// Shortest pause that may be one, nanoseconds over the usual step of the clock.
const SHORTEST_INTERRUPT_NS: u64 = 300;

/// What makes a program run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    /// The sampling timer of a CPU.
    Timer,
    /// The scheduler's tracepoints of switches and wake-ups.
    Scheduler,
    /// Another tracepoint, or an event that the kernel counts.
    Tracepoint,
    /// A probe in a program's text.
    Probe,
}

/// How often and how long a program ran.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProgramRuns {
    /// Its name.
    pub name: String,
    /// What makes it run.
    pub trigger: Trigger,
    /// Times that it ran.
    pub runs: u64,
    /// How long in all, nanoseconds, as the kernel counts it. Tail-called programs count with their first.
    pub ns: u64,
}

/// Nanoseconds of each way into a program, beside the program.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EntryCosts {
    /// The sampling timer: interrupt, perf's part, timer set anew.
    interrupt_ns: f64,
    /// A raw tracepoint.
    tracepoint_ns: f64,
}

impl Default for EntryCosts {
    /// What was measured on a virtual machine with Linux 6.18, for machines on which nothing can be.
    fn default() -> Self {
        Self { interrupt_ns: 1_500.0, tracepoint_ns: 95.0 }
    }
}

impl EntryCosts {
    /// Measures what can be measured; the usual values stand for the rest.
    ///
    /// A tracepoint is not tried out: to turn one on and off again the kernel replaces code and interrupts every CPU for it, which is more
    /// than the better number is worth.
    pub fn measure() -> Self {
        let usual = Self::default();
        Self { interrupt_ns: interrupt_ns().unwrap_or(usual.interrupt_ns), ..usual }
    }

    /// The way into a program, so many times, nanoseconds.
    pub fn ns(&self, trigger: Trigger, runs: u64) -> u64 {
        let each = match trigger {
            Trigger::Timer => self.interrupt_ns,
            Trigger::Scheduler | Trigger::Tracepoint => self.tracepoint_ns,
            // Counted where probes are placed, each with its own cost.
            Trigger::Probe => 0.0,
        };
        (each * runs as f64) as u64
    }
}

/// The usual length of a pause that a sampling timer makes in a thread that does nothing but read the clock.
fn interrupt_ns() -> Option<f64> {
    // SAFETY: no preconditions.
    let cpu = u32::try_from(unsafe { libc::sched_getcpu() }).ok()?;
    // Of this CPU and not of this thread: the first timer of a thread makes the kernel replace code in its scheduler. Should we be moved to
    // another CPU meanwhile, no pause is seen and the usual value is taken.
    let event = PerfEvent::open_timer(cpu, INTERRUPT_PERIOD_NS).ok()?;
    event.enable().ok()?;
    let steps = clock_steps(INTERRUPT_TIME);
    // Closed by the end of the scope; what follows is only arithmetic.
    event.disable().ok()?;
    usual_pause(steps)
}

/// Distances of readings of the clock, nanoseconds.
fn clock_steps(time: Duration) -> Vec<u64> {
    let mut steps = Vec::with_capacity(1 << 18);
    let start = Instant::now();
    let mut last = start;
    while last - start < time && steps.len() < steps.capacity() {
        let now = Instant::now();
        steps.push((now - last).as_nanos() as u64);
        last = now;
    }
    steps
}

/// The median of the pauses among the steps of a clock, less a usual step. Other interrupts and other threads are longer or few.
fn usual_pause(mut steps: Vec<u64>) -> Option<f64> {
    let usual = median(&mut steps)?;
    let mut pauses: Vec<u64> = steps
        .into_iter()
        .map(|step| step.saturating_sub(usual))
        .filter(|step| *step > SHORTEST_INTERRUPT_NS)
        .collect();
    if pauses.len() < LEAST_INTERRUPTS {
        return None;
    }
    median(&mut pauses).map(|pause| pause as f64)
}

fn median(values: &mut [u64]) -> Option<u64> {
    let middle = values.len() / 2;
    (!values.is_empty()).then(|| *values.select_nth_unstable(middle).1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_stand_out_of_the_steps_of_a_clock() {
        let mut steps = vec![30; 10_000];
        steps.extend([1_530; 40]);
        // A scheduler's tick, and another thread's turn.
        steps.extend([4_000, 3_000_000]);
        assert_eq!(usual_pause(steps), Some(1_500.0));
        assert_eq!(usual_pause(vec![30; 10_000]), None, "nothing interrupted");
        assert_eq!(usual_pause(Vec::new()), None);
    }
}
