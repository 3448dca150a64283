//! The kernel's release, as a number to compare and as text to show.

use super::super::read;

/// A kernel release such as `6.1.0-18-amd64`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    /// Version, patch level and sublevel. The sublevel is zero where a distribution leaves it out.
    pub version: (u32, u32, u32),
    /// The whole text, as `uname -r` prints it.
    pub text: String,
}

impl Release {
    /// Parses `6.1.0-18-amd64`, `6.12-rc3`, `5.15.0+`. None when it does not start with two numbers.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let mut parts = text.splitn(3, '.');
        let version = leading_number(parts.next()?)?;
        let patch_level = leading_number(parts.next()?)?;
        let sublevel = parts.next().and_then(leading_number).unwrap_or(0);
        Some(Self { version: (version, patch_level, sublevel), text: crate::profile::clean(text.as_bytes()) })
    }

    /// The running kernel's release.
    pub fn gather() -> Option<Self> {
        Self::parse(&read::line("/proc/sys/kernel/osrelease")?)
    }

    /// True for this version and later ones.
    pub fn at_least(&self, version: u32, patch_level: u32) -> bool {
        (self.version.0, self.version.1) >= (version, patch_level)
    }
}

fn leading_number(text: &str) -> Option<u32> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text.get(..digits)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_of_distributions_are_read() {
        for (text, version) in [
            ("6.1.0-18-amd64", (6, 1, 0)),
            ("6.18.44-fc-v595\n", (6, 18, 44)),
            ("6.12-rc3", (6, 12, 0)),
            ("5.15.0+", (5, 15, 0)),
            ("4.18.0-553.el8.x86_64", (4, 18, 0)),
        ] {
            assert_eq!(Release::parse(text).map(|release| release.version), Some(version), "{text}");
        }
        assert_eq!(Release::parse("linux"), None);
        assert_eq!(Release::parse("6"), None);
    }

    #[test]
    fn versions_compare_by_number() {
        let kernel = Release::parse("5.10.0").unwrap();
        assert!(
            kernel.at_least(5, 8)
                && kernel.at_least(4, 19)
                && !kernel.at_least(5, 11)
                && !kernel.at_least(6, 0)
        );
    }
}
