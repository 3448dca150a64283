//! What a run did, for people: one line a step, a summary with times at the end.

use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// The steps of a run and what they came to.
#[derive(Debug)]
pub(crate) struct Steps {
    started: Instant,
    done: Vec<Done>,
}

/// A step that was run: its name, how long it took, why it failed.
type Done = (String, Duration, Option<String>);

/// A step to run beside others.
pub(crate) type SideStep = (String, Box<dyn Fn() -> anyhow::Result<()> + Send + Sync>);

impl Default for Steps {
    fn default() -> Self {
        Self { started: Instant::now(), done: Vec::new() }
    }
}

impl Steps {
    /// Runs one step; its failure is remembered and the next step runs all the same.
    pub(crate) fn run(&mut self, name: &str, step: impl FnOnce() -> anyhow::Result<()>) {
        self.done.push(timed(name, step));
    }

    /// Runs steps that keep one CPU busy each, as many at a time as there are CPUs. The summary has them in the order given.
    pub(crate) fn run_side_by_side(&mut self, steps: &[SideStep]) {
        let lanes = std::thread::available_parallelism().map_or(1, usize::from).min(steps.len());
        let next = AtomicUsize::new(0);
        let results: Vec<Mutex<Option<Done>>> = steps.iter().map(|_| Mutex::new(None)).collect();
        std::thread::scope(|scope| {
            for _ in 0..lanes {
                scope.spawn(|| {
                    while let Some(index) = Some(next.fetch_add(1, Ordering::Relaxed))
                        && let Some((name, step)) = steps.get(index)
                    {
                        let done = timed(name, step);
                        if let Ok(mut slot) = results[index].lock() {
                            *slot = Some(done);
                        }
                    }
                });
            }
        });
        self.done.extend(results.into_iter().filter_map(|slot| slot.into_inner().ok().flatten()));
    }

    /// Prints the summary and, last, why steps failed: of a long output the end is what people see. True when every step went well.
    pub(crate) fn summary(&self) -> bool {
        println!("\nSummary");
        for (name, time, failure) in &self.done {
            let outcome = if failure.is_none() { "ok    " } else { "FAILED" };
            println!("  {outcome} {:>6.1} s  {name}", time.as_secs_f64());
        }
        println!("         {:>6.1} s  in all", self.started.elapsed().as_secs_f64());
        for (name, _, failure) in &self.done {
            if let Some(failure) = failure {
                println!("\nFAILED {name}: {failure}");
            }
        }
        self.done.iter().all(|(_, _, failure)| failure.is_none())
    }
}

fn timed(name: &str, step: impl FnOnce() -> anyhow::Result<()>) -> Done {
    println!("==> {name}");
    let started = Instant::now();
    let failure = step().err().map(|error| format!("{error:#}"));
    if let Some(failure) = &failure {
        eprintln!("FAILED {name}: {failure}");
    }
    (name.to_owned(), started.elapsed(), failure)
}

/// A command as one would type it.
pub(crate) fn words(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}
