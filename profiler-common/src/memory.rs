//! Events of memory: page faults, and system calls that map and unmap.
//!
//! Each goes to user space as a sample of its own, with its stack. `syscall` in the sample's header tells them apart: [`FAULT`], or the number
//! of the call. `events` says how many events of its kind the sample stands for, and `weight` is
//!
//! - of a fault the address,
//! - of `mmap` and `munmap` the length in bytes,
//! - of `mremap` the old length in the upper half and the new one in the lower, both in pages of 4 KiB,
//! - of `brk` the end of the heap that it returned.

/// In the place of a system call's number: a page fault that was handled.
pub const FAULT: u32 = u32::MAX - 1;

/// Largest length that `mremap` can report, pages of 4 KiB: 16 TiB.
pub const MOST_REMAPPED_PAGES: u64 = u32::MAX as u64;

/// Numbers of the system calls that change mappings, for this architecture.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MappingCalls {
    /// `mmap`
    pub mmap: u32,
    /// `munmap`
    pub munmap: u32,
    /// `mremap`
    pub mremap: u32,
    /// `brk`
    pub brk: u32,
}

/// What the agent tells the programs while they run.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemoryControl {
    /// One in 2^shift calls that map memory is taken, and stands for as many.
    pub shift: u32,
    /// Zero.
    pub padding: u32,
}

/// Largest [`MemoryControl::shift`].
pub const MAX_CALL_SHIFT: u32 = 12;

/// Old and new length of an `mremap`, bytes, as one word.
#[expect(clippy::inline_always, reason = "BPF programs have no stack for calls")]
#[inline(always)]
pub fn pack_remap(old_bytes: u64, new_bytes: u64) -> u64 {
    let pages = |bytes: u64| {
        let pages = bytes.wrapping_add(4095) >> 12;
        if pages < MOST_REMAPPED_PAGES { pages } else { MOST_REMAPPED_PAGES }
    };
    pages(old_bytes) << 32 | pages(new_bytes)
}

/// What [`pack_remap`] packed, bytes.
pub fn unpack_remap(word: u64) -> (u64, u64) {
    ((word >> 32) << 12, (word & MOST_REMAPPED_PAGES) << 12)
}

const _: () = {
    assert!(size_of::<MappingCalls>() == 16);
    assert!(size_of::<MemoryControl>() == 8);
};

/// The values are plain integers without padding, so any bytes are valid and all bytes are initialized.
#[cfg(feature = "user")]
mod pod {
    // SAFETY: repr(C), only integers, sizes asserted above (no padding).
    unsafe impl aya::Pod for super::MemoryControl {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_a_remap_come_back_in_pages() {
        assert_eq!(unpack_remap(pack_remap(1, 1 << 30)), (4096, 1 << 30));
        assert_eq!(unpack_remap(pack_remap(0, u64::MAX)).0, 0);
        assert_eq!(unpack_remap(pack_remap(1 << 50, 8192)), (MOST_REMAPPED_PAGES << 12, 8192));
    }
}
