//! Times as bars, one line per power of two.

use std::io::{self, Write};

use super::TextStyle;
use super::numbers::{duration, thousands};

/// Cells of the longest bar.
const LONGEST_BAR: u64 = 40;

/// Draws a histogram: smallest and largest time of a bucket, nanoseconds, and how many are in it. A recording keeps sixteen buckets per power
/// of two; a line sums them up.
pub(super) fn write_histogram(
    out: &mut dyn Write,
    histogram: &[(u64, u64, u64)],
    style: TextStyle,
) -> io::Result<()> {
    let lines = lines(histogram);
    let most = lines.iter().map(|(_, count)| *count).max().unwrap_or(0).max(1);
    for (power, count) in lines {
        let (first, end) = (1_u64 << power, (1_u64 << power).saturating_mul(2));
        // A count that is not zero always shows.
        let cells = (count.saturating_mul(LONGEST_BAR) / most).max(u64::from(count > 0));
        let bar = "#".repeat(cells as usize);
        let range = format!("{:>9} – {:<9}", duration(first), duration(end));
        writeln!(out, "{:>16} {range} {:>13}  {}", "", thousands(count), style.paint("36", &bar))?;
    }
    Ok(())
}

/// Counts by power of two, without gaps between the first and the last.
fn lines(histogram: &[(u64, u64, u64)]) -> Vec<(u32, u64)> {
    let power = |ns: u64| ns.max(1).ilog2();
    let (Some(first), Some(last)) = (histogram.first(), histogram.last()) else { return Vec::new() };
    let (first, last) = (power(first.0), power(last.0).min(62));
    let mut lines: Vec<(u32, u64)> = (first..=last).map(|power| (power, 0)).collect();
    for (from, _, count) in histogram {
        if let Some(line) = lines.get_mut((power(*from).min(62) - first) as usize) {
            line.1 += count;
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_summed_up_by_powers_of_two() {
        let histogram = [(16, 16, 1), (17, 17, 2), (64, 67, 4), (u64::MAX - 5, u64::MAX, 1)];
        let lines = lines(&histogram);
        assert_eq!(lines[..3], [(4, 3), (5, 0), (6, 4)]);
        assert_eq!(lines.last(), Some(&(62, 1)));
        let mut out = Vec::new();
        write_histogram(&mut out, &histogram, TextStyle::default()).unwrap();
        assert!(String::from_utf8(out).unwrap().lines().count() == 59);
    }
}
