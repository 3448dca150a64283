//! Every depth and capacity of the kernel side, derived in one place and asserted together.

/// Kernel frames kept of one sample: the default of `kernel.perf_event_max_stack`, past which the kernel's own
/// walker stops.
pub const MAX_KERNEL_FRAMES: usize = 127;

/// User frames that one BPF program walks before it tail-calls itself. Sixteen keeps a program's verified
/// instruction count far below the limit of the oldest kernels that we support.
pub const FRAMES_PER_PROGRAM: usize = 16;

/// Programs in one walk. The kernel allows 33 tail calls (`MAX_TAIL_CALL_CNT`, include/linux/bpf.h); staying below
/// leaves room for the entry program and for chains that are entered from another one.
pub const MAX_WALK_PROGRAMS: usize = 30;

/// User frames kept of one sample; a deeper stack keeps its leaf side and ends in a marker.
pub const MAX_USER_FRAMES: usize = FRAMES_PER_PROGRAM * MAX_WALK_PROGRAMS;

/// Bytes of stack in one record of a sample whose walk met a table that was not loaded, so that user space can finish
/// it: six pages, about what fits beside the frames in a per-CPU value. Nine of ten stacks of C and C++ programs are
/// smaller as a whole.
pub const STACK_COPY_BYTES: usize = STACK_COPY_PAGES * STACK_PAGE_BYTES;

/// Records over which the copy of one stack may go: 96 KiB, which a compiler's deepest recursions need.
pub const STACK_COPY_RECORDS: usize = 4;

/// Pages of one record.
pub const STACK_COPY_PAGES: usize = 6;

/// A piece of stack that is readable as a whole or not at all: the smallest page size of both architectures.
pub const STACK_PAGE_BYTES: usize = 4096;

/// Chains of programs that walk stacks. A program of one chain may interrupt one of another, so each has memory of its own.
pub const CHAINS: u32 = 5;
/// Walks of CPU samples: a timer's interrupt or, with a hardware counter, a non-maskable one.
pub const CHAIN_CPU: u32 = 0;
/// Walks of threads that leave their CPU.
pub const CHAIN_SWITCH: u32 = 1;
/// Walks of threads that wake another one.
pub const CHAIN_WAKE: u32 = 2;
/// Walks of threads that return from a system call.
pub const CHAIN_CALL: u32 = 3;
/// Walks of page faults, of calls that map memory and of calls of an allocator: no two of them interrupt each other.
pub const CHAIN_HEAP: u32 = 4;

/// Least size of the ring of a recording of memory, bytes: a program that fills its memory sends sixteen thousand events in the tenth of a
/// second before the agent can ask for fewer.
pub const MEMORY_RING_BYTES: u32 = 4 << 20;

/// Threads that are inside an allocator, or were: one entry each.
pub const MAX_HEAP_THREADS: u32 = 16_384;
/// Distinct stacks that memory is allocated by.
pub const MAX_HEAP_SUMS: u32 = 32_768;
/// Distinct stacks whose blocks are resized.
pub const MAX_CHAIN_SUMS: u32 = 4096;
/// Blocks that are followed until they are freed.
pub const MAX_BLOCKS: u32 = 131_072;

/// Threads whose waits are followed at the same time.
pub const MAX_WAITING_THREADS: u32 = 16_384;

/// Places for waits that pass, a power of two: two threads whose numbers are that far apart share one, and the second to wait there is followed
/// instead.
pub const MAX_PASSING: u32 = 8_192;

/// Sums of waits between two looks of the agent, which empties the table at least once a second.
pub const MAX_WAITS: u32 = 16_384;

/// Places at which waits begin, told apart by a hash: a power of two. Two that share an entry share their mean.
pub const MAX_WAIT_PLACES: u32 = 16_384;

/// Stacks of waits that a program remembers to have sent: a power of two. One that is forgotten is sent again.
pub const MAX_STACKS_SENT: u32 = 32_768;

/// Threads whose turns on a CPU are followed at the same time.
pub const MAX_TURNS: u32 = 16_384;

/// Processes whose turns are added up.
pub const MAX_TURN_SUMS: u32 = 8_192;

/// Buckets of their histograms that are in use: about forty for each measure of a busy process.
pub const MAX_TURN_BUCKETS: u32 = 65_536;

/// Frames in one record.
pub const MAX_FRAMES: usize = MAX_USER_FRAMES + MAX_KERNEL_FRAMES;

/// Processes that one recording can name as targets, children included. A build that forks more at the same time
/// has the rest counted as dropped.
pub const MAX_TARGETS: u32 = 16_384;

/// Ticks of the sampling timer that one sample may stand for. A CPU that stalls (a hypervisor that runs somebody else, a long section
/// with interrupts off) takes its next sample late; up to a second at 99 Hz is accounted to what it interrupts.
pub const MAX_TICKS_PER_SAMPLE: u64 = 100;

/// Levels of nested PID namespaces: `MAX_PID_NS_LEVEL`, include/linux/pid_namespace.h.
pub const MAX_PID_NAMESPACE_LEVEL: usize = 32;

const _: () = {
    assert!(MAX_USER_FRAMES >= 256, "the promise is at least 256 user frames");
    assert!(MAX_WALK_PROGRAMS < 33, "the kernel stops a chain of 33 tail calls");
    // The record is built in a per-CPU array, whose values the kernel limits to PCPU_MIN_UNIT_SIZE (32 KiB).
    let walk = 2 * crate::unwind::REGISTERS_BYTES + 128;
    assert!(size_of::<crate::sample::SampleHeader>() + MAX_FRAMES * 8 + STACK_COPY_BYTES + walk < 32 * 1024);
};
