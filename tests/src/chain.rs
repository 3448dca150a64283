//! Whether stacks have the frames that their program is known to have.

use std::fmt::Write;

use crate::Folded;

/// How a stack begins whose walk did not get to its end.
const MARKER: &str = "[unwind: ";

/// Offending stacks that a failure shows.
const SHOWN: usize = 3;

/// Frames of a stack that a failure shows, from its root and from its leaf.
const SHOWN_FRAMES: usize = 8;

impl Folded {
    /// Asserts that of the samples whose stack has the frame `with`, at least this share, in percent, have all frames of `chain` in
    /// this order, root first, and no marker of an unfinished walk. Between them may be others.
    ///
    /// # Panics
    ///
    /// When it is fewer, or fewer samples than `least` have the frame at all; shows the most frequent offenders.
    pub fn assert_chain(&self, with: &str, chain: &[&str], least: u64, percent: f64) {
        let samples = self.with(with);
        assert!(
            samples >= least,
            "{samples} samples in {with}, expected at least {least}; of {} in all the most frequent are:\n{}",
            self.total(),
            most_frequent(self.stacks.iter().collect())
        );
        let with_frame = self.stacks.iter().filter(|(stack, _)| stack.iter().any(|name| name == with));
        let bad: Vec<_> =
            with_frame.filter(|(stack, _)| is_marked(stack) || !has_chain(stack, chain)).collect();
        let bad_samples: u64 = bad.iter().map(|(_, count)| count).sum();
        let share = (samples - bad_samples) as f64 * 100.0 / samples as f64;
        assert!(
            share >= percent,
            "{share:.2} % of {samples} samples in {with} are whole and have {}, expected {percent} %; others are:\n{}",
            chain.join(";"),
            most_frequent(bad)
        );
    }

    /// Share of the samples, in percent, whose walk did not get to its end.
    pub fn marked_percent(&self) -> f64 {
        let marked = self.stacks.iter().filter(|(stack, _)| is_marked(stack));
        marked.map(|(_, count)| count).sum::<u64>() as f64 * 100.0 / self.total().max(1) as f64
    }
}

fn is_marked(stack: &[String]) -> bool {
    stack.iter().any(|name| name.starts_with(MARKER))
}

fn has_chain(stack: &[String], chain: &[&str]) -> bool {
    let mut frames = stack.iter();
    chain.iter().all(|wanted| frames.any(|name| name == wanted))
}

fn most_frequent(mut stacks: Vec<&(Vec<String>, u64)>) -> String {
    stacks.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let mut text = String::new();
    for (stack, count) in stacks.into_iter().take(SHOWN) {
        let _infallible = writeln!(text, "  {count} × {}", shortened(stack));
    }
    text
}

fn shortened(stack: &[String]) -> String {
    if stack.len() <= 2 * SHOWN_FRAMES + 1 {
        return stack.join(";");
    }
    let (root, leaf) = (&stack[..SHOWN_FRAMES], &stack[stack.len() - SHOWN_FRAMES..]);
    format!("{};…{} more…;{}", root.join(";"), stack.len() - 2 * SHOWN_FRAMES, leaf.join(";"))
}
