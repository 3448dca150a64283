//! Root directories of processes, held open: the way to files and perf maps of processes that may be gone by then.
//!
//! One descriptor per root and mount namespace, however many processes share them, so that a host full of short processes does not
//! use up our descriptors.

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::sync::Arc;

/// What makes two roots the same: device and inode of the directory, and the mount namespace that says what is mounted below it.
type Identity = (u64, u64, u64);

/// All roots seen so far.
#[derive(Debug, Default)]
pub(super) struct Roots {
    known: HashMap<Identity, Arc<OwnedFd>>,
}

impl Roots {
    /// Closes those that nobody needs any more.
    pub(super) fn forget_unused(&mut self) {
        self.known.retain(|_, root| Arc::strong_count(root) > 1);
    }

    /// The root of a process; none when the process is gone.
    pub(super) fn open(&mut self, pid: u32) -> Option<Arc<OwnedFd>> {
        let namespace = std::fs::metadata(format!("/proc/{pid}/ns/mnt")).as_ref().map_or(0, Metadata::ino);
        let mut options = File::options();
        options.read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY);
        let root = options.open(format!("/proc/{pid}/root")).ok()?;
        let metadata = root.metadata().ok()?;
        let identity = (metadata.dev(), metadata.ino(), namespace);
        Some(Arc::clone(self.known.entry(identity).or_insert_with(|| Arc::new(OwnedFd::from(root)))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_that_share_a_root_share_a_descriptor() {
        let mut roots = Roots::default();
        let own = roots.open(std::process::id()).unwrap();
        let mut child = std::process::Command::new("sleep").arg("10").spawn().unwrap();
        let childs = roots.open(child.id()).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(Arc::ptr_eq(&own, &childs));
        assert!(roots.open(u32::MAX).is_none());
    }
}
