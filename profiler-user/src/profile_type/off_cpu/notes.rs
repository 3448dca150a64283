//! What the reader is told of how the stacks of waits were taken.

use profiler_common::stats::Stat;

use super::{OffCpu, ladder};
use crate::output::{duration, thousands};

impl OffCpu {
    /// What the reader should know of how the stacks of a window were taken; `stats` are the window's.
    pub fn take_notes(&mut self, stats: &[(Stat, u64)]) -> Vec<String> {
        let stat = |wanted| stats.iter().find(|(stat, _)| *stat == wanted).map_or(0, |(_, count)| *count);
        let mut notes = Vec::new();
        let (taken, skipped) = (stat(Stat::WaitStacks), stat(Stat::WaitStacksSkipped));
        let passed = stat(Stat::WaitsPassed);
        let (story, pauses) = (self.throttle.take_story(), self.pauses.take_story());
        // Where pauses are the last resort, the ladder before them does not know what they saved.
        let over = if ladder::may_pause(&self.options) { pauses } else { story };
        let percent = self.options.max_overhead * 100.0;
        if skipped > 0 {
            notes.push(format!(
                "stacks of {} waits were taken and of {} mostly short ones not, to stay within --max-overhead {percent}%; \
                 those that were taken stand for them, scaled to each thread's exact time (--exact takes all)",
                thousands(taken),
                thousands(skipped)
            ));
        }
        if passed > 0 {
            let drawn = Drawn {
                count: stat(Stat::WaitsDrawn),
                time: stat(Stat::WaitsDrawnTime),
                squares: stat(Stat::WaitsDrawnSquares),
            };
            notes.push(format!(
                "{} short waits were counted and not measured, to stay within --max-overhead {percent}%; {} stand for them: {}",
                thousands(passed),
                thousands(drawn.count),
                drawn.words()
            ));
        }
        if skipped + passed > 0 && story.rungs.1 > 0 {
            notes.push(format!(
                "waits were called short below {} at most, in {:.0} % of the time",
                duration(self.ladder[story.rungs.1].threshold_ns),
                story.throttled_percent()
            ));
        }
        if self.watched.share < 1.0 {
            notes.push(format!(
                "waits were watched in {:.0} % of the time, to stay within --max-overhead {percent}%: switches, or the stacks of longer waits, cost too much; \
                 the rest is estimated: short ones from its switches ({}, if it was like what was watched), longer ones from the time",
                self.watched.share * 100.0,
                self.watched.error.map_or_else(
                    || "nobody knows how well".to_owned(),
                    |error| format!("±{:.0} %", error * 100.0)
                )
            ));
        }
        if !self.options.exact && over.over_budget_ns > 0 {
            notes.push(format!(
                "the budget was exceeded in {:.0} % of the time: {} context switches cost more, with the stacks of waits of 10 ms and more",
                over.over_budget_percent(),
                thousands(stat(Stat::Switches))
            ));
        }
        let lost_ns = stat(Stat::WaitsFullNs);
        if lost_ns > 0 {
            notes.push(format!("waits of {} in all found no room in the kernel's table", duration(lost_ns)));
        }
        notes
    }
}

/// Waits that stand for others that passed.
struct Drawn {
    count: u64,
    /// What they stand for, and the sum of its squares, in units of 1,024 ns.
    time: u64,
    squares: u64,
}

impl Drawn {
    /// The time that they stand for, and its error: twice the standard error of a sum of independent draws.
    fn words(&self) -> String {
        if self.time == 0 {
            return "how long they were is not known".to_owned();
        }
        let error = 2.0 * (self.squares as f64).sqrt() * 100.0 / self.time as f64;
        format!("{} ±{error:.0} % in all", duration(self.time.saturating_mul(1_024)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_of_draws_is_told() {
        // A hundred draws that stand for a millisecond each: one tenth is the standard error.
        let time = 1_000_000 / 1_024;
        let drawn = Drawn { count: 100, time: 100 * time, squares: 100 * time * time };
        assert_eq!(drawn.words(), format!("{} ±20 % in all", duration(100 * time * 1_024)));
        assert_eq!(Drawn { count: 0, time: 0, squares: 0 }.words(), "how long they were is not known");
    }
}
