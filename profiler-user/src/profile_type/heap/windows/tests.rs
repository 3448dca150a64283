use profiler_common::heap::{Block, BlockKey};

use super::*;

fn sum(objects: u64, freed: u64, size: u64) -> HeapSum {
    let weighted = |value: u64| value << WEIGHT_BITS;
    HeapSum {
        taken: objects,
        objects: weighted(objects),
        bytes: weighted(objects * size),
        freed_objects: weighted(freed),
        freed_bytes: weighted(freed * size),
        ..HeapSum::default()
    }
}

#[test]
fn windows_add_up_to_the_whole() {
    let mut windows = Windows::default();
    let looks = [sum(10, 4, 64), sum(10, 4, 64), sum(25, 25, 64), sum(40, 26, 64)];
    let mut total = Part::default();
    for look in looks {
        windows.take_always(&[(7, look)]);
        let parts = windows.take(false, |_| true);
        assert!(parts.len() <= 1);
        for (_, part) in parts {
            total.add(&part);
        }
    }
    assert_eq!(total, Part::of_all(&looks[3]));
    // Frees of blocks from an earlier window are in the window in which they were freed.
    assert_eq!(total.values(), values([0, 0, 26, 26 * 64, 40, 40 * 64]));
}

#[test]
fn a_stack_that_has_not_come_waits_for_one_window() {
    let mut windows = Windows::default();
    windows.take_always(&[(7, sum(10, 0, 64))]);
    assert!(windows.take(false, |_| false).is_empty());
    windows.take_always(&[(7, sum(15, 0, 64))]);
    let parts = windows.take(false, |_| false);
    assert_eq!(parts, [(7, Part::of_all(&sum(15, 0, 64)))]);
    windows.take_always(&[(7, sum(16, 0, 64))]);
    assert_eq!(windows.take(true, |_| false).len(), 1, "there is no next one");
}

/// Slices of a tenth of the time, in which `each` blocks of 100 bytes come and stay.
#[test]
fn slices_stand_for_the_time_between_them() {
    const MS: u64 = 1_000_000;
    let (mut windows, mut cohorts) = (Windows::default(), SliceCohorts::default());
    let mut blocks = Vec::new();
    let mut total = Part::default();
    // Every call was watched for 10 ms.
    cohorts.look(&blocks, 10 * MS, 10 * MS);
    windows.begin_slices(&cohorts);
    for slice in 1..=100_u64 {
        for index in 0..5 {
            let key = BlockKey { pid: 1, address: slice * 5 + index, ..BlockKey::default() };
            let block =
                Block { number: 7, size: 100, weight: 1 << WEIGHT_BITS, since_ns: slice, ..Block::default() };
            blocks.push((key, block));
        }
        cohorts.look(&blocks, (10 + slice * 100) * MS, 10 * MS);
        if slice % 10 == 0 {
            windows.take_slices(&[(7, sum(slice * 5, 0, 100))], &cohorts, (1.0, 0.0), None);
            for (_, part) in windows.take(false, |_| true) {
                total.add(&part);
            }
        }
    }
    assert!((total.bytes - 500_000.0).abs() < 1.0 && (total.objects - 5000.0).abs() < 0.1, "{total:?}");
    // None was seen to go; some may have gone unseen.
    let (low, high) =
        (total.bytes - total.freed_bytes - total.unknown_bytes, total.bytes - total.freed_bytes);
    assert!(low <= high && high > 490_000.0 && low > 250_000.0, "{low} to {high}");
}

proptest::proptest! {
    #[test]
    fn what_is_freed_or_unknown_was_allocated(
        objects in 0_u64..1000, size in 1_u64..5000, kept in 0.0_f64..1e7, low in 0.0_f64..1.0, more in 0.0_f64..1.0,
        factor in 0.0_f64..1000.0,
    ) {
        let part = Part::of_slices(&sum(objects, 0, size), kept, (low, (low + more).min(1.0)), factor);
        let lost = part.freed_bytes + part.unknown_bytes;
        proptest::prop_assert!(part.freed_bytes >= 0.0 && part.unknown_bytes >= 0.0);
        proptest::prop_assert!(lost <= part.bytes * (1.0 + 1e-9) + 1e-6, "{part:?}");
        proptest::prop_assert!(part.freed_objects <= part.objects * (1.0 + 1e-9));
    }
}
