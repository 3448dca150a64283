//! Room for those to come: what the pool holds of files that nobody maps any more is given back.
//!
//! A build runs thousands of programs once; in a recording that goes on for months each of them would keep its directory entries for ever.

use super::{Pool, Source, State, wait_for_programs};
use profiler_common::mapping::PageRef;

impl Pool {
    /// Lets go of all sources that are not `wanted`. A run of directory entries is given out again to a run of the same length.
    pub(in crate::unwinder) fn forget(&mut self, wanted: impl Fn(Source) -> bool) {
        let gone: Vec<((Source, u64, u32), u32)> =
            self.runs.extract_if(|(source, ..), _| !wanted(*source)).collect();
        let pages = self.pages.extract_if(|(source, _), _| !wanted(*source));
        let pages: Vec<_> = pages.map(|(_, page)| page).collect();
        if gone.is_empty() && pages.is_empty() {
            return;
        }
        for page in &pages {
            for entry in &page.entries {
                self.write_entry(*entry, PageRef::default());
            }
        }
        // A program that is just walking may have read an entry before.
        wait_for_programs();
        for page in pages {
            if let State::Loaded(range) = page.state {
                self.free.give_back(range);
            }
        }
        for ((_, _, count), entry) in gone {
            self.free_runs.entry(count).or_default().push(entry);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::super::{Look, tests::table};
    use super::*;
    use crate::bpf::tables::PoolMaps;
    use crate::process::ObjectId;

    fn source(number: u32) -> Source {
        Source::Object(ObjectId(number))
    }

    #[test]
    fn what_is_forgotten_makes_room_and_the_rest_stays() {
        let mut pool = Pool::new(PoolMaps::anonymous(), 1);
        let kept = pool.run(source(1), 0, 2).unwrap();
        pool.install((source(1), 0), Some(&table(100, 64)));
        let before = pool.figures();
        let mut entries = Vec::new();
        for number in 2..40 {
            entries.push(pool.run(source(number), 5, 3).unwrap());
            pool.install((source(number), 6), Some(&table(10_000, 64)));
            pool.forget(|source| source == self::source(1));
        }
        assert!(entries.windows(2).all(|pair| pair[0] == pair[1]), "the same entries serve all of them");
        assert_eq!(pool.figures(), super::super::PoolFigures { bytes: pool.figures().bytes, ..before });
        assert_eq!(pool.figures().evicted, 0);
        assert_eq!(
            pool.maps.pages.word(entries[0] as usize + 1).unwrap().load(Ordering::Relaxed),
            PageRef::default().0
        );
        assert_eq!(pool.run(source(1), 0, 2), Some(kept));
        assert_ne!(pool.look((source(1), 0), 0), Look::Absent);
        assert_eq!(pool.look((source(39), 6), 0), Look::Absent);
    }
}
