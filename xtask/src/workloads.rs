//! Compiles the programs whose true profile is known: dynamic ones for this host, static ones for virtual machines.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use xtask::bpf::workspace;

use crate::{build, must};

/// For all programs.
const FLAGS: [&str; 3] = ["-g", "-Wall", "-pthread"];

/// Frame pointers, no sibling calls, little enough optimization that a function stays one.
const FRAME_POINTERS: [&str; 4] =
    ["-O1", "-fno-omit-frame-pointer", "-mno-omit-leaf-frame-pointer", "-fno-optimize-sibling-calls"];

/// As distributions compile: only unwind tables know the frames. For programs whose name starts with `nofp_`.
const NO_FRAME_POINTERS: [&str; 4] =
    ["-O2", "-fomit-frame-pointer", "-momit-leaf-frame-pointer", "-fasynchronous-unwind-tables"];

/// Programs that load or call a library of their own, which has no meaning in a static program.
const DYNAMIC_ONLY: [&str; 3] = ["dlopen", "nofp_dlopen", "nofp_plt"];

/// How a program is linked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Linking {
    /// As distributions do.
    Dynamic,
    /// For a machine without libraries.
    Static,
}

/// Compiles all programs for a target, given by the prefix of its compilers' names, into a folder named `name`; returns it.
pub(crate) fn compile(prefix: &str, name: &str, linking: Linking) -> Result<PathBuf> {
    let folder = build::target_folder().join("workloads").join(name);
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    for source in sources()? {
        let stem = stem(&source);
        if linking == Linking::Static && DYNAMIC_ONLY.iter().any(|start| stem.starts_with(start)) {
            continue;
        }
        let mut command = Command::new(format!("{prefix}{}", if is(&source, "cc") { "g++" } else { "gcc" }));
        command.args(FLAGS).args(if stem.starts_with("nofp_") { NO_FRAME_POINTERS } else { FRAME_POINTERS });
        command.arg(&source).args(link_flags(&stem, linking)).arg("-o");
        command.arg(folder.join(if is_library(&stem) { format!("{stem}.so") } else { stem.clone() }));
        // A program with a library of its own name finds it beside itself and binds to it at the first call.
        let library = format!("{stem}_lib");
        if source.with_file_name(&library).with_extension("c").exists() {
            command.arg(format!("-l:{library}.so")).arg("-L").arg(&folder);
            command.args(["-Wl,-rpath,$ORIGIN", "-Wl,-z,lazy"]);
        }
        must(command.arg("-ldl"))?;
    }
    Ok(folder)
}

/// The end of a program's name may ask for a way of linking.
fn link_flags(stem: &str, linking: Linking) -> &'static [&'static str] {
    match linking {
        _ if is_library(stem) => &["-shared", "-fPIC"],
        _ if stem.ends_with("_staticpie") => &["-static-pie"],
        Linking::Static => &["-static"],
        Linking::Dynamic if stem.ends_with("_nopie") => &["-no-pie"],
        Linking::Dynamic => &[],
    }
}

/// All sources, libraries first, since programs are linked with them.
fn sources() -> Result<Vec<PathBuf>> {
    let folder = workspace().join("tests/workloads");
    let entries = std::fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let paths = entries.flatten().map(|entry| entry.path());
    let mut sources: Vec<PathBuf> = paths.filter(|path| is(path, "c") || is(path, "cc")).collect();
    sources.sort_by_key(|source| (!is_library(&stem(source)), source.clone()));
    Ok(sources)
}

fn stem(source: &Path) -> String {
    source.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

fn is_library(stem: &str) -> bool {
    stem.ends_with("_lib")
}

fn is(path: &Path, wanted: &str) -> bool {
    path.extension().is_some_and(|extension| extension == wanted)
}
