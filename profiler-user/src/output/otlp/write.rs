//! The OTLP writer.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;

use prost::Message;

use super::proto::any_value::Value;
use super::proto::{
    AnyValue, ExportProfilesServiceRequest, Function, InstrumentationScope, KeyValue, KeyValueAndUnit, Line,
    Link, Location, Mapping, Profile as Written, ProfilesDictionary, Resource, ResourceProfiles, Sample,
    ScopeProfiles, Stack, ValueType,
};
use crate::output::{OutputError, OutputOptions};
use crate::profile::{FrameKind, Labels, Profile};
use crate::system::target::{Home, container_name};

/// Writes `profile` as an uncompressed request.
pub(in crate::output) fn write(
    profile: &Profile,
    _: &OutputOptions,
    out: &mut dyn Write,
) -> Result<(), OutputError> {
    write_with(profile, &[], out)
}

/// The same, with more attributes of the source.
pub(crate) fn write_with(
    profile: &Profile,
    attributes: &[(String, String)],
    out: &mut dyn Write,
) -> Result<(), OutputError> {
    out.write_all(&request(profile, attributes).encode_to_vec())?;
    Ok(())
}

fn request(profile: &Profile, attributes: &[(String, String)]) -> ExportProfilesServiceRequest {
    let mut tables = Tables::new();
    let mappings: Vec<i32> = profile.mappings.iter().map(|mapping| tables.mapping(mapping)).collect();
    let locations: Vec<i32> =
        profile.locations.iter().map(|location| tables.location(location, &mappings)).collect();
    let stacks: Vec<i32> = profile
        .stacks
        .iter()
        .map(|stack| {
            let location_indices = stack.iter().map(|id| locations[id.0 as usize]).collect();
            push(&mut tables.dictionary.stack_table, Stack { location_indices })
        })
        .collect();
    let labels: Vec<Vec<i32>> = profile.labels.iter().map(|labels| tables.labels(labels)).collect();
    let types: Vec<ValueType> = profile
        .value_types
        .iter()
        .map(|value| ValueType {
            type_strindex: tables.string(&value.kind),
            unit_strindex: tables.string(&value.unit),
        })
        .collect();
    let profiles = types.iter().enumerate().map(|(index, sample_type)| Written {
        sample_type: Some(*sample_type),
        samples: profile
            .samples
            .iter()
            .map(|sample| Sample {
                stack_index: stacks[sample.stack.0 as usize],
                attribute_indices: labels[sample.labels.0 as usize].clone(),
                link_index: 0,
                values: vec![signed(sample.values.get(index).copied().unwrap_or_default())],
            })
            .collect(),
        time_unix_nano: profile.meta.start_unix_ns,
        duration_nano: profile.meta.duration_ns,
        period_type: types.last().copied(),
        period: signed(profile.meta.period),
        profile_id: id(profile, index).to_vec(),
    });
    let scope =
        InstrumentationScope { name: "perf-agent".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() };
    let scope_profiles = vec![ScopeProfiles { scope: Some(scope), profiles: profiles.collect() }];
    ExportProfilesServiceRequest {
        resource_profiles: vec![ResourceProfiles {
            resource: Some(resource(profile, attributes)),
            scope_profiles,
        }],
        dictionary: Some(tables.dictionary),
    }
}

/// The host, in the words of OpenTelemetry's semantic conventions.
fn resource(profile: &Profile, attributes: &[(String, String)]) -> Resource {
    let meta = &profile.meta;
    let known = [
        ("host.name", &meta.host),
        ("os.version", &meta.kernel),
        ("perf_agent.profile_type", &meta.profile_type),
    ];
    let known = known
        .into_iter()
        .filter(|(key, value)| !value.is_empty() && !attributes.iter().any(|(given, _)| given == key));
    let known = known.map(|(key, value)| (key.to_owned(), value.clone()));
    let mut all: Vec<(String, String)> = vec![("os.type".to_owned(), "linux".to_owned())];
    all.extend(known);
    all.extend(attributes.iter().cloned());
    if !all.iter().any(|(key, _)| key == "service.name") {
        all.push(("service.name".to_owned(), "perf-agent".to_owned()));
    }
    let attributes = all.into_iter().map(|(key, value)| KeyValue { key, value: Some(text(&value)) });
    Resource { attributes: attributes.collect() }
}

/// Names a profile: a receiver that gets it twice can tell. Not random, so that the same profile has the same name.
fn id(profile: &Profile, index: usize) -> [u8; 16] {
    let meta = &profile.meta;
    let mut bytes = [0; 16];
    for (salt, half) in bytes.chunks_mut(8).enumerate() {
        let mut hasher = DefaultHasher::new();
        (salt, index, &meta.host, &meta.profile_type, meta.start_unix_ns, meta.duration_ns).hash(&mut hasher);
        half.copy_from_slice(&hasher.finish().to_be_bytes());
    }
    bytes
}

fn text(text: &str) -> AnyValue {
    AnyValue { value: Some(Value::Text(text.to_owned())) }
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn push<T>(table: &mut Vec<T>, entry: T) -> i32 {
    table.push(entry);
    // A profile has fewer entries of any kind than that.
    i32::try_from(table.len() - 1).unwrap_or_default()
}

/// The dictionary, and where things are in it.
struct Tables {
    dictionary: ProfilesDictionary,
    strings: HashMap<String, i32>,
    functions: HashMap<Function, i32>,
    attributes: HashMap<(i32, Value), i32>,
}

impl Tables {
    fn new() -> Self {
        let dictionary = ProfilesDictionary {
            mapping_table: vec![Mapping::default()],
            location_table: vec![Location::default()],
            function_table: vec![Function::default()],
            link_table: vec![Link::default()],
            string_table: vec![String::new()],
            attribute_table: vec![KeyValueAndUnit::default()],
            stack_table: vec![Stack::default()],
        };
        let strings = HashMap::from([(String::new(), 0)]);
        Self { dictionary, strings, functions: HashMap::new(), attributes: HashMap::new() }
    }

    fn string(&mut self, text: &str) -> i32 {
        if let Some(known) = self.strings.get(text) {
            return *known;
        }
        let index = push(&mut self.dictionary.string_table, text.to_owned());
        self.strings.insert(text.to_owned(), index);
        index
    }

    fn attribute(&mut self, key: &str, value: Value) -> i32 {
        let key_strindex = self.string(key);
        let table = &mut self.dictionary.attribute_table;
        *self.attributes.entry((key_strindex, value)).or_insert_with_key(|(_, value)| {
            let value = Some(AnyValue { value: Some(value.clone()) });
            push(table, KeyValueAndUnit { key_strindex, value, unit_strindex: 0 })
        })
    }

    fn named(&mut self, key: &str, value: &str) -> i32 {
        self.attribute(key, Value::Text(value.to_owned()))
    }

    fn mapping(&mut self, mapping: &crate::profile::Mapping) -> i32 {
        let mut attribute_indices = Vec::new();
        if !mapping.build_id.is_empty() {
            attribute_indices.push(self.named("process.executable.build_id.gnu", &mapping.build_id));
        }
        let filename_strindex = self.string(&mapping.path);
        let (memory_start, memory_limit, file_offset) = (mapping.start, mapping.limit, mapping.file_offset);
        push(
            &mut self.dictionary.mapping_table,
            Mapping { memory_start, memory_limit, file_offset, filename_strindex, attribute_indices },
        )
    }

    fn location(&mut self, location: &crate::profile::Location, mappings: &[i32]) -> i32 {
        let kind = match location.kind {
            FrameKind::Native => "native",
            FrameKind::Kernel => "kernel",
            FrameKind::Jit => "jit",
            FrameKind::Marker => "marker",
        };
        let lines = location.frames.iter().map(|frame| {
            let name_strindex = self.string(&frame.function);
            let filename_strindex = frame.file.as_ref().map_or(0, |file| self.string(file));
            let function = Function { name_strindex, filename_strindex };
            let table = &mut self.dictionary.function_table;
            let function_index = *self.functions.entry(function).or_insert_with(|| push(table, function));
            Line { function_index, line: frame.line.map_or(0, i64::from) }
        });
        let lines = lines.collect();
        let attribute_indices = vec![self.named("profile.frame.type", kind)];
        let mapping_index = location.mapping.map_or(0, |id| mappings[id.0 as usize]);
        let table = &mut self.dictionary.location_table;
        push(table, Location { mapping_index, address: location.address, lines, attribute_indices })
    }

    fn labels(&mut self, labels: &Labels) -> Vec<i32> {
        let mut all = vec![
            self.attribute("process.pid", Value::Number(labels.pid.into())),
            self.attribute("thread.id", Value::Number(labels.tid.into())),
            self.named("process.executable.name", &labels.process),
            self.named("thread.name", &labels.thread),
        ];
        if let Some(cgroup) = &labels.cgroup {
            all.push(self.named("linux.cgroup", cgroup));
            let home = Home::of_group(cgroup);
            if let Some(container) = home.container {
                all.push(self.named("container.id", &container.id));
                if let Some(known) = container_name(&container.id) {
                    all.push(self.named("container.name", &known.name));
                    all.extend(known.pod.as_ref().map(|pod| self.named("k8s.pod.name", pod)));
                    all.extend(known.namespace.as_ref().map(|name| self.named("k8s.namespace.name", name)));
                }
            }
        }
        all.extend(labels.cpu.map(|cpu| self.attribute("cpu.logical_number", Value::Number(cpu.into()))));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::fixture;

    #[test]
    fn what_is_written_refers_to_what_is_there_and_keeps_the_sums() {
        for profile in [fixture::hostile(), fixture::recursive(), fixture::empty(), Profile::default()] {
            let mut bytes = Vec::new();
            write(&profile, &OutputOptions::default(), &mut bytes).unwrap();
            let read = ExportProfilesServiceRequest::decode(&*bytes).unwrap();
            let dictionary = read.dictionary.unwrap();
            let written = &read.resource_profiles[0].scope_profiles[0].profiles;
            assert_eq!(written.len(), profile.value_types.len());
            for (index, written) in written.iter().enumerate() {
                let sum: i64 = written.samples.iter().map(|sample| sample.values[0]).sum();
                assert_eq!(sum as u64, profile.total(index));
                for (sample, original) in written.samples.iter().zip(&profile.samples) {
                    let stack = &dictionary.stack_table[sample.stack_index as usize];
                    let names = stack.location_indices.iter().flat_map(|index| {
                        let location = &dictionary.location_table[*index as usize];
                        location.lines.iter().map(|line| {
                            let function = &dictionary.function_table[line.function_index as usize];
                            dictionary.string_table[function.name_strindex as usize].clone()
                        })
                    });
                    let known =
                        profile.stack(original.stack).iter().flat_map(|id| &profile.location(*id).frames);
                    assert!(names.eq(known.map(|frame| frame.function.to_string())));
                    assert!(sample.attribute_indices.iter().all(|index| *index > 0));
                }
            }
            assert_eq!(dictionary.string_table[0], "");
            assert_eq!(dictionary.stack_table[0], Stack::default());
            assert_eq!(dictionary.attribute_table[0], KeyValueAndUnit::default());
        }
    }

    #[test]
    fn a_profile_keeps_its_name_and_parts_have_their_own() {
        let profile = fixture::hostile();
        assert_eq!(id(&profile, 0), id(&profile, 0));
        assert_ne!(id(&profile, 0), id(&profile, 1));
        let given = [("service.name".to_owned(), "shop".to_owned())];
        let attributes = resource(&profile, &given).attributes;
        assert_eq!(attributes.iter().filter(|attribute| attribute.key == "service.name").count(), 1);
    }
}
