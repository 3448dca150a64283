//! `perf-agent debug programs`: the BPF programs against the kernel's limits.

use std::process::ExitCode;

use clap::Args;

use crate::bpf::ProgramFigures;
use crate::cli::exit::{CliError, Exit, with_causes};
use crate::session::program_figures;

#[derive(Debug, Clone, Args)]
pub(super) struct ProgramsArgs {
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// Loads all programs with every filter on, which is when the verifier has most to do, and prints what they take.
pub(super) fn run(args: &ProgramsArgs) -> anyhow::Result<ExitCode> {
    let figures = program_figures().map_err(|error| {
        CliError::new(Exit::Permission, with_causes(&error))
            .hint("run it as root; `perf-agent doctor` says what this host can do")
    })?;
    print(&figures, args.json)?;
    Ok(Exit::Ok.into())
}

#[expect(clippy::print_stdout, reason = "the command line talks to people on standard output")]
fn print(figures: &[ProgramFigures], json: bool) -> anyhow::Result<()> {
    if json {
        println!("{}", serde_json::to_string_pretty(figures)?);
        return Ok(());
    }
    println!("{:>10}  {:>8}  {:>5}  PROGRAM", "VERIFIED", "PROGRAM", "STACK");
    for program in figures {
        let verified = program.verified.map_or_else(|| "?".to_owned(), |verified| verified.to_string());
        println!("{verified:>10}  {:>8}  {:>5}  {}", program.instructions, program.stack_bytes, program.name);
    }
    println!("Limits of the kernel: 1000000 instructions verified, 512 bytes of stack.");
    Ok(())
}
