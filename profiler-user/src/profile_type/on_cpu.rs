//! CPU profiles: a clock per CPU, a sample per tick.

use std::io;

use thiserror::Error;

use crate::bpf::{Clock, LoadError, PerfEvent, Programs};

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

/// Running CPU samplers, one event per CPU. Dropping it stops them.
#[derive(Debug)]
pub struct OnCpu {
    events: Vec<PerfEvent>,
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
        clock: Clock,
        frequency_hz: u64,
    ) -> Result<Self, OnCpuError> {
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
        Ok(Self { events })
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
