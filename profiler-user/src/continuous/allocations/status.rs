//! What is told of recorded allocations: whose, and what became of the others.

use serde::{Deserialize, Serialize};

use crate::output::thousands;

/// Whose allocations are recorded, and what happened to probes since the daemon began.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct AllocationStatus {
    /// Processes with probes now: name and number.
    pub processes: Vec<String>,
    /// Processes that fit a rule and wait because there are enough.
    pub waiting: u64,
    /// Whether calls are watched in slices of time.
    pub sliced: bool,
    /// Processes with probes that ended.
    pub ended: u64,
    /// Those that no rule fits any more.
    pub removed: u64,
    /// Processes that fit a rule and cannot be recorded.
    pub unable: u64,
    /// Times that the recording began anew, with a blink between: after an hour in slices of time, or with another budget.
    pub anew: u64,
    /// Windows that came too late to be stored.
    pub late: u64,
    /// Why something could not be recorded, the last time.
    pub refusal: Option<String>,
}

impl AllocationStatus {
    /// For people.
    pub fn lines(&self) -> Vec<String> {
        let whose = match self.processes.as_slice() {
            [] => "of nobody: no process fits a rule".to_owned(),
            some => format!("of {}", some.join(", ")),
        };
        let how = if self.sliced { ", in slices of time" } else { "" };
        let mut lines = vec![format!("{whose}{how}")];
        let mut tell = |count: u64, what: &str| {
            if count > 0 {
                lines.push(format!("{what}: {}", thousands(count)));
            }
        };
        tell(
            self.waiting,
            "processes that fit a rule and wait for others to end (allocations.max_processes)",
        );
        tell(self.ended, "processes with probes that ended");
        tell(self.removed, "processes without probes again, because no rule fits them any more");
        tell(self.anew, "times that the recording began anew");
        tell(self.late, "windows that came too late to be stored");
        tell(self.unable, "processes that fit a rule and cannot be recorded");
        lines.extend(self.refusal.as_ref().map(|why| format!("not recorded: {why}")));
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_did_not_happen_is_not_told() {
        assert_eq!(AllocationStatus::default().lines(), ["of nobody: no process fits a rule"]);
        let status = AllocationStatus {
            processes: vec!["shop (7)".to_owned(), "shop (8)".to_owned()],
            waiting: 3,
            sliced: true,
            ..AllocationStatus::default()
        };
        let lines = status.lines();
        assert_eq!(lines[0], "of shop (7), shop (8), in slices of time");
        assert!(lines.len() == 2 && lines[1].ends_with("(allocations.max_processes): 3"), "{lines:?}");
    }
}
