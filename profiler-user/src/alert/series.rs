//! What rules can look at of each kind of window: the value that functions have shares of, and sums and levels as a rate or a mean.

use crate::output::bytes;
use crate::quantity;

/// How a sum over a stretch of time is shown, and written as a level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Time by time: how many threads at a time.
    Threads,
    /// How many in a second.
    PerSecond,
    /// Bytes in a second.
    BytesPerSecond,
    /// A mean level.
    Count,
    /// A mean level of bytes.
    Bytes,
}

impl Unit {
    /// What a sum divided by nanoseconds is multiplied with.
    pub(super) fn per_nanosecond(self) -> f64 {
        match self {
            Self::Threads => 1.0,
            Self::PerSecond | Self::BytesPerSecond => 1e9,
            // Levels are kept as level × milliseconds.
            Self::Count | Self::Bytes => 1e6,
        }
    }

    /// A level as people write it.
    pub(super) fn level(self, text: &str) -> Result<f64, String> {
        if matches!(self, Self::Bytes | Self::BytesPerSecond) {
            return match quantity::amount(text.trim().trim_end_matches("/s")) {
                Ok(bytes) if bytes > 0 => Ok(bytes as f64),
                _ => Err(format!("`{text}` is not a number of bytes; examples: 512K, 10M, 2G")),
            };
        }
        match text.trim().trim_end_matches("/s").parse::<f64>() {
            Ok(number) if number > 0.0 && number.is_finite() => Ok(number),
            _ => Err(format!("`{text}` is not a number; examples: 0.5, 20, 1000")),
        }
    }

    /// A value for people.
    pub(super) fn shown(self, value: f64) -> String {
        let sign = if value < 0.0 { "-" } else { "" };
        let number = value.abs();
        match self {
            Self::Threads => format!("{sign}{number:.2} threads"),
            Self::PerSecond => format!("{sign}{number:.1} a second"),
            Self::Count => format!("{sign}{number:.1}"),
            Self::BytesPerSecond => format!("{sign}{} a second", bytes(number as u64)),
            Self::Bytes => format!("{sign}{}", bytes(number as u64)),
        }
    }
}

/// A value of one kind of windows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Series {
    /// The kind of windows, as in `--type`.
    pub profile_type: &'static str,
    /// Kind of the value in them.
    pub kind: &'static str,
    /// What it is, for people.
    pub what: &'static str,
    /// How it is shown.
    pub unit: Unit,
    /// Whether it was counted one by one, not sampled: nothing of it is left to chance.
    pub is_exact: bool,
}

const fn sampled(profile_type: &'static str, kind: &'static str, what: &'static str, unit: Unit) -> Series {
    Series { profile_type, kind, what, unit, is_exact: false }
}

const fn exact(kind: &'static str, what: &'static str, unit: Unit) -> Series {
    Series { profile_type: "resources", kind, what, unit, is_exact: true }
}

/// All of them; of each kind of windows with stacks the first is that of which functions have shares.
const ALL: [Series; 17] = [
    sampled("off-cpu", "off_cpu", "blocked time", Unit::Threads),
    sampled("off-cpu", "run_queue", "time in the run queue", Unit::Threads),
    sampled("off-cpu", "waits", "waits", Unit::PerSecond),
    sampled("memory", "resident", "memory that became resident", Unit::BytesPerSecond),
    sampled("syscalls", "syscall_time", "time in system calls", Unit::Threads),
    sampled("syscalls", "calls", "system calls", Unit::PerSecond),
    sampled("syscalls", "errors", "failed system calls", Unit::PerSecond),
    sampled("alloc", "alloc_space", "allocated memory", Unit::BytesPerSecond),
    sampled("alloc", "alloc_objects", "allocations", Unit::PerSecond),
    sampled("alloc", "freed_space", "freed memory", Unit::BytesPerSecond),
    sampled("alloc", "freed_objects", "freed allocations", Unit::PerSecond),
    exact("resident", "resident memory", Unit::Bytes),
    exact("cpu", "CPU time", Unit::Threads),
    exact("read", "bytes read from storage", Unit::BytesPerSecond),
    exact("written", "bytes written to storage", Unit::BytesPerSecond),
    exact("threads", "threads", Unit::Count),
    exact("descriptors", "open files", Unit::Count),
];

/// The one of this name.
///
/// # Errors
///
/// There is none: says which there are.
pub(super) fn named(profile_type: &str, kind: &str) -> Result<Series, String> {
    let of_type = || ALL.iter().filter(|series| series.profile_type == profile_type);
    of_type().find(|series| series.kind == kind).copied().ok_or_else(|| {
        let known: Vec<&str> = of_type().map(|series| series.kind).collect();
        format!("{profile_type} has no series `{kind}`; it has {}", known.join(", "))
    })
}

/// That of which functions have shares: `futex` of the time in system calls.
///
/// # Errors
///
/// Windows of this kind have no stacks.
pub(super) fn of_functions(profile_type: &str) -> Result<Series, String> {
    let found = ALL.iter().find(|series| series.profile_type == profile_type && !series.is_exact);
    found.copied().ok_or_else(|| format!("{profile_type} has no functions, only series"))
}

/// Whether windows of this kind are known here.
pub(super) fn is_known(profile_type: &str) -> bool {
    profile_type == super::past::CPU || ALL.iter().any(|series| series.profile_type == profile_type)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_read_and_shown_in_their_unit() {
        let near = |a: f64, b: f64| (a - b).abs() < 1e-9;
        assert!(near(Unit::Bytes.level("2K").unwrap(), 2048.0));
        assert!(near(Unit::BytesPerSecond.level("1M/s").unwrap(), 1_048_576.0));
        assert!(near(Unit::PerSecond.level("1000/s").unwrap(), 1_000.0));
        assert!(near(Unit::Threads.level("0.5").unwrap(), 0.5));
        for (unit, text) in
            [(Unit::Bytes, "much"), (Unit::Bytes, "0"), (Unit::Count, "-1"), (Unit::Count, "inf")]
        {
            assert!(unit.level(text).is_err(), "{text}");
        }
        assert_eq!(Unit::BytesPerSecond.shown(-2048.0), "-2.0 KiB a second");
        assert_eq!(Unit::Threads.shown(1.5), "1.50 threads");
    }

    #[test]
    fn what_is_missing_says_what_there_is() {
        assert!(named("memory", "rss").unwrap_err().contains("it has resident"));
        assert!(of_functions("resources").unwrap_err().contains("only series"));
        assert_eq!(of_functions("syscalls").unwrap().kind, "syscall_time");
        assert_eq!(of_functions("alloc").unwrap().kind, "alloc_space");
        assert!(is_known("cpu") && is_known("resources") && !is_known("wall"));
    }
}
