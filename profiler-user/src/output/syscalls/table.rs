//! The table: one block per process, thread or control group, then the calls that have not returned.

use std::io::{self, Write};

use unicode_width::UnicodeWidthStr;

use crate::output::columns::cut;
use crate::output::histogram::write_histogram;
use crate::output::numbers::{duration, percent, thousands};
use crate::output::quality::{causes, cost};
use crate::output::{Level, TextStyle};
use crate::syscalls::{CallReport, CallStats, InFlight, Measure, OwnerCalls};

/// How much to show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableOptions {
    /// Blocks, and rows in each.
    pub top: usize,
    /// List all slow calls that were kept, with their whole stacks, instead of a few.
    pub all_slow: bool,
    /// Draw the histogram of each call.
    pub histograms: bool,
    /// How to print.
    pub style: TextStyle,
}

/// Slow calls that are listed by default, and frames of each stack.
const SHORT_LIST: (usize, usize) = (3, 6);

/// Calls in flight that are listed by default.
const LISTED: usize = 10;

/// Writes everything.
pub fn write_calls(out: &mut dyn Write, report: &CallReport, options: TableOptions) -> io::Result<()> {
    let style = options.style;
    let meta = &report.meta;
    let mut parts = vec![format!("perf-agent {}", env!("CARGO_PKG_VERSION")), meta.profile_type.clone()];
    parts.push(meta.target.clone());
    parts.push(describe_measure(report.measure));
    parts.extend(meta.scope_notes.iter().cloned());
    parts.push(duration(meta.duration_ns));
    writeln!(out, "{}", style.paint("1", &parts.join(" · ")))?;
    // Those that only wait in a call are listed below.
    let makers: Vec<&OwnerCalls> = report.owners.iter().filter(|owner| owner.count() > 0).collect();
    for owner in makers.iter().take(options.top) {
        write_owner(out, owner, options)?;
    }
    rest(out, makers.len().saturating_sub(options.top), "more makers of calls", style)?;
    write_slow(out, report, options)?;
    write_in_flight(out, &report.in_flight, style)?;
    write_quality(out, report, style)
}

/// How the calls were measured, in a few words.
pub fn describe_measure(measure: Measure) -> String {
    match measure {
        Measure::Exact => "every call".to_owned(),
        Measure::Windows => "windows of continuous recording".to_owned(),
        Measure::Slices { slices, share, exact_share } => {
            let first = if exact_share > 0.0 {
                format!("every call in the first {}, then ", percent(exact_share * 100.0))
            } else {
                String::new()
            };
            if slices == 0 {
                return format!("{first}no slice of time any more");
            }
            format!("{first}{} slices of time, {} of it", thousands(slices), percent(share * 100.0))
        }
    }
}

fn rest(out: &mut dyn Write, count: usize, what: &str, style: TextStyle) -> io::Result<()> {
    if count == 0 {
        return Ok(());
    }
    writeln!(out, "{}", style.paint("2", &format!("{} {what}", thousands(count as u64))))
}

fn write_owner(out: &mut dyn Write, owner: &OwnerCalls, options: TableOptions) -> io::Result<()> {
    let style = options.style;
    let who = match (owner.pid, owner.tid) {
        (Some(pid), Some(tid)) => format!("{} ({pid}/{tid})", owner.name),
        (Some(pid), None) => format!("{} ({pid})", owner.name),
        _ => owner.name.to_string(),
    };
    let estimated = owner.calls.iter().any(|call| call.count_error > 0);
    let about = if estimated { "about " } else { "" };
    writeln!(
        out,
        "\n{}  {about}{} calls, {} failed, {} in calls",
        style.paint("1", &who),
        thousands(owner.count()),
        thousands(owner.errors()),
        duration(owner.total_ns()),
    )?;
    let error_title = if estimated { format!("{:>10}", "±") } else { String::new() };
    let titles = format!(
        "{:>13}{error_title} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}  SYSCALL",
        "CALLS", "TOTAL", "MEAN", "P50", "P95", "P99", "MAX"
    );
    writeln!(out, "{}", style.paint("2", &titles))?;
    let calls: Vec<&CallStats> =
        owner.calls.iter().filter(|call| call.count > 0 || call.total_ns > 0).collect();
    for call in calls.iter().take(options.top) {
        writeln!(out, "{}", row(call, estimated, style))?;
        if options.histograms && !call.histogram.is_empty() {
            write_histogram(out, &call.histogram, style)?;
        }
    }
    rest(out, calls.len().saturating_sub(options.top), "more system calls", style)
}

fn row(call: &CallStats, estimated: bool, style: TextStyle) -> String {
    let time = |ns: u64, level: u8| {
        if call.histogram.is_empty() && call.at_least_from.is_none() {
            return "-".to_owned();
        }
        let more = if call.at_least_from.is_some_and(|from| level >= from) { ">" } else { "" };
        format!("{more}{}", duration(ns))
    };
    let error = match (estimated, call.count_error) {
        (false, _) => String::new(),
        (true, 0) => format!("{:>10}", ""),
        (true, error) => format!("{:>10}", format!("±{}", thousands(error))),
    };
    let numbers = format!(
        "{:>13}{error} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}",
        thousands(call.count),
        duration(call.total_ns),
        time(call.mean_ns, 0),
        time(call.p50_ns, 50),
        time(call.p95_ns, 95),
        time(call.p99_ns, 99),
        time(call.max_ns, 100),
    );
    let mut notes: Vec<String> =
        call.errnos.iter().map(|(name, count)| format!("{name} {}", thousands(*count))).collect();
    let mut note = |count: u64, what: &str| {
        if count > 0 {
            notes.push(format!("{} {what}", thousands(count)));
        }
    };
    note(call.restarted, "restarted");
    note(call.unreturned, "never returned");
    note(call.in_flight, "in flight");
    let room = style.width.map_or(usize::MAX, |width| width.saturating_sub(numbers.width() + 2).max(20));
    let text =
        if notes.is_empty() { call.name.clone() } else { format!("{}  {}", call.name, notes.join(", ")) };
    format!("{numbers}  {}", cut(&text, room))
}

fn write_slow(out: &mut dyn Write, report: &CallReport, options: TableOptions) -> io::Result<()> {
    let style = options.style;
    if report.slow.is_empty() {
        return Ok(());
    }
    let (calls, frames) = if options.all_slow { (usize::MAX, usize::MAX) } else { SHORT_LIST };
    writeln!(out, "\n{}", style.paint("1", "Slowest calls"))?;
    for call in report.slow.iter().take(calls) {
        let text = format!(
            "  {:>9}  {} ({}/{})  {}({}) = {}",
            duration(call.ns),
            call.thread,
            call.pid,
            call.tid,
            call.name,
            call.arguments,
            call.result
        );
        writeln!(out, "{}", cut(&text, style.width.unwrap_or(usize::MAX)))?;
        for frame in call.stack.iter().take(frames) {
            let room = style.width.map_or(usize::MAX, |width| width.saturating_sub(15));
            writeln!(out, "             {}", style.paint("2", &cut(frame, room)))?;
        }
        if call.stack.len() > frames {
            let more = format!("             {} more frames", call.stack.len() - frames);
            writeln!(out, "{}", style.paint("2", &more))?;
        }
    }
    let listed = report.slow.len().min(calls) as u64;
    let least = report.slow.last().map_or(0, |call| call.ns);
    let more = report.slow_total.saturating_sub(listed) as usize;
    let what = format!("more calls that took {} or longer; --slower-than lists more", duration(least));
    rest(out, more, &what, style)
}

fn write_in_flight(out: &mut dyn Write, calls: &[InFlight], style: TextStyle) -> io::Result<()> {
    if calls.is_empty() {
        return Ok(());
    }
    writeln!(out, "\n{}", style.paint("1", "Not returned yet"))?;
    for call in calls.iter().take(LISTED) {
        let more = if call.began_before { "more than " } else { "" };
        let thread = format!("{} ({}/{})", call.thread, call.pid, call.tid);
        let since = match call.ns {
            Some(ns) => format!("{more}{} and counting", duration(ns)),
            None => "its beginning was not seen".to_owned(),
        };
        writeln!(out, "  {thread}  {}, {since}", call.name)?;
    }
    rest(out, calls.len().saturating_sub(LISTED), "more", style)
}

/// The quality line: the same words as for profiles, with calls instead of samples.
fn write_quality(out: &mut dyn Write, report: &CallReport, style: TextStyle) -> io::Result<()> {
    let quality = &report.quality;
    let lost = quality.lost_total();
    let lost_text = format!("{} lost{}", thousands(lost), causes(&quality.lost));
    let level = if lost == 0 { Level::Good } else { Level::Warn };
    let mut parts = vec![
        format!("{} calls", thousands(quality.samples)),
        if level == Level::Warn { style.paint("33", &lost_text) } else { lost_text },
        describe_measure(report.measure),
    ];
    parts.extend(quality.overhead.as_ref().map(cost));
    parts.push(format!("callers were slowed down by {}", percent(report.slowdown_percent)));
    writeln!(out, "\nQuality  {}", parts.join(" · "))?;
    for note in &quality.notes {
        writeln!(out, "         {note}")?;
    }
    Ok(())
}
