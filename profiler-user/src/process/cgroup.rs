//! Names of control groups: from the ID in a sample to the path below the hierarchy's root.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::profile::clean;
use crate::system::features::Mounts;
use crate::system::target::unified_path;

/// Looks up and remembers control group paths. Only version 2 has IDs that lead back to a path; without it, and for the root group,
/// there is no name here.
#[derive(Debug)]
pub struct CgroupNames {
    mount: Option<(PathBuf, File)>,
    names: HashMap<u64, Option<Arc<str>>>,
}

impl CgroupNames {
    /// For the version 2 hierarchy mounted at `mount`.
    pub fn new(mount: Option<PathBuf>) -> Self {
        let mount = mount.and_then(|path| File::open(&path).ok().map(|file| (path, file)));
        Self { mount, names: HashMap::new() }
    }

    /// For the version 2 hierarchy of this host, wherever it is mounted.
    pub fn of_host() -> Self {
        Self::new(Mounts::gather().unified())
    }

    /// Path below the root of the hierarchy, cleaned: `/system.slice/nginx.service`.
    pub fn name(&mut self, cgroup_id: u64) -> Option<Arc<str>> {
        let mount = self.mount.as_ref();
        self.names
            .entry(cgroup_id)
            .or_insert_with(|| mount.and_then(|(path, file)| look_up(path, file, cgroup_id)))
            .clone()
    }
}

/// Whether a process is in the control group (v2) at this path, or below it.
pub fn is_below_cgroup(pid: u32, group: &str) -> bool {
    path_of(pid).is_some_and(|path| is_below(&path, group))
}

/// Path of the control group (v2) of a process below its hierarchy, cleaned; none for the root.
pub(crate) fn cgroup_of(pid: u32) -> Option<Arc<str>> {
    path_of(pid).filter(|path| path != "/").map(Arc::from)
}

fn path_of(pid: u32) -> Option<String> {
    let file = std::fs::read(format!("/proc/{pid}/cgroup")).ok()?;
    unified_path(&file).map(clean)
}

fn is_below(path: &str, group: &str) -> bool {
    path.strip_prefix(group).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn look_up(mount_path: &std::path::Path, mount: &File, cgroup_id: u64) -> Option<Arc<str>> {
    let group = open_by_id(mount, cgroup_id)?;
    let path = std::fs::read_link(format!("/proc/self/fd/{}", group.as_raw_fd())).ok()?;
    let below = path.strip_prefix(mount_path).ok()?;
    if below.as_os_str().is_empty() {
        return None;
    }
    let mut name = String::from("/");
    name.push_str(&clean(below.as_os_str().as_bytes()));
    Some(Arc::from(name))
}

/// `FILEID_KERNFS`, include/linux/exportfs.h: a handle is the group's 64-bit ID.
const FILEID_KERNFS: libc::c_int = 0xfe;

#[repr(C)]
struct KernfsHandle {
    handle_bytes: libc::c_uint,
    handle_type: libc::c_int,
    id: u64,
}

fn open_by_id(mount: &File, id: u64) -> Option<OwnedFd> {
    let mut handle = KernfsHandle { handle_bytes: 8, handle_type: FILEID_KERNFS, id };
    // SAFETY: the handle has the layout of `struct file_handle` with eight bytes behind it, and lives through the call.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_open_by_handle_at,
            mount.as_raw_fd(),
            std::ptr::from_mut(&mut handle),
            libc::O_PATH | libc::O_CLOEXEC,
        )
    };
    if fd < 0 {
        return None;
    }
    // SAFETY: the kernel just returned this descriptor and nobody else owns it.
    Some(unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) })
}

/// The ID of the control group at a path, as `bpf_get_current_cgroup_id` names it: its inode number.
///
/// # Errors
///
/// What `stat(2)` reports.
pub fn cgroup_id(path: &std::path::Path) -> std::io::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    Ok(std::fs::metadata(path)?.ino())
}
