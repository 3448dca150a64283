//! Windows of a recording of system calls that goes on: what each counted, lost and cost.

use std::time::Instant;

use profiler_common::stats::Stat;

use super::CallReport;
use super::ended::Ended;
use super::exposure::Exposure;
use super::session::CallSession;
use super::upkeep::purge_step;
use crate::profile::{Counter, Meta, Overhead};
use crate::session::{SessionError, clock};

/// Measuring every call again is worth while when it would cost less than this share of the budget.
const CHEAP: f64 = 0.5;

/// And where slices cost more than it would, a little less than that: costs swing, and going over and back costs too.
const CHEAPER: f64 = 0.8;

/// Figures at the beginning of a window.
#[derive(Debug)]
pub(super) struct Window {
    pub(super) began: Instant,
    /// The same on the monotonic clock, nanoseconds; zero for the first window.
    pub(super) since_ns: u64,
    pub(super) start_unix_ns: u64,
    pub(super) overhead: Overhead,
    pub(super) lost: Vec<Counter>,
    /// Calls that the programs had seen, by CPU.
    seen: Vec<u64>,
}

impl Window {
    /// The first one begins now, and has all that was before it.
    pub(super) fn first() -> Self {
        Self {
            began: Instant::now(),
            since_ns: 0,
            start_unix_ns: clock::unix_ns(),
            overhead: Overhead::default(),
            lost: Vec::new(),
            seen: Vec::new(),
        }
    }

    /// Calls that were seen in it, by CPU.
    pub(super) fn new_calls(&self, seen: &[u64]) -> Vec<u64> {
        let before = self.seen.iter().chain(std::iter::repeat(&0));
        seen.iter().zip(before).map(|(now, before)| now.saturating_sub(*before)).collect()
    }
}

impl CallSession {
    /// Closes the window and begins the next. Measuring goes on meanwhile: a call that is counted in the very moment in which its sum is taken out
    /// may be lost, some in a day. A call that goes on over the end is counted, with all of its time, in the window in which it returns.
    ///
    /// Where measuring every call has become cheap again, that is what comes next.
    ///
    /// # Errors
    ///
    /// What the kernel refused.
    pub fn rotate(&mut self, meta: Meta) -> Result<CallReport, SessionError> {
        self.keep_up();
        if let Some(mut slices) = self.slices.take() {
            self.put_together(slices.pending());
            slices.finish(&mut self.tally, Instant::now());
            self.slices = Some(slices);
        } else {
            let counts = self.maps.drain()?;
            self.add_exact(counts);
        }
        let tally = std::mem::take(&mut self.tally);
        self.removed = self.stat(Stat::SyscallEntries);
        self.purge_at = purge_step(&self.options);
        let duration_ns = self.window.began.elapsed().as_nanos() as u64;
        let meta = Meta { duration_ns, ..meta };
        let report = self.report(&tally, &[], clock::monotonic_ns(), meta);
        self.processes.forget_ended();
        self.window = Window {
            began: Instant::now(),
            since_ns: clock::monotonic_ns(),
            start_unix_ns: clock::unix_ns(),
            overhead: self.overhead(),
            lost: self.lost(),
            seen: self.programs.calls_seen(),
        };
        self.exact_ns = 0;
        self.exposure = Exposure::default();
        self.ended = Ended::default();
        self.begin_slices()?;
        Ok(report)
    }

    /// Slices of the new window, if there are to be any.
    fn begin_slices(&mut self) -> Result<(), SessionError> {
        let (Some(budget), Some(slices)) = (self.options.budget, &mut self.slices) else { return Ok(()) };
        slices.begin_window();
        let is_cheap = slices.cost() < budget * self.part * CHEAP;
        if is_cheap || slices.cost() < slices.spent() * CHEAPER {
            self.slices = None;
            self.programs.attach_calls(&mut self.maps)?;
            self.cost.restart(&self.programs);
            self.open()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_of_a_window_are_those_since_it_began() {
        let window = Window { seen: vec![5, 7], ..Window::first() };
        assert_eq!(window.new_calls(&[6, 7, 3]), [1, 0, 3]);
        assert_eq!(Window::first().new_calls(&[6, 7]), [6, 7]);
    }
}
