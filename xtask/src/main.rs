//! `cargo xtask`: sets machines up, builds, runs and tests perf-agent.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command-line tool for people")]

mod apt;
mod bench;
mod build;
mod completeness;
mod dist;
mod setup;
mod steps;
mod test;
mod verdicts;
mod vm;
mod workloads;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, bail};

const HELP: &str = "\
Usage: cargo xtask COMMAND

  setup          find or install what building needs, and say what was done
  setup --test   also what the tests need: emulators, kernels, cross compilers, programs to profile
  build          release build
  run -- ARGS    set up if needed, build, and run perf-agent as root (through sudo when you are not)
  test           all tests: unit, property, end-to-end on this kernel, then the virtual machines
  test --host    the same without the virtual machines
  workloads      only compile the programs that the tests profile, and say where they are
  vm [NAME [TEST]]
                 the end-to-end tests on other kernels: x86_64-6.1, x86_64-6.12, aarch64-6.1; all of them, or
                 those with TEST in their names
  completeness [PROGRAM…]
                 how many stacks of real programs are whole, and where the others stop
  bench [--workloads A,B] [--profilers A,B] [--rounds N] [--seconds S] [--others PERCENT] [--quick]
                 what profilers cost real programs, ours and others: a table with intervals, as Markdown and JSON;
                 turns in which other programs took more than PERCENT (10) of the machine are left out
  dist ARCH [BINARY]
                 Debian package, tarball and checksums for x86_64 or aarch64, of a static binary that it builds, or BINARY
  lint           formatter and clippy, warnings denied
";

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    match run(&args) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[OsString]) -> Result<ExitCode> {
    let words: Vec<&str> = args.iter().map(|arg| arg.to_str().unwrap_or("\u{fffd}")).collect();
    match words.as_slice() {
        [] | ["help" | "-h" | "--help"] => print!("{HELP}"),
        ["setup"] => {
            setup::build_tools()?;
        }
        ["setup", "--test"] => {
            setup::build_tools()?;
            setup::test_tools()?;
        }
        ["build"] => {
            build::release()?;
        }
        ["run", rest @ ..] => {
            let skip = usize::from(rest.first() == Some(&"--"));
            return build::run(&args[1 + skip..]);
        }
        ["test"] => return Ok(test::all(test::Machines::HostAndVirtual)),
        ["test", "--host"] => return Ok(test::all(test::Machines::Host)),
        ["workloads"] => {
            println!("{}", workloads::compile("", "host", workloads::Linking::Dynamic)?.display());
        }
        ["vm"] => return vm::run(None, vm::ALL_TESTS),
        ["vm", name] => return vm::run(Some(name), vm::ALL_TESTS),
        ["vm", name, tests] => return vm::run(Some(name), tests),
        ["completeness", names @ ..] => return completeness::run(names),
        ["bench", options @ ..] => return bench::run(options),
        ["dist", arch] => drop(dist::run(arch, None)?),
        ["dist", arch, binary] => drop(dist::run(arch, Some(Path::new(binary)))?),
        ["lint"] => return Ok(test::lint()),
        [unknown, ..] => {
            eprintln!("error: there is no `cargo xtask {unknown}` like that\n\n{HELP}");
            return Ok(ExitCode::from(2));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs a command to its end and fails when it fails.
fn must(command: &mut std::process::Command) -> Result<()> {
    let status = command
        .status()
        .map_err(|error| anyhow::anyhow!("cannot run {}: {error}", command.get_program().display()))?;
    if !status.success() {
        bail!("`{}` failed ({status})", steps::words(command));
    }
    Ok(())
}
