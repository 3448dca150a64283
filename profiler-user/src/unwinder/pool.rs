//! The pool: unwind rows of the text pages that samples fall into, in memory shared with the kernel side.
//!
//! In: finished page tables. Out: directory entries that the walker finds. The pool never grows past its limit; the pages that no
//! sample touched for longest give way, and it is counted. A freed range is reused only when no program can still read it.

mod forget;

use std::collections::HashMap;
use std::sync::atomic::Ordering;

use profiler_common::mapping::{MAX_PAGES, MAX_RULES, MAX_SLABS, PageRef, SLAB_ROWS};
use profiler_common::unwind::{Row, Rows, Rule, search};

use super::rows::{FreeRows, Range};
use crate::bpf::memory::SharedMemory;
use crate::bpf::tables::PoolMaps;
use crate::process::ObjectId;
use crate::unwind_info::PageTable;

/// Where a text page comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// A file.
    Object(ObjectId),
    /// The kernel's vDSO.
    Vdso,
}

/// A text page: its source and its number, counted in 64 KiB of file offset.
pub(super) type PageKey = (Source, u64);

/// What is known of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Asked for, not there yet; or given way.
    Absent,
    /// In the pool.
    Loaded(Range),
    /// There is nothing to load: frame pointers only.
    FramePointers,
}

#[derive(Debug)]
struct Page {
    state: State,
    /// When a sample last fell into it, in ticks of the session.
    last_used: u64,
    /// Entries of the directory that stand for this page.
    entries: Vec<u32>,
}

/// What [`Pool::look`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// The rule that holds.
    Rule(Rule),
    /// The page is not loaded.
    Absent,
}

/// Figures of the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct PoolFigures {
    /// Pages with rows in the pool.
    pub(super) pages: u64,
    /// Rows in the pool.
    pub(super) rows: u64,
    /// Distinct rules.
    pub(super) rules: u64,
    /// Bytes of all slabs.
    pub(super) bytes: u64,
    /// Pages that gave way to others because the limit was reached.
    pub(super) evicted: u64,
    /// Pages that found no room at all.
    pub(super) refused: u64,
}

/// The pool and its directory.
#[derive(Debug)]
pub(super) struct Pool {
    maps: PoolMaps,
    max_slabs: usize,
    free: FreeRows,
    pages: HashMap<PageKey, Page>,
    /// First directory entry of each run of pages.
    runs: HashMap<(Source, u64, u32), u32>,
    next_entry: u32,
    /// Runs of directory entries that stand for nothing any more, by their length.
    free_runs: HashMap<u32, Vec<u32>>,
    rule_numbers: HashMap<Rule, u16>,
    rules: Vec<Rule>,
    evicted: u64,
    refused: u64,
    now: u64,
}

/// Number of the rule that stands for all rules which found the table full.
const RULE_UNSUPPORTED: u16 = 1;

impl Pool {
    /// An empty pool that takes up to `max_bytes` of rows (at least one slab).
    pub(super) fn new(maps: PoolMaps, max_bytes: u64) -> Self {
        let max_slabs = (max_bytes / (SLAB_ROWS as u64 * 4)).clamp(1, u64::from(MAX_SLABS)) as usize;
        let mut pool = Self {
            maps,
            max_slabs,
            free: FreeRows::default(),
            pages: HashMap::new(),
            runs: HashMap::new(),
            next_entry: 0,
            free_runs: HashMap::new(),
            rule_numbers: HashMap::new(),
            rules: Vec::new(),
            evicted: 0,
            refused: 0,
            now: 0,
        };
        pool.number_of(Rule::NONE);
        let unsupported = pool.number_of(Rule::UNSUPPORTED);
        debug_assert_eq!(unsupported, RULE_UNSUPPORTED);
        pool
    }

    /// The directory entries of `count` pages from `first` on; the same run has the same entries for all processes. None when the
    /// directory is full.
    pub(super) fn run(&mut self, source: Source, first: u64, count: u32) -> Option<u32> {
        if let Some(entry) = self.runs.get(&(source, first, count)) {
            return Some(*entry);
        }
        let entry = if let Some(entry) = self.free_runs.get_mut(&count).and_then(Vec::pop) {
            entry
        } else if count <= MAX_PAGES - self.next_entry {
            self.next_entry += count;
            self.next_entry - count
        } else {
            return None;
        };
        self.runs.insert((source, first, count), entry);
        for offset in 0..count {
            let page = self.page(source, first + u64::from(offset));
            page.entries.push(entry + offset);
            let state = page.state;
            self.write_entry(entry + offset, page_ref(state));
        }
        Some(entry)
    }

    fn page(&mut self, source: Source, number: u64) -> &mut Page {
        let now = self.now;
        self.pages.entry((source, number)).or_insert_with(|| Page {
            state: State::Absent,
            last_used: now,
            entries: Vec::new(),
        })
    }

    fn write_entry(&self, entry: u32, page: PageRef) {
        if let Some(word) = self.maps.pages.word(entry as usize) {
            // After the rows: whoever sees the entry sees them.
            word.store(page.0, Ordering::Release);
        }
    }

    /// Whether pages may soon have to give way, so that it matters which are used.
    pub(super) fn is_tight(&self) -> bool {
        self.maps.slabs() >= self.max_slabs
    }

    /// Time goes on; called once per drain.
    pub(super) fn tick(&mut self) {
        self.now += 1;
    }

    /// A sample fell into a page.
    pub(super) fn touch(&mut self, key: PageKey) {
        let now = self.now;
        if let Some(page) = self.pages.get_mut(&key) {
            page.last_used = now;
        }
    }

    /// The rule at `offset` of a page.
    pub(super) fn look(&self, key: PageKey, offset: u64) -> Look {
        let state = self.pages.get(&key).map_or(State::Absent, |page| page.state);
        match state {
            State::Absent => Look::Absent,
            State::FramePointers => Look::Rule(Rule::NONE),
            State::Loaded(range) => {
                let page = page_ref(state);
                let row = self.maps.slab(range.slab, |slab| {
                    search(&SlabRows(slab), page.start(), page.last(), page.top_step(), offset)
                });
                let Some(row) = row else { return Look::Absent };
                Look::Rule(self.rules.get(usize::from(row.rule())).copied().unwrap_or(Rule::UNSUPPORTED))
            }
        }
    }

    /// Puts a page's rows into the pool, or notes that it has none.
    pub(super) fn install(&mut self, key: PageKey, table: Option<&PageTable>) {
        let now = self.now;
        let page = self.page(key.0, key.1);
        page.last_used = now;
        if page.state != State::Absent {
            return;
        }
        let state = match table {
            Some(table) if !table.is_empty() => {
                if let Some(range) = self.store(table) {
                    State::Loaded(range)
                } else {
                    self.refused += 1;
                    State::FramePointers
                }
            }
            _ => State::FramePointers,
        };
        let page = self.page(key.0, key.1);
        page.state = state;
        let entries = std::mem::take(&mut page.entries);
        for entry in &entries {
            self.write_entry(*entry, page_ref(state));
        }
        self.page(key.0, key.1).entries = entries;
    }

    fn store(&mut self, table: &PageTable) -> Option<Range> {
        let range = self.room(table.rows.len() as u32)?;
        let numbers: Vec<u16> = table.rules.iter().map(|rule| self.number_of(*rule)).collect();
        let written = self.maps.slab(range.slab, |slab| {
            for (index, row) in table.rows.iter().enumerate() {
                let number = numbers.get(usize::from(row.rule())).copied().unwrap_or(RULE_UNSUPPORTED);
                if let Some(half) = slab.half(range.start as usize + index) {
                    half.store(Row::new(row.offset(), number).0, Ordering::Relaxed);
                }
            }
        });
        if written.is_none() {
            self.free.give_back(range);
        }
        written.map(|()| range)
    }

    fn room(&mut self, rows: u32) -> Option<Range> {
        if let Some(range) = self.free.take(rows) {
            return Some(range);
        }
        if self.maps.slabs() < self.max_slabs && self.maps.add_slab().is_ok() {
            self.free.add_slab();
            return self.free.take(rows);
        }
        self.make_room(rows)
    }

    /// Lets the pages that were not used for longest give way: an eighth of the pool at a time, because each time costs a
    /// grace period of the kernel.
    fn make_room(&mut self, rows: u32) -> Option<Range> {
        let mut loaded: Vec<(u64, PageKey, Range)> = self
            .pages
            .iter()
            .filter_map(|(key, page)| match page.state {
                State::Loaded(range) => Some((page.last_used, *key, range)),
                _ => None,
            })
            .collect();
        loaded.sort_unstable_by_key(|(last_used, _, range)| (*last_used, range.slab, range.start));
        let batch = (self.maps.slabs() * SLAB_ROWS / 8).max(rows as usize);
        let mut left = loaded.into_iter();
        loop {
            let mut freed = Vec::new();
            let mut freed_rows = 0;
            for (_, key, range) in left.by_ref() {
                let page = self.page(key.0, key.1);
                page.state = State::Absent;
                for entry in page.entries.clone() {
                    self.write_entry(entry, PageRef::default());
                }
                self.evicted += 1;
                freed_rows += range.rows as usize;
                freed.push(range);
                if freed_rows >= batch {
                    break;
                }
            }
            if freed.is_empty() {
                return None;
            }
            wait_for_programs();
            for range in freed {
                self.free.give_back(range);
            }
            if let Some(range) = self.free.take(rows) {
                return Some(range);
            }
        }
    }

    fn number_of(&mut self, rule: Rule) -> u16 {
        if let Some(number) = self.rule_numbers.get(&rule) {
            return *number;
        }
        let number = self.rules.len();
        if number >= MAX_RULES as usize {
            return RULE_UNSUPPORTED;
        }
        let [low, high] = words(rule);
        if let (Some(first), Some(second)) =
            (self.maps.rules.word(number * 2), self.maps.rules.word(number * 2 + 1))
        {
            first.store(low, Ordering::Relaxed);
            second.store(high, Ordering::Relaxed);
        }
        self.rules.push(rule);
        self.rule_numbers.insert(rule, number as u16);
        number as u16
    }

    /// How full it is.
    pub(super) fn figures(&self) -> PoolFigures {
        let ranges = self.pages.values().filter_map(|page| match page.state {
            State::Loaded(range) => Some(range),
            _ => None,
        });
        let (pages, rows) =
            ranges.fold((0, 0), |(pages, rows), range| (pages + 1, rows + u64::from(range.rows)));
        PoolFigures {
            pages,
            rows,
            rules: self.rules.len() as u64,
            bytes: (self.maps.slabs() * SLAB_ROWS * 4) as u64,
            evicted: self.evicted,
            refused: self.refused,
        }
    }
}

fn page_ref(state: State) -> PageRef {
    match state {
        State::Absent => PageRef::default(),
        State::FramePointers => PageRef::FRAME_POINTERS,
        State::Loaded(range) => PageRef::loaded(range.slab, range.start as u16, range.rows),
    }
}

/// A rule as the two words that the programs read (little-endian, as all machines that run them are).
fn words(rule: Rule) -> [u64; 2] {
    let low = u64::from(rule.cfa)
        | u64::from(rule.register) << 8
        | u64::from(rule.ra) << 16
        | u64::from(rule.fp) << 24
        | u64::from(rule.cfa_offset as u32) << 32;
    let high = u64::from(rule.cfa_add as u16)
        | u64::from(rule.ra_offset as u16) << 16
        | u64::from(rule.fp_offset as u16) << 32
        | u64::from(rule.rbx_offset as u16) << 48;
    [low, high]
}

/// Returns when no BPF program that runs now can still hold what it read: they run inside RCU read sections, and the
/// global command of membarrier(2) waits for those of all CPUs.
fn wait_for_programs() {
    /// `MEMBARRIER_CMD_GLOBAL`, include/uapi/linux/membarrier.h.
    const GLOBAL: libc::c_int = 1;
    // SAFETY: no pointers are passed.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, GLOBAL, 0, 0) };
    if result != 0 {
        // A kernel without it, or with isolated CPUs: no program runs for that long.
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// The rows of one slab, as the user side reads them.
struct SlabRows<'a>(&'a SharedMemory);

impl Rows for SlabRows<'_> {
    fn row(&self, index: u64) -> u64 {
        self.0.half(index as usize).map_or(0, |half| u64::from(half.load(Ordering::Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use profiler_common::unwind::CFA_SP;

    pub(super) fn table(rows: u32, first_offset: i32) -> PageTable {
        let rule = |number: i32| Rule { cfa_offset: first_offset + number * 8, ..Rule::of(CFA_SP) };
        PageTable {
            rows: (0..rows).map(|index| Row::new(index as u16 * 2, (index % 4) as u16)).collect(),
            rules: (0..4).map(rule).collect(),
            unsupported: 0,
        }
    }

    fn key(number: u64) -> PageKey {
        (Source::Object(ObjectId(3)), number)
    }

    #[test]
    fn a_loaded_page_is_found_by_directory_and_by_key() {
        let mut pool = Pool::new(PoolMaps::anonymous(), 1 << 20);
        let entry = pool.run(key(0).0, 5, 3).unwrap();
        assert_eq!(pool.run(key(0).0, 5, 3), Some(entry));
        pool.install(key(6), Some(&table(100, 64)));
        let word = pool.maps.pages.word(entry as usize + 1).unwrap().load(Ordering::Relaxed);
        assert_eq!(PageRef(word).last(), 99);
        // Offset 7 lies in row 3.
        let expected = Rule { cfa_offset: 64 + 24, ..Rule::of(CFA_SP) };
        assert_eq!(pool.look(key(6), 7), Look::Rule(expected));
        assert_eq!(pool.look(key(5), 7), Look::Absent);
        pool.install(key(5), None);
        assert_eq!(pool.look(key(5), 7), Look::Rule(Rule::NONE));
        // A run that is mapped later finds what is loaded.
        let later = pool.run(key(0).0, 6, 1).unwrap();
        assert_eq!(pool.maps.pages.word(later as usize).unwrap().load(Ordering::Relaxed), word);
    }

    #[test]
    fn the_limit_holds_and_the_pages_used_last_stay() {
        let mut pool = Pool::new(PoolMaps::anonymous(), 1);
        for number in 0..10 {
            pool.tick();
            pool.install(key(number), Some(&table(10_000, 64)));
            pool.touch(key(0));
        }
        let figures = pool.figures();
        assert_eq!(figures.bytes, SLAB_ROWS as u64 * 4);
        assert!(figures.evicted > 0 && figures.rows <= SLAB_ROWS as u64, "{figures:?}");
        assert_ne!(pool.look(key(0), 0), Look::Absent, "touched with every tick");
        assert_ne!(pool.look(key(9), 0), Look::Absent, "the newest");
        assert_eq!(pool.look(key(1), 0), Look::Absent, "the oldest");
    }

    #[test]
    fn rules_are_shared_and_their_number_is_bounded() {
        let mut pool = Pool::new(PoolMaps::anonymous(), 1 << 20);
        pool.install(key(1), Some(&table(8, 64)));
        let before = pool.figures().rules;
        pool.install(key(2), Some(&table(8, 64)));
        assert_eq!(pool.figures().rules, before);
        for number in 0..i32::try_from(MAX_RULES).unwrap() + 10 {
            pool.number_of(Rule { cfa_offset: number * 8, ..Rule::of(CFA_SP) });
        }
        assert_eq!(pool.figures().rules, u64::from(MAX_RULES));
        assert_eq!(pool.number_of(Rule { cfa_offset: -8, ..Rule::of(CFA_SP) }), RULE_UNSUPPORTED);
    }

    #[test]
    fn the_words_are_the_rule_as_it_lies_in_memory() {
        let rule = Rule {
            cfa: 4,
            register: 7,
            ra: 1,
            fp: 2,
            cfa_offset: -16,
            cfa_add: 11,
            ra_offset: -1,
            fp_offset: -2,
            rbx_offset: -3,
        };
        let [low, high] = words(rule);
        let bytes = [low.to_le_bytes(), high.to_le_bytes()].concat();
        assert_eq!(bytes[..4], [4, 7, 1, 2]);
        assert_eq!(i32::from_le_bytes(bytes[4..8].try_into().unwrap()), -16);
        assert_eq!(i16::from_le_bytes(bytes[14..].try_into().unwrap()), -3);
    }
}
