//! Lines for the log from threads that have none: whoever drives the recording prints them.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

/// Most lines that wait. Of more the oldest are left out, and how many is said.
const MOST: usize = 100;

/// A queue of lines that all its copies share.
#[derive(Debug, Clone, Default)]
pub struct Words {
    shared: Arc<Mutex<(VecDeque<String>, u64)>>,
}

impl Words {
    /// Adds a line.
    pub fn say(&self, line: String) {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        if shared.0.len() >= MOST {
            shared.0.pop_front();
            shared.1 += 1;
        }
        shared.0.push_back(line);
    }

    /// Takes all lines.
    pub fn take(&self) -> Vec<String> {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let left_out = std::mem::take(&mut shared.1);
        let mut lines = Vec::from(std::mem::take(&mut shared.0));
        if left_out > 0 {
            lines.insert(0, format!("{left_out} lines are left out"));
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_wait_for_who_prints_them_and_their_number_is_bounded() {
        let words = Words::default();
        let copy = words.clone();
        for line in 0..MOST + 5 {
            copy.say(line.to_string());
        }
        let taken = words.take();
        assert_eq!(
            (taken.len(), taken[0].as_str(), taken[1].as_str()),
            (MOST + 1, "5 lines are left out", "5")
        );
        assert!(copy.take().is_empty());
    }
}
