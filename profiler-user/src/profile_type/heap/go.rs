//! How blocks of Go programs are counted: those that the program chooses itself, or all.

use std::time::{Duration, Instant};

use super::probes::Age;
use crate::allocator::{GoChoice, MappedFile};
use crate::output::bytes;

/// Time that a program's rate is zero before it is believed: it is set when the runtime begins.
const BELIEVED_AFTER: Duration = Duration::from_millis(100);
/// What a rate is, unless a program says otherwise.
const USUAL_RATE: u64 = profiler_common::heap::GO_RATE;

/// How blocks are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GoMode {
    /// Those that the program chooses for its heap profile.
    Chosen,
    /// All.
    All,
}

/// A process with Go's allocator.
#[derive(Debug)]
pub(super) struct GoProcess {
    choice: GoChoice,
    file: MappedFile,
    /// Every call is asked for.
    every: bool,
    /// Seen last.
    rate: Option<u64>,
    zero_since: Option<Instant>,
    mode: GoMode,
}

impl GoProcess {
    pub(super) fn new(choice: GoChoice, pid: u32, file: MappedFile, every: bool, age: Age) -> Self {
        let rate = choice.rate(pid, &file);
        let believed = age == Age::Old || !choice.can;
        let mode = mode_of(choice.can, every, rate.filter(|rate| *rate != 0 || believed));
        let zero_since = (rate == Some(0)).then(Instant::now);
        Self { choice, file, every, rate, zero_since, mode }
    }

    /// How its blocks are counted.
    pub(super) fn mode(&self) -> GoMode {
        self.mode
    }

    /// Looks at the rate again; true when its blocks are to be counted in another way from now on.
    pub(super) fn look(&mut self, pid: u32) -> bool {
        let Some(rate) = self.choice.rate(pid, &self.file) else { return false };
        self.rate = Some(rate);
        if rate != 0 {
            self.zero_since = None;
        } else if self.zero_since.get_or_insert_with(Instant::now).elapsed() < BELIEVED_AFTER {
            return false;
        }
        let before = self.mode;
        self.mode = mode_of(self.choice.can, self.every, Some(rate));
        self.mode != before
    }

    /// What the reader should know.
    fn notes(&self, live: bool) -> Vec<String> {
        let mut notes = Vec::new();
        match (self.mode, self.rate) {
            (GoMode::Chosen, rate) => {
                let assumed = if rate.is_none() {
                    ": assumed, because the program is stripped and the place of runtime.MemProfileRate not known"
                } else {
                    ""
                };
                notes.push(format!(
                    "Go chooses blocks for its own heap profile, one in {} on average (runtime.MemProfileRate{assumed}): these were counted and stand for \
                     the others, so totals are estimates; --sample-bytes changes nothing",
                    bytes(rate.unwrap_or(USUAL_RATE))
                ));
                notes.push(if live {
                    "Go: a block counts as in use until the collector frees it".to_owned()
                } else {
                    "Go: what the collector frees was not recorded (--live follows the blocks)".to_owned()
                });
            }
            (GoMode::All, rate) => {
                let why = if self.every && rate != Some(0) {
                    "--exact"
                } else if self.choice.can {
                    "runtime.MemProfileRate is 0"
                } else {
                    "no part of it asks for a heap profile, so its linker switched that off"
                };
                notes.push(format!("Go: every call of runtime.mallocgc was probed ({why})"));
                if live {
                    notes.push(
                        "Go: what becomes of blocks is not known, because the program chooses none for a heap profile (import net/http/pprof, leave \
                         runtime.MemProfileRate alone)"
                            .to_owned(),
                    );
                }
            }
        }
        notes
    }
}

fn mode_of(can: bool, every: bool, rate: Option<u64>) -> GoMode {
    match rate {
        _ if every => GoMode::All,
        Some(0) => GoMode::All,
        None if !can => GoMode::All,
        _ => GoMode::Chosen,
    }
}

/// What the reader should know of the Go programs in a recording, each thing once.
pub(super) fn notes<'g>(processes: impl Iterator<Item = &'g GoProcess>, live: bool) -> Vec<String> {
    let mut notes: Vec<String> = processes.flat_map(|process| process.notes(live)).collect();
    notes.sort_unstable();
    notes.dedup();
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_that_a_program_chooses_are_enough_unless_it_chooses_none() {
        assert_eq!(mode_of(true, false, Some(4096)), GoMode::Chosen);
        assert_eq!(mode_of(true, false, None), GoMode::Chosen);
        assert_eq!(mode_of(true, false, Some(0)), GoMode::All);
        assert_eq!(mode_of(false, false, None), GoMode::All);
        assert_eq!(mode_of(true, true, Some(4096)), GoMode::All);
    }
}
