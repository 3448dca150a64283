//! What is in a store when a writer opens it: history is found, a torn end is cut, what is damaged is set aside.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;

use super::StoreError;
use super::folder::Folder;
use super::segment::{Extent, HEADER_BYTES, Level, Refused, SegmentName, measure, open_records, resume};
use super::writer::{Active, AsideFile, Segment};

/// Ends the names of files that nobody reads.
pub(super) const DAMAGED: &str = ".damaged";

/// Ends the names of files that are being written.
pub(super) const TEMPORARY: &str = ".new";

/// A file that was set aside. It stays until its time has come or room is needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Aside {
    /// Its name in the store's directory now.
    pub name: String,
    /// What is wrong with it.
    pub why: String,
    /// Windows of it that could be read and were kept.
    pub kept_windows: u64,
}

/// What a writer found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Opened {
    /// Windows, as they were recorded.
    pub windows: u64,
    /// Start of the first one, nanoseconds since the Unix epoch.
    pub first_unix_ns: u64,
    /// End of the last one.
    pub end_unix_ns: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// Bytes of a window that was being written when its writer stopped: cut off.
    pub torn_bytes: u64,
    /// Files that were set aside now.
    pub aside: Vec<Aside>,
}

/// The files of a store.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) segments: BTreeMap<u64, Segment>,
    pub(super) aside: Vec<AsideFile>,
    pub(super) active: Option<Active>,
    pub(super) next_number: u64,
}

/// Looks through a directory that is locked.
pub(super) fn look(folder: &Folder) -> Result<(Found, Opened), StoreError> {
    let failed = |error| folder.failed("look through the files", error);
    let (mut found, mut opened) = (Found::default(), Opened::default());
    let mut segments: Vec<SegmentName> = Vec::new();
    for file in folder.list().map_err(failed)? {
        let name = file.name;
        if let Some(segment) = SegmentName::parse(&name) {
            segments.push(segment);
        } else if name.ends_with(TEMPORARY) {
            folder.remove(&name).map_err(failed)?;
        } else if let Some(segment) = name.strip_suffix(DAMAGED).and_then(SegmentName::parse) {
            found.next_number = found.next_number.max(segment.number.saturating_add(1));
            let (bytes, modified_ns) = (file.bytes, file.modified_ns);
            found.aside.push(AsideFile { number: segment.number, name, bytes, modified_ns });
        }
    }
    segments.sort_unstable();
    found.next_number = found
        .next_number
        .max(segments.iter().map(|segment| segment.number.saturating_add(1)).max().unwrap_or_default());
    let newest = segments.last().copied();
    // Coarser files first: where one is good, the finer one that it was made from is left over.
    for segment in segments.into_iter().rev() {
        if found.segments.contains_key(&segment.number) {
            folder.remove(&segment.file()).map_err(failed)?;
            continue;
        }
        let to_resume = Some(segment) == newest && segment.level == Level::Recorded;
        enter(folder, segment, to_resume, &mut found, &mut opened).map_err(failed)?;
    }
    let kept = found.segments.values();
    opened.first_unix_ns = kept.clone().map(|segment| segment.extent.first_unix_ns).min().unwrap_or_default();
    opened.end_unix_ns = kept.clone().map(|segment| segment.extent.end_unix_ns).max().unwrap_or_default();
    opened.windows = kept.clone().map(|segment| segment.extent.windows).sum();
    opened.bytes = kept.map(|segment| segment.extent.bytes).sum();
    found.aside.sort_by_key(|file| file.number);
    Ok((found, opened))
}

/// Takes one file in.
fn enter(
    folder: &Folder,
    name: SegmentName,
    to_resume: bool,
    found: &mut Found,
    opened: &mut Opened,
) -> io::Result<()> {
    let file = name.file();
    let looked = if to_resume {
        resume(folder, &file).map(|(dictionary, extent, cut)| (Some(dictionary), extent, cut))
    } else {
        open_records(folder, &file).and_then(|mut records| {
            let (extent, cut) = measure(&mut records)?;
            Ok((None, extent, cut))
        })
    };
    let (dictionary, mut extent, cut) = match looked {
        Ok(looked) => looked,
        Err(Refused::Newer(version)) => {
            // Left where it is: the newer program will want it back.
            found.aside.push(aside_file(folder, name, &file)?);
            let why = format!("version {version} of the form; this program reads up to {}", super::VERSION);
            opened.aside.push(Aside { name: file, why, kept_windows: 0 });
            return Ok(());
        }
        // It never had a window.
        Err(Refused::Header(_)) if to_resume && is_being_made(folder, &file)? => return folder.remove(&file),
        Err(Refused::Header(why)) => {
            return set_aside(folder, name, &why.to_string(), 0, found, opened);
        }
        Err(Refused::Io(error)) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(Refused::Io(error)) => return Err(error),
    };
    let mut is_whole = true;
    if let Some(cut) = cut {
        let length = folder.read(&file)?.metadata()?.len();
        if to_resume && cut.is_torn {
            opened.torn_bytes += length.saturating_sub(cut.at);
            let file = folder.change(&file)?;
            file.set_len(cut.at)?;
            file.sync_all()?;
        } else {
            is_whole = false;
            keep_good_part(folder, name, &mut extent, cut.at)?;
            let why = format!("{} at byte {} of {length}", cut.why, cut.at);
            set_aside(folder, name, &why, extent.windows, found, opened)?;
            if extent.windows == 0 {
                return Ok(());
            }
            folder.rename(&temporary(name), &file)?;
            folder.sync()?;
        }
    }
    if let Some(dictionary) = dictionary.filter(|_| is_whole) {
        let file = folder.change(&file)?;
        found.active = Some(Active { number: name.number, file, dictionary });
    }
    found.segments.insert(name.number, Segment { level: name.level, extent, is_damaged: false });
    Ok(())
}

/// Whether a file has less than a header: its writer stopped before the first window.
fn is_being_made(folder: &Folder, file: &str) -> io::Result<bool> {
    Ok(folder.read(file)?.metadata()?.len() <= HEADER_BYTES)
}

fn temporary(name: SegmentName) -> String {
    name.file() + TEMPORARY
}

/// Copies what is good of a file into a new one beside it.
fn keep_good_part(folder: &Folder, name: SegmentName, extent: &mut Extent, bytes: u64) -> io::Result<()> {
    if extent.windows == 0 {
        return Ok(());
    }
    let mut part = Vec::new();
    folder.read(&name.file())?.take(bytes).read_to_end(&mut part)?;
    extent.bytes = part.len() as u64;
    let written = folder.new_file(&temporary(name)).and_then(|mut file| {
        file.write_all(&part)?;
        file.sync_all()
    });
    if written.is_err() {
        // A full disk: the windows are lost with the file, which says so.
        let _may_not_exist = folder.remove(&temporary(name));
        *extent = Extent::default();
    }
    Ok(())
}

/// Renames a damaged file, so that nothing reads it again.
fn set_aside(
    folder: &Folder,
    name: SegmentName,
    why: &str,
    kept_windows: u64,
    found: &mut Found,
    opened: &mut Opened,
) -> io::Result<()> {
    let (file, aside) = (name.file(), name.file() + DAMAGED);
    folder.rename(&file, &aside)?;
    folder.sync()?;
    found.aside.retain(|known| known.name != aside);
    found.aside.push(aside_file(folder, name, &aside)?);
    opened.aside.push(Aside { name: aside, why: why.to_owned(), kept_windows });
    Ok(())
}

fn aside_file(folder: &Folder, segment: SegmentName, name: &str) -> io::Result<AsideFile> {
    let metadata = folder.read(name)?.metadata()?;
    let modified_ns = u64::try_from(metadata.mtime()).unwrap_or_default().saturating_mul(1_000_000_000);
    Ok(AsideFile { number: segment.number, name: name.to_owned(), bytes: metadata.len(), modified_ns })
}
