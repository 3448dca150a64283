//! How the kernel side finds the unwind rows of an address: process → address space → mapping → text page → rows.
//!
//! Address spaces have numbers of their own, so that processes with equal mappings (a server and its forked workers)
//! share one set of entries, and an entry that outlived its process is never found again.

use crate::unwind::{MAX_PAGE_ROWS, TEXT_PAGE_BITS};

/// Key of the mapping trie: address space and address, both big-endian, because a prefix is matched from the most
/// significant bit of the first byte on (kernel/bpf/lpm_trie.c).
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MappingKey {
    /// Number of the address space, big-endian.
    pub space: u32,
    /// High half of the address, big-endian.
    pub high: u32,
    /// Low half of the address, big-endian.
    pub low: u32,
}

/// Bits of a whole key.
pub const MAPPING_KEY_BITS: u32 = 96;

impl MappingKey {
    /// The key of an address.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "also compiled into BPF programs")]
    pub const fn new(space: u32, abs_addr: u64) -> Self {
        Self { space: space.to_be(), high: ((abs_addr >> 32) as u32).to_be(), low: (abs_addr as u32).to_be() }
    }
}

/// `kind`: a file with text pages.
pub const MAPPING_TABLES: u32 = 1;
/// `kind`: code without a file (made at run time), or a file that has no unwind information: frame pointers only.
pub const MAPPING_FRAME_POINTERS: u32 = 2;

/// An executable mapping.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mapping {
    /// First address.
    pub start: u64,
    /// End, exclusive.
    pub end: u64,
    /// Number of the first text page in the page directory.
    pub first_page: u32,
    /// Offset of `start` in its text page.
    pub skew: u32,
    /// One of the `MAPPING_` kinds.
    pub kind: u32,
    /// Zero.
    pub padding: u32,
}

/// Entry of the page directory, one word: where the rows of a text page are.
///
/// Bits 0–15: slab; 16–31: first row in the slab; 32–47: number of rows less one; 48–55: one and the binary logarithm
/// of that number, or zero when it is zero; 56–63: a `PAGE_` state. All zero: not loaded.
#[repr(transparent)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PageRef(pub u64);

/// State of a page: its rows are loaded.
pub const PAGE_LOADED: u64 = 1;
/// State of a page: there is no unwind information for it; frame pointers only.
pub const PAGE_FRAME_POINTERS: u64 = 2;

impl PageRef {
    /// A page without unwind information.
    pub const FRAME_POINTERS: Self = Self(PAGE_FRAME_POINTERS << 56);

    /// A page whose `rows` rows (at least one) begin at row `start` of `slab`.
    pub const fn loaded(slab: u16, start: u16, rows: u32) -> Self {
        let last = (rows - 1) as u64;
        let log = if last == 0 { 0 } else { last.ilog2() as u64 + 1 };
        Self(slab as u64 | (start as u64) << 16 | last << 32 | log << 48 | PAGE_LOADED << 56)
    }

    /// One of the `PAGE_` states, or zero.
    pub const fn state(self) -> u64 {
        self.0 >> 56
    }

    /// Number of the slab.
    pub const fn slab(self) -> u32 {
        self.0 as u16 as u32
    }

    /// First row in the slab.
    pub const fn start(self) -> u64 {
        self.0 >> 16 & 0xffff
    }

    /// Number of rows less one.
    pub const fn last(self) -> u64 {
        self.0 >> 32 & 0xffff
    }

    /// The largest power of two that is not above [`PageRef::last`], or zero: where the search begins.
    pub const fn top_step(self) -> u64 {
        (1 << (self.0 >> 48 & 0x1f)) >> 1
    }
}

/// Rows of one slab of the pool: 256 KiB, so that the largest page fits into one.
pub const SLAB_ROWS: usize = MAX_PAGE_ROWS;

/// Slabs of the pool at most, 64 MiB; `--max-memory` sets how many are used.
pub const MAX_SLABS: u32 = 256;

/// Text pages in the directory: 4 GiB of code that is mapped and sampled at the same time.
pub const MAX_PAGES: u32 = 1 << 16;

/// Distinct rules. All binaries of a distribution together have a few thousand.
pub const MAX_RULES: u32 = 1 << 14;

/// Entries of the mapping trie. A mapping takes about eight of them, a process about a hundred; processes that forked from
/// one another share theirs.
pub const MAX_TRIE_ENTRIES: u32 = 1 << 17;

/// Processes whose address space is known to the kernel side.
pub const MAX_SPACES: u32 = 1 << 14;

const _: () = {
    assert!(size_of::<MappingKey>() * 8 == MAPPING_KEY_BITS as usize);
    assert!(size_of::<Mapping>() == 32);
    assert!(SLAB_ROWS <= 1 << 16 && TEXT_PAGE_BITS == 16, "a row index has 16 bits");
    assert!(MAX_SLABS <= 1 << 16 && MAX_RULES <= 1 << 16);
};

#[cfg(feature = "user")]
mod pod {
    // SAFETY: repr(C), only integers, no padding.
    unsafe impl aya::Pod for super::MappingKey {}
    // SAFETY: repr(C), only integers, explicit padding.
    unsafe impl aya::Pod for super::Mapping {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_reference_keeps_its_parts() {
        for (slab, start, rows) in [(0, 0, 1), (255, 0, 65_536), (7, 65_535, 1), (3, 100, 2), (1, 9, 1000)] {
            let page = PageRef::loaded(slab, start, rows);
            assert_eq!(
                (page.slab(), page.start(), page.last()),
                (slab.into(), start.into(), u64::from(rows) - 1)
            );
            assert_eq!(page.state(), PAGE_LOADED);
            let top = page.top_step();
            assert!(top <= page.last() && (page.last() == 0 || top * 2 > page.last()), "{rows}: {top}");
        }
    }

    #[test]
    fn keys_sort_by_their_bytes() {
        let bytes = |key: MappingKey| {
            [key.space.to_ne_bytes(), key.high.to_ne_bytes(), key.low.to_ne_bytes()].concat()
        };
        assert!(bytes(MappingKey::new(1, 0x7fff_0000_0000)) < bytes(MappingKey::new(1, 0x7fff_0000_1000)));
        assert!(bytes(MappingKey::new(1, u64::MAX)) < bytes(MappingKey::new(2, 0)));
    }
}
