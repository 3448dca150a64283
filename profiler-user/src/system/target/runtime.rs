//! What runs inside a target: language runtime, C library, allocator, perf map.
//!
//! In: the file names in `/proc/PID/maps`, the command line and a few environment variables. Out: [`Software`], facts
//! for advice. A heuristic over names; nothing is decided by it.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::super::{binary::Allocator, read};
use super::{LastLink, Target, open_in_root, proc_path};
use crate::profile::clean;

/// Most of `/proc/PID/maps` that is read; a JVM with thousands of mappings has about 1 MiB.
const MAPS_BYTES: u64 = 8 << 20;
/// Most of the command line and of the environment that is read.
const ARGUMENT_BYTES: u64 = 128 << 10;

/// A language runtime, as far as it matters for names of functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runtime {
    /// A Java virtual machine.
    Java,
    /// Node.js.
    Node,
    /// CPython, with its minor version of 3 when the file names tell it.
    Python(Option<u32>),
}

/// The C library.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Libc {
    /// GNU.
    Glibc,
    /// musl.
    Musl,
    /// None that is mapped as a file: a static program.
    Static,
}

/// A file of names for generated code, written by the target (`/tmp/perf-PID.map`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PerfMap {
    /// Its path as the target sees it.
    pub path: String,
    /// Who owns it.
    pub uid: u32,
    /// Its size.
    pub bytes: u64,
}

/// What runs inside a target.
#[derive(Debug, Clone, Default)]
pub struct Software {
    /// The language runtime; None for plain native code (and Go, which only the executable tells).
    pub runtime: Option<Runtime>,
    /// The C library; None when the mappings cannot be read.
    pub libc: Option<Libc>,
    /// Paths of the shared objects with code, as the target sees them, each once, without deleted ones.
    /// Those with the most code mapped come first.
    pub libraries: Vec<PathBuf>,
    /// An allocator that is a library of its own.
    pub allocator: Option<Allocator>,
    /// Arguments and settings that make the runtime write names or keep frame pointers.
    pub switches: Vec<String>,
    /// The perf map.
    pub perf_map: Option<PerfMap>,
}

impl Software {
    /// Looks a target over. What cannot be read is left out.
    pub fn gather(target: &Target) -> Self {
        let maps = read::bounded(&proc_path(target.pid, "maps"), MAPS_BYTES);
        let names = maps.as_deref().map(file_names).unwrap_or_default();
        let arguments = ["cmdline", "environ"]
            .map(|name| read::bounded(&proc_path(target.pid, name), ARGUMENT_BYTES).unwrap_or_default());
        let exe_name = target.exe.path().and_then(|path| path.rsplit('/').next()).unwrap_or_default();
        Self {
            runtime: runtime(exe_name, &names),
            libc: maps.is_ok().then(|| libc(&names)),
            libraries: maps.as_deref().map(libraries).unwrap_or_default(),
            allocator: names.iter().find_map(|name| Allocator::of_library(name)),
            switches: switches(&arguments.concat()),
            perf_map: perf_map(target),
        }
    }

    /// The target was started so that generated code has names, as far as its arguments tell.
    pub fn names_generated_code(&self) -> bool {
        self.switches.iter().any(|switch| switch != FRAME_POINTER_SWITCH)
    }

    /// The JVM was told to keep frame pointers in generated code.
    pub fn preserves_frame_pointers(&self) -> bool {
        self.switches.iter().any(|switch| switch == FRAME_POINTER_SWITCH)
    }
}

/// Last parts of the paths of all mapped files, cleaned.
fn file_names(maps: &[u8]) -> BTreeSet<String> {
    let path = |line: &[u8]| {
        let start = line.iter().position(|byte| *byte == b'/')?;
        let path = line.get(start..)?;
        let path = path.strip_suffix(b" (deleted)").unwrap_or(path);
        path.rsplit(|byte| *byte == b'/').next().map(clean)
    };
    maps.split(|byte| *byte == b'\n').filter_map(path).collect()
}

/// Paths of executable mappings whose file name looks like that of a shared object, most code first.
fn libraries(maps: &[u8]) -> Vec<PathBuf> {
    let mut bytes_of: BTreeMap<&[u8], u64> = BTreeMap::new();
    for (path, bytes) in maps.split(|byte| *byte == b'\n').filter_map(library_code) {
        let total = bytes_of.entry(path).or_default();
        *total = total.saturating_add(bytes);
    }
    let mut paths: Vec<_> = bytes_of.into_iter().collect();
    paths.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    paths.into_iter().map(|(path, _)| PathBuf::from(OsString::from_vec(path.to_vec()))).collect()
}

/// Path and size of one mapping of a shared object's code.
fn library_code(line: &[u8]) -> Option<(&[u8], u64)> {
    // address, permissions, offset, device, inode, path (proc(5)).
    let mut words = line.split(|byte| *byte == b' ');
    let (range, permissions) = (std::str::from_utf8(words.next()?).ok()?, words.next()?);
    let path = line.get(line.iter().position(|byte| *byte == b'/')?..)?;
    let name = path.rsplit(|byte| *byte == b'/').next()?;
    let is_library = permissions.contains(&b'x') && name.windows(3).any(|part| part == b".so");
    let (start, end) = range.split_once('-')?;
    let [start, end] = [start, end].map(|hex| u64::from_str_radix(hex, 16).unwrap_or(0));
    (is_library && !path.ends_with(b" (deleted)")).then(|| (path, end.saturating_sub(start)))
}

fn runtime(exe_name: &str, names: &BTreeSet<String>) -> Option<Runtime> {
    let starting = |start: &str| names.iter().find(|name| name.starts_with(start));
    if starting("libjvm.so").is_some() {
        return Some(Runtime::Java);
    }
    if matches!(exe_name, "node" | "nodejs") || starting("libnode.so").is_some() {
        return Some(Runtime::Node);
    }
    let python = starting("libpython3.")
        .map(String::as_str)
        .or_else(|| exe_name.starts_with("python").then_some(exe_name));
    python.map(|name| {
        let after = name.split_once("python3.").map_or("", |(_, after)| after);
        let digits = after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len());
        Runtime::Python(after.get(..digits).and_then(|minor| minor.parse().ok()))
    })
}

fn libc(names: &BTreeSet<String>) -> Libc {
    let any = |matches: fn(&str) -> bool| names.iter().any(|name| matches(name));
    if any(|name| name.starts_with("ld-musl-") || name.starts_with("libc.musl-")) {
        Libc::Musl
    } else if any(|name| name == "libc.so.6" || name.starts_with("libc-2.")) {
        Libc::Glibc
    } else {
        Libc::Static
    }
}

/// The one switch that is about frame pointers instead of names.
const FRAME_POINTER_SWITCH: &str = "-XX:+PreserveFramePointer";

/// Known switches among arguments and environment variables, as they are written there.
fn switches(arguments: &[u8]) -> Vec<String> {
    const ANYWHERE: [&str; 7] = [
        FRAME_POINTER_SWITCH,
        "-XX:+DumpPerfMapAtExit",
        "libperfmap.so",
        "--perf-basic-prof",
        "--perf-prof",
        "--interpreted-frames-native-stack",
        "PYTHONPERFSUPPORT=1",
    ];
    let text = String::from_utf8_lossy(arguments);
    let mut found: Vec<String> =
        ANYWHERE.iter().filter(|switch| text.contains(**switch)).map(|switch| (*switch).to_owned()).collect();
    if text.contains("-X\0perf\0") || text.contains("-Xperf\0") {
        found.push("-X perf".to_owned());
    }
    found
}

fn perf_map(target: &Target) -> Option<PerfMap> {
    let path = format!("/tmp/perf-{}.map", target.own_pid());
    let file = open_in_root(target.pid, Path::new(&path), LastLink::Refuse).ok()?;
    let meta = file.metadata().ok().filter(std::fs::Metadata::is_file)?;
    Some(PerfMap { path, uid: meta.uid(), bytes: meta.len() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> BTreeSet<String> {
        list.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn mapped_files_are_listed_once_by_name() {
        let maps = b"55d0-55d1 r--p 00000000 08:01 42   /usr/bin/a b\n\
            7f00-7f01 r-xp 00000000 08:01 43 /usr/lib/libc.so.6\n7f01-7f02 r--p 0 08:01 43 /usr/lib/libc.so.6\n\
            7f03-7f04 rw-p 0 00:00 0 [stack]\n7f05-7f06 r-xp 0 08:01 9 /opt/x.so (deleted)\n7f07-7f17 r-xp 0 08:01 9 /z/libz.so.1\n";
        assert_eq!(file_names(maps), names(&["a b", "libc.so.6", "libz.so.1", "x.so"]));
        assert_eq!(libraries(maps), [Path::new("/z/libz.so.1"), Path::new("/usr/lib/libc.so.6")]);
    }

    #[test]
    fn runtimes_are_known_by_their_files() {
        assert_eq!(runtime("java", &names(&["libjvm.so", "libc.so.6"])), Some(Runtime::Java));
        assert_eq!(runtime("node", &names(&[])), Some(Runtime::Node));
        assert_eq!(runtime("python3.12", &names(&[])), Some(Runtime::Python(Some(12))));
        assert_eq!(runtime("uwsgi", &names(&["libpython3.9.so.1.0"])), Some(Runtime::Python(Some(9))));
        assert_eq!(runtime("python3", &names(&[])), Some(Runtime::Python(None)));
        assert_eq!(runtime("redis-server", &names(&["libc.so.6"])), None);
    }

    #[test]
    fn c_libraries_are_told_apart() {
        assert_eq!(libc(&names(&["libc.so.6"])), Libc::Glibc);
        assert_eq!(libc(&names(&["libc-2.31.so"])), Libc::Glibc);
        assert_eq!(libc(&names(&["ld-musl-x86_64.so.1"])), Libc::Musl);
        assert_eq!(libc(&names(&["app"])), Libc::Static);
    }

    #[test]
    fn switches_are_found_in_arguments_and_environment() {
        let found = |text: &[u8]| Software { switches: switches(text), ..Software::default() };
        assert!(found(b"node\0--perf-basic-prof\0a.js\0").names_generated_code());
        assert!(found(b"python3\0-X\0perf\0a.py\0").names_generated_code());
        let java = found(b"java\0-XX:+PreserveFramePointer\0");
        assert!(java.preserves_frame_pointers() && !java.names_generated_code());
        assert!(found(b"python3\0-X\0perfect\0").switches.is_empty());
    }
}
