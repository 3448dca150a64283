//! What the BPF programs are told when they load: one frozen, read-only global.
//!
//! The verifier knows the values of a frozen map, so a branch that a recording does not need (the other
//! architecture's registers, a filter that is off, a helper that this kernel lacks) is never even verified.

/// x86_64, System V ABI.
pub const ARCH_X86_64: u32 = 1;
/// AArch64, AAPCS64.
pub const ARCH_AARCH64: u32 = 2;

/// Sample only processes in the target table.
pub const FILTER_PROCESS: u32 = 1 << 0;
/// Sample only threads in the thread table.
pub const FILTER_THREAD: u32 = 1 << 1;
/// Sample only tasks below [`Config::cgroup_id`].
pub const FILTER_CGROUP: u32 = 1 << 2;

/// Collect kernel frames.
pub const STACK_KERNEL: u32 = 1 << 0;
/// Collect user frames.
pub const STACK_USER: u32 = 1 << 1;

/// Sample this process and follow its forks.
pub const TARGET_SAMPLED: u32 = 1;
/// Do not sample this process, only its children to come: how a command is followed from its fork on.
pub const TARGET_PARENT_ONLY: u32 = 2;

/// Copy the stack of a sample whose walk meets a table that is not loaded.
pub const COPY_WHEN_COLD: u32 = 0;
/// Copy the stack of every sample, with the registers of its leaf: to compare the walk with others.
pub const COPY_ALWAYS: u32 = 1;

/// Byte offsets of kernel structure members, from the running kernel's BTF. Checked against our own process before
/// a recording trusts them.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KernelOffsets {
    /// `task_struct.pid`
    pub task_pid: u32,
    /// `task_struct.tgid`
    pub task_tgid: u32,
    /// `task_struct.mm`
    pub task_mm: u32,
    /// `task_struct.thread_pid`
    pub task_thread_pid: u32,
    /// `task_struct.group_leader`
    pub task_group_leader: u32,
    /// `task_struct.signal`
    pub task_signal: u32,
    /// `signal_struct.live`
    pub signal_live: u32,
    /// `pid.level`
    pub pid_level: u32,
    /// `pid.numbers`
    pub pid_numbers: u32,
    /// `upid.nr`
    pub upid_nr: u32,
    /// `upid.ns`
    pub upid_ns: u32,
    /// Size of `struct upid`.
    pub upid_size: u32,
    /// `pid_namespace.ns.inum`
    pub namespace_inum: u32,
    /// Zero.
    pub padding: u32,
}

/// The global that every program reads.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Config {
    /// One of the `ARCH_` numbers.
    pub arch: u32,
    /// `FILTER_` bits. None set: everything that runs.
    pub filter: u32,
    /// `STACK_` bits.
    pub stacks: u32,
    /// One when [`Config::offsets`] holds this kernel's offsets (it has BTF).
    pub has_offsets: u32,
    /// One when a new process of a target becomes a target.
    pub follow_forks: u32,
    /// Process ID (agent's namespace) that is never sampled: the agent; zero for none.
    pub excluded_pid: u32,
    /// Inode number of the agent's PID namespace, or zero when it is the initial one and no translation is due.
    pub pid_namespace_inum: u32,
    /// Depth of [`Config::cgroup_id`] below the root of the hierarchy.
    pub cgroup_level: u32,
    /// Control group (v2) to sample.
    pub cgroup_id: u64,
    /// Nanoseconds between two ticks of the sampling timer; zero when a hardware counter samples.
    pub tick_ns: u64,
    /// One when the idle task is sampled too.
    pub include_idle: u32,
    /// One when a sample stands for the ticks missed before it. Zero where the kernel accounts what a hypervisor steals: there a gap is
    /// mostly stolen time, which is nobody's CPU time.
    pub carry_late_ticks: u32,
    /// One of the `COPY_` numbers.
    pub copy_stacks: u32,
    /// Zero.
    pub padding: u32,
    /// Bits of a user code pointer that are address, for AArch64 pointer authentication; all ones elsewhere.
    pub code_mask: u64,
    /// Kernel structure offsets.
    pub offsets: KernelOffsets,
    /// What the programs at context switches are told.
    pub switch: crate::off_cpu::SwitchConfig,
    /// What the program at the end of system calls that map memory is told.
    pub mappings: crate::memory::MappingCalls,
}

/// What the self-check program found for the process that ran it, to compare with what that process knows of itself.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SelfCheck {
    /// One when the program ran to its end.
    pub ran: u32,
    /// Thread ID read through [`KernelOffsets::task_pid`].
    pub task_pid: u32,
    /// Process ID read through [`KernelOffsets::task_tgid`].
    pub task_tgid: u32,
    /// Process ID in the agent's namespace, by the way that samples take.
    pub own_pid: u32,
    /// Thread ID in the agent's namespace, by the way that samples take.
    pub own_tid: u32,
    /// Living threads of the process, read through [`KernelOffsets::signal_live`].
    pub live_threads: u32,
    /// One when `task_struct.mm` was not null.
    pub has_mm: u32,
    /// Zero.
    pub padding: u32,
    /// What `bpf_get_current_pid_tgid` says.
    pub pid_tgid: u64,
}

const _: () = {
    assert!(size_of::<KernelOffsets>() == 56);
    assert!(size_of::<Config>() == 32 + 40 + 56 + 48 + 16);
    assert!(size_of::<SelfCheck>() == 40);
};

/// The values are plain integers without padding, so any bytes are valid and all bytes are initialized.
#[cfg(feature = "user")]
mod pod {
    // SAFETY: repr(C), only integers, sizes asserted above (no padding).
    unsafe impl aya::Pod for super::Config {}
    // SAFETY: repr(C), only integers, sizes asserted above (no padding).
    unsafe impl aya::Pod for super::SelfCheck {}
}
