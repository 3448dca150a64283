//! Waiting threads: what the switch programs keep of each, and how they add waits up.
//!
//! A wait begins when a thread leaves its CPU and ends when it runs again. Its first part, until somebody wakes the thread, is blocked
//! time; the rest is time in the run queue. The stack belongs to the moment of leaving. It is what costs most, so the stacks of short waits
//! may be taken of a random few only, whose waits then stand for the others. The others are measured all the same, as long as the budget
//! has room for that; past it they pass: what is kept of them is no more than tells, at their end, whether they became long. And where even
//! drawing lots at each switch is too much, it is done in slices of time that stand for the others. Long waits are counted always.

use crate::limits::MAX_STACKS_SENT;

/// No stack: kept apart from the hash of any real one.
pub const STACK_NONE: u64 = 0;
/// The stack was not taken, to stay within the budget.
pub const STACK_SKIPPED: u64 = 1;
/// Smallest number of a stack that was taken.
pub const FIRST_STACK: u64 = 16;

/// Waits of this length or longer are always counted one by one, 10 ms.
pub const LONG_WAIT_NS: u64 = 10_000_000;
/// Most time that one wait may stand for, 100 ms: past it the wait is counted for itself alone, whether its stack was taken or not.
pub const MOST_WEIGHTED_NS: u64 = 100_000_000;
/// Largest share of skipped stacks: one in 2⁸ is taken, whose cost is then less than that of the switches.
pub const MAX_SHIFT: u32 = 8;

/// Stacks that one CPU may take in [`BRAKE_WINDOW_NS`] before it stops taking those of short waits by itself. The agent looks ten times a
/// second, too late for a burst.
pub const BRAKE_STACKS: u64 = 64;
/// Length of the window, 10 ms.
pub const BRAKE_WINDOW_NS: u64 = 10_000_000;
/// Length below which waits are short while the brake is on, 1 ms.
pub const BRAKE_THRESHOLD_NS: u64 = 1_000_000;

/// Stack copies (for walks that met a missing table) that one CPU may send at once.
pub const COPY_TOKENS: u64 = 8;
/// Time after which it may send one more, 2 ms.
pub const COPY_TOKEN_NS: u64 = 2_000_000;

/// The thread was preempted, or gave its CPU up and could have gone on: all of its wait is in the run queue.
pub const STATE_RUNNABLE: u32 = 0;
/// It sleeps and a signal wakes it (`S`).
pub const STATE_SLEEPING: u32 = 1;
/// It sleeps and nothing else wakes it (`D`): mostly disk and page faults.
pub const STATE_UNINTERRUPTIBLE: u32 = 2;
/// It is stopped by a signal or a debugger (`T`).
pub const STATE_STOPPED: u32 = 3;
/// Number of states.
pub const STATES: u32 = 4;
/// Not a wait: the time that the thread ran, in [`WaitSum::blocked_ns`], under [`STACK_NONE`].
pub const STATE_RAN: u32 = STATES;
/// Not a wait: what a thread's [`Thread::thinned`] was when it ended, under [`STACK_NONE`].
pub const STATE_THINNED: u32 = STATES + 1;
/// Not a wait: what a thread's [`Passing::passed`] was when it ended, in [`WaitSum::count`], under [`STACK_NONE`].
pub const STATE_PASSED: u32 = STATES + 2;
/// Beside a `STATE_` number: the sum is an estimate from the waits whose stacks were taken, multiplied by what they stand for.
pub const STATE_ESTIMATED: u32 = 1 << 8;
/// Beside [`STATE_ESTIMATED`]: of the waits that the sum stands for, those whose stacks were not taken passed, so nothing but their number is
/// known.
pub const STATE_UNSETTLED: u32 = 1 << 9;

/// The chance in [`Thread::shift`], and beside it: the waits that were not taken passed, and the power of two of the slices that this one stands
/// for.
pub const SHIFT_CHANCE: u32 = 0xff;
/// As above.
pub const SHIFT_PASSING: u32 = 1 << 8;
/// As above: where it begins.
pub const SHIFT_SLICES: u32 = 16;
/// Most slices that one of them may stand for, as a power of two.
pub const MAX_SLICES_SHIFT: u32 = 6;

/// Waits shorter than this, where waits are usually that short, are drawn in slices of time alone, 1 ms.
pub const BRIEF_WAIT_NS: u64 = 1_000_000;
/// Length of a slice, as a power of two of nanoseconds: 4.2 ms.
pub const SLICE_SHIFT: u32 = 22;

/// The chance of a first wait at a place while waits pass: nothing is known of it, and a host where programs come and go has many.
pub const FIRST_SHIFT: u32 = 3;

/// `TASK_INTERRUPTIBLE`, include/linux/sched.h.
const TASK_INTERRUPTIBLE: u32 = 0x1;
/// `TASK_UNINTERRUPTIBLE`.
const TASK_UNINTERRUPTIBLE: u32 = 0x2;
/// `__TASK_STOPPED | __TASK_TRACED`.
const TASK_STOPPED: u32 = 0x4 | 0x8;
/// `EXIT_DEAD | EXIT_ZOMBIE | TASK_DEAD`.
const TASK_GONE: u32 = 0x10 | 0x20 | 0x80;

/// The state in which a thread left its CPU, from the kernel's bits; none for one that will not come back.
#[expect(clippy::inline_always, reason = "BPF programs have no stack for calls")]
#[inline(always)]
pub fn state_of(preempted: bool, bits: u32) -> Option<u32> {
    if bits & TASK_GONE != 0 {
        None
    } else if preempted || bits == 0 {
        Some(STATE_RUNNABLE)
    } else if bits & TASK_INTERRUPTIBLE != 0 {
        Some(STATE_SLEEPING)
    } else if bits & TASK_UNINTERRUPTIBLE != 0 {
        Some(STATE_UNINTERRUPTIBLE)
    } else if bits & TASK_STOPPED != 0 {
        Some(STATE_STOPPED)
    } else {
        // `TASK_FROZEN`, `TASK_RTLOCK_WAIT` and what is to come: nothing but its waker ends it.
        Some(STATE_UNINTERRUPTIBLE)
    }
}

/// A thread that was seen to wait, by the kernel's own thread ID.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Thread {
    /// When it left its CPU, nanoseconds of the monotonic clock; zero while it runs.
    pub since_ns: u64,
    /// When it was woken; zero before.
    pub woken_ns: u64,
    /// Number of the stack at which it left, or a `STACK_` constant.
    pub stack: u64,
    /// Number of its waker's stack, or [`STACK_NONE`].
    pub waker: u64,
    /// Where the wait began: index of the running mean of the waits that begin there.
    pub place: u32,
    /// How often the thread had left its CPU, with this time, the low bits: as long as that is so it waits on. Zero where nobody knows.
    pub switches: u32,
    /// Process ID in the agent's namespace.
    pub pid: u32,
    /// Thread ID, likewise.
    pub tid: u32,
    /// One of the `STATE_` numbers.
    pub state: u32,
    /// Stacks of this wait were taken with the chance 1 : 2^shift, in the bits of [`SHIFT_CHANCE`]; what the others say stands there.
    pub shift: u32,
    /// All its waits of whose kind only some have a stack, which stand for the others: how long they really were.
    pub thinned: WaitSum,
}

/// A wait that passes: at the place that the kernel's own thread ID gives, one at a time.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Passing {
    /// As [`Thread::since_ns`].
    pub since_ns: u64,
    /// As [`Thread::woken_ns`].
    pub woken_ns: u64,
    /// Waits of its owner that are over and were not measured, and those that stand for them.
    pub passed: u64,
    /// Whose it is: the kernel's own thread ID.
    pub owner: u32,
    /// As [`Thread::pid`].
    pub pid: u32,
    /// As [`Thread::tid`].
    pub tid: u32,
    /// As [`Thread::place`].
    pub place: u32,
    /// As [`Thread::state`].
    pub state: u32,
    /// As [`Thread::shift`].
    pub shift: u32,
}

impl Passing {
    /// Words of one in memory.
    pub const WORDS: usize = 6;

    /// The word that [`Self::owner`] lies in.
    pub const OWNER_WORD: usize = 3;

    /// What these words of little-endian memory are.
    pub fn from_words(words: [u64; Self::WORDS]) -> Self {
        let [since_ns, woken_ns, passed, owner_pid, tid_place, state_shift] = words;
        let halves = |word: u64| (word as u32, (word >> 32) as u32);
        let ((owner, pid), (tid, place), (state, shift)) =
            (halves(owner_pid), halves(tid_place), halves(state_shift));
        Self { since_ns, woken_ns, passed, owner, pid, tid, place, state, shift }
    }

    /// The wait as one of a thread that is followed; none when nobody waits here.
    pub fn as_thread(&self) -> Option<Thread> {
        (self.since_ns != 0).then_some(Thread {
            since_ns: self.since_ns,
            woken_ns: self.woken_ns,
            stack: STACK_SKIPPED,
            waker: STACK_NONE,
            place: self.place,
            switches: 0,
            pid: self.pid,
            tid: self.tid,
            state: self.state,
            shift: self.shift,
            thinned: WaitSum { count: 0, blocked_ns: 0, queued_ns: 0 },
        })
    }
}

/// What waits are added up by.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WaitKey {
    /// Number of the stack, or a `STACK_` constant.
    pub stack: u64,
    /// Number of the waker's stack, or [`STACK_NONE`].
    pub waker: u64,
    /// Process ID in the agent's namespace.
    pub pid: u32,
    /// Thread ID, likewise.
    pub tid: u32,
    /// One of the `STATE_` numbers, those that are not waits included; [`STATE_ESTIMATED`] and [`STATE_UNSETTLED`] may be set beside it.
    pub state: u32,
    /// [`SwitchControl::epoch`] when the wait ended: sums of an epoch that is over are no longer written.
    pub epoch: u32,
}

/// The sum of waits with one key. Written by one CPU at a time, since a thread runs on one.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WaitSum {
    /// Waits.
    pub count: u64,
    /// Time until the thread was woken, nanoseconds.
    pub blocked_ns: u64,
    /// Time in the run queue, nanoseconds.
    pub queued_ns: u64,
}

/// What the agent tells the switch programs while they run.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SwitchControl {
    /// Waits that are usually shorter than this have their stacks taken in proportion to their length; zero takes all.
    pub threshold_ns: u64,
    /// Since when switches have been seen without a gap, nanoseconds of the monotonic clock. Waits that began before count from there; what ran at
    /// the first switch of a CPU is taken to run since then.
    pub began_ns: u64,
    /// Number of the current epoch.
    pub epoch: u32,
    /// One when waits whose stacks are not taken pass.
    pub passing: u8,
    /// One when switches are not to be seen, and soon are not: threads that end then are forgotten where they exit.
    pub paused: u8,
    /// In how many slices of time one is open to brief waits, as a power of two.
    pub slices_shift: u16,
}

/// What the switch programs are told when they load.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SwitchConfig {
    /// Waits shorter than this are left out.
    pub shortest_ns: u64,
    /// Waits longer than this are left out.
    pub longest_ns: u64,
    /// One bit for each `STATE_` whose waits are wanted.
    pub states: u32,
    /// One when the stacks of wakers are taken.
    pub wakers: u32,
    /// One when the tracepoint `sched_switch` has the previous task's state as its fourth argument (since Linux 5.18).
    pub has_state_argument: u32,
    /// One when every stack is taken, whatever it costs.
    pub exact: u32,
    /// Offset of `task_struct.__state`.
    pub task_state: u32,
    /// One when the time that threads run is measured too.
    pub runs: u32,
    /// Offset of `task_struct.nvcsw`: how often a thread left its CPU because it waits.
    pub task_waits: u32,
    /// Offset of `task_struct.nivcsw`: how often it was made to.
    pub task_preemptions: u32,
}

/// Mixes a word into a hash.
#[expect(clippy::inline_always, reason = "BPF programs have no stack for calls")]
#[inline(always)]
pub fn mix(hash: u64, word: u64) -> u64 {
    // A multiplication carries each bit upwards only; the shift brings the high bits back down.
    let product = (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    product ^ (product >> 32)
}

/// A hash as the number of a stack, apart from the constants.
#[expect(clippy::inline_always, reason = "BPF programs have no stack for calls")]
#[inline(always)]
pub fn stack_number(hash: u64) -> u64 {
    if hash < FIRST_STACK { hash + FIRST_STACK } else { hash }
}

/// The chance, as a power of two, with which a wait of this usual length has its stack taken: in proportion to its length, and always where
/// waits are usually about as long as those that are counted one by one.
#[expect(clippy::inline_always, reason = "BPF programs have no stack for calls")]
#[inline(always)]
pub fn shift_of(usual_ns: u64, threshold_ns: u64) -> u32 {
    let mut shift = 0;
    if usual_ns > LONG_WAIT_NS / 2 {
        return shift;
    }
    let mut length = usual_ns | 1;
    // Doubling instead of a division and a logarithm, which BPF lacks.
    while shift < MAX_SHIFT {
        length <<= 1;
        // Rounded down: a mean a little below the threshold is as good as one at it.
        if length > threshold_ns {
            break;
        }
        shift += 1;
    }
    shift
}

/// The power of two by which a wait that was taken with this chance is multiplied; none when it counts for itself alone, with or
/// without its stack. Depends on nothing but the two, so that totals stay unbiased.
#[expect(clippy::inline_always, reason = "BPF programs have no stack for calls")]
#[inline(always)]
pub fn weight_shift(wait_ns: u64, shift: u32) -> Option<u32> {
    let chance = shift & SHIFT_CHANCE;
    let chance = if chance < MAX_SHIFT { chance } else { MAX_SHIFT };
    if chance == 0 || wait_ns >= LONG_WAIT_NS || wait_ns << chance > MOST_WEIGHTED_NS {
        return None;
    }
    Some(chance)
}

/// The power of two by which a brief wait is multiplied beside that: the slices that its own stands for.
#[expect(clippy::inline_always, reason = "BPF programs have no stack for calls")]
#[inline(always)]
pub fn slices_shift(wait_ns: u64, shift: u32) -> u32 {
    let slices = shift >> SHIFT_SLICES;
    if wait_ns >= BRIEF_WAIT_NS {
        0
    } else if slices < MAX_SLICES_SHIFT {
        slices
    } else {
        MAX_SLICES_SHIFT
    }
}

/// Whether the slice of time that `now_ns` belongs to is open, when one of 2^`shift` is: one of each group of so many, at random, so that a program
/// with a rhythm does not hide between them.
#[expect(clippy::inline_always, reason = "BPF programs have no stack for calls")]
#[inline(always)]
pub fn is_slice_open(now_ns: u64, shift: u16, seed: u64) -> bool {
    let slice = now_ns >> SLICE_SHIFT;
    let shift = u32::from(shift) & 15;
    let mask = (1 << shift) - 1;
    slice & mask == mix(seed, slice >> shift) & mask
}

/// The two places of a table of [`MAX_STACKS_SENT`](crate::limits::MAX_STACKS_SENT) numbers at which the number of a stack may be remembered.
#[expect(clippy::inline_always, reason = "BPF programs have no stack for calls")]
#[inline(always)]
pub fn sent_places(number: u64) -> (u64, u64) {
    let mask = u64::from(MAX_STACKS_SENT) - 1;
    (number & mask, (number >> 32) & mask)
}

/// How long waits that begin at one place usually are, after one more. Quick to rise and slow to fall: a stack too many costs a little, the
/// missing stack of a long wait costs its reader more.
#[expect(clippy::inline_always, reason = "BPF programs have no stack for calls")]
#[inline(always)]
pub fn usual_after(usual_ns: u64, wait_ns: u64) -> u64 {
    let wait_ns = if wait_ns < LONG_WAIT_NS { wait_ns } else { LONG_WAIT_NS };
    if usual_ns == 0 {
        // Zero stands for "nothing known".
        wait_ns | 1
    } else if wait_ns > usual_ns {
        usual_ns + (wait_ns - usual_ns) / 2
    } else {
        usual_ns - (usual_ns - wait_ns) / 8
    }
}

const _: () = {
    assert!(size_of::<Thread>() == 80);
    assert!(size_of::<Passing>() == Passing::WORDS * 8);
    // As `Passing::from_words` has them.
    assert!(core::mem::offset_of!(Passing, owner) == Passing::OWNER_WORD * 8);
    assert!(core::mem::offset_of!(Passing, pid) == 28 && core::mem::offset_of!(Passing, tid) == 32);
    assert!(core::mem::offset_of!(Passing, place) == 36 && core::mem::offset_of!(Passing, state) == 40);
    assert!(core::mem::offset_of!(Passing, since_ns) == 0 && core::mem::offset_of!(Passing, passed) == 16);
    assert!(MAX_SHIFT <= SHIFT_CHANCE);
    assert!(size_of::<WaitKey>() == 32);
    assert!(size_of::<WaitSum>() == 24);
    assert!(size_of::<SwitchControl>() == 24);
    assert!(size_of::<SwitchConfig>() == 48);
    // A weighted wait must fit a word.
    assert!(LONG_WAIT_NS.leading_zeros() > MAX_SHIFT + MAX_SLICES_SHIFT);
};

/// The values are plain integers without padding, so any bytes are valid and all bytes are initialized.
#[cfg(feature = "user")]
mod pod {
    // SAFETY: repr(C), only integers, sizes asserted above (no padding).
    unsafe impl aya::Pod for super::Thread {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::WaitKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::WaitSum {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::SwitchControl {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_follow_the_kernels_bits() {
        assert_eq!(state_of(true, 1), Some(STATE_RUNNABLE));
        assert_eq!(state_of(false, 0), Some(STATE_RUNNABLE));
        assert_eq!(state_of(false, 1), Some(STATE_SLEEPING));
        assert_eq!(state_of(false, 0x102), Some(STATE_UNINTERRUPTIBLE));
        // TASK_IDLE: uninterruptible and without load.
        assert_eq!(state_of(false, 0x402), Some(STATE_UNINTERRUPTIBLE));
        assert_eq!(state_of(false, 8), Some(STATE_STOPPED));
        assert_eq!(state_of(false, 0x80), None);
    }

    #[test]
    fn the_chance_is_in_proportion_to_the_length() {
        assert_eq!(shift_of(5, 0), 0);
        assert_eq!((shift_of(1_000_000, 1_000_000), shift_of(600_000, 1_000_000)), (0, 0));
        assert_eq!(shift_of(200_000, 1_000_000), 2);
        assert_eq!(shift_of(0, u64::MAX), MAX_SHIFT, "nothing known");
        assert_eq!(shift_of(LONG_WAIT_NS / 2 - 1_000, 4 * LONG_WAIT_NS), 3);
        assert_eq!(shift_of(LONG_WAIT_NS / 2 + 1, 4 * LONG_WAIT_NS), 0);
    }

    #[test]
    fn totals_are_unbiased_whatever_the_lengths() {
        // Every wait, by every chance: what it adds on average (once in 2^shift with its weight) is its length.
        for shift in 0..=MAX_SHIFT {
            for wait in [1, 900, 25_000, 3_000_000, 9_999_999, 10_000_000, 5_000_000_000] {
                let (taken, skipped) = match weight_shift(wait, shift) {
                    Some(weight) => (wait << weight, 0),
                    None => (wait, wait),
                };
                let mean = (taken + skipped * ((1 << shift) - 1)) >> shift;
                assert_eq!(mean, wait, "{wait} ns, chance 1 : 2^{shift}");
                assert!(taken <= wait.max(MOST_WEIGHTED_NS));
            }
        }
    }

    #[test]
    fn a_slice_stands_for_the_others_where_brief_waits_are_meant() {
        let shift = 3 | SHIFT_PASSING | 4 << SHIFT_SLICES;
        assert_eq!((weight_shift(1_000, shift), slices_shift(1_000, shift)), (Some(3), 4));
        assert_eq!(slices_shift(BRIEF_WAIT_NS, shift), 0);
        assert_eq!(weight_shift(LONG_WAIT_NS, shift), None);
        assert_eq!(slices_shift(1_000, u32::MAX), MAX_SLICES_SHIFT);
    }

    #[test]
    fn one_slice_of_each_group_is_open_and_not_always_the_same_one() {
        for shift in 0..=5_u16 {
            let group = 1_u64 << shift;
            let slice = |at: u64| is_slice_open((at << SLICE_SHIFT) + 77, shift, 12_345);
            assert_eq!((0..200 * group).filter(|at| slice(*at)).count(), 200);
            for of in 0..200 {
                assert_eq!((of * group..(of + 1) * group).filter(|at| slice(*at)).count(), 1);
            }
            for at in 0..group {
                assert!((0..200).any(|of| slice(of * group + at)), "{at} of {group}");
            }
        }
    }

    #[test]
    fn the_usual_length_rises_quickly_and_falls_slowly() {
        let after =
            |usual: u64, wait: u64, times: u32| (0..times).fold(usual, |usual, _| usual_after(usual, wait));
        assert!((900..=1_010).contains(&after(0, 1_000, 20)));
        assert!(after(1_000, u64::MAX, 1) > LONG_WAIT_NS / 3);
        assert!(after(LONG_WAIT_NS, 1_000, 4) > LONG_WAIT_NS / 2);
        assert!(after(LONG_WAIT_NS, 1_000, 100) < 10_000);
    }

    #[test]
    fn a_wait_that_passes_is_read_from_memory_as_the_programs_write_it() {
        let word = |low: u64, high: u64| high << 32 | low;
        let wait =
            Passing::from_words([u64::MAX, 2, 3, word(4, 5), word(6, 7), word(8, u64::from(u32::MAX))]);
        assert_eq!((wait.since_ns, wait.woken_ns, wait.passed), (u64::MAX, 2, 3));
        assert_eq!((wait.owner, wait.pid, wait.tid, wait.place), (4, 5, 6, 7));
        assert_eq!((wait.state, wait.shift), (8, u32::MAX));
    }

    #[test]
    fn numbers_of_stacks_are_never_constants() {
        assert!((0..100).all(|hash| stack_number(hash) >= FIRST_STACK));
        assert_ne!(mix(mix(0, 1), 2), mix(mix(0, 2), 1));
    }
}
