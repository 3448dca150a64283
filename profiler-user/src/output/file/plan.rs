//! The results of one recording: which formats go where.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::names::expand;
use super::place::numbered;
use super::{Destination, Existing, FileError, NameParts, Written, default_stem};
use crate::output::{Format, OutputError, OutputOptions};
use crate::profile::Profile;
use crate::system::identity::Invoker;

/// What the user asked for.
#[derive(Debug, Clone, Default)]
pub struct PlanRequest {
    /// Output files, with placeholders; `-` is standard output. Empty means the default names.
    pub paths: Vec<PathBuf>,
    /// The format of all of them; none takes it from each name.
    pub format: Option<&'static Format>,
    /// What to do with files that exist.
    pub existing: Existing,
}

/// Formats written when no file is named, and the links that point at the newest.
const DEFAULT_FORMATS: [(&str, &str); 2] = [("svg", "last.svg"), ("pb.gz", "last.pb.gz")];

/// Places for all results, open and known to be writable.
#[derive(Debug)]
pub struct OutputPlan {
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    sink: Sink,
    format: &'static Format,
    link: Option<&'static str>,
}

#[derive(Debug)]
enum Sink {
    Stdout,
    /// A device or pipe that is written as it is.
    Special(PathBuf, File),
    File(Destination),
}

impl OutputPlan {
    /// Settles names and formats and opens the places, as the user behind sudo if there is one.
    ///
    /// # Errors
    /// When a name is wrong or a place can't be written.
    pub fn open(request: &PlanRequest, parts: &NameParts) -> Result<Self, FileError> {
        Self::open_as(request, parts, Invoker::behind_sudo().as_ref())
    }

    /// As [`OutputPlan::open`], for a given user or as ourselves.
    ///
    /// # Errors
    /// As [`OutputPlan::open`].
    pub fn open_as(
        request: &PlanRequest,
        parts: &NameParts,
        user: Option<&Invoker>,
    ) -> Result<Self, FileError> {
        if request.paths.is_empty() {
            return Self::open_default(Path::new(""), parts, user);
        }
        let mut entries: Vec<Entry> = Vec::new();
        let mut seen: Vec<PathBuf> = Vec::new();
        for path in &request.paths {
            let path = match path.to_str() {
                Some(text) => PathBuf::from(expand(text, parts)?),
                None => path.clone(),
            };
            if seen.contains(&path) {
                return Err(FileError::Twice { path });
            }
            let sink = open_sink(&path, request.existing, user)?;
            let format = match (request.format, &sink) {
                (Some(format), _) => format,
                // Standard output has no name: the text format is the one that a terminal and a pipe both take.
                (None, Sink::Stdout) => Format::from_name("folded")?,
                (None, _) => Format::from_path(&path)?,
            };
            entries.push(Entry { sink, format, link: None });
            seen.push(path);
        }
        Ok(Self { entries })
    }

    /// The default files in `directory`, all with the same stem.
    pub(super) fn open_default(
        directory: &Path,
        parts: &NameParts,
        user: Option<&Invoker>,
    ) -> Result<Self, FileError> {
        let stem = default_stem(parts);
        let mut entries = Vec::new();
        for (extension, link) in DEFAULT_FORMATS {
            let path = directory.join(format!("{stem}.{extension}"));
            let destination = Destination::open(&path, Existing::TakeNextName, user)?;
            let format = Format::from_path(&path)?;
            entries.push(Entry { sink: Sink::File(destination), format, link: Some(link) });
        }
        Ok(Self { entries })
    }

    /// True if a result goes to standard output, so that nothing else may.
    pub fn uses_stdout(&self) -> bool {
        self.entries.iter().any(|entry| matches!(entry.sink, Sink::Stdout))
    }

    /// Writes all results. One that fails does not stop the others.
    pub fn write(mut self, profile: &Profile, options: &OutputOptions) -> Vec<Result<Written, FileError>> {
        self.give_default_files_one_stem();
        self.entries.iter().map(|entry| entry.write(profile, options)).collect()
    }

    /// If one of the default names is taken by now, all of them move on to the same number.
    fn give_default_files_one_stem(&mut self) {
        let mut files: Vec<&mut Destination> = Vec::new();
        for entry in &mut self.entries {
            if let (Sink::File(destination), Some(_)) = (&mut entry.sink, entry.link) {
                files.push(destination);
            }
        }
        let names: Vec<OsString> =
            files.iter().filter_map(|file| file.path().file_name().map(ToOwned::to_owned)).collect();
        let free = |number: &u32| {
            files.iter().zip(&names).all(|(file, name)| file.is_free(&numbered(name, *number)))
        };
        let number = (1..1000).find(free).unwrap_or(1);
        for (file, name) in files.iter_mut().zip(&names) {
            file.rename_to(numbered(name, number));
        }
    }
}

impl Entry {
    fn write(&self, profile: &Profile, options: &OutputOptions) -> Result<Written, FileError> {
        let write = |out: &mut dyn Write| (self.format.write)(profile, options, out);
        match &self.sink {
            Sink::Stdout => {
                let mut out = io::BufWriter::new(io::stdout().lock());
                let result = write(&mut out).and_then(|()| Ok(out.flush()?));
                match result {
                    // The reader, such as head, has seen enough.
                    Err(OutputError::Io(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
                    result => result,
                }
                .map_err(|source| FileError::Write {
                    path: PathBuf::from("-"),
                    written: 0,
                    source,
                })?;
                Ok(Written { path: PathBuf::from("-"), bytes: 0, old: None })
            }
            Sink::Special(path, file) => {
                let mut out = io::BufWriter::new(file);
                let result = write(&mut out).and_then(|()| Ok(out.flush()?));
                result.map_err(|source| FileError::Write { path: path.clone(), written: 0, source })?;
                Ok(Written { path: path.clone(), bytes: 0, old: None })
            }
            Sink::File(destination) => {
                let written = destination.write(write)?;
                if let (Some(link), Some(name)) = (self.link, written.path.file_name()) {
                    // A convenience: the result is safe without it.
                    let _ = destination.point_link(link, name);
                }
                Ok(written)
            }
        }
    }
}

fn open_sink(path: &Path, existing: Existing, user: Option<&Invoker>) -> Result<Sink, FileError> {
    const STDOUT: [&str; 4] = ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"];
    if STDOUT.iter().any(|name| path == Path::new(name)) {
        return Ok(Sink::Stdout);
    }
    if let Some(file) = open_special(path, user) {
        return Ok(Sink::Special(path.to_owned(), file?));
    }
    Destination::open(path, existing, user).map(Sink::File)
}

/// Opens a character device or a named pipe that exists. None for anything else.
fn open_special(path: &Path, user: Option<&Invoker>) -> Option<Result<File, FileError>> {
    let kind = std::fs::symlink_metadata(path).ok()?.file_type();
    if !kind.is_char_device() && !kind.is_fifo() {
        return None;
    }
    let opened = user.map(Invoker::act).transpose().and_then(|_acting| {
        File::options().write(true).custom_flags(libc::O_NOFOLLOW | libc::O_NOCTTY).open(path)
    });
    Some(opened.map_err(|source| FileError::Write {
        path: path.to_owned(),
        written: 0,
        source: source.into(),
    }))
}
