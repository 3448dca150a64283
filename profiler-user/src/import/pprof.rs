//! Reads pprof's profile.proto, plain or compressed with gzip.
//!
//! Two walks over the unpacked bytes: the first indexes strings, functions and mappings, which samples refer to but
//! which may come after them; the second builds the model.

use std::collections::HashMap;
use std::io::Read;
use std::mem::size_of;
use std::sync::Arc;

use flate2::read::MultiGzDecoder;

use super::FormatError;
use super::foreign::{cleaned_meta, cleaned_quality, describe, nameless};
use super::limits::{Budget, MAX_FRAMES, MAX_STACK_FRAMES, frames_limit, too_large, unpacked_limit};
use super::tables::{MAP_ENTRY, Tables};
use super::wire::Fields;
use crate::output::pprof::extra::{Extra, guess_kind};
use crate::output::pprof::proto;
use crate::profile::{
    Frame, FrameKind, Labels, LeakStack, Location, LocationId, Mapping, MappingId, Meta, Profile,
    ProfileBuilder, Quality, StackId, ValueType,
};

/// Reads a pprof profile.
///
/// # Errors
/// When it is damaged, cut off, too large, or refers to what it does not contain.
pub fn read_pprof(bytes: &[u8]) -> Result<Profile, FormatError> {
    let unpacked;
    let bytes = if bytes.starts_with(&[0x1f, 0x8b]) {
        unpacked = unpack(bytes)?;
        &unpacked
    } else {
        bytes
    };
    let tables = Tables::read(bytes)?;
    Model::new(&tables)?.read(bytes)
}

fn unpack(bytes: &[u8]) -> Result<Vec<u8>, FormatError> {
    let limit = unpacked_limit(bytes.len());
    let mut unpacked = Vec::new();
    let read = MultiGzDecoder::new(bytes).take(limit + 1).read_to_end(&mut unpacked);
    read.map_err(|error| FormatError::Gzip { unpacked: unpacked.len(), reason: error.to_string() })?;
    if unpacked.len() as u64 > limit {
        return Err(too_large("the unpacked file is", limit));
    }
    Ok(unpacked)
}

/// The model while it is being built.
struct Model<'t, 'a> {
    tables: &'t Tables<'a>,
    budget: Budget,
    builder: ProfileBuilder,
    names: Vec<Option<Arc<str>>>,
    mappings: HashMap<u64, (MappingId, Arc<str>)>,
    locations: HashMap<u64, (LocationId, usize)>,
    extra: Option<Extra<'static>>,
    kinds: HashMap<u64, FrameKind>,
    process: Arc<str>,
    frames: usize,
    /// The stack of each sample, where something refers to it.
    stacks: Vec<StackId>,
}

impl<'t, 'a> Model<'t, 'a> {
    fn new(tables: &'t Tables<'a>) -> Result<Self, FormatError> {
        let mut budget = tables.budget.clone();
        let mut value_types = Vec::with_capacity(tables.value_types.len());
        for value in &tables.value_types {
            value_types.push(ValueType { kind: tables.text(value.kind)?, unit: tables.text(value.unit)? });
        }
        let last = tables.strings.last().and_then(|text| std::str::from_utf8(text).ok());
        let extra = last.and_then(Extra::from_text);
        let mut kinds = HashMap::new();
        for (kind, locations) in extra.iter().flat_map(|extra| &extra.kinds) {
            budget.spend(locations.len() * (size_of::<(u64, FrameKind)>() + MAP_ENTRY))?;
            kinds.extend(locations.iter().map(|location| (*location, *kind)));
        }
        budget.spend(tables.strings.len() * size_of::<Option<Arc<str>>>())?;
        let mut model = Self {
            tables,
            budget,
            builder: ProfileBuilder::new(value_types),
            names: vec![None; tables.strings.len()],
            mappings: HashMap::new(),
            locations: HashMap::new(),
            extra,
            kinds,
            process: Arc::from("[unknown]"),
            frames: 0,
            stacks: Vec::new(),
        };
        for (index, mapping) in tables.mappings.iter().enumerate() {
            let path = model.name(mapping.filename)?;
            let entry = Mapping {
                start: mapping.memory_start,
                limit: mapping.memory_limit,
                file_offset: mapping.file_offset,
                path: Arc::clone(&path),
                build_id: tables.text(mapping.build_id)?,
            };
            if index == 0 && !entry.module().is_empty() {
                model.process = model.builder.name(entry.module());
            }
            model.budget.spend(entry.build_id.len() * 2)?;
            let id = model.builder.mapping(entry);
            model.mappings.insert(mapping.id, (id, path));
        }
        Ok(model)
    }

    fn read(mut self, bytes: &[u8]) -> Result<Profile, FormatError> {
        for field in Fields::new(bytes) {
            let field = field?;
            if field.number == 4 {
                self.location(&field.message("location")?)?;
            }
        }
        for field in Fields::new(bytes) {
            let field = field?;
            if field.number == 2 {
                let sample: proto::Sample = field.message("sample")?;
                self.sample(&sample, field.offset)?;
            }
        }
        let Self { tables, builder, extra, stacks, .. } = self;
        let mut profile = builder.finish(Meta::default(), Quality::default());
        if let Some(extra) = extra {
            profile.meta = cleaned_meta(extra.meta.into_owned());
            let known = extra.leaks.into_iter().filter_map(|(sample, sums)| {
                let stack = *stacks.get(usize::try_from(sample).ok()?)?;
                Some(LeakStack { stack, sums: sums.into_owned() })
            });
            if let Some(leaks) = &mut profile.meta.leaks {
                leaks.stacks = known.collect();
                leaks.cut();
            }
            profile.quality = cleaned_quality(extra.quality.into_owned());
        } else {
            let unsigned = |value: i64| u64::try_from(value).unwrap_or(0);
            profile.meta.start_unix_ns = unsigned(tables.time_nanos);
            profile.meta.duration_ns = unsigned(tables.duration_nanos);
            profile.meta.period = unsigned(tables.period);
            describe(&mut profile);
        }
        Ok(profile)
    }

    /// The cleaned text of a string, made once.
    fn name(&mut self, id: i64) -> Result<Arc<str>, FormatError> {
        let index = usize::try_from(id).unwrap_or(usize::MAX);
        if let Some(Some(name)) = self.names.get(index) {
            return Ok(Arc::clone(name));
        }
        let text = self.tables.text(id)?;
        self.budget.spend(text.len() * 2 + MAP_ENTRY)?;
        let name = self.builder.name(&text);
        if let Some(slot) = self.names.get_mut(index) {
            *slot = Some(Arc::clone(&name));
        }
        Ok(name)
    }

    fn location(&mut self, location: &proto::Location) -> Result<(), FormatError> {
        let mapping = match location.mapping_id {
            0 => None,
            id => Some(self.mappings.get(&id).cloned().ok_or(FormatError::Dangling { what: "mapping", id })?),
        };
        let count = location.line.len().max(1);
        self.budget.spend(2 * (size_of::<Location>() + count * size_of::<Frame>()) + MAP_ENTRY)?;
        let mut frames = Vec::with_capacity(count);
        for (index, line) in location.line.iter().enumerate() {
            let id = line.function_id;
            let function =
                self.tables.functions.get(&id).ok_or(FormatError::Dangling { what: "function", id })?;
            let file = Some(self.name(function.filename)?).filter(|file| !file.is_empty());
            frames.push(Frame {
                function: self.name(if function.name == 0 { function.system_name } else { function.name })?,
                file,
                line: u32::try_from(line.line).ok().filter(|line| *line > 0),
                inlined: index + 1 < location.line.len(),
            });
        }
        if frames.is_empty() {
            let name = nameless(mapping.as_ref().map(|(_, path)| &**path), location.address);
            let function = self.builder.name(&name);
            frames.push(Frame { function, file: None, line: None, inlined: false });
        }
        let guess = guess_kind(mapping.as_ref().map(|(_, path)| &**path), &frames[0].function);
        let kind = self.kinds.get(&location.id).copied().unwrap_or(guess);
        let id = self.builder.location(Location {
            mapping: mapping.map(|(id, _)| id),
            address: location.address,
            kind,
            frames,
        });
        self.locations.insert(location.id, (id, count));
        Ok(())
    }

    fn sample(&mut self, sample: &proto::Sample, offset: usize) -> Result<(), FormatError> {
        let damaged = |what: &str| FormatError::Damaged { offset, what: what.to_owned() };
        if sample.value.len() != self.tables.value_types.len() {
            return Err(damaged("a sample whose number of values differs from the number of value types"));
        }
        let mut values = Vec::with_capacity(sample.value.len());
        for value in &sample.value {
            let negative = |_| damaged("a negative value, as in a difference of two profiles");
            values.push(u64::try_from(*value).map_err(negative)?);
        }
        let mut stack = Vec::with_capacity(sample.location_id.len());
        let mut frames = 0;
        for id in &sample.location_id {
            let known = self.locations.get(id);
            let (location, count) = known.ok_or(FormatError::Dangling { what: "location", id: *id })?;
            stack.push(*location);
            frames += count;
        }
        if frames > MAX_STACK_FRAMES {
            return Err(FormatError::TooLarge { what: "a stack is", limit: frames_limit(MAX_STACK_FRAMES) });
        }
        self.frames += frames;
        if self.frames > MAX_FRAMES {
            return Err(FormatError::TooLarge {
                what: "all stacks together are",
                limit: frames_limit(MAX_FRAMES),
            });
        }
        self.budget.spend(stack.len() * 2 * size_of::<LocationId>() + values.len() * 8 + 3 * MAP_ENTRY)?;
        let labels = self.labels(&sample.label)?;
        self.budget.spend(size_of::<Labels>())?;
        let labels = self.builder.labels(labels);
        let stack = self.builder.stack(stack);
        if self.extra.as_ref().is_some_and(|extra| !extra.leaks.is_empty()) {
            self.budget.spend(2 * size_of::<StackId>())?;
            self.stacks.push(stack);
        }
        self.builder.add(stack, labels, &values);
        Ok(())
    }

    fn labels(&mut self, list: &[proto::Label]) -> Result<Labels, FormatError> {
        let (mut pid, mut tid, mut cpu) = (0, 0, None);
        let (mut process, mut thread, mut cgroup) = (None, None, None);
        for label in list {
            let number = u32::try_from(label.num).unwrap_or(0);
            match self.tables.bytes(label.key)? {
                b"pid" | b"process_id" => pid = number,
                b"tid" | b"thread_id" => tid = number,
                b"cpu" if label.str != 0 => cpu = self.name(label.str)?.parse().ok(),
                b"cpu" => cpu = Some(number),
                b"process" | b"process_name" => process = Some(self.name(label.str)?),
                b"comm" | b"thread" | b"thread_name" => thread = Some(self.name(label.str)?),
                b"cgroup" => cgroup = Some(self.name(label.str)?),
                _ => {}
            }
        }
        let process = process.or_else(|| thread.clone()).unwrap_or_else(|| Arc::clone(&self.process));
        let thread = thread.unwrap_or_else(|| Arc::clone(&process));
        Ok(Labels { pid, tid, process, thread, cgroup, cpu })
    }
}
