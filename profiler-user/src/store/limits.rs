//! How much is kept, and the count of what was not.

use std::time::Duration;

use super::Level;

/// How much a store keeps, and how finely.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of all files together. Never exceeded: the oldest file goes first.
    pub max_bytes: u64,
    /// Files whose last window is older than this are removed.
    pub max_age: Duration,
    /// Windows stay as they were recorded for at least this long; then they are merged to one minute.
    pub recorded_for: Duration,
    /// Windows of one minute stay for at least this long; then they are merged to ten.
    pub minutes_for: Duration,
    /// Length of the stretch of time that one file holds: the unit of removing and merging, and the most that damage to a file can cost.
    pub file_span: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_bytes: 1 << 30,
            max_age: Duration::from_hours(14 * 24),
            recorded_for: Duration::from_hours(1),
            minutes_for: Duration::from_hours(24),
            file_span: Duration::from_mins(30),
        }
    }
}

/// Smallest file at which the next one begins.
const LEAST_FILE_BYTES: u64 = 4 << 10;

/// Largest file at which the next one begins: it is read whole.
const MOST_FILE_BYTES: u64 = 16 << 20;

impl Limits {
    /// Bytes after which the next file begins, where all may have `room_bytes` together: small enough that dropping one leaves most of the history.
    pub(super) fn file_bytes(&self, room_bytes: u64) -> u64 {
        (self.max_bytes.min(room_bytes) / 16).clamp(LEAST_FILE_BYTES, MOST_FILE_BYTES)
    }

    /// How long windows of a level stay, nanoseconds.
    pub(super) fn kept_ns(&self, level: Level) -> u64 {
        let kept = match level {
            Level::Recorded => self.recorded_for,
            Level::Minute => self.minutes_for,
            Level::TenMinutes => self.max_age,
        };
        nanoseconds(kept)
    }
}

/// A duration as the store counts it.
pub(super) fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Files that were removed for one reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Loss {
    /// Files.
    pub files: u64,
    /// Windows in them, as they were recorded.
    pub windows: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What a store dropped since it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Losses {
    /// Older than [`Limits::max_age`]: as it should be.
    pub by_age: Loss,
    /// More than [`Limits::max_bytes`].
    pub by_size: Loss,
    /// The file system had no room left.
    pub disk_full: Loss,
    /// Windows that were not stored at all: there was no room, and nothing left to drop.
    pub not_stored: u64,
    /// Merges that failed and will be tried again; nothing is lost by it but room.
    pub failed_merges: u64,
}
