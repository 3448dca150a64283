//! Builds the BPF object: always in release, in a target folder of its own that all builds share.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::toolchain::{BPF_TARGET, Toolchain};

/// Files whose change makes another object. Everything else leaves a build script's result as it is.
const INPUTS: [&str; 5] = [
    "profiler-ebpf/src",
    "profiler-ebpf/Cargo.toml",
    "profiler-ebpf/Cargo.lock",
    "profiler-common/src",
    "profiler-common/Cargo.toml",
];

/// Whether the programs log through aya-log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Logging {
    /// For work on the programs.
    On,
    /// For everything else.
    Off,
}

/// The workspace that this crate is part of.
pub fn workspace() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_path_buf()
}

/// For a build script: builds the object and tells cargo when to do so again. Returns the object's path.
///
/// # Errors
///
/// No toolchain (one sentence that names `cargo xtask setup`), or the compiler's messages.
pub fn build_for_script(logging: Logging) -> Result<PathBuf> {
    emit_inputs();
    build(logging)
}

#[expect(clippy::print_stdout, reason = "this is how a build script talks to cargo")]
fn emit_inputs() {
    let root = workspace();
    for input in INPUTS {
        println!("cargo::rerun-if-changed={}", root.join(input).display());
    }
    for variable in ["PATH", "XDG_CACHE_HOME"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
}

/// Builds the object.
///
/// # Errors
///
/// No toolchain, or the compiler's messages.
pub fn build(logging: Logging) -> Result<PathBuf> {
    let toolchain = Toolchain::find()?;
    let root = workspace();
    let target = target_folder(&root).join(match logging {
        Logging::On => "bpf-log",
        Logging::Off => "bpf",
    });
    let mut command = toolchain.compiler.cargo();
    command
        .current_dir(root.join("profiler-ebpf"))
        .args(["--release", "--locked", "--target", BPF_TARGET])
        .env("CARGO_TARGET_DIR", &target)
        .env(
            "RUSTFLAGS",
            format!("-C debuginfo=2 -C linker={} -C link-arg=--btf", toolchain.linker.display()),
        );
    if logging == Logging::On {
        command.args(["--features", "bpf-log"]);
    }
    let output =
        command.output().with_context(|| format!("cannot run {}", command.get_program().display()))?;
    if !output.status.success() {
        bail!("the BPF programs do not build:\n{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(target.join(BPF_TARGET).join("release/profiler-ebpf"))
}

/// The target folder of the build that is going on: where cargo was told to, or the workspace's own.
fn target_folder(root: &Path) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |folder| root.join(folder))
}
