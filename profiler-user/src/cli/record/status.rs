//! The live line on a terminal: what has been seen so far, what it costs. Nothing where standard error is no terminal.

use std::io::{IsTerminal, Write};
use std::time::Instant;

use crate::cli::quantity::Length;
use crate::session::Session;

/// Time between two updates. More often reads nobody, and each one costs.
const UPDATE_EVERY: std::time::Duration = std::time::Duration::from_millis(500);

/// The status line.
pub(super) struct Status {
    enabled: bool,
    length: Length,
    last: Option<Instant>,
}

impl Status {
    pub(super) fn new(length: Length, quiet: bool) -> Self {
        Self { enabled: !quiet && std::io::stderr().is_terminal(), length, last: None }
    }

    /// Shows the state of the recording, unless it was shown just now.
    pub(super) fn update(&mut self, session: &Session) {
        if !self.enabled || self.last.is_some_and(|last| last.elapsed() < UPDATE_EVERY) {
            return;
        }
        self.last = Some(Instant::now());
        let elapsed = session.started().elapsed().as_secs_f64();
        let length = match self.length {
            Length::For(duration) => format!("/{:.0} s", duration.as_secs_f64()),
            Length::Unlimited => " s".to_owned(),
        };
        let lost: u64 = session.lost().iter().map(|counter| counter.count).sum();
        let busiest = session
            .busiest()
            .map_or_else(String::new, |(name, share)| format!("  top: {name} {:.0} %", share * 100.0));
        let cost = session.overhead();
        let cost = cost.percent_of_machine(cost.running_ns());
        let line = format!(
            "  {elapsed:.1}{length}  {} samples  lost {lost}{busiest}  cost {cost:.2} % of the machine",
            session.samples()
        );
        Self::print(&format!("\r{line}\x1b[K"));
    }

    /// Takes the line away.
    pub(super) fn clear(&mut self) {
        if self.last.take().is_some() {
            Self::print("\r\x1b[K");
        }
    }

    fn print(text: &str) {
        let mut stderr = std::io::stderr().lock();
        // A terminal that is gone is no reason to stop recording.
        let _gone = stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush());
    }
}
