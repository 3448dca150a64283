//! What the BPF programs count: one number per CPU and [`Stat`].

/// A counter of the kernel side. The value of each is its index in the per-CPU array.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stat {
    /// Samples written to the ring.
    Emitted = 0,
    /// Samples that found the ring full.
    RingFull = 1,
    /// Samples whose per-CPU scratch could not be had.
    NoScratch = 2,
    /// New processes that found the table of targets full.
    TargetsFull = 3,
    /// Samples of tasks that have no number in the agent's PID namespace.
    OutsideNamespace = 4,
    /// Ticks of the sampling timer that passed while the CPU stalled; the next sample stands for them.
    LateTicks = 5,
    /// Samples that were sent with a copy of the stack because a table was not loaded.
    Cold = 6,
    /// New processes whose address space could not be handed on, table full.
    SpacesFull = 7,
    /// Stack copies that ended early because the ring was full.
    StackCut = 8,
    /// Context switches seen, of all threads of the host.
    Switches = 9,
    /// Waits of threads in scope that ended.
    Waits = 10,
    /// Threads whose waits could not be followed, table full.
    WaitingThreadsFull = 11,
    /// Waits that found the table of sums full.
    WaitsFull = 12,
    /// Their length, nanoseconds.
    WaitsFullNs = 13,
    /// Stacks of waits that found the ring full; the waits were counted.
    WaitStackLost = 14,
    /// Stacks of waits that were taken.
    WaitStacks = 15,
    /// Stacks of waits that were not taken, to stay within the budget.
    WaitStacksSkipped = 16,
    /// System calls that began on the machine while the programs were attached, in scope or not.
    SyscallsSeen = 17,
    /// System calls that were not measured because the table of threads was full.
    SyscallThreadsFull = 18,
    /// System calls, or errors of them, that were not counted because the table was full.
    SyscallCellsFull = 19,
    /// Entries made in the table of system calls: not a loss, but how full it is.
    SyscallEntries = 20,
    /// Threads whose turns on a CPU could not be followed, table full.
    TurnsFull = 21,
    /// Turns of processes that found the table of sums full; their CPU's figures have them.
    TurnSumsFull = 22,
    /// Turns that found the table of histograms full; their process's sums have them.
    TurnBucketsFull = 23,
    /// Page faults of all threads of the host, as far as the sampling events saw them.
    Faults = 24,
    /// Calls that map or unmap memory, of threads in scope.
    MappingCalls = 25,
    /// Slow or sampled system calls whose stack was not taken because there were too many at once.
    CallStacksSkipped = 26,
    /// Outermost calls of an allocator that ask for memory, of threads in scope, as far as probes saw them.
    HeapCalls = 27,
    /// Calls that free memory, of threads in scope.
    HeapFrees = 28,
    /// Calls of an allocator inside another one of the same thread, left out.
    HeapInner = 29,
    /// Calls of an allocator that were left without a return.
    HeapAbandoned = 30,
    /// Calls that got no memory.
    HeapFailed = 31,
    /// Calls of threads that found the table of threads full.
    HeapThreadsFull = 32,
    /// Calls whose stack found the table of sums full.
    HeapSumsFull = 33,
    /// Stacks that were not taken because another thread was preempted in the middle of taking its own.
    HeapScratchBusy = 34,
    /// Blocks that could not be followed, table full.
    BlocksFull = 35,
    /// Blocks whose address was handed out again although they were not seen to be freed.
    BlocksReused = 36,
    /// Stacks of allocations that found the ring full; the calls were counted.
    HeapStackLost = 37,
    /// Stacks of allocations that were taken.
    HeapStacks = 38,
    /// Hits of probes of an allocator at instructions that the kernel steps.
    HeapStepped = 39,
    /// Calls that signal handlers made in the middle of another call of the same thread, counted like any other.
    HeapInHandlers = 40,
    /// Of [`Self::HeapInner`], calls that are so far inside the other one that a signal handler may have made them.
    HeapInnerFar = 41,
    /// Calls of signal handlers in the middle of signal handlers' calls, left out.
    HeapTooDeep = 42,
    /// Calls that freed a block that was followed, each weighted by what the block stands for, in 256ths.
    HeapFreesKnown = 43,
    /// The squares of these weights, in 256ths.
    HeapFreesKnownSquares = 44,
    /// Calls that resized a block of a stack that found the table of such stacks full.
    ChainSumsFull = 45,
    /// Waits that passed: counted and not measured, unless they became long.
    WaitsPassed = 46,
    /// Waits that were taken and stand for others that passed.
    WaitsDrawn = 47,
    /// What they stand for, in units of 1,024 ns.
    WaitsDrawnTime = 48,
    /// The squares of that, wait by wait.
    WaitsDrawnSquares = 49,
}

impl Stat {
    /// All counters.
    pub const ALL: [Self; 50] = [
        Self::Emitted,
        Self::RingFull,
        Self::NoScratch,
        Self::TargetsFull,
        Self::OutsideNamespace,
        Self::LateTicks,
        Self::Cold,
        Self::SpacesFull,
        Self::StackCut,
        Self::Switches,
        Self::Waits,
        Self::WaitingThreadsFull,
        Self::WaitsFull,
        Self::WaitsFullNs,
        Self::WaitStackLost,
        Self::WaitStacks,
        Self::WaitStacksSkipped,
        Self::SyscallsSeen,
        Self::SyscallThreadsFull,
        Self::SyscallCellsFull,
        Self::SyscallEntries,
        Self::TurnsFull,
        Self::TurnSumsFull,
        Self::TurnBucketsFull,
        Self::Faults,
        Self::MappingCalls,
        Self::CallStacksSkipped,
        Self::HeapCalls,
        Self::HeapFrees,
        Self::HeapInner,
        Self::HeapAbandoned,
        Self::HeapFailed,
        Self::HeapThreadsFull,
        Self::HeapSumsFull,
        Self::HeapScratchBusy,
        Self::BlocksFull,
        Self::BlocksReused,
        Self::HeapStackLost,
        Self::HeapStacks,
        Self::HeapStepped,
        Self::HeapInHandlers,
        Self::HeapInnerFar,
        Self::HeapTooDeep,
        Self::HeapFreesKnown,
        Self::HeapFreesKnownSquares,
        Self::ChainSumsFull,
        Self::WaitsPassed,
        Self::WaitsDrawn,
        Self::WaitsDrawnTime,
        Self::WaitsDrawnSquares,
    ];

    /// Stable identifier.
    pub fn id(self) -> &'static str {
        match self {
            Self::Emitted => "emitted",
            Self::RingFull => "ring_full",
            Self::NoScratch => "no_scratch",
            Self::TargetsFull => "targets_full",
            Self::OutsideNamespace => "outside_namespace",
            Self::LateTicks => "late_ticks",
            Self::Cold => "cold",
            Self::SpacesFull => "spaces_full",
            Self::StackCut => "stack_cut",
            Self::Switches => "switches",
            Self::Waits => "waits",
            Self::WaitingThreadsFull => "waiting_threads_full",
            Self::WaitsFull => "waits_full",
            Self::WaitsFullNs => "waits_full_ns",
            Self::WaitStackLost => "wait_stack_lost",
            Self::WaitStacks => "wait_stacks",
            Self::WaitStacksSkipped => "wait_stacks_skipped",
            Self::SyscallsSeen => "syscalls_seen",
            Self::SyscallThreadsFull => "syscall_threads_full",
            Self::SyscallCellsFull => "syscall_cells_full",
            Self::SyscallEntries => "syscall_entries",
            Self::TurnsFull => "turns_full",
            Self::TurnSumsFull => "turn_sums_full",
            Self::TurnBucketsFull => "turn_buckets_full",
            Self::Faults => "faults",
            Self::MappingCalls => "mapping_calls",
            Self::CallStacksSkipped => "call_stacks_skipped",
            Self::HeapCalls => "heap_calls",
            Self::HeapFrees => "heap_frees",
            Self::HeapInner => "heap_inner",
            Self::HeapAbandoned => "heap_abandoned",
            Self::HeapFailed => "heap_failed",
            Self::HeapThreadsFull => "heap_threads_full",
            Self::HeapSumsFull => "heap_sums_full",
            Self::HeapScratchBusy => "heap_scratch_busy",
            Self::BlocksFull => "blocks_full",
            Self::BlocksReused => "blocks_reused",
            Self::HeapStackLost => "heap_stack_lost",
            Self::HeapStacks => "heap_stacks",
            Self::HeapStepped => "heap_stepped",
            Self::HeapInHandlers => "heap_in_handlers",
            Self::HeapInnerFar => "heap_inner_far",
            Self::HeapTooDeep => "heap_too_deep",
            Self::HeapFreesKnown => "heap_frees_known",
            Self::HeapFreesKnownSquares => "heap_frees_known_squares",
            Self::ChainSumsFull => "chain_sums_full",
            Self::WaitsPassed => "waits_passed",
            Self::WaitsDrawn => "waits_drawn",
            Self::WaitsDrawnTime => "waits_drawn_time",
            Self::WaitsDrawnSquares => "waits_drawn_squares",
        }
    }

    /// What happened, for people.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Emitted => "samples recorded",
            Self::RingFull => "ring buffer full",
            Self::NoScratch => "no scratch memory",
            Self::TargetsFull => "new processes not followed: target table full",
            Self::OutsideNamespace => "samples of tasks outside this PID namespace",
            Self::LateTicks => "timer ticks missed by stalled CPUs",
            Self::Cold => "samples walked in user space",
            Self::SpacesFull => "processes whose samples are walked in user space: table full",
            Self::StackCut => "stack copies cut short: ring buffer full",
            Self::Switches => "context switches",
            Self::Waits => "waits",
            Self::WaitingThreadsFull => "waits of threads past the limit of 16 384",
            Self::WaitsFull => "waits not kept: table full",
            Self::WaitsFullNs => "nanoseconds of waits not kept",
            Self::WaitStackLost => "stacks of waits: ring buffer full",
            Self::WaitStacks => "stacks of waits taken",
            Self::WaitStacksSkipped => "stacks of waits not taken",
            Self::SyscallsSeen => "system calls on the machine",
            Self::SyscallThreadsFull => "system calls not measured: table of threads full",
            Self::SyscallCellsFull => "system calls not counted: table full",
            Self::SyscallEntries => "entries made in the table of system calls",
            Self::TurnsFull => "turns of threads past the limit of 16 384",
            Self::TurnSumsFull => "turns of processes past the limit of 8 192",
            Self::TurnBucketsFull => "turns missing in a histogram: table full",
            Self::Faults => "page faults",
            Self::MappingCalls => "calls that map or unmap memory",
            Self::CallStacksSkipped => "slow or sampled calls whose stack was not taken",
            Self::HeapCalls => "calls of an allocator",
            Self::HeapFrees => "calls that free memory",
            Self::HeapInner => "calls inside other calls of an allocator",
            Self::HeapAbandoned => "calls of an allocator that did not return",
            Self::HeapFailed => "calls of an allocator that got no memory",
            Self::HeapThreadsFull => "allocations of threads past the limit of 16 384",
            Self::HeapSumsFull => "allocations not kept: table of stacks full",
            Self::HeapScratchBusy => {
                "stacks of allocations not taken: another thread was preempted while its stack was taken"
            }
            Self::BlocksFull => "blocks not followed: table full",
            Self::BlocksReused => "blocks whose freeing was not seen",
            Self::HeapStackLost => "stacks of allocations: ring buffer full",
            Self::HeapStacks => "stacks of allocations taken",
            Self::HeapStepped => "calls of an allocator probed at a stepped instruction",
            Self::HeapInHandlers => "calls of an allocator by signal handlers that interrupted another one",
            Self::HeapInnerFar => "calls far inside other calls of an allocator",
            Self::HeapTooDeep => "calls of an allocator by signal handlers in signal handlers",
            Self::HeapFreesKnown => "weights of frees of blocks that were followed",
            Self::HeapFreesKnownSquares => "their squares",
            Self::ChainSumsFull => "resized blocks of stacks past the limit of 4 096",
            Self::WaitsPassed => "waits that were counted and not measured",
            Self::WaitsDrawn => "waits that stand for others",
            Self::WaitsDrawnTime => "microseconds that they stand for",
            Self::WaitsDrawnSquares => "the squares of these",
        }
    }

    /// True when each count is a sample or an event that the profile lacks.
    pub fn is_loss(self) -> bool {
        matches!(
            self,
            Self::RingFull
                | Self::NoScratch
                | Self::TargetsFull
                | Self::WaitingThreadsFull
                | Self::WaitsFull
                | Self::HeapThreadsFull
                | Self::HeapSumsFull
                | Self::HeapScratchBusy
                | Self::HeapStackLost
                | Self::HeapTooDeep
                | Self::WaitStackLost
                | Self::SyscallThreadsFull
                | Self::SyscallCellsFull
                | Self::TurnsFull
                | Self::TurnSumsFull
                | Self::TurnBucketsFull
        )
    }
}

const _: () = {
    let mut index = 0;
    while index < Stat::ALL.len() {
        assert!(Stat::ALL[index] as usize == index, "the array index is the number");
        index += 1;
    }
};
