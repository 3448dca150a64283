//! Notes of many windows: those that differ in their numbers alone are one.

use std::collections::BTreeMap;

/// Notes by their words.
#[derive(Debug, Default)]
pub(super) struct Notes {
    /// By the text without its numbers: when it first came, the newest text, and how many windows have it.
    by_words: BTreeMap<String, (usize, String, u64)>,
}

/// Different notes that are shown.
const MOST: usize = 16;

impl Notes {
    /// Adds notes, and how many windows have each.
    pub(super) fn add(&mut self, notes: Vec<(String, u64)>) {
        for (note, windows) in notes {
            let words: String = note.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
            let mut words = words;
            while words.contains("00") {
                words = words.replace("00", "0");
            }
            let order = self.by_words.len();
            let entry = self.by_words.entry(words).or_insert((order, String::new(), 0));
            entry.1 = note;
            entry.2 = entry.2.saturating_add(windows);
        }
    }

    /// What to show, in the order in which the notes first came.
    pub(super) fn finish(self) -> Vec<String> {
        let mut all: Vec<_> = self.by_words.into_values().collect();
        all.sort_unstable();
        let left_out = all.len().saturating_sub(MOST);
        let text = |(_, note, windows): (usize, String, u64)| match windows {
            0 | 1 => note,
            2 => format!("{note} (and so in another window)"),
            more => format!("{note} (and so in {} other windows)", more - 1),
        };
        let mut shown: Vec<String> = all.into_iter().take(MOST).map(text).collect();
        if left_out > 0 {
            shown.push(format!("{left_out} more notes of these windows are left out"));
        }
        shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_do_not_make_another_note() {
        let mut notes = Notes::default();
        notes.add(vec![("98 % of the time".into(), 1), ("no BTF".into(), 1)]);
        notes.add(vec![("7 % of the time".into(), 5)]);
        notes.add(vec![("100 % of the time".into(), 1), ("last".into(), 1)]);
        let expected = ["100 % of the time (and so in 6 other windows)", "no BTF", "last"];
        assert_eq!(notes.finish(), expected);
    }

    #[test]
    fn there_is_an_end_to_notes() {
        let mut notes = Notes::default();
        notes.add((0..100_u8).map(|n| (format!("note {}", char::from(n + 0x80)), 1)).collect());
        let shown = notes.finish();
        assert_eq!((shown.len(), shown[MOST].contains("84 more notes")), (MOST + 1, true));
    }
}
