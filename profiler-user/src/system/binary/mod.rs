//! What an executable brings for profiling: symbols, build ID, frame pointers, how it was linked.
//!
//! In: an open file that belongs to a stranger. Out: [`Binary`], facts for advice to people. Reads a bounded number of
//! small pieces with `pread` and never maps the file: a mapped file that its owner truncates would kill this process.
//! Not the reader that symbols and unwind tables are built with; that one is in `object`, and `unwind_info` knows the tables.

mod elf;
mod prologue;

use std::fs::File;

use elf::{Elf, SectionKind};
pub use elf::{ElfError, Machine};
pub use prologue::FramePointers;

/// Most of a string table that is searched for allocator names.
const STRING_TABLE_BYTES: u64 = 4 << 20;

/// Which allocator's functions are linked into the executable itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allocator {
    /// jemalloc, plain or with a prefix (`je_`, `_rjem_`).
    Jemalloc,
    /// gperftools or Google's tcmalloc.
    Tcmalloc,
    /// mimalloc.
    Mimalloc,
}

impl Allocator {
    /// The allocator's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Jemalloc => "jemalloc",
            Self::Tcmalloc => "tcmalloc",
            Self::Mimalloc => "mimalloc",
        }
    }

    /// The allocator that a library's file name stands for.
    pub fn of_library(file_name: &str) -> Option<Self> {
        [("libjemalloc", Self::Jemalloc), ("libtcmalloc", Self::Tcmalloc), ("libmimalloc", Self::Mimalloc)]
            .into_iter()
            .find_map(|(start, allocator)| file_name.starts_with(start).then_some(allocator))
    }

    fn in_string_table(table: &[u8]) -> Option<Self> {
        [
            (&b"mi_malloc\0"[..], Self::Mimalloc),
            (b"tc_malloc\0", Self::Tcmalloc),
            (b"TCMallocInternalMalloc\0", Self::Tcmalloc),
            (b"je_malloc\0", Self::Jemalloc),
            (b"_rjem_malloc\0", Self::Jemalloc),
            (b"malloc_stats_print\0", Self::Jemalloc),
        ]
        .into_iter()
        .find_map(|(name, allocator)| table.windows(name.len()).any(|part| part == name).then_some(allocator))
    }
}

/// The best source of function names inside an executable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Names {
    /// DWARF: names, source lines and inlined functions.
    DebugInfo,
    /// A full symbol table (`.symtab`).
    SymbolTable,
    /// A compressed symbol table (`.gnu_debugdata`, Fedora and its relatives).
    MiniDebugInfo,
    /// Go's own table (`.gopclntab`), which survives stripping.
    GoTable,
    /// Exported functions only.
    Stripped,
}

/// Facts about one executable.
#[derive(Debug, Clone)]
pub struct Binary {
    /// What processor it is for.
    pub machine: Machine,
    /// Where its function names come from.
    pub names: Names,
    /// File name of the separate debug file (`.gnu_debuglink`), cleaned.
    pub debug_link: Option<String>,
    /// GNU build ID in lower-case hex.
    pub build_id: Option<String>,
    /// The dynamic linker's path, cleaned; None for static executables.
    pub interpreter: Option<String>,
    /// Was built by the Go toolchain.
    pub go: bool,
    /// An allocator linked into the executable.
    pub allocator: Option<Allocator>,
    /// How many of its functions keep a frame pointer; None when no functions can be found.
    pub frame_pointers: Option<FramePointers>,
}

impl Binary {
    /// Looks an executable over.
    ///
    /// # Errors
    /// When it cannot be read or is not a 64-bit little-endian ELF file.
    pub fn inspect(file: File) -> Result<Self, ElfError> {
        let elf = Elf::open(file)?;
        let go = elf.section(b".go.buildinfo").is_some() || elf.section(b".note.go.buildid").is_some();
        let mut strings = [&b".strtab"[..], b".dynstr"].into_iter().filter_map(|name| {
            let section = elf.section(name)?;
            elf.read(section.offset, section.size.min(STRING_TABLE_BYTES))
        });
        Ok(Self {
            machine: elf.machine,
            names: names(&elf, go),
            debug_link: elf.debug_link(),
            build_id: elf.build_id(),
            interpreter: elf.interpreter(),
            go,
            allocator: strings.find_map(|table| Allocator::in_string_table(&table)),
            frame_pointers: FramePointers::estimate(&elf, go),
        })
    }

    /// Where a separate debug file with this build ID would be, under a root directory.
    pub fn debug_file(&self) -> Option<String> {
        let id = self.build_id.as_ref()?;
        let (first, rest) = (id.get(..2)?, id.get(2..)?);
        (!rest.is_empty()).then(|| format!("/usr/lib/debug/.build-id/{first}/{rest}.debug"))
    }
}

fn names(elf: &Elf, go: bool) -> Names {
    let has = |name: &[u8]| elf.section(name).is_some();
    if has(b".debug_info") || has(b".zdebug_info") {
        Names::DebugInfo
    } else if elf.sections.iter().any(|section| section.kind == SectionKind::Symbols) {
        Names::SymbolTable
    } else if has(b".gnu_debugdata") {
        Names::MiniDebugInfo
    } else if go {
        Names::GoTable
    } else {
        Names::Stripped
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn this_test_program_is_a_linked_elf_with_names_and_tables() {
        let me = Binary::inspect(File::open("/proc/self/exe").unwrap()).unwrap();
        assert!(me.names != Names::Stripped && !me.go);
        assert!(me.frame_pointers.is_some_and(|found| found.functions > 100));
    }

    #[test]
    fn what_is_not_elf_is_refused() {
        let mut file = tempfile::tempfile().unwrap();
        assert!(Binary::inspect(file.try_clone().unwrap()).is_err());
        file.write_all(b"#!/bin/sh\n").unwrap();
        assert!(matches!(Binary::inspect(file), Err(ElfError::NotElf)));
    }

    #[test]
    fn debug_files_are_named_after_the_build_id() {
        let mut me = Binary::inspect(File::open("/proc/self/exe").unwrap()).unwrap();
        me.build_id = Some("abcdef".to_owned());
        assert_eq!(me.debug_file().as_deref(), Some("/usr/lib/debug/.build-id/ab/cdef.debug"));
        me.build_id = Some("ab".to_owned());
        assert_eq!(me.debug_file(), None);
    }

    #[test]
    fn allocators_are_known_by_their_names() {
        assert_eq!(Allocator::of_library("libjemalloc.so.2"), Some(Allocator::Jemalloc));
        assert_eq!(Allocator::of_library("libtcmalloc_minimal.so.4"), Some(Allocator::Tcmalloc));
        assert_eq!(Allocator::of_library("libc.so.6"), None);
        assert_eq!(Allocator::in_string_table(b"\0main\0mi_malloc\0"), Some(Allocator::Mimalloc));
        assert_eq!(Allocator::in_string_table(b"\0my_je_mallocator\0"), None);
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]
        #[test]
        fn damaged_headers_never_panic(damage in proptest::collection::vec((0usize..4096, proptest::num::u8::ANY), 1..20)) {
            let mut data = std::fs::read("/bin/true").unwrap_or_default();
            proptest::prop_assume!(data.len() > 4096);
            let sections = data.len() - 2048;
            for (at, byte) in damage {
                // Half of the damage goes where the section headers are, at the end of the file.
                let at = if at % 2 == 0 { at } else { sections + at / 2 };
                data[at] = byte;
            }
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&data).unwrap();
            let _ = Binary::inspect(file);
        }
    }
}
