//! What measuring costs: the time that one call takes longer, and the share of the busiest CPU that all calls come to.

use std::time::{Duration, Instant};

use profiler_common::syscall::SyscallControl;

use crate::bpf::{CallMaps, LoadError, Programs};
use crate::session::clock;

/// Calls in one run of the calibration, and runs. The middle one counts: some were disturbed.
const CALLS: u32 = 40;
const RUNS: usize = 5;
/// Weight of the newest calibration in the running mean.
const NEWEST: f64 = 0.25;

/// The least that a call is taken to cost, nanoseconds: a calibration on a noisy machine may come out too well.
const LEAST_CALL_NS: f64 = 60.0;

/// Cost of calls on this machine, and how many there were.
#[derive(Debug)]
pub(super) struct Cost {
    /// What one call takes longer while the programs are attached and measure it, nanoseconds.
    call_ns: f64,
    last_seen: Vec<u64>,
    last_look: Instant,
}

/// How busy the machine is with calls.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Rate {
    /// Calls a second, all CPUs.
    pub(super) calls_per_second: f64,
    /// What measuring them costs the CPU that makes most of them, as a share of its time.
    pub(super) busiest_share: f64,
}

impl Cost {
    /// Measures calls of our own, without the programs and with them. Leaves the programs attached.
    ///
    /// # Errors
    ///
    /// What the kernel refused.
    pub(super) fn calibrate(programs: &mut Programs, maps: &mut CallMaps) -> Result<Self, LoadError> {
        let plain = plain_call_ns();
        programs.attach_calls(maps)?;
        let measured = measured_call_ns(maps)?;
        Ok(Self {
            call_ns: (measured - plain).max(LEAST_CALL_NS),
            last_seen: programs.calls_seen(),
            last_look: Instant::now(),
        })
    }

    /// Does the same again while the programs are attached, between slices; `plain` is from just before. What a call costs changes
    /// with what else the machine does, on the other half of a core above all.
    ///
    /// # Errors
    ///
    /// What the kernel refused.
    pub(super) fn calibrate_again(&mut self, maps: &mut CallMaps, plain: f64) -> Result<(), LoadError> {
        let now = (measured_call_ns(maps)? - plain).max(LEAST_CALL_NS);
        self.call_ns += (now - self.call_ns) * NEWEST;
        Ok(())
    }

    /// What one call takes longer, nanoseconds.
    pub(super) fn call_ns(&self) -> f64 {
        self.call_ns
    }

    /// Forgets what was seen before now.
    pub(super) fn restart(&mut self, programs: &Programs) {
        self.last_seen = programs.calls_seen();
        self.last_look = Instant::now();
    }

    /// How long ago the last look was.
    pub(super) fn looked_for(&self) -> Duration {
        self.last_look.elapsed()
    }

    /// The rate since [`Cost::restart`], if the programs were attached all that time.
    pub(super) fn peek(&self, programs: &Programs) -> Rate {
        self.rate(programs, self.last_look.elapsed().as_secs_f64())
    }

    /// The rate since [`Cost::restart`], if calls were counted for `seconds` of that time.
    pub(super) fn rate(&self, programs: &Programs, seconds: f64) -> Rate {
        let seen = programs.calls_seen();
        let pairs = seen.iter().zip(self.last_seen.iter().chain(std::iter::repeat(&0)));
        let new: Vec<u64> = pairs.map(|(now, before)| now.saturating_sub(*before)).collect();
        let most = new.iter().max().copied().unwrap_or(0);
        let seconds = seconds.max(1e-6);
        Rate {
            calls_per_second: new.iter().sum::<u64>() as f64 / seconds,
            busiest_share: most as f64 / seconds * self.call_ns / 1e9,
        }
    }
}

/// The time of a call of our own that does next to nothing, nanoseconds.
pub(super) fn plain_call_ns() -> f64 {
    let run = |_| {
        let start = Instant::now();
        for _ in 0..CALLS {
            // SAFETY: no preconditions.
            std::hint::black_box(unsafe { libc::getppid() });
        }
        start.elapsed().as_nanos() as f64 / f64::from(CALLS)
    };
    let mut runs: [f64; RUNS] = std::array::from_fn(run);
    runs.sort_by(f64::total_cmp);
    runs[RUNS / 2]
}

/// The same while the programs measure it. Whatever they count meanwhile is thrown away.
fn measured_call_ns(maps: &mut CallMaps) -> Result<f64, LoadError> {
    maps.include_own_thread()?;
    maps.control(SyscallControl::since(clock::monotonic_ns()))?;
    let ns = plain_call_ns();
    maps.control(SyscallControl::since(0))?;
    maps.exclude_own_thread()?;
    maps.drain()?;
    Ok(ns)
}
