//! The hidden string that carries what profile.proto has no field for.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use crate::profile::{FrameKind, LeakSums, Location, Meta, Profile, Quality};

/// Begins the string; JSON follows.
pub(crate) const PREFIX: &str = "perf-agent: ";

/// Raised when a reader of an older version would misunderstand the content.
const SCHEMA: u32 = 1;

/// Content of the string.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Extra<'a> {
    schema: u32,
    pub(crate) meta: Cow<'a, Meta>,
    pub(crate) quality: Cow<'a, Quality>,
    /// Location IDs whose kind is not the one that [`guess_kind`] gives.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) kinds: BTreeMap<FrameKind, Vec<u64>>,
    /// What is known of blocks that were not freed, by the index of a sample with their stack.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) leaks: Vec<(u64, Cow<'a, LeakSums>)>,
}

impl<'a> Extra<'a> {
    /// What must be said about `profile`.
    pub(crate) fn of(profile: &'a Profile) -> Self {
        let mut kinds: BTreeMap<FrameKind, Vec<u64>> = BTreeMap::new();
        for (index, location) in profile.locations.iter().enumerate() {
            if guess_kind(mapping_path(profile, location), innermost(location)) != location.kind {
                kinds.entry(location.kind).or_default().push(index as u64 + 1);
            }
        }
        Self {
            schema: SCHEMA,
            meta: Cow::Borrowed(&profile.meta),
            quality: Cow::Borrowed(&profile.quality),
            kinds,
            leaks: leaks_of(profile),
        }
    }

    /// The string. None when the content can't be written as JSON, which plain data always can.
    pub(crate) fn to_text(&self) -> Option<String> {
        serde_json::to_string(self).ok().map(|json| format!("{PREFIX}{json}"))
    }

    /// Reads the string. None for any other text, and for one from a later version.
    pub(crate) fn from_text(text: &str) -> Option<Extra<'static>> {
        let extra: Extra<'static> = serde_json::from_str(text.strip_prefix(PREFIX)?).ok()?;
        (extra.schema == SCHEMA).then_some(extra)
    }
}

/// The kind of code as a foreign profile shows it: by the mapping's name, and by brackets around a name without
/// a mapping.
pub(crate) fn guess_kind(mapping: Option<&str>, function: &str) -> FrameKind {
    let Some(path) = mapping else {
        let bracketed = function.starts_with('[') && function.ends_with(']');
        return if bracketed { FrameKind::Marker } else { FrameKind::Native };
    };
    let file = path.rsplit('/').next().unwrap_or(path);
    let module = file.strip_suffix(".xz").or_else(|| file.strip_suffix(".zst")).unwrap_or(file);
    match path {
        "[vdso]" | "[vsyscall]" => FrameKind::Native,
        "[jit]" => FrameKind::Jit,
        _ if file.strip_suffix(".map").is_some_and(|stem| stem.starts_with("perf-")) => FrameKind::Jit,
        _ if path.starts_with('[') || file == "vmlinux" => FrameKind::Kernel,
        _ if module.strip_suffix(".ko").is_some() => FrameKind::Kernel,
        _ => FrameKind::Native,
    }
}

/// Stacks have no numbers in the file: each is named by the first sample that has it.
fn leaks_of(profile: &Profile) -> Vec<(u64, Cow<'_, LeakSums>)> {
    let Some(leaks) = &profile.meta.leaks else { return Vec::new() };
    let mut by_stack = HashMap::new();
    for (sample, index) in profile.samples.iter().zip(0_u64..) {
        by_stack.entry(sample.stack).or_insert(index);
    }
    let known = leaks.stacks.iter();
    known.filter_map(|known| Some((*by_stack.get(&known.stack)?, Cow::Borrowed(&known.sums)))).collect()
}

fn mapping_path<'p>(profile: &'p Profile, location: &Location) -> Option<&'p str> {
    location.mapping.map(|id| &*profile.mappings[id.0 as usize].path)
}

fn innermost(location: &Location) -> &str {
    location.frames.first().map_or("", |frame| &frame.function)
}
