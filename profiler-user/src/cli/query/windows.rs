//! `perf-agent query windows`: what there is, by profile type and length.

use std::collections::BTreeMap;
use std::io::{self, Write};

use clap::Args;

use super::source::StoreArgs;
use crate::output::{bytes, duration, thousands, windows_json};
use crate::question::RangeArgs;
use crate::question::time::shown;
use crate::store::{Level, WindowInfo};

/// Show which windows are stored
#[derive(Debug, Clone, Args)]
pub(super) struct WindowsArgs {
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    range: RangeArgs,
    /// Only profiles of this type
    #[arg(long = "type", value_name = "TYPE")]
    profile_type: Option<String>,
    /// Show every window, not only how many there are
    #[arg(long)]
    each: bool,
    /// Print every window as JSON
    #[arg(long)]
    json: bool,
}

/// Runs the question.
#[expect(clippy::print_stderr, reason = "what is wrong with a store belongs on standard error")]
pub(super) fn run(args: &WindowsArgs) -> anyhow::Result<()> {
    let (mut windows, problems) = args.store.windows(&args.range.range()?)?;
    windows.retain(|window| args.profile_type.as_ref().is_none_or(|wanted| *wanted == window.profile_type));
    let mut out = io::BufWriter::new(io::stdout().lock());
    if args.json {
        writeln!(out, "{}", windows_json(&windows, &problems))?;
    } else if args.each {
        writeln!(out, "{:<22}{:>11}{:>7}{:>11}  TYPE", "BEGIN", "RECORDED", "PARTS", "BYTES")?;
        for window in &windows {
            let (begin, length) = (shown(window.start_unix_ns), duration(window.duration_ns));
            let size = bytes(window.bytes);
            writeln!(out, "{begin:<22}{length:>11}{:>7}{size:>11}  {}", window.parts, window.profile_type)?;
        }
    } else {
        summary(&mut out, &windows)?;
    }
    out.flush()?;
    for problem in problems {
        eprintln!("warning: {problem}");
    }
    Ok(())
}

/// One line per profile type and length.
fn summary(out: &mut dyn Write, windows: &[WindowInfo]) -> io::Result<()> {
    if windows.is_empty() {
        return writeln!(out, "Nothing is stored of that time.");
    }
    let mut groups: BTreeMap<(&str, Level), Vec<&WindowInfo>> = BTreeMap::new();
    for window in windows {
        groups.entry((&window.profile_type, window.level)).or_default().push(window);
    }
    writeln!(
        out,
        "{:<10}{:>13}{:>9}{:>14}{:>11}  {:<22}TO",
        "TYPE", "LENGTH", "WINDOWS", "RECORDED", "BYTES", "FROM"
    )?;
    for ((profile_type, level), group) in groups {
        let length = level.window_ns().map_or_else(|| "as recorded".to_owned(), duration);
        let recorded = group.iter().map(|window| window.duration_ns).sum::<u64>();
        let size = group.iter().map(|window| window.bytes).sum::<u64>();
        let first = group.iter().map(|window| window.start_unix_ns).min().unwrap_or_default();
        let end = group.iter().map(|window| window.end_unix_ns).max().unwrap_or_default();
        let count = thousands(group.len() as u64);
        let (recorded, size) = (duration(recorded), bytes(size));
        let (first, end) = (shown(first), shown(end));
        writeln!(out, "{profile_type:<10}{length:>13}{count:>9}{recorded:>14}{size:>11}  {first:<22}{end}")?;
    }
    Ok(())
}
