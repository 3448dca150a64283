//! Tries what profiling will do, in its smallest form, and undoes it at once.
//!
//! Settings and capabilities predict; only the kernel decides (seccomp, security modules, lockdown, distribution
//! patches). Each function makes one system call and closes the descriptor that it got; nothing is attached and
//! nothing stays. The structures are the first versions of the kernel's, which every later kernel accepts.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

use super::features::online_cpus;

/// `BPF_MAP_CREATE` and `BPF_PROG_LOAD` in `enum bpf_cmd` (`include/uapi/linux/bpf.h`).
const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_PROG_LOAD: libc::c_long = 5;
/// `enum bpf_map_type`.
const BPF_MAP_TYPE_RINGBUF: u32 = 27;
/// `enum bpf_prog_type`.
const BPF_PROG_TYPE_PERF_EVENT: u32 = 7;

/// `enum perf_type_id` and the two events tried (`include/uapi/linux/perf_event.h`).
const PERF_TYPE_HARDWARE: u32 = 0;
const PERF_TYPE_SOFTWARE: u32 = 1;
const PERF_COUNT_HW_CPU_CYCLES: u64 = 0;
const PERF_COUNT_SW_CPU_CLOCK: u64 = 0;
/// `PERF_FLAG_FD_CLOEXEC`.
const PERF_FLAG_FD_CLOEXEC: libc::c_ulong = 1 << 3;
/// Bit 0 of the attribute flags: the event does not start by itself.
const PERF_ATTR_DISABLED: u64 = 1;
/// Bits 5 and 6: leave out the kernel and the hypervisor.
const PERF_ATTR_USER_ONLY: u64 = 1 << 5 | 1 << 6;

/// `struct perf_event_attr` up to `PERF_ATTR_SIZE_VER0`.
#[repr(C)]
#[derive(Default)]
struct PerfEventAttr {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_events: u32,
    bp_type: u32,
    config1: u64,
}

const _: () = assert!(size_of::<PerfEventAttr>() == 64);

/// The members of `union bpf_attr` for `BPF_MAP_CREATE` that a ring buffer needs.
#[repr(C)]
#[derive(Default)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
}

/// The members of `union bpf_attr` for `BPF_PROG_LOAD` that the smallest program needs.
#[repr(C)]
#[derive(Default)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
}

/// Which perf event to try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The software clock that drives sampling by default; exists on every machine.
    CpuClock,
    /// The processor's cycle counter; absent on most virtual machines.
    Cycles,
}

/// What a perf event is opened on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Everything that runs on the first online processor, kernel included: needs the rights that profiling needs.
    OneCpu,
    /// User code of this process only: allowed to everyone at `perf_event_paranoid` 2.
    OwnUserCode,
}

/// Opens a disabled perf event and closes it.
///
/// # Errors
/// What `perf_event_open` said: `EACCES` or `EPERM` for lack of rights, `ENOENT` or `EOPNOTSUPP` when there is no
/// such event on this machine, `ENOSYS` without perf events.
pub fn perf_event(event: Event, scope: Scope) -> io::Result<()> {
    let (kind, config) = match event {
        Event::CpuClock => (PERF_TYPE_SOFTWARE, PERF_COUNT_SW_CPU_CLOCK),
        Event::Cycles => (PERF_TYPE_HARDWARE, PERF_COUNT_HW_CPU_CYCLES),
    };
    let (pid, cpu, restrict): (libc::pid_t, libc::c_int, u64) = match scope {
        Scope::OneCpu => (-1, online_cpus().iter().next().unwrap_or(0) as libc::c_int, 0),
        Scope::OwnUserCode => (0, -1, PERF_ATTR_USER_ONLY),
    };
    let attr = PerfEventAttr {
        kind,
        size: size_of::<PerfEventAttr>() as u32,
        config,
        // A second between samples, should the event ever start.
        sample_period: 1_000_000_000,
        flags: PERF_ATTR_DISABLED | restrict,
        ..PerfEventAttr::default()
    };
    let no_group: libc::c_int = -1;
    // SAFETY: `attr` is a complete first-version perf_event_attr with its size set, and outlives the call.
    let fd = unsafe {
        libc::syscall(libc::SYS_perf_event_open, &raw const attr, pid, cpu, no_group, PERF_FLAG_FD_CLOEXEC)
    };
    close(fd)
}

/// Creates a BPF ring buffer of one page and closes it.
///
/// # Errors
/// What `bpf` said: `EPERM` for lack of rights, `EINVAL` before 5.8, `ENOSYS` without BPF.
pub fn ring_buffer() -> io::Result<()> {
    // SAFETY: sysconf has no preconditions.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    let attr = MapCreate {
        map_type: BPF_MAP_TYPE_RINGBUF,
        max_entries: u32::try_from(page).unwrap_or(4096),
        ..MapCreate::default()
    };
    // SAFETY: `attr` outlives the call and its length is passed along.
    close(unsafe { libc::syscall(libc::SYS_bpf, BPF_MAP_CREATE, &raw const attr, size_of::<MapCreate>()) })
}

/// Loads the smallest perf-event program (`r0 = 0; exit`) and closes it.
///
/// # Errors
/// What `bpf` said: `EPERM` for lack of rights, `ENOSYS` without BPF.
pub fn bpf_program() -> io::Result<()> {
    // struct bpf_insn, little-endian fields: opcode, registers, offset, immediate.
    let program: [u64; 2] = [
        0xb7, // BPF_ALU64 | BPF_MOV | BPF_K: r0 = 0
        0x95, // BPF_JMP | BPF_EXIT
    ];
    let license = c"GPL";
    let attr = ProgLoad {
        prog_type: BPF_PROG_TYPE_PERF_EVENT,
        insn_cnt: program.len() as u32,
        insns: program.as_ptr() as u64,
        license: license.as_ptr() as u64,
        ..ProgLoad::default()
    };
    // SAFETY: `attr`, the program and the licence string outlive the call, and the lengths are theirs.
    close(unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw const attr, size_of::<ProgLoad>()) })
}

/// Takes the descriptor that a system call returned, or its error, and closes it.
fn close(result: libc::c_long) -> io::Result<()> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given us this descriptor and nobody else knows it.
    drop(unsafe { OwnedFd::from_raw_fd(result as libc::c_int) });
    Ok(())
}

/// The name of an error number, such as `EACCES`; the number in words for the rarer ones.
pub fn errno_name(errno: i32) -> String {
    let name = match errno {
        libc::EPERM => "EPERM",
        libc::ENOENT => "ENOENT",
        libc::ESRCH => "ESRCH",
        libc::E2BIG => "E2BIG",
        libc::ENOMEM => "ENOMEM",
        libc::EACCES => "EACCES",
        libc::EBUSY => "EBUSY",
        libc::ENODEV => "ENODEV",
        libc::EINVAL => "EINVAL",
        libc::EMFILE => "EMFILE",
        libc::ENOSPC => "ENOSPC",
        libc::ENOSYS => "ENOSYS",
        libc::EOPNOTSUPP => "EOPNOTSUPP",
        _ => return format!("errno {errno}"),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tries_leave_no_descriptor_open() {
        let open = || std::fs::read_dir("/proc/self/fd").unwrap().flatten().count();
        // Other tests of this process open files too, so one quiet moment out of many is enough.
        assert!((0..100).any(|_| {
            let before = open();
            let _ = (perf_event(Event::CpuClock, Scope::OneCpu), ring_buffer(), bpf_program());
            open() == before
        }));
    }

    #[test]
    fn errors_have_their_names() {
        assert_eq!(errno_name(libc::EACCES), "EACCES");
        assert_eq!(errno_name(9999), "errno 9999");
    }
}
