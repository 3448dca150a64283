//! Resident memory over time in one line: from where to where, of what, and a small picture.

use std::io::{self, Write};

use super::numbers::bytes;
use crate::profile::{Profile, Resident};

/// Steps of the picture, from nothing to the largest value.
const STEPS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// Characters of the picture.
const WIDTH: usize = 32;

/// One line on how resident memory went; nothing where it was not measured.
pub fn write_resident(out: &mut dyn Write, profile: &Profile) -> io::Result<()> {
    let points = &profile.meta.resident;
    let (Some(first), Some(last)) = (points.first(), points.last()) else { return Ok(()) };
    let part = |name: &str, of: fn(&Resident) -> u64| match (of(first), of(last)) {
        (before, after) if after >= before => format!("{name} +{}", bytes(after - before)),
        (before, after) => format!("{name} -{}", bytes(before - after)),
    };
    writeln!(
        out,
        "Resident {} → {} ({}, {}, {})  {}",
        bytes(first.total_bytes()),
        bytes(last.total_bytes()),
        part("anonymous", |point| point.anon_bytes),
        part("files", |point| point.file_bytes),
        part("shared", |point| point.shared_bytes),
        picture(points)
    )
}

fn picture(points: &[Resident]) -> String {
    let largest = points.iter().map(Resident::total_bytes).max().unwrap_or(0).max(1);
    let columns = points.len().min(WIDTH);
    let column = |at: usize| {
        let (start, end) = (at * points.len() / columns, (at + 1) * points.len() / columns);
        let most =
            points.get(start..end).unwrap_or_default().iter().map(Resident::total_bytes).max().unwrap_or(0);
        let step = (most as f64 / largest as f64 * (STEPS.len() - 1) as f64).round() as usize;
        STEPS[step.min(STEPS.len() - 1)]
    };
    (0..columns).map(column).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::fixture;

    #[test]
    fn growth_is_told_and_drawn() {
        let mut profile = fixture::hostile();
        let line = |profile: &Profile| {
            let mut out = Vec::new();
            write_resident(&mut out, profile).unwrap();
            String::from_utf8(out).unwrap()
        };
        assert_eq!(line(&profile), "");
        let point = |anon_bytes| Resident { ms: 0, anon_bytes, file_bytes: 1 << 20, shared_bytes: 0 };
        profile.meta.resident = vec![point(0), point(7 << 20)];
        assert_eq!(
            line(&profile),
            "Resident 1.0 MiB → 8.0 MiB (anonymous +7.0 MiB, files +0 B, shared +0 B)  ▂█\n"
        );
        profile.meta.resident = vec![point(5 << 20); 1000];
        assert_eq!(picture(&profile.meta.resident), "█".repeat(WIDTH));
    }
}
