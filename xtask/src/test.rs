//! All tests, in the order in which failing is cheap.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};
use xtask::bpf::workspace;
use xtask::toolchain::Toolchain;

use crate::build::{cargo, target_folder};
use crate::steps::Steps;
use crate::verdicts::Verdicts;
use crate::workloads::{Linking, compile};
use crate::{apt, build, dist, must, setup, vm};

/// Failed end-to-end tests that are tried once more. They measure time on machines that stall for seconds now and then; a fault of ours
/// fails twice.
const MOST_TRIED_AGAIN: usize = 6;

/// Where the end-to-end tests run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Machines {
    /// On this kernel.
    Host,
    /// On this kernel and on those of the matrix.
    HostAndVirtual,
}

/// Runs everything and prints a summary; fails if any step failed.
pub(crate) fn all(machines: Machines) -> ExitCode {
    let mut steps = Steps::default();
    steps.run("set-up", || {
        setup::build_tools()?;
        setup::test_tools()
    });
    steps.run("unit, property and documentation tests", || {
        must(cargo().args(["test", "--workspace", "--exclude", "tests"]))
    });
    steps.run("end-to-end tests on this kernel", end_to_end);
    if machines == Machines::HostAndVirtual {
        vm::run_all(&mut steps, &vm::MACHINES, vm::ALL_TESTS);
    }
    if steps.summary() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn end_to_end() -> Result<()> {
    let agent = build::release()?;
    let package = dist::run(std::env::consts::ARCH, Some(&agent))?;
    let workloads = compile("", "host", Linking::Dynamic)?;
    let suite = suite_binary(&[])?;
    let run_suite = |tests: &[String]| run_suite(&suite, [&agent, &package, &workloads], tests);
    let first = run_suite(&[])?;
    if first.failed().is_empty() {
        return Ok(());
    }
    if first.failed().len() > MOST_TRIED_AGAIN {
        bail!("{} tests failed\n{}", first.failed().len(), first.said());
    }
    println!("tried once more, on a machine that others may have kept busy: {}", first.failed().join(", "));
    let again = run_suite(first.failed())?;
    if !again.failed().is_empty() {
        bail!("failed twice: {}\n{}\n{}", again.failed().join(", "), first.said(), again.said());
    }
    Ok(())
}

/// Runs the end-to-end tests, or those named.
fn run_suite(suite: &Path, [agent, package, workloads]: [&PathBuf; 3], tests: &[String]) -> Result<Verdicts> {
    let mut run = if apt::is_root() {
        Command::new(suite)
    } else {
        let mut sudo = Command::new("sudo");
        sudo.args(["-E", "--"]).arg(suite);
        sudo
    };
    if !tests.is_empty() {
        run.arg("--exact").args(tests);
    }
    // One at a time: the tests measure shares of CPU time, and two cores are all there may be.
    run.arg("--test-threads=1").env("PERF_AGENT_BIN", agent).env("PERF_AGENT_WORKLOADS", workloads);
    run.env("PERF_AGENT_DEB", package).env("PERF_AGENT_TEST_PYTHON", setup::decoder_python()?);
    let mut child = run
        .current_dir(workspace().join("tests"))
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run `{}`", suite.display()))?;
    let mut verdicts = Verdicts::default();
    for line in BufReader::new(child.stdout.take().context("no output of the tests")?).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).into_owned();
        println!("{line}");
        verdicts.read(&line);
    }
    println!("slowest: {}", verdicts.slowest());
    let status = child.wait()?;
    if !status.success() && verdicts.failed().is_empty() {
        bail!("the end-to-end tests ended without a result ({status})");
    }
    Ok(verdicts)
}

/// Builds the end-to-end tests without running them and finds the binary.
pub(crate) fn suite_binary(extra: &[&str]) -> Result<PathBuf> {
    let mut command = cargo();
    command
        .args(["test", "--no-run", "--package", "tests", "--test", "suite", "--message-format=json"])
        .args(extra);
    executable(&mut command)
}

/// Runs a build that reports in JSON and finds the test executable in what it says.
pub(crate) fn executable(command: &mut Command) -> Result<PathBuf> {
    let output = command.stderr(Stdio::inherit()).output().context("cannot run cargo")?;
    if !output.status.success() {
        bail!("the end-to-end tests do not build");
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut paths = text.lines().filter_map(|line| line.split("\"executable\":\"").nth(1)?.split('"').next());
    paths.next_back().map(PathBuf::from).context("cargo named no test executable")
}

/// Formatter and clippy over both worlds, warnings denied.
pub(crate) fn lint() -> ExitCode {
    let mut steps = Steps::default();
    let mut toolchain = None;
    steps.run("set-up", || {
        toolchain = Some(setup::build_tools()?);
        Ok(())
    });
    steps.run("formatter", || must(cargo().args(["fmt", "--all", "--check"])));
    steps.run("formatter, BPF programs", || {
        must(cargo().args(["fmt", "--check"]).current_dir(workspace().join("profiler-ebpf")))
    });
    steps.run("clippy", || {
        must(cargo().args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))
    });
    steps.run("warnings of the BPF programs", || bpf_warnings(toolchain.as_ref()));
    if steps.summary() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Clippy cannot compile for BPF with a distribution's compiler, so the compiler's own warnings are what is denied there.
fn bpf_warnings(toolchain: Option<&Toolchain>) -> Result<()> {
    let toolchain = toolchain.context("no toolchain")?;
    let mut check = toolchain.compiler.cargo();
    check
        .current_dir(workspace().join("profiler-ebpf"))
        .args(["--release", "--locked", "--target", xtask::toolchain::BPF_TARGET])
        .env("CARGO_TARGET_DIR", target_folder().join("bpf-lint"))
        .env("RUSTFLAGS", format!("-D warnings -C linker={} -C link-arg=--btf", toolchain.linker.display()));
    must(&mut check)
}
