//! Opening the directory of a result, held open so that it can't be exchanged later.

use std::os::fd::OwnedFd;
use std::path::{Component, Path};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// Opens a directory, following links as any program would.
pub(super) fn open_directory(path: &Path) -> Result<OwnedFd, Errno> {
    rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// Opens a directory step by step from the root, refusing every step that someone other than root could have made.
pub(super) fn open_trusted(path: &Path) -> Result<OwnedFd, Errno> {
    let path =
        std::path::absolute(path).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut directory = rustix::fs::open("/", flags, Mode::empty())?;
    for component in path.components() {
        let name = match component {
            Component::RootDir | Component::CurDir => continue,
            Component::Normal(name) => name,
            Component::ParentDir | Component::Prefix(_) => return Err(Errno::ACCESS),
        };
        check_trusted(&directory, STICKY)?;
        directory = rustix::fs::openat(&directory, name, flags, Mode::empty())?;
    }
    check_trusted(&directory, 0)?;
    Ok(directory)
}

/// Where others may write, this bit keeps them from exchanging what is not theirs.
const STICKY: u32 = 0o1000;

/// Fails unless the directory is root's alone, or has a mode bit that makes up for it.
fn check_trusted(directory: &OwnedFd, or_mode: u32) -> Result<(), Errno> {
    let stat = rustix::fs::fstat(directory)?;
    let exclusive = stat.st_mode & 0o022 == 0 || stat.st_mode & or_mode != 0;
    if stat.st_uid == 0 && exclusive { Ok(()) } else { Err(Errno::ACCESS) }
}
