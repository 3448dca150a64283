//! Probes in user code, each for one process: links of a program to many places where the kernel has them, else perf events of its uprobe unit.
//!
//! Everything is a descriptor: closing it, or dying, takes the breakpoints out of the process. Definitions in tracefs, which would stay behind,
//! are never made.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use aya_obj::generated::{BPF_F_UPROBE_MULTI_RETURN, bpf_attach_type, bpf_cmd, perf_event_attr};

use super::raw;

/// How this kernel takes probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probing {
    /// A link for many places (since Linux 6.6, for all threads of a process since 6.10): taken out at once.
    Links,
    /// A perf event for each place: taken out in a tenth of a second.
    Events(UprobeUnit),
}

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

/// Where a probe goes, and what its program is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Offset in the file.
    pub file_offset: u64,
    /// What `bpf_get_attach_cookie` returns there.
    pub cookie: u64,
}

/// Probes in a process. Dropping it takes them out.
#[derive(Debug)]
pub struct Uprobe {
    /// Closed before the event, or the program would be called with nothing behind it.
    _link: OwnedFd,
    _event: Option<OwnedFd>,
}

impl Probing {
    /// Puts probes at these places of an open file, for one process with all its threads, and links a program of type `kprobe` to them.
    ///
    /// # Errors
    ///
    /// What `perf_event_open(2)` and `bpf(2)` report, and of which place: `EINVAL` where no instruction begins or one cannot be probed, `ESRCH` for a
    /// process that has ended.
    pub fn attach(
        self,
        program: BorrowedFd<'_>,
        pid: u32,
        file: BorrowedFd<'_>,
        places: &[Place],
        when: When,
    ) -> Result<Vec<Uprobe>, (usize, io::Error)> {
        if places.is_empty() {
            return Ok(Vec::new());
        }
        let path = CString::new(format!("/proc/self/fd/{}", file.as_raw_fd()));
        let path = path.map_err(|error| (0, error.into()))?;
        match self {
            Self::Links => match link_all(program, pid, &path, places, when) {
                Ok(probe) => Ok(vec![probe]),
                // The kernel does not say which one it was.
                Err(error) => Err(places
                    .iter()
                    .enumerate()
                    .find_map(|(index, place)| {
                        let alone = link_all(program, pid, &path, std::slice::from_ref(place), when);
                        alone.err().map(|error| (index, error))
                    })
                    .unwrap_or((0, error))),
            },
            Self::Events(unit) => places
                .iter()
                .enumerate()
                .map(|(index, place)| {
                    open_one(unit, program, pid, &path, *place, when).map_err(|error| (index, error))
                })
                .collect(),
        }
    }
}

/// One link for many places (`bpf_uprobe_multi_link_attach`, kernel/trace/bpf_trace.c).
fn link_all(
    program: BorrowedFd<'_>,
    pid: u32,
    path: &CString,
    places: &[Place],
    when: When,
) -> io::Result<Uprobe> {
    let offsets: Vec<u64> = places.iter().map(|place| place.file_offset).collect();
    let cookies: Vec<u64> = places.iter().map(|place| place.cookie).collect();
    let mut attr = raw::attr();
    attr.link_create.__bindgen_anon_1.prog_fd = program.as_raw_fd() as u32;
    attr.link_create.attach_type = bpf_attach_type::BPF_TRACE_UPROBE_MULTI as u32;
    // SAFETY: all members of the union are integers, zeroed just now.
    let multi = unsafe { &mut attr.link_create.__bindgen_anon_3.uprobe_multi };
    multi.path = path.as_ptr() as u64;
    multi.offsets = offsets.as_ptr() as u64;
    multi.cookies = cookies.as_ptr() as u64;
    multi.cnt = places.len() as u32;
    multi.pid = pid;
    multi.flags = match when {
        When::Entry => 0,
        When::Return => BPF_F_UPROBE_MULTI_RETURN,
    };
    // SAFETY: path, offsets and cookies live through the call, and the count is theirs.
    let link = unsafe { raw::bpf_descriptor(bpf_cmd::BPF_LINK_CREATE, &mut attr) }?;
    Ok(Uprobe { _link: link, _event: None })
}

fn open_one(
    unit: UprobeUnit,
    program: BorrowedFd<'_>,
    pid: u32,
    path: &CString,
    place: Place,
    when: When,
) -> io::Result<Uprobe> {
    // SAFETY: the structure holds only integers and unions of integers; all zeroes is its documented default.
    let mut attr: perf_event_attr = unsafe { std::mem::zeroed() };
    attr.size = size_of::<perf_event_attr>() as u32;
    attr.type_ = unit.kind;
    attr.config = match when {
        When::Entry => 0,
        When::Return => 1 << unit.return_bit,
    };
    attr.__bindgen_anon_3.config1 = path.as_ptr() as u64;
    attr.__bindgen_anon_4.config2 = place.file_offset;
    let event = open(&attr, pid)?;
    let link = link(program, event.as_fd(), place.cookie)?;
    Ok(Uprobe { _link: link, _event: Some(event) })
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
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just returned this descriptor and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) })
}

/// Links a program to an event (`BPF_LINK_CREATE` for perf events, since Linux 5.15).
fn link(program: BorrowedFd<'_>, event: BorrowedFd<'_>, cookie: u64) -> io::Result<OwnedFd> {
    let mut attr = raw::attr();
    attr.link_create.__bindgen_anon_1.prog_fd = program.as_raw_fd() as u32;
    attr.link_create.__bindgen_anon_2.target_fd = event.as_raw_fd() as u32;
    attr.link_create.attach_type = bpf_attach_type::BPF_PERF_EVENT as u32;
    attr.link_create.__bindgen_anon_3.perf_event.bpf_cookie = cookie;
    // SAFETY: the argument holds no addresses.
    unsafe { raw::bpf_descriptor(bpf_cmd::BPF_LINK_CREATE, &mut attr) }
}
