//! How large the page behind an address is.
//!
//! In: an entry of `/proc/PID/pagemap`. Out: bytes of the folio that it is part of, from `/proc/kpageflags`
//! (Documentation/admin-guide/mm/pagemap.rst). Both say what is there now, a tenth of a second after the fault.

use std::fs::File;
use std::os::unix::fs::FileExt;

/// `KPF_COMPOUND_TAIL`, include/uapi/linux/kernel-page-flags.h.
const COMPOUND_TAIL: u64 = 1 << 16;
/// `KPF_COMPOUND_HEAD`.
const COMPOUND_HEAD: u64 = 1 << 15;
/// Bit 63 of a pagemap entry: the page is present.
pub(super) const PRESENT: u64 = 1 << 63;
/// Bits 0 to 54: its frame number, zero for readers without CAP_SYS_ADMIN.
const FRAME: u64 = (1 << 55) - 1;
/// Pages of the largest folio that a fault makes: one entry of the page middle directory.
const MOST_PAGES: u64 = 512;

/// Sizes of folios, by frame number.
#[derive(Debug)]
pub(super) struct FolioSizes {
    flags: Option<File>,
    page_bytes: u64,
    frames_hidden: bool,
}

impl FolioSizes {
    pub(super) fn open() -> Self {
        Self { flags: File::open("/proc/kpageflags").ok(), page_bytes: page_bytes(), frames_hidden: false }
    }

    /// Whether sizes can be told.
    pub(super) fn is_known(&self) -> bool {
        self.flags.is_some() && !self.frames_hidden
    }

    /// Bytes of the folio behind a pagemap entry; one page where it cannot be told.
    pub(super) fn bytes(&mut self, entry: u64) -> u64 {
        let frame = entry & FRAME;
        if entry & PRESENT == 0 {
            return self.page_bytes;
        }
        self.frames_hidden |= frame == 0;
        let Some(flags) = self.flags.as_ref().filter(|_| frame != 0) else { return self.page_bytes };
        let mut word = [0; 8];
        if flags.read_exact_at(&mut word, frame * 8).is_err() {
            return self.page_bytes;
        }
        if u64::from_ne_bytes(word) & (COMPOUND_HEAD | COMPOUND_TAIL) == 0 {
            return self.page_bytes;
        }
        // A folio is aligned to its size, so one no larger than this lies in this stretch as a whole.
        let first = frame & !(MOST_PAGES - 1);
        let mut words = vec![0; MOST_PAGES as usize * 8];
        match flags.read_exact_at(&mut words, first * 8) {
            Ok(()) => folio_pages(&words, (frame - first) as usize) * self.page_bytes,
            Err(_) => self.page_bytes,
        }
    }
}

/// Pages of the folio around page `at`, by the flags of its neighbours.
fn folio_pages(words: &[u8], at: usize) -> u64 {
    let flags: Vec<u64> =
        words.chunks_exact(8).map(|word| word.try_into().map_or(0, u64::from_ne_bytes)).collect();
    let is_tail = |page: &u64| page & COMPOUND_TAIL != 0;
    let before = flags.get(..at).unwrap_or_default().iter().rev();
    let head = if flags.get(at).is_some_and(is_tail) {
        before.take_while(|page| is_tail(page)).count() + 1
    } else {
        0
    };
    let after = flags.get(at + 1..).unwrap_or_default().iter().take_while(|page| is_tail(page)).count();
    (head.min(at) + 1 + after) as u64
}

/// Bytes of a small page.
pub(super) fn page_bytes() -> u64 {
    rustix::param::page_size() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folio_is_its_head_and_all_tails_behind_it() {
        let flags =
            [0, COMPOUND_HEAD, COMPOUND_TAIL, COMPOUND_TAIL, COMPOUND_TAIL, COMPOUND_HEAD, COMPOUND_TAIL, 0];
        let words: Vec<u8> = flags.iter().flat_map(|flag: &u64| flag.to_ne_bytes()).collect();
        let sizes: Vec<u64> = (0..8).map(|at| folio_pages(&words, at)).collect();
        assert_eq!(sizes, [1, 4, 4, 4, 4, 2, 2, 1]);
    }

    #[test]
    fn pages_that_are_not_there_count_as_small() {
        assert_eq!(FolioSizes::open().bytes(0), page_bytes());
        assert_eq!(folio_pages(&[], 3), 1);
    }
}
