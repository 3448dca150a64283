//! All maps, in the order in which a sample meets them: who writes, who reads, what bounds it.

use aya_ebpf::bindings::BPF_F_MMAPABLE;
use aya_ebpf::btf_maps;
use aya_ebpf::macros::{btf_map, map};
use aya_ebpf::maps::{Array, HashMap, LpmTrie, PerCpuArray, ProgramArray, RingBuf};
use profiler_common::config::{Config, SelfCheck};
use profiler_common::heap::{
    ALL_SIZES, Block, BlockKey, ChainSum, HeapControl, HeapSum, HeapThread, RATES, Rate, SizeSum,
};
use profiler_common::limits::{
    CHAINS, MAX_BLOCKS, MAX_CHAIN_SUMS, MAX_HEAP_SUMS, MAX_HEAP_THREADS, MAX_PASSING, MAX_STACKS_SENT,
    MAX_TARGETS, MAX_TURN_BUCKETS, MAX_TURN_SUMS, MAX_TURNS, MAX_WAIT_PLACES, MAX_WAITING_THREADS, MAX_WAITS,
};
use profiler_common::mapping::{
    MAX_PAGES, MAX_RULES, MAX_SLABS, MAX_SPACES, MAX_TRIE_ENTRIES, Mapping, MappingKey, PageRef, SLAB_ROWS,
};
use profiler_common::memory::MemoryControl;
use profiler_common::off_cpu::{Passing, SwitchControl, Thread, WaitKey, WaitSum};
use profiler_common::sched::{CpuBuckets, Turn, TurnBucket, TurnSum};
use profiler_common::stats::Stat;
use profiler_common::syscall::{
    Cell, CellKey, MAX_CELLS, MAX_THREADS, SyscallConfig, SyscallControl, ThreadCalls,
};
use profiler_common::unwind::Rule;

use crate::scratch::Scratch;

/// Written by the loader before the programs load, then frozen: the verifier knows its values.
#[unsafe(no_mangle)]
static CONFIG: Config = Config {
    arch: 0,
    filter: 0,
    stacks: 0,
    has_offsets: 0,
    follow_forks: 0,
    excluded_pid: 0,
    pid_namespace_inum: 0,
    cgroup_level: 0,
    cgroup_id: 0,
    tick_ns: 0,
    include_idle: 0,
    carry_late_ticks: 0,
    copy_stacks: 0,
    padding: 0,
    code_mask: 0,
    offsets: profiler_common::config::KernelOffsets {
        task_pid: 0,
        task_tgid: 0,
        task_mm: 0,
        task_thread_pid: 0,
        task_group_leader: 0,
        task_signal: 0,
        signal_live: 0,
        pid_level: 0,
        pid_numbers: 0,
        upid_nr: 0,
        upid_ns: 0,
        upid_size: 0,
        namespace_inum: 0,
        padding: 0,
    },
    switch: profiler_common::off_cpu::SwitchConfig {
        shortest_ns: 0,
        longest_ns: 0,
        states: 0,
        wakers: 0,
        has_state_argument: 0,
        exact: 0,
        task_state: 0,
        runs: 0,
        task_waits: 0,
        task_preemptions: 0,
    },
    mappings: profiler_common::memory::MappingCalls { mmap: 0, munmap: 0, mremap: 0, brk: 0 },
};

/// One field of [`CONFIG`], read so that the compiler cannot fold the zero that stands there at build time.
macro_rules! config {
    ($($field:ident).+) => {{
        #[allow(unused_unsafe, reason = "the macro also stands inside unsafe blocks")]
        // SAFETY: the global is valid for reads; volatile only keeps the load.
        unsafe { core::ptr::read_volatile(&raw const (*$crate::maps::config_ptr()).$($field).+) }
    }};
}
pub(crate) use config;

/// What the system call programs are told; frozen like [`CONFIG`].
#[unsafe(no_mangle)]
static SYSCALL_CONFIG: SyscallConfig = SyscallConfig { owner: 0, status_offset: 0 };

/// One field of [`SYSCALL_CONFIG`], read like those of [`CONFIG`].
macro_rules! syscall_config {
    ($field:ident) => {{
        #[allow(unused_unsafe, reason = "as for `config`")]
        // SAFETY: the global is valid for reads; volatile only keeps the load.
        unsafe {
            core::ptr::read_volatile(&raw const (*$crate::maps::syscall_config_ptr()).$field)
        }
    }};
}
pub(crate) use syscall_config;

#[inline(always)]
pub(crate) fn syscall_config_ptr() -> *const SyscallConfig {
    &raw const SYSCALL_CONFIG
}

#[inline(always)]
pub(crate) fn config_ptr() -> *const Config {
    &raw const CONFIG
}

/// Processes in scope, by process ID in the agent's namespace; the value is a `TARGET_` number. Written by the
/// agent and by [`crate::probe::lifecycle`]; looked up by samples. Full: counted as [`Stat::TargetsFull`].
#[map]
pub(crate) static TARGETS: HashMap<u32, u32> = HashMap::with_max_entries(MAX_TARGETS, 0);

/// Threads in scope, by thread ID. Written by the agent, looked up by samples.
#[map]
pub(crate) static THREADS: HashMap<u32, u32> = HashMap::with_max_entries(1024, 0);

/// The record under construction. One per CPU and chain; a program of one chain never interrupts itself on a CPU. The loader leaves out
/// those of chains that a recording does not need.
#[map]
pub(crate) static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(CHAINS, 0);

/// Each CPU's last tick of the sampling timer.
#[repr(C)]
pub(crate) struct Tick {
    /// When it was due, nanoseconds of the monotonic clock, as far as ticks that came on time tell; zero before the first.
    pub(crate) grid_ns: u64,
    /// Distance to the tick before, as the timer was set then.
    pub(crate) tick_ns: u64,
    /// One when it interrupted the idle task.
    pub(crate) idle: u64,
}

/// Distance of two ticks of the sampling timer, nanoseconds. Written by the agent when it changes the timer; as long as it is zero, the
/// distance is the one of [`CONFIG`].
#[map]
pub(crate) static TICK_NS: Array<u64> = Array::with_max_entries(1, 0);

/// The last tick. Written and read by the sampler of its CPU alone.
#[map]
pub(crate) static LAST_TICK: PerCpuArray<Tick> = PerCpuArray::with_max_entries(1, 0);

/// The walk of CPU samples. Filled by the loader; the chain's length is bounded by `MAX_WALK_PROGRAMS`.
#[map]
pub(crate) static WALK_CPU: ProgramArray = ProgramArray::with_max_entries(1, 0);

/// The walk of threads that leave their CPU. Filled by the loader.
#[map]
pub(crate) static WALK_SWITCH: ProgramArray = ProgramArray::with_max_entries(1, 0);

/// The walk of threads that return from a system call. Filled by the loader.
#[map]
pub(crate) static WALK_RETURN: ProgramArray = ProgramArray::with_max_entries(1, 0);

/// The walk of threads that wake another one. Filled by the loader.
#[map]
pub(crate) static WALK_WAKE: ProgramArray = ProgramArray::with_max_entries(1, 0);

/// Threads in scope that were seen to wait, by the kernel's own thread ID. Written by [`crate::probe::off_cpu`] and, for threads that waited
/// before the recording began, by the agent; an entry goes with its thread. Full: counted as [`Stat::WaitingThreadsFull`].
#[map]
pub(crate) static OFF_CPU_THREADS: HashMap<u32, Thread> = HashMap::with_max_entries(MAX_WAITING_THREADS, 0);

/// Waits that pass. Written by [`crate::probe::off_cpu`], read by the agent, which has it mapped, at the end of a turn and of a window. The loader makes
/// it small where waits are not recorded.
#[map]
pub(crate) static PASSING: Array<Passing> = Array::with_max_entries(MAX_PASSING, BPF_F_MMAPABLE);

/// Sums of waits. Written by [`crate::probe::off_cpu`], emptied by the agent one epoch after the other. Full: counted as
/// [`Stat::WaitsFull`].
#[map]
pub(crate) static WAITS: HashMap<WaitKey, WaitSum> = HashMap::with_max_entries(MAX_WAITS, 0);

/// Numbers of stacks that were sent, at one of two places given by the number itself. A number that another one displaced is sent again;
/// two CPUs that send the same one at the same time do no harm either.
#[map]
pub(crate) static STACKS_SENT: Array<u64> = Array::with_max_entries(MAX_STACKS_SENT, 0);

/// How long the waits that begin at one place (a thread and the instruction that entered the kernel) usually are, nanoseconds. Written by
/// [`crate::probe::off_cpu`]; an estimate, so a count lost between two CPUs does no harm.
#[map]
pub(crate) static USUAL_WAITS: Array<u64> = Array::with_max_entries(MAX_WAIT_PLACES, 0);

/// What the agent tells the switch programs while they run.
#[map]
pub(crate) static SWITCH_CONTROL: Array<SwitchControl> = Array::with_max_entries(1, 0);

/// Threads between two switches, by the kernel's own thread ID. Written by [`crate::probe::sched`]; an entry goes with its thread. Full:
/// counted as [`Stat::TurnsFull`].
#[map]
pub(crate) static TURNS: HashMap<u32, Turn> = HashMap::with_max_entries(MAX_TURNS, 0);

/// Turns of processes, by process ID in the agent's namespace. Written by [`crate::probe::sched`], read by the agent at the end.
/// Full: counted as [`Stat::TurnSumsFull`].
#[map]
pub(crate) static TURN_SUMS: HashMap<u32, TurnSum> = HashMap::with_max_entries(MAX_TURN_SUMS, 0);

/// Histograms of processes, a bucket an entry. As above; full: counted as [`Stat::TurnBucketsFull`].
#[map]
pub(crate) static TURN_BUCKETS: HashMap<TurnBucket, u64> = HashMap::with_max_entries(MAX_TURN_BUCKETS, 0);

/// Turns of each CPU.
#[map]
pub(crate) static CPU_TURNS: PerCpuArray<TurnSum> = PerCpuArray::with_max_entries(1, 0);

/// Histograms of each CPU.
#[map]
pub(crate) static CPU_TURN_BUCKETS: PerCpuArray<CpuBuckets> = PerCpuArray::with_max_entries(1, 0);

/// What one CPU has spent lately. Written by the switch programs of that CPU alone.
#[repr(C)]
pub(crate) struct Pace {
    /// Beginning of the brake's window.
    pub(crate) window_ns: u64,
    /// Stacks taken in it.
    pub(crate) stacks: u64,
    /// Stack copies that may be sent.
    pub(crate) copies: u64,
    /// When the last copy was granted back.
    pub(crate) granted_ns: u64,
    /// Up to when the time of threads that run here is added up.
    pub(crate) ran_until_ns: u64,
}

/// The pace of each CPU.
#[map]
pub(crate) static PACE: PerCpuArray<Pace> = PerCpuArray::with_max_entries(1, 0);

/// The walk of page faults. Filled by the loader.
#[map]
pub(crate) static WALK_FAULT: ProgramArray = ProgramArray::with_max_entries(1, 0);

/// The walk of calls that map memory. Filled by the loader.
#[map]
pub(crate) static WALK_CALL: ProgramArray = ProgramArray::with_max_entries(1, 0);

/// The walk of allocations. Filled by the loader.
#[map]
pub(crate) static WALK_HEAP: ProgramArray = ProgramArray::with_max_entries(1, 0);

/// Threads that are, or were, inside an allocator, by the kernel's own thread ID. Written by [`crate::probe::heap`], each entry by its thread
/// alone. Full: counted as [`Stat::HeapThreadsFull`].
#[map]
pub(crate) static HEAP_THREADS: HashMap<u32, HeapThread> = HashMap::with_max_entries(MAX_HEAP_THREADS, 0);

/// Sums of allocations by the number of their stack. Written by [`crate::probe::heap`], read by the agent. Full: counted as
/// [`Stat::HeapSumsFull`].
#[map]
pub(crate) static HEAP_SUMS: HashMap<u64, HeapSum> = HashMap::with_max_entries(MAX_HEAP_SUMS, 0);

/// Blocks that are followed. Written by [`crate::probe::heap`], read by the agent. Full: counted as [`Stat::BlocksFull`].
#[map]
pub(crate) static BLOCKS: HashMap<BlockKey, Block> = HashMap::with_max_entries(MAX_BLOCKS, 0);

/// Sums of resized blocks by the number of the stack that asked for the first one. Written by [`crate::probe::heap`], read by the agent. Full:
/// counted as [`Stat::ChainSumsFull`].
#[map]
pub(crate) static CHAIN_SUMS: HashMap<u64, ChainSum> = HashMap::with_max_entries(MAX_CHAIN_SUMS, 0);

/// How calls of each size are taken. Written by the agent.
#[map]
pub(crate) static HEAP_RATES: Array<Rate> = Array::with_max_entries(RATES, 0);

/// Calls and bytes of each size, and behind them of all sizes. Written by [`crate::probe::heap`], read by the agent.
#[map]
pub(crate) static HEAP_SIZES: PerCpuArray<SizeSum> = PerCpuArray::with_max_entries(ALL_SIZES + 1, 0);

/// What the agent tells the programs of an allocator while they run.
#[map]
pub(crate) static HEAP_CONTROL: Array<HeapControl> = Array::with_max_entries(1, 0);

/// What the agent tells the programs of memory while they run.
#[map]
pub(crate) static MEMORY_CONTROL: Array<MemoryControl> = Array::with_max_entries(1, 0);

/// Number of the address space of a process, by process ID in the agent's namespace. Written by the agent and by
/// [`crate::probe::lifecycle`] (a child inherits, an exec and an exit remove); looked up by walks. Absent: the agent
/// finishes the walk from a copy of the stack.
#[map]
pub(crate) static SPACES: HashMap<u32, u32> = HashMap::with_max_entries(MAX_SPACES, 0);

/// Executable mappings by address space and address. Written by the agent, looked up by walks. A program that is
/// interrupted by a sampler never holds its lock, because only the agent's system calls write.
#[map]
pub(crate) static MAPPINGS: LpmTrie<MappingKey, Mapping> = LpmTrie::with_max_entries(MAX_TRIE_ENTRIES, 0);

/// The page directory: where the rows of each text page are. Written by the agent through its memory mapping, one word at
/// a time.
#[map]
pub(crate) static PAGES: Array<PageRef> = Array::with_max_entries(MAX_PAGES, BPF_F_MMAPABLE);

/// A slab of rows.
pub(crate) type Slab = [u32; SLAB_ROWS];

/// The row pool: the agent adds slabs as binaries are sampled, up to its limit, and fills them through memory mappings. A slab
/// stays for good; which of its rows are whose is said by the page directory alone.
#[btf_map]
pub(crate) static SLABS: btf_maps::ArrayOfMaps<
    btf_maps::Array<Slab, 1, { BPF_F_MMAPABLE as usize }>,
    { MAX_SLABS as usize },
> = btf_maps::ArrayOfMaps::new();

/// The distinct rules of all binaries. Written by the agent through its memory mapping; a rule's number never changes its
/// meaning.
#[map]
pub(crate) static RULES: Array<Rule> = Array::with_max_entries(MAX_RULES, BPF_F_MMAPABLE);

/// When to measure system calls. Written by the agent, read at each call.
#[map]
pub(crate) static SYSCALL_CONTROL: Array<SyscallControl> = Array::with_max_entries(1, 0);

/// Threads that make system calls, by thread ID in the initial PID namespace. Written by the thread itself, read by the agent, removed
/// when the thread ends. The loader makes it small where system calls are not recorded, here and below.
#[map]
pub(crate) static SYSCALL_THREADS: HashMap<u32, ThreadCalls> = HashMap::with_max_entries(MAX_THREADS, 0);

/// System calls by owner, call, CPU and time or errno. Written by that CPU alone; the agent removes the entries of owners that have
/// ended.
#[map]
pub(crate) static SYSCALL_CELLS: HashMap<CellKey, Cell> = HashMap::with_max_entries(MAX_CELLS, 0);

/// Records on their way to user space. The loader sets the size; full: counted as [`Stat::RingFull`].
#[map]
pub(crate) static RING: RingBuf = RingBuf::with_byte_size(512 * 1024, 0);

/// Counters by [`Stat`]. Written by all programs, read by the agent.
#[map]
pub(crate) static STATS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Stat::ALL.len() as u32, 0);

/// What [`crate::probe::self_check`] found; read once by the loader.
#[map]
pub(crate) static SELF_CHECK: Array<SelfCheck> = Array::with_max_entries(1, 0);
