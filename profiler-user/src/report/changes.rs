//! What changed between two profiles: the share that each function has in one and in the other.

use std::collections::HashMap;

use super::{Detail, Function, Hotspots, SortBy, hotspots};
use crate::profile::Profile;

/// One function in both profiles. Shares are percent of the profile's total.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Change<'p> {
    /// Its name.
    pub name: &'p str,
    /// Short name of its object; empty for markers.
    pub module: &'p str,
    /// Share of its own code, before and after.
    pub own: [f64; 2],
    /// Share with everything it calls, before and after.
    pub total: [f64; 2],
    /// Half of the 95 % interval of the difference of the shares of its own code, percentage points, as far as sampling at random explains
    /// it; none where samples are not counted.
    pub own_error: Option<f64>,
    /// The same of the shares with everything it calls.
    pub total_error: Option<f64>,
}

impl Change<'_> {
    /// What changed by, percentage points, and the error of that.
    pub fn delta(&self, sort: SortBy) -> (f64, Option<f64>) {
        match sort {
            SortBy::Own => (self.own[1] - self.own[0], self.own_error),
            SortBy::Total => (self.total[1] - self.total[0], self.total_error),
        }
    }
}

/// All functions of two profiles, the largest change first.
#[derive(Debug, Clone)]
pub struct Changes<'p> {
    /// The functions.
    pub rows: Vec<Change<'p>>,
    /// By which share they are ordered.
    pub sort: SortBy,
    /// What shares refer to, before and after.
    pub totals: [u64; 2],
}

/// Compares one value of two profiles, given by its index in each.
pub fn changes<'p>(profiles: [&'p Profile; 2], values: [usize; 2], sort: SortBy) -> Changes<'p> {
    let tables: [Hotspots<'p>; 2] =
        [0, 1].map(|side| hotspots(profiles[side], values[side], Detail::Function, sort));
    let samples = profiles.map(samples_of);
    let mut by_function: HashMap<(&'p str, &'p str), [(u64, u64); 2]> = HashMap::new();
    for (side, table) in tables.iter().enumerate() {
        for row in &table.rows {
            let (name, module) = key(table.functions.get(row.function));
            let (own, total) = &mut by_function.entry((name, module)).or_default()[side];
            *own = own.saturating_add(row.own);
            *total = total.saturating_add(row.total);
        }
    }
    let totals = [tables[0].total, tables[1].total];
    let share = |part: u64, side: usize| part as f64 * 100.0 / totals[side].max(1) as f64;
    let mut rows: Vec<Change<'p>> = by_function
        .into_iter()
        .map(|((name, module), [before, after])| {
            let own = [share(before.0, 0), share(after.0, 1)];
            let total = [share(before.1, 0), share(after.1, 1)];
            let (own_error, total_error) = (error(own, samples), error(total, samples));
            Change { name, module, own, total, own_error, total_error }
        })
        .collect();
    rows.sort_by(|a, b| {
        let size = |change: &Change<'_>| change.delta(sort).0.abs();
        size(b).total_cmp(&size(a)).then_with(|| (a.name, a.module).cmp(&(b.name, b.module)))
    });
    Changes { rows, sort, totals }
}

fn key<'p>(function: &Function<'p>) -> (&'p str, &'p str) {
    (function.name, function.module)
}

/// Samples behind a profile's shares, where they are counted one by one.
fn samples_of(profile: &Profile) -> Option<u64> {
    let first = profile.value_types.first()?;
    (first.kind == "samples").then(|| profile.total(0)).filter(|samples| *samples > 0)
}

/// Half of the 95 % interval of the difference of two shares of random samples.
fn error(shares: [f64; 2], samples: [Option<u64>; 2]) -> Option<f64> {
    let variance = |side: usize| {
        let part = shares[side] / 100.0;
        samples[side].map(|samples| part * (1.0 - part) / samples as f64)
    };
    Some(1.96 * (variance(0)? + variance(1)?).sqrt() * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::fixture;

    #[test]
    fn a_profile_has_not_changed_from_itself() {
        let profile = fixture::hostile();
        let found = changes([&profile, &profile], [1, 1], SortBy::Own);
        let is_same = |shares: [f64; 2]| (shares[0] - shares[1]).abs() < f64::EPSILON;
        assert!(found.rows.iter().all(|row| is_same(row.own) && is_same(row.total)));
        let own: f64 = found.rows.iter().map(|row| row.own[0]).sum();
        assert!((own - 100.0).abs() < 1e-6, "{own}");
    }

    #[test]
    fn the_largest_change_comes_first_and_new_functions_are_changes() {
        let (before, after) = (fixture::recursive(), fixture::hostile());
        let found = changes([&before, &after], [0, 0], SortBy::Own);
        let first = found.rows[0];
        assert_eq!((first.name, first.own), ("fib", [70.0, 0.0]));
        assert!(first.delta(SortBy::Own).0 < 0.0 && first.own_error.is_some_and(|error| error > 20.0));
        let main: Vec<_> = found.rows.iter().filter(|row| row.name == "main").collect();
        assert_eq!(main.len(), 2, "of two programs");
        assert!(
            found
                .rows
                .windows(2)
                .all(|pair| { pair[0].delta(SortBy::Own).0.abs() >= pair[1].delta(SortBy::Own).0.abs() })
        );
    }

    #[test]
    fn nothing_compares_with_nothing() {
        let empty = fixture::empty();
        assert!(changes([&empty, &empty], [0, 0], SortBy::Total).rows.is_empty());
        let other = fixture::recursive();
        let found = changes([&empty, &other], [0, 0], SortBy::Total);
        assert!(found.rows.iter().all(|row| row.total[0] < f64::EPSILON && row.own_error.is_none()));
    }
}
