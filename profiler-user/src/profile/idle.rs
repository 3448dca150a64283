//! Threads that do nothing but wait, folded away: pool workers without work hide what the others do.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Frame, FrameKind, LabelsId, Location, LocationId, Profile, StackId};

/// Share of its time, in percent, that a thread has to wait in one place to be called idle.
const IDLE_PERCENT: u64 = 95;

/// Replaces the waiting stacks of idle threads by one frame that says in which function they wait, and says so in a note.
///
/// A thread is idle when at least 95 % of its wall time was spent waiting with one and the same stack.
pub fn fold_idle(profile: &mut Profile) {
    let wall = profile.default_value();
    let Some(waiting) = profile.waiting_value(wall) else { return };
    let mut by_thread: HashMap<(u32, u32), (u64, HashMap<StackId, u64>)> = HashMap::new();
    let who = |profile: &Profile, labels: LabelsId| {
        let labels = &profile.labels[labels.0 as usize];
        (labels.pid, labels.tid)
    };
    for sample in &profile.samples {
        let (total, stacks) = by_thread.entry(who(profile, sample.labels)).or_default();
        *total = total.saturating_add(sample.values[wall]);
        let stack = stacks.entry(sample.stack).or_default();
        *stack = stack.saturating_add(sample.values[waiting]);
    }
    let is_idle = |total: u64, part: u64| {
        total > 0 && u128::from(part) * 100 >= u128::from(total) * u128::from(IDLE_PERCENT)
    };
    let idle: HashMap<(u32, u32), StackId> = by_thread
        .into_iter()
        .filter_map(|(thread, (total, stacks))| {
            let (stack, part) = stacks.into_iter().max_by_key(|(stack, part)| (*part, *stack))?;
            is_idle(total, part).then_some((thread, stack))
        })
        .collect();
    if idle.is_empty() {
        return;
    }
    let mut folded: HashMap<StackId, StackId> = HashMap::new();
    for index in 0..profile.samples.len() {
        let (stack, labels) = (profile.samples[index].stack, profile.samples[index].labels);
        if idle.get(&who(profile, labels)) == Some(&stack) {
            let stack = *folded.entry(stack).or_insert_with(|| fold(profile, stack));
            profile.samples[index].stack = stack;
        }
    }
    profile.quality.notes.push(format!(
        "{} idle threads are folded: at least {IDLE_PERCENT} % of the time of each was one wait, or many in one place",
        idle.len()
    ));
}

/// A stack of one frame that names the place.
fn fold(profile: &mut Profile, stack: StackId) -> StackId {
    let function: Arc<str> = Arc::from(format!("[idle: {}]", place(profile, stack)));
    let frames = vec![Frame { function, file: None, line: None, inlined: false }];
    profile.locations.push(Location { mapping: None, address: 0, kind: FrameKind::Marker, frames });
    profile.stacks.push(vec![LocationId(profile.locations.len() as u32 - 1)]);
    StackId(profile.stacks.len() as u32 - 1)
}

/// The innermost function of the program that has a name, or of the kernel, or what the leaf says.
fn place(profile: &Profile, stack: StackId) -> String {
    // What every wait goes through says nothing of this one.
    const EVERYWHERE: [&str; 5] = ["__schedule", "schedule", "schedule_timeout", "io_schedule", "syscall"];
    let locations = || profile.stack(stack).iter().map(|id| profile.location(*id));
    let telling = |location: &&Location| {
        let function = &*location.frames[0].function;
        !function.starts_with('[') && !EVERYWHERE.contains(&function)
    };
    let of_program = |location: &&Location| matches!(location.kind, FrameKind::Native | FrameKind::Jit);
    let named = locations()
        .filter(of_program)
        .find(telling)
        .or_else(|| locations().find(|location| location.kind == FrameKind::Kernel && telling(location)))
        .or_else(|| locations().next());
    named.map_or_else(String::new, |location| location.frames[0].function.trim_matches(['[', ']']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::{Labels, Meta, ProfileBuilder, Quality, ValueType};

    fn profile(waits: &[(u32, &str, u64, u64)]) -> Profile {
        let types = ["cpu", "off_cpu", "wall"].map(|kind| ValueType::new(kind, "nanoseconds"));
        let mut builder = ProfileBuilder::new(types.to_vec());
        for (tid, function, cpu, off) in waits {
            let function = builder.name(function);
            let frames = vec![Frame { function, file: None, line: None, inlined: false }];
            let kind = FrameKind::Native;
            let location = builder.location(Location { mapping: None, address: 0, kind, frames });
            let stack = builder.stack(vec![location]);
            let name = builder.name("p");
            let labels = Labels {
                pid: 1,
                tid: *tid,
                process: Arc::clone(&name),
                thread: name,
                cgroup: None,
                cpu: None,
            };
            let labels = builder.labels(labels);
            builder.add(stack, labels, &[*cpu, *off, cpu + off]);
        }
        builder.finish(Meta::default(), Quality::default())
    }

    #[test]
    fn threads_that_wait_in_one_place_are_folded_and_nothing_is_lost() {
        let mut profile = profile(&[
            (1, "poll", 0, 96),
            (1, "work", 4, 0),
            (2, "poll", 0, 90),
            (2, "work", 10, 0),
            (3, "poll", 0, 50),
            (3, "lock", 0, 50),
        ]);
        let total = profile.total(2);
        fold_idle(&mut profile);
        assert_eq!(profile.total(2), total);
        let folded: u64 = profile
            .samples
            .iter()
            .filter(|sample| {
                &*profile.location(profile.stack(sample.stack)[0]).frames[0].function == "[idle: poll]"
            })
            .map(|sample| sample.values[2])
            .sum();
        assert_eq!(folded, 96);
        assert_eq!(profile.quality.notes.len(), 1);
    }

    #[test]
    fn a_profile_of_something_else_stays_as_it_is() {
        let mut profile = crate::output::fixture::recursive();
        let before = profile.clone();
        fold_idle(&mut profile);
        assert_eq!(profile, before);
    }
}
