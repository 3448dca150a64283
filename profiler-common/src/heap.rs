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
/// Go's `runtime.profilealloc(_, a, b)`: Go itself has chosen the block at `a` of `b` bytes, one in as many bytes as a word says that lies
/// [`Site::rate_distance`] from the probe.
pub const CALL_GO_SAMPLED: u64 = 7;
/// Go's `runtime.mallocgc(a, …)`. Go code bears no probe at its return, so the block's address stays unknown.
pub const CALL_GO: u64 = 8;
/// Go's `runtime.freeSpecial(_, a, …)`: the collector frees the block at `a`, which Go has chosen.
pub const CALL_GO_FREE: u64 = 9;

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

    /// The same on the branch that a function of Go's takes to grow its stack. After that it begins anew, so a hit that takes the branch is none.
    #[must_use]
    pub const fn growing(self) -> Self {
        Self(self.0 | 1 << 30)
    }

    /// Whether the probe stands on such a branch.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "BPF programs have no stack for calls")]
    pub const fn is_growing(self) -> bool {
        self.0 >> 30 & 1 != 0
    }

    /// The same with the word that holds Go's sampling rate at this distance from the probe, bytes; none where it is too far away.
    pub const fn with_rate_distance(self, distance: i64) -> Option<Self> {
        if distance >> 32 != 0 && distance >> 32 != -1 {
            return None;
        }
        Some(Self(self.0 & ((1 << 31) - 1) | distance.cast_unsigned() << 31))
    }

    /// Bytes from the probe to the word that holds Go's sampling rate; zero where it is not known.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "BPF programs have no stack for calls")]
    pub const fn rate_distance(self) -> i64 {
        self.0.cast_signed() >> 31
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

/// Mean bytes from one block that Go chooses to the next, unless the program says otherwise (`runtime.MemProfileRate`).
pub const GO_RATE: u64 = 512 << 10;

/// What a block of `size` bytes stands for that was chosen with the chance that a point of a Poisson process falls into it, which has a mean of `rate`
/// bytes from one to the next: `1/(1-exp(-size/rate))` blocks, with [`WEIGHT_BITS`] bits of fraction. It is how Go weighs them
/// (`scaleHeapSample` in `src/runtime/pprof/protomem.go`).
#[inline(always)]
pub const fn stands_for(size: u64, rate: u64) -> u64 {
    const ONE: u64 = 1 << 30;
    const WEIGHT_ONE: u64 = 1 << WEIGHT_BITS;
    // Nobody chooses more rarely, and below it no product overflows.
    let rate = if rate > 1 << 48 { 1 << 48 } else { rate };
    // The chance is one, as near as a weight can say: exp(-8) is less than half of its last bit.
    if rate <= 1 || size / 8 >= rate {
        return WEIGHT_ONE;
    }
    if size == 0 {
        return 0;
    }
    if size < rate >> 12 {
        // 1/x + 1/2: the next term is below 1/49000.
        return quotient((rate << WEIGHT_BITS) + size / 2, size) + WEIGHT_ONE / 2;
    }
    // Both are large where the rate is, so twelve bits or more stay.
    let shift = if rate >> 40 != 0 {
        16
    } else if rate >> 32 != 0 {
        8
    } else {
        0
    };
    let (size, rate) = (size >> shift, rate >> shift);
    // Below one half the series converges fast: 1-exp(-x) = x(1 - x/2(1 - x/3(1 - …))).
    let x = quotient(size << 26, rate);
    let mut sum = ONE;
    let mut term = 7;
    while term > 1 {
        sum = ONE - quotient((x * sum) >> 30, term);
        term -= 1;
    }
    let mut chance = (x * sum) >> 30;
    // The chance for twice as much is that for one half or, if not, the other: p(2 - p). The first line took a sixteenth.
    let mut half = 0;
    while half < 4 {
        chance = (chance * (2 * ONE - chance)) >> 30;
        half += 1;
    }
    quotient((ONE << WEIGHT_BITS) + chance / 2, chance)
}

/// A division that LLVM cannot give a panic to, which no BPF program may have. Nothing divides by zero here.
#[inline(always)]
#[expect(clippy::inline_always, reason = "BPF programs have no stack for calls")]
const fn quotient(amount: u64, by: u64) -> u64 {
    match amount.checked_div(by) {
        Some(quotient) => quotient,
        None => 0,
    }
}

/// Where the object of a block begins that Go's `mallocgc` returned: in front of large ones with pointers Go 1.22 and later keep a word of their own
/// (`mallocHeaderSize` in `src/runtime/mbitmap.go`). No other block of more than 512 bytes begins at an odd word.
#[inline(always)]
pub const fn go_block(address: u64, size: u64) -> u64 {
    const LARGEST_WITHOUT: u64 = 512;
    if size > LARGEST_WITHOUT && address & 15 == 8 { address - 8 } else { address }
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
    /// What it stands for: see [`Rate::weight`]. Zero for one that is followed only as part of a chain.
    pub weight: u64,
    /// How it came to be, if it was resized.
    pub chain: Chain,
}

/// Calls that resized one block, one after the other. It is followed as long as its first block would have been, whichever of the calls are taken.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Chain {
    /// Number of the stack that asked for the first block.
    pub number: u64,
    /// What the first block stands for.
    pub weight: u64,
    /// Calls so far; zero for a block that was never resized, [`Chain::UNKNOWN`] where its beginning was not seen.
    pub steps: u64,
}

impl Chain {
    /// The block came from one that was not followed, so another one stands for its chain, or the recording came too late.
    pub const UNKNOWN: u64 = u64::MAX;
}

/// The sum of chains whose first blocks have the same stack. Several CPUs add to it at once.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ChainSum {
    /// Chains, weighted.
    pub chains: u64,
    /// Chains that were followed.
    pub followed: u64,
    /// Calls that resized, weighted.
    pub steps: u64,
    /// Calls of the longest.
    pub longest: u64,
    /// Bytes of first blocks, weighted.
    pub first_bytes: u64,
    /// Bytes of last blocks, weighted.
    pub last_bytes: u64,
    /// Bytes that had to be copied because the block's address changed, weighted.
    pub moved_bytes: u64,
    /// Calls that changed the address, weighted.
    pub moves: u64,
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
    /// Calls among those taken that the program itself had chosen, so that totals are estimates too.
    pub chosen: u64,
}

/// What the agent tells the programs while they run.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HeapControl {
    /// One when blocks are followed until they are freed.
    pub live: u32,
    /// One while calls are counted.
    pub counting: u32,
    /// One while stacks may be taken.
    pub stacks: u32,
    /// Number of the time slice.
    pub slice: u32,
    /// When the slice began, nanoseconds of the monotonic clock. A block from before it whose address is handed out again was freed while nobody
    /// looked. Zero while every call is watched.
    pub since_ns: u64,
}

const _: () = {
    assert!(size_of::<Rate>() == 16);
    assert!(size_of::<SizeSum>() == 16);
    assert!(size_of::<HeapThread>() == 48);
    assert!(size_of::<BlockKey>() == 16);
    assert!(size_of::<Block>() == 56);
    assert!(size_of::<ChainSum>() == 64);
    assert!(size_of::<HeapSum>() == 80);
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
    unsafe impl aya::Pod for super::ChainSum {}
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
        let go = Site::new(CALL_GO_SAMPLED, [5, 11, 11], 0, false).growing();
        for distance in [0, 8, -8, (1 << 32) - 1, -(1 << 32)] {
            let found = go.with_rate_distance(distance).unwrap();
            assert_eq!((found.rate_distance(), found.argument(1)), (distance, 11));
            assert!(found.is_growing() && !found.is_stepped());
        }
        assert!(go.with_rate_distance(1 << 32).is_none() && go.with_rate_distance(i64::MIN).is_none());
    }

    #[test]
    fn blocks_that_go_chose_are_weighed_as_go_weighs_them() {
        for rate in [2, 3, 1000, 4096, GO_RATE, 1 << 30, 1 << 32, 1 << 39, 1 << 48] {
            for size in (0..50).flat_map(|bits| [1_u64 << bits, (1 << bits) + (1 << bits) / 3]) {
                let exact = -1.0 / (-(size as f64) / rate as f64).exp_m1();
                let found = stands_for(size, rate) as f64 / 256.0;
                // Half of the last bit, and a little for what was rounded on the way.
                let near = exact * 3e-4 + 0.003;
                assert!((found - exact).abs() <= near, "{size} bytes, one in {rate}: {found}, {exact} true");
            }
        }
        assert_eq!(
            (go_block(0x1008, 576), go_block(0x1008, 8), go_block(0x1000, 576)),
            (0x1000, 0x1008, 0x1000)
        );
        assert_eq!(stands_for(4096, 1), 256);
        assert_eq!((stands_for(0, GO_RATE), stands_for(u64::MAX, u64::MAX)), (0, 256));
        assert_eq!(stands_for(1, u64::MAX), (1 << 56) + 128);
    }
}
