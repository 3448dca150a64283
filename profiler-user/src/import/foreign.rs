//! What is said about a profile that another tool wrote, and the cleaning of what a file says about itself.

use crate::profile::{Meta, Profile, Quality, clean};
use crate::report::FunctionClass;

/// Keeps "0 lost" from reading as a statement of the tool that made the file.
const SAYS_NOTHING: &str = "read from a file that does not say what was lost or cut short";

/// Fills in what the samples themselves tell: the profile type, how many samples, how many frames have no name.
pub(super) fn describe(profile: &mut Profile) {
    if let Some(value) = profile.value_types.last() {
        profile.meta.profile_type.clone_from(&value.kind);
    }
    let counts = profile.value_types.first().is_some_and(|value| value.unit == "count");
    let mut quality = Quality { notes: vec![SAYS_NOTHING.to_owned()], ..Quality::default() };
    for sample in &profile.samples {
        let weight = if counts { sample.values[0] } else { 1 };
        quality.samples = quality.samples.saturating_add(weight);
        for location in profile.stack(sample.stack) {
            for frame in &profile.location(*location).frames {
                quality.frames = quality.frames.saturating_add(weight);
                if FunctionClass::of(profile.location(*location), frame) == FunctionClass::Unknown {
                    quality.unknown_frames = quality.unknown_frames.saturating_add(weight);
                }
            }
        }
    }
    profile.quality = quality;
}

/// The name of an address that the file has no name for.
pub(super) fn nameless(mapping: Option<&str>, address: u64) -> String {
    match mapping.and_then(|path| path.rsplit('/').next()).filter(|module| !module.is_empty()) {
        Some(module) => format!("[{}+{address:#x}]", module.trim_matches(['[', ']'])),
        None => format!("[{address:#x}]"),
    }
}

/// Our own words about a recording went through a file that anyone may have edited since.
pub(super) fn cleaned_meta(mut meta: Meta) -> Meta {
    let Meta { profile_type, target, target_slug, host, kernel, clock, .. } = &mut meta;
    for text in [profile_type, target, target_slug, host, kernel, clock] {
        clean_in_place(text);
    }
    meta.scope_notes.iter_mut().for_each(clean_in_place);
    meta
}

/// As [`cleaned_meta`], for the quality block.
pub(super) fn cleaned_quality(mut quality: Quality) -> Quality {
    for counter in quality.lost.iter_mut().chain(&mut quality.cut_short) {
        clean_in_place(&mut counter.id);
        clean_in_place(&mut counter.what);
    }
    for unknown in &mut quality.unknown_by_module {
        clean_in_place(&mut unknown.module);
        clean_in_place(&mut unknown.reason);
    }
    clean_in_place(&mut quality.noun);
    quality.notes.iter_mut().for_each(clean_in_place);
    quality
}

fn clean_in_place(text: &mut String) {
    let cleaned = clean(text.as_bytes());
    *text = cleaned;
}
