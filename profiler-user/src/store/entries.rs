//! What windows of one segment share, read back: the reader's side of the [dictionary](super::dictionary).

use std::sync::Arc;

use crate::profile::{
    Frame, FrameKind, Labels, Location, LocationId, Mapping, MappingId, ProfileBuilder, StackId, clean,
};

use super::dictionary::{Dictionary, SECTIONS, Section};
use super::wire::{Cursor, Damage};

/// Frames of one stack. More than any walk takes; a damaged tree cannot make a reader follow a longer one.
const MOST_FRAMES: usize = 4096;

/// Functions at one location. Inlining goes some tens deep.
const MOST_INLINED: usize = 1024;

/// Entries by number. Every reference was checked when it was read.
#[derive(Debug, Default)]
pub(super) struct Entries {
    names: Vec<Arc<str>>,
    mappings: Vec<Mapping>,
    locations: Vec<Location>,
    /// The node towards the root, the location, and the length of the stack.
    nodes: Vec<(Option<u32>, u32, u16)>,
    labels: Vec<Labels>,
}

impl Entries {
    /// Adds the new entries of a record; and to the dictionary that goes on writing the segment, where there is one.
    pub(super) fn add(
        &mut self,
        sections: &[(u64, &[u8]); SECTIONS],
        mut dictionary: Option<&mut Dictionary>,
    ) -> Result<(), Damage> {
        const KINDS: [Section; SECTIONS] =
            [Section::Names, Section::Mappings, Section::Locations, Section::Nodes, Section::Labels];
        for (kind, (count, bytes)) in KINDS.into_iter().zip(sections) {
            let mut cursor = Cursor::new(bytes);
            for _ in 0..*count {
                let before = cursor.rest();
                self.entry(kind, &mut cursor)?;
                let Some(dictionary) = dictionary.as_deref_mut() else { continue };
                match (kind, self.nodes.last()) {
                    (Section::Nodes, Some((parent, location, _))) => dictionary.node(*parent, *location, 0),
                    _ => dictionary.intern(kind, &before[..before.len() - cursor.rest().len()]),
                };
            }
            if !cursor.rest().is_empty() {
                return Err(Damage("bytes behind the last entry"));
            }
        }
        Ok(())
    }

    fn entry(&mut self, kind: Section, cursor: &mut Cursor<'_>) -> Result<(), Damage> {
        match kind {
            Section::Names => {
                let text = std::str::from_utf8(cursor.blob()?).map_err(|_| Damage("a name is not text"))?;
                self.names.push(Arc::from(text));
            }
            Section::Mappings => {
                let (start, limit, file_offset) = (cursor.number()?, cursor.number()?, cursor.number()?);
                let (path, build_id) = (self.read_name(cursor)?, self.read_name(cursor)?.to_string());
                self.mappings.push(Mapping { start, limit, file_offset, path, build_id });
            }
            Section::Locations => {
                let location = self.location(cursor)?;
                self.locations.push(location);
            }
            Section::Nodes => {
                let (parent, above, depth) = match cursor.number()? {
                    0 => (None, 0, 0),
                    back => {
                        let index = (self.nodes.len() as u64).checked_sub(back);
                        let index = index.ok_or(Damage("no such node"))? as u32;
                        let (_, above, depth) = self.nodes[index as usize];
                        (Some(index), above, depth)
                    }
                };
                let location = i64::from(above).checked_add(cursor.signed()?);
                let known = |location: &u32| (*location as usize) < self.locations.len();
                let location = location.and_then(|location| u32::try_from(location).ok()).filter(known);
                let location = location.ok_or(Damage("no such location"))?;
                if usize::from(depth) >= MOST_FRAMES {
                    return Err(Damage("a stack without end"));
                }
                self.nodes.push((parent, location, depth + 1));
            }
            Section::Labels => {
                let (pid, tid) = (cursor.small()?, cursor.small()?);
                let (process, thread) = (self.read_name(cursor)?, self.read_name(cursor)?);
                let cgroup = self.read_option(cursor)?;
                self.labels.push(Labels { pid, tid, process, thread, cgroup, cpu: cursor.option()? });
            }
        }
        Ok(())
    }

    fn location(&self, cursor: &mut Cursor<'_>) -> Result<Location, Damage> {
        let mapping = cursor.option()?;
        if mapping.is_some_and(|id| id as usize >= self.mappings.len()) {
            return Err(Damage("no such mapping"));
        }
        let address = cursor.number()?;
        let kind = match cursor.number()? {
            0 => FrameKind::Native,
            1 => FrameKind::Kernel,
            2 => FrameKind::Jit,
            3 => FrameKind::Marker,
            _ => return Err(Damage("no such kind of frame")),
        };
        let count = cursor.count()?;
        if count == 0 || count > MOST_INLINED {
            return Err(Damage("a location without a function, or with too many"));
        }
        let mut frames = Vec::with_capacity(count);
        for _ in 0..count {
            let function = cursor.number()?;
            let name = u32::try_from(function >> 1).map_err(|_| Damage("no such name"))?;
            let file = self.read_option(cursor)?;
            let function_name = self.cleaned(name)?;
            frames.push(Frame {
                function: function_name,
                file,
                line: cursor.option()?,
                inlined: function & 1 == 1,
            });
        }
        Ok(Location { mapping: mapping.map(MappingId), address, kind, frames })
    }

    fn read_name(&self, cursor: &mut Cursor<'_>) -> Result<Arc<str>, Damage> {
        self.cleaned(cursor.small()?)
    }

    fn read_option(&self, cursor: &mut Cursor<'_>) -> Result<Option<Arc<str>>, Damage> {
        cursor.option()?.map(|id| self.cleaned(id)).transpose()
    }

    /// A name as it was written.
    pub(super) fn raw(&self, id: u32) -> Result<&Arc<str>, Damage> {
        self.names.get(id as usize).ok_or(Damage("no such name"))
    }

    /// A name that is safe to show, whoever wrote the file.
    pub(super) fn cleaned(&self, id: u32) -> Result<Arc<str>, Damage> {
        let name = self.raw(id)?;
        let cleaned = clean(name.as_bytes());
        Ok(if cleaned == **name { Arc::clone(name) } else { Arc::from(cleaned) })
    }

    pub(super) fn labels(&self) -> &[Labels] {
        &self.labels
    }

    pub(super) fn nodes(&self) -> usize {
        self.nodes.len()
    }
}

/// Numbers of one segment's entries in a profile that is being built: each is added when a sample has it.
#[derive(Debug, Default)]
pub(super) struct Placed {
    mappings: Vec<Option<MappingId>>,
    locations: Vec<Option<LocationId>>,
    stacks: Vec<Option<StackId>>,
}

impl Placed {
    /// The stack whose leaf is this node.
    pub(super) fn stack(
        &mut self,
        entries: &Entries,
        builder: &mut ProfileBuilder,
        leaf: Option<u32>,
    ) -> StackId {
        self.stacks.resize(entries.nodes.len() + 1, None);
        let slot = leaf.map_or(0, |leaf| leaf as usize + 1);
        if let Some(known) = self.stacks[slot] {
            return known;
        }
        let mut stack = Vec::new();
        let mut next = leaf;
        while let Some(node) = next {
            let (parent, location, _) = entries.nodes[node as usize];
            stack.push(self.location(entries, builder, location));
            next = parent;
        }
        let id = builder.stack(stack);
        self.stacks[slot] = Some(id);
        id
    }

    fn location(&mut self, entries: &Entries, builder: &mut ProfileBuilder, index: u32) -> LocationId {
        self.locations.resize(entries.locations.len(), None);
        if let Some(known) = self.locations[index as usize] {
            return known;
        }
        let mut location = entries.locations[index as usize].clone();
        for frame in &mut location.frames {
            frame.function = builder.name(&frame.function);
            frame.file = frame.file.take().map(|file| builder.name(&file));
        }
        location.mapping = location.mapping.map(|id| {
            self.mappings.resize(entries.mappings.len(), None);
            *self.mappings[id.0 as usize]
                .get_or_insert_with(|| builder.mapping(entries.mappings[id.0 as usize].clone()))
        });
        let id = builder.location(location);
        self.locations[index as usize] = Some(id);
        id
    }
}
