//! What a run did, for people: one line a step, a summary with times at the end.

use std::process::Command;
use std::time::{Duration, Instant};

/// The steps of a run and what they came to.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    done: Vec<(String, Duration, Option<String>)>,
}

impl Steps {
    /// Runs one step; its failure is remembered and the next step runs all the same.
    pub(crate) fn run(&mut self, name: &str, step: impl FnOnce() -> anyhow::Result<()>) {
        println!("==> {name}");
        let started = Instant::now();
        let result = step();
        let failure = result.err().map(|error| format!("{error:#}"));
        if let Some(failure) = &failure {
            eprintln!("FAILED {name}: {failure}");
        }
        self.done.push((name.to_owned(), started.elapsed(), failure));
    }

    /// Prints the summary and, last, why steps failed: of a long output the end is what people see. True when every step went well.
    pub(crate) fn summary(&self) -> bool {
        println!("\nSummary");
        for (name, time, failure) in &self.done {
            let outcome = if failure.is_none() { "ok    " } else { "FAILED" };
            println!("  {outcome} {:>6.1} s  {name}", time.as_secs_f64());
        }
        let total: Duration = self.done.iter().map(|(_, time, _)| *time).sum();
        println!("         {:>6.1} s  in all", total.as_secs_f64());
        for (name, _, failure) in &self.done {
            if let Some(failure) = failure {
                println!("\nFAILED {name}: {failure}");
            }
        }
        self.done.iter().all(|(_, _, failure)| failure.is_none())
    }
}

/// A command as one would type it.
pub(crate) fn words(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}
