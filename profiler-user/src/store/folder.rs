//! The directory of a store: held open, root's alone (or ours), its files opened by name in it and never through a link.

use std::fs::{DirBuilder, File};
use std::io::{self, Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::StoreError;

/// The file whose lock says that somebody writes.
const LOCK: &str = "lock";

/// A file in the directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Listed {
    pub(super) name: String,
    pub(super) bytes: u64,
    /// When it was last written to, nanoseconds since the Unix epoch.
    pub(super) modified_ns: u64,
}

/// An open directory.
#[derive(Debug)]
pub(super) struct Folder {
    directory: OwnedFd,
    pub(super) path: PathBuf,
}

impl Folder {
    /// Opens the directory, and creates it when it is not there.
    pub(super) fn create(path: &Path) -> Result<Self, StoreError> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
        made.map_err(|source| StoreError::Io {
            what: "create the directory",
            path: path.to_owned(),
            source,
        })?;
        let folder = Self::open_owned(path)?;
        let failed = |error: io::Error| folder.failed("keep others out of the directory", error);
        if folder.list().map_err(failed)?.is_empty() && folder.others_reach_it().map_err(failed)?.is_some() {
            // Made for us, with the usual rights. One that has files may be anything: it stays as it is.
            rustix::fs::fchmod(&folder.directory, Mode::RWXU).map_err(|error| failed(error.into()))?;
        }
        folder.checked_rights()
    }

    /// Opens a directory that is there.
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        Self::open_owned(path)?.checked_rights()
    }

    fn open_owned(path: &Path) -> Result<Self, StoreError> {
        let not_ours =
            |why: &str| StoreError::NotOurs { path: path.to_owned(), why: why.to_owned(), fix: None };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = rustix::fs::open(path, flags, Mode::empty()).map_err(|error| match error {
            Errno::NOENT => StoreError::Missing { path: path.to_owned() },
            Errno::NOTDIR | Errno::LOOP => not_ours("it is not a directory, or a link to one"),
            _ => StoreError::Io { what: "open the directory", path: path.to_owned(), source: error.into() },
        })?;
        let folder = Self { directory, path: path.to_owned() };
        let stat = rustix::fs::fstat(&folder.directory)
            .map_err(|error| folder.failed("read the owner of the directory", error.into()))?;
        if !is_ours(stat.st_uid) {
            return Err(not_ours(&format!("it belongs to user {}", stat.st_uid)));
        }
        Ok(folder)
    }

    /// The directory's mode, where it lets others in.
    fn others_reach_it(&self) -> io::Result<Option<u32>> {
        let mode = rustix::fs::fstat(&self.directory)?.st_mode;
        Ok((mode & 0o077 != 0).then_some(mode & 0o7777))
    }

    fn checked_rights(self) -> Result<Self, StoreError> {
        let failed = |error| self.failed("read the rights of the directory", error);
        let Some(mode) = self.others_reach_it().map_err(failed)? else { return Ok(self) };
        Err(StoreError::NotOurs {
            why: format!("others can reach it (mode {mode:o})"),
            fix: Some(format!("chmod 700 {}", self.path.display())),
            path: self.path,
        })
    }

    /// An error about this directory.
    pub(super) fn failed(&self, what: &'static str, source: io::Error) -> StoreError {
        StoreError::Io { what, path: self.path.clone(), source }
    }

    /// Makes sure that nobody else writes. The lock ends with the file, however the process ends.
    pub(super) fn lock(&self) -> Result<File, StoreError> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let failed = |error| self.failed("open the lock", error);
        let mut file = File::from(self.at(LOCK, flags).map_err(failed)?);
        match file.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => {
                let mut text = String::new();
                let pid =
                    (&file).take(16).read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
                return Err(StoreError::Locked { path: self.path.clone(), pid });
            }
            Err(std::fs::TryLockError::Error(error)) => return Err(failed(error)),
        }
        // Only for the message of somebody who comes later: a full disk must not matter here.
        let _unimportant = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| write!(file, "{}", std::process::id()));
        Ok(file)
    }

    /// What is free of the file system that the directory is on, bytes; the largest number where the system does not say.
    pub(super) fn free_bytes(&self) -> u64 {
        let stat = rustix::fs::fstatvfs(&self.directory).ok().filter(|stat| stat.f_blocks > 0);
        stat.map_or(u64::MAX, |stat| stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    /// All files.
    pub(super) fn list(&self) -> io::Result<Vec<Listed>> {
        let mut files = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.directory)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            match rustix::fs::statat(&self.directory, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile => {
                    let modified_ns = (stat.st_mtime as u64).saturating_mul(1_000_000_000);
                    let bytes = stat.st_size.unsigned_abs();
                    files.push(Listed { name: name.to_owned(), bytes, modified_ns });
                }
                // Not a file, or removed since the directory was read.
                Ok(_) | Err(Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
        files.sort();
        Ok(files)
    }

    /// Opens a file for reading.
    pub(super) fn read(&self, name: &str) -> io::Result<File> {
        self.checked(name, OFlags::RDONLY)
    }

    /// Opens a file that is there for reading and writing.
    pub(super) fn change(&self, name: &str) -> io::Result<File> {
        self.checked(name, OFlags::RDWR)
    }

    /// Makes a file that is not there yet.
    pub(super) fn new_file(&self, name: &str) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        self.at(name, flags).map(File::from)
    }

    pub(super) fn remove(&self, name: &str) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.directory, name, AtFlags::empty())?)
    }

    pub(super) fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.directory, from, &self.directory, to)?)
    }

    /// Brings names to disk: of files that were made, renamed or removed.
    pub(super) fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fsync(&self.directory)?)
    }

    fn checked(&self, name: &str, access: OFlags) -> io::Result<File> {
        // Without NONBLOCK a pipe of that name would hold us up for ever.
        let flags = access | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(self.at(name, flags)?);
        let metadata = file.metadata()?;
        if !metadata.is_file() || !is_ours(metadata.uid()) {
            let what = "not a file, or somebody else's";
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, what));
        }
        Ok(file)
    }

    fn at(&self, name: &str, flags: OFlags) -> io::Result<OwnedFd> {
        Ok(rustix::fs::openat(&self.directory, name, flags, Mode::RUSR | Mode::WUSR)?)
    }
}

fn is_ours(uid: u32) -> bool {
    uid == 0 || uid == rustix::process::geteuid().as_raw()
}
