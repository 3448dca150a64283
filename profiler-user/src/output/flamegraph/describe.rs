//! Titles: what was recorded, in words that fit above a picture or a table.

use crate::output::numbers::{duration, percent, thousands};
use crate::profile::Profile;

/// Title of a picture of `profile`: `CPU flame graph`.
pub fn title_of(profile: &Profile) -> String {
    match profile.meta.profile_type.as_str() {
        "" => "Flame graph".to_owned(),
        "cpu" => "CPU flame graph".to_owned(),
        "off-cpu" => "Off-CPU flame graph".to_owned(),
        "wall" => "Wall-clock flame graph".to_owned(),
        other => {
            let mut letters = other.chars();
            let first = letters.next().map(|c| c.to_uppercase().to_string()).unwrap_or_default();
            format!("{first}{} flame graph", letters.as_str())
        }
    }
}

/// Subtitle of a picture: target, clock, rate, duration, samples, and the quality in short.
pub fn subtitle_of(profile: &Profile) -> String {
    let quality = &profile.quality;
    let mut parts = Vec::new();
    if !profile.meta.target.is_empty() {
        parts.push(profile.meta.target.clone());
    }
    parts.extend(describe_recording(profile));
    parts.push(format!("{} {}", thousands(quality.samples), quality.counted()));
    parts.push(format!("{} lost", thousands(quality.lost_total())));
    parts.push(format!("{} truncated", percent(quality.cut_short_percent())));
    parts.push(format!("{} unknown", percent(quality.unknown_percent())));
    parts.join(" · ")
}

/// How the recording was made, in parts: clock and rate, duration, restrictions. Unknown parts are left out.
pub fn describe_recording(profile: &Profile) -> Vec<String> {
    let meta = &profile.meta;
    let mut parts = Vec::new();
    match (meta.clock.as_str(), meta.frequency_hz, meta.period) {
        ("", 0, _) => {}
        ("", hz, _) => parts.push(format!("{hz} Hz")),
        (clock, 0, 0) => parts.push(clock.to_owned()),
        (clock, 0, period) => parts.push(format!("{clock} every {}", thousands(period))),
        (clock, hz, _) => parts.push(format!("{clock} {hz} Hz")),
    }
    if meta.duration_ns > 0 {
        parts.push(duration(meta.duration_ns));
    }
    parts.extend(meta.scope_notes.iter().cloned());
    parts
}
