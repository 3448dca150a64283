//! Go's own allocator: where it chooses blocks for the program's heap profile, and where all calls pass.
//!
//! Functions are found through Go's table of functions, which a stripped program keeps. Arguments lie in registers since Go 1.17 (x86_64) and 1.18
//! (arm64); the check of the stack with which a function begins there says whether an object is that new and whether the address is right.

use std::os::unix::fs::FileExt;

use profiler_common::heap::{CALL_GO, CALL_GO_FREE, CALL_GO_SAMPLED, Site};

use super::find::{Entry, Group, MappedFile};
use super::go_code::{GoPlace, after_stack_check, compared_with_one};
use super::site::Arch;
use crate::object::{Elf, Symbol, SymbolTable};
use crate::symbolize::go_code;

/// Functions that are looked at: Go 1.26 has some seventy that allocate, one for each size.
const MOST_FUNCTIONS: usize = 256;
/// Bytes of a function that are looked at.
const CODE_BYTES: u64 = 1024;

/// What is known of Go in an object.
#[derive(Debug)]
pub(super) struct GoAllocator {
    pub(super) entries: Vec<Entry>,
    pub(super) choice: GoChoice,
}

/// How a Go program chooses blocks for its heap profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GoChoice {
    /// It can: the linker takes out of programs that ask for no heap profile what would choose.
    pub can: bool,
    /// Where `runtime.MemProfileRate` is, relative to where a mapping starts, less the mapping's offset in the file.
    rate_at: Option<u64>,
}

impl GoChoice {
    /// Mean bytes from one chosen block to the next in a process (`runtime.MemProfileRate`): zero where it chooses none, nothing where it cannot be
    /// read.
    pub fn rate(&self, pid: u32, file: &MappedFile) -> Option<u64> {
        let address = self.rate_at?.wrapping_add(file.start).wrapping_sub(file.offset);
        let mut word = [0; 8];
        let memory = std::fs::File::open(format!("/proc/{pid}/mem")).ok()?;
        memory.read_exact_at(&mut word, address).ok()?;
        Some(i64::from_le_bytes(word).try_into().unwrap_or(0))
    }

    /// Whether the place of the rate is known.
    pub fn knows_rate(&self) -> bool {
        self.rate_at.is_some()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Function {
    /// `runtime.profilealloc`: blocks that Go chooses.
    Chosen,
    /// `runtime.freeSpecial`: such a block is freed.
    Freed,
    /// `runtime.mallocgc`: all blocks.
    All,
    /// Where it goes on, by kind and size of the block.
    Part,
    /// Only where a heap profile can be asked for (`disableMemoryProfiling` in `src/cmd/link/internal/ld/lib.go`).
    Profile,
    /// Where the rate is read (`runtime.nextSample`).
    Rate,
}

fn function(name: &[u8]) -> Option<Function> {
    Some(match name.strip_prefix(b"runtime.")? {
        b"profilealloc" => Function::Chosen,
        b"freeSpecial" => Function::Freed,
        b"mallocgc" => Function::All,
        b"MemProfile" | b"memProfileInternal" => Function::Profile,
        b"nextSample" => Function::Rate,
        name if [&b"mallocgcTiny"[..], b"mallocgcSmall", b"mallocgcLarge"]
            .iter()
            .any(|start| name.starts_with(start))
            && !name.contains(&b'.') =>
        {
            Function::Part
        }
        _ => return None,
    })
}

/// Whether the compiler calls functions for one size each, past `mallocgc` (Go 1.26).
fn is_of_one_size(name: &[u8]) -> bool {
    name.starts_with(b"runtime.mallocgcSmallScanNoHeaderSC")
}

/// Go's allocator in an object, if that is a Go program of a known kind.
pub(super) fn find_go(elf: &Elf, arch: Arch) -> Option<GoAllocator> {
    let found =
        go_code(elf, MOST_FUNCTIONS, |name| Some((function(name)?, name.to_vec(), is_of_one_size(name))))?;
    let by_size = found.functions.iter().any(|((_, _, of_one_size), _)| *of_one_size);
    let can = found.functions.iter().any(|((function, ..), _)| *function == Function::Profile);
    let code_of = |range: &std::ops::Range<u64>| {
        let size = range.end.saturating_sub(range.start).min(CODE_BYTES);
        elf.source().read_at(elf.file_offset(range.start)?, size).ok()
    };
    let rate = rate_symbol(elf).or_else(|| {
        found.functions.iter().find_map(|((function, ..), range)| {
            let reads = matches!(function, Function::Chosen | Function::Rate);
            compared_with_one(arch, &code_of(range).filter(|_| reads)?, range.start)
        })
    });
    let mut entries: Vec<Entry> = Vec::new();
    for ((function, name, _), range) in &found.functions {
        let (kind, arguments, group) = match function {
            Function::Chosen => (CALL_GO_SAMPLED, [1, 2, 2], Group::GoChosen),
            Function::Freed => (CALL_GO_FREE, [1, 1, 1], Group::GoChosen),
            Function::All if !by_size => (CALL_GO, [0, 0, 0], Group::GoAll),
            Function::Part if by_size => (CALL_GO, [0, 0, 0], Group::GoAll),
            _ => continue,
        };
        let Some(code) = code_of(range) else { continue };
        let Some(GoPlace { offset, emulated }) = after_stack_check(arch, &code) else { continue };
        let Some(place) = range.start.checked_add(offset) else { continue };
        let Some(file_offset) = elf.file_offset(place) else { continue };
        let site = Site::new(kind, arguments, 0, false).growing();
        let site = match rate.filter(|_| kind == CALL_GO_SAMPLED) {
            Some(rate) => {
                let distance = rate.wrapping_sub(place).cast_signed();
                let Some(site) = site.with_rate_distance(distance) else { continue };
                site
            }
            None => site,
        };
        entries.push(Entry {
            name: String::from_utf8_lossy(name).into_owned(),
            file_offset,
            site: if emulated { site } else { site.stepped() },
            emulated,
            encloses: false,
            frees: kind == CALL_GO_FREE,
            group,
        });
    }
    let has = |group| entries.iter().any(|entry| entry.group == group && !entry.frees);
    if !has(Group::GoAll) {
        return None;
    }
    let executable =
        elf.segments().iter().find(|segment| segment.kind == object::elf::PT_LOAD && segment.executable)?;
    let rate_at =
        rate.map(|rate| rate.wrapping_sub(executable.virt_addr).wrapping_add(executable.file_offset));
    let chooses = has(Group::GoChosen);
    let choice = GoChoice { can: can && chooses, rate_at: rate_at.filter(|_| chooses) };
    Some(GoAllocator { entries, choice })
}

/// The address of `runtime.MemProfileRate`.
fn rate_symbol(elf: &Elf) -> Option<u64> {
    let table = SymbolTable::full(elf)?;
    let mut found = None;
    let _damaged_tables_end_early = table.for_each(|_, symbol: Symbol| {
        let is_word = symbol.kind == object::elf::STT_OBJECT && symbol.size == 8;
        if is_word && table.name(&symbol).is_ok_and(|name| &*name == b"runtime.MemProfileRate") {
            found = Some(symbol.virt_addr);
            return std::ops::ControlFlow::Break(());
        }
        std::ops::ControlFlow::Continue(())
    });
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_of_gos_allocator_are_known_by_name() {
        for name in ["runtime.mallocgcTiny", "runtime.mallocgcSmallNoScanSC2", "runtime.mallocgcLarge"] {
            assert_eq!(function(name.as_bytes()), Some(Function::Part), "{name}");
        }
        assert_eq!(function(b"runtime.profilealloc"), Some(Function::Chosen));
        for name in
            ["main.mallocgc", "runtime.mallocgc.func1", "runtime.mallocgcSmallNoscan.func1", "runtime."]
        {
            assert_eq!(function(name.as_bytes()), None, "{name}");
        }
        assert!(is_of_one_size(b"runtime.mallocgcSmallScanNoHeaderSC1"));
        assert!(!is_of_one_size(b"runtime.mallocgcSmallScanNoHeader"));
    }

    #[test]
    fn a_rate_whose_place_is_unknown_is_none() {
        static RATE: u64 = 4096;
        let file = MappedFile { start: 0, end: 0, offset: 0, path: Vec::new() };
        assert_eq!(GoChoice { can: true, rate_at: None }.rate(std::process::id(), &file), None);
        let choice = GoChoice { can: true, rate_at: Some(0) };
        assert!(choice.rate(std::process::id(), &file).is_none() && choice.knows_rate());
        let at = GoChoice { can: true, rate_at: Some(std::ptr::from_ref(&RATE) as u64) };
        assert_eq!(at.rate(std::process::id(), &file), Some(4096));
    }
}
