//! Alerts: rules on shares and sums of profiles, looked at with each window that is closed.
//!
//! In: windows, and the store for what was before. Out: words in the log, lines in a file, and Alertmanager's JSON at webhooks. What samples cannot
//! tell apart from noise raises nothing: a rule speaks when the end of an interval is beyond its limit, not when a value is.
//!
//! ```text
//! window ─► measure (part of a whole) ─► history ─► judge (bound against level or baseline) ─► engine (hold, raise, end) ─► target, deliver
//!                                          store ─► past ──┘
//! ```

mod bound;
mod check;
mod deliver;
mod engine;
mod history;
mod judge;
mod measure;
mod past;
mod rule;
mod series;
#[cfg(test)]
mod simulation;
mod target;
mod watch;

pub use check::{Replayed, Tried, replay, try_targets};
pub use judge::Missing;
pub use rule::{Baseline, Condition, Measure, Rule};
pub use series::{Series, Unit};
pub use target::Alerts;
pub(crate) use watch::Watch;
