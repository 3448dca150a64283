//! Old windows, merged: the same entries and the same totals, in windows of a minute, then of ten.
//!
//! Entries keep their numbers, so they are copied as they are, some at a time: memory follows one window, not the file.

use std::collections::BTreeMap;
use std::io::{self, BufWriter, Write};

use super::dictionary::{NewEntries, SECTIONS, put_sections, read_sections};
use super::folder::Folder;
use super::open::TEMPORARY;
use super::record::{Head, pack};
use super::segment::{Extent, HEADER_BYTES, Refused, SegmentName, header, open_records};
use super::window::Window;
use super::wire::{Cursor, Damage};
use super::writer::{Cause, Store};

/// Entries that are gathered for one record, bytes.
const GATHERED_BYTES: usize = 256 << 10;

/// Time to the next try after a merge failed, nanoseconds.
const AFTER_FAILURE_NS: u64 = 600_000_000_000;

impl Store {
    /// Merges the windows of one file, if one is old enough. Returns how many were.
    pub(super) fn merge_one(&mut self, now_ns: u64) -> u64 {
        if now_ns < self.merge_after_ns {
            return 0;
        }
        let active = self.active.as_ref().map(|active| active.number);
        let due = self.segments.iter().find_map(|(number, segment)| {
            let coarser = segment.level.coarser()?;
            let kept_until = segment.extent.end_unix_ns.saturating_add(self.limits.kept_ns(segment.level));
            let is_due = Some(*number) != active
                && kept_until <= now_ns
                && segment.extent.windows > 0
                && !segment.is_damaged;
            is_due.then_some((
                SegmentName { number: *number, level: segment.level },
                coarser,
                segment.extent.bytes,
            ))
        });
        let Some((from, coarser, bytes)) = due else { return 0 };
        // Both files are there for a moment.
        if !self.make_room_before(from.number, bytes) {
            return 0;
        }
        let to = SegmentName { level: coarser, ..from };
        match merge(&self.folder, from, to) {
            Ok(extent) => {
                // Left over, it is found and removed when the store is opened.
                let _best_effort = self.folder.remove(&from.file());
                if let Some(segment) = self.segments.get_mut(&from.number) {
                    segment.level = coarser;
                    segment.extent = extent;
                }
                1
            }
            Err(error) => {
                let _may_not_exist = self.folder.remove(&(to.file() + TEMPORARY));
                self.losses.failed_merges += 1;
                match error {
                    MergeError::System => self.merge_after_ns = now_ns.saturating_add(AFTER_FAILURE_NS),
                    // It stays as it is: readers take what is good of it, and the next start sets the rest aside.
                    MergeError::Damaged => {
                        self.segments.entry(from.number).and_modify(|segment| segment.is_damaged = true);
                    }
                }
                0
            }
        }
    }

    /// Makes room for so many bytes by removing files that are older than this one. False, and nothing is removed, where those are not enough: what is
    /// merged must not go for its own sake.
    fn make_room_before(&mut self, number: u64, bytes: u64) -> bool {
        let over_size = (self.bytes() + bytes).saturating_sub(self.limits.max_bytes);
        let over_disk = bytes.saturating_sub(self.folder.free_bytes());
        let (lacking, cause) =
            if over_size >= over_disk { (over_size, Cause::Size) } else { (over_disk, Cause::DiskFull) };
        let segments = self.segments.range(..number).map(|(_, segment)| segment.extent.bytes);
        let aside = self.aside.iter().filter(|file| file.number < number).map(|file| file.bytes);
        if segments.chain(aside).sum::<u64>() < lacking {
            return false;
        }
        // By what was removed, not by what the system says is free: some say so later.
        let enough = self.bytes() - lacking;
        while self.bytes() > enough && self.drop_oldest(cause) {}
        true
    }
}

/// Why a merge failed. The file that was to be merged is as it was.
#[derive(Debug)]
enum MergeError {
    /// The system refused something; it may not the next time.
    System,
    /// The file is not what it should be.
    Damaged,
}

impl From<io::Error> for MergeError {
    fn from(_: io::Error) -> Self {
        Self::System
    }
}

impl From<Damage> for MergeError {
    fn from(_: Damage) -> Self {
        Self::Damaged
    }
}

impl From<Refused> for MergeError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Io(_) => Self::System,
            Refused::Newer(_) | Refused::Header(_) => Self::Damaged,
        }
    }
}

/// Writes the windows of one file, merged, into a new one.
fn merge(folder: &Folder, from: SegmentName, to: SegmentName) -> Result<Extent, MergeError> {
    let temporary = to.file() + TEMPORARY;
    let mut out = Output {
        file: BufWriter::with_capacity(64 << 10, folder.new_file(&temporary)?),
        extent: Extent { bytes: HEADER_BYTES, ..Extent::default() },
    };
    out.file.write_all(&header())?;
    copy_entries(folder, from, &mut out)?;
    merge_windows(folder, from, to, &mut out)?;
    let file = out.file.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.sync_all()?;
    folder.rename(&temporary, &to.file())?;
    folder.sync()?;
    Ok(out.extent)
}

struct Output {
    file: BufWriter<std::fs::File>,
    extent: Extent,
}

impl Output {
    fn write(&mut self, head: &Head, content: &[u8]) -> io::Result<()> {
        let record = pack(head, content)?;
        self.file.write_all(&record)?;
        self.extent.add(head, record.len() as u64);
        Ok(())
    }
}

fn copy_entries(folder: &Folder, from: SegmentName, out: &mut Output) -> Result<(), MergeError> {
    let mut gathered: [NewEntries; SECTIONS] = Default::default();
    let mut records = open_records(folder, &from.file())?;
    while let Some(record) = records.next()? {
        let content = record.map_err(|cut| cut.why)?.content()?;
        for (gathered, (count, bytes)) in gathered.iter_mut().zip(read_sections(&mut Cursor::new(&content))?)
        {
            gathered.count += count;
            gathered.bytes.extend_from_slice(bytes);
        }
        if gathered.iter().map(|entries| entries.bytes.len()).sum::<usize>() >= GATHERED_BYTES {
            write_entries(&mut gathered, out)?;
        }
    }
    Ok(write_entries(&mut gathered, out)?)
}

fn write_entries(gathered: &mut [NewEntries; SECTIONS], out: &mut Output) -> io::Result<()> {
    let mut content = Vec::new();
    put_sections(&mut content, gathered);
    *gathered = Default::default();
    out.write(&Head::default(), &content)
}

fn merge_windows(
    folder: &Folder,
    from: SegmentName,
    to: SegmentName,
    out: &mut Output,
) -> Result<(), MergeError> {
    let window_ns = to.level.window_ns().unwrap_or(1);
    // By profile type: the stretch of time that is being merged.
    let mut open: BTreeMap<String, (u64, Head, Window)> = BTreeMap::new();
    let mut records = open_records(folder, &from.file())?;
    while let Some(record) = records.next()? {
        let record = record.map_err(|cut| cut.why)?;
        if record.head.parts == 0 {
            continue;
        }
        let content = record.content()?;
        let mut cursor = Cursor::new(&content);
        read_sections(&mut cursor)?;
        let window = Window::read(&mut cursor)?;
        let (stretch, head) = (record.head.start_unix_ns / window_ns, record.head);
        match open.get_mut(&head.profile_type) {
            Some((known, sum_head, sum)) if *known == stretch && sum.is_like(&window) => {
                sum.add(&window);
                sum_head.start_unix_ns = sum_head.start_unix_ns.min(head.start_unix_ns);
                sum_head.end_unix_ns = sum_head.end_unix_ns.max(head.end_unix_ns);
                sum_head.duration_ns = sum_head.duration_ns.saturating_add(head.duration_ns);
                sum_head.parts = sum_head.parts.saturating_add(head.parts);
            }
            _ => {
                let before = open.insert(head.profile_type.clone(), (stretch, head, window));
                if let Some((_, head, window)) = before {
                    write_window(&head, &window, out)?;
                }
            }
        }
    }
    for (_, head, window) in open.into_values() {
        write_window(&head, &window, out)?;
    }
    Ok(())
}

fn write_window(head: &Head, window: &Window, out: &mut Output) -> io::Result<()> {
    let mut content = Vec::new();
    put_sections(&mut content, &Default::default());
    window.write(&mut content);
    out.write(head, &content)
}
