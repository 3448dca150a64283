//! Programs that are linked to many places in user code at once (`BPF_TRACE_UPROBE_MULTI`).
//!
//! The kernel wants to know of such a link when it loads the program, and aya does not tell it. So the object is read once more here, with
//! the maps that aya made, and the programs are loaded without it.
//!
//! A link is worth that: closing it takes its breakpoints out at once. Those of a perf event stay in for a tenth of a second after it was
//! closed, because the kernel first waits until its program runs nowhere.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use aya::Ebpf;
use aya::maps::{Map, MapData};
use aya::util::KernelVersion;
use aya_obj::Object;
use aya_obj::generated::{bpf_attach_type, bpf_cmd, bpf_insn, bpf_prog_info, bpf_prog_type};

use super::raw;

/// The first kernel whose links look at all threads of a process, not at its first one only (46ba0e49b642, kernel/trace/bpf_trace.c).
fn since() -> KernelVersion {
    KernelVersion::new(6, 10, 0)
}

/// A program as the kernel takes it, not loaded yet.
pub(super) struct MultiProgram {
    name: &'static str,
    license: CString,
    instructions: Vec<bpf_insn>,
}

/// A program that was loaded.
pub(super) struct LoadedProgram {
    /// Its name in the object.
    pub(super) name: &'static str,
    fd: OwnedFd,
}

/// Reads these programs from the object, while all of its maps are still with `ebpf`. None where the kernel has no such links, or something is
/// not as it should be: then probes are perf events.
pub(super) fn read(ebpf: &Ebpf, names: &[&'static str]) -> Option<Vec<MultiProgram>> {
    if KernelVersion::current().ok()? < since() {
        return None;
    }
    let mut object = Object::parse(super::loader::OBJECT).ok()?;
    let maps = std::mem::take(&mut object.maps);
    let known = maps.iter().filter_map(|(name, map)| {
        let fd = data_of(ebpf.map(name)?).fd().as_fd().as_raw_fd();
        Some((name.as_str(), fd, map))
    });
    let code = object.functions.keys().map(|(section, _)| *section).collect();
    object.relocate_maps(known, &code).ok()?;
    object.relocate_calls(&code).ok()?;
    let program = |name: &'static str| {
        let program = object.programs.get(name)?;
        let function = object.functions.get(&program.function_key())?;
        Some(MultiProgram {
            name,
            license: program.license.clone(),
            instructions: function.instructions.clone(),
        })
    };
    names.iter().map(|name| program(name)).collect()
}

impl MultiProgram {
    /// Loads it.
    ///
    /// # Errors
    ///
    /// What the kernel refused.
    pub(super) fn load(&self) -> io::Result<LoadedProgram> {
        let mut attr = raw::attr();
        let mut name = [0; 16];
        // The kernel's names end with a zero.
        for (to, from) in name.iter_mut().take(15).zip(self.name.bytes()) {
            *to = from as libc::c_char;
        }
        // SAFETY: all members of the union are integers, zeroed just now.
        let members = unsafe { &mut attr.__bindgen_anon_3 };
        members.prog_type = bpf_prog_type::BPF_PROG_TYPE_KPROBE as u32;
        members.expected_attach_type = bpf_attach_type::BPF_TRACE_UPROBE_MULTI as u32;
        members.insn_cnt = self.instructions.len() as u32;
        members.insns = self.instructions.as_ptr() as u64;
        members.license = self.license.as_ptr() as u64;
        members.prog_name = name;
        // SAFETY: instructions and licence live through the call, and the count is theirs.
        let fd = unsafe { raw::bpf_descriptor(bpf_cmd::BPF_PROG_LOAD, &mut attr) }?;
        Ok(LoadedProgram { name: self.name, fd })
    }
}

impl LoadedProgram {
    /// What the kernel knows of it.
    pub(super) fn info(&self) -> Option<bpf_prog_info> {
        // SAFETY: the structure holds only integers and arrays of them.
        let mut info: bpf_prog_info = unsafe { std::mem::zeroed() };
        let mut attr = raw::attr();
        attr.info.bpf_fd = self.fd.as_raw_fd() as u32;
        attr.info.info_len = size_of::<bpf_prog_info>() as u32;
        attr.info.info = (&raw mut info) as u64;
        // SAFETY: the kernel writes no more than the length says; the addresses in the structure are zero, so it writes nowhere else.
        unsafe { raw::bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr) }.ok()?;
        Some(info)
    }
}

impl AsFd for LoadedProgram {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn data_of(map: &Map) -> &MapData {
    match map {
        Map::Array(data)
        | Map::ArrayOfMaps(data)
        | Map::BloomFilter(data)
        | Map::CgroupArray(data)
        | Map::CgroupStorage(data)
        | Map::CgrpStorage(data)
        | Map::CpuMap(data)
        | Map::DevMap(data)
        | Map::DevMapHash(data)
        | Map::HashMap(data)
        | Map::HashOfMaps(data)
        | Map::InodeStorage(data)
        | Map::LpmTrie(data)
        | Map::LruHashMap(data)
        | Map::PerCpuArray(data)
        | Map::PerCpuCgroupStorage(data)
        | Map::PerCpuHashMap(data)
        | Map::PerCpuLruHashMap(data)
        | Map::PerfEventArray(data)
        | Map::ProgramArray(data)
        | Map::Queue(data)
        | Map::ReusePortSockArray(data)
        | Map::RingBuf(data)
        | Map::SockHash(data)
        | Map::SockMap(data)
        | Map::SkStorage(data)
        | Map::Stack(data)
        | Map::StackTraceMap(data)
        | Map::Unsupported(data)
        | Map::XskMap(data) => data,
    }
}
