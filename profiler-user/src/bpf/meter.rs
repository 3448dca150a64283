//! What programs that run very often cost: measured in one stretch of time out of four.
//!
//! The kernel's run-time statistics read a clock twice for each run of each program, which costs about as much as the program of a
//! context switch. So they are on for a tenth of a second and off for three, and the rest is taken to have been alike.

use std::os::fd::OwnedFd;

use super::Programs;

/// Length of a window in which the statistics are on.
const WINDOW_NS: u64 = 100_000_000;
/// Time from the beginning of one window to that of the next.
const EVERY_NS: u64 = 400_000_000;

/// The meter. Times are nanoseconds of one clock.
#[derive(Debug, Default)]
pub struct RunTimeMeter {
    /// Keeps the statistics on.
    statistics: Option<OwnedFd>,
    /// When the window began, and the programs' run time then.
    window: Option<(u64, u64)>,
    next_ns: u64,
    measured_ns: u64,
    spent_ns: u64,
}

impl RunTimeMeter {
    /// Begins or ends a window when it is time; returns what was spent in one that has just ended, and its length.
    pub fn tick(&mut self, programs: &Programs, now_ns: u64) -> Option<(u64, u64)> {
        match self.window {
            None if now_ns >= self.next_ns => {
                self.statistics = aya::sys::enable_stats(aya::sys::Stats::RunTime).ok();
                self.window = Some((now_ns, programs.run_time_ns()));
                self.next_ns = now_ns + EVERY_NS;
                None
            }
            Some((began_ns, before)) if now_ns >= began_ns + WINDOW_NS => {
                let (spent, elapsed) = (programs.run_time_ns().saturating_sub(before), now_ns - began_ns);
                self.statistics = None;
                self.window = None;
                self.measured_ns += elapsed;
                self.spent_ns += spent;
                Some((spent, elapsed))
            }
            _ => None,
        }
    }

    /// Time that was measured.
    pub fn measured_ns(&self) -> u64 {
        self.measured_ns
    }

    /// What was spent in `whole_ns`, of which the windows are a part.
    pub fn spent_ns(&self, whole_ns: u64) -> u64 {
        (u128::from(self.spent_ns) * u128::from(whole_ns) / u128::from(self.measured_ns.max(1))) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_measured_stands_for_the_whole() {
        let meter = RunTimeMeter { measured_ns: 100, spent_ns: 3, ..RunTimeMeter::default() };
        assert_eq!((meter.spent_ns(400), meter.measured_ns()), (12, 100));
        assert_eq!(RunTimeMeter::default().spent_ns(1_000), 0);
    }
}
