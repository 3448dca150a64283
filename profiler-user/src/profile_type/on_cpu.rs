//! CPU profiles: a clock per CPU, a sample per tick, as often as asked for or as the budget allows.

use std::io;

use thiserror::Error;

use super::governor::{Governor, Throttle};
use crate::bpf::{Clock, LoadError, PerfEvent, Programs};
use crate::output::percent;
use crate::session::clock::monotonic_ns;

/// Rungs of the budget's ladder at most: the asked rate, half of it, a quarter, …
const MOST_RUNGS: u32 = 6;
/// Least rate to which the budget may throttle, Hz: below it a profile says nothing.
const LEAST_RATE_HZ: u64 = 5;

/// Why CPU sampling could not start.
#[derive(Debug, Error)]
pub enum OnCpuError {
    /// The kernel does not give us the event.
    #[error("cannot open a {} sampling event on CPU {cpu}", clock.name())]
    Open {
        /// The clock that was asked for.
        clock: Clock,
        /// The CPU.
        cpu: u32,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The program could not be attached to the event.
    #[error("cannot attach the sampler on CPU {cpu}")]
    Attach {
        /// The CPU.
        cpu: u32,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The program is not there.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// None of the CPUs that were asked for is online.
    #[error("none of the CPUs that were asked for is online")]
    NoCpu,
}

/// How often to sample, and what it may cost.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// What makes a CPU take samples.
    pub clock: Clock,
    /// Samples per second and CPU.
    pub frequency_hz: u64,
    /// What the recording may cost, as a share of the whole machine's CPU time; none to sample at this rate whatever it costs.
    pub max_overhead: Option<f64>,
}

impl Rate {
    /// Rungs of the ladder: how often the rate can be halved.
    fn rungs(self) -> usize {
        let halvings = (self.frequency_hz / LEAST_RATE_HZ).checked_ilog2().unwrap_or(0);
        if self.max_overhead.is_some() { (halvings + 1).min(MOST_RUNGS) as usize } else { 1 }
    }

    /// What keeps it inside its budget, on a machine with so many CPUs.
    fn throttle(self, machine_cpus: u32) -> Throttle {
        let budget = self.max_overhead.unwrap_or(1.0) * f64::from(machine_cpus);
        Throttle::new(Governor::new(budget, self.rungs(), 0), monotonic_ns())
    }

    /// The rate on a rung, Hz.
    fn on(self, rung: usize) -> u64 {
        (self.frequency_hz >> rung).max(1)
    }
}

/// Running CPU samplers, one event per CPU. Dropping it stops them.
#[derive(Debug)]
pub struct OnCpu {
    events: Vec<PerfEvent>,
    rate: Rate,
    throttle: Throttle,
}

impl OnCpu {
    /// Opens the events and attaches the program; nothing runs before [`OnCpu::start`].
    ///
    /// # Errors
    ///
    /// What the kernel refused. CPUs that are offline are left out.
    pub fn attach(
        programs: &mut Programs,
        cpus: &[u32],
        rate: Rate,
        machine_cpus: u32,
    ) -> Result<Self, OnCpuError> {
        let Rate { clock, frequency_hz, .. } = rate;
        let program = programs.cpu_sampler()?;
        let mut events = Vec::with_capacity(cpus.len());
        for cpu in cpus.iter().copied() {
            let event = match PerfEvent::open_sampler(cpu, clock, frequency_hz) {
                Ok(event) => event,
                Err(error) if error.raw_os_error() == Some(libc::ENODEV) => continue,
                Err(source) => return Err(OnCpuError::Open { clock, cpu, source }),
            };
            event.set_program(program).map_err(|source| OnCpuError::Attach { cpu, source })?;
            events.push(event);
        }
        if events.is_empty() {
            return Err(OnCpuError::NoCpu);
        }
        Ok(Self { events, rate, throttle: rate.throttle(machine_cpus) })
    }

    /// Looks after the budget, a few times a second. `spent_ns` says what the recording has cost so far.
    ///
    /// # Errors
    ///
    /// What the kernel refused.
    pub fn look(&mut self, programs: &mut Programs, spent_ns: u64, now_ns: u64) -> Result<(), LoadError> {
        if self.throttle.look(spent_ns, now_ns) { self.apply(programs) } else { Ok(()) }
    }

    /// Leaves the rest of the budget to other recordings.
    pub fn share_budget(&mut self, part: f64) {
        self.throttle.share_budget(part);
    }

    /// Samples as rarely as it can for a while.
    ///
    /// # Errors
    ///
    /// What the kernel refused.
    pub fn shed(&mut self, programs: &mut Programs) -> Result<(), LoadError> {
        if self.throttle.shed() { self.apply(programs) } else { Ok(()) }
    }

    /// Sets the timers anew, and tells the programs what a tick stands for.
    fn apply(&self, programs: &mut Programs) -> Result<(), LoadError> {
        let hz = self.rate.on(self.throttle.rung());
        let tick = tick_ns(self.rate.clock, hz);
        for event in &self.events {
            // A counter is given a rate, a timer a period. The only way to fail is a closed descriptor, and we hold it.
            let _cannot_fail = event.set_period(if tick == 0 { hz } else { tick });
        }
        programs.set_tick_ns(tick)
    }

    /// Samples at another rate from now on.
    ///
    /// # Errors
    ///
    /// What the kernel refused.
    pub fn set_rate(
        &mut self,
        programs: &mut Programs,
        rate: Rate,
        machine_cpus: u32,
        spent_ns: u64,
    ) -> Result<(), LoadError> {
        self.rate = Rate { clock: self.rate.clock, ..rate };
        // What was spent so far was spent on the old rate.
        self.throttle = rate.throttle(machine_cpus).after(spent_ns);
        self.apply(programs)
    }

    /// What the reader should know of the rate since the last call.
    pub fn take_note(&mut self) -> Option<String> {
        let story = self.throttle.take_story();
        let budget = percent(self.rate.max_overhead? * 100.0);
        let over = if story.over_budget_ns > 0 {
            format!("; it was exceeded all the same in {:.0} % of the time", story.over_budget_percent())
        } else {
            String::new()
        };
        (story.rungs.1 > 0).then(|| {
            format!(
                "CPUs were sampled less than {} times a second in {:.0} % of the time, {} times at least, to stay within --max-overhead {budget}; \
                 each sample stands for the time since the one before{over}",
                self.rate.frequency_hz,
                story.throttled_percent(),
                self.rate.on(story.rungs.1),
            )
        })
    }

    /// Starts all events.
    ///
    /// # Errors
    ///
    /// What `ioctl(2)` reports.
    pub fn start(&self) -> io::Result<()> {
        self.events.iter().try_for_each(PerfEvent::enable)
    }

    /// Stops all events; samples in flight still arrive.
    pub fn stop(&self) {
        for event in &self.events {
            // The only way to fail is a closed descriptor, and we hold it.
            let _cannot_fail = event.disable();
        }
    }
}

/// Nanoseconds between two ticks of the sampling timer, as the kernel computes it from a frequency
/// (`perf_swevent_init_hrtimer`, kernel/events/core.c); zero when a hardware counter samples.
pub fn tick_ns(clock: Clock, frequency_hz: u64) -> u64 {
    match clock {
        Clock::CpuClock => 1_000_000_000 / frequency_hz.max(1),
        Clock::Cycles => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_halved_as_long_as_they_say_something() {
        let rate = |frequency_hz, max_overhead| Rate { clock: Clock::CpuClock, frequency_hz, max_overhead };
        let all = |rate: Rate| (0..rate.rungs()).map(|rung| rate.on(rung)).collect::<Vec<_>>();
        assert_eq!(all(rate(99, Some(0.01))), [99, 49, 24, 12, 6]);
        assert_eq!(all(rate(999, Some(0.01))), [999, 499, 249, 124, 62, 31]);
        assert_eq!(all(rate(3, Some(0.01))), [3]);
        assert_eq!(all(rate(999, None)), [999]);
    }
}
