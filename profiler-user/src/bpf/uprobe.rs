//! Probes in user code: perf events of the kernel's uprobe unit, each for one process, with a program linked to it.
//!
//! Everything is a descriptor: closing it, or dying, takes the breakpoint out of the process. Definitions in tracefs, which would stay behind,
//! are never made.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use aya_obj::generated::{bpf_attach_type, bpf_attr, bpf_cmd, perf_event_attr};

/// The kernel's uprobe unit (`perf_uprobe`, kernel/events/core.c, since Linux 4.17).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UprobeUnit {
    kind: u32,
    return_bit: u32,
}

/// Where in a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// At the instruction itself.
    Entry,
    /// When the function returns that begins, with its stack, at the instruction.
    Return,
}

impl UprobeUnit {
    /// Reads how the unit is addressed.
    ///
    /// # Errors
    ///
    /// The kernel has none, or sysfs is not mounted.
    pub fn find() -> io::Result<Self> {
        const FOLDER: &str = "/sys/bus/event_source/devices/uprobe";
        let read = |name: &str| fs::read_to_string(format!("{FOLDER}/{name}"));
        let wrong = || io::Error::new(io::ErrorKind::InvalidData, format!("{FOLDER} says something unknown"));
        let kind = read("type")?.trim().parse().map_err(|_| wrong())?;
        let format = read("format/retprobe")?;
        let bit = format.trim().strip_prefix("config:").ok_or_else(wrong)?;
        let return_bit = bit.parse().ok().filter(|bit| *bit < 64).ok_or_else(wrong)?;
        Ok(Self { kind, return_bit })
    }
}

/// A probe in a process. Dropping it takes it out.
#[derive(Debug)]
pub struct Uprobe {
    /// Closed before the event, or the program would be called with nothing behind it.
    _link: OwnedFd,
    _event: OwnedFd,
}

impl Uprobe {
    /// Puts a probe at an offset of an open file, for one process with all its threads, and links a program of type `kprobe` to it.
    ///
    /// # Errors
    ///
    /// What `perf_event_open(2)` and `bpf(2)` report: `EINVAL` where no instruction begins or one cannot be probed, `ESRCH` for a process that has
    /// ended.
    pub fn attach(
        unit: UprobeUnit,
        program: BorrowedFd<'_>,
        pid: u32,
        file: BorrowedFd<'_>,
        file_offset: u64,
        when: When,
        cookie: u64,
    ) -> io::Result<Self> {
        let path = CString::new(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
        // SAFETY: the structure holds only integers and unions of integers; all zeroes is its documented default.
        let mut attr: perf_event_attr = unsafe { std::mem::zeroed() };
        attr.size = size_of::<perf_event_attr>() as u32;
        attr.type_ = unit.kind;
        attr.config = match when {
            When::Entry => 0,
            When::Return => 1 << unit.return_bit,
        };
        attr.__bindgen_anon_3.config1 = path.as_ptr() as u64;
        attr.__bindgen_anon_4.config2 = file_offset;
        let event = open(&attr, pid)?;
        let link = link(program, event.as_fd(), cookie)?;
        Ok(Self { _link: link, _event: event })
    }
}

fn open(attr: &perf_event_attr, pid: u32) -> io::Result<OwnedFd> {
    const ANY_CPU: libc::c_int = -1;
    const NO_GROUP: libc::c_int = -1;
    const FLAG_FD_CLOEXEC: libc::c_ulong = 8;
    // SAFETY: `attr` and the path in it live through the call.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            std::ptr::from_ref(attr),
            pid as libc::pid_t,
            ANY_CPU,
            NO_GROUP,
            FLAG_FD_CLOEXEC,
        )
    };
    owned(fd)
}

/// Links a program to an event (`BPF_LINK_CREATE` for perf events, since Linux 5.15).
fn link(program: BorrowedFd<'_>, event: BorrowedFd<'_>, cookie: u64) -> io::Result<OwnedFd> {
    // SAFETY: the union holds only integers; all zeroes is what the kernel wants of fields that are not used.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    attr.link_create.__bindgen_anon_1.prog_fd = program.as_raw_fd() as u32;
    attr.link_create.__bindgen_anon_2.target_fd = event.as_raw_fd() as u32;
    attr.link_create.attach_type = bpf_attach_type::BPF_PERF_EVENT as u32;
    attr.link_create.__bindgen_anon_3.perf_event.bpf_cookie = cookie;
    // SAFETY: `attr` is valid for reads of its size.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            bpf_cmd::BPF_LINK_CREATE as libc::c_long,
            &raw mut attr,
            size_of::<bpf_attr>(),
        )
    };
    owned(fd)
}

fn owned(fd: libc::c_long) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just returned this descriptor and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) })
}
