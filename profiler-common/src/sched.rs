//! The run queue: how long threads wait for a CPU, how long they keep it, and how they lose it.

/// The bucket counts waits in the run queue.
pub const MEASURE_QUEUED: u16 = 0;
/// The bucket counts turns on a CPU.
pub const MEASURE_RAN: u16 = 1;

/// A thread between two switches, by the kernel's own thread ID.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Turn {
    /// Since when it waits for a CPU, nanoseconds of the monotonic clock; zero when it does not.
    pub queued_since_ns: u64,
    /// When it got its CPU; zero when that was not seen.
    pub ran_since_ns: u64,
    /// How long it had waited for it, nanoseconds; [`Turn::NOT_SEEN`] when that was not seen as a whole.
    pub queued_ns: u64,
}

impl Turn {
    /// The wait before the turn was not seen.
    pub const NOT_SEEN: u64 = u64::MAX;
}

/// Turns of one process, all its threads and CPUs together, or of one CPU.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TurnSum {
    /// Times that a thread left its CPU.
    pub switches: u64,
    /// Of these, those of threads that could have gone on.
    pub preempted: u64,
    /// Waits in the run queue.
    pub waits: u64,
    /// Their length, nanoseconds.
    pub queued_ns: u64,
    /// The longest, nanoseconds.
    pub longest_ns: u64,
    /// Time on a CPU, nanoseconds.
    pub ran_ns: u64,
}

/// A bucket of a process's histograms.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TurnBucket {
    /// Process ID in the agent's namespace.
    pub pid: u32,
    /// One of the `MEASURE_` numbers.
    pub measure: u16,
    /// Its number ([`crate::histogram`]).
    pub bucket: u16,
}

/// The histograms of one CPU.
pub type CpuBuckets = [[u64; crate::histogram::BUCKETS as usize]; 2];

const _: () = {
    assert!(size_of::<Turn>() == 24);
    assert!(size_of::<TurnSum>() == 48);
    assert!(size_of::<TurnBucket>() == 8);
};

/// The values are plain integers without padding, so any bytes are valid and all bytes are initialized.
#[cfg(feature = "user")]
mod pod {
    // SAFETY: repr(C), only integers, sizes asserted above (no padding).
    unsafe impl aya::Pod for super::TurnSum {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::TurnBucket {}
}
