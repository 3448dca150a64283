//! What the test harness prints, read line by line: which tests failed, and what they said.

/// Lines kept of what one failed test said: enough for a message and its context.
const MOST_LINES: usize = 12;
/// Bytes kept of one such line: a message may quote a whole result.
const MOST_BYTES: usize = 600;

/// What a run of the harness came to.
#[derive(Debug, Default)]
pub(crate) struct Verdicts {
    failed: Vec<String>,
    said: Vec<String>,
    /// Lines left to keep of the failed test that is being quoted.
    quoting: usize,
}

impl Verdicts {
    /// Reads one line; true when it belongs to what a failed test said.
    pub(crate) fn read(&mut self, line: &str) -> bool {
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
