//! Files that hold code, one entry per file whoever maps it, kept open from the first sample in them on.
//!
//! A sample's process may be gone, and its file deleted or replaced, by the time names are looked up. So the file is opened when the
//! first sample falls into it, through whatever still leads to the very same inode, and the descriptor is held.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::sync::Arc;

use crate::object::open_in_root;
use crate::profile::clean;

/// Index of an [`Object`] in [`Objects`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectId(pub u32);

/// A file that holds code. A copy shares the open file.
#[derive(Debug, Clone)]
pub struct Object {
    /// Path as the process sees it, as bytes.
    pub raw_path: Vec<u8>,
    /// The same, cleaned for people.
    pub path: Arc<str>,
    /// The file, once a sample fell into it and it could be opened.
    pub file: Option<Arc<File>>,
    /// Root directory of a process that mapped it, where its debug files may lie.
    pub root: Option<Arc<OwnedFd>>,
    inode: u64,
    tried: bool,
}

/// Where an object can be opened: what is known of the process that maps it.
pub struct Access<'a> {
    /// Process ID, to go through `/proc` while it lives.
    pub pid: u32,
    /// The mapping's addresses, for `/proc/<pid>/map_files`.
    pub range: (u64, u64),
    /// Root directory of the process, or of an ancestor that shares it.
    pub root: Option<&'a Arc<OwnedFd>>,
    /// When it was mapped, Unix nanoseconds; zero for before the recording.
    pub mapped_unix_ns: u64,
}

/// All files that hold code.
#[derive(Debug)]
pub struct Objects {
    by_id: HashMap<ObjectId, Object>,
    by_file: HashMap<(u64, Vec<u8>), ObjectId>,
    next: u32,
    /// Stands for those that were forgotten.
    forgotten: Object,
}

impl Default for Objects {
    fn default() -> Self {
        let forgotten = Object::new(0, b"[forgotten]");
        Self { by_id: HashMap::new(), by_file: HashMap::new(), next: 0, forgotten }
    }
}

impl Object {
    fn new(inode: u64, raw_path: &[u8]) -> Self {
        let path = Arc::from(clean(raw_path));
        Self { raw_path: raw_path.to_vec(), path, file: None, root: None, inode, tried: false }
    }
}

impl Objects {
    /// The object of an inode and path; the same file at the same path is one object for all processes.
    pub fn intern(&mut self, inode: u64, raw_path: &[u8]) -> ObjectId {
        if let Some(id) = self.by_file.get(&(inode, raw_path.to_vec())) {
            return *id;
        }
        // Four billion files later a number may be taken.
        while self.by_id.contains_key(&ObjectId(self.next)) {
            self.next = self.next.wrapping_add(1);
        }
        let id = ObjectId(self.next);
        self.next = self.next.wrapping_add(1);
        self.by_file.insert((inode, raw_path.to_vec()), id);
        self.by_id.insert(id, Object::new(inode, raw_path));
        id
    }

    /// An object.
    pub fn object(&self, id: ObjectId) -> &Object {
        self.by_id.get(&id).unwrap_or(&self.forgotten)
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Forgets all objects but these, and closes their files.
    pub(super) fn retain(&mut self, wanted: &HashSet<ObjectId>) {
        self.by_id.retain(|id, _| wanted.contains(id));
        self.by_file.retain(|_, id| wanted.contains(id));
    }

    /// Makes sure that the object was opened, or that it was tried.
    pub fn hold(&mut self, id: ObjectId, access: &Access<'_>) {
        let Some(object) = self.by_id.get_mut(&id).filter(|object| !object.tried) else { return };
        object.tried = true;
        object.root = access.root.cloned();
        object.file = open(object, access).map(Arc::new);
    }
}

/// Opens the very file that was mapped: by its mapping, else by its path under the roots that are left, with proof that it is the same.
fn open(object: &Object, access: &Access<'_>) -> Option<File> {
    let (start, end) = access.range;
    let by_mapping = format!("/proc/{}/map_files/{start:x}-{end:x}", access.pid);
    // A mapping can only be of a regular file or a device; O_NONBLOCK keeps a device from blocking us.
    let opened =
        OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(by_mapping);
    if let Ok(file) = opened
        && file.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.ino() == object.inode)
    {
        return Some(file);
    }
    let own_root = File::open("/").ok();
    let roots = access.root.map(|root| root.as_fd()).into_iter().chain(own_root.as_ref().map(AsFd::as_fd));
    roots
        .filter_map(|root| open_in_root(root, OsStr::from_bytes(&object.raw_path)).ok())
        .find(|file| is_same(file, object, access))
}

/// The inode decides. Where a file system shows another inode to `stat` than to the mapping (overlays), a file that has not
/// changed since it was mapped is the one that was mapped.
fn is_same(file: &File, object: &Object, access: &Access<'_>) -> bool {
    let Ok(metadata) = file.metadata() else { return false };
    if metadata.ino() == object.inode {
        return true;
    }
    let changed_ns = i128::from(metadata.ctime()) * 1_000_000_000 + i128::from(metadata.ctime_nsec());
    access.mapped_unix_ns != 0 && changed_ns < i128::from(access.mapped_unix_ns)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn access(root: Option<&Arc<OwnedFd>>, mapped_unix_ns: u64) -> Access<'_> {
        Access { pid: 0, range: (0, 0), root, mapped_unix_ns }
    }

    #[test]
    fn a_file_that_was_replaced_is_not_taken_for_the_one_that_was_mapped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lib.so");
        File::create(&path).unwrap().write_all(b"old").unwrap();
        let inode = std::fs::metadata(&path).unwrap().ino();
        let raw = path.to_str().unwrap().as_bytes();
        let mut objects = Objects::default();

        let same = objects.intern(inode, raw);
        objects.hold(same, &access(None, 0));
        assert!(objects.object(same).file.is_some());

        let replaced = objects.intern(inode + 1_000_000, raw);
        objects.hold(replaced, &access(None, 0));
        assert!(objects.object(replaced).file.is_none());
    }

    #[test]
    fn one_file_is_one_object_for_all() {
        let mut objects = Objects::default();
        let one = objects.intern(7, b"/lib/libc.so.6");
        assert_eq!(one, objects.intern(7, b"/lib/libc.so.6"));
        assert_ne!(one, objects.intern(8, b"/lib/libc.so.6"));
    }
}
