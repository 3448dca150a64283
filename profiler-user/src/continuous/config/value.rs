//! Values of the configuration file: read with their limits, so that an error points at the line.

use std::path::PathBuf;
use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use crate::continuous::Rule;
use crate::quantity;

/// Highest rate, samples per second and CPU: what the kernel allows unless told otherwise (`kernel.perf_event_max_sample_rate`) is far above it.
const MOST_HZ: i64 = 4000;
/// Bounds of a window. Shorter ones cost more than they show.
const WINDOW: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(10));
/// Processes whose allocations may be recorded at once: each has up to forty probes.
const MOST_PROCESSES: i64 = 16;
/// Least size of a store: some windows of a busy host.
const LEAST_STORE_BYTES: u64 = 1 << 20;

/// A rate, Hz.
pub(super) fn rate<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    let asked = i64::deserialize(from)?;
    match u64::try_from(asked) {
        Ok(hz) if (1..=MOST_HZ).contains(&asked) => Ok(Some(hz)),
        _ => Err(D::Error::custom(format!("{asked} samples a second; it must be between 1 and {MOST_HZ}"))),
    }
}

/// How many processes.
pub(super) fn processes<'de, D: Deserializer<'de>>(from: D) -> Result<Option<usize>, D::Error> {
    let asked = i64::deserialize(from)?;
    match usize::try_from(asked) {
        Ok(count) if (1..=MOST_PROCESSES).contains(&asked) => Ok(Some(count)),
        _ => Err(D::Error::custom(format!("{asked} processes; it must be between 1 and {MOST_PROCESSES}"))),
    }
}

/// Length of a window.
pub(super) fn window<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    let length = span_of(from)?;
    if length < WINDOW.0 || length > WINDOW.1 {
        return Err(D::Error::custom("a window must be between 1 s and 10 min long"));
    }
    Ok(Some(length))
}

/// A length of time.
pub(super) fn span<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    span_of(from).map(Some)
}

fn span_of<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    quantity::span(&String::deserialize(from)?).map(Duration::from_nanos).map_err(D::Error::custom)
}

/// A share of the machine.
pub(super) fn share<'de, D: Deserializer<'de>>(from: D) -> Result<Option<f64>, D::Error> {
    quantity::share(&String::deserialize(from)?).map(Some).map_err(D::Error::custom)
}

/// Memory for unwind tables, bytes.
pub(super) fn table_size<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    let text = String::deserialize(from)?;
    quantity::size(&text).map(Some).map_err(|error| D::Error::custom(format!("`{text}`: {error}")))
}

/// Mean bytes between two blocks that are followed; one follows all.
pub(super) fn sample_size<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    let text = String::deserialize(from)?;
    match quantity::amount(&text) {
        Ok(bytes) if bytes > 0 => Ok(Some(bytes)),
        Ok(_) => Err(D::Error::custom(format!("`{text}`: it must be at least 1, which follows every block"))),
        Err(error) => Err(D::Error::custom(format!("`{text}`: {error}"))),
    }
}

/// Bytes on disk.
pub(super) fn store_size<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    let text = String::deserialize(from)?;
    match quantity::amount(&text) {
        Ok(bytes) if bytes >= LEAST_STORE_BYTES => Ok(Some(bytes)),
        Ok(_) => Err(D::Error::custom(format!("`{text}`: a store must be at least 1M large"))),
        Err(error) => Err(D::Error::custom(format!("`{text}`: {error}"))),
    }
}

/// A folder.
pub(super) fn folder<'de, D: Deserializer<'de>>(from: D) -> Result<Option<PathBuf>, D::Error> {
    let path = PathBuf::deserialize(from)?;
    if !path.is_absolute() {
        return Err(D::Error::custom(format!("`{}`: the path must be absolute", path.display())));
    }
    Ok(Some(path))
}

/// Rules of a filter.
pub(super) fn rules<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Vec<Rule>>, D::Error> {
    let texts = Vec::<String>::deserialize(from)?;
    let rules: Result<Vec<Rule>, String> = texts.iter().map(|text| Rule::parse(text)).collect();
    rules.map(Some).map_err(D::Error::custom)
}
