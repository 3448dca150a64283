//! Quality of a part of what was recorded.

use crate::profile::{Counter, FrameKind, Profile};
use crate::report::FunctionClass;

/// Counts again what the samples themselves tell, for a profile that has some of its processes only. Losses and costs are those of the
/// whole recording, and a note says so.
pub(super) fn narrow(profile: &mut Profile) {
    let (mut samples, mut frames, mut unknown, mut cut_short) = (0_u64, 0_u64, 0_u64, 0_u64);
    let counts = profile.value_types.first().is_some_and(|value| value.unit == "count");
    for sample in &profile.samples {
        let count = if counts { sample.values.first().copied().unwrap_or_default() } else { 1 };
        samples = samples.saturating_add(count);
        let mut is_cut = false;
        for location in profile.stack(sample.stack).iter().map(|id| profile.location(*id)) {
            for frame in &location.frames {
                frames = frames.saturating_add(count);
                if FunctionClass::of(location, frame) == FunctionClass::Unknown {
                    unknown = unknown.saturating_add(count);
                }
                is_cut |= location.kind == FrameKind::Marker && frame.function.starts_with("[unwind");
            }
        }
        if is_cut {
            cut_short = cut_short.saturating_add(count);
        }
    }
    let quality = &mut profile.quality;
    (quality.samples, quality.frames, quality.unknown_frames) = (samples, frames, unknown);
    quality.unknown_by_module.clear();
    quality.cut_short.clear();
    if cut_short > 0 {
        let (id, what) = ("cut_short".to_owned(), "cut short".to_owned());
        quality.cut_short.push(Counter { id, what, count: cut_short });
    }
    let note = "what was lost, and what it cost, is of everything that was recorded, not of this part alone";
    quality.notes.push(note.to_owned());
}
