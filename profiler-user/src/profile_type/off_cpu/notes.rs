//! What the reader is told of how the stacks of waits were taken.

use profiler_common::stats::Stat;

use super::OffCpu;
use crate::output::{duration, thousands};

impl OffCpu {
    /// What the reader should know of how the stacks of a window were taken; `stats` are the window's.
    pub fn take_notes(&mut self, stats: &[(Stat, u64)]) -> Vec<String> {
        let stat = |wanted| stats.iter().find(|(stat, _)| *stat == wanted).map_or(0, |(_, count)| *count);
        let mut notes = Vec::new();
        let (taken, skipped) = (stat(Stat::WaitStacks), stat(Stat::WaitStacksSkipped));
        let story = self.throttle.take_story();
        if skipped > 0 {
            let percent = self.options.max_overhead * 100.0;
            notes.push(format!(
                "stacks of {} waits were taken and of {} mostly short ones not, to stay within --max-overhead {percent}%; \
                 those that were taken stand for them, scaled to each thread's exact time (--exact takes all)",
                thousands(taken),
                thousands(skipped)
            ));
            if story.rungs.1 > 0 {
                notes.push(format!(
                    "waits were called short below {} at most, in {:.0} % of the time",
                    duration(super::threshold_ns(story.rungs.1)),
                    story.throttled_percent()
                ));
            }
        }
        if !self.options.exact && story.over_budget_ns > 0 {
            notes.push(format!(
                "the budget was exceeded in {:.0} % of the time: {} context switches cost more, with the stacks of waits of 10 ms and more",
                story.over_budget_percent(),
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
