//! Room for rows in the slabs of the pool: contiguous ranges, first fit, merged when they are freed.

use profiler_common::mapping::SLAB_ROWS;

/// A range of rows of one slab.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    /// Number of the slab.
    pub(super) slab: u16,
    /// First row.
    pub(super) start: u32,
    /// Rows.
    pub(super) rows: u32,
}

/// What is free in each slab: sorted, without neighbours that touch.
#[derive(Debug, Default)]
pub(super) struct FreeRows {
    slabs: Vec<Vec<(u32, u32)>>,
}

impl FreeRows {
    /// A new, empty slab.
    pub(super) fn add_slab(&mut self) {
        self.slabs.push(vec![(0, SLAB_ROWS as u32)]);
    }

    /// Takes a range of `rows` rows; none when no slab has that many in one piece.
    pub(super) fn take(&mut self, rows: u32) -> Option<Range> {
        for (slab, free) in self.slabs.iter_mut().enumerate() {
            let Some(index) = free.iter().position(|(_, length)| *length >= rows) else { continue };
            let (start, length) = free[index];
            if length == rows {
                free.remove(index);
            } else {
                free[index] = (start + rows, length - rows);
            }
            return Some(Range { slab: slab as u16, start, rows });
        }
        None
    }

    /// Gives a range back.
    pub(super) fn give_back(&mut self, range: Range) {
        let Some(free) = self.slabs.get_mut(usize::from(range.slab)) else { return };
        let index = free.partition_point(|(start, _)| *start < range.start);
        free.insert(index, (range.start, range.rows));
        if index + 1 < free.len() && free[index].0 + free[index].1 == free[index + 1].0 {
            free[index].1 += free[index + 1].1;
            free.remove(index + 1);
        }
        if index > 0 && free[index - 1].0 + free[index - 1].1 == free[index].0 {
            free[index - 1].1 += free[index].1;
            free.remove(index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn ranges_never_overlap_and_all_comes_back(steps in proptest::collection::vec((1u32..40_000, proptest::bool::ANY), 1..80)) {
            let mut free = FreeRows::default();
            free.add_slab();
            free.add_slab();
            let mut taken: Vec<Range> = Vec::new();
            for (rows, give) in steps {
                if give && !taken.is_empty() {
                    free.give_back(taken.swap_remove(rows as usize % taken.len()));
                } else if let Some(range) = free.take(rows) {
                    for other in &taken {
                        let apart = range.slab != other.slab
                            || range.start + range.rows <= other.start
                            || other.start + other.rows <= range.start;
                        proptest::prop_assert!(apart, "{:?} and {:?}", range, other);
                    }
                    taken.push(range);
                }
            }
            for range in taken {
                free.give_back(range);
            }
            proptest::prop_assert_eq!(free.slabs, vec![vec![(0, SLAB_ROWS as u32)]; 2]);
        }
    }
}
