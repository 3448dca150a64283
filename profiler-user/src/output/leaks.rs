//! Blocks that are not freed: one row for each site, leaks first, as a table and as JSON.
//!
//! What a site in JSON has besides the rest: `verdict`, `growth_bytes_per_s` with its standard error `growth_error` and bounds `growth_low` and
//! `growth_high` (95 of 100), `sure_growing` (0 to 1), `mean_age_s`, `oldest_s`, and `live_over_time` (bytes at `meta.leaks.moments_ns`; in time
//! slices `kept_by_slice`: bytes that outlived the slice that saw them allocated). Live numbers are those of blocks older than
//! `meta.leaks.older_ns`; they are lower bounds where `unfollowed_bytes` is not zero: bytes of blocks that could not be followed.

use std::io::{self, Write};

use serde_json::{Map, Value, json};

use super::columns::cut;
use super::numbers::{bytes, duration, percent, thousands};
use super::sites::{Site, SiteLeak, sites, unseen_frees};
use super::text::TextStyle;
use crate::profile::{LeakSums, Leaks, Profile};
use crate::report::leaks::{Finding, Verdict, sure_of_order};

/// Frames of a site that a table shows.
const FRAMES_SHOWN: usize = 4;

/// The table of sites that hold memory; nothing for a profile of something else.
pub fn write_leaks(out: &mut dyn Write, profile: &Profile, top: usize, style: TextStyle) -> io::Result<()> {
    let (Some(leaks), Some(found)) = (&profile.meta.leaks, sites(profile)) else { return Ok(()) };
    let rows: Vec<(&Site, &SiteLeak)> =
        found.sites.iter().filter_map(|site| Some((site, site.leak.as_ref()?))).collect();
    let unseen = profile.meta.allocations.as_ref().and_then(unseen_frees);
    write_summary(out, leaks, unseen, &rows)?;
    // Of windows a site may have nothing that is surely in use, and much that may be.
    let held =
        |sums: &LeakSums| sums.live_bytes + if leaks.windows.is_some() { sums.unfollowed_bytes } else { 0.0 };
    let large = |leak: &SiteLeak| held(&leak.sums) >= leaks.min_bytes as f64 && held(&leak.sums) > 0.0;
    let shown: Vec<_> = rows.iter().filter(|(_, leak)| large(leak)).collect();
    writeln!(out, "      LIVE    ±%    COUNT  GROWTH/MIN            95 %      AGE  VERDICT   SURE  SITE")?;
    let room = style.width.map_or(usize::MAX, |width| width.saturating_sub(78).max(20));
    for (site, leak) in shown.iter().take(top) {
        let names: Vec<&str> = found.names(site).take(FRAMES_SHOWN).collect();
        let Finding { growth, bounds: (low, high), sure, verdict, .. } = leak.finding;
        writeln!(
            out,
            "{:>10} {:>5.1} {:>8} {:>11} {:>15} {:>8}  {:<8} {:>5}  {}",
            at_least(leak.sums.unfollowed_bytes, bytes(leak.sums.live_bytes.round() as u64)),
            site.error_percent(),
            thousands(leak.sums.live_count.round() as u64),
            signed(growth * 60.0),
            if verdict == Verdict::Unknown {
                String::new()
            } else {
                format!("{} – {}", brief(low * 60.0), brief(high * 60.0))
            },
            if leaks.windows.is_some() {
                "–".to_owned()
            } else {
                duration((leak.sums.mean_age_s() * 1e9) as u64)
            },
            verdict.word(),
            if sure >= 0.995 { ">99%".to_owned() } else { format!("{:.0}%", sure * 100.0) },
            cut(&names.join(" < "), room)
        )?;
    }
    let small = rows.len() - shown.len();
    if shown.len() > top {
        writeln!(out, "{} more sites", thousands((shown.len() - top) as u64))?;
    }
    if small > 0 && leaks.min_bytes > 1 {
        writeln!(
            out,
            "{} sites hold less than {} (--min-bytes)",
            thousands(small as u64),
            bytes(leaks.min_bytes)
        )?;
    }
    if leaks.windows.is_some() {
        write_limits(out, leaks)?;
    } else if leaks.unfollowed_count > 0 {
        writeln!(
            out,
            "≥: lower bounds. {} blocks with {} could not be followed, and what became of them is not known.",
            thousands(leaks.unfollowed_count),
            bytes(leaks.unfollowed_bytes)
        )?;
    }
    write_order(out, &shown.iter().map(|(_, leak)| leak.finding).collect::<Vec<_>>())
}

/// What windows cannot say.
fn write_limits(out: &mut dyn Write, leaks: &Leaks) -> io::Result<()> {
    if leaks.unfollowed_bytes > 0 {
        writeln!(
            out,
            "≥: lower bounds. Of {} more it is not known whether they were freed.",
            bytes(leaks.unfollowed_bytes)
        )?;
    }
    writeln!(
        out,
        "Windows say what each site asked for and what was freed of it, not which blocks are left: there are no ages, and a queue that fills slowly grows \
         like a leak, so none is called one. What processes held when they ended counts as not freed. `perf-agent leaks PID` follows single blocks."
    )
}

fn write_summary(
    out: &mut dyn Write,
    leaks: &Leaks,
    unseen: Option<String>,
    rows: &[(&Site, &SiteLeak)],
) -> io::Result<()> {
    let sum = |of: fn(&SiteLeak) -> f64| rows.iter().map(|(_, leak)| of(leak)).sum::<f64>().round() as u64;
    if let Some(windows) = leaks.windows {
        return writeln!(
            out,
            "{}{} in {} blocks allocated in {} ({} windows) and not freed in them",
            if leaks.unfollowed_bytes > 0 { "at least " } else { "" },
            bytes(sum(|leak| leak.sums.live_bytes)),
            thousands(sum(|leak| leak.sums.live_count)),
            duration(leaks.watched_ns),
            thousands(windows),
        );
    }
    write!(
        out,
        "{}{}{} in {} blocks allocated in {} and not {}, {} old or older",
        if leaks.unfollowed_count > 0 { "at least " } else { "" },
        if leaks.slices.is_some() { "about " } else { "" },
        bytes(sum(|leak| leak.sums.live_bytes)),
        thousands(sum(|leak| leak.sums.live_count)),
        duration(leaks.watched_ns),
        if leaks.slices.is_some() { "seen to be freed" } else { "freed" },
        duration(leaks.older_ns)
    )?;
    if leaks.young_count > 0 {
        write!(
            out,
            "; {} in {} younger ones left out",
            bytes(leaks.young_bytes),
            thousands(leaks.young_count)
        )?;
    }
    if leaks.ended_count > 0 {
        write!(
            out,
            "; {} in {} blocks went with processes that ended",
            bytes(leaks.ended_bytes),
            thousands(leaks.ended_count)
        )?;
    }
    writeln!(out)?;
    if let (Some(grown), Some(_)) = (leaks.grown_bytes, leaks.slices) {
        writeln!(out, "The target's own memory grew by {} meanwhile", bytes(grown))?;
    }
    unseen.map_or(Ok(()), |unseen| writeln!(out, "{unseen}"))
}

/// A number that may be too low.
fn at_least(hidden: f64, text: String) -> String {
    if hidden > 0.0 { format!("≥{text}") } else { text }
}

/// How sure the first places are.
fn write_order(out: &mut dyn Write, findings: &[Finding]) -> io::Result<()> {
    let grows = |finding: &Finding| matches!(finding.verdict, Verdict::Leaking | Verdict::Growing);
    let [first, rest @ ..] = findings else { return Ok(()) };
    if !grows(first) {
        return writeln!(out, "No site is seen to grow.");
    }
    match rest.iter().find(|next| grows(next)) {
        Some(next) => writeln!(
            out,
            "The first site grows faster than the next with a certainty of {}.",
            percent((sure_of_order(first, next) * 1000.0).floor() / 10.0)
        ),
        None => writeln!(out, "No other site is seen to grow."),
    }
}

fn signed(value: f64) -> String {
    if value.abs() < 0.5 {
        return "0 B".to_owned();
    }
    format!("{}{}", if value < 0.0 { '-' } else { '+' }, bytes(value.abs().round() as u64))
}

/// A size with few digits: `1.2M`.
fn brief(value: f64) -> String {
    let sign = if value < -0.5 { "-" } else { "" };
    let mut size = value.abs();
    for unit in ["", "K", "M", "G"] {
        if size < 999.5 {
            return if size < 9.95 && !unit.is_empty() {
                format!("{sign}{size:.1}{unit}")
            } else {
                format!("{sign}{size:.0}{unit}")
            };
        }
        size /= 1024.0;
    }
    format!("{sign}{size:.0}T")
}

/// What a site in JSON has where leaks were looked for.
pub(super) fn leak_json(leak: &SiteLeak) -> Map<String, Value> {
    let SiteLeak { sums, finding } = leak;
    let row = json!({
        "verdict": finding.verdict.word(),
        "growth_bytes_per_s": finding.growth,
        "growth_error": finding.error,
        "growth_low": finding.bounds.0,
        "growth_high": finding.bounds.1,
        "sure_growing": finding.sure,
        "unfollowed_bytes": sums.unfollowed_bytes,
        "mean_age_s": sums.mean_age_s(),
        "oldest_s": sums.oldest_ns as f64 / 1e9,
        "live_over_time": sums.series,
        "kept_by_slice": sums.cohorts.kept,
    });
    match row {
        Value::Object(row) => row,
        _ => Map::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::fixture;
    use crate::profile::{LeakStack, LeakSums, ValueType};

    fn profile() -> Profile {
        let mut profile = fixture::hostile();
        let kinds =
            ["sampled", "temporary_objects", "alloc_objects", "alloc_space", "inuse_objects", "inuse_space"];
        profile.value_types = kinds.map(|kind| ValueType::new(kind, "count")).to_vec();
        for sample in &mut profile.samples {
            sample.values = vec![100, 1, 4, 4096, 2, 2048];
        }
        let sums = |slope: f64| LeakSums {
            live_count: 2.0,
            live_bytes: 2048.0,
            early_bytes: 2048.0,
            byte_seconds: 20_480.0,
            oldest_ns: 12_000_000_000,
            series: (0..20).map(|index| 100.0 + slope * f64::from(index)).collect(),
            ..LeakSums::default()
        };
        let stacks = profile.samples.iter().enumerate().map(|(index, sample)| LeakStack {
            stack: sample.stack,
            sums: sums(if index == 1 { 50.0 } else { 0.0 }),
        });
        profile.meta.leaks = Some(Leaks {
            watched_ns: 20_000_000_000,
            older_ns: 5_000_000_000,
            moments_ns: (0..20).map(|index| index * 1_000_000_000).collect(),
            stacks: stacks.collect(),
            young_count: 3,
            young_bytes: 300,
            ..Leaks::default()
        });
        profile
    }

    #[test]
    fn leaks_come_first_and_the_table_says_how_sure_that_is() {
        let mut out = Vec::new();
        write_leaks(&mut out, &profile(), 1, TextStyle { width: Some(110), colour: false }).unwrap();
        let text = String::from_utf8(out).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].contains("5 s old or older; 300 B in 3 younger ones left out"), "{text}");
        assert!(lines[2].contains("leaking") && lines[2].contains("+2.9 KiB"), "{text}");
        assert!(text.contains("more sites") && text.ends_with("No other site is seen to grow.\n"), "{text}");
    }

    #[test]
    fn blocks_without_room_make_lower_bounds_of_live_bytes() {
        let mut profile = profile();
        if let Some(leaks) = &mut profile.meta.leaks {
            (leaks.unfollowed_count, leaks.unfollowed_bytes) = (1000, 2_048_000);
            leaks.stacks[0].sums.unfollowed_bytes = 2_048_000.0;
        }
        profile.meta.allocations = Some(crate::profile::Allocations {
            frees: 500,
            unseen_frees: Some(crate::profile::UnseenFrees { count: 70, error: 20 }),
            ..Default::default()
        });
        let mut out = Vec::new();
        write_leaks(&mut out, &profile, 10, TextStyle { width: None, colour: false }).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.starts_with("at least ") && text.contains("  ≥4.0 KiB"), "{text}");
        assert!(text.contains("1 000 blocks with 2.0 MiB could not be followed"), "{text}");
        assert!(text.contains("about 70 ± 20 of 500 frees were of blocks from before"), "{text}");
        assert_eq!(crate::output::sites_json(&profile).unwrap()[0]["verdict"], "leaking");
    }

    #[test]
    fn sites_in_json_have_their_verdict() {
        let found = crate::output::sites_json(&profile()).unwrap();
        assert_eq!(found[0]["verdict"], "leaking");
        assert!((found[0]["growth_bytes_per_s"].as_f64().unwrap() - 50.0).abs() < 0.1);
        assert_eq!(found[1]["verdict"], "steady");
    }

    #[test]
    fn small_sites_are_left_out_and_counted() {
        let mut profile = profile();
        if let Some(leaks) = &mut profile.meta.leaks {
            leaks.min_bytes = 1 << 20;
        }
        let mut out = Vec::new();
        write_leaks(&mut out, &profile, 10, TextStyle { width: None, colour: false }).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(!text.contains("leaking") && text.contains("hold less than 1.0 MiB (--min-bytes)"), "{text}");
    }
}
