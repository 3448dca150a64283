//! Profiles put together, or a part of one taken out.

use std::collections::HashMap;

use super::{Labels, LabelsId, LocationId, MappingId, Profile, ProfileBuilder, StackId};

impl ProfileBuilder {
    /// Adds the samples of a profile whose labels are wanted, with all that they refer to. Its values must mean what the builder's mean.
    pub fn add_profile(&mut self, profile: &Profile, is_wanted: impl Fn(&Labels) -> bool) {
        let mut mappings: HashMap<MappingId, MappingId> = HashMap::new();
        let mut locations: HashMap<LocationId, LocationId> = HashMap::new();
        let mut stacks: HashMap<StackId, StackId> = HashMap::new();
        let labels: Vec<Option<LabelsId>> = profile
            .labels
            .iter()
            .map(|labels| is_wanted(labels).then(|| self.labels(labels.clone())))
            .collect();
        for sample in &profile.samples {
            let Some(labels) = labels.get(sample.labels.0 as usize).copied().flatten() else { continue };
            let stack = *stacks.entry(sample.stack).or_insert_with(|| {
                let frames = profile.stack(sample.stack).iter().map(|id| {
                    *locations.entry(*id).or_insert_with(|| {
                        let mut location = profile.location(*id).clone();
                        location.mapping = location.mapping.map(|id| {
                            let known = mappings.entry(id);
                            *known.or_insert_with(|| self.mapping(profile.mappings[id.0 as usize].clone()))
                        });
                        self.location(location)
                    })
                });
                let frames = frames.collect();
                self.stack(frames)
            });
            self.add(stack, labels, &sample.values);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::fixture;

    #[test]
    fn parts_make_up_the_whole_and_the_whole_twice_is_twice_as_much() {
        let profile = fixture::hostile();
        let first = profile.labels[0].process.clone();
        let of = |is_wanted: &dyn Fn(&Labels) -> bool| {
            let mut builder = ProfileBuilder::new(profile.value_types.clone());
            builder.add_profile(&profile, is_wanted);
            builder.finish(profile.meta.clone(), profile.quality.clone())
        };
        let (part, rest) = (of(&|labels| labels.process == first), of(&|labels| labels.process != first));
        let value = profile.default_value();
        assert_eq!(part.total(value) + rest.total(value), profile.total(value));
        assert!(part.samples.len() + rest.samples.len() == profile.samples.len() && part.total(value) > 0);
        let mut twice = ProfileBuilder::new(profile.value_types.clone());
        twice.add_profile(&profile, |_| true);
        twice.add_profile(&profile, |_| true);
        let twice = twice.finish(profile.meta.clone(), profile.quality.clone());
        assert_eq!(twice.total(value), 2 * profile.total(value));
        assert_eq!(
            (twice.stacks.len(), twice.samples.len()),
            (of(&|_| true).stacks.len(), profile.samples.len())
        );
    }
}
