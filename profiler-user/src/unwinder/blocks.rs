//! A range of addresses as prefixes: the blocks that a longest-prefix-match trie needs to cover it exactly.

use profiler_common::mapping::{MAPPING_KEY_BITS, MappingKey};

/// The prefixes that cover `start..end` and nothing else, by address: the number of key bits and the key. At most
/// two per bit of the length.
pub(super) fn blocks(space: u32, start: u64, end: u64) -> impl Iterator<Item = (u32, MappingKey)> {
    let mut at = start;
    std::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        // The largest aligned block that begins here and ends in time.
        let bits = at.trailing_zeros().min((end - at).ilog2());
        let block = (MAPPING_KEY_BITS - bits, MappingKey::new(space, at));
        at = at.saturating_add(1 << bits);
        Some(block)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn blocks_cover_exactly(start in 0u64..5000, length in 0u64..5000) {
            let end = start + length;
            let mut at = start;
            for (bits, key) in blocks(7, start, end) {
                let low = u64::from(u32::from_be(key.high)) << 32 | u64::from(u32::from_be(key.low));
                proptest::prop_assert_eq!((u32::from_be(key.space), low), (7, at));
                let size = 1u64 << (MAPPING_KEY_BITS - bits);
                proptest::prop_assert_eq!(low % size, 0);
                at += size;
            }
            proptest::prop_assert_eq!(at, end);
        }
    }

    #[test]
    fn an_ordinary_mapping_takes_a_dozen_blocks() {
        assert!(blocks(1, 0x7f12_3450_1000, 0x7f12_3465_6000).count() <= 16);
        assert_eq!(blocks(1, 0, u64::MAX).count(), 64);
    }
}
