//! Opening files that a target names, below the target's own root.
//!
//! In: a directory that stands for the target's `/`, and a path as the target sees it. Out: a regular file. Symbolic
//! links resolve inside that root and cannot leave it; devices, FIFOs and sockets are refused without being touched.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Opens a regular file for reading, with `root` standing for `/`.
///
/// # Errors
/// Whatever `openat2(2)` reports; `EXDEV` never occurs because links and `..` are confined, not refused.
/// `InvalidInput` for a path with a NUL byte and for anything that is not a regular file. Needs Linux 5.6.
pub fn open_in_root(root: BorrowedFd<'_>, path: impl AsRef<Path>) -> io::Result<File> {
    open_regular(root, path.as_ref(), 0)
}

/// As [`open_in_root`], and the last component may not be a symbolic link: for directories where others can write.
///
/// # Errors
/// As [`open_in_root`], and `ELOOP` for a symbolic link.
pub(crate) fn open_in_root_no_follow(root: BorrowedFd<'_>, path: impl AsRef<Path>) -> io::Result<File> {
    open_regular(root, path.as_ref(), libc::O_NOFOLLOW)
}

fn open_regular(root: BorrowedFd<'_>, path: &Path, extra_flags: i32) -> io::Result<File> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // An O_PATH descriptor first: opening a device or a FIFO for reading can have effects or block, looking cannot.
    let handle = open_at(root, &path, libc::O_PATH | libc::O_CLOEXEC | extra_flags)?;
    let metadata = File::from(handle.try_clone()?).metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    let file = File::from(open_at(
        root,
        &path,
        libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC | extra_flags,
    )?);
    // The path may lead elsewhere by now, so the file that will be read has to pass as well.
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    Ok(file)
}

/// `openat2(2)` confined to `root`; glibc has no wrapper for it.
fn open_at(root: BorrowedFd<'_>, path: &CString, flags: i32) -> io::Result<OwnedFd> {
    // SAFETY: `open_how` is plain data for which all zeroes is a valid value.
    let mut how: libc::open_how = unsafe { std::mem::zeroed() };
    how.flags = flags as u64;
    how.resolve = libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_MAGICLINKS;
    // SAFETY: the path is NUL-terminated, `how` is initialized and its size is passed; both outlive the call.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_openat2,
            root.as_raw_fd(),
            path.as_ptr(),
            &raw const how,
            size_of::<libc::open_how>(),
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the system call returned a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::AsFd;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_resolve_inside_the_root_and_cannot_leave_it() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("etc")).unwrap();
        std::fs::write(root.path().join("etc/passwd"), "inner").unwrap();
        symlink("/etc/passwd", root.path().join("absolute")).unwrap();
        symlink("../../../../../../etc/passwd", root.path().join("upwards")).unwrap();
        let dir = File::open(root.path()).unwrap();
        for path in ["absolute", "upwards", "/absolute", "../../etc/passwd", "etc/passwd"] {
            let mut text = String::new();
            open_in_root(dir.as_fd(), path).unwrap().read_to_string(&mut text).unwrap();
            assert_eq!(text, "inner", "{path}");
        }
        assert!(open_in_root_no_follow(dir.as_fd(), "absolute").is_err());
        assert!(open_in_root_no_follow(dir.as_fd(), "etc/passwd").is_ok());
    }

    #[test]
    fn only_regular_files_open() {
        let root = File::open("/").unwrap();
        for path in ["/dev/null", "/tmp", "/nowhere/at/all", "/proc/self/fd/0"] {
            assert!(open_in_root(root.as_fd(), path).is_err(), "{path}");
        }
        let dir = tempfile::tempdir().unwrap();
        let fifo = CString::new(dir.path().join("fifo").as_os_str().as_bytes()).unwrap();
        // SAFETY: the path is NUL-terminated.
        assert_eq!(unsafe { libc::mkfifo(fifo.as_ptr(), 0o600) }, 0);
        let dir = File::open(dir.path()).unwrap();
        assert!(open_in_root(dir.as_fd(), "fifo").is_err());
    }
}
