//! The record that a BPF program sends for one sample: a header, then the user frames and the kernel frames.
//!
//! The record has a variable length: `header.user_frames + header.kernel_frames` words follow the header, leaf
//! first in each part. Addresses are raw; what they mean is decided in user space.

/// First word of every record in the ring, so that other kinds can follow.
pub const RECORD_SAMPLE: u32 = 1;

/// First word of a sample whose walk met a table that was not loaded. Behind the frames follow the
/// [`crate::unwind::Registers`] of the last frame and `header.stack_bytes` bytes of stack, from the registers' stack
/// pointer rounded down to [`crate::limits::STACK_PAGE_BYTES`] on.
pub const RECORD_COLD_SAMPLE: u32 = 2;

/// First word of a record that carries on the stack of the [`RECORD_COLD_SAMPLE`] with the same CPU and time: only `kind`,
/// `cpu`, `time_ns` and `stack_bytes` of its header have a meaning, and the stack follows at once.
pub const RECORD_STACK: u32 = 3;

/// Length of a task's name, `TASK_COMM_LEN` in include/linux/sched.h.
pub const COMM_LEN: usize = 16;

/// Header of a sample record. All integers are in the machine's byte order.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SampleHeader {
    /// [`RECORD_SAMPLE`] or [`RECORD_COLD_SAMPLE`].
    pub kind: u32,
    /// CPU that was sampled.
    pub cpu: u32,
    /// When, nanoseconds of `CLOCK_MONOTONIC`.
    pub time_ns: u64,
    /// What the sample stands for in the sampling event's unit: nanoseconds of `cpu-clock`, or cycles. Of a numbered stack the first
    /// argument of the system call in [`SampleHeader::syscall`]. Of an event of memory what [`crate::memory`] says.
    pub weight: u64,
    /// Control group (v2) of the task, as `bpf_get_current_cgroup_id` names it.
    pub cgroup_id: u64,
    /// Process ID in the agent's PID namespace; zero when the task has none there.
    pub pid: u32,
    /// Thread ID in the agent's PID namespace; zero when the task has none there.
    pub tid: u32,
    /// User frames that follow.
    pub user_frames: u16,
    /// Kernel frames that follow the user frames.
    pub kernel_frames: u16,
    /// Why the user part ends where it does: a [`crate::stop::StopReason`] as a number.
    pub stop: u8,
    /// One when the interrupted context was in user mode, zero when it was in the kernel.
    pub in_user_mode: u8,
    /// Bytes of stack that follow the registers; zero in a [`RECORD_SAMPLE`].
    pub stack_bytes: u16,
    /// Name of the thread, ended by a NUL.
    pub comm: [u8; COMM_LEN],
    /// Number of a stack that is sent once and referred to by sums ([`crate::off_cpu`]); zero for a sample that counts by itself.
    pub number: u64,
    /// System call that the thread is in, or [`NO_SYSCALL`]. Only in numbered stacks and in events of memory.
    pub syscall: u32,
    /// How many events of memory the sample stands for ([`crate::memory`]); zero for everything else.
    pub events: u32,
}

/// Not in a system call.
pub const NO_SYSCALL: u32 = u32::MAX;

/// Size of the header on the wire.
pub const SAMPLE_HEADER_BYTES: usize = 80;

const _: () = {
    assert!(size_of::<SampleHeader>() == SAMPLE_HEADER_BYTES);
    assert!(core::mem::offset_of!(SampleHeader, time_ns) == 8);
    assert!(core::mem::offset_of!(SampleHeader, pid) == 32);
    assert!(core::mem::offset_of!(SampleHeader, comm) == 48);
    assert!(core::mem::offset_of!(SampleHeader, number) == 64);
};
