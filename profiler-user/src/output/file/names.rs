//! File names: the default one, and placeholders in those that the user gives.

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::FileError;

/// Longest part of a file name that comes from a target, in characters.
const LONGEST_PART: usize = 48;

/// What a name can be made from. All of it is made safe for a file name when it is used.
#[derive(Debug, Clone, Default)]
pub struct NameParts {
    /// The target for default names: `nginx-4242`, or the host's name.
    pub slug: String,
    /// Process ID (`%p`); `all` when there is not one.
    pub pid: Option<u32>,
    /// Command name (`%c`).
    pub comm: String,
    /// Host name (`%h`).
    pub host: String,
    /// Profile type (`%m`): `cpu`.
    pub mode: String,
    /// When the recording began, nanoseconds since the Unix epoch (`%t`, in local time).
    pub start_unix_ns: u64,
    /// Number of the recording when there are several (`%n`), from 1.
    pub number: u32,
}

/// `perf-agent-nginx-4242-cpu-20260101T120000`: the default name without its extension.
pub fn default_stem(parts: &NameParts) -> String {
    let mut stem = String::from("perf-agent");
    for part in [safe(&parts.slug), safe(&parts.mode), time(parts.start_unix_ns, &TimeZone::system())] {
        if !part.is_empty() {
            stem.push('-');
            stem.push_str(&part);
        }
    }
    stem
}

/// Fills in the placeholders of a name.
pub(super) fn expand(name: &str, parts: &NameParts) -> Result<String, FileError> {
    let mut out = String::with_capacity(name.len());
    let mut chars = name.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('p') => out.push_str(&parts.pid.map_or_else(|| "all".to_owned(), |pid| pid.to_string())),
            Some('c') => out.push_str(&safe(&parts.comm)),
            Some('h') => out.push_str(&safe(&parts.host)),
            Some('m') => out.push_str(&safe(&parts.mode)),
            Some('t') => out.push_str(&time(parts.start_unix_ns, &TimeZone::system())),
            Some('n') => out.push_str(&parts.number.to_string()),
            Some('%') => out.push('%'),
            other => {
                return Err(FileError::Placeholder {
                    name: name.to_owned(),
                    placeholder: other.map(String::from).unwrap_or_default(),
                });
            }
        }
    }
    Ok(out)
}

/// A name from a target as part of a file name: no separators, no spaces, nothing a shell or `ls` trips over, and
/// no leading dot or dash.
fn safe(raw: &str) -> String {
    let keep = |c: char| if c.is_ascii_alphanumeric() || "._+-".contains(c) { c } else { '_' };
    let name: String = raw.chars().take(LONGEST_PART).map(keep).collect();
    name.trim_start_matches(['.', '-']).to_owned()
}

fn time(unix_ns: u64, zone: &TimeZone) -> String {
    let timestamp = Timestamp::from_nanosecond(i128::from(unix_ns)).unwrap_or_default();
    timestamp.to_zoned(zone.clone()).strftime("%Y%m%dT%H%M%S").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts() -> NameParts {
        NameParts {
            slug: "../we b\n-7".into(),
            pid: Some(7),
            comm: "-we/b".into(),
            host: "db".into(),
            mode: "cpu".into(),
            start_unix_ns: 1_767_268_800_000_000_000,
            number: 3,
        }
    }

    #[test]
    fn default_names_hold_nothing_dangerous() {
        let stem = default_stem(&parts());
        assert!(stem.starts_with("perf-agent-_we_b_-7-cpu-2026"), "{stem}");
        assert_eq!(time(parts().start_unix_ns, &TimeZone::UTC), "20260101T120000");
    }

    #[test]
    fn placeholders() {
        let name = expand("/tmp/%c-%p-%h-%m-%n-100%%.svg", &parts()).unwrap();
        assert_eq!(name, "/tmp/we_b-7-db-cpu-3-100%.svg");
        assert_eq!(expand("%p", &NameParts::default()).unwrap(), "all");
        for wrong in ["%x.svg", "50%"] {
            assert!(matches!(expand(wrong, &parts()), Err(FileError::Placeholder { .. })), "{wrong}");
        }
    }
}
