//! Compiles the programs whose true profile is known: dynamic ones for this host, static ones for virtual machines.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use xtask::bpf::workspace;

use crate::{build, must};

/// Frame pointers, no sibling calls, little enough optimization that a function stays one.
const FLAGS: [&str; 7] = [
    "-O1",
    "-g",
    "-fno-omit-frame-pointer",
    "-mno-omit-leaf-frame-pointer",
    "-fno-optimize-sibling-calls",
    "-Wall",
    "-pthread",
];

/// How a program is linked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Linking {
    /// As distributions do.
    Dynamic,
    /// For a machine without libraries.
    Static,
}

/// Compiles all programs with this compiler into a folder named `name`; returns it.
pub(crate) fn compile(compiler: &str, name: &str, linking: Linking) -> Result<PathBuf> {
    let folder = build::target_folder().join("workloads").join(name);
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    for source in sources()? {
        let stem = source.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let library = stem.ends_with("_lib");
        // dlopen has no meaning in a static program.
        if linking == Linking::Static && stem.starts_with("dlopen") {
            continue;
        }
        let mut command = Command::new(compiler);
        command.args(FLAGS).arg(&source);
        match (library, linking) {
            (true, _) => command.args(["-shared", "-fPIC", "-o"]).arg(folder.join(format!("{stem}.so"))),
            (false, Linking::Dynamic) => command.arg("-o").arg(folder.join(&stem)),
            (false, Linking::Static) => command.args(["-static", "-o"]).arg(folder.join(&stem)),
        };
        command.arg("-ldl");
        must(&mut command)?;
    }
    Ok(folder)
}

fn sources() -> Result<Vec<PathBuf>> {
    let folder = workspace().join("tests/workloads");
    let entries = std::fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut sources: Vec<PathBuf> =
        entries.flatten().map(|entry| entry.path()).filter(|path| is_c(path)).collect();
    sources.sort();
    Ok(sources)
}

fn is_c(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "c")
}
