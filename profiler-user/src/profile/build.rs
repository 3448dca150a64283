//! Puts a [`Profile`] together: interns its mappings, locations, stacks and label sets, and adds up equal samples.

use std::collections::HashMap;
use std::sync::Arc;

use crate::intern::Interner;

use super::{
    Labels, LabelsId, Location, LocationId, Mapping, MappingId, Meta, Profile, Quality, Sample, StackId,
    ValueType,
};

/// Builds a profile. Equal mappings, locations, stacks and labels get one entry each; samples with the same stack
/// and labels are added up, so the result does not depend on the order in which they came.
#[derive(Debug, Default)]
pub struct ProfileBuilder {
    value_types: Vec<ValueType>,
    names: HashMap<Box<str>, Arc<str>>,
    mappings: Interner<Mapping>,
    locations: Interner<Location>,
    stacks: Interner<Vec<LocationId>>,
    labels: Interner<Labels>,
    samples: Vec<Sample>,
    sample_index: HashMap<(StackId, LabelsId), usize>,
}

impl ProfileBuilder {
    /// A builder for samples that carry one value per entry of `value_types`.
    pub fn new(value_types: Vec<ValueType>) -> Self {
        Self { value_types, ..Self::default() }
    }

    /// The shared copy of a name. The caller has cleaned it (see [`super::clean`]).
    pub fn name(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.names.get(name) {
            return Arc::clone(known);
        }
        let shared: Arc<str> = Arc::from(name);
        self.names.insert(Box::from(name), Arc::clone(&shared));
        shared
    }

    /// Adds an object, or finds the equal one.
    pub fn mapping(&mut self, mapping: Mapping) -> MappingId {
        MappingId(self.mappings.intern(mapping))
    }

    /// Adds a location, or finds the equal one.
    pub fn location(&mut self, location: Location) -> LocationId {
        LocationId(self.locations.intern(location))
    }

    /// A location that was added before.
    pub fn location_of(&self, id: LocationId) -> &Location {
        &self.locations.entries()[id.0 as usize]
    }

    /// Adds a stack (leaf first), or finds the equal one.
    pub fn stack(&mut self, stack: Vec<LocationId>) -> StackId {
        StackId(self.stacks.intern(stack))
    }

    /// Adds a label set, or finds the equal one.
    pub fn labels(&mut self, labels: Labels) -> LabelsId {
        LabelsId(self.labels.intern(labels))
    }

    /// Adds values to the sample of this stack and these labels. Missing values count as zero, extra ones are ignored.
    pub fn add(&mut self, stack: StackId, labels: LabelsId, values: &[u64]) {
        let index = *self.sample_index.entry((stack, labels)).or_insert_with(|| {
            self.samples.push(Sample { stack, labels, values: vec![0; self.value_types.len()] });
            self.samples.len() - 1
        });
        for (sum, value) in self.samples[index].values.iter_mut().zip(values) {
            *sum = sum.saturating_add(*value);
        }
    }

    /// The finished profile.
    pub fn finish(self, meta: Meta, quality: Quality) -> Profile {
        Profile {
            meta,
            value_types: self.value_types,
            mappings: self.mappings.into_entries(),
            locations: self.locations.into_entries(),
            stacks: self.stacks.into_entries(),
            labels: self.labels.into_entries(),
            samples: self.samples,
            quality,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::{Frame, FrameKind};

    fn labels(builder: &mut ProfileBuilder, tid: u32) -> LabelsId {
        let name = builder.name("worker");
        builder.labels(Labels {
            pid: 7,
            tid,
            process: Arc::clone(&name),
            thread: name,
            cgroup: None,
            cpu: None,
        })
    }

    fn location(builder: &mut ProfileBuilder, name: &str) -> LocationId {
        let function = builder.name(name);
        builder.location(Location {
            mapping: None,
            address: 0,
            kind: FrameKind::Native,
            frames: vec![Frame { function, file: None, line: None, inlined: false }],
        })
    }

    #[test]
    fn equal_samples_are_added_up() {
        let mut builder = ProfileBuilder::new(vec![
            ValueType::new("samples", "count"),
            ValueType::new("cpu", "nanoseconds"),
        ]);
        let (main, work) = (location(&mut builder, "main"), location(&mut builder, "work"));
        assert_eq!(main, location(&mut builder, "main"));
        let stack = builder.stack(vec![work, main]);
        let (one, two) = (labels(&mut builder, 1), labels(&mut builder, 2));
        builder.add(stack, one, &[1, 10]);
        builder.add(stack, two, &[1, 10]);
        builder.add(stack, one, &[2, 20]);
        let profile = builder.finish(Meta::default(), Quality::default());
        assert_eq!(profile.samples.len(), 2);
        assert_eq!(profile.samples[0].values, [3, 30]);
        assert_eq!((profile.total(0), profile.total(1)), (4, 40));
        assert_eq!(profile.default_value(), 1);
    }
}
