//! The quality line: in one sentence, how far a profile can be trusted and what it cost.

use super::numbers::{bytes, duration, percent, thousands};
use crate::profile::{Counter, Overhead, Quality};

/// How much attention a part of the quality line asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Level {
    /// As it should be.
    #[default]
    Good,
    /// Read the numbers with care.
    Warn,
    /// The numbers may mislead; `--strict` turns this into an exit code.
    Fail,
}

impl Level {
    fn of(value: f64, warn: f64, fail: f64) -> Self {
        if value >= fail {
            Self::Fail
        } else if value >= warn {
            Self::Warn
        } else {
            Self::Good
        }
    }
}

// Percentages from which a reader should doubt the profile. A few lost samples or cut stacks only add noise; the
// second number is where whole functions can go missing.
const LOST: (f64, f64) = (1.0, 5.0);
const CUT_SHORT: (f64, f64) = (5.0, 20.0);
const UNKNOWN: (f64, f64) = (10.0, 30.0);

/// Causes and modules named in one part of the line; the rest is summed up.
const NAMED: usize = 3;

/// The line without colours.
pub fn quality_line(quality: &Quality) -> String {
    quality_line_styled(quality, &|_, text| text.to_owned())
}

/// The worst level of all parts of the line.
pub fn quality_level(quality: &Quality) -> Level {
    parts(quality).into_iter().map(|(level, _)| level).max().unwrap_or_default()
}

/// The line with every part passed through `style` first, which may colour it by its level.
pub fn quality_line_styled(quality: &Quality, style: &dyn Fn(Level, &str) -> String) -> String {
    parts(quality).iter().map(|(level, text)| style(*level, text)).collect::<Vec<_>>().join(" · ")
}

fn parts(quality: &Quality) -> Vec<(Level, String)> {
    let lost = quality.lost_total();
    let events = lost.saturating_add(quality.samples);
    let lost_percent = if lost == 0 { 0.0 } else { lost as f64 * 100.0 / events as f64 };
    let cut_short = quality.cut_short_percent();
    let unknown = quality.unknown_percent();
    let mut parts = vec![
        (Level::Good, format!("{} {}", thousands(quality.samples), quality.counted())),
        (
            Level::of(lost_percent, LOST.0, LOST.1),
            format!("{} lost{}", thousands(lost), causes(&quality.lost)),
        ),
        (
            Level::of(cut_short, CUT_SHORT.0, CUT_SHORT.1),
            format!("{} truncated{}", percent(cut_short), causes(&quality.cut_short)),
        ),
        (
            Level::of(unknown, UNKNOWN.0, UNKNOWN.1),
            format!("{} unknown frames{}", percent(unknown), modules(quality)),
        ),
    ];
    parts.extend(quality.overhead.as_ref().map(|overhead| (Level::Good, cost(overhead))));
    parts
}

/// `cost 0.31 % of the machine (bpf 0.12, probes 0.09, agent 0.10) and once 0.21 s, what ran slowed by about 0.40 %, 34 MiB + 9.0 MiB maps`.
pub(crate) fn cost(overhead: &Overhead) -> String {
    let share = |ns| format!("{:.2}", overhead.percent_of_machine(ns));
    let once = match overhead.once_ns() {
        0 => String::new(),
        once => format!(" and {} of CPU time once", duration(once)),
    };
    let mut parts = vec![format!(
        "cost {} % of the machine (bpf {}, probes {}, agent {}){once}",
        share(overhead.running_ns()),
        share(overhead.bpf_ns),
        share(overhead.probes_ns),
        share(overhead.agent_running_ns()),
    )];
    parts.extend(overhead.slowdown_percent().map(|slowed| format!("what ran slowed by about {slowed:.2} %")));
    parts.push(format!("{} + {} maps", bytes(overhead.rss_peak_bytes), bytes(overhead.bpf_map_bytes)));
    parts.join(", ")
}

/// ` (ring buffer full: 12, …)`: the largest causes with their counts.
pub(super) fn causes(counters: &[Counter]) -> String {
    let mut sorted: Vec<&Counter> = counters.iter().filter(|counter| counter.count > 0).collect();
    sorted.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.what.cmp(&b.what)));
    listed(sorted.iter().map(|counter| format!("{}: {}", counter.what, thousands(counter.count))))
}

/// ` (libfoo.so: no symbols, …)`: the modules with most unknown frames.
fn modules(quality: &Quality) -> String {
    listed(quality.unknown_by_module.iter().map(|unknown| format!("{}: {}", unknown.module, unknown.reason)))
}

fn listed(items: impl ExactSizeIterator<Item = String>) -> String {
    let count = items.len();
    if count == 0 {
        return String::new();
    }
    let mut named: Vec<String> = items.take(NAMED).collect();
    if count > NAMED {
        named.push(format!("{} more", count - NAMED));
    }
    format!(" ({})", named.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::fixture;

    #[test]
    fn a_clean_profile_says_so() {
        let quality = Quality { samples: 3_012, frames: 50_000, ..Quality::default() };
        assert_eq!(quality_line(&quality), "3 012 samples · 0 lost · 0 % truncated · 0 % unknown frames");
        assert_eq!(quality_level(&quality), Level::Good);
    }

    #[test]
    fn losses_name_their_causes() {
        assert_eq!(
            quality_line(&fixture::hostile().quality),
            "3 012 samples · 12 lost (ring buffer full: 10, sample without a process: 2) · \
             1.2 % truncated (more than 256 frames: 36) · \
             4.1 % unknown frames (libfoo.so: no symbols, libbar.so: file is gone, a: x, 1 more) · \
             cost 0.22 % of the machine (bpf 0.04, probes 0.05, agent 0.13) and 20 ms of CPU time once, what ran slowed by about 0.27 %, 38 MiB + 9.0 MiB maps",
        );
    }

    #[test]
    fn colours_follow_the_thresholds() {
        let quality = Quality { samples: 50, frames: 100, unknown_frames: 12, ..Quality::default() };
        let marked = quality_line_styled(&quality, &|level, text| format!("<{level:?}>{text}"));
        assert!(marked.contains("<Warn>12.0 % unknown") && marked.contains("<Good>0 lost"), "{marked}");
        let bad = Quality {
            samples: 0,
            lost: vec![Counter { id: "x".into(), what: "x".into(), count: 1 }],
            ..Quality::default()
        };
        assert_eq!(quality_level(&bad), Level::Fail);
    }
}
