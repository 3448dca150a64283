//! Address spaces: which mappings the kernel side knows of which process.
//!
//! Processes with the same mappings (a server and its workers) share one space, that is one set of trie entries; the kernel side
//! hands a space on when a process forks. A space is only loaded for processes that were there when the recording began or that
//! were sampled: a host that starts a thousand processes a second costs what its samples cost, not what its processes do.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use profiler_common::mapping::{
    MAPPING_FRAME_POINTERS, MAPPING_TABLES, MAX_TRIE_ENTRIES, Mapping, MappingKey,
};
use profiler_common::unwind::{TEXT_PAGE_BITS, TEXT_PAGE_BYTES};

use super::blocks::blocks;
use super::pool::Source;
use crate::bpf::tables::SpaceMaps;
use crate::process::{Mappings, Placement, Region};

/// Trie entries that may be written between two drains (a tenth of a second): some ten milliseconds of system calls. What has to
/// wait is walked in user space in the meantime.
const UPDATES_PER_TICK: u32 = 10_000;

/// Where the entries go.
pub(super) trait Sink {
    fn set_space(&mut self, pid: u32, space: u32) -> bool;
    fn clear_space(&mut self, pid: u32);
    fn add(&mut self, prefix_bits: u32, key: MappingKey, mapping: Mapping) -> bool;
    fn remove(&mut self, prefix_bits: u32, key: MappingKey) -> bool;
}

impl Sink for SpaceMaps {
    fn set_space(&mut self, pid: u32, space: u32) -> bool {
        Self::set_space(self, pid, space)
    }

    fn clear_space(&mut self, pid: u32) {
        Self::clear_space(self, pid);
    }

    fn add(&mut self, prefix_bits: u32, key: MappingKey, mapping: Mapping) -> bool {
        self.add_mapping(prefix_bits, key, mapping)
    }

    fn remove(&mut self, prefix_bits: u32, key: MappingKey) -> bool {
        self.remove_mapping(prefix_bits, key)
    }
}

#[derive(Debug)]
struct Space {
    /// What the trie holds.
    mappings: Arc<Mappings>,
    pids: HashSet<u32>,
}

/// A process in a space.
#[derive(Debug, Clone, Copy)]
struct Member {
    space: u32,
    /// The kernel side has it from us, not from a fork that it saw itself.
    is_told: bool,
}

/// Figures of the spaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct SpaceFigures {
    /// Address spaces that the kernel side knows.
    pub(super) spaces: u64,
    /// Entries of the trie.
    pub(super) entries: u64,
    /// Times that loading had to wait because too much was to be loaded at once.
    pub(super) delayed: u64,
    /// Mappings that found the trie or the directory full.
    pub(super) refused: u64,
}

/// All spaces.
#[derive(Debug)]
pub(super) struct Spaces<S> {
    sink: S,
    by_number: HashMap<u32, Space>,
    by_pid: HashMap<u32, Member>,
    by_version: HashMap<u64, u32>,
    /// Spaces without processes, whose entries are still to be removed.
    empty: Vec<Abandoned>,
    next: u32,
    entries: u32,
    budget: u32,
    delayed: u64,
    refused: u64,
}

/// A space that nobody is in any more.
type Abandoned = (u32, Arc<Mappings>);

impl<S: Sink> Spaces<S> {
    /// None yet.
    pub(super) fn new(sink: S) -> Self {
        Self {
            sink,
            by_number: HashMap::new(),
            by_pid: HashMap::new(),
            by_version: HashMap::new(),
            empty: Vec::new(),
            next: 1,
            entries: 0,
            budget: UPDATES_PER_TICK,
            delayed: 0,
            refused: 0,
        }
    }

    /// A new drain: the budget is whole again, and left-overs are cleared away.
    pub(super) fn tick(&mut self) {
        self.budget = UPDATES_PER_TICK;
        while self.budget > UPDATES_PER_TICK / 2 {
            let Some((number, mappings)) = self.empty.pop() else { break };
            for region in mappings.regions() {
                self.remove(number, region);
            }
        }
    }

    /// Whether the process was ever loaded, so that changes of its mappings are worth following.
    pub(super) fn is_known(&self, pid: u32) -> bool {
        self.by_pid.contains_key(&pid)
    }

    /// Makes the kernel side know the process's mappings. `run` gives the directory entries of a region's pages.
    pub(super) fn load(
        &mut self,
        pid: u32,
        mappings: &Arc<Mappings>,
        mut run: impl FnMut(Source, u64, u32) -> Option<u32>,
    ) {
        if let Some(number) = self.by_version.get(&mappings.version()).copied() {
            self.join(pid, number);
            return;
        }
        if self.budget == 0 {
            self.delayed += 1;
            return;
        }
        let own = self.by_pid.get(&pid).map(|member| member.space);
        let alone =
            own.filter(|number| self.by_number.get(number).is_some_and(|space| space.pids.len() == 1));
        let number = alone.unwrap_or_else(|| {
            let number = self.next;
            // Numbers are not reused within four billion spaces.
            self.next = self.next.wrapping_add(1).max(1);
            let space = Space { mappings: Arc::default(), pids: HashSet::new() };
            self.by_number.insert(number, space);
            number
        });
        self.change(number, mappings, &mut run);
        self.join(pid, number);
    }

    /// Brings a space's entries from what they are to `mappings`.
    fn change(
        &mut self,
        number: u32,
        mappings: &Arc<Mappings>,
        run: &mut impl FnMut(Source, u64, u32) -> Option<u32>,
    ) {
        let Some(space) = self.by_number.get_mut(&number) else { return };
        let old = std::mem::replace(&mut space.mappings, Arc::clone(mappings));
        self.by_version.remove(&old.version());
        self.by_version.insert(mappings.version(), number);
        let mut before = old.regions().iter().peekable();
        let mut after = mappings.regions().iter().peekable();
        let mut gone = Vec::new();
        let mut new = Vec::new();
        loop {
            match (before.peek(), after.peek()) {
                (Some(left), Some(right)) if left == right => {
                    before.next();
                    after.next();
                }
                (Some(left), Some(right)) if left.start <= right.start => {
                    gone.push(**left);
                    before.next();
                }
                (Some(left), None) => {
                    gone.push(**left);
                    before.next();
                }
                (_, Some(right)) => {
                    new.push(**right);
                    after.next();
                }
                (None, None) => break,
            }
        }
        for region in &gone {
            self.remove(number, region);
        }
        for region in &new {
            self.add(number, region, run);
        }
    }

    fn add(&mut self, number: u32, region: &Region, run: &mut impl FnMut(Source, u64, u32) -> Option<u32>) {
        let paged = match region.placement {
            Placement::Object { object, file_offset } => Some((Source::Object(object), file_offset)),
            Placement::Vdso => Some((Source::Vdso, 0)),
            Placement::Anonymous => None,
        };
        let mut mapping = Mapping {
            start: region.start,
            end: region.end,
            first_page: 0,
            skew: 0,
            kind: MAPPING_FRAME_POINTERS,
            padding: 0,
        };
        if let Some((source, file_offset)) = paged {
            let first = file_offset >> TEXT_PAGE_BITS;
            mapping.skew = (file_offset % TEXT_PAGE_BYTES) as u32;
            let bytes = (region.end - region.start).saturating_add(u64::from(mapping.skew));
            let count = bytes.div_ceil(TEXT_PAGE_BYTES);
            let entry = u32::try_from(count).ok().and_then(|count| run(source, first, count));
            let Some(entry) = entry else {
                self.refused += 1;
                return;
            };
            mapping.first_page = entry;
            mapping.kind = MAPPING_TABLES;
        }
        for (bits, key) in blocks(number, region.start, region.end) {
            self.budget = self.budget.saturating_sub(1);
            if self.entries >= MAX_TRIE_ENTRIES || !self.sink.add(bits, key, mapping) {
                self.refused += 1;
                return;
            }
            self.entries += 1;
        }
    }

    fn remove(&mut self, number: u32, region: &Region) {
        for (bits, key) in blocks(number, region.start, region.end) {
            self.budget = self.budget.saturating_sub(1);
            if self.sink.remove(bits, key) {
                self.entries = self.entries.saturating_sub(1);
            }
        }
    }

    fn join(&mut self, pid: u32, number: u32) {
        let told = Member { space: number, is_told: true };
        if self.by_pid.get(&pid).is_some_and(|member| member.space == number) {
            self.by_pid.insert(pid, told);
        } else {
            self.leave(pid);
            self.by_pid.insert(pid, told);
            if let Some(space) = self.by_number.get_mut(&number) {
                space.pids.insert(pid);
            }
        }
        // Said again even if we know it: an exec or exit in the kernel may have come after our last word.
        if !self.sink.set_space(pid, number) {
            self.refused += 1;
        }
    }

    /// A process forked: the kernel side has handed the space on already.
    pub(super) fn fork(&mut self, parent: u32, child: u32) {
        self.leave(child);
        let Some(Member { space: number, .. }) = self.by_pid.get(&parent).copied() else { return };
        if let Some(space) = self.by_number.get_mut(&number) {
            space.pids.insert(child);
            self.by_pid.insert(child, Member { space: number, is_told: false });
        }
    }

    /// A process ended, or became another program. The kernel side knows by itself, but our last word on the process, if we ever said one, may
    /// have come after that.
    pub(super) fn end(&mut self, pid: u32) {
        if let Some(member) = self.by_pid.get(&pid) {
            if member.is_told {
                self.sink.clear_space(pid);
            }
            self.leave(pid);
        }
    }

    fn leave(&mut self, pid: u32) {
        let Some(Member { space: number, .. }) = self.by_pid.remove(&pid) else { return };
        let Some(space) = self.by_number.get_mut(&number) else { return };
        space.pids.remove(&pid);
        if space.pids.is_empty()
            && let Some(space) = self.by_number.remove(&number)
        {
            self.by_version.remove(&space.mappings.version());
            self.empty.push((number, space.mappings));
        }
    }

    /// How much there is.
    pub(super) fn figures(&self) -> SpaceFigures {
        SpaceFigures {
            spaces: self.by_number.len() as u64,
            entries: u64::from(self.entries),
            delayed: self.delayed,
            refused: self.refused,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::ObjectId;

    /// What the kernel side would hold.
    #[derive(Default)]
    struct Kernel {
        by_number: HashMap<u32, u32>,
        entries: HashMap<(u32, MappingKey), Mapping>,
        calls: u32,
    }

    impl Sink for Kernel {
        fn set_space(&mut self, pid: u32, space: u32) -> bool {
            self.by_number.insert(pid, space);
            true
        }

        fn clear_space(&mut self, pid: u32) {
            self.calls += 1;
            self.by_number.remove(&pid);
        }

        fn add(&mut self, prefix_bits: u32, key: MappingKey, mapping: Mapping) -> bool {
            self.calls += 1;
            self.entries.insert((prefix_bits, key), mapping);
            true
        }

        fn remove(&mut self, prefix_bits: u32, key: MappingKey) -> bool {
            self.calls += 1;
            self.entries.remove(&(prefix_bits, key)).is_some()
        }
    }

    impl Kernel {
        /// The longest prefix wins, as in the trie.
        fn find(&self, pid: u32, address: u64) -> Option<Mapping> {
            let space = *self.by_number.get(&pid)?;
            (0..=64).find_map(|bits| {
                let start = if bits == 64 { 0 } else { address >> bits << bits };
                self.entries.get(&(96 - bits, MappingKey::new(space, start))).copied()
            })
        }
    }

    fn mappings(starts: &[u64]) -> Arc<Mappings> {
        let mut mappings = Mappings::default();
        for start in starts {
            let placement = Placement::Object { object: ObjectId(*start as u32), file_offset: 0x1000 };
            mappings.insert(Region { start: *start, end: start + 0x3000, placement });
        }
        Arc::new(mappings)
    }

    fn load(spaces: &mut Spaces<Kernel>, pid: u32, mappings: &Arc<Mappings>) {
        spaces.load(pid, mappings, |_, first, count| Some(first as u32 * 1000 + count));
    }

    #[test]
    fn forked_processes_share_their_entries_until_one_changes() {
        let mut spaces = Spaces::new(Kernel::default());
        let shared = mappings(&[0x10_0000, 0x20_0000]);
        load(&mut spaces, 1, &shared);
        let calls = spaces.sink.calls;
        spaces.fork(1, 2);
        load(&mut spaces, 2, &shared);
        assert_eq!(spaces.sink.calls, calls, "nothing is loaded twice");
        let number = spaces.by_pid[&2].space;
        assert_eq!(spaces.by_number[&number].mappings.version(), shared.version());

        let changed = mappings(&[0x10_0000, 0x30_0000]);
        load(&mut spaces, 2, &changed);
        assert_eq!(spaces.sink.find(1, 0x20_0800).map(|mapping| mapping.start), Some(0x20_0000));
        assert_eq!(spaces.sink.find(2, 0x20_0800), None);
        assert_eq!(spaces.sink.find(2, 0x30_2fff).map(|mapping| mapping.start), Some(0x30_0000));
        assert_eq!(spaces.figures().spaces, 2);
    }

    #[test]
    fn a_library_that_is_loaded_later_costs_its_own_entries_only() {
        let mut spaces = Spaces::new(Kernel::default());
        load(&mut spaces, 1, &mappings(&[0x10_0000]));
        let calls = spaces.sink.calls;
        load(&mut spaces, 1, &mappings(&[0x10_0000, 0x20_0000]));
        assert_eq!(spaces.sink.calls - calls, blocks(1, 0x20_0000, 0x20_3000).count() as u32);
        assert_eq!(spaces.figures().spaces, 1);
    }

    #[test]
    fn nothing_is_left_of_processes_that_ended() {
        let mut spaces = Spaces::new(Kernel::default());
        let shared = mappings(&[0x10_0000]);
        load(&mut spaces, 1, &shared);
        spaces.fork(1, 2);
        spaces.end(1);
        spaces.tick();
        assert!(!spaces.sink.entries.is_empty(), "the child still needs them");
        spaces.end(2);
        spaces.tick();
        assert!(spaces.sink.entries.is_empty() && spaces.sink.by_number.is_empty());
        assert_eq!(spaces.figures(), SpaceFigures::default());
    }

    #[test]
    fn processes_of_a_storm_cost_no_calls() {
        let mut spaces = Spaces::new(Kernel::default());
        let shared = mappings(&[0x10_0000]);
        load(&mut spaces, 1, &shared);
        let calls = spaces.sink.calls;
        for child in 2..100 {
            spaces.fork(1, child);
            // It becomes another program, and ends.
            spaces.end(child);
            spaces.end(child);
        }
        assert_eq!(spaces.sink.calls, calls, "the kernel side saw all of it itself");

        spaces.fork(1, 2);
        load(&mut spaces, 2, &shared);
        spaces.end(2);
        assert_eq!(spaces.sink.calls, calls + 1, "what was said of it may have come after its end");
        assert!(!spaces.sink.by_number.contains_key(&2));
    }

    #[test]
    fn loading_is_rate_limited_and_counted() {
        let mut spaces = Spaces::new(Kernel::default());
        let starts: Vec<u64> = (1..8000).map(|number| number * 0x10_0000).collect();
        load(&mut spaces, 1, &mappings(&starts));
        load(&mut spaces, 2, &mappings(&[0x10_0000]));
        assert_eq!(spaces.figures().delayed, 1);
        spaces.tick();
        load(&mut spaces, 2, &mappings(&[0x10_0000]));
        assert!(spaces.sink.find(2, 0x10_0000).is_some());
    }

    #[test]
    fn a_mapping_says_where_its_pages_are() {
        let mut spaces = Spaces::new(Kernel::default());
        load(&mut spaces, 1, &mappings(&[0x10_0000]));
        let mapping = spaces.sink.find(1, 0x10_1234).unwrap();
        assert_eq!((mapping.first_page, mapping.skew, mapping.kind), (1, 0x1000, MAPPING_TABLES));
    }
}
