//! What the test harness prints, read line by line: which tests failed, what they said, and which took longest.

use std::cmp::Reverse;
use std::time::{Duration, Instant};

/// Lines kept of what one failed test said: enough for a message and its context.
const MOST_LINES: usize = 12;
/// Bytes kept of one such line: a message may quote a whole result.
const MOST_BYTES: usize = 600;

/// Tests that are named as the slowest.
const SLOWEST: usize = 10;

/// What a run of the harness came to.
#[derive(Debug)]
pub(crate) struct Verdicts {
    failed: Vec<String>,
    said: Vec<String>,
    /// Lines left to keep of the failed test that is being quoted.
    quoting: usize,
    /// When the last test ended, and how long each took. The harness runs one at a time and says so at its end.
    last: Instant,
    times: Vec<(Duration, String)>,
}

impl Default for Verdicts {
    fn default() -> Self {
        Self { failed: Vec::new(), said: Vec::new(), quoting: 0, last: Instant::now(), times: Vec::new() }
    }
}

impl Verdicts {
    /// Reads one line; true when it belongs to what a failed test said.
    pub(crate) fn read(&mut self, line: &str) -> bool {
        if line.starts_with("running ") {
            self.last = Instant::now();
        } else if let Some((name, _)) = line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... ")) {
            let now = Instant::now();
            self.times.push((now.duration_since(self.last), name.to_owned()));
            self.last = now;
        }
        if let Some(name) = line.strip_prefix("test ").and_then(|rest| rest.strip_suffix(" ... FAILED")) {
            self.failed.push(name.to_owned());
        }
        if line.starts_with("---- ") {
            self.quoting = MOST_LINES;
        } else if line == "failures:" || line.starts_with("test result:") {
            self.quoting = 0;
        }
        let quoted = self.quoting > 0 && !line.is_empty();
        if quoted {
            self.quoting -= 1;
            self.said.push(line.chars().take(MOST_BYTES).collect());
        }
        quoted
    }

    /// Names of the tests that failed.
    pub(crate) fn failed(&self) -> &[String] {
        &self.failed
    }

    /// The tests that took longest, for whoever wants the run to be shorter.
    pub(crate) fn slowest(&self) -> String {
        let mut times: Vec<&(Duration, String)> = self.times.iter().collect();
        times.sort_by_key(|(took, _)| Reverse(*took));
        let slowest = times.iter().take(SLOWEST);
        slowest
            .map(|(took, name)| format!("{:.0} s {name}", took.as_secs_f64()))
            .collect::<Vec<_>>()
            .join(", ")
    }

    /// What they said, for the end of a long run's output.
    pub(crate) fn said(&self) -> String {
        self.said.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::Verdicts;

    #[test]
    fn names_and_messages_of_failed_tests_are_kept() {
        let output = "running 2 tests\n\
                      test a::good ... ok\n\
                      test a::bad ... FAILED\n\
                      \n\
                      failures:\n\
                      \n\
                      ---- a::bad stdout ----\n\
                      \n\
                      thread 'a::bad' (7) panicked at tests/suite/a.rs:1:9:\n\
                      assertion `left == right` failed: why\n  left: 5\n right: 0\n\
                      \n\
                      failures:\n    a::bad\n\
                      test result: FAILED. 1 passed; 1 failed";
        let mut verdicts = Verdicts::default();
        let quoted = output.lines().filter(|line| verdicts.read(line)).count();
        assert_eq!(verdicts.failed(), ["a::bad"]);
        let slowest = verdicts.slowest();
        assert!(slowest.contains("0 s a::bad") && slowest.contains("0 s a::good"), "{slowest}");
        assert_eq!(quoted, 5);
        assert!(verdicts.said().contains("failed: why\n  left: 5"), "{}", verdicts.said());
        assert!(!verdicts.said().contains("test result"));
    }

    #[test]
    fn what_one_test_says_is_bounded() {
        let mut verdicts = Verdicts::default();
        verdicts.read("---- a::bad stdout ----");
        let long = "x".repeat(10_000);
        for _ in 0..1_000 {
            verdicts.read(&long);
        }
        assert!(verdicts.said().len() < 10_000);
    }
}
