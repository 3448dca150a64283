//! The user behind sudo, and touching files as that user.
//!
//! perf-agent needs root for the kernel, not for the results. Opening them under the user's own file-system identity
//! lets the kernel decide what that user may reach, so a directory prepared by someone else can't lead root astray.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::marker::PhantomData;

/// The user who ran `sudo perf-agent`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invoker {
    /// User ID.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// All groups, as `/etc/group` has them. Groups from a directory service are not known here; without them the
    /// user only reaches less.
    pub groups: Vec<u32>,
}

impl Invoker {
    /// The user named by `SUDO_UID` and `SUDO_GID`. None unless we run as root and they name someone else.
    pub fn behind_sudo() -> Option<Self> {
        if rustix::process::geteuid().as_raw() != 0 {
            return None;
        }
        let uid = number(std::env::var_os("SUDO_UID").as_deref())?;
        let gid = number(std::env::var_os("SUDO_GID").as_deref())?;
        (uid != 0).then(|| Self::new(uid, gid))
    }

    /// A user by ID.
    pub fn new(uid: u32, gid: u32) -> Self {
        let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let group = fs::read_to_string("/etc/group").unwrap_or_default();
        Self { uid, gid, groups: groups_of(uid, gid, &passwd, &group) }
    }

    /// Makes this thread touch files as the user until the result is dropped. Other threads are not affected.
    ///
    /// # Errors
    /// When the identity can't be changed; the thread is then as it was before.
    pub fn act(&self) -> io::Result<ActingAs> {
        let guard = ActingAs {
            fs_uid: set_fs_uid(u32::MAX),
            fs_gid: set_fs_gid(u32::MAX),
            groups: current_groups()?,
            not_send: PhantomData,
        };
        set_thread_groups(&self.groups)?;
        set_fs_gid(self.gid);
        set_fs_uid(self.uid);
        // The calls report no errors; asking for an impossible ID tells the current one.
        if set_fs_uid(u32::MAX) != self.uid || set_fs_gid(u32::MAX) != self.gid {
            return Err(io::Error::from(io::ErrorKind::PermissionDenied));
        }
        Ok(guard)
    }
}

/// While this lives, its thread touches files as the user. Bound to the thread that made it.
#[derive(Debug)]
#[must_use = "dropping it ends the user's identity at once"]
pub struct ActingAs {
    fs_uid: u32,
    fs_gid: u32,
    groups: Vec<u32>,
    not_send: PhantomData<*const ()>,
}

impl Drop for ActingAs {
    fn drop(&mut self) {
        set_fs_uid(self.fs_uid);
        set_fs_gid(self.fs_gid);
        // Can only fail for lack of memory. What is left then is fewer rights than before, never more.
        let _ = set_thread_groups(&self.groups);
    }
}

fn number(text: Option<&OsStr>) -> Option<u32> {
    text?.to_str()?.parse().ok().filter(|id| *id != u32::MAX)
}

/// The groups that list the user as a member, and the primary one.
fn groups_of(uid: u32, gid: u32, passwd: &str, group: &str) -> Vec<u32> {
    let mut groups = vec![gid];
    let is_user = |line: &&str| line.split(':').nth(2).and_then(|id| id.parse().ok()) == Some(uid);
    let Some(name) = passwd.lines().find(is_user).and_then(|line| line.split(':').next()) else {
        return groups;
    };
    for line in group.lines() {
        let mut fields = line.split(':').skip(2);
        let (Some(id), Some(members)) = (fields.next().and_then(|id| id.parse().ok()), fields.next()) else {
            continue;
        };
        if id != gid && members.split(',').any(|member| member == name) {
            groups.push(id);
        }
    }
    groups
}

fn current_groups() -> io::Result<Vec<u32>> {
    let groups = rustix::process::getgroups()?;
    Ok(groups.into_iter().map(rustix::process::Gid::as_raw).collect())
}

/// Sets the file-system user ID of this thread and returns the one before.
fn set_fs_uid(uid: u32) -> u32 {
    // SAFETY: takes an integer and changes only this thread's credentials.
    unsafe { libc::syscall(libc::SYS_setfsuid, uid) as u32 }
}

/// Sets the file-system group ID of this thread and returns the one before.
fn set_fs_gid(gid: u32) -> u32 {
    // SAFETY: takes an integer and changes only this thread's credentials.
    unsafe { libc::syscall(libc::SYS_setfsgid, gid) as u32 }
}

/// Sets the supplementary groups of this thread alone. The C library's function would change all threads.
fn set_thread_groups(groups: &[u32]) -> io::Result<()> {
    // SAFETY: the pointer and the count describe a live slice of what the kernel calls gid_t, which it only reads.
    let result = unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_come_from_the_group_file() {
        let passwd = "root:x:0:0::/root:/bin/sh\nann:x:1000:100:Ann:/home/ann:/bin/sh\n";
        let group = "root:x:0:\nusers:x:100:ann\nadm:x:4:bob,ann\nann2:x:7:annabel\n";
        assert_eq!(groups_of(1000, 100, passwd, group), [100, 4]);
        assert_eq!(groups_of(1001, 100, passwd, group), [100]);
    }

    #[test]
    fn identity_is_this_threads_and_is_given_back() {
        if rustix::process::geteuid().as_raw() != 0 {
            return;
        }
        let before = current_groups().unwrap();
        let (ask, asked) = std::sync::mpsc::channel::<()>();
        let other = std::thread::spawn(move || {
            asked.recv().unwrap();
            set_fs_uid(u32::MAX)
        });
        let user = Invoker { uid: 54_321, gid: 54_321, groups: vec![54_321, 54_322] };
        let acting = user.act().unwrap();
        assert_eq!((set_fs_uid(u32::MAX), set_fs_gid(u32::MAX)), (54_321, 54_321));
        ask.send(()).unwrap();
        assert_eq!(other.join().unwrap(), 0);
        drop(acting);
        assert_eq!((set_fs_uid(u32::MAX), set_fs_gid(u32::MAX)), (0, 0));
        assert_eq!(current_groups().unwrap(), before);
    }
}
