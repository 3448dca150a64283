//! Tables of functions: which one, and how much of it.

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::{Refusal, parse_percent};
use crate::output::{hotspots_json, neighbours_json};
use crate::profile::Profile;
use crate::report::{Detail, Hotspots, Neighbours, Side, SortBy, hotspots, neighbours};

/// Which table to show, and how much of it.
#[derive(Debug, Clone, Args)]
pub(crate) struct RowsArgs {
    /// Sort by the function's own cost, or with everything it calls [default: self; allocations and leaks by site]
    #[arg(long, value_enum, value_name = "COLUMN")]
    sort: Option<Column>,
    /// Show who calls this function (a part of its name is enough)
    #[arg(long, value_name = "FUNCTION")]
    callers: Option<String>,
    /// Show what this function calls
    #[arg(long, value_name = "FUNCTION")]
    callees: Option<String>,
    /// Steps to follow with --callers and --callees
    #[arg(long, value_name = "STEPS", default_value_t = 8, value_parser = clap::value_parser!(u8).range(1..=64))]
    depth: u8,
    /// Split functions by source line
    #[arg(long)]
    lines: bool,
    /// Rows to show
    #[arg(short = 'T', long, value_name = "ROWS", default_value_t = 20)]
    pub(crate) top: usize,
    /// Leave out what is below this share of the whole
    #[arg(long, value_name = "PERCENT", value_parser = parse_percent)]
    pub(crate) min_percent: Option<f64>,
    /// Which of the profile's values to show, such as samples or cpu [default: the last one]
    #[arg(long, value_name = "KIND")]
    value: Option<String>,
}

/// By which cost a table is ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Column {
    /// Cost of the function's own code
    #[default]
    #[value(name = "self")]
    Own,
    /// Cost with everything it calls
    Total,
}

impl From<Column> for SortBy {
    fn from(column: Column) -> Self {
        match column {
            Column::Own => Self::Own,
            Column::Total => Self::Total,
        }
    }
}

impl RowsArgs {
    /// Index of the value to show.
    pub(crate) fn value(&self, profile: &Profile) -> Result<usize, Refusal> {
        Ok(value_index(profile, self.value.as_deref())?.unwrap_or(profile.default_value()))
    }

    /// Callers and callees, where they are asked for.
    pub(crate) fn neighbours<'p>(&self, profile: &'p Profile) -> anyhow::Result<Vec<Neighbours<'p>>> {
        let value = self.value(profile)?;
        let questions = [(Side::Callers, self.callers.as_deref()), (Side::Callees, self.callees.as_deref())];
        let asked = questions.into_iter().filter_map(|(side, name)| name.map(|name| (side, name)));
        asked
            .map(|(side, name)| Ok(neighbours(profile, value, name, side, usize::from(self.depth))?))
            .collect()
    }

    /// The table of functions.
    pub(crate) fn hotspots<'p>(&self, profile: &'p Profile) -> Result<Hotspots<'p>, Refusal> {
        let detail = if self.lines { Detail::Line } else { Detail::Function };
        Ok(hotspots(profile, self.value(profile)?, detail, self.sort.unwrap_or_default().into()))
    }

    /// Whether something is asked that only a table by function answers.
    pub(crate) fn is_by_function(&self) -> bool {
        self.lines || self.sort.is_some() || self.value.is_some() || self.min_percent.is_some()
    }

    /// What is asked for, as JSON: one table, or one answer for callers and one for callees.
    pub(crate) fn json(&self, profile: &Profile) -> anyhow::Result<Vec<Value>> {
        let value = self.value(profile)?;
        let answers = self.neighbours(profile)?;
        if answers.is_empty() {
            let table = self.hotspots(profile)?;
            return Ok(vec![hotspots_json(profile, &table, self.top)]);
        }
        Ok(answers.iter().map(|found| json!(neighbours_json(profile, found, value))).collect())
    }
}

/// Which of the profile's values a name means.
pub(crate) fn value_index(profile: &Profile, wanted: Option<&str>) -> Result<Option<usize>, Refusal> {
    let Some(wanted) = wanted else { return Ok(None) };
    let found = profile.value_types.iter().position(|value| value.kind == wanted);
    let known: Vec<&str> = profile.value_types.iter().map(|value| &*value.kind).collect();
    found.map(Some).ok_or_else(|| {
        Refusal::usage(format!("this profile has no value {wanted:?}; it has {}", known.join(", ")))
    })
}
