//! Whether the live bytes of a site grow, how fast, and how sure that is.
//!
//! In: what was seen of a site's blocks ([`crate::profile::LeakSums`]). Out: a [`Finding`]. Pure.

mod growth;
#[cfg(test)]
pub(crate) mod random;
mod survival;
mod trend;
mod verdict;

pub use growth::compare_with_growth;
pub use survival::{Survival, survival};
pub use trend::{Trend, trend};
pub use verdict::{Finding, Verdict, judge, sure_of_order};
