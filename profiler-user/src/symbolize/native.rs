//! Names for addresses in object files.
//!
//! In: one object as a target has it mapped, and file offsets in it. Out: frames for each offset, with inlined calls
//! and source lines where debug information has them, and the reason where nothing is known. Everything about the
//! object is opened, used for the whole batch and dropped again: one call per object, once per distinct address.

use std::fs::File;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::dwarf::{self, Chain, DwarfFrame, FunctionName};
use super::symbols::SymbolName;
use super::unknown::{Unknown, unknown_frame};
use super::{Names, go, plt, symbols};
use crate::object::{
    BuildId, DebugFiles, Elf, ObjectError, SymbolTable, limits, mini_debug_info, supplementary,
};
use crate::profile::Frame;

pub use super::dwarf::Detail;

/// What to look for and where.
#[derive(Debug, Clone)]
pub struct Options {
    /// How much to say about each address.
    pub detail: Detail,
    /// Debug directories inside each root.
    pub debug_dirs: Vec<PathBuf>,
    /// Memory that the compressed debug sections of one object may take, bytes. Over it, only symbol tables are read.
    pub unpacked_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            detail: Detail::Inlines,
            debug_dirs: vec![PathBuf::from("/usr/lib/debug")],
            unpacked_bytes: limits::DECOMPRESSED_BYTES,
        }
    }
}

/// An object's bytes.
#[derive(Debug, Clone, Copy)]
pub enum Content<'a> {
    /// The file that the target has mapped.
    File(&'a File),
    /// A copy in memory: the vDSO.
    Bytes(&'a [u8]),
    /// It could not be opened any more.
    Gone,
}

/// One object as a target has it mapped.
#[derive(Debug, Clone, Copy)]
pub struct ObjectSource<'a> {
    /// Path as the target sees it, or `[vdso]`.
    pub path: &'a str,
    /// Its bytes.
    pub content: Content<'a>,
    /// Directories that stand for `/` when separate debug files are searched: the target's root, then the host's.
    pub roots: &'a [BorrowedFd<'a>],
    /// The build ID that was seen when the samples were taken, to notice a file that was replaced since.
    pub build_id: Option<&'a BuildId>,
}

/// One address, looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Symbolized {
    /// Address in the object's own address space; the file offset where the file does not say.
    pub virt_addr: u64,
    /// Innermost inlined function first. Never empty: an unknown address is one frame, `[libfoo.so+0x1a2b]`.
    pub frames: Vec<Frame>,
    /// Why there is no name, when there is none.
    pub unknown: Option<Unknown>,
}

/// Where an object's debug information was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DebugInfo {
    /// Nowhere.
    None,
    /// In the object itself.
    Own,
    /// In a separate file, at this path below one of the roots.
    Separate(PathBuf),
}

/// Everything found for one object.
#[derive(Debug)]
pub struct ObjectSymbols {
    /// The object's build ID.
    pub build_id: Option<BuildId>,
    /// Where lines and inlined calls came from.
    pub debug_info: DebugInfo,
    /// What kept a part from being read. Names may be missing because of it.
    pub problem: Option<ObjectError>,
    /// One entry per file offset asked for, same order.
    pub addresses: Vec<Symbolized>,
}

/// Looks up `file_offsets` (any order) in one object.
///
/// An offset is where a mapping has the address: `address - mapping start + mapping offset`. Return addresses have to be
/// lowered by one before, so that they lie in the call.
pub fn symbolize(
    source: &ObjectSource<'_>,
    file_offsets: &[u64],
    options: &Options,
    names: &mut Names,
) -> ObjectSymbols {
    let unknown = |reason, problem, names: &mut Names| ObjectSymbols {
        build_id: None,
        debug_info: DebugInfo::None,
        problem,
        addresses: file_offsets.iter().map(|offset| unknown(source.path, *offset, reason, names)).collect(),
    };
    let opened = match source.content {
        Content::File(file) => file.try_clone().map_err(ObjectError::from).and_then(Elf::open),
        Content::Bytes(bytes) => Elf::from_bytes(bytes.to_vec()),
        Content::Gone => return unknown(Unknown::FileGone, None, names),
    };
    let elf = match opened {
        Ok(elf) => elf,
        Err(error) => return unknown(Unknown::from(&error), Some(error), names),
    };
    let build_id = BuildId::of(&elf);
    if source.build_id.is_some() && build_id.as_ref() != source.build_id {
        return ObjectSymbols { build_id, ..unknown(Unknown::FileChanged, None, names) };
    }
    let found = Batch::new(&elf, file_offsets).run(source, options, names);
    // What was read from a file that was written to meanwhile can be anything.
    if !elf.source().is_unchanged() {
        return ObjectSymbols { build_id, ..unknown(Unknown::FileChanged, None, names) };
    }
    ObjectSymbols { build_id, ..found }
}

/// The frame of an address without a name, `[libfoo.so+0x1a2b]`, and the reason for it.
fn unknown(path: &str, virt_addr: u64, reason: Unknown, names: &mut Names) -> Symbolized {
    let frame = unknown_frame(path, virt_addr, names);
    Symbolized { virt_addr, frames: vec![frame], unknown: Some(reason) }
}

/// One object's addresses on their way through the sources of names.
struct Batch<'e> {
    elf: &'e Elf,
    /// Sorted addresses in the object's address space, with the positions of their offsets in the request.
    addresses: Vec<(u64, usize)>,
    /// Positions and offsets that no segment holds.
    outside: Vec<(usize, u64)>,
}

impl<'e> Batch<'e> {
    fn new(elf: &'e Elf, file_offsets: &[u64]) -> Self {
        let (mut addresses, mut outside) = (Vec::with_capacity(file_offsets.len()), Vec::new());
        for (position, offset) in file_offsets.iter().enumerate() {
            match elf.virt_addr(*offset) {
                Some(address) => addresses.push((address, position)),
                None => outside.push((position, *offset)),
            }
        }
        addresses.sort_unstable();
        Self { elf, addresses, outside }
    }

    fn run(self, source: &ObjectSource<'_>, options: &Options, names: &mut Names) -> ObjectSymbols {
        let files = DebugFiles { roots: source.roots, dirs: &options.debug_dirs };
        let path = Path::new(source.path);
        let (own_lines, own_table) = (dwarf::is_in(self.elf), SymbolTable::full(self.elf));
        let separate = if own_lines && own_table.is_some() { None } else { files.find(self.elf, path) };
        let mut problem = None;
        let addresses: Vec<u64> = self.addresses.iter().map(|(address, _)| *address).collect();

        let (debug_info, with_lines, lines_path) = match &separate {
            _ if own_lines => (DebugInfo::Own, Some(self.elf), path),
            Some((elf, path)) if dwarf::is_in(elf) => {
                (DebugInfo::Separate(path.clone()), Some(elf), path.as_path())
            }
            _ => (DebugInfo::None, None, path),
        };
        let mut chains = vec![Chain::new(); addresses.len()];
        if options.detail >= Detail::Lines {
            if let Some(elf) = with_lines {
                let shared = supplementary(&files, elf, lines_path);
                let budget = options.unpacked_bytes;
                (chains, problem) =
                    dwarf::locate(elf, shared.as_ref(), &addresses, options.detail, budget, names);
            }
            go::locate(self.elf, &addresses, &mut chains, names);
        }

        let unnamed = |index: &usize| {
            let last = chains[*index].last().and_then(|frame| frame.function.as_ref());
            !matches!(last, Some(FunctionName::Full(_)))
        };
        let rest: Vec<usize> = (0..addresses.len()).filter(unnamed).collect();
        let wanted: Vec<u64> = rest.iter().map(|index| addresses[*index]).collect();
        let (found, reason) =
            self.names_from_tables(&wanted, own_table, separate.as_ref(), names, &mut problem);
        let mut by_table: Vec<Option<SymbolName>> = vec![None; addresses.len()];
        for (index, name) in rest.into_iter().zip(found) {
            by_table[index] = name;
        }

        let mut result: Vec<Option<Symbolized>> = vec![None; self.addresses.len() + self.outside.len()];
        for (((address, position), chain), name) in self.addresses.into_iter().zip(chains).zip(by_table) {
            result[position] = Some(match frames(chain, name) {
                Some(frames) => Symbolized { virt_addr: address, frames, unknown: None },
                None => unknown(source.path, address, reason, names),
            });
        }
        for (position, offset) in self.outside {
            result[position] = Some(unknown(source.path, offset, Unknown::OutsideSegments, names));
        }
        ObjectSymbols {
            build_id: None,
            debug_info,
            problem,
            addresses: result.into_iter().flatten().collect(),
        }
    }

    /// Symbol tables, best first, then stubs; and what to say about addresses that none of them knows.
    fn names_from_tables(
        &self,
        wanted: &[u64],
        own: Option<SymbolTable<'_>>,
        separate: Option<&(Elf, PathBuf)>,
        names: &mut Names,
        problem: &mut Option<ObjectError>,
    ) -> (Vec<Option<SymbolName>>, Unknown) {
        if wanted.is_empty() {
            return (Vec::new(), Unknown::NotCovered);
        }
        let mut keep = |result: crate::object::Result<Option<Elf>>| {
            result.unwrap_or_else(|error| {
                problem.get_or_insert(error);
                None
            })
        };
        let full = own.or_else(|| SymbolTable::full(&separate?.0));
        // The small table leaves out what the dynamic one has, so the two are asked together.
        let mini = if full.is_none() { keep(mini_debug_info(self.elf)) } else { None };
        let is_full = full.is_some() || mini.is_some();
        let mut tables: Vec<SymbolTable<'_>> = full.into_iter().collect();
        if tables.is_empty() {
            tables.extend(mini.as_ref().and_then(SymbolTable::full));
            tables.extend(SymbolTable::dynamic(self.elf));
        }
        let reason = match tables.iter().map(SymbolTable::count).max() {
            None | Some(0..=1) => Unknown::NoSymbols,
            _ if is_full => Unknown::NotCovered,
            _ => Unknown::OnlyExported,
        };
        let (mut found, limited) = symbols::look_up(&tables, wanted, names);
        *problem = problem.take().or(limited);
        // A table that was read to its end and covers nothing here is right about that, whatever else was cut short.
        let reason = match problem {
            Some(ObjectError::Limit("symbols" | "overlapping symbols")) => Unknown::Limit,
            Some(ObjectError::Limit(_)) if reason != Unknown::NotCovered => Unknown::Limit,
            _ => reason,
        };
        let stubs: Vec<usize> = (0..wanted.len()).filter(|index| found[*index].is_none()).collect();
        let stub_addresses: Vec<u64> = stubs.iter().map(|index| wanted[*index]).collect();
        let name_of = |addresses: &[u64], names: &mut Names| symbols::look_up(&tables, addresses, names).0;
        for (index, name) in stubs.into_iter().zip(plt::look_up(self.elf, &stub_addresses, names, name_of)) {
            found[index] = name;
        }
        (found, reason)
    }
}

/// The frames of a chain from debug information. The symbol table names the last function where the chain does not,
/// and where its mangled name says more than the chain's plain one. None when neither knows the function.
fn frames(chain: Chain, symbol: Option<SymbolName>) -> Option<Vec<Frame>> {
    let Some(last) = chain.len().checked_sub(1) else {
        return Some(vec![Frame { function: symbol?.text, file: None, line: None, inlined: false }]);
    };
    let frame = |(index, frame): (usize, DwarfFrame)| {
        let inlined = index < last;
        let function = match (frame.function, &symbol) {
            (None, Some(symbol)) if !inlined => Some(Arc::clone(&symbol.text)),
            (Some(FunctionName::Plain(_)), Some(symbol)) if !inlined && symbol.was_mangled => {
                Some(Arc::clone(&symbol.text))
            }
            // An inlined call without a name says nothing; its callers still do.
            (function, _) => function.map(FunctionName::into_text),
        };
        function.map(|function| Frame { function, file: frame.file, line: frame.line, inlined })
    };
    let frames: Vec<Frame> = chain.into_iter().enumerate().filter_map(frame).collect();
    frames.last().is_some_and(|frame| !frame.inlined).then_some(frames)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::os::fd::AsFd;

    use super::*;
    use crate::object::fixtures;

    /// Where a function of this test binary lies in its file.
    fn offset_of(function: *const ()) -> u64 {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let address = function as u64;
        let found = maps.lines().find_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let (start, end) = fields[0].split_once('-')?;
            let hex = |text| u64::from_str_radix(text, 16).unwrap();
            (hex(start)..hex(end)).contains(&address).then(|| address - hex(start) + hex(fields[2]))
        });
        found.unwrap()
    }

    fn own(file_offsets: &[u64], options: &Options) -> ObjectSymbols {
        let file = File::open("/proc/self/exe").unwrap();
        let source = ObjectSource {
            path: "/opt/app/tests (deleted)",
            content: Content::File(&file),
            roots: &[],
            build_id: None,
        };
        symbolize(&source, file_offsets, options, &mut Names::default())
    }

    const OUTER_LINE: u32 = line!() + 2;
    #[inline(never)]
    fn outer(value: u64) -> u64 {
        inner(value) + 1
    }

    #[expect(clippy::inline_always, reason = "test builds inline nothing else")]
    #[inline(always)]
    fn inner(value: u64) -> u64 {
        std::hint::black_box(value).rotate_left(3)
    }

    #[test]
    fn a_function_of_ours_has_its_name_file_and_line() {
        let result = own(&[offset_of(outer as *const ())], &Options::default());
        assert_eq!(result.debug_info, DebugInfo::Own);
        let frame = result.addresses[0].frames.last().unwrap();
        assert!(frame.function.ends_with("native::tests::outer"), "{frame:?}");
        assert!(frame.file.as_deref().unwrap().ends_with("src/symbolize/native.rs"), "{frame:?}");
        assert!((OUTER_LINE..OUTER_LINE + 3).contains(&frame.line.unwrap()), "{frame:?}, not {OUTER_LINE}");
        assert!(!frame.inlined);
    }

    #[test]
    fn inlined_calls_come_first_and_can_be_hidden() {
        let start = offset_of(outer as *const ());
        let offsets: Vec<u64> = (start..start + 64).collect();
        let shown = own(&offsets, &Options::default());
        let chain = shown.addresses.iter().find(|address| address.frames.len() > 1).unwrap();
        let frame = chain.frames.iter().find(|frame| frame.function.ends_with("tests::inner")).unwrap();
        assert!(frame.inlined && frame.line.is_some());
        let hidden = own(&offsets, &Options { detail: Detail::Lines, ..Options::default() });
        assert!(hidden.addresses.iter().all(|address| address.frames.len() == 1));
    }

    #[test]
    fn unknown_addresses_have_a_frame_and_a_reason() {
        let gone =
            ObjectSource { path: "/lib/libfoo.so.1", content: Content::Gone, roots: &[], build_id: None };
        let mut names = Names::default();
        let result = symbolize(&gone, &[0x1a2b], &Options::default(), &mut names);
        assert_eq!(&*result.addresses[0].frames[0].function, "[libfoo.so.1+0x1a2b]");
        assert_eq!(result.addresses[0].unknown, Some(Unknown::FileGone));
        let script = ObjectSource { content: Content::Bytes(b"#!/bin/sh"), ..gone };
        assert_eq!(
            symbolize(&script, &[1], &Options::default(), &mut names).addresses[0].unknown,
            Some(Unknown::NotElf)
        );
        let outside = own(&[u64::MAX, 0], &Options::default());
        assert_eq!(outside.addresses[0].unknown, Some(Unknown::OutsideSegments));
        assert_eq!(&*outside.addresses[0].frames[0].function, "[tests+0xffffffffffffffff]");
    }

    #[test]
    fn a_file_that_was_replaced_is_noticed() {
        let file = File::open("/proc/self/exe").unwrap();
        let id = BuildId::new(&[1, 2, 3]);
        let source =
            ObjectSource { path: "/x", content: Content::File(&file), roots: &[], build_id: id.as_ref() };
        let result = symbolize(&source, &[0], &Options::default(), &mut Names::default());
        assert_eq!(result.addresses[0].unknown, Some(Unknown::FileChanged));
    }

    #[test]
    fn the_vdso_has_names() {
        let image = crate::object::vdso_image().unwrap();
        let source =
            ObjectSource { path: "[vdso]", content: Content::Bytes(&image), roots: &[], build_id: None };
        let all: Vec<u64> = (0..image.len() as u64).step_by(16).collect();
        let result = symbolize(&source, &all, &Options::default(), &mut Names::default());
        let named =
            |name: &str| result.addresses.iter().any(|address| address.frames[0].function.contains(name));
        assert!(named("clock_gettime") && named("[vdso+0x"));
    }

    /// All code of a fixture, looked up with the fixtures' directory as `/`.
    fn fixture(name: &str) -> ObjectSymbols {
        let (file, root) = (fixtures::open(name), File::open(fixtures::path("")).unwrap());
        let path = format!("/{name}");
        let roots = [root.as_fd()];
        let source =
            ObjectSource { path: &path, content: Content::File(&file), roots: &roots, build_id: None };
        let elf = fixtures::elf(name);
        let code = elf.sections().iter().filter(|section| section.executable);
        let offsets: Vec<u64> =
            code.flat_map(|section| section.file_offset..section.file_offset + section.size).collect();
        symbolize(&source, &offsets, &Options::default(), &mut Names::default())
    }

    /// Every chain of frames that occurs, as `function file:line < caller file:line`.
    fn chains(symbols: &ObjectSymbols) -> BTreeSet<String> {
        let text = |frame: &Frame| {
            let file = frame.file.as_deref().unwrap_or("?").rsplit('/').next().unwrap_or("?").to_owned();
            format!("{} {file}:{}", frame.function, frame.line.unwrap_or(0))
        };
        let chain = |address: &Symbolized| address.frames.iter().map(text).collect::<Vec<_>>().join(" < ");
        symbols.addresses.iter().map(chain).collect()
    }

    #[test]
    fn all_forms_of_debug_information_say_the_same() {
        let chain = "shared shared.h:4 < inner inlines.c:7 < middle inlines.c:11 < hidden inlines.c:15";
        for name in [
            "inlines.so",
            "dwarf4.so",
            "packed-zlib.so",
            "packed-zstd.so",
            "packed-zlib-gnu.so",
            "linked.so",
            "dwz.so",
            "arm64.so",
        ] {
            let symbols = fixture(name);
            let chains = chains(&symbols);
            assert!(symbols.problem.is_none(), "{name}: {:?}", symbols.problem);
            assert!(chains.contains(chain), "{name}: {chains:#?}");
            assert!(chains.contains("exported inlines.c:19"), "{name}: {chains:#?}");
            assert!(chains.contains("imported@plt ?:0"), "{name}: {chains:#?}");
        }
    }

    #[test]
    fn stripped_objects_keep_the_names_that_are_left() {
        let small = chains(&fixture("mini.so"));
        assert!(small.contains("hidden ?:0") && small.contains("exported ?:0"), "{small:#?}");
        let stripped = fixture("stripped.so");
        let names = chains(&stripped);
        assert!(!names.contains("hidden ?:0") && names.contains("exported ?:0"), "{names:#?}");
        assert!(stripped.addresses.iter().any(|address| address.unknown == Some(Unknown::OnlyExported)));
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(150))]
        #[test]
        fn damaged_objects_never_panic(
            which in 0..7_usize,
            changes in proptest::collection::vec((0.0..1.0_f64, proptest::num::u8::ANY), 1..20),
            cut in 0.0..1.0_f64,
        ) {
            let names = ["inlines.so", "dwarf4.so", "packed-zlib.so", "packed-zstd.so", "mini.so", "dwz.so", "arm64.so"];
            let mut bytes = std::fs::read(fixtures::path(names[which])).unwrap();
            for (at, byte) in changes {
                let at = (at * bytes.len() as f64) as usize;
                bytes[at] = byte;
            }
            // One in three is cut off as well.
            if cut < 0.33 {
                bytes.truncate((cut * 3.0 * bytes.len() as f64) as usize);
            }
            let offsets: Vec<u64> = (0..bytes.len() as u64).step_by(61).collect();
            let source = ObjectSource { path: "/x", content: Content::Bytes(&bytes), roots: &[], build_id: None };
            let result = symbolize(&source, &offsets, &Options::default(), &mut Names::default());
            proptest::prop_assert_eq!(result.addresses.len(), offsets.len());
            proptest::prop_assert!(result.addresses.iter().all(|address| !address.frames.is_empty()));
        }
    }
}
