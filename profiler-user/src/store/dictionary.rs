//! What windows of one segment share, each written once: names, objects, locations, stacks as a tree, label sets.
//!
//! The writer's side. Entries have the numbers of the order in which they came; a record carries those that are new since
//! the record before it. Only their fingerprints stay in memory, so a busy host costs some megabytes and not its strings.

use std::hash::{BuildHasher, RandomState};

use crate::intern::Interner;
use crate::profile::{FrameKind, Labels, Location, LocationId, Mapping, Profile};

use super::wire::{Cursor, Damage, put, put_blob, put_option, put_signed};

/// The kinds of entries, in the order in which a record has them: each refers only to those before it, and to itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Section {
    Names,
    Mappings,
    Locations,
    Nodes,
    Labels,
}

/// How many kinds there are.
pub(super) const SECTIONS: usize = 5;

/// Entries of one kind that are new in a record.
#[derive(Debug, Clone, Default)]
pub(super) struct NewEntries {
    pub(super) count: u64,
    pub(super) bytes: Vec<u8>,
}

/// Appends all kinds of new entries.
pub(super) fn put_sections(out: &mut Vec<u8>, sections: &[NewEntries; SECTIONS]) {
    for section in sections {
        put(out, section.count);
        put_blob(out, &section.bytes);
    }
}

/// The new entries of a record: how many, and their bytes.
pub(super) fn read_sections<'a>(cursor: &mut Cursor<'a>) -> Result<[(u64, &'a [u8]); SECTIONS], Damage> {
    let mut sections = [(0, &[][..]); SECTIONS];
    for section in &mut sections {
        *section = (cursor.number()?, cursor.blob()?);
    }
    Ok(sections)
}

/// What stands for an entry: a node is its own, all others have a fingerprint of 64 bits under a key that nobody outside knows. That two of
/// the most entries that a segment has are taken for one has a chance of one in a billion.
type Fingerprint = u64;

#[derive(Debug, Default)]
struct Seen {
    ids: Interner<Fingerprint>,
    /// Entries that are on disk.
    committed: u32,
    new: NewEntries,
}

impl Seen {
    /// The number of an entry, which is written in its own way if it is new.
    fn intern(&mut self, fingerprint: Fingerprint, write: impl FnOnce(&mut Vec<u8>, u32)) -> u32 {
        let next = self.ids.len() as u32;
        let id = self.ids.intern(fingerprint);
        if id == next {
            self.new.count += 1;
            write(&mut self.new.bytes, id);
        }
        id
    }

    fn commit(&mut self) {
        self.committed = self.ids.len() as u32;
        self.new = NewEntries::default();
    }

    fn roll_back(&mut self) {
        self.ids.truncate(self.committed);
        self.new = NewEntries::default();
    }
}

/// All entries of the segment that is being written.
#[derive(Debug, Default)]
pub(super) struct Dictionary {
    key: RandomState,
    seen: [Seen; SECTIONS],
    scratch: Vec<u8>,
}

impl Dictionary {
    /// Entries of all kinds together, which is what memory follows.
    pub(super) fn len(&self) -> usize {
        self.seen.iter().map(|seen| seen.ids.len()).sum()
    }

    /// The entries that are not on disk yet.
    pub(super) fn take_new(&mut self) -> [NewEntries; SECTIONS] {
        std::array::from_fn(|index| self.seen[index].new.clone())
    }

    /// What was taken is on disk now.
    pub(super) fn commit(&mut self) {
        self.seen.iter_mut().for_each(Seen::commit);
    }

    /// What was taken did not get there.
    pub(super) fn roll_back(&mut self) {
        self.seen.iter_mut().for_each(Seen::roll_back);
    }

    /// The number of an entry that is written already.
    pub(super) fn intern(&mut self, section: Section, entry: &[u8]) -> u32 {
        let fingerprint = self.key.hash_one(entry);
        self.seen[section as usize].intern(fingerprint, |out, _| out.extend_from_slice(entry))
    }

    /// One frame of a stack: what called it, its location, and the caller's location (zero at the root).
    ///
    /// Both are written as distances: what is new mostly hangs on what was new just before.
    pub(super) fn node(&mut self, parent: Option<u32>, location: u32, above: u32) -> u32 {
        let itself = u64::from(parent.unwrap_or(u32::MAX)) << 32 | u64::from(location);
        self.seen[Section::Nodes as usize].intern(itself, |out, id| {
            put(out, parent.map_or(0, |parent| u64::from(id - parent)));
            put_signed(out, i64::from(location) - i64::from(above));
        })
    }

    fn with_scratch(&mut self, section: Section, write: impl FnOnce(&mut Vec<u8>)) -> u32 {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        write(&mut scratch);
        let id = self.intern(section, &scratch);
        self.scratch = scratch;
        id
    }

    /// The number of a name.
    pub(super) fn name(&mut self, name: &str) -> u32 {
        self.with_scratch(Section::Names, |out| put_blob(out, name.as_bytes()))
    }

    fn mapping(&mut self, mapping: &Mapping) -> u32 {
        let (path, build_id) = (self.name(&mapping.path), self.name(&mapping.build_id));
        self.with_scratch(Section::Mappings, |out| {
            for number in [mapping.start, mapping.limit, mapping.file_offset, path.into(), build_id.into()] {
                put(out, number);
            }
        })
    }

    fn location(&mut self, profile: &Profile, location: &Location) -> u32 {
        let mapping = location.mapping.map(|id| self.mapping(&profile.mappings[id.0 as usize]));
        let mut frames = Vec::new();
        put(&mut frames, location.frames.len() as u64);
        for frame in &location.frames {
            let function = self.name(&frame.function);
            let file = frame.file.as_deref().map(|file| self.name(file));
            put(&mut frames, u64::from(function) << 1 | u64::from(frame.inlined));
            put_option(&mut frames, file);
            put_option(&mut frames, frame.line);
        }
        self.with_scratch(Section::Locations, |out| {
            put_option(out, mapping);
            put(out, location.address);
            put(out, kind_number(location.kind));
            out.extend_from_slice(&frames);
        })
    }

    fn labels(&mut self, labels: &Labels) -> u32 {
        let (process, thread) = (self.name(&labels.process), self.name(&labels.thread));
        let cgroup = labels.cgroup.as_deref().map(|cgroup| self.name(cgroup));
        self.with_scratch(Section::Labels, |out| {
            for number in [labels.pid, labels.tid, process, thread] {
                put(out, u64::from(number));
            }
            put_option(out, cgroup);
            put_option(out, labels.cpu);
        })
    }
}

/// Numbers of the entries of one profile: looked up once each, however many samples have them.
pub(super) struct Numbering<'p> {
    profile: &'p Profile,
    locations: Vec<Option<u32>>,
    /// Leaf and one; zero for a stack without frames.
    stacks: Vec<Option<u32>>,
    labels: Vec<Option<u32>>,
}

impl<'p> Numbering<'p> {
    pub(super) fn new(profile: &'p Profile) -> Self {
        Self {
            profile,
            locations: vec![None; profile.locations.len()],
            stacks: vec![None; profile.stacks.len()],
            labels: vec![None; profile.labels.len()],
        }
    }

    /// The node that stands for a stack: its leaf. None for a stack without frames.
    pub(super) fn stack(&mut self, dictionary: &mut Dictionary, index: usize) -> Option<u32> {
        if let Some(known) = self.stacks[index] {
            return known.checked_sub(1);
        }
        let (mut node, mut above): (Option<u32>, u32) = (None, 0);
        for id in self.profile.stacks[index].iter().rev() {
            let location = self.location(dictionary, *id);
            node = Some(dictionary.node(node, location, above));
            above = location;
        }
        self.stacks[index] = Some(node.map_or(0, |node| node + 1));
        node
    }

    /// A label set.
    pub(super) fn labels(&mut self, dictionary: &mut Dictionary, index: usize) -> u32 {
        let profile = self.profile;
        *self.labels[index].get_or_insert_with(|| dictionary.labels(&profile.labels[index]))
    }

    fn location(&mut self, dictionary: &mut Dictionary, id: LocationId) -> u32 {
        let profile = self.profile;
        *self.locations[id.0 as usize]
            .get_or_insert_with(|| dictionary.location(profile, profile.location(id)))
    }
}

fn kind_number(kind: FrameKind) -> u64 {
    match kind {
        FrameKind::Native => 0,
        FrameKind::Kernel => 1,
        FrameKind::Jit => 2,
        FrameKind::Marker => 3,
    }
}
