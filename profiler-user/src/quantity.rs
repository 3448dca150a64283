//! Durations as people type them: `30`, `500ms`, `5m`, `1h30m`, `inf`.

use std::time::Duration;

/// How long a recording runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Length {
    /// This long.
    For(Duration),
    /// Until it is interrupted.
    Unlimited,
}

/// Longest recording with an end: a year. Past it, somebody mistyped a unit.
const LONGEST: Duration = Duration::from_hours(8784);

/// Reads a duration. A bare number is seconds; `0` and `inf` mean until interrupted.
///
/// # Errors
///
/// Says what was found and what is understood.
pub(crate) fn length(text: &str) -> Result<Length, String> {
    if matches!(text, "inf" | "0") {
        return Ok(Length::Unlimited);
    }
    let wrong = || format!("`{text}` is not a duration; examples: 30 (seconds), 500ms, 30s, 5m, 1h30m, inf");
    if let Ok(seconds) = text.parse::<f64>() {
        let duration = Duration::try_from_secs_f64(seconds).map_err(|_| wrong())?;
        return bounded(text, duration);
    }
    bounded(text, with_units(text).ok_or_else(wrong)?)
}

/// `1h30m`, `500ms`: numbers with units, added up.
fn with_units(text: &str) -> Option<Duration> {
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let (number, tail) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit() && c != '.')?);
        let (unit, tail) = tail.split_at(tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len()));
        let number: f64 = number.parse().ok()?;
        let unit_seconds = match unit {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" | "sec" => 1.0,
            "m" | "min" => 60.0,
            "h" => 3600.0,
            "d" => 86400.0,
            _ => return None,
        };
        total = total.checked_add(Duration::try_from_secs_f64(number * unit_seconds).ok()?)?;
        rest = tail;
    }
    (!text.is_empty()).then_some(total)
}

/// Reads a length of a wait, nanoseconds: `1us`, `5ms`, `2s`. A bare number has no usual unit here, so it is refused.
///
/// # Errors
///
/// Says what was found and what is understood.
pub(crate) fn span(text: &str) -> Result<u64, String> {
    let duration = with_units(text).filter(|duration| *duration <= LONGEST);
    let duration =
        duration.ok_or_else(|| format!("`{text}` is not a length of time; examples: 1us, 5ms, 2s"))?;
    Ok(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX))
}

/// Reads a share in percent, as a fraction: `1%`, `0.5`.
///
/// # Errors
///
/// Says what was found and what is understood.
pub(crate) fn share(text: &str) -> Result<f64, String> {
    let number = text.trim().trim_end_matches('%').trim_end().parse::<f64>().ok();
    match number {
        Some(percent) if percent > 0.0 && percent <= 100.0 => Ok(percent / 100.0),
        _ => Err(format!("`{text}` is not a share; examples: 1%, 0.5%, 10%")),
    }
}

fn bounded(text: &str, duration: Duration) -> Result<Length, String> {
    if duration.is_zero() {
        return Err(format!("`{text}` is no time at all; to record until Ctrl-C use -d inf"));
    }
    if duration > LONGEST {
        return Err(format!("`{text}` is more than a year; to record until Ctrl-C use -d inf"));
    }
    Ok(Length::For(duration))
}

/// Reads a list of numbers and ranges: `0-3,8`.
///
/// # Errors
///
/// Says what was found and what is understood.
pub(crate) fn number_list(text: &str) -> Result<Vec<u32>, String> {
    /// More CPUs than any kernel supports (`CONFIG_NR_CPUS` is at most 8192).
    const MOST: usize = 8192;
    let wrong = || format!("`{text}` is not a list of numbers; examples: 4, 0,2, 0-3,8");
    let mut numbers = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let first: u32 = first.trim().parse().map_err(|_| wrong())?;
        let last: u32 = last.trim().parse().map_err(|_| wrong())?;
        if last < first || (last - first) as usize >= MOST || numbers.len() > MOST {
            return Err(wrong());
        }
        numbers.extend(first..=last);
    }
    Ok(numbers)
}

/// Least size that [`size`] takes: one slab of unwind rows.
const LEAST_SIZE: u64 = 256 << 10;
/// Largest: what the kernel side has room for.
const LARGEST_SIZE: u64 = 64 << 20;

/// An amount of memory: a number with K, M or G (powers of 1024).
///
/// # Errors
///
/// Not a size, or outside of what unwind tables can use.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    match amount(text) {
        Ok(bytes) if (LEAST_SIZE..=LARGEST_SIZE).contains(&bytes) => Ok(bytes),
        Ok(_) => Err("must be between 256K and 64M".to_owned()),
        Err(error) => Err(error),
    }
}

/// A number of bytes, with K, M or G (powers of 1024) or without.
///
/// # Errors
///
/// Not a size.
pub(crate) fn amount(text: &str) -> Result<u64, String> {
    let trimmed = text.trim().trim_end_matches(['B', 'b']).trim_end_matches('i');
    let (digits, unit) = match trimmed.char_indices().last() {
        Some((at, 'K' | 'k')) => (&trimmed[..at], 1 << 10),
        Some((at, 'M' | 'm')) => (&trimmed[..at], 1 << 20),
        Some((at, 'G' | 'g')) => (&trimmed[..at], 1 << 30),
        _ => (trimmed, 1),
    };
    let bytes = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
    bytes.ok_or_else(|| "not a size; write it as 16M or 512K".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units_and_bounds() {
        assert_eq!((size("16M"), size("512K"), size("1MiB")), (Ok(16 << 20), Ok(512 << 10), Ok(1 << 20)));
        for wrong in ["", "M", "1.5M", "0", "64", "65M", "-1M", "16T", "99999999999999999999G"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn durations_as_people_type_them() {
        let millis = |text| match length(text) {
            Ok(Length::For(duration)) => duration.as_millis(),
            other => panic!("{text}: {other:?}"),
        };
        assert_eq!(millis("30"), 30_000);
        assert_eq!(millis("0.5"), 500);
        assert_eq!(millis("500ms"), 500);
        assert_eq!(millis("1h30m"), 5_400_000);
        assert_eq!(millis("1m30s"), 90_000);
        assert_eq!(length("inf"), Ok(Length::Unlimited));
        assert_eq!(length("0"), Ok(Length::Unlimited));
    }

    #[test]
    fn spans_need_a_unit_and_shares_are_percentages() {
        assert_eq!((span("1us"), span("1.5ms"), span("10ns")), (Ok(1_000), Ok(1_500_000), Ok(10)));
        assert_eq!((share("1%"), share("0.5"), share("100 %")), (Ok(0.01), Ok(0.005), Ok(1.0)));
        for wrong in ["", "5", "-1ms", "x"] {
            assert!(span(wrong).is_err(), "{wrong}");
        }
        for wrong in ["", "0", "-1%", "101%", "nan", "x%"] {
            assert!(share(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_no_duration_says_so() {
        for text in ["-1", "", "abc", "5x", "1e99", "nan", "s", "5 m", "-5s", "0ms", "10000d"] {
            assert!(length(text).is_err(), "{text}");
        }
    }

    #[test]
    fn lists_of_cpus() {
        assert_eq!(number_list("0-2,8"), Ok(vec![0, 1, 2, 8]));
        for text in ["", "a", "3-1", "0-99999999", "1,,2", "-1"] {
            assert!(number_list(text).is_err(), "{text}");
        }
    }
}
