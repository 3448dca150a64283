//! The one way that every probe takes: fill in the header, start the user walk.
//!
//! A probe whose context is an interrupt begins with [`begin`], one that runs in the kernel on behalf of a task with [`begin_in_kernel`].
//!
//! The walk goes on in the program type's own chain ([`crate::unwind`]) and ends in [`crate::emit`].

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::{
    bpf_get_current_cgroup_id, bpf_get_smp_processor_id, bpf_ktime_get_ns,
    generated::{bpf_get_current_comm, bpf_probe_read_kernel},
};
use profiler_common::config::{COPY_ALWAYS, STACK_USER};
use profiler_common::sample::{COMM_LEN, NO_SYSCALL, RECORD_SAMPLE};
use profiler_common::stop::StopReason;
use profiler_common::unwind::Registers;

use crate::context::{UserSide, in_user_mode, interrupted_registers, saved_registers};
use crate::kernel::TaskIds;
use crate::maps::{SPACES, config};
use crate::scratch::{Scratch, put_user_frame};

/// What is due after [`begin`].
pub(crate) enum Next {
    /// Walk the user stack on.
    Walk,
    /// Send the record as it is.
    Emit,
}

/// Starts the record of a sample whose context carries the interrupted registers.
///
/// # Safety
///
/// `scratch` comes from [`crate::scratch::scratch`] on this CPU, in this program.
#[inline(always)]
pub(crate) unsafe fn begin<C: EbpfContext>(
    ctx: &C,
    scratch: *mut Scratch,
    ids: TaskIds,
    weight: u64,
) -> Next {
    let user_mode = in_user_mode(ctx);
    // SAFETY: `scratch` is this CPU's and nobody else writes it until the record is sent; the frames are still empty and lend their room.
    unsafe {
        fill_header(scratch, ids, weight, user_mode);
        if config!(stacks) & STACK_USER == 0 {
            return without_user_frames(scratch, StopReason::NoUserSide);
        }
        let registers = &raw mut (*scratch).walk.registers;
        let user_side = if user_mode {
            interrupted_registers(ctx, registers)
        } else {
            saved_registers(registers, (&raw mut (*scratch).frames).cast())
        };
        with_user_side(scratch, ids, user_side)
    }
}

/// Starts the record of the current task at a tracepoint inside the kernel.
///
/// # Safety
///
/// As for [`begin`].
#[inline(always)]
pub(crate) unsafe fn begin_in_kernel(scratch: *mut Scratch, ids: TaskIds) -> Next {
    // SAFETY: as in `begin`.
    unsafe {
        fill_header(scratch, ids, 0, false);
        if config!(stacks) & STACK_USER == 0 {
            return without_user_frames(scratch, StopReason::NoUserSide);
        }
        let registers = &raw mut (*scratch).walk.registers;
        let user_side = saved_registers(registers, (&raw mut (*scratch).frames).cast());
        with_user_side(scratch, ids, user_side)
    }
}

/// # Safety
///
/// As for [`begin`].
#[inline(always)]
unsafe fn with_user_side(scratch: *mut Scratch, ids: TaskIds, user_side: UserSide) -> Next {
    // SAFETY: valid by the caller.
    unsafe {
        match user_side {
            UserSide::Filled => first_frame(scratch, ids.pid),
            UserSide::Compat => {
                first_frame(scratch, ids.pid);
                (*scratch).header.stop = StopReason::CompatTask as u8;
                Next::Emit
            }
            UserSide::None => without_user_frames(scratch, StopReason::NoUserSide),
            UserSide::Unknown => without_user_frames(scratch, StopReason::NoUserRegisters),
        }
    }
}

/// # Safety
///
/// As for [`begin`].
#[inline(always)]
unsafe fn fill_header(scratch: *mut Scratch, ids: TaskIds, weight: u64, user_mode: bool) {
    // SAFETY: valid by the caller; written field by field, since a whole struct would be built on the BPF stack.
    unsafe {
        let header = &raw mut (*scratch).header;
        (*header).kind = RECORD_SAMPLE;
        (*header).cpu = bpf_get_smp_processor_id();
        (*header).time_ns = bpf_ktime_get_ns();
        (*header).weight = weight;
        (*header).cgroup_id = bpf_get_current_cgroup_id();
        (*header).pid = ids.pid;
        (*header).tid = ids.tid;
        (*header).user_frames = 0;
        (*header).kernel_frames = 0;
        (*header).in_user_mode = u8::from(user_mode);
        (*header).stack_bytes = 0;
        (*header).number = 0;
        (*header).syscall = NO_SYSCALL;
        (*header).events = 0;
        // Fails only for a buffer of length zero.
        bpf_get_current_comm((&raw mut (*header).comm).cast(), COMM_LEN as u32);
    }
}

/// # Safety
///
/// As for [`fill_header`].
#[inline(always)]
unsafe fn without_user_frames(scratch: *mut Scratch, stop: StopReason) -> Next {
    // SAFETY: valid by the caller.
    unsafe {
        (*scratch).header.stop = stop as u8;
        (*scratch).walk.frames = 0;
    }
    Next::Emit
}

/// # Safety
///
/// As for [`fill_header`].
#[inline(always)]
unsafe fn first_frame(scratch: *mut Scratch, pid: u32) -> Next {
    // SAFETY: valid by the caller; the value in the table is a plain integer.
    unsafe {
        put_user_frame(scratch, 0, (*scratch).walk.registers.ip);
        (*scratch).walk.frames = 1;
        if config!(copy_stacks) == COPY_ALWAYS {
            let registers = &raw const (*scratch).walk.registers;
            bpf_probe_read_kernel(
                (&raw mut (*scratch).walk.leaf).cast(),
                size_of::<Registers>() as u32,
                registers.cast(),
            );
        }
        (*scratch).walk.space = SPACES.get(pid).copied().unwrap_or(0);
        // An empty range: the first address has to be looked up.
        (*scratch).walk.mapping.start = 0;
        (*scratch).walk.mapping.end = 0;
        (*scratch).walk.signal = 0;
        // Stands if the kernel refuses the tail call; the walk overwrites it.
        (*scratch).header.stop = StopReason::ChainBroken as u8;
    }
    Next::Walk
}
