//! What changed between two profiles, as a table and as JSON.

use std::io::{self, Write};

use serde_json::{Value, json};

use super::columns::{columns, fitted};
use super::text::TextStyle;
use crate::report::{Changes, SortBy};

/// The table: at most `top` rows, none whose change is smaller than `min_percent` points. Changes that random sampling explains are marked.
pub fn write_changes(
    out: &mut dyn Write,
    changes: &Changes<'_>,
    top: usize,
    min_percent: f64,
    style: TextStyle,
) -> io::Result<()> {
    let which = match changes.sort {
        SortBy::Own => "SELF",
        SortBy::Total => "TOTAL",
    };
    let large = |row: &&crate::report::Change<'_>| row.delta(changes.sort).0.abs() >= min_percent;
    let shown: Vec<_> = changes.rows.iter().filter(large).take(top).collect();
    let rows: Vec<[String; 3]> =
        shown.iter().map(|row| [row.name.to_owned(), row.module.to_owned(), String::new()]).collect();
    let widths = fitted(&rows, style.width.map(|width| width.saturating_sub(34)));
    let titles = ["FUNCTION", "MODULE", ""].map(str::to_owned);
    let head =
        format!("{:>7} {:>7}  {:>7} {:>7}  {}", "BEFORE", "AFTER", which, "±", columns(&titles, widths));
    writeln!(out, "{}", style.paint("2", &head))?;
    let mut has_noise = false;
    for (row, texts) in shown.iter().zip(&rows) {
        let shares = match changes.sort {
            SortBy::Own => row.own,
            SortBy::Total => row.total,
        };
        let (delta, error) = row.delta(changes.sort);
        let is_noise = error.is_some_and(|error| delta.abs() <= error);
        has_noise |= is_noise;
        let mark = if is_noise { '~' } else { ' ' };
        let error = error.map_or_else(String::new, |error| format!("{error:.1}"));
        let text = format!("{delta:+6.1}%");
        let text = match (is_noise, delta > 0.0) {
            (true, _) => style.paint("2", &text),
            (false, true) => style.paint("31", &text),
            (false, false) => style.paint("32", &text),
        };
        writeln!(
            out,
            "{:6.1}% {:6.1}% {mark}{text} {error:>7}  {}",
            shares[0],
            shares[1],
            columns(texts, widths)
        )?;
    }
    if changes.rows.len() > shown.len() {
        let text = format!("{} more functions", changes.rows.len() - shown.len());
        writeln!(out, "{}", style.paint("2", &text))?;
    }
    if has_noise {
        writeln!(out, "~ within what random sampling explains (95 %)")?;
    }
    Ok(())
}

/// All of it as JSON: shares in percent, changes in percentage points.
pub fn changes_json(changes: &Changes<'_>, top: usize) -> Value {
    let row = |row: &crate::report::Change<'_>| {
        json!({
            "name": row.name,
            "module": row.module,
            "self_percent": row.own,
            "total_percent": row.total,
            "self_delta": row.own[1] - row.own[0],
            "total_delta": row.total[1] - row.total[0],
            "self_error": row.own_error,
            "total_error": row.total_error,
        })
    };
    json!({
        "schema": 1,
        "totals": changes.totals,
        "functions": changes.rows.iter().take(top).map(row).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::fixture;
    use crate::report::changes;

    #[test]
    fn lines_fit_the_terminal_and_noise_is_marked() {
        let (before, after) = (fixture::recursive(), fixture::hostile());
        let found = changes([&before, &after], [0, 0], SortBy::Own);
        let mut out = Vec::new();
        write_changes(&mut out, &found, 5, 0.0, TextStyle { width: Some(80), colour: false }).unwrap();
        let text = String::from_utf8(out).unwrap();
        let widest = text.lines().map(unicode_width::UnicodeWidthStr::width).max().unwrap();
        assert!(widest <= 80 && text.contains("  70.0%    0.0%   -70.0%    28.4  fib"), "{text}");
        assert!(text.contains("more functions") && text.contains("~ within"), "{text}");
        assert_eq!(changes_json(&found, 3)["functions"].as_array().unwrap().len(), 3);
    }
}
