//! Finds what builds BPF programs: a rustc that has `core` for the BPF target, and a `bpf-linker` of the same LLVM.
//!
//! Two ways work. Debian ships a rustc with a ready `core` for BPF; it stands beside rustup and is called by its full path.
//! Elsewhere it is rustup's nightly with `rust-src`, which builds `core` itself. Nothing is installed here; see `setup`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// The target of all BPF programs; both architectures that we support are little-endian.
pub const BPF_TARGET: &str = "bpfel-unknown-none";

/// The linker's version that is installed; one that is found may be another.
pub const LINKER_VERSION: &str = "0.13.0";

/// A rustc that can compile for BPF, and the cargo that goes with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compiler {
    /// A stable compiler with a ready `core`; it takes unstable features by `RUSTC_BOOTSTRAP`.
    Distribution {
        /// `rustc`.
        rustc: PathBuf,
        /// `cargo`.
        cargo: PathBuf,
    },
    /// rustup's nightly, which builds `core` from `rust-src`.
    Nightly,
}

/// All that building BPF takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Toolchain {
    /// The compiler.
    pub compiler: Compiler,
    /// Its LLVM's major version.
    pub llvm: u32,
    /// `bpf-linker` for that LLVM.
    pub linker: PathBuf,
}

impl Toolchain {
    /// Finds both parts.
    ///
    /// # Errors
    ///
    /// One sentence that says what is missing and names `cargo xtask setup`.
    pub fn find() -> Result<Self> {
        let Some(compiler) = Compiler::find() else {
            bail!("no rustc here can compile for {BPF_TARGET}; `cargo xtask setup` installs one or says how");
        };
        let llvm = compiler.llvm()?;
        let Some(linker) = find_linker(llvm) else {
            bail!("no bpf-linker for LLVM {llvm} is installed; `cargo xtask setup` builds it or says how");
        };
        Ok(Self { compiler, llvm, linker })
    }
}

impl Compiler {
    /// The distribution's compiler, else a complete nightly.
    pub fn find() -> Option<Self> {
        Self::find_distribution().or_else(Self::find_nightly)
    }

    fn find_distribution() -> Option<Self> {
        let pairs = ["/usr/bin", "/usr/lib/rust-web/bin"].map(Path::new);
        pairs.iter().find_map(|directory| {
            let (rustc, cargo) = (directory.join("rustc"), directory.join("cargo"));
            let found = Self::Distribution { rustc, cargo: cargo.clone() };
            (cargo.exists() && found.has_core()).then_some(found)
        })
    }

    fn find_nightly() -> Option<Self> {
        let source = Self::Nightly.sysroot()?.join("lib/rustlib/src/rust/library/core/Cargo.toml");
        source.exists().then_some(Self::Nightly)
    }

    /// Whether `core` for BPF is really there: a rustc may know the target and lack the library.
    fn has_core(&self) -> bool {
        let Some(sysroot) = self.sysroot() else { return false };
        let libraries = std::fs::read_dir(sysroot.join("lib/rustlib").join(BPF_TARGET).join("lib"));
        let is_core = |name: OsString| name.to_string_lossy().starts_with("libcore-");
        libraries
            .is_ok_and(|mut entries| entries.any(|entry| entry.is_ok_and(|entry| is_core(entry.file_name()))))
    }

    fn sysroot(&self) -> Option<PathBuf> {
        let output = self.rustc().args(["--print", "sysroot"]).output().ok()?;
        output.status.success().then(|| PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
    }

    /// Major version of its LLVM.
    ///
    /// # Errors
    ///
    /// The compiler does not say.
    pub fn llvm(&self) -> Result<u32> {
        let output = self.rustc().arg("-vV").output().context("cannot run rustc -vV")?;
        llvm_major(&String::from_utf8_lossy(&output.stdout)).context("rustc -vV names no LLVM version")
    }

    fn rustc(&self) -> Command {
        match self {
            Self::Distribution { rustc, .. } => clean_command(rustc),
            Self::Nightly => {
                let mut command = clean_command("rustup");
                command.args(["run", "nightly", "rustc"]);
                command
            }
        }
    }

    /// The cargo command that builds for BPF.
    pub fn cargo(&self) -> Command {
        match self {
            Self::Distribution { rustc, cargo } => {
                let mut command = clean_command(cargo);
                command.env("RUSTC", rustc).env("RUSTC_BOOTSTRAP", "1").arg("build");
                command
            }
            Self::Nightly => {
                let mut command = clean_command("rustup");
                command.args(["run", "nightly", "cargo", "build", "-Z", "build-std=core"]);
                command
            }
        }
    }

    /// For people.
    pub fn describe(&self) -> String {
        match self {
            Self::Distribution { rustc, .. } => {
                format!("{} with a ready core for {BPF_TARGET}", rustc.display())
            }
            Self::Nightly => "rustup's nightly with rust-src".to_owned(),
        }
    }
}

/// A command without what an outer cargo or rustup put into the environment for its own compiler.
pub fn clean_command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        let name_text = name.to_string_lossy();
        let foreign = matches!(
            &*name_text,
            "RUSTC"
                | "RUSTDOC"
                | "RUSTFLAGS"
                | "RUSTC_WRAPPER"
                | "RUSTC_WORKSPACE_WRAPPER"
                | "RUSTUP_TOOLCHAIN"
                | "CARGO"
                | "TARGET"
        ) || [
            "CARGO_ENCODED_",
            "CARGO_BUILD_",
            "CARGO_PROFILE_",
            "CARGO_FEATURE_",
            "CARGO_CFG_",
            "CARGO_PKG_",
            "CARGO_MANIFEST_",
            "CARGO_TARGET_",
        ]
        .iter()
        .any(|prefix| name_text.starts_with(prefix));
        if foreign {
            command.env_remove(name);
        }
    }
    command
}

fn llvm_major(version: &str) -> Option<u32> {
    let line = version.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
    line.split('.').next()?.parse().ok()
}

/// Where `setup` puts the linker for an LLVM: below the user's cache, so that all clones share it.
///
/// # Errors
///
/// Neither `XDG_CACHE_HOME` nor `HOME` is set.
pub fn linker_root(llvm: u32) -> Result<PathBuf> {
    Ok(cache_root()?.join(format!("bpf-linker-{LINKER_VERSION}-llvm{llvm}")))
}

/// The folder of everything that xtask keeps outside the project.
///
/// # Errors
///
/// Neither `XDG_CACHE_HOME` nor `HOME` is set.
pub fn cache_root() -> Result<PathBuf> {
    let base = match std::env::var_os("XDG_CACHE_HOME") {
        Some(cache) if !cache.is_empty() => PathBuf::from(cache),
        _ => PathBuf::from(std::env::var_os("HOME").context("HOME is not set")?).join(".cache"),
    };
    Ok(base.join("perf-agent"))
}

/// Our own linker for this LLVM, else one on the search path that says it was built with it.
fn find_linker(llvm: u32) -> Option<PathBuf> {
    let own = linker_root(llvm).ok()?.join("bin/bpf-linker");
    if own.exists() {
        return Some(own);
    }
    let path = std::env::var_os("PATH")?;
    let found = std::env::split_paths(&path)
        .map(|directory| directory.join("bpf-linker"))
        .find(|file| file.exists())?;
    let output = Command::new(&found).arg("--version").output().ok()?;
    // Versions before 0.10 do not say their LLVM; one from crates.io brings the newest, which reads older bitcode.
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let said = text.split("LLVM ").nth(1).and_then(|rest| rest.split('.').next()?.parse::<u32>().ok());
    (output.status.success() && said.is_none_or(|said| said >= llvm)).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_llvm_version_is_read_from_rustc() {
        let text = "rustc 1.96.0\nbinary: rustc\nrelease: 1.96.0\nLLVM version: 22.1.8\n";
        assert_eq!(llvm_major(text), Some(22));
        assert_eq!(llvm_major("rustc 1.0"), None);
    }
}
