//! Reading and emptying whole hash maps with few system calls: `BPF_MAP_LOOKUP_BATCH` and its like (since Linux 5.6), which aya
//! does not offer.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use aya::Pod;
use aya_obj::generated::bpf_cmd;

use super::raw;

/// Entries taken at once. The kernel copies a whole hash chain or nothing, so it must be more than the longest chain.
const ENTRIES_AT_ONCE: usize = 4096;

/// What to do with the entries that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Read {
    /// Leave them.
    Keep,
    /// Remove them, each in the same moment in which it is read.
    Remove,
}

/// All entries of a hash map, in no order. Those that come or go meanwhile may be in it or not.
///
/// # Errors
///
/// What `bpf(2)` reports.
pub(super) fn entries<K: Pod, V: Pod>(map: BorrowedFd<'_>, read: Read) -> io::Result<Vec<(K, V)>> {
    let command = match read {
        Read::Keep => bpf_cmd::BPF_MAP_LOOKUP_BATCH,
        Read::Remove => bpf_cmd::BPF_MAP_LOOKUP_AND_DELETE_BATCH,
    };
    let mut all = Vec::new();
    let mut keys = room::<K>();
    let mut values = room::<V>();
    // The kernel's bookmark: the number of a hash chain.
    let mut position = 0_u32;
    let mut begun = false;
    loop {
        let mut next = 0_u32;
        let mut count = ENTRIES_AT_ONCE as u32;
        let before = if begun { (&raw const position) as u64 } else { 0 };
        let result = batch(command, map, &mut count, |attr| {
            attr.in_batch = before;
            attr.out_batch = (&raw mut next) as u64;
            attr.keys = keys.as_mut_ptr() as u64;
            attr.values = values.as_mut_ptr() as u64;
        });
        // "No entry" is how the kernel says that this was the end; what it read is there all the same.
        let ended = match result {
            Ok(()) => false,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
            Err(error) => return Err(error),
        };
        for index in 0..(count as usize).min(ENTRIES_AT_ONCE) {
            // SAFETY: the kernel filled `count` entries of each buffer, which hold plain data.
            all.push(unsafe { (keys[index].assume_init(), values[index].assume_init()) });
        }
        if ended {
            return Ok(all);
        }
        (position, begun) = (next, true);
    }
}

/// Removes entries; those that are gone already are fine.
///
/// # Errors
///
/// What `bpf(2)` reports.
pub(super) fn remove<K: Pod>(map: BorrowedFd<'_>, keys: &[K]) -> io::Result<()> {
    let mut left = keys;
    while !left.is_empty() {
        let mut count = left.len().min(ENTRIES_AT_ONCE) as u32;
        let result = batch(bpf_cmd::BPF_MAP_DELETE_BATCH, map, &mut count, |attr| {
            attr.keys = left.as_ptr() as u64;
        });
        let done = (count as usize).min(left.len());
        left = match result {
            Ok(()) => &left[done..],
            // The one behind those that were removed was not there.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => &left[(done + 1).min(left.len())..],
            Err(error) => return Err(error),
        };
    }
    Ok(())
}

/// Puts one entry into a map.
///
/// # Errors
///
/// What `bpf(2)` reports.
pub(super) fn insert<K: Pod, V: Pod>(map: BorrowedFd<'_>, key: &K, value: &V) -> io::Result<()> {
    let mut count = 1;
    batch(bpf_cmd::BPF_MAP_UPDATE_BATCH, map, &mut count, |attr| {
        attr.keys = std::ptr::from_ref(key) as u64;
        attr.values = std::ptr::from_ref(value) as u64;
    })
}

fn room<T>() -> Vec<std::mem::MaybeUninit<T>> {
    (0..ENTRIES_AT_ONCE).map(|_| std::mem::MaybeUninit::zeroed()).collect()
}

fn batch(
    command: bpf_cmd,
    map: BorrowedFd<'_>,
    count: &mut u32,
    fill: impl FnOnce(&mut aya_obj::generated::bpf_attr__bindgen_ty_3),
) -> io::Result<()> {
    let mut attr = raw::attr();
    // SAFETY: zeroed just now, so this member is initialized.
    let members = unsafe { &mut attr.batch };
    members.map_fd = map.as_raw_fd() as u32;
    members.count = *count;
    fill(members);
    // SAFETY: the buffers live through the call and have room for `count` entries.
    let result = unsafe { raw::bpf(command, &mut attr) };
    // SAFETY: as above; the kernel wrote how many entries it did.
    *count = unsafe { attr.batch.count };
    result.map(drop)
}
