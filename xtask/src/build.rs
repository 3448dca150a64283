//! Building the agent, and running it as root.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Result, anyhow};
use xtask::bpf::workspace;

use crate::{apt, must, setup};

/// Builds the release binary, setting up first if need be.
pub(crate) fn release() -> Result<PathBuf> {
    setup::build_tools()?;
    must(cargo().args(["build", "--release", "--package", "profiler-user"]))?;
    Ok(target_folder().join("release/perf-agent"))
}

/// Builds and becomes the agent.
pub(crate) fn run(args: &[OsString]) -> Result<ExitCode> {
    let binary = release()?;
    let mut command = if apt::is_root() {
        Command::new(&binary)
    } else {
        let mut sudo = Command::new("sudo");
        sudo.arg("--").arg(&binary);
        sudo
    };
    // Returns only when it fails: from here on this process is the agent, with its signals and exit code.
    let error = command.args(args).exec();
    Err(anyhow!("cannot run {}: {error}", crate::steps::words(&command)))
}

/// The cargo that runs us, at the workspace's root.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace());
    command
}

/// Where cargo puts what it builds.
pub(crate) fn target_folder() -> PathBuf {
    let root = workspace();
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |folder| root.join(folder))
}
