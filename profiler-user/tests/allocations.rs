//! What a sample that is known already may allocate on its way from the ring to its sum.
//!
//! A count, not a time, so it is the same on every machine: one allocation more for each sample is what no benchmark on a busy machine
//! shows, and what a profiler of thousands of samples a second pays for all day.

#[path = "../benches/common/mod.rs"]
mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use common::{Samples, processes, record};
use profiler_user::aggregate::{Aggregate, StackScope, values};
use profiler_user::ingest::{Record, decode_record};

/// The system's allocator, which counts what this thread asks for.
struct Counting;

thread_local! {
    static ASKED: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call goes to the system's allocator as it came; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ASKED.with(|asked| asked.set(asked.get() + 1));
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the block came from `System` above.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ASKED.with(|asked| asked.set(asked.get() + 1));
        // SAFETY: the block came from `System` above.
        unsafe { System.realloc(block, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// What `work` comes to, and how often it asked for memory.
fn counted<T>(work: impl FnOnce() -> T) -> (T, u64) {
    let before = ASKED.get();
    let done = work();
    (done, ASKED.get() - before)
}

/// The user side and the kernel side of the stack.
const OF_A_DECODED_SAMPLE: u64 = 2;

#[test]
fn a_counter_that_counts() {
    assert_eq!(counted(|| std::hint::black_box(Box::new(7_u64))).1, 1);
    assert_eq!(counted(|| 7).1, 0);
}

#[test]
fn decoding_a_sample_allocates_its_two_sides() {
    let bytes = record(&[1; 40], &[2; 12]);
    let (decoded, asked) = counted(|| decode_record(&bytes));
    assert!(matches!(decoded, Ok(Record::Sample(_))));
    assert!(asked <= OF_A_DECODED_SAMPLE, "{asked} allocations");
    let only_user = record(&[1; 40], &[]);
    assert!(counted(|| decode_record(&only_user)).1 <= 1);
}

#[test]
fn a_record_that_is_not_ours_allocates_nothing() {
    let mut bytes = record(&[1; 40], &[2; 12]);
    bytes.truncate(100);
    let (decoded, asked) = counted(|| decode_record(&bytes));
    assert!(decoded.is_err());
    assert_eq!(asked, 0);
}

#[test]
fn adding_a_sample_that_is_known_allocates_nothing() {
    let mut processes = processes(1);
    let mut aggregate = Aggregate::new(StackScope::Both);
    let samples = Samples { distinct: 5, depth: 60 };
    for index in 0..5 {
        let sample = samples.sample(index);
        let moment = processes.moment(&sample);
        aggregate.add(&sample, &moment, &mut processes, values([1, 10_101_010]));
    }
    for index in 0..50 {
        let sample = samples.sample(index);
        let ((), asked) = counted(|| {
            let moment = processes.moment(&sample);
            aggregate.add(&sample, &moment, &mut processes, values([1, 10_101_010]));
        });
        assert_eq!(asked, 0, "sample {index}");
    }
    assert_eq!(aggregate.samples(), 55);
    assert_eq!(aggregate.stacks().len(), 5);
}

#[test]
fn a_new_stack_allocates_no_more_than_its_entries_need() {
    let mut processes = processes(1);
    let mut aggregate = Aggregate::new(StackScope::Both);
    let samples = Samples { distinct: 4_000, depth: 60 };
    let ((), asked) = counted(|| {
        for index in 0..4_000 {
            let sample = samples.sample(index);
            let moment = processes.moment(&sample);
            aggregate.add(&sample, &moment, &mut processes, values([1, 10_101_010]));
        }
    });
    // Two are the sample's own; the interner keeps two copies of a stack; tables grow by doubling, a few dozen times in all.
    assert!(asked <= 4_000 * 4 + 200, "{asked} allocations for 4000 stacks");
    assert_eq!(aggregate.stacks().len(), 4_000);
    assert!(std::hint::black_box(&aggregate).overflowed() == 0);
}

#[test]
fn records_and_samples_agree() {
    let sample = Samples { distinct: 5, depth: 60 }.sample(3);
    let Record::Sample(decoded) = decode_record(&record(&sample.user, &sample.kernel)).unwrap() else {
        panic!("not a sample");
    };
    assert_eq!((decoded.user, decoded.kernel, decoded.stop), (sample.user, sample.kernel, sample.stop));
}
