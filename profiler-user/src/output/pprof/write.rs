//! The pprof writer. Encodes in pieces, so that a large profile is never in memory twice.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io::{self, Write};

use flate2::Compression;
use flate2::write::GzEncoder;
use prost::Message;

use super::extra::Extra;
use super::proto;
use crate::output::quality::quality_line;
use crate::output::{OutputError, OutputOptions, describe_recording};
use crate::profile::{Labels, Profile};

/// Samples or locations in one piece.
const PIECE: usize = 1024;

/// Writes `profile` as gzip'd pprof.
pub(in crate::output) fn write(
    profile: &Profile,
    options: &OutputOptions,
    out: &mut dyn Write,
) -> Result<(), OutputError> {
    // Level 3 takes a third of the default level's time for a few percent more bytes.
    let mut gzip = GzEncoder::new(out, Compression::new(3));
    write_uncompressed(profile, options, &mut gzip)?;
    gzip.finish()?;
    Ok(())
}

/// Writes `profile` as plain pprof.
pub(in crate::output) fn write_uncompressed(
    profile: &Profile,
    _: &OutputOptions,
    out: &mut dyn Write,
) -> Result<(), OutputError> {
    let mut pieces = Pieces { out, buffer: Vec::new() };
    let mut strings = Strings::new();
    let value_types: Vec<proto::ValueType> = profile
        .value_types
        .iter()
        .map(|value| proto::ValueType { kind: strings.id(&*value.kind), unit: strings.id(&*value.unit) })
        .collect();
    write_samples(profile, &mut strings, &mut pieces)?;
    write_objects(profile, &mut strings, &mut pieces)?;
    let comment = [recorded(profile), quality_line(&profile.quality)].map(|line| strings.id(line)).to_vec();
    pieces.put(&proto::Profile {
        period_type: value_types.last().copied(),
        default_sample_type: value_types.last().map_or(0, |value| value.kind),
        sample_type: value_types,
        time_nanos: signed(profile.meta.start_unix_ns),
        duration_nanos: signed(profile.meta.duration_ns),
        period: signed(profile.meta.period),
        comment,
        ..proto::Profile::default()
    })?;
    for strings in strings.table.chunks(PIECE) {
        let string_table = strings.iter().map(|text| text.clone().into_owned()).collect();
        pieces.put(&proto::Profile { string_table, ..proto::Profile::default() })?;
    }
    // Always the last one: a function of a hostile program may be named like it, but never comes after it.
    let string_table = Extra::of(profile).to_text().into_iter().collect();
    pieces.put(&proto::Profile { string_table, ..proto::Profile::default() })?;
    Ok(())
}

/// What was recorded, for people.
fn recorded(profile: &Profile) -> String {
    let mut parts = vec![format!("perf-agent {}", env!("CARGO_PKG_VERSION"))];
    parts.extend([&profile.meta.profile_type, &profile.meta.target].map(Clone::clone));
    parts.extend(describe_recording(profile));
    parts.retain(|part| !part.is_empty());
    parts.join(" · ")
}

fn write_samples<'p>(
    profile: &'p Profile,
    strings: &mut Strings<'p>,
    pieces: &mut Pieces<'_>,
) -> io::Result<()> {
    let labels: Vec<Vec<proto::Label>> =
        profile.labels.iter().map(|labels| label_list(labels, strings)).collect();
    for samples in profile.samples.chunks(PIECE) {
        let sample = samples.iter().map(|sample| proto::Sample {
            location_id: profile.stack(sample.stack).iter().map(|id| u64::from(id.0) + 1).collect(),
            value: sample.values.iter().copied().map(signed).collect(),
            label: labels[sample.labels.0 as usize].clone(),
        });
        pieces.put(&proto::Profile { sample: sample.collect(), ..proto::Profile::default() })?;
    }
    Ok(())
}

fn label_list<'p>(labels: &'p Labels, strings: &mut Strings<'p>) -> Vec<proto::Label> {
    let mut list = Vec::new();
    for (key, num) in [("pid", labels.pid), ("tid", labels.tid)] {
        list.push(proto::Label { key: strings.id(key), str: 0, num: i64::from(num) });
    }
    // comm is the kernel's word for the name of a thread, and what other profilers call this label.
    for (key, text) in [("process", &labels.process), ("comm", &labels.thread)] {
        list.push(proto::Label { key: strings.id(key), str: strings.id(&**text), num: 0 });
    }
    if let Some(cgroup) = &labels.cgroup {
        list.push(proto::Label { key: strings.id("cgroup"), str: strings.id(&**cgroup), num: 0 });
    }
    if let Some(cpu) = labels.cpu {
        // As text: readers take a number label of 0 for a missing one.
        list.push(proto::Label { key: strings.id("cpu"), str: strings.id(cpu.to_string()), num: 0 });
    }
    list
}

/// Mappings, locations and functions.
fn write_objects<'p>(
    profile: &'p Profile,
    strings: &mut Strings<'p>,
    pieces: &mut Pieces<'_>,
) -> io::Result<()> {
    let mut mappings: Vec<proto::Mapping> = profile
        .mappings
        .iter()
        .enumerate()
        .map(|(index, mapping)| proto::Mapping {
            id: index as u64 + 1,
            memory_start: mapping.start,
            memory_limit: mapping.limit,
            file_offset: mapping.file_offset,
            filename: strings.id(&*mapping.path),
            build_id: strings.id(&*mapping.build_id),
            // Names are final here: without this pprof would look for the binaries and symbolize again.
            has_functions: true,
            ..proto::Mapping::default()
        })
        .collect();
    let mut functions: HashMap<(i64, i64), u64> = HashMap::new();
    let mut function_list = Vec::new();
    let mut list = Vec::with_capacity(PIECE);
    for (index, location) in profile.locations.iter().enumerate() {
        let mut line = Vec::with_capacity(location.frames.len());
        for frame in &location.frames {
            let name = strings.id(&*frame.function);
            let filename = frame.file.as_ref().map_or(0, |file| strings.id(&**file));
            // No system name: where it equals the name, pprof demangles once more and cuts `<…>` out of it.
            let function_id = *functions.entry((name, filename)).or_insert_with(|| {
                let id = function_list.len() as u64 + 1;
                function_list.push(proto::Function { id, name, system_name: 0, filename });
                id
            });
            line.push(proto::Line { function_id, line: frame.line.map_or(0, i64::from) });
        }
        if let Some(mapping) = location.mapping.map(|id| &mut mappings[id.0 as usize]) {
            mapping.has_filenames |= location.frames.iter().any(|frame| frame.file.is_some());
            mapping.has_line_numbers |= location.frames.iter().any(|frame| frame.line.is_some());
            mapping.has_inline_frames |= location.frames.len() > 1;
        }
        list.push(proto::Location {
            id: index as u64 + 1,
            mapping_id: location.mapping.map_or(0, |id| u64::from(id.0) + 1),
            address: location.address,
            line,
        });
        if list.len() == PIECE {
            pieces
                .put(&proto::Profile { location: std::mem::take(&mut list), ..proto::Profile::default() })?;
        }
    }
    pieces.put(&proto::Profile { mapping: mappings, location: list, ..proto::Profile::default() })?;
    pieces.put(&proto::Profile { function: function_list, ..proto::Profile::default() })
}

/// Writes a message in pieces: protobuf reads encoded messages one after the other as one merged message.
struct Pieces<'w> {
    out: &'w mut dyn Write,
    buffer: Vec<u8>,
}

impl Pieces<'_> {
    fn put(&mut self, piece: &proto::Profile) -> io::Result<()> {
        self.buffer.clear();
        piece.encode(&mut self.buffer).map_err(io::Error::other)?;
        self.out.write_all(&self.buffer)
    }
}

/// The string table. Entry 0 is the empty string, as the format demands.
struct Strings<'p> {
    ids: HashMap<Cow<'p, str>, i64>,
    table: Vec<Cow<'p, str>>,
}

impl<'p> Strings<'p> {
    fn new() -> Self {
        let mut strings = Self { ids: HashMap::new(), table: Vec::new() };
        strings.id("");
        strings
    }

    fn id(&mut self, text: impl Into<Cow<'p, str>>) -> i64 {
        let text = text.into();
        if let Some(id) = self.ids.get(&text) {
            return *id;
        }
        let id = self.table.len() as i64;
        self.table.push(text.clone());
        self.ids.insert(text, id);
        id
    }
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::fixture;

    #[test]
    fn golden() {
        let mut out = Vec::new();
        write_uncompressed(&fixture::hostile(), &OutputOptions::default(), &mut out).unwrap();
        fixture::golden("hostile.pb", out);
    }
}
