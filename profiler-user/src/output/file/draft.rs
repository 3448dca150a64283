//! A file while it is being written: without a name (`O_TMPFILE`) where the file system can do that, so that an
//! agent that is killed leaves nothing behind; else under a temporary one.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

/// A file that has no name yet, or a temporary one where the file system knows no files without names.
pub(super) struct Draft {
    pub(super) file: File,
    temporary: Option<OsString>,
}

impl Draft {
    pub(super) fn new(directory: &OwnedFd) -> io::Result<Self> {
        let mode = Mode::from_raw_mode(0o644);
        let nameless = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
        match rustix::fs::openat(directory, ".", nameless, mode) {
            Ok(file) => return Ok(Self { file: file.into(), temporary: None }),
            // What kernels and file systems without O_TMPFILE answer.
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOENT | Errno::INVAL) => {}
            Err(error) => return Err(error.into()),
        }
        let temporary = temporary_name("output");
        let exclusive = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(directory, &*temporary, exclusive, mode)?;
        Ok(Self { file: file.into(), temporary: Some(temporary) })
    }

    /// Gives the file a name that is free; `EXIST` when it is not.
    pub(super) fn name(&self, directory: &OwnedFd, name: &OsStr) -> Result<(), Errno> {
        let Some(temporary) = &self.temporary else {
            let own = format!("/proc/self/fd/{}", self.file.as_raw_fd());
            return rustix::fs::linkat(CWD, own, directory, name, AtFlags::SYMLINK_FOLLOW);
        };
        match rustix::fs::renameat_with(directory, &**temporary, directory, name, RenameFlags::NOREPLACE) {
            // Not every file system can rename without replacing; a hard link can't replace either.
            Err(Errno::INVAL | Errno::NOSYS) => {
                rustix::fs::linkat(directory, &**temporary, directory, name, AtFlags::empty())?;
                rustix::fs::unlinkat(directory, &**temporary, AtFlags::empty())
            }
            result => result,
        }
    }

    /// Gives the file a name whether it is free or not.
    pub(super) fn name_over(&self, directory: &OwnedFd, name: &OsStr) -> Result<(), Errno> {
        let temporary = self.temporary.clone().unwrap_or_else(|| temporary_name("output"));
        if self.temporary.is_none() {
            self.name(directory, &temporary)?;
        }
        rustix::fs::renameat(directory, &*temporary, directory, name).inspect_err(|_| {
            let _ = rustix::fs::unlinkat(directory, &*temporary, AtFlags::empty());
        })
    }

    /// Removes what has a name. A file without one is gone with its descriptor.
    pub(super) fn remove(&self, directory: &OwnedFd) {
        if let Some(temporary) = &self.temporary {
            let _ = rustix::fs::unlinkat(directory, &**temporary, AtFlags::empty());
        }
    }
}

/// A hidden name that says whose it is, should it ever be left behind.
pub(super) fn temporary_name(purpose: &str) -> OsString {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!(".perf-agent-{}-{number}-{purpose}.part", std::process::id()).into()
}
