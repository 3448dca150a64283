//! Two profiles, and what changed between them.

use clap::Args;

use super::rows::Column;
use super::{Refusal, parse_percent, value_index};
use crate::profile::Profile;
use crate::report::{Changes, SortBy, changes};

/// How to compare.
#[derive(Debug, Clone, Args)]
pub(crate) struct CompareArgs {
    /// Compare the function's own cost, or with everything it calls
    #[arg(long, value_enum, value_name = "COLUMN", default_value_t)]
    sort: Column,
    /// Rows to show
    #[arg(short = 'T', long, value_name = "ROWS", default_value_t = 20)]
    pub(crate) top: usize,
    /// Leave out changes of less than so many percentage points
    #[arg(long, value_name = "POINTS", value_parser = parse_percent, default_value = "0.1")]
    pub(crate) min_percent: f64,
    /// Which of the profile's values to compare, such as samples or cpu [default: the last one]
    #[arg(long, value_name = "KIND")]
    value: Option<String>,
}

impl CompareArgs {
    /// By which cost.
    pub(crate) fn sort(&self) -> SortBy {
        self.sort.into()
    }

    /// What changed.
    ///
    /// # Errors
    ///
    /// The two have no value in common that could be compared.
    pub(crate) fn changes<'p>(
        &self,
        before: &'p Profile,
        after: &'p Profile,
    ) -> Result<Changes<'p>, Refusal> {
        let value = |profile| -> Result<usize, Refusal> {
            Ok(value_index(profile, self.value.as_deref())?.unwrap_or(profile.default_value()))
        };
        let values = [value(before)?, value(after)?];
        if before.value_types.get(values[0]) != after.value_types.get(values[1]) {
            return Err(Refusal::usage(
                "the two stretches of time measured different things; name one that both have with --value",
            ));
        }
        Ok(changes([before, after], values, self.sort()))
    }
}
