//! Columns of a table, measured in terminal cells and not in characters, so that wide scripts line up.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Narrowest the function column gets before lines are wider than the terminal.
pub(super) const NARROWEST_NAME: usize = 20;
/// Widest the module column gets while functions need the room.
const WIDEST_MODULE: usize = 28;

/// Widths of the columns: as wide as their texts where that fits into `room`, else the module column gives way
/// first and the function column takes what is left.
pub(super) fn fitted(rows: &[[String; 3]], room: Option<usize>) -> [usize; 3] {
    let widest = |column: usize| rows.iter().map(|row| row[column].width()).max().unwrap_or(0);
    let natural = [widest(0).max(8), widest(1).max(6), widest(2)];
    let Some(room) = room else { return natural };
    let source = if natural[2] == 0 { 0 } else { natural[2] + 2 };
    if natural[0] + 2 + natural[1] + source <= room {
        return natural;
    }
    let module = natural[1].min(WIDEST_MODULE);
    let name = room.saturating_sub(2 + module + source).max(NARROWEST_NAME).min(natural[0]);
    [name, module, natural[2]]
}

/// One line of a table.
pub(super) fn columns(texts: &[String; 3], widths: [usize; 3]) -> String {
    let mut line = String::new();
    for (text, width) in texts.iter().zip(widths) {
        if !line.is_empty() {
            line.push_str("  ");
        }
        let text = cut(text, width);
        let padding = width.saturating_sub(text.width());
        line.push_str(&text);
        line.push_str(&" ".repeat(padding));
    }
    line.truncate(line.trim_end().len());
    line
}

/// Cuts out the middle: the beginning of a name says whose it is, the end which function.
pub(crate) fn cut(text: &str, room: usize) -> String {
    if text.width() <= room {
        return text.to_owned();
    }
    let tail_room = room.saturating_sub(1) / 2;
    let head = prefix_of_width(text.chars(), room.saturating_sub(1) - tail_room);
    let tail: Vec<char> = prefix_of_width(text.chars().rev(), tail_room);
    head.into_iter().chain(['…']).chain(tail.into_iter().rev()).collect()
}

fn prefix_of_width(chars: impl Iterator<Item = char>, room: usize) -> Vec<char> {
    let mut used = 0;
    chars
        .take_while(|c| {
            used += c.width().unwrap_or(0);
            used <= room
        })
        .collect()
}

/// The last two components of a source path: enough to tell files apart in a table.
pub(super) fn last_components(path: &str) -> &str {
    match path.rmatch_indices('/').nth(1) {
        Some((at, _)) => &path[at + 1..],
        None => path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_cut_in_the_middle_by_cells() {
        assert_eq!(cut("abcdefghij", 7), "abc…hij");
        assert_eq!(cut("漢字漢字漢字", 7), "漢…字");
        assert_eq!(cut("short", 7), "short");
    }
}
