//! Windows added up to one profile.

use crate::profile::{Meta, Profile, ProfileBuilder, Quality, ValueType, clean};

use super::Filter;
use super::dictionary::read_sections;
use super::entries::{Entries, Placed};
use super::figures::add_quality;
use super::notes::Notes;
use super::record::Head;
use super::window::Window;
use super::wire::{Cursor, Damage};

/// A window with all that its numbers stand for.
pub(super) struct Found<'a> {
    pub(super) entries: &'a Entries,
    pub(super) head: &'a Head,
    pub(super) window: &'a Window,
    /// Number of the file: entries of one file have the same numbers in all its windows.
    pub(super) file: u64,
}

/// Windows whose values mean the same.
pub(super) struct Sum {
    pub(super) value_types: Vec<ValueType>,
    builder: ProfileBuilder,
    quality: Quality,
    notes: Notes,
    /// Of the newest window.
    meta: Meta,
    pub(super) newest_ns: u64,
    first_ns: u64,
    pub(super) end_ns: u64,
    duration_ns: u64,
    pub(super) windows: u64,
    placed: (u64, Placed),
}

impl Sum {
    pub(super) fn new(value_types: Vec<ValueType>) -> Self {
        Self {
            builder: ProfileBuilder::new(value_types.clone()),
            value_types,
            quality: Quality::default(),
            notes: Notes::default(),
            meta: Meta::default(),
            newest_ns: 0,
            first_ns: u64::MAX,
            end_ns: 0,
            duration_ns: 0,
            windows: 0,
            placed: (u64::MAX, Placed::default()),
        }
    }

    /// Adds the samples of a window that the filter lets through.
    pub(super) fn add(&mut self, found: &Found<'_>, filter: &Filter) -> Result<(), Damage> {
        let quality = found.window.figures().quality(found.entries)?;
        let meta = found.window.meta(found.entries)?;
        let is_first = self.windows == 0;
        if self.placed.0 != found.file {
            self.placed = (found.file, Placed::default());
        }
        for ((leaf, labels), values) in found.window.samples() {
            let labels = &found.entries.labels()[labels as usize];
            if filter.matches(labels) {
                let stack = self.placed.1.stack(found.entries, &mut self.builder, leaf);
                let labels = self.builder.labels(labels.clone());
                self.builder.add(stack, labels, values);
            }
        }
        self.notes.add(found.window.figures().notes(found.entries)?);
        if is_first {
            self.quality = quality;
        } else {
            add_quality(&mut self.quality, &quality);
        }
        let head = found.head;
        if is_first || head.start_unix_ns >= self.newest_ns {
            self.newest_ns = head.start_unix_ns;
            self.meta = cleaned(meta);
        }
        self.first_ns = self.first_ns.min(head.start_unix_ns);
        self.end_ns = self.end_ns.max(head.end_unix_ns);
        self.duration_ns = self.duration_ns.saturating_add(head.duration_ns);
        self.windows = self.windows.saturating_add(head.parts);
        Ok(())
    }

    pub(super) fn finish(mut self) -> Profile {
        self.quality.notes = self.notes.finish();
        let meta = Meta { start_unix_ns: self.first_ns, duration_ns: self.duration_ns, ..self.meta };
        self.builder.finish(meta, self.quality)
    }
}

/// What a recording says about itself is shown as it is: nothing in it may move a cursor.
fn cleaned(meta: Meta) -> Meta {
    let text = |text: &String| clean(text.as_bytes());
    Meta {
        profile_type: text(&meta.profile_type),
        target: text(&meta.target),
        target_slug: text(&meta.target_slug),
        host: text(&meta.host),
        kernel: text(&meta.kernel),
        clock: text(&meta.clock),
        scope_notes: meta.scope_notes.iter().map(text).collect(),
        ..meta
    }
}

/// The unpacked content of the first record of a file, as a profile: what a reader makes of bytes that it cannot trust.
///
/// # Errors
/// When they are not what a writer could have written.
pub fn profile_of_content(content: &[u8]) -> Result<Profile, Damage> {
    let (mut cursor, mut entries) = (Cursor::new(content), Entries::default());
    entries.add(&read_sections(&mut cursor)?, None)?;
    let window = Window::read(&mut cursor)?;
    window.check(&entries)?;
    let mut sum = Sum::new(window.value_types(&entries)?);
    let head = Head { parts: 1, ..Head::default() };
    sum.add(&Found { entries: &entries, head: &head, window: &window, file: 0 }, &Filter::default())?;
    Ok(sum.finish())
}
