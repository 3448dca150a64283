//! What the dynamic linker is told about an object (`PT_DYNAMIC`), for files whose section headers are gone.
//!
//! In: an [`Elf`]. Out: where the dynamic symbols and their strings are, and how many there are, which only the hash
//! tables know. Relocations, needed libraries and versions are not read.

use object::elf;

use super::{Elf, SectionData, limits};

/// Entries read from the dynamic segment. Real ones have about thirty.
const ENTRIES: u64 = 1024;

/// Addresses from the dynamic segment, in the object's own address space.
#[derive(Debug, Default)]
pub(super) struct Dynamic {
    pub(super) symbols: Option<u64>,
    /// Address and bytes of the strings.
    pub(super) strings: Option<(u64, u64)>,
    hash: Option<u64>,
    gnu_hash: Option<u64>,
}

impl Dynamic {
    pub(super) fn of(elf: &Elf) -> Option<Self> {
        let segment = elf.segments().iter().find(|segment| segment.kind == elf::PT_DYNAMIC)?;
        let word = if elf.is_64() { 8 } else { 4 };
        let len = segment.file_size.min(ENTRIES * 2 * word as u64);
        let bytes = elf.source().read_at(segment.file_offset, len).ok()?;
        let (mut dynamic, mut strings, mut strings_len) = (Self::default(), None, None);
        for entry in bytes.chunks_exact(2 * word) {
            let (tag, value) = entry.split_at(word);
            let value = word_at(value);
            match elf::DynamicTag(word_at(tag) as i64) {
                elf::DT_NULL => break,
                elf::DT_SYMTAB => dynamic.symbols = Some(value),
                elf::DT_STRTAB => strings = Some(value),
                elf::DT_STRSZ => strings_len = Some(value),
                elf::DT_HASH => dynamic.hash = Some(value),
                elf::DT_GNU_HASH => dynamic.gnu_hash = Some(value),
                _ => {}
            }
        }
        dynamic.strings = strings.zip(strings_len);
        Some(dynamic)
    }

    /// Number of dynamic symbols, from whichever hash table there is.
    pub(super) fn symbol_count(&self, elf: &Elf) -> Option<u64> {
        let by_hash = self.hash.and_then(|address| {
            // nbucket, nchain: as many chain entries as symbols (generic ABI, chapter 5).
            let header = elf.read_virt(address, 8).ok()?;
            Some(u64::from(u32_at(&header, 4)?))
        });
        by_hash.or_else(|| gnu_hash_count(elf, self.gnu_hash?)).filter(|count| *count <= limits::SYMBOLS)
    }
}

/// The GNU hash table has no count: the highest bucket's chain ends at the last symbol, marked by its lowest bit.
/// Layout: nbuckets, first symbol, bloom words, bloom shift; the bloom filter; the buckets; the chains.
fn gnu_hash_count(elf: &Elf, address: u64) -> Option<u64> {
    let start = elf.file_offset(address)?;
    let table = SectionData::range(elf.source(), start, elf.source().len().checked_sub(start)?).ok()?;
    let read = |at: u64| {
        let mut word = [0; 4];
        table.read_exact_at(at, &mut word).ok().map(|()| u64::from(u32::from_le_bytes(word)))
    };
    let (buckets, first, bloom_words) = (read(0)?, read(4)?, read(8)?);
    if buckets > limits::SYMBOLS {
        return None;
    }
    let buckets_at = 16 + bloom_words * if elf.is_64() { 8 } else { 4 };
    let mut last = 0;
    for bucket in 0..buckets {
        last = last.max(read(buckets_at + bucket * 4)?);
    }
    if last < first {
        return Some(first);
    }
    let chains_at = buckets_at + buckets * 4;
    while read(chains_at + (last - first) * 4)? & 1 == 0 {
        last += 1;
        if last > limits::SYMBOLS {
            return None;
        }
    }
    Some(last + 1)
}

/// A little-endian word of four or eight bytes.
fn word_at(bytes: &[u8]) -> u64 {
    let mut wide = [0; 8];
    wide[..bytes.len().min(8)].copy_from_slice(&bytes[..bytes.len().min(8)]);
    u64::from_le_bytes(wide)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|word| u32::from_le_bytes(*word))
}
