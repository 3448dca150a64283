//! What a run did, for people: one line a step, a summary with times at the end.

use std::process::Command;
use std::time::{Duration, Instant};

/// The steps of a run and what they came to.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    done: Vec<(String, Duration, bool)>,
}

impl Steps {
    /// Runs one step; its failure is remembered and the next step runs all the same.
    pub(crate) fn run(&mut self, name: &str, step: impl FnOnce() -> anyhow::Result<()>) {
        println!("==> {name}");
        let started = Instant::now();
        let result = step();
        if let Err(error) = &result {
            eprintln!("FAILED {name}: {error:#}");
        }
        self.done.push((name.to_owned(), started.elapsed(), result.is_ok()));
    }

    /// Prints the summary; true when every step went well.
    pub(crate) fn summary(&self) -> bool {
        println!("\nSummary");
        for (name, time, ok) in &self.done {
            println!("  {} {:>6.1} s  {name}", if *ok { "ok    " } else { "FAILED" }, time.as_secs_f64());
        }
        let total: Duration = self.done.iter().map(|(_, time, _)| *time).sum();
        println!("         {:>6.1} s  in all", total.as_secs_f64());
        self.done.iter().all(|(_, _, ok)| *ok)
    }
}

/// A command as one would type it.
pub(crate) fn words(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}
