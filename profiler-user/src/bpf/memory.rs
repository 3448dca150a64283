//! Map memory that the agent shares with the programs: arrays created with `BPF_F_MMAPABLE`, written word by word.
//!
//! Filling a table through its mapping costs no system call; the programs see each word as a whole.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64};

/// A mapped array.
#[derive(Debug)]
pub(crate) struct SharedMemory {
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the memory is only ever reached through atomics.
unsafe impl Send for SharedMemory {}

impl SharedMemory {
    /// Maps the first `bytes` bytes of an array's values.
    ///
    /// # Errors
    ///
    /// What `mmap(2)` reports.
    pub(crate) fn of_map(map: BorrowedFd<'_>, bytes: usize) -> io::Result<Self> {
        Self::map(map.as_raw_fd(), libc::MAP_SHARED, bytes)
    }

    /// Memory of our own, for tests without a kernel side.
    #[cfg(test)]
    pub(crate) fn anonymous(bytes: usize) -> Self {
        Self::map(-1, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, bytes).unwrap()
    }

    fn map(fd: i32, flags: i32, bytes: usize) -> io::Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice.
        let base = unsafe {
            libc::mmap(std::ptr::null_mut(), bytes, libc::PROT_READ | libc::PROT_WRITE, flags, fd, 0)
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?;
        Ok(Self { base, bytes })
    }

    /// The 64-bit word with this index.
    #[expect(clippy::cast_ptr_alignment, reason = "mappings begin at a page")]
    pub(crate) fn word(&self, index: usize) -> Option<&AtomicU64> {
        if index >= self.bytes / 8 {
            return None;
        }
        // SAFETY: inside the mapping, which is aligned to pages and lives as long as `self`.
        Some(unsafe { AtomicU64::from_ptr(self.base.as_ptr().cast::<u64>().add(index)) })
    }

    /// The 32-bit word with this index.
    #[expect(clippy::cast_ptr_alignment, reason = "as above")]
    pub(crate) fn half(&self, index: usize) -> Option<&AtomicU32> {
        if index >= self.bytes / 4 {
            return None;
        }
        // SAFETY: as above.
        Some(unsafe { AtomicU32::from_ptr(self.base.as_ptr().cast::<u32>().add(index)) })
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `map`, to which no reference is left.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}
