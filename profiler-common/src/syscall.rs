//! What the system call programs are told, what they remember of each thread, and the sums that they keep.
//!
//! Sums live in a hash table that both sides know: a [`Cell`] for each bucket of a histogram and each errno that is in use, by
//! [`CellKey`]. A call is one lookup there. A key holds the CPU that counts, so that no two CPUs write one entry.

use crate::histogram::BUCKETS;

/// The call came through the architecture's own table.
pub const ABI_NATIVE: u16 = 0;
/// The call came through the 32-bit table: i386 on x86_64, arm on arm64.
pub const ABI_COMPAT: u16 = 1;
/// The call came through the x32 table of x86_64.
pub const ABI_X32: u16 = 2;

/// Sums are kept by process.
pub const OWNER_PROCESS: u32 = 0;
/// Sums are kept by thread.
pub const OWNER_THREAD: u32 = 1;
/// Sums are kept by control group (v2).
pub const OWNER_CGROUP: u32 = 2;

/// `__X32_SYSCALL_BIT`, arch/x86/include/uapi/asm/unistd.h.
pub const X32_BIT: u32 = 0x4000_0000;
/// `TS_COMPAT` of `thread_info.status`, arch/x86/include/asm/thread_info.h: the current call is a 32-bit one.
pub const TS_COMPAT: u32 = 2;

/// First number behind all tables; programs may ask for any number, and those share one entry: [`NUMBER_UNKNOWN`].
pub const NUMBER_LIMIT: u32 = 1024;
/// First and last of arm's private calls (`__ARM_NR_BASE`, arch/arm/include/uapi/asm/unistd.h).
pub const ARM_PRIVATE: (u32, u32) = (0xf_0001, 0xf_0006);
/// Stands for every number that no table has.
pub const NUMBER_UNKNOWN: u32 = u32::MAX;

/// Return values that never reach the program (include/linux/errno.h, `ERESTARTSYS` to `ERESTART_RESTARTBLOCK`): a signal interrupted
/// the call, which either begins again or fails with `EINTR`.
pub const RESTART_CODES: (i64, i64) = (-516, -512);
/// Not one of them: `ENOIOCTLCMD`.
pub const NOT_A_RESTART: i64 = -515;
/// Smallest return value that is an error (`MAX_ERRNO`, include/linux/err.h).
pub const LOWEST_ERROR: i64 = -4095;
/// `EINTR`.
pub const INTERRUPTED: u32 = 4;

/// Threads that can be inside a call at the same time. One more is counted and not measured.
pub const MAX_THREADS: u32 = 32_768;
/// Entries for [`Cell`]s, about a hundred bytes each.
pub const MAX_CELLS: u32 = 65_536;

/// The number under which a call is counted.
#[inline(always)]
#[expect(
    clippy::inline_always,
    reason = "BPF programs are made of one function each, and this is called from several"
)]
pub const fn counted_number(number: u32, abi: u16) -> u32 {
    let private = abi == ABI_COMPAT && number >= ARM_PRIVATE.0 && number <= ARM_PRIVATE.1;
    if number < NUMBER_LIMIT || private { number } else { NUMBER_UNKNOWN }
}

/// `restart_syscall`, by which the kernel carries on a call that keeps its own state, such as `nanosleep`.
#[inline(always)]
#[expect(clippy::inline_always, reason = "as above")]
pub const fn restart_number(is_x86: bool, abi: u16) -> u32 {
    match (abi, is_x86) {
        (ABI_COMPAT, _) => 0,
        (_, true) => 219,
        (_, false) => 128,
    }
}

/// Whether a call ends a signal handler: what it returns is the register of the code that was interrupted.
#[inline(always)]
#[expect(clippy::inline_always, reason = "as above")]
pub const fn is_sigreturn(is_x86: bool, abi: u16, number: u32) -> bool {
    match (abi, is_x86) {
        (ABI_COMPAT, _) => number == 119 || number == 173,
        (ABI_X32, _) => number == 513,
        (_, true) => number == 15,
        (_, false) => number == 139,
    }
}

/// Whether a call makes a task, which returns from it too: `fork`, `vfork`, `clone`, `clone3`.
#[inline(always)]
#[expect(clippy::inline_always, reason = "as above")]
pub const fn makes_task(is_x86: bool, abi: u16, number: u32) -> bool {
    match (abi, is_x86) {
        (ABI_COMPAT, _) => number == 2 || number == 120 || number == 190 || number == 435,
        (_, true) => (number >= 56 && number <= 58) || number == 435,
        (_, false) => number == 220 || number == 435,
    }
}

/// The frozen global of the system call programs.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SyscallConfig {
    /// One of the `OWNER_` numbers.
    pub owner: u32,
    /// Offset of `thread_info.status` in `task_struct` on x86_64; zero where it is not known or not needed.
    pub status_offset: u32,
}

/// What the agent changes while the programs run.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SyscallControl {
    /// Since when calls are measured, nanoseconds of `CLOCK_MONOTONIC`; zero: not now.
    pub since_ns: u64,
    /// Calls that take at least this long are sent one by one, nanoseconds.
    pub slow_ns: u64,
    /// Calls are sampled in proportion to their time: those that take two to the power of this many nanoseconds always, shorter ones with
    /// the chance that their time has of it. [`NO_SAMPLES`] for none.
    pub sample_shift: u64,
}

impl SyscallControl {
    /// Measure calls from this moment on, and take no stacks.
    pub const fn since(since_ns: u64) -> Self {
        Self { since_ns, slow_ns: u64::MAX, sample_shift: NO_SAMPLES }
    }
}

/// Take no samples.
pub const NO_SAMPLES: u64 = 64;
/// Bounds of [`SyscallControl::sample_shift`]: the chance is compared with a 32-bit random number.
pub const SAMPLE_SHIFTS: (u64, u64) = (10, 32);

/// Stacks that one CPU takes in [`STACK_WINDOW_NS`].
pub const MAX_STACKS: u64 = 16;
/// Ten milliseconds.
pub const STACK_WINDOW_NS: u64 = 10_000_000;

/// First word of a record of one call; its stack follows in a record of its own, with the same number.
pub const RECORD_CALL: u32 = 4;
/// The call was slow.
pub const CALL_SLOW: u32 = 1 << 0;
/// The call was sampled.
pub const CALL_SAMPLED: u32 = 1 << 1;

/// One call.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallRecord {
    /// [`RECORD_CALL`].
    pub kind: u32,
    /// `CALL_` bits.
    pub flags: u32,
    /// When it returned, nanoseconds of `CLOCK_MONOTONIC`; the number of the stack that follows.
    pub id: u64,
    /// How long it took, nanoseconds.
    pub ns: u64,
    /// What it returned.
    pub result: i64,
    /// Its arguments.
    pub arguments: [u64; 6],
    /// Its number.
    pub number: u32,
    /// Its table: an `ABI_` number.
    pub abi: u32,
    /// Process ID in the agent's namespace.
    pub pid: u32,
    /// Thread ID in the agent's namespace.
    pub tid: u32,
    /// [`SyscallControl::sample_shift`] at that moment.
    pub sample_shift: u64,
}

/// Size of a [`CallRecord`] on the wire.
pub const CALL_RECORD_BYTES: usize = 104;

/// No call was interrupted.
pub const PENDING_NONE: u32 = 0;
/// A call was interrupted just now: either the next call is its repetition, or a signal handler runs.
pub const PENDING_FRESH: u32 = 1;
/// A signal handler runs.
pub const PENDING_IN_HANDLER: u32 = 2;
/// The handler has returned to the call itself: the next call is its repetition.
pub const PENDING_REPEATS: u32 = 3;

/// What is remembered of a thread from call to call, by its number in the initial PID namespace.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ThreadCalls {
    /// When the current call began, nanoseconds; zero outside of calls.
    pub entered_ns: u64,
    /// When the last call returned, nanoseconds.
    pub left_ns: u64,
    /// Under which owner it is counted.
    pub owner: u64,
    /// Process ID in the agent's namespace.
    pub pid: u32,
    /// Thread ID in the agent's namespace.
    pub tid: u32,
    /// Number of the current call.
    pub number: u32,
    /// Its table: an `ABI_` number.
    pub abi: u32,
    /// When the interrupted call began, nanoseconds.
    pub pending_entered_ns: u64,
    /// When it was interrupted, nanoseconds.
    pub pending_left_ns: u64,
    /// The user's stack pointer then: a handler runs below it, a repetition at the same place.
    pub pending_sp: u64,
    /// Number of the interrupted call.
    pub pending_number: u32,
    /// One of the `PENDING_` numbers in the low half, the call's table in the high half.
    pub pending: u32,
    /// Calls that returned since measuring began last.
    pub calls: u64,
}

/// Whose calls, of which kind, counted by which CPU.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct SyscallKey {
    /// Process ID, process and thread ID (high and low half) or control group ID, by [`SyscallConfig::owner`].
    pub owner: u64,
    /// Number of the call.
    pub number: u32,
    /// Its table: an `ABI_` number.
    pub abi: u16,
    /// The CPU that counts.
    pub cpu: u16,
}

/// Calls that returned, both ends seen; the index is the bucket of [`crate::histogram`] of their time.
pub const CELL_TIME: u16 = 0;
/// Of these, calls that failed; the index is the errno.
pub const CELL_ERRNO: u16 = 1;
/// Calls that returned, of which only the end was seen; the index is the bucket of the part of their time that was seen.
pub const CELL_LATE_TIME: u16 = 2;
/// Of these, calls that failed; the index is the errno.
pub const CELL_LATE_ERRNO: u16 = 3;
/// Calls that ended with their thread.
pub const CELL_ENDED: u16 = 4;
/// Repetitions after a signal, which are no calls of their own.
pub const CELL_REPEATED: u16 = 5;

/// Which calls of an owner a [`Cell`] sums up.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct CellKey {
    /// Whose calls.
    pub call: SyscallKey,
    /// One of the `CELL_` numbers.
    pub kind: u16,
    /// Bucket or errno.
    pub index: u16,
    /// Zero.
    pub padding: u32,
}

/// Sums over calls.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cell {
    /// How many.
    pub count: u64,
    /// Their time, nanoseconds, where it is counted by time.
    pub total_ns: u64,
    /// The longest of them, nanoseconds.
    pub max_ns: u64,
}

const _: () = {
    assert!(size_of::<SyscallConfig>() == 8);
    assert!(size_of::<SyscallControl>() == 24);
    assert!(size_of::<CallRecord>() == CALL_RECORD_BYTES);
    assert!(size_of::<ThreadCalls>() == 80);
    assert!(size_of::<SyscallKey>() == 16);
    assert!(size_of::<Cell>() == 24);
    assert!(size_of::<CellKey>() == 24);
    assert!(BUCKETS < u16::MAX && -LOWEST_ERROR < u16::MAX as i64, "an index fits");
};

/// The values are plain integers without padding, so any bytes are valid and all bytes are initialized.
#[cfg(feature = "user")]
mod pod {
    // SAFETY: repr(C), only integers, sizes asserted above (no padding), here and below.
    unsafe impl aya::Pod for super::SyscallConfig {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::SyscallControl {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::ThreadCalls {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::SyscallKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Cell {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::CellKey {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_no_table_has_share_one_entry() {
        assert_eq!(counted_number(0, ABI_NATIVE), 0);
        assert_eq!(counted_number(547, ABI_X32), 547);
        assert_eq!(counted_number(0xf_0005, ABI_COMPAT), 0xf_0005);
        assert_eq!(counted_number(0xf_0005, ABI_NATIVE), NUMBER_UNKNOWN);
        assert_eq!(counted_number(u32::MAX - 3, ABI_NATIVE), NUMBER_UNKNOWN);
    }
}
