//! Numbers for people: thousands separated, percentages and sizes with the digits that mean something.

use crate::profile::ValueType;

/// A count with its thousands set apart: `3 012`.
pub fn thousands(count: u64) -> String {
    let digits = count.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}

/// A percentage: `0 %`, `<0.1 %`, `4.1 %`. Something never reads as nothing.
pub fn percent(value: f64) -> String {
    if value > 0.0 && value < 0.05 {
        "<0.1 %".to_owned()
    } else if value == 0.0 {
        "0 %".to_owned()
    } else {
        format!("{value:.1} %")
    }
}

/// A size in binary units: `512 B`, `38 MiB`, `1.5 GiB`.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut size = count as f64 / 1024.0;
    let mut unit = 0;
    while size >= 1023.95 && unit + 1 < UNITS.len() {
        size /= 1024.0;
        unit += 1;
    }
    if size >= 9.95 { format!("{size:.0} {}", UNITS[unit]) } else { format!("{size:.1} {}", UNITS[unit]) }
}

/// A length of time: `30 s`, `1.5 s`, `250 ms`, `2 min 5 s`, `1 h 30 min`.
pub fn duration(ns: u64) -> String {
    const SECOND: u64 = 1_000_000_000;
    let seconds = ns.saturating_add(SECOND / 2) / SECOND;
    match ns {
        0 => "0 s".to_owned(),
        1..1_000 => format!("{ns} ns"),
        1_000..1_000_000 => format!("{} µs", trimmed(ns as f64 / 1e3)),
        1_000_000..SECOND => format!("{} ms", trimmed(ns as f64 / 1e6)),
        _ if seconds < 60 => format!("{} s", trimmed(ns as f64 / 1e9)),
        _ if seconds < 3600 => pair(seconds / 60, "min", seconds % 60, "s"),
        _ => pair(seconds / 3600, "h", seconds % 3600 / 60, "min"),
    }
}

/// A value in its own unit: time as a duration, bytes as a size, anything else as a count with its unit.
pub fn value_with_unit(value: u64, value_type: &ValueType) -> String {
    match value_type.unit.as_str() {
        "nanoseconds" => duration(value),
        "bytes" => bytes(value),
        "count" => format!("{} {}", thousands(value), value_type.kind),
        unit => format!("{} {unit}", thousands(value)),
    }
}

fn trimmed(value: f64) -> String {
    let text = format!("{value:.1}");
    text.strip_suffix(".0").map(str::to_owned).unwrap_or(text)
}

fn pair(large: u64, large_unit: &str, small: u64, small_unit: &str) -> String {
    if small == 0 {
        format!("{large} {large_unit}")
    } else {
        format!("{large} {large_unit} {small} {small_unit}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_shares() {
        assert_eq!(thousands(0), "0");
        assert_eq!(thousands(999), "999");
        assert_eq!(thousands(3_012), "3 012");
        assert_eq!(thousands(12_345_678), "12 345 678");
        assert_eq!([percent(0.0), percent(0.01), percent(4.12)], ["0 %", "<0.1 %", "4.1 %"]);
    }

    #[test]
    fn sizes_and_times() {
        assert_eq!([bytes(100), bytes(1536), bytes(38 << 20)], ["100 B", "1.5 KiB", "38 MiB"]);
        assert_eq!(duration(30_000_000_000), "30 s");
        assert_eq!(duration(1_500_000_000), "1.5 s");
        assert_eq!(duration(59_990_000_000), "1 min");
        assert_eq!(duration(125_000_000_000), "2 min 5 s");
        assert_eq!(duration(5_400_000_000_000), "1 h 30 min");
        assert_eq!([duration(0), duration(800), duration(2_500)], ["0 s", "800 ns", "2.5 µs"]);
        assert_eq!(duration(u64::MAX), "5124095 h 34 min");
    }
}
