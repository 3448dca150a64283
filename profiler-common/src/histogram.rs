//! Log-linear histograms of whole numbers: which bucket a value belongs to, and which values a bucket stands for.
//!
//! Every power of two is cut into [`SUB_BUCKETS`] equal parts; values below [`SUB_BUCKETS`] have a bucket each. So a bucket
//! reaches over at most a sixteenth of its values, and its middle is within a thirty-second of each of them.

/// Bits of a value behind its highest one that tell buckets apart.
const SUB_BITS: u32 = 4;

/// Buckets in one power of two.
pub const SUB_BUCKETS: u64 = 1 << SUB_BITS;

/// Number of all buckets.
pub const BUCKETS: u16 = ((64 - SUB_BITS + 1) as u16) << SUB_BITS;

/// Largest difference between a value and the middle of its bucket, as a share of the value.
pub const LARGEST_ERROR: f64 = 0.5 / SUB_BUCKETS as f64;

/// The bucket of a value: below [`BUCKETS`], and never smaller for a larger value.
#[inline(always)]
#[expect(
    clippy::inline_always,
    reason = "BPF programs are made of one function each, and this is called from several"
)]
pub const fn bucket_of(value: u64) -> u16 {
    if value < SUB_BUCKETS {
        return value as u16;
    }
    let shift = highest_bit(value) - SUB_BITS;
    // The highest bit of the shifted value is SUB_BUCKETS itself; it moves into the number of the power of two.
    ((shift as u64) << SUB_BITS) as u16 + (value >> shift) as u16
}

/// The number of the highest bit that is set; the value is not zero. By hand, because BPF has no instruction for it.
#[inline(always)]
#[expect(clippy::inline_always, reason = "as above")]
const fn highest_bit(value: u64) -> u32 {
    let mut value = value;
    let mut bit = 0;
    if value >> 32 != 0 {
        value >>= 32;
        bit += 32;
    }
    if value >> 16 != 0 {
        value >>= 16;
        bit += 16;
    }
    if value >> 8 != 0 {
        value >>= 8;
        bit += 8;
    }
    if value >> 4 != 0 {
        value >>= 4;
        bit += 4;
    }
    if value >> 2 != 0 {
        value >>= 2;
        bit += 2;
    }
    if value >> 1 != 0 {
        bit += 1;
    }
    bit
}

/// The smallest and the largest value of a bucket. A number that is no bucket gets those of the last one.
pub const fn bounds(bucket: u16) -> (u64, u64) {
    let bucket = if bucket < BUCKETS { bucket as u64 } else { BUCKETS as u64 - 1 };
    if bucket < 2 * SUB_BUCKETS {
        return (bucket, bucket);
    }
    let shift = (bucket >> SUB_BITS) - 1;
    let first = (SUB_BUCKETS + (bucket & (SUB_BUCKETS - 1))) << shift;
    (first, first + ((1 << shift) - 1))
}

/// The value in the middle of a bucket, which stands for all of them.
pub const fn middle(bucket: u16) -> u64 {
    let (first, last) = bounds(bucket);
    first + (last - first) / 2
}

const _: () = {
    assert!(bucket_of(u64::MAX) == BUCKETS - 1, "the last bucket holds the largest value");
    assert!(LARGEST_ERROR <= 0.06, "the promise is at most six percent");
    let mut bit = SUB_BITS;
    while bit < 64 {
        // The relative error is largest at the first bucket of a power of two, for its smallest value.
        let first = 1_u64 << bit;
        assert!((middle(bucket_of(first)) - first) as f64 <= LARGEST_ERROR * first as f64);
        bit += 1;
    }
};

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn buckets_cover_all_numbers_without_gap_or_overlap() {
        let mut next = 0_u64;
        for bucket in 0..BUCKETS {
            let (first, last) = bounds(bucket);
            assert_eq!(first, next, "bucket {bucket}");
            assert!(last >= first);
            next = last.wrapping_add(1);
        }
        assert_eq!(next, 0, "the last bucket ends with the largest number");
    }

    proptest! {
        #[test]
        fn a_value_lies_in_its_bucket_and_near_its_middle(value: u64, shift in 0_u32..64) {
            let value = value >> shift;
            let bucket = bucket_of(value);
            let (first, last) = bounds(bucket);
            prop_assert!(bucket < BUCKETS && first <= value && value <= last);
            prop_assert!(middle(bucket).abs_diff(value) as f64 <= LARGEST_ERROR * value as f64 + f64::EPSILON);
        }

        #[test]
        fn larger_values_have_no_smaller_buckets(a: u64, b: u64) {
            prop_assert_eq!(bucket_of(a) <= bucket_of(b), a <= b || bucket_of(a) == bucket_of(b));
        }
    }
}
