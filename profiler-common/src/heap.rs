//! Calls of an allocator: what the probes are told, what they keep of a thread and of a block, and how they add up.
//!
//! Every call counts in the totals by size. The stack is taken of a random few, each with a chance that grows with its size, and stands for
//! the others with the inverse of that chance; so sums by stack are unbiased whatever the sizes. In a live recording the blocks of those few
//! are followed until they are freed.

use crate::histogram::BUCKETS;

/// `malloc(a)`, `valloc(a)`, `operator new(a)`.
pub const CALL_ALLOCATE: u64 = 1;
/// `calloc(a, b)`.
pub const CALL_ARRAY: u64 = 2;
/// `realloc(a, b)`.
pub const CALL_RESIZE: u64 = 3;
/// `reallocarray(a, b, c)`.
pub const CALL_RESIZE_ARRAY: u64 = 4;
/// `posix_memalign(a, …, b)`: the block's address is stored at `a`.
pub const CALL_STORE: u64 = 5;
/// `free(a)`.
pub const CALL_FREE: u64 = 6;

/// What a probe at the beginning of a function is told, as the cookie of its attachment: which call it is, in which registers the arguments
/// are (as indexes of words of `pt_regs`), how many words lie above the return address, and whether inner calls are to be left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Site(pub u64);

impl Site {
    /// Packs what a probe is told. Each number is below 64, the kind below 16.
    pub const fn new(kind: u64, arguments: [u64; 3], pushed_words: u64, encloses: bool) -> Self {
        let [a, b, c] = arguments;
        Self(
            (kind & 15)
                | (a & 63) << 4
                | (b & 63) << 10
                | (c & 63) << 16
                | (pushed_words & 63) << 22
                | (encloses as u64) << 28,
        )
    }

    /// One of the `CALL_` numbers.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "BPF programs have no stack for calls")]
    pub const fn kind(self) -> u64 {
        self.0 & 15
    }

    /// The word of `pt_regs` that holds argument `index`, 0 to 2.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "BPF programs have no stack for calls")]
    pub const fn argument(self, index: u32) -> u64 {
        (self.0 >> (4 + 6 * index)) & 63
    }

    /// The same at an instruction that the kernel steps instead of emulating it.
    #[must_use]
    pub const fn stepped(self) -> Self {
        Self(self.0 | 1 << 29)
    }

    /// Whether the kernel steps the instruction.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "BPF programs have no stack for calls")]
    pub const fn is_stepped(self) -> bool {
        self.0 >> 29 & 1 != 0
    }

    /// Words between the stack pointer and the return address.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "BPF programs have no stack for calls")]
    pub const fn pushed_words(self) -> u64 {
        (self.0 >> 22) & 63
    }

    /// Whether the function may call others that have probes, whose calls are then part of this one. Such a function has a probe at its
    /// return.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "BPF programs have no stack for calls")]
    pub const fn encloses(self) -> bool {
        self.0 >> 28 & 1 != 0
    }
}

/// Farthest that an inner call's stack lies below its outer one's, bytes. What is farther away is another stack: a signal handler's.
pub const INNER_STACK_BYTES: u64 = 32 << 10;

/// Nearest that a signal handler's stack lies below that of what it interrupts, where it has no stack of its own, bytes: what the kernel saves there
/// takes that (x86-64: 128 bytes that belong to the function, 440 of registers, 512 of floating-point state at least; arm64: 4 KiB and more).
pub const SIGNAL_FRAME_BYTES: u64 = 1 << 10;

/// Lifetime below which a block was temporary, 1 ms.
pub const BRIEF_NS: u64 = 1_000_000;

/// Fraction bits of [`Rate::weight`] and of the sums that it is added to.
pub const WEIGHT_BITS: u32 = 8;

/// How calls of one size are taken.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rate {
    /// Taken when a random number of 32 bits is below this: 2³² takes all.
    pub threshold: u64,
    /// What one stands for, with [`WEIGHT_BITS`] bits of fraction.
    pub weight: u64,
}

/// Rates: one for each bucket of [`crate::histogram`].
pub const RATES: u32 = BUCKETS as u32;

/// Where the sum over all sizes lies in the table of sums by size.
pub const ALL_SIZES: u32 = RATES;

/// Calls of one size on one CPU.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SizeSum {
    /// Calls.
    pub count: u64,
    /// Bytes that they asked for.
    pub bytes: u64,
}

/// What is known of a thread inside an allocator, by the kernel's own thread ID.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HeapThread {
    /// Where the return address of the outermost call lies; zero outside of one.
    pub stack: u64,
    /// Bytes asked for.
    pub size: u64,
    /// The block that is resized, or where the new block's address will be stored.
    pub pointer: u64,
    /// Number of the stack, or zero when it was not taken.
    pub number: u64,
    /// One of the `CALL_` numbers.
    pub kind: u32,
    /// Bucket of the size.
    pub bucket: u16,
    /// One when calls inside it are part of it ([`Site::encloses`]).
    pub encloses: u16,
    /// [`HeapControl::slice`] when the call began: what an earlier slice left behind is no outer call.
    pub slice: u32,
    /// Number of the thread's outermost call, which changes with each of them. A signal handler's call has that of the call that it
    /// interrupted, and is over with it.
    pub turn: u32,
}

/// Set in the key of a thread's second entry: the call of a signal handler that interrupted another one. Thread IDs are below 2²² (`PID_MAX_LIMIT`,
/// include/linux/threads.h).
pub const HANDLER: u32 = 1 << 31;

/// What blocks are found by.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct BlockKey {
    /// Its address.
    pub address: u64,
    /// The process that got it, in the agent's namespace.
    pub pid: u32,
    /// Zero.
    pub padding: u32,
}

/// A block that is followed.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Block {
    /// Number of the stack that asked for it.
    pub number: u64,
    /// Bytes.
    pub size: u64,
    /// When, nanoseconds of the monotonic clock.
    pub since_ns: u64,
    /// What it stands for: see [`Rate::weight`].
    pub weight: u64,
}

/// The sum of calls with one stack. Several CPUs add to it at once.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HeapSum {
    /// Calls that were taken.
    pub taken: u64,
    /// Of these, those that stand for others too.
    pub uncertain: u64,
    /// Calls, weighted.
    pub objects: u64,
    /// Bytes, weighted.
    pub bytes: u64,
    /// Blocks that were freed, weighted.
    pub freed_objects: u64,
    /// Their bytes, weighted.
    pub freed_bytes: u64,
    /// Freed within [`BRIEF_NS`], weighted objects.
    pub brief_objects: u64,
    /// Bytes of blocks whose table was full, weighted: what became of them is not known.
    pub unfollowed_bytes: u64,
    /// Their number, weighted.
    pub unfollowed_objects: u64,
}

/// What the agent tells the programs while they run.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HeapControl {
    /// One when blocks are followed until they are freed.
    pub live: u32,
    /// One while calls are counted.
    pub counting: u32,
    /// Rounds that every probe waits: the target is slowed down on purpose, to learn how it bears being slowed down.
    pub rounds: u32,
    /// Number of the time slice.
    pub slice: u32,
    /// When the slice began, nanoseconds of the monotonic clock. A block from before it whose address is handed out again was freed while nobody
    /// looked. Zero while every call is watched.
    pub since_ns: u64,
}

/// Most rounds of [`HeapControl::rounds`]. Each reads the clock once, some tens of nanoseconds.
pub const MAX_ROUNDS: u32 = 64;

const _: () = {
    assert!(size_of::<Rate>() == 16);
    assert!(size_of::<SizeSum>() == 16);
    assert!(size_of::<HeapThread>() == 48);
    assert!(size_of::<BlockKey>() == 16);
    assert!(size_of::<Block>() == 32);
    assert!(size_of::<HeapSum>() == 72);
    assert!(size_of::<HeapControl>() == 24);
};

/// The values are plain integers without padding, so any bytes are valid and all bytes are initialized.
#[cfg(feature = "user")]
mod pod {
    // SAFETY: repr(C), only integers, sizes asserted above (no padding).
    unsafe impl aya::Pod for super::Rate {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::SizeSum {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::HeapThread {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::BlockKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Block {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::HeapSum {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::HeapControl {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_probe_is_told_comes_back() {
        let site = Site::new(CALL_RESIZE_ARRAY, [14, 13, 63], 5, true);
        assert_eq!((site.kind(), site.pushed_words(), site.encloses()), (CALL_RESIZE_ARRAY, 5, true));
        assert_eq!([site.argument(0), site.argument(1), site.argument(2)], [14, 13, 63]);
        let plain = Site::new(CALL_FREE, [0; 3], 0, false);
        assert!(!plain.encloses() && !plain.is_stepped() && plain.stepped().is_stepped());
        assert_eq!((site.stepped().kind(), site.stepped().pushed_words()), (CALL_RESIZE_ARRAY, 5));
    }
}
