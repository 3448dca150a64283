//! Those who read: any stretch of time as one profile, whether somebody writes meanwhile or not. Nothing is changed or locked.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use crate::profile::{Profile, ValueType};

use super::entries::Entries;
use super::folder::Folder;
use super::record::{Head, head_at};
use super::segment::{Extent, HEADER_BYTES, Level, Refused, SegmentName, open_records, unpack};
use super::sum::{Found, Sum};
use super::{Filter, StoreError};

/// A store that is open for reading.
#[derive(Debug)]
pub struct Reader {
    folder: Folder,
}

/// The answer to a question.
#[derive(Debug, Default)]
pub struct Selected {
    /// All windows that were meant, as one profile. Its length is that of the windows, without gaps between them.
    pub profile: Profile,
    /// How many windows, as they were recorded.
    pub windows: u64,
    /// End of the last one, nanoseconds since the Unix epoch.
    pub end_unix_ns: u64,
    /// Longest window that could not be told apart any more, nanoseconds.
    pub coarsest_ns: u64,
    /// Files that could not be read, or not to their end.
    pub problems: Vec<String>,
}

/// One window of a store, or several that were merged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WindowInfo {
    /// In the words of the command line: `cpu`.
    pub profile_type: String,
    /// Nanoseconds since the Unix epoch.
    pub start_unix_ns: u64,
    /// Nanoseconds since the Unix epoch.
    pub end_unix_ns: u64,
    /// Time that was recorded, nanoseconds: less than the distance of the two where windows are missing.
    pub duration_ns: u64,
    /// Windows that were merged into it.
    pub parts: u64,
    /// How far its file is merged.
    pub level: Level,
    /// What it takes in its file, with the names that it was the first to need.
    pub bytes: u64,
}

/// What the values of a series are told apart by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SeriesBy {
    /// Name of the process.
    #[default]
    Process,
    /// Name and number of the process.
    Pid,
    /// Name of the thread.
    Thread,
    /// Control group.
    Cgroup,
}

/// One value over time.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Series {
    /// What the values mean; none where no window has them.
    pub value_type: Option<ValueType>,
    /// Windows, in the order in which they began.
    pub points: Vec<SeriesPoint>,
    /// Values that windows of that type have, when the one asked for is not among them.
    pub other_values: Vec<String>,
    /// Files that could not be read, or not to their end.
    pub problems: Vec<String>,
}

/// One window of a series.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeriesPoint {
    /// Nanoseconds since the Unix epoch.
    pub start_unix_ns: u64,
    /// Time that was recorded, nanoseconds.
    pub duration_ns: u64,
    /// The value, by what the series is told apart by.
    pub values: BTreeMap<Arc<str>, u64>,
}

impl Reader {
    /// Opens a store for reading.
    ///
    /// # Errors
    /// When it is not there, belongs to somebody else or can be reached by others, or cannot be read.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        Ok(Self { folder: Folder::open(path)? })
    }

    /// The windows of one profile type in a stretch of time, nanoseconds since the Unix epoch, as one profile.
    ///
    /// A window belongs to the stretch in which its middle lies; where windows are longer than the stretch, that of the window
    /// in which the middle of the stretch lies. So no window is counted twice in two stretches that meet and are both longer than it.
    ///
    /// # Errors
    /// When the directory cannot be read. Damaged files are no error.
    pub fn select(
        &self,
        range: &Range<u64>,
        profile_type: &str,
        filter: &Filter,
    ) -> Result<Selected, StoreError> {
        let mut sums: Vec<Sum> = Vec::new();
        let mut coarsest_ns = 0;
        let problems = self.walk(range, profile_type, |found| {
            let value_types = found.window.value_types(found.entries)?;
            let known = sums.iter().position(|sum| sum.value_types == value_types);
            let index = known.unwrap_or_else(|| {
                sums.push(Sum::new(value_types));
                sums.len() - 1
            });
            coarsest_ns = coarsest_ns.max(found.head.end_unix_ns.saturating_sub(found.head.start_unix_ns));
            sums[index].add(found, filter)
        })?;
        sums.sort_by_key(|sum| sum.newest_ns);
        let newest = sums.pop();
        let others: u64 = sums.iter().map(|sum| sum.windows).sum();
        let Some(sum) = newest else { return Ok(Selected { problems, ..Selected::default() }) };
        let (windows, end_unix_ns) = (sum.windows, sum.end_ns);
        let mut profile = sum.finish();
        profile.quality.notes.extend(problems.iter().cloned());
        if others > 0 {
            let what = "measured other values and are left out";
            profile.quality.notes.push(format!("{others} windows of the same time {what}"));
        }
        if !filter.is_open() {
            super::narrow::narrow(&mut profile);
        }
        Ok(Selected { profile, windows, end_unix_ns, coarsest_ns, problems })
    }

    /// The same windows one by one, each as a profile of its own, mostly in the order of time. Returns what could not be read.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn each(
        &self,
        range: &Range<u64>,
        profile_type: &str,
        filter: &Filter,
        mut show: impl FnMut(Profile),
    ) -> Result<Vec<String>, StoreError> {
        self.walk(range, profile_type, |found| {
            let mut sum = Sum::new(found.window.value_types(found.entries)?);
            sum.add(found, filter)?;
            show(sum.finish());
            Ok(())
        })
    }

    /// The windows of a stretch of time, in the order in which they began.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn windows(&self, range: &Range<u64>) -> Result<(Vec<WindowInfo>, Vec<String>), StoreError> {
        let (mut windows, mut problems) = (Vec::new(), Vec::new());
        for name in self.segments()? {
            let listed = self.list_windows(name, range, &mut windows);
            problems.extend(listed.err().map(|why| format!("{}: {why}", name.file())));
        }
        windows.sort_by(|a, b| (a.start_unix_ns, &a.profile_type).cmp(&(b.start_unix_ns, &b.profile_type)));
        Ok((windows, problems))
    }

    /// One value per window and process, thread or control group: the named one, or the one that outputs show.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn series(
        &self,
        range: &Range<u64>,
        profile_type: &str,
        filter: &Filter,
        value: Option<&str>,
        by: SeriesBy,
    ) -> Result<Series, StoreError> {
        let mut series = Series::default();
        let problems = self.walk(range, profile_type, |found| {
            let value_types = found.window.value_types(found.entries)?;
            let index = match value {
                Some(wanted) => value_types.iter().position(|known| known.kind == wanted),
                None => value_types.len().checked_sub(1),
            };
            let Some(index) = index else {
                series.other_values = value_types.into_iter().map(|known| known.kind).collect();
                return Ok(());
            };
            series.value_type = value_types.into_iter().nth(index);
            let mut numbered: BTreeMap<u32, Arc<str>> = BTreeMap::new();
            let mut sums: BTreeMap<Arc<str>, u64> = BTreeMap::new();
            for ((_, labels), values) in found.window.samples() {
                let labels = &found.entries.labels()[labels as usize];
                if !filter.matches(labels) {
                    continue;
                }
                let key = match by {
                    SeriesBy::Process => Arc::clone(&labels.process),
                    SeriesBy::Thread => Arc::clone(&labels.thread),
                    SeriesBy::Cgroup => labels.cgroup.clone().unwrap_or_else(|| Arc::from("/")),
                    SeriesBy::Pid => Arc::clone(
                        numbered
                            .entry(labels.pid)
                            .or_insert_with(|| format!("{} ({})", labels.process, labels.pid).into()),
                    ),
                };
                let sum = sums.entry(key).or_default();
                *sum = sum.saturating_add(values.get(index).copied().unwrap_or_default());
            }
            let (start_unix_ns, duration_ns) = (found.head.start_unix_ns, found.head.duration_ns);
            series.points.push(SeriesPoint { start_unix_ns, duration_ns, values: sums });
            Ok(())
        })?;
        series.points.sort_by_key(|point| point.start_unix_ns);
        series.problems = problems;
        Ok(series)
    }

    /// All files, oldest first: of two with one number the coarser one.
    fn segments(&self) -> Result<Vec<SegmentName>, StoreError> {
        let files = self.folder.list().map_err(|error| self.folder.failed("list the files", error))?;
        let names = files.iter().filter_map(|file| SegmentName::parse(&file.name));
        let newest: BTreeMap<u64, Level> = names.map(|name| (name.number, name.level)).collect();
        Ok(newest.into_iter().map(|(number, level)| SegmentName { number, level }).collect())
    }

    /// Shows all windows that are meant. Says what could not be read.
    fn walk(
        &self,
        range: &Range<u64>,
        profile_type: &str,
        mut show: impl FnMut(&Found<'_>) -> Result<(), super::Damage>,
    ) -> Result<Vec<String>, StoreError> {
        let mut problems = Vec::new();
        let is_meant = |head: &Head| head.profile_type == profile_type && is_in(head, range);
        let segments = self.segments()?;
        let newest = segments.last().copied();
        for mut name in segments {
            let mut result = self.walk_file(name, Some(name) == newest, &is_meant, &mut show);
            if let Err(Refused::Io(error)) = &result
                && error.kind() == io::ErrorKind::NotFound
            {
                // Merged since the directory was listed, or dropped.
                let again = self.segments()?.into_iter().find(|other| other.number == name.number);
                let Some(merged) = again else { continue };
                name = merged;
                result = self.walk_file(name, false, &is_meant, &mut show);
            }
            let why = match result {
                Ok(None) => continue,
                Ok(Some(why)) => why,
                Err(Refused::Newer(version)) => {
                    format!("version {version} of the form is newer than this program")
                }
                Err(Refused::Header(why)) => why.to_string(),
                Err(Refused::Io(error)) => error.to_string(),
            };
            problems.push(format!("{} could not be read to its end: {why}", name.file()));
        }
        Ok(problems)
    }

    /// The windows of one file that are meant; and where it stops being good.
    fn walk_file(
        &self,
        name: SegmentName,
        is_newest: bool,
        is_meant: &dyn Fn(&Head) -> bool,
        show: &mut dyn FnMut(&Found<'_>) -> Result<(), super::Damage>,
    ) -> Result<Option<String>, Refused> {
        let file = name.file();
        let wanted_until = match self.skim(&file, is_meant)? {
            Skimmed::Nothing => return Ok(None),
            Skimmed::Until(offset) => offset,
        };
        let mut records = open_records(&self.folder, &file)?;
        let mut entries = Entries::default();
        while records.at < wanted_until {
            let at = records.at;
            let record = match records.next()? {
                None => break,
                // A window that is being written, or was when its writer stopped.
                Some(Err(cut)) if is_newest && cut.is_torn => break,
                Some(Err(cut)) => return Ok(Some(format!("{} at byte {}", cut.why, cut.at))),
                Some(Ok(record)) => record,
            };
            let shown = unpack(&record, &mut entries, None).and_then(|window| match &window {
                Some(window) if is_meant(&record.head) => {
                    show(&Found { entries: &entries, head: &record.head, window, file: name.number })
                }
                _ => Ok(()),
            });
            if let Err(why) = shown {
                return Ok(Some(format!("{why} at byte {at}")));
            }
        }
        Ok(None)
    }

    /// Looks at the heads of a file's records alone, which takes a few bytes of each: up to where is it worth reading?
    fn skim(&self, name: &str, is_meant: &dyn Fn(&Head) -> bool) -> Result<Skimmed, Refused> {
        let file = self.folder.read(name)?;
        let length = file.metadata()?.len();
        let (mut at, mut until) = (HEADER_BYTES, None);
        let mut bytes = [0; 256];
        while at < length {
            let filled = file.read_at(&mut bytes, at)?;
            // Whoever reads it finds out what is wrong.
            let Some((head, size)) = head_at(&bytes[..filled]) else { return Ok(Skimmed::Until(u64::MAX)) };
            at = at.saturating_add(size);
            if head.parts > 0 && is_meant(&head) {
                until = Some(at);
            }
        }
        Ok(until.map_or(
            if length < HEADER_BYTES { Skimmed::Until(u64::MAX) } else { Skimmed::Nothing },
            Skimmed::Until,
        ))
    }

    fn list_windows(
        &self,
        name: SegmentName,
        range: &Range<u64>,
        windows: &mut Vec<WindowInfo>,
    ) -> Result<(), String> {
        let refused = |refused| match refused {
            Refused::Newer(version) => format!("version {version} of the form is newer than this program"),
            Refused::Header(why) => why.to_string(),
            Refused::Io(error) => error.to_string(),
        };
        if matches!(self.skim(&name.file(), &|head| is_in(head, range)), Ok(Skimmed::Nothing)) {
            return Ok(());
        }
        let mut records = open_records(&self.folder, &name.file()).map_err(refused)?;
        loop {
            let at = records.at;
            let head = match records.next().map_err(|error| error.to_string())? {
                None => return Ok(()),
                Some(Err(cut)) if cut.is_torn && name.level == Level::Recorded => return Ok(()),
                Some(Err(cut)) => return Err(format!("{} at byte {}", cut.why, cut.at)),
                Some(Ok(record)) => record.head,
            };
            if head.parts > 0 && is_in(&head, range) {
                windows.push(WindowInfo {
                    profile_type: head.profile_type,
                    start_unix_ns: head.start_unix_ns,
                    end_unix_ns: head.end_unix_ns,
                    duration_ns: head.duration_ns,
                    parts: head.parts,
                    level: name.level,
                    bytes: records.at - at,
                });
            }
        }
    }

    /// What all files together hold.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn span(&self) -> Result<Option<Range<u64>>, StoreError> {
        let (windows, _) = self.windows(&(0..u64::MAX))?;
        let mut extent = Extent::default();
        for window in &windows {
            let head = Head {
                start_unix_ns: window.start_unix_ns,
                end_unix_ns: window.end_unix_ns,
                parts: window.parts,
                ..Head::default()
            };
            extent.add(&head, window.bytes);
        }
        Ok((extent.windows > 0).then_some(extent.first_unix_ns..extent.end_unix_ns))
    }
}

enum Skimmed {
    /// No window is meant.
    Nothing,
    /// The last one that is meant ends at this offset.
    Until(u64),
}

/// Whether a window belongs to a stretch of time.
fn is_in(head: &Head, range: &Range<u64>) -> bool {
    let (window, stretch) = (head.start_unix_ns..head.end_unix_ns.max(head.start_unix_ns), range);
    let length = |range: &Range<u64>| range.end.saturating_sub(range.start);
    let middle = |range: &Range<u64>| range.start + length(range) / 2;
    if length(&window) <= length(stretch) {
        stretch.contains(&middle(&window))
    } else {
        window.contains(&middle(stretch))
    }
}
