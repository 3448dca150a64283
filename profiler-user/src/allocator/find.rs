//! Which objects of a process bring an allocator.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use object::elf;
use profiler_common::heap::{CALL_FREE, Site};

use super::go::{GoAllocator, GoChoice, find_go};
use super::names::{Call, call_of};
use super::site::{Arch, Chosen, Jump, Wanted, choose};
use crate::object::{Elf, Symbol, SymbolTable, open_in_root};
use crate::profile::clean;

/// Bytes of a function that are looked at.
const CODE_BYTES: u64 = 4096;
/// Functions of one object that get probes. Real allocators have about forty.
const MOST_ENTRIES: usize = 128;

/// Whose allocator it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Flavour {
    /// The GNU C library's.
    Glibc,
    /// The one of musl.
    Musl,
    /// jemalloc.
    Jemalloc,
    /// tcmalloc.
    Tcmalloc,
    /// mimalloc.
    Mimalloc,
    /// Go's own.
    Go,
    /// Something else that defines `malloc`.
    Other,
}

impl Flavour {
    /// Its name for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Glibc => "glibc",
            Self::Musl => "musl",
            Self::Jemalloc => "jemalloc",
            Self::Tcmalloc => "tcmalloc",
            Self::Mimalloc => "mimalloc",
            Self::Go => "Go",
            Self::Other => "another allocator",
        }
    }

    /// By a function that nobody else has.
    fn of_symbol(name: &[u8]) -> Option<Self> {
        Some(match name {
            b"mi_malloc" => Self::Mimalloc,
            b"tc_malloc" | b"TCMallocInternalMalloc" | b"MallocExtension_Internal_GetStats" => Self::Tcmalloc,
            b"malloc_stats_print" | b"je_malloc" | b"_rjem_malloc" | b"mallctl" | b"_rjem_mallctl" => {
                Self::Jemalloc
            }
            b"__libc_memalign" | b"gnu_get_libc_version" | b"__libc_pvalloc" => Self::Glibc,
            b"__libc_malloc_impl" | b"__malloc_donate" | b"__malloc_atfork" | b"__expand_heap" => Self::Musl,
            _ => return None,
        })
    }
}

/// A file that a process maps executable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MappedFile {
    /// First address of one executable mapping.
    pub start: u64,
    /// Its end.
    pub end: u64,
    /// Where in the file it begins.
    pub offset: u64,
    /// Path as the process sees it.
    pub path: Vec<u8>,
}

/// In which processes a function gets its probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// In all.
    All,
    /// In Go programs that choose blocks for their own heap profile.
    GoChosen,
    /// In Go programs that do not.
    GoAll,
}

/// A function of the border, with the place of its probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Offset in the file of the instruction to probe.
    pub file_offset: u64,
    /// What the probe is told.
    pub site: Site,
    /// Whether the kernel emulates the instruction.
    pub emulated: bool,
    /// Whether calls inside it are its own, so that it has a probe at its return in any recording.
    pub encloses: bool,
    /// Whether it frees.
    pub frees: bool,
    /// Where it gets its probe.
    pub group: Group,
}

/// What an allocator is known by: device and inode of its object, and whose it is; an object can bring two.
pub type Identity = (u64, u64, Flavour);

/// An allocator in one object.
#[derive(Debug)]
pub struct Allocator {
    /// Whose it is.
    pub flavour: Flavour,
    /// The object, open.
    pub file: File,
    /// What it is known by.
    pub identity: Identity,
    /// Path as the process sees it, cleaned.
    pub path: String,
    /// Its functions.
    pub entries: Vec<Entry>,
    /// How a Go program chooses blocks.
    pub go: Option<GoChoice>,
}

/// The files that a process maps executable, each once.
pub fn mapped_files(pid: u32) -> Vec<MappedFile> {
    let Ok(maps) = std::fs::read(format!("/proc/{pid}/maps")) else { return Vec::new() };
    let mut files: Vec<MappedFile> = Vec::new();
    for line in maps.split(|byte| *byte == b'\n') {
        let mut fields = line.splitn(6, |byte| *byte == b' ');
        let (Some(range), Some(permissions)) = (fields.next(), fields.next()) else { continue };
        let offset = fields.next().and_then(|offset| std::str::from_utf8(offset).ok()).unwrap_or_default();
        let path = fields.nth(2).unwrap_or_default();
        let path = &path[path.iter().position(|byte| *byte != b' ').unwrap_or(path.len())..];
        if permissions.get(2) != Some(&b'x')
            || !path.starts_with(b"/")
            || files.iter().any(|file| file.path == path)
        {
            continue;
        }
        let range = std::str::from_utf8(range).ok().and_then(|range| range.split_once('-'));
        let number = |text| u64::from_str_radix(text, 16).ok();
        let place = range.and_then(|(start, end)| Some((number(start)?, number(end)?, number(offset)?)));
        if let Some((start, end, offset)) = place {
            files.push(MappedFile { start, end, offset, path: path.to_vec() });
        }
    }
    files
}

/// The allocators in a file of a process. `live` says that returns are probed too.
pub fn find(pid: u32, file: &MappedFile, live: bool) -> Vec<Allocator> {
    let name = file.path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    if name.starts_with(b"ld-") {
        // The dynamic linker has a small one for the time before the real one is there.
        return Vec::new();
    }
    try_find(pid, file, live).unwrap_or_default()
}

fn try_find(pid: u32, file: &MappedFile, live: bool) -> Option<Vec<Allocator>> {
    let open = open_mapped(pid, file)?;
    let metadata = open.metadata().ok()?;
    let elf = Elf::open(open.try_clone().ok()?).ok()?;
    let arch = match elf.machine() {
        elf::EM_X86_64 => Arch::X86_64,
        elf::EM_AARCH64 => Arch::Aarch64,
        _ => return None,
    };
    let of_c = entries_of(&elf, arch, live).map(|(flavour, entries)| (flavour, entries, None));
    let of_go =
        find_go(&elf, arch).map(|GoAllocator { entries, choice }| (Flavour::Go, entries, Some(choice)));
    let allocator = |(flavour, entries, go)| {
        Some(Allocator {
            flavour,
            identity: (metadata.dev(), metadata.ino(), flavour),
            file: open.try_clone().ok()?,
            path: clean(&file.path),
            entries,
            go,
        })
    };
    Some(of_c.into_iter().chain(of_go).filter_map(allocator).collect())
}

/// Opens what is really mapped, whatever the path leads to by now.
fn open_mapped(pid: u32, file: &MappedFile) -> Option<File> {
    let direct = format!("/proc/{pid}/map_files/{:x}-{:x}", file.start, file.end);
    if let Ok(open) = File::open(direct) {
        return Some(open);
    }
    let root = File::open(format!("/proc/{pid}/root")).ok()?;
    open_in_root(root.as_fd(), Path::new(std::ffi::OsStr::from_bytes(&file.path))).ok()
}

struct Found {
    name: String,
    call: Call,
    size: u64,
}

/// The functions of an object's border, by address, if it defines both ends of it.
fn entries_of(elf: &Elf, arch: Arch, live: bool) -> Option<(Flavour, Vec<Entry>)> {
    let mut found: BTreeMap<u64, Found> = BTreeMap::new();
    let mut flavour = Flavour::Other;
    for table in [SymbolTable::dynamic(elf), SymbolTable::full(elf)].into_iter().flatten() {
        let _damaged_tables_end_early = table.for_each(|_, symbol| {
            if is_function(&symbol)
                && let Ok(name) = table.name(&symbol)
            {
                if let Some(known) = Flavour::of_symbol(&name)
                    && (flavour == Flavour::Other || flavour == Flavour::Glibc)
                {
                    flavour = known;
                }
                add(&mut found, &name, &symbol);
            }
            if found.len() < MOST_ENTRIES { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
    }
    let has = |frees: bool| {
        found.values().any(|found| !found.call.operator && (found.call.kind == CALL_FREE) == frees)
    };
    if !has(true) || !has(false) {
        return None;
    }
    let is_program = elf.segments().iter().any(|segment| segment.kind == elf::PT_INTERP)
        || elf.section(".dynsym").is_none();
    let entries = found
        .iter()
        .filter_map(|(address, one)| entry(elf, arch, *address, &found, one, flavour, is_program, live));
    Some((flavour, entries.collect()))
}

fn is_function(symbol: &Symbol) -> bool {
    (symbol.kind == elf::STT_FUNC || symbol.kind == elf::STT_GNU_IFUNC)
        && symbol.section != elf::SHN_UNDEF
        && symbol.virt_addr != 0
}

fn add(found: &mut BTreeMap<u64, Found>, name: &[u8], symbol: &Symbol) {
    let Some(name) = std::str::from_utf8(name).ok() else { return };
    let Some(call) = call_of(name) else { return };
    let new = Found { name: name.to_owned(), call, size: symbol.size };
    match found.get(&symbol.virt_addr) {
        // Names of one function; the usual one is the best to show.
        Some(known) if known.name.len() <= new.name.len() => {}
        _ => {
            found.insert(symbol.virt_addr, new);
        }
    }
}

#[expect(clippy::too_many_arguments, reason = "what is known of the object and of the recording")]
fn entry(
    elf: &Elf,
    arch: Arch,
    address: u64,
    all: &BTreeMap<u64, Found>,
    found: &Found,
    flavour: Flavour,
    is_program: bool,
    live: bool,
) -> Option<Entry> {
    let call = found.call;
    let has_own_operators = matches!(flavour, Flavour::Jemalloc | Flavour::Tcmalloc | Flavour::Mimalloc);
    if call.operator && is_program && !has_own_operators {
        // The C++ library's, linked in: it reaches the functions of C.
        return None;
    }
    let frees = call.kind == CALL_FREE;
    // Where an operator or `calloc` is known to do its own work, its return needs no probe.
    let encloses = call.encloses
        || (!frees && !has_own_operators && flavour != Flavour::Glibc && found.name != "malloc")
        || (call.operator && is_program && !frees);
    let start = elf.file_offset(address)?;
    let size = if found.size == 0 { CODE_BYTES } else { found.size.min(CODE_BYTES) };
    let left = elf.source().len().checked_sub(start)?;
    let code = elf.source().read_at(start, size.min(left)).ok()?;
    let at_return = encloses || (live && !frees);
    let Chosen { offset, words, pushed_words, emulated, jumps } =
        choose(arch, &code, Wanted { arguments: call.arguments, at_return });
    if leads_to_border(elf, all, address, jumps) {
        return None;
    }
    let site = Site::new(call.kind, words, pushed_words, encloses);
    Some(Entry {
        name: found.name.clone(),
        file_offset: start.checked_add(offset)?,
        site: if emulated { site } else { site.stepped() },
        emulated,
        encloses,
        frees,
        group: Group::All,
    })
}

/// Whether a function that is nothing but a jump leads to another one of the border, which has a probe of its own: directly, or through the
/// linkage table, by which an object reaches what others may replace.
fn leads_to_border(elf: &Elf, all: &BTreeMap<u64, Found>, address: u64, jumps: Jump) -> bool {
    let target = match jumps {
        Jump::None => return false,
        Jump::Indirect => return true,
        Jump::By(distance) => address.wrapping_add_signed(distance),
    };
    let in_table = elf.sections().iter().any(|section| {
        section.name.starts_with(".plt") && (section.virt_addr..section.virt_end()).contains(&target)
    });
    in_table || all.contains_key(&target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_the_c_librarys_allocator() {
        let pid = std::process::id();
        let files = mapped_files(pid);
        let found: Vec<Allocator> = files.iter().flat_map(|file| find(pid, file, false)).collect();
        let glibc = found.iter().find(|allocator| allocator.flavour == Flavour::Glibc);
        let names: Vec<&str> =
            glibc.iter().flat_map(|found| &found.entries).map(|entry| entry.name.as_str()).collect();
        for name in ["malloc", "calloc", "realloc", "free", "posix_memalign", "reallocarray"] {
            assert!(names.contains(&name), "{name} is missing in {names:?}");
        }
    }

    #[test]
    fn objects_without_an_allocator_have_none() {
        let elf = Elf::from_bytes(crate::object::vdso_image().unwrap()).unwrap();
        assert!(entries_of(&elf, Arch::X86_64, false).is_none() && find_go(&elf, Arch::X86_64).is_none());
    }

    #[test]
    fn nobody_has_no_files() {
        assert!(mapped_files(u32::MAX).is_empty());
    }
}
