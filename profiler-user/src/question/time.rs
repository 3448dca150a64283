//! Moments as people type them: `now`, `-1h`, RFC 3339, Unix seconds; and stretches of time between two of them.

use std::ops::Range;
use std::time::Duration;

use jiff::Timestamp;

use crate::quantity::{Length, length};

/// A moment, before it is known when "now" is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    /// So long before now.
    Ago(Duration),
    /// Nanoseconds since the Unix epoch.
    At(u64),
}

/// Reads a moment.
///
/// # Errors
///
/// Says what was found and what is understood.
pub(crate) fn moment(text: &str) -> Result<Moment, String> {
    let wrong = || {
        format!(
            "`{text}` is not a time; examples: now, -1h, -90s, 2026-01-31T08:00:00Z, 1767268800 (Unix seconds)"
        )
    };
    if text == "now" {
        return Ok(Moment::Ago(Duration::ZERO));
    }
    if let Some(ago) = text.strip_prefix('-') {
        return match length(ago) {
            Ok(Length::For(duration)) => Ok(Moment::Ago(duration)),
            Ok(Length::Unlimited) | Err(_) => Err(wrong()),
        };
    }
    if let Ok(seconds) = text.parse::<u64>() {
        return seconds.checked_mul(1_000_000_000).map(Moment::At).ok_or_else(wrong);
    }
    let parsed: Timestamp = text.parse().map_err(|_| wrong())?;
    u64::try_from(parsed.as_nanosecond()).map(Moment::At).map_err(|_| wrong())
}

/// Reads `FROM..TO`.
///
/// # Errors
///
/// Says what was found and what is understood.
pub(crate) fn stretch(text: &str) -> Result<(Moment, Moment), String> {
    let (from, to) = text
        .split_once("..")
        .ok_or_else(|| format!("`{text}` is not a stretch of time; examples: -2h..-1h, -1h..now"))?;
    Ok((moment(from)?, moment(to)?))
}

/// The stretch between two moments, nanoseconds since the Unix epoch.
///
/// # Errors
///
/// The first one is not before the second.
pub(crate) fn between(from: Moment, to: Moment, now_ns: u64) -> Result<Range<u64>, String> {
    let at = |moment| match moment {
        Moment::Ago(ago) => now_ns.saturating_sub(u64::try_from(ago.as_nanos()).unwrap_or(u64::MAX)),
        Moment::At(at) => at,
    };
    let (from, to) = (at(from), at(to));
    if from >= to {
        return Err(format!(
            "the time asked for begins at {} and ends at {}, which is not later",
            shown(from),
            shown(to)
        ));
    }
    Ok(from..to)
}

/// A moment as [`moment`] reads it again.
impl std::fmt::Display for Moment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ago(Duration::ZERO) => f.write_str("now"),
            Self::Ago(ago) => write!(f, "-{}ns", ago.as_nanos()),
            Self::At(at) => match Timestamp::from_nanosecond(i128::from(*at)) {
                Ok(time) => time.fmt(f),
                Err(_) => write!(f, "{}", at / 1_000_000_000),
            },
        }
    }
}

/// A moment for people: RFC 3339 without parts of seconds, in UTC.
pub(crate) fn shown(unix_ns: u64) -> String {
    let seconds = i64::try_from(unix_ns / 1_000_000_000).unwrap_or(i64::MAX);
    Timestamp::from_second(seconds).map_or_else(|_| format!("second {seconds}"), |time| time.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_as_people_type_them() {
        let hour = Duration::from_hours(1);
        assert_eq!(moment("-1h"), Ok(Moment::Ago(hour)));
        assert_eq!(moment("-3600"), Ok(Moment::Ago(hour)));
        assert_eq!(moment("now"), Ok(Moment::Ago(Duration::ZERO)));
        assert_eq!(moment("1767268800"), Ok(Moment::At(1_767_268_800_000_000_000)));
        assert_eq!(moment("2026-01-01T12:00:00Z"), moment("1767268800"));
        assert_eq!(moment("2026-01-01T13:00:00+01:00"), moment("1767268800"));
        assert_eq!(stretch("-2h..-1h"), Ok((Moment::Ago(2 * hour), Moment::Ago(hour))));
        assert_eq!(shown(1_767_268_800_500_000_000), "2026-01-01T12:00:00Z");
        for wrong in [
            "",
            "-",
            "-inf",
            "yesterday",
            "-1x",
            "2026-13-01T00:00:00Z",
            "99999999999999",
            "1969-01-01T00:00:00Z",
        ] {
            assert!(moment(wrong).is_err(), "{wrong}");
        }
        assert!(stretch("-1h").is_err() && stretch("..now").is_err());
    }

    #[test]
    fn what_is_shown_of_a_moment_is_read_as_the_same() {
        for text in ["now", "-1h", "-1500ms", "2026-01-31T08:00:00.5Z", "1767268800"] {
            let read = moment(text).unwrap();
            assert_eq!(moment(&read.to_string()), Ok(read), "{text}: {read}");
        }
    }

    #[test]
    fn a_stretch_has_a_length() {
        let ago = |seconds| Moment::Ago(Duration::from_secs(seconds));
        let now = 100_000_000_000;
        assert_eq!(between(ago(60), ago(0), now), Ok(40_000_000_000..now));
        assert!(between(ago(0), ago(60), now).is_err() && between(ago(5), ago(5), now).is_err());
        assert_eq!(between(ago(1_000), Moment::At(7), now), Ok(0..7));
    }
}
