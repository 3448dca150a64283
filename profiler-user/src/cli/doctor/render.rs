//! The checklist as text: a line for each check, reason and fixes below those that need attention.

use std::io::{self, Write};

use unicode_width::UnicodeWidthStr;

use super::check::{Check, Report, Status};

/// Columns before the value: two spaces, the verdict, the title.
const TITLE_COLUMNS: usize = 22;
const VALUE_AT: usize = 2 + 4 + 2 + TITLE_COLUMNS + 1;
/// Columns before the text of a reason or fix.
const DETAIL_AT: usize = 13;
/// Width when standard output is not a terminal.
const DEFAULT_COLUMNS: usize = 100;
/// Below this, wrapping makes things worse.
const FEWEST_COLUMNS: usize = 60;

/// How to write for one reader.
#[derive(Debug, Clone, Copy)]
pub(super) struct Style {
    pub(super) columns: usize,
    pub(super) colour: bool,
}

impl Style {
    /// The style for standard output: the terminal's width, or `COLUMNS`; colours for terminals without `NO_COLOR`
    /// (<https://no-color.org>).
    pub(super) fn of_stdout(is_terminal: bool) -> Self {
        let said = std::env::var("COLUMNS").ok().and_then(|text| text.parse().ok());
        let columns = terminal_columns().or(said).unwrap_or(DEFAULT_COLUMNS);
        let muted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self { columns: columns.max(FEWEST_COLUMNS), colour: is_terminal && !muted && !dumb }
    }

    fn paint(self, codes: &str, text: &str) -> String {
        if self.colour && !text.is_empty() { format!("\x1b[{codes}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

fn terminal_columns() -> Option<usize> {
    // SAFETY: winsize is plain data.
    let mut size: libc::winsize = unsafe { std::mem::zeroed() };
    // SAFETY: `size` is a winsize that outlives the call, which is what this request fills.
    let result = unsafe { libc::ioctl(libc::STDOUT_FILENO, libc::TIOCGWINSZ, &raw mut size) };
    (result == 0 && size.ws_col > 0).then_some(usize::from(size.ws_col))
}

/// Writes the whole checklist.
pub(super) fn write(report: &Report, style: Style, out: &mut impl Write) -> io::Result<()> {
    let mut section = None;
    for check in &report.checks {
        let here = (check.group, check.pid);
        if section != Some(here) {
            let gap = if section.is_some() { "\n" } else { "" };
            let pid = check.pid.map_or_else(String::new, |pid| format!(" {pid}"));
            let title = format!("{}{pid}", check.group.title());
            writeln!(out, "{gap}{}", style.paint("1", &title))?;
            section = Some(here);
        }
        write_check(check, style, out)?;
    }
    writeln!(out, "\n{}", summary(report, style))
}

fn write_check(check: &Check, style: Style, out: &mut impl Write) -> io::Result<()> {
    let (word, codes) = match check.status {
        Status::Ok => ("ok  ", "32"),
        Status::Warn => ("warn", "33"),
        Status::Fail => ("fail", "1;31"),
    };
    // The reason of a good verdict is an aside on the same line; other reasons have lines of their own.
    let is_aside = check.status == Status::Ok && !check.why.is_empty();
    let value = if is_aside { format!("{} · {}", check.value, check.why) } else { check.value.clone() };
    let value = wrap(&value, style.columns - VALUE_AT).join(&format!("\n{:VALUE_AT$}", ""));
    let fill = TITLE_COLUMNS.saturating_sub(check.title.width());
    writeln!(out, "  {}  {}{:fill$} {value}", style.paint(codes, word), check.title, "")?;
    if !is_aside {
        write_detail("why", &wrap(&check.why, style.columns - DETAIL_AT), style, out)?;
    }
    // Fixes are commands to copy: a line break would end up in the shell.
    write_detail("fix", &check.fix, style, out)
}

fn write_detail(label: &str, lines: &[String], style: Style, out: &mut impl Write) -> io::Result<()> {
    for (index, line) in lines.iter().filter(|line| !line.is_empty()).enumerate() {
        let label = if index == 0 { style.paint("2", label) } else { "   ".to_owned() };
        writeln!(out, "        {label}  {line}")?;
    }
    Ok(())
}

fn summary(report: &Report, style: Style) -> String {
    let plural = |count: usize, word: &str| format!("{count} {word}{}", if count == 1 { "" } else { "s" });
    match (report.fail, report.warn) {
        (0, 0) => style.paint("32", "Everything is ready for profiling."),
        (0, warn) => style.paint("33", &format!("Ready for profiling, with {}.", plural(warn, "remark"))),
        (fail, _) => style.paint("1;31", &format!("Not ready: {} must be fixed.", plural(fail, "point"))),
    }
}

/// Breaks at spaces so that no line is wider than `columns`, except for words that are wider themselves.
fn wrap(text: &str, columns: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let Some(line) = lines.last_mut() else { break };
        if line.is_empty() {
            line.push_str(word);
        } else if line.width() + 1 + word.width() <= columns {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::super::check::Group;
    use super::*;

    fn report() -> Report {
        let mut target = Check::fail(Group::Target, "alive", "process", "4242 (nginx)").why("it is a zombie");
        target.pid = Some(4242);
        Report::new(vec![
            Check::ok(Group::Kernel, "kernel", "kernel", "6.1.0").why("5.8 or later is needed"),
            Check::warn(Group::Kernel, "tracefs", "tracefs", "not mounted")
                .why("the numbers of tracepoints are read there")
                .fix("sudo mount -t tracefs tracefs /sys/kernel/tracing"),
            target,
        ])
    }

    fn text(style: Style) -> String {
        let mut out = Vec::new();
        write(&report(), style, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_table_reads_like_this() {
        assert_eq!(
            text(Style { columns: 80, colour: false }),
            "Kernel
  ok    kernel                 6.1.0 · 5.8 or later is needed
  warn  tracefs                not mounted
        why  the numbers of tracepoints are read there
        fix  sudo mount -t tracefs tracefs /sys/kernel/tracing

Target 4242
  fail  process                4242 (nginx)
        why  it is a zombie

Not ready: 1 point must be fixed.
"
        );
    }

    #[test]
    fn colours_come_and_go_with_the_style() {
        assert!(!text(Style { columns: 80, colour: false }).contains('\x1b'));
        assert!(text(Style { columns: 80, colour: true }).contains("\x1b[1;31mfail\x1b[0m"));
    }

    #[test]
    fn lines_break_at_spaces_and_long_words_stay_whole() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("/a/very/long/path x", 5), ["/a/very/long/path", "x"]);
        assert_eq!(wrap("", 5), [""]);
    }
}
