//! The hotspot table: what each function costs by itself and together with everything it calls.

use super::{Detail, FunctionId, Functions};
use crate::profile::Profile;

/// What a hotspot table is sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SortBy {
    /// Cost of the function's own code.
    #[default]
    Own,
    /// Cost including everything it calls.
    Total,
}

/// One row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hotspot {
    /// The function, or the function and line.
    pub function: FunctionId,
    /// Value of the samples whose innermost frame this is.
    pub own: u64,
    /// Value of the samples that have this anywhere on the stack. A recursive function counts once per sample.
    pub total: u64,
}

/// The table, most expensive first.
#[derive(Debug, Clone)]
pub struct Hotspots<'p> {
    /// Names for the rows.
    pub functions: Functions<'p>,
    /// The rows, sorted. Equal values are ordered by name.
    pub rows: Vec<Hotspot>,
    /// Value of all samples: what percentages refer to.
    pub total: u64,
    /// Which of the profile's values was added up.
    pub value: usize,
}

/// Adds up one value of the profile by function, or by source line with [`Detail::Line`].
///
/// A marker is not code: a sample whose innermost frame is a marker counts as the marker's own, so that shares still
/// add up to 100 %.
pub fn hotspots(profile: &Profile, value: usize, detail: Detail, sort: SortBy) -> Hotspots<'_> {
    let functions = Functions::new(profile, detail);
    let mut rows: Vec<Hotspot> = (0..functions.entries().len() as u32)
        .map(|id| Hotspot { function: FunctionId(id), own: 0, total: 0 })
        .collect();
    // The last sample (from 1) that counted for a function: a cheap "seen in this sample" that needs no clearing.
    let mut counted_in: Vec<usize> = vec![0; rows.len()];
    for (number, sample) in profile.samples.iter().enumerate() {
        let amount = sample.values.get(value).copied().unwrap_or(0);
        if amount == 0 {
            continue;
        }
        for (depth, id) in functions.of_stack(profile.stack(sample.stack)).enumerate() {
            let index = id.0 as usize;
            if depth == 0 {
                rows[index].own = rows[index].own.saturating_add(amount);
            }
            if counted_in[index] != number + 1 {
                counted_in[index] = number + 1;
                rows[index].total = rows[index].total.saturating_add(amount);
            }
        }
    }
    rows.retain(|row| row.total > 0);
    rows.sort_by(|a, b| {
        let order = match sort {
            SortBy::Own => (b.own, b.total).cmp(&(a.own, a.total)),
            SortBy::Total => (b.total, b.own).cmp(&(a.total, a.own)),
        };
        order.then_with(|| functions.get(a.function).cmp(functions.get(b.function)))
    });
    Hotspots { functions, rows, total: profile.total(value), value }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::fixture;

    fn row(table: &Hotspots<'_>, name: &str) -> (u64, u64) {
        let row = table.rows.iter().find(|row| table.functions.get(row.function).name == name).unwrap();
        (row.own, row.total)
    }

    #[test]
    fn recursion_counts_once_per_sample() {
        let profile = fixture::recursive();
        let table = hotspots(&profile, 0, Detail::Function, SortBy::Own);
        assert_eq!(table.total, 10);
        assert_eq!(row(&table, "fib"), (7, 9));
        assert_eq!(row(&table, "main"), (1, 10));
        assert_eq!(row(&table, "leaf"), (2, 2));
    }

    #[test]
    fn own_values_add_up_to_the_total() {
        let profile = fixture::hostile();
        for detail in [Detail::Function, Detail::Line, Detail::Class] {
            let table = hotspots(&profile, 1, detail, SortBy::Total);
            assert_eq!(table.rows.iter().map(|row| row.own).sum::<u64>(), table.total);
            assert!(table.rows.windows(2).all(|pair| pair[0].total >= pair[1].total));
        }
    }

    #[test]
    fn lines_split_a_function() {
        let profile = fixture::hostile();
        let whole = hotspots(&profile, 0, Detail::Function, SortBy::Own);
        let lines = hotspots(&profile, 0, Detail::Line, SortBy::Own);
        let rows = |table: &Hotspots<'_>| {
            table.rows.iter().filter(|row| table.functions.get(row.function).name == "parse").count()
        };
        assert_eq!((rows(&whole), rows(&lines)), (1, 2));
    }
}
