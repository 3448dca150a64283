//! The one who writes: windows are added, room is made, old windows are merged.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::profile::Profile;

use super::dictionary::{Dictionary, put_sections};
use super::folder::Folder;
use super::limits::nanoseconds;
use super::open::{Opened, look};
use super::record::{Head, pack};
use super::segment::{Extent, Level, SegmentName, header};
use super::window::Window;
use super::{Limits, Loss, Losses, StoreError};

/// Distinct names, locations, stacks and label sets of one file, after which the next one begins: what a writer holds in memory is some
/// forty bytes each.
const MOST_ENTRIES: usize = 100_000;

/// A file of windows.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) level: Level,
    pub(super) extent: Extent,
    /// It turned out to be damaged after it was opened.
    pub(super) is_damaged: bool,
}

/// A file that nobody reads.
#[derive(Debug)]
pub(super) struct AsideFile {
    pub(super) number: u64,
    pub(super) name: String,
    pub(super) bytes: u64,
    /// When it was last written to, nanoseconds since the Unix epoch.
    pub(super) modified_ns: u64,
}

/// The file that windows are added to.
#[derive(Debug)]
pub(super) struct Active {
    pub(super) number: u64,
    pub(super) file: File,
    pub(super) dictionary: Dictionary,
}

/// A store that is open for writing.
#[derive(Debug)]
pub struct Store {
    pub(super) folder: Folder,
    pub(super) limits: Limits,
    pub(super) segments: BTreeMap<u64, Segment>,
    pub(super) aside: Vec<AsideFile>,
    pub(super) active: Option<Active>,
    next_number: u64,
    pub(super) losses: Losses,
    /// No merge before this time, nanoseconds since the Unix epoch: the last one failed.
    pub(super) merge_after_ns: u64,
    /// Held as long as the store is open.
    _lock: File,
}

/// A window that was stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Appended {
    /// Bytes that it took.
    pub bytes: u64,
    /// Files that were removed to make room for it, or because they were too old.
    pub dropped_files: u64,
    /// Files whose windows were merged meanwhile.
    pub merged_files: u64,
}

/// Why a file is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    Age,
    Size,
    DiskFull,
}

/// Why a window was not written at the first try.
enum Failed {
    /// The file system is full.
    Full(io::Error),
    /// It needs so many bytes of room.
    NoRoom(u64),
    Other(StoreError),
}

impl Store {
    /// Opens a store for writing, and creates it when it is not there. Says what was found in it, and what is wrong with that.
    ///
    /// # Errors
    /// When the directory cannot be made or read, belongs to somebody else or can be reached by others, or when another process
    /// writes to it. Damaged files are no error.
    pub fn open(path: &Path, limits: Limits) -> Result<(Self, Opened), StoreError> {
        let folder = Folder::create(path)?;
        let lock = folder.lock()?;
        let (found, opened) = look(&folder)?;
        let store = Self {
            folder,
            limits,
            segments: found.segments,
            aside: found.aside,
            active: found.active,
            next_number: found.next_number,
            losses: Losses::default(),
            merge_after_ns: 0,
            _lock: lock,
        };
        Ok((store, opened))
    }

    /// Stores one closed window of one profile type. It is on disk when this returns.
    ///
    /// Kept are the samples with their stacks and labels, what the values mean, and the quality block; of what the profile says about
    /// itself all but series and tables that stand beside the samples ([`Meta`](crate::profile::Meta)`::resident`, `allocations`,
    /// `leaks`).
    ///
    /// # Errors
    /// When the window is larger than the store may be, when the disk is full and nothing is left to drop, or when the system
    /// refuses to write. The store stays as it was, and the next window may be tried.
    pub fn append(&mut self, profile: &Profile) -> Result<Appended, StoreError> {
        let dropped = |losses: &Losses| losses.by_age.files + losses.by_size.files + losses.disk_full.files;
        let before = dropped(&self.losses);
        let now_ns = profile.meta.start_unix_ns.saturating_add(profile.meta.duration_ns);
        self.drop_old(now_ns);
        let bytes = loop {
            match self.write(profile) {
                Ok(bytes) => break bytes,
                Err(Failed::Full(source)) => {
                    if !self.drop_oldest(Cause::DiskFull) {
                        self.losses.not_stored += 1;
                        return Err(StoreError::Full { path: self.folder.path.clone(), source });
                    }
                }
                Err(Failed::NoRoom(bytes)) => {
                    if !self.drop_oldest(Cause::Size) {
                        self.losses.not_stored += 1;
                        return Err(StoreError::TooLarge { bytes, limit: self.limits.max_bytes });
                    }
                }
                Err(Failed::Other(error)) => {
                    self.losses.not_stored += 1;
                    return Err(error);
                }
            }
        };
        let merged_files = self.merge_one(now_ns);
        Ok(Appended { bytes, dropped_files: dropped(&self.losses) - before, merged_files })
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        let segments = self.segments.values().map(|segment| segment.extent.bytes);
        segments.chain(self.aside.iter().map(|file| file.bytes)).sum()
    }

    /// What was dropped since the store was opened.
    pub fn losses(&self) -> &Losses {
        &self.losses
    }

    /// How much it keeps from now on.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// One try to write a window.
    fn write(&mut self, profile: &Profile) -> Result<u64, Failed> {
        self.begin_next_if_due(profile);
        if self.active.is_none() {
            let room = header().len() as u64;
            if self.bytes() + room > self.limits.max_bytes {
                return Err(Failed::NoRoom(room));
            }
            self.active = Some(self.create().map_err(|error| self.told_apart("make a file", error))?);
        }
        let total = self.bytes();
        let Some(active) = &mut self.active else { return Err(Failed::NoRoom(0)) };
        let window = Window::of(profile, &mut active.dictionary);
        let mut content = Vec::new();
        put_sections(&mut content, &active.dictionary.take_new());
        window.write(&mut content);
        let meta = &profile.meta;
        let head = Head {
            profile_type: meta.profile_type.clone(),
            start_unix_ns: meta.start_unix_ns,
            duration_ns: meta.duration_ns,
            end_unix_ns: meta.start_unix_ns.saturating_add(meta.duration_ns),
            parts: 1,
        };
        let Some(segment) = self.segments.get_mut(&active.number) else { return Err(Failed::NoRoom(0)) };
        let at = segment.extent.bytes;
        let written = pack(&head, &content).and_then(|record| {
            let bytes = record.len() as u64;
            if total + bytes > self.limits.max_bytes {
                return Ok(Err(bytes));
            }
            active.file.write_all_at(&record, at)?;
            active.file.sync_data()?;
            Ok(Ok(bytes))
        });
        match written {
            Ok(Ok(bytes)) => {
                active.dictionary.commit();
                segment.extent.add(&head, bytes);
                Ok(bytes)
            }
            Ok(Err(bytes)) => {
                active.dictionary.roll_back();
                Err(Failed::NoRoom(bytes))
            }
            Err(error) => {
                active.dictionary.roll_back();
                // What cannot be cut off either will be found torn; the next window is written over it.
                let _best_effort = active.file.set_len(at);
                Err(self.told_apart("write a window", error))
            }
        }
    }

    fn told_apart(&self, what: &'static str, error: io::Error) -> Failed {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Failed::Full(error),
            _ => Failed::Other(self.folder.failed(what, error)),
        }
    }

    /// Ends the file that windows are added to when it is long or large enough.
    fn begin_next_if_due(&mut self, profile: &Profile) {
        let Some(active) = &self.active else { return };
        let Some(segment) = self.segments.get(&active.number) else { return };
        let extent = &segment.extent;
        // Others fill the disk, too, and free it again.
        let room_bytes = self.bytes().saturating_add(self.folder.free_bytes());
        // Also when the clock was set back: the file would never end.
        let span_ns = extent.first_unix_ns.abs_diff(profile.meta.start_unix_ns);
        let is_long = extent.windows > 0 && span_ns >= nanoseconds(self.limits.file_span);
        if is_long
            || extent.bytes >= self.limits.file_bytes(room_bytes)
            || active.dictionary.len() >= MOST_ENTRIES
        {
            self.active = None;
        }
    }

    fn create(&mut self) -> io::Result<Active> {
        let number = self.next_number;
        let name = SegmentName { number, level: Level::Recorded }.file();
        let file = self.folder.new_file(&name)?;
        let header = header();
        let written =
            file.write_all_at(&header, 0).and_then(|()| file.sync_all()).and_then(|()| self.folder.sync());
        if let Err(error) = written {
            let _best_effort = self.folder.remove(&name);
            return Err(error);
        }
        self.next_number += 1;
        let extent = Extent { bytes: header.len() as u64, ..Extent::default() };
        self.segments.insert(number, Segment { level: Level::Recorded, extent, is_damaged: false });
        Ok(Active { number, file, dictionary: Dictionary::default() })
    }

    /// Removes files whose last window is too old.
    fn drop_old(&mut self, now_ns: u64) {
        let oldest_ns = now_ns.saturating_sub(nanoseconds(self.limits.max_age));
        let active = self.active.as_ref().map(|active| active.number);
        let is_old = |segment: &Segment| segment.extent.windows > 0 && segment.extent.end_unix_ns < oldest_ns;
        let old: Vec<u64> = self
            .segments
            .iter()
            .filter(|(number, segment)| Some(**number) != active && is_old(segment))
            .map(|(number, _)| *number)
            .collect();
        for number in old {
            self.drop_segment(number, Cause::Age);
        }
        let old_aside = self.aside.iter().filter(|file| file.modified_ns < oldest_ns);
        for number in old_aside.map(|file| file.number).collect::<Vec<_>>() {
            self.drop_aside(number, Cause::Age);
        }
    }

    /// Removes the oldest file: at last the one that windows are added to. False when nothing is left.
    pub(super) fn drop_oldest(&mut self, cause: Cause) -> bool {
        let aside = self.aside.first().map(|file| file.number);
        let segment = self.segments.keys().next().copied();
        match (aside, segment) {
            (Some(aside), segment) if segment.is_none_or(|segment| aside <= segment) => {
                self.drop_aside(aside, cause)
            }
            (_, Some(segment)) => {
                let is_active = self.active.as_ref().is_some_and(|active| active.number == segment);
                let is_empty = self.segments.get(&segment).is_none_or(|segment| segment.extent.windows == 0);
                if is_active && is_empty {
                    return false;
                }
                self.drop_segment(segment, cause)
            }
            _ => false,
        }
    }

    fn drop_segment(&mut self, number: u64, cause: Cause) -> bool {
        let Some(segment) = self.segments.remove(&number) else { return false };
        self.active = self.active.take().filter(|active| active.number != number);
        let name = SegmentName { number, level: segment.level }.file();
        self.count(cause, segment.extent.windows, segment.extent.bytes);
        // Gone already is as good; any other failure leaves a file that the next start finds again.
        let _best_effort = self.folder.remove(&name);
        true
    }

    fn drop_aside(&mut self, number: u64, cause: Cause) -> bool {
        let Some(at) = self.aside.iter().position(|file| file.number == number) else { return false };
        let file = self.aside.remove(at);
        self.count(cause, 0, file.bytes);
        let _best_effort = self.folder.remove(&file.name);
        true
    }

    fn count(&mut self, cause: Cause, windows: u64, bytes: u64) {
        let loss: &mut Loss = match cause {
            Cause::Age => &mut self.losses.by_age,
            Cause::Size => &mut self.losses.by_size,
            Cause::DiskFull => &mut self.losses.disk_full,
        };
        loss.files += 1;
        loss.windows += windows;
        loss.bytes += bytes;
    }
}
