//! Tables for the terminal: hotspots, callers and callees, with the header, the quality line and what to try next.
//!
//! Where there is no terminal nothing is cut: the reader is a program or a file.

use std::io::{self, Write};

use unicode_width::UnicodeWidthStr;

use super::columns::{NARROWEST_NAME, columns, cut, fitted, last_components};
use super::flamegraph::describe_recording;
use super::numbers::{percent, value_with_unit};
use super::quality::{Level, quality_line_styled};
use crate::profile::Profile;
use crate::report::{Branch, Hotspots, Neighbours, Side};

/// How a table is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TextStyle {
    /// Cells in a line of the terminal; none when nothing may be cut.
    pub width: Option<usize>,
    /// Whether to use colours.
    pub colour: bool,
}

impl TextStyle {
    pub(super) fn paint(self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// One line that says what was recorded.
pub fn write_header(out: &mut dyn Write, profile: &Profile, style: TextStyle) -> io::Result<()> {
    let meta = &profile.meta;
    let mut parts = vec![format!("perf-agent {}", env!("CARGO_PKG_VERSION"))];
    parts.extend([&meta.profile_type, &meta.target].into_iter().filter(|part| !part.is_empty()).cloned());
    parts.extend(describe_recording(profile));
    writeln!(out, "{}", style.paint("1", &parts.join(" · ")))
}

/// The hotspot table: at most `top` rows, none whose total is below `min_percent` of the whole.
pub fn write_hotspots(
    out: &mut dyn Write,
    table: &Hotspots<'_>,
    top: usize,
    min_percent: f64,
    style: TextStyle,
) -> io::Result<()> {
    if table.total == 0 {
        return writeln!(out, "Nothing was sampled.");
    }
    let share = |value: u64| value as f64 * 100.0 / table.total as f64;
    let shown: Vec<_> = table.rows.iter().filter(|row| share(row.total) >= min_percent).take(top).collect();
    let with_lines = shown.iter().any(|row| table.functions.get(row.function).line.is_some());
    let source = |row: &crate::report::Hotspot| {
        let function = table.functions.get(row.function);
        match (function.file, function.line) {
            (Some(file), Some(line)) if with_lines => format!("{}:{line}", last_components(file)),
            _ => String::new(),
        }
    };
    let rows: Vec<[String; 3]> = shown
        .iter()
        .map(|row| {
            let function = table.functions.get(row.function);
            [function.name.to_owned(), function.module.to_owned(), source(row)]
        })
        .collect();
    let widths = fitted(&rows, style.width.map(|width| width.saturating_sub(17)));
    let titles = ["FUNCTION", "MODULE", if with_lines { "SOURCE" } else { "" }].map(str::to_owned);
    writeln!(out, "{}", style.paint("2", &format!("   SELF   TOTAL  {}", columns(&titles, widths))))?;
    for (row, texts) in shown.iter().zip(&rows) {
        let own = format!("{:6.1}%", share(row.own));
        let own = if share(row.own) >= 10.0 { style.paint("1", &own) } else { own };
        writeln!(out, "{own} {:6.1}%  {}", share(row.total), columns(texts, widths))?;
    }
    if table.rows.len() > shown.len() {
        let text = format!("{} more functions", table.rows.len() - shown.len());
        writeln!(out, "{}", style.paint("2", &text))?;
    }
    Ok(())
}

/// The tree of callers or callees. Shares are of the function's own total.
pub fn write_neighbours(
    out: &mut dyn Write,
    profile: &Profile,
    found: &Neighbours<'_>,
    value: usize,
    min_percent: f64,
    style: TextStyle,
) -> io::Result<()> {
    let names: Vec<&str> = found.matched.iter().take(3).map(|id| found.functions.get(*id).name).collect();
    let more = match found.matched.len().saturating_sub(names.len()) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let whole = found.profile_total.max(1) as f64;
    let amount =
        profile.value_types.get(value).map(|value| value_with_unit(found.total, value)).unwrap_or_default();
    let (what, none) = match found.side {
        Side::Callers => ("Callers of", "(no caller)"),
        Side::Callees => ("Callees of", "(its own code)"),
    };
    let title = format!("{what} {}{more}", names.join(", "));
    writeln!(out, "{}", style.paint("1", &cut(&title, style.width.unwrap_or(usize::MAX))))?;
    writeln!(
        out,
        "self {}, total {} ({amount})",
        percent(found.own as f64 * 100.0 / whole),
        percent(found.total as f64 * 100.0 / whole)
    )?;
    if found.ends_here > 0 {
        writeln!(out, "{:6.1}%  {none}", found.ends_here as f64 * 100.0 / found.total.max(1) as f64)?;
    }
    for branch in &found.branches {
        write_branch(out, found, branch, 0, min_percent, style)?;
    }
    Ok(())
}

fn write_branch(
    out: &mut dyn Write,
    found: &Neighbours<'_>,
    branch: &Branch,
    depth: usize,
    min_percent: f64,
    style: TextStyle,
) -> io::Result<()> {
    let share = branch.total as f64 * 100.0 / found.total.max(1) as f64;
    if share < min_percent {
        return Ok(());
    }
    let function = found.functions.get(branch.function);
    let module = if function.module.is_empty() { String::new() } else { format!("  {}", function.module) };
    let indent = "  ".repeat(depth);
    let room = style.width.map_or(usize::MAX, |width| {
        width.saturating_sub(9 + indent.len() + module.width()).max(NARROWEST_NAME)
    });
    writeln!(out, "{share:6.1}%  {indent}{}{}", cut(function.name, room), style.paint("2", &module))?;
    for next in &branch.branches {
        write_branch(out, found, next, depth + 1, min_percent, style)?;
    }
    Ok(())
}

/// The quality line, with its notes.
pub fn write_quality(out: &mut dyn Write, profile: &Profile, style: TextStyle) -> io::Result<()> {
    let paint = |level: Level, text: &str| match level {
        Level::Good => text.to_owned(),
        Level::Warn => style.paint("33", text),
        Level::Fail => style.paint("1;31", text),
    };
    writeln!(out, "Quality  {}", quality_line_styled(&profile.quality, &paint))?;
    for note in &profile.quality.notes {
        writeln!(out, "         {note}")?;
    }
    Ok(())
}

/// Commands to try next.
pub fn write_next(out: &mut dyn Write, commands: &[String]) -> io::Result<()> {
    if commands.is_empty() { Ok(()) } else { writeln!(out, "Next     {}", commands.join(" · ")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::fixture;
    use crate::report::{Detail, SortBy, hotspots, neighbours};

    fn text(write: impl Fn(&mut dyn Write) -> io::Result<()>) -> String {
        let mut out = Vec::new();
        write(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn golden_report() {
        let profile = fixture::hostile();
        let style = TextStyle { width: Some(80), colour: false };
        let report = text(|out| {
            write_header(out, &profile, style)?;
            write_hotspots(out, &hotspots(&profile, 1, Detail::Function, SortBy::Own), 20, 0.0, style)?;
            write_hotspots(out, &hotspots(&profile, 1, Detail::Line, SortBy::Total), 6, 0.0, style)?;
            for side in [Side::Callers, Side::Callees] {
                let found = neighbours(&profile, 1, "parse", side, 4).unwrap();
                write_neighbours(out, &profile, &found, 1, 0.5, style)?;
            }
            write_quality(out, &profile, style)?;
            write_next(out, &["perf-agent report last.pb.gz".into()])
        });
        fixture::golden("hostile.report.txt", report);
    }

    #[test]
    fn lines_fit_the_terminal() {
        let profile = fixture::hostile();
        for width in [60, 80, 120] {
            let style = TextStyle { width: Some(width), colour: false };
            let table = hotspots(&profile, 1, Detail::Function, SortBy::Own);
            let report = text(|out| write_hotspots(out, &table, 20, 0.0, style));
            assert!(report.lines().all(|line| line.width() <= width), "{report}");
        }
    }

    #[test]
    fn colour_only_when_asked_for() {
        let profile = fixture::hostile();
        let plain = text(|out| write_quality(out, &profile, TextStyle::default()));
        assert!(!plain.contains('\x1b'));
        let mut bad = profile;
        bad.quality.unknown_frames = bad.quality.frames;
        let coloured = text(|out| write_quality(out, &bad, TextStyle { width: None, colour: true }));
        assert!(coloured.contains("\x1b[1;31m100.0 % unknown frames"), "{coloured:?}");
    }

    #[test]
    fn an_empty_profile_says_so() {
        let profile = fixture::empty();
        let table = hotspots(&profile, 1, Detail::Function, SortBy::Own);
        assert_eq!(
            text(|out| write_hotspots(out, &table, 20, 0.0, TextStyle::default())),
            "Nothing was sampled.\n"
        );
    }
}
