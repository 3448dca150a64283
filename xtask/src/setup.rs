//! Finds or installs what building and testing need, and says what it did. A second run finds everything and changes nothing.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};
use xtask::toolchain::{Compiler, LINKER_VERSION, Toolchain, cache_root, clean_command, linker_root};

use crate::{apt, must};

/// Debian's compiler with a ready `core` for BPF.
const DEBIAN_COMPILER: [&str; 3] = ["rustc-web", "cargo-web", "libstd-rust-web-dev-bpf"];

/// Programs that the end-to-end tests profile, compare with or read results with, and what builds and boots the virtual machines.
const TEST_TOOLS: [&str; 24] = [
    "bpftool",
    "busybox-static",
    "chromium",
    "cpio",
    "g++",
    "g++-aarch64-linux-gnu",
    "gcc",
    "golang-go",
    "kmod",
    "libc6-dev",
    "libjemalloc2",
    "libmimalloc2.0",
    "libtcmalloc-minimal4",
    "musl-tools",
    "openssl",
    "prometheus",
    "python3",
    "python3-venv",
    "qemu-system-arm",
    "qemu-system-x86",
    "redis-server",
    "redis-tools",
    "strace",
    "systemd",
];

/// What decodes OTLP profiles in the tests: OpenTelemetry's own messages, in the version whose profiles are those that we write.
const OTLP_DECODER: &str = "opentelemetry-proto==1.45.2";

/// What builds for arm64 beside Debian's compiler.
const CROSS_TOOLS: [&str; 3] =
    ["gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross", "libstd-rust-web-dev:arm64"];

/// Makes sure that the BPF programs can be built.
///
/// # Errors
///
/// Something is missing and may not be installed; the text has the exact commands.
pub(crate) fn build_tools() -> Result<Toolchain> {
    if let Ok(toolchain) = Toolchain::find() {
        say(&toolchain);
        return Ok(toolchain);
    }
    if Command::new("cc").arg("--version").output().is_err() && apt::available() {
        apt::install(&["gcc", "libc6-dev"], "linking")?;
    }
    let compiler = match Compiler::find() {
        Some(compiler) => compiler,
        None => install_compiler()?,
    };
    eprintln!("  compiler: {}", compiler.describe());
    install_linker(compiler.llvm()?)?;
    let toolchain = Toolchain::find()?;
    say(&toolchain);
    Ok(toolchain)
}

fn say(toolchain: &Toolchain) {
    eprintln!(
        "BPF toolchain: {}, LLVM {}, {}",
        toolchain.compiler.describe(),
        toolchain.llvm,
        toolchain.linker.display()
    );
}

fn install_compiler() -> Result<Compiler> {
    if apt::available() {
        match apt::install(&DEBIAN_COMPILER, "building BPF programs") {
            Ok(()) => {
                return Compiler::find()
                    .context("the packages are installed, but there is no core for the BPF target in them");
            }
            Err(error) => eprintln!("  {error:#}\n  trying rustup's nightly instead"),
        }
    }
    let rustup = ["toolchain", "install", "nightly", "--profile", "minimal", "--component", "rust-src"];
    let installed = clean_command("rustup").args(rustup).status().is_ok_and(|status| status.success());
    match Compiler::find() {
        Some(compiler) if installed => Ok(compiler),
        _ => bail!(
            "no compiler for BPF could be installed; do one of these and try again:\n  rustup {}\n  sudo apt-get install --no-install-recommends {}",
            rustup.join(" "),
            DEBIAN_COMPILER.join(" ")
        ),
    }
}

/// Builds `bpf-linker` against the LLVM that the compiler uses; any other would not read its bitcode.
fn install_linker(llvm: u32) -> Result<()> {
    let root = linker_root(llvm)?;
    if root.join("bin/bpf-linker").exists() {
        return Ok(());
    }
    let packages = [
        format!("llvm-{llvm}-dev"),
        format!("libpolly-{llvm}-dev"),
        "libzstd-dev".into(),
        "zlib1g-dev".into(),
        "g++".into(),
    ];
    let names: Vec<&str> = packages.iter().map(String::as_str).collect();
    if apt::available() {
        apt::install(&names, "the BPF linker")?;
    }
    let prefix = format!("/usr/lib/llvm-{llvm}");
    if !std::path::Path::new(&prefix).exists() {
        bail!(
            "{prefix} is missing: install LLVM {llvm}'s development files, or run `cargo install bpf-linker`"
        );
    }
    eprintln!("  building bpf-linker {LINKER_VERSION} for LLVM {llvm} into {}", root.display());
    let path = std::env::var("PATH").unwrap_or_default();
    must(
        clean_command("cargo")
            .args([
                "install",
                "--quiet",
                "--locked",
                "bpf-linker",
                "--version",
                LINKER_VERSION,
                "--no-default-features",
            ])
            .args(["--features", &format!("llvm-{llvm}"), "--root"])
            .arg(&root)
            .env("LLVM_PREFIX", &prefix)
            .env("PATH", format!("{prefix}/bin:{path}")),
    )
}

/// Makes sure that everything the tests use is there.
///
/// # Errors
///
/// As for [`build_tools`].
pub(crate) fn test_tools() -> Result<()> {
    if !apt::available() {
        bail!("the tests install what they need with apt-get, which this system does not have");
    }
    apt::install(&TEST_TOOLS, "the tests")?;
    cross_tools()?;
    install_decoder()?;
    eprintln!("test tools: all installed");
    Ok(())
}

/// A Python that has what decodes OTLP profiles.
///
/// # Errors
///
/// Nobody knows where to keep it.
pub(crate) fn decoder_python() -> Result<PathBuf> {
    Ok(cache_root()?.join(OTLP_DECODER).join("bin/python"))
}

fn install_decoder() -> Result<()> {
    let python = decoder_python()?;
    if Command::new(&python)
        .args(["-c", "import opentelemetry.proto.profiles"])
        .output()
        .is_ok_and(|run| run.status.success())
    {
        return Ok(());
    }
    eprintln!("  installing for the tests: {OTLP_DECODER}");
    let root = cache_root()?.join(OTLP_DECODER);
    must(Command::new("/usr/bin/python3").args(["-m", "venv", "--clear"]).arg(root))?;
    must(Command::new(python).args(["-m", "pip", "install", "--quiet", OTLP_DECODER]))
}

/// Makes sure that the agent can be built for arm64: only Debian's compiler has that target's library as a package beside the host's.
///
/// # Errors
///
/// As for [`build_tools`].
pub(crate) fn cross_tools() -> Result<()> {
    if !apt::available() {
        bail!("the arm64 build needs Debian's compiler and libraries, and this system has no apt-get");
    }
    apt::add_architecture("arm64")?;
    apt::install(&DEBIAN_COMPILER, "cross building")?;
    apt::install(&CROSS_TOOLS, "cross building")
}
