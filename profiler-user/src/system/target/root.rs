//! Files as a target sees them, opened without trusting it.
//!
//! A path found in a target's mappings or made from its pid is looked up below the target's own root, with links
//! resolved inside that root: a link to `/etc/shadow` means the target's file, never ours.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::path::Path;

use super::proc_path;

/// What happens when the last part of a path is a symbolic link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LastLink {
    /// It is followed, inside the target's root.
    Follow,
    /// It is an error.
    Refuse,
}

/// Opens a target's file for reading; `path` is absolute as the target sees it.
///
/// Never blocks on a FIFO and never becomes a terminal's owner.
///
/// # Errors
/// When there is no such file, when it may not be read, or on kernels before 5.6 (no `openat2`).
pub fn open_in_root(pid: u32, path: &Path, last: LastLink) -> io::Result<File> {
    let root = File::open(proc_path(pid, "root"))?;
    let path = CString::new(path.as_os_str().as_encoded_bytes()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let no_follow = if last == LastLink::Refuse { libc::O_NOFOLLOW } else { 0 };
    // SAFETY: open_how is plain data, for which zero is the kernel's default.
    let mut how: libc::open_how = unsafe { std::mem::zeroed() };
    how.flags = (libc::O_RDONLY | libc::O_CLOEXEC | libc::O_NONBLOCK | libc::O_NOCTTY | no_follow) as u64;
    how.resolve = libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_MAGICLINKS;
    // SAFETY: the path is zero-terminated, `how` is complete and its size passed along; both outlive the call.
    let fd = unsafe {
        libc::syscall(libc::SYS_openat2, root.as_raw_fd(), path.as_ptr(), &raw const how, size_of_val(&how))
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given us this descriptor and nobody else knows it.
    Ok(unsafe { File::from_raw_fd(fd as libc::c_int) })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_are_followed_or_refused_as_told() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("file"), dir.path().join("link"));
        std::fs::write(&file, "x").unwrap();
        symlink(&file, &link).unwrap();
        let me = std::process::id();
        let open = |path: &Path, last| open_in_root(me, path, last);
        assert!(open(&file, LastLink::Refuse).is_ok());
        assert!(open(&link, LastLink::Follow).is_ok());
        assert_eq!(open(&link, LastLink::Refuse).unwrap_err().raw_os_error(), Some(libc::ELOOP));
        assert!(open(Path::new("/proc/self/exe"), LastLink::Follow).is_err());
    }
}
