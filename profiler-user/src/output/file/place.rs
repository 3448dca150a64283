//! One place for one file: a directory that is held open, a name in it, and whose identity is used there.
//!
//! The file gets its name when it is complete: nobody sees half a file, and a full disk costs nothing that was
//! there before.

use std::ffi::{OsStr, OsString};
use std::io::{self, BufWriter, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType};
use rustix::io::Errno;

use super::FileError;
use super::directory::{open_directory, open_trusted};
use super::draft::{Draft, temporary_name};
use crate::output::OutputError;
use crate::system::identity::{ActingAs, Invoker};

/// What to do when the name is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Existing {
    /// Leave it and take the next free name: `x-2.svg`.
    TakeNextName,
    /// Rename the file that is there to `x.svg.old`.
    #[default]
    KeepAsOld,
    /// Replace the file that is there.
    Replace,
}

/// A file that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Its path.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// Where the file that had the name before is now.
    pub old: Option<PathBuf>,
}

/// A place that was shown to be writable.
#[derive(Debug)]
pub struct Destination {
    directory: OwnedFd,
    directory_path: PathBuf,
    name: OsString,
    user: Option<Invoker>,
    existing: Existing,
}

/// Highest number that [`Existing::TakeNextName`] tries.
const MAX_NUMBER: u32 = 10_000;

impl Destination {
    /// Opens the directory of `path` as `user` (or as ourselves) and shows that files can be made in it.
    ///
    /// A directory that the user may not write is used as root only if nobody but root can have had a hand in it or
    /// in the way to it: all directories on the path are root's, none is a link, and others can't write them (or, on
    /// the way, can't exchange what is in them because of the sticky bit, as in `/tmp`).
    ///
    /// # Errors
    /// When the path has no file name, the directory can't be written, or something other than a file has the name.
    pub fn open(path: &Path, existing: Existing, user: Option<&Invoker>) -> Result<Self, FileError> {
        let name = path.file_name().ok_or_else(|| FileError::NoName { path: path.to_owned() })?.to_owned();
        let directory_path = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        let failed = |error: Errno| FileError::Directory {
            directory: directory_path.clone(),
            source: error.into(),
            who: match user {
                Some(user) if error == Errno::ACCESS => {
                    format!(" (as the user behind sudo, uid {}, who owns the results)", user.uid)
                }
                _ => String::new(),
            },
        };
        let as_user = {
            let _acting =
                acting(user).map_err(|error| failed(Errno::from_io_error(&error).unwrap_or(Errno::IO)))?;
            open_directory(&directory_path).and_then(|directory| probe(&directory).map(|()| directory))
        };
        let (directory, user) = match (as_user, user) {
            (Ok(directory), user) => (directory, user.cloned()),
            (Err(Errno::ACCESS), Some(_)) => {
                let trusted = open_trusted(&directory_path).and_then(|directory| {
                    probe(&directory)?;
                    Ok(directory)
                });
                (trusted.map_err(|_| failed(Errno::ACCESS))?, None)
            }
            (Err(error), _) => return Err(failed(error)),
        };
        let destination = Self { directory, directory_path, name, user, existing };
        if existing != Existing::TakeNextName {
            destination.check_replaceable(&destination.name)?;
        }
        Ok(destination)
    }

    /// The path that was asked for.
    pub fn path(&self) -> PathBuf {
        self.path_of(&self.name)
    }

    /// True if nothing has this name in the directory.
    pub(super) fn is_free(&self, name: &OsStr) -> bool {
        rustix::fs::statat(&self.directory, name, AtFlags::SYMLINK_NOFOLLOW).is_err()
    }

    /// Takes another name in the same directory.
    pub(super) fn rename_to(&mut self, name: OsString) {
        self.name = name;
    }

    /// Writes the file. Its name appears when it is complete; on an error nothing is left of it.
    ///
    /// # Errors
    /// When writing fails, with the bytes that had been written; when the name can't be taken.
    pub fn write(
        &self,
        write: impl FnOnce(&mut dyn Write) -> Result<(), OutputError>,
    ) -> Result<Written, FileError> {
        let draft = {
            let _acting = self.acting(0)?;
            Draft::new(&self.directory).map_err(|error| self.write_error(0, error.into()))?
        };
        let mut counting = Counting { inner: BufWriter::with_capacity(256 << 10, &draft.file), bytes: 0 };
        let result = write(&mut counting).and_then(|()| Ok(counting.flush()?));
        let bytes = counting.bytes;
        drop(counting);
        let published = result.and_then(|()| {
            let _acting = acting(self.user.as_ref())?;
            Ok(self.publish(&draft)?)
        });
        if published.is_err() {
            let _acting = acting(self.user.as_ref());
            draft.remove(&self.directory);
        }
        let (name, old) = published.map_err(|error| self.write_error(bytes, error))?;
        Ok(Written { path: self.path_of(&name), bytes, old: old.map(|name| self.path_of(&name)) })
    }

    /// Points the symbolic link `link` in this directory at `target`, another name in it. Replaces only a link.
    ///
    /// # Errors
    /// When something else has that name, or the link can't be made.
    pub fn point_link(&self, link: &str, target: &OsStr) -> Result<(), FileError> {
        let failed = |error: Errno| self.write_error(0, io::Error::from(error).into());
        let _acting = self.acting(0)?;
        match rustix::fs::statat(&self.directory, link, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink => {
                return Err(FileError::InTheWay {
                    path: self.path_of(OsStr::new(link)),
                    what: "not a symbolic link",
                });
            }
            _ => {}
        }
        let temporary = temporary_name(link);
        rustix::fs::symlinkat(target, &self.directory, &*temporary).map_err(failed)?;
        rustix::fs::renameat(&self.directory, &*temporary, &self.directory, link).map_err(|error| {
            let _ = rustix::fs::unlinkat(&self.directory, &*temporary, AtFlags::empty());
            failed(error)
        })
    }

    /// Gives the complete file its name. Returns it, and the name that the file before it has now.
    fn publish(&self, draft: &Draft) -> io::Result<(OsString, Option<OsString>)> {
        match self.existing {
            Existing::Replace => {
                draft.name_over(&self.directory, &self.name)?;
                Ok((self.name.clone(), None))
            }
            Existing::TakeNextName => {
                for number in 1..=MAX_NUMBER {
                    let name = numbered(&self.name, number);
                    match draft.name(&self.directory, &name) {
                        Err(Errno::EXIST) => {}
                        result => return Ok(result.map(|()| (name, None))?),
                    }
                }
                Err(Errno::EXIST.into())
            }
            Existing::KeepAsOld => {
                let mut old_name = self.name.clone();
                old_name.push(".old");
                let mut old = None;
                // Someone may take the name again in between, but not for ever.
                for _ in 0..16 {
                    match draft.name(&self.directory, &self.name) {
                        Err(Errno::EXIST) => {
                            self.check_replaceable(&self.name).map_err(io::Error::other)?;
                            rustix::fs::renameat(&self.directory, &self.name, &self.directory, &old_name)?;
                            old = Some(old_name.clone());
                        }
                        result => return Ok(result.map(|()| (self.name.clone(), old))?),
                    }
                }
                Err(Errno::EXIST.into())
            }
        }
    }

    /// Only a file may be renamed or replaced: a device or a link in its place is someone's on purpose.
    fn check_replaceable(&self, name: &OsStr) -> Result<(), FileError> {
        let Ok(stat) = rustix::fs::statat(&self.directory, name, AtFlags::SYMLINK_NOFOLLOW) else {
            return Ok(());
        };
        let what = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => return Ok(()),
            FileType::Directory => "a directory",
            FileType::Symlink => "a symbolic link",
            _ => "not a file",
        };
        Err(FileError::InTheWay { path: self.path_of(name), what })
    }

    fn acting(&self, written: u64) -> Result<Option<ActingAs>, FileError> {
        acting(self.user.as_ref()).map_err(|error| self.write_error(written, error.into()))
    }

    fn path_of(&self, name: &OsStr) -> PathBuf {
        if self.directory_path == Path::new(".") {
            PathBuf::from(name)
        } else {
            self.directory_path.join(name)
        }
    }

    fn write_error(&self, written: u64, source: OutputError) -> FileError {
        FileError::Write { path: self.path(), written, source }
    }
}

/// Counts bytes for error messages.
struct Counting<W> {
    inner: W,
    bytes: u64,
}

impl<W: Write> Write for Counting<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

fn acting(user: Option<&Invoker>) -> io::Result<Option<ActingAs>> {
    user.map(Invoker::act).transpose()
}

/// Shows that a file can be made, without leaving one.
fn probe(directory: &OwnedFd) -> Result<(), Errno> {
    let draft = Draft::new(directory).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    draft.remove(directory);
    Ok(())
}

/// `x.svg` → `x-2.svg`; compound endings stay whole: `x.pb.gz` → `x-2.pb.gz`.
pub(super) fn numbered(name: &OsStr, number: u32) -> OsString {
    if number <= 1 {
        return name.to_owned();
    }
    let text = name.to_string_lossy();
    let ends = super::super::FORMATS.iter().flat_map(|format| format.extensions);
    let extension = ends.filter(|end| text.ends_with(&format!(".{end}"))).max_by_key(|end| end.len());
    match extension {
        Some(extension) => {
            let stem = &text[..text.len() - extension.len() - 1];
            format!("{stem}-{number}.{extension}").into()
        }
        None => format!("{text}-{number}").into(),
    }
}
