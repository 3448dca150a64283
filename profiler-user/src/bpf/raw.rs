//! `bpf(2)` for the commands that aya does not offer.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use aya_obj::generated::{bpf_attr, bpf_cmd};

/// A command's argument, all zeroes: what the kernel wants of fields that are not used.
pub(super) fn attr() -> bpf_attr {
    // SAFETY: the union holds only integers and arrays of them.
    unsafe { std::mem::zeroed() }
}

/// Runs a command; returns what the kernel returned.
///
/// # Errors
///
/// What `bpf(2)` reports.
///
/// # Safety
///
/// Every address in `attr` is valid for what the command does with it.
pub(super) unsafe fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<libc::c_long> {
    // SAFETY: `attr` is valid for its size; the rest is promised by the caller.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command as libc::c_long, std::ptr::from_mut(attr), size_of::<bpf_attr>())
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Runs a command that returns a descriptor.
///
/// # Errors
///
/// What `bpf(2)` reports.
///
/// # Safety
///
/// As for [`bpf`], and the command returns a new descriptor.
pub(super) unsafe fn bpf_descriptor(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<OwnedFd> {
    // SAFETY: promised by the caller.
    let fd = unsafe { bpf(command, attr) }?;
    // SAFETY: the kernel just returned this descriptor and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) })
}

/// Puts a program into a table of programs, at its first place.
///
/// # Errors
///
/// What `bpf(2)` reports.
pub(super) fn set_first_program(table: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let (key, value) = (0_u32, program.as_raw_fd());
    let mut attr = attr();
    attr.__bindgen_anon_2.map_fd = table.as_raw_fd() as u32;
    attr.__bindgen_anon_2.key = (&raw const key) as u64;
    attr.__bindgen_anon_2.__bindgen_anon_1.value = (&raw const value) as u64;
    // SAFETY: key and value are as long as the table's and live through the call.
    unsafe { bpf(bpf_cmd::BPF_MAP_UPDATE_ELEM, &mut attr) }.map(drop)
}
