//! The command line: one file per verb family. Only this folder talks to people.

mod bench_overhead;
mod daemon;
mod debug;
mod doctor;
mod exit;
mod flamegraph;
mod guard;
mod input;
mod launch;
mod output_args;
mod query;
mod record;
mod report;
mod running;
mod sched;
mod syscalls;
mod target;
mod terminal;

use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand};

use crate::quantity;
use crate::question::Refusal;

pub use exit::{CliError, Exit};

/// Shows where CPU time, waiting time, memory and system call time go on a Linux host, with nothing changed or restarted
#[derive(Debug, Parser)]
#[command(name = "perf-agent", version, max_term_width = 110, arg_required_else_help = true)]
#[command(after_help = "Examples:
  perf-agent attach nginx -d 10s           profile all nginx processes for ten seconds
  perf-agent record -d 10s                 profile the whole host
  perf-agent record -- make -j2            profile a build, with all its children
  perf-agent report last.pb.gz             show the table again
  perf-agent doctor 4242                   what this host and process 4242 allow

Exit codes: 0 fine, 1 failed, 2 wrong arguments, 3 not permitted or not possible on this kernel, 4 data not good
enough (--strict), 5 nothing sampled; with `-- COMMAND` the command's own code.")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Profile the CPU time of something that runs (30 s unless told otherwise)
    Attach(Box<record::AttachArgs>),
    /// Profile the CPU time of the whole host, processes, a control group or a command
    Record(Box<record::RecordArgs>),
    /// Profile where threads wait: blocked time by stack
    #[command(name = "off-cpu", visible_alias = "offcpu", alias = "offcputime")]
    OffCpu(Box<record::OffCpuArgs>),
    /// Profile running and waiting together: the whole time of threads in one picture
    Wall(Box<record::WallArgs>),
    /// Count system calls and measure how long they take, by process
    Syscalls(Box<syscalls::SyscallsArgs>),
    /// Show how long threads wait for a CPU, by process and CPU, in histograms
    #[command(visible_alias = "runqlat")]
    Sched(Box<sched::SchedArgs>),
    /// Profile where resident memory grows: page faults, and calls that map memory
    #[command(alias = "mem")]
    Memory(Box<record::MemoryArgs>),
    /// Profile who allocates memory: bytes and calls by stack, at the allocator's functions
    Alloc(Box<record::AllocArgs>),
    /// Find memory leaks: what is allocated and not freed, by stack, and whether it grows
    #[command(alias = "memleak")]
    Leaks(Box<record::LeaksArgs>),
    /// Show a recorded profile as a table
    Report(report::ReportArgs),
    /// Draw a recorded profile as a flamegraph
    Flamegraph(flamegraph::FlamegraphArgs),
    /// Profile this host day and night: windows of a few seconds, kept on disk
    #[command(subcommand)]
    Daemon(daemon::DaemonVerb),
    /// Profile this host day and night, as `daemon run` does
    #[command(hide = true)]
    Continuous(daemon::RunArgs),
    /// Show what continuous recording has stored: tables, pictures and changes of any stretch of time
    Query(Box<query::QueryArgs>),
    /// Measure what this profiler costs on this host: with and without, in pairs
    BenchOverhead(Box<bench_overhead::BenchOverheadArgs>),
    /// Check what this host, and a process, allow a profiler to see
    #[command(alias = "check")]
    Doctor(doctor::DoctorArgs),
    /// Show what the profiler knows of a file or process, for bug reports
    Debug(debug::DebugArgs),
}

/// The grammar, for manual pages.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    crate::system::heap::keep_small();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let result = match cli.verb {
        Verb::Attach(args) => record::attach(*args),
        Verb::Record(args) => record::record(*args),
        Verb::OffCpu(args) => record::off_cpu(*args),
        Verb::Wall(args) => record::wall(*args),
        Verb::Syscalls(args) => syscalls::run(*args),
        Verb::Sched(args) => sched::run(*args),
        Verb::Memory(args) => record::memory(*args),
        Verb::Alloc(args) => record::alloc(*args),
        Verb::Leaks(args) => record::leaks(*args),
        Verb::Report(args) => report::run(&args).map(|()| Exit::Ok.into()),
        Verb::Flamegraph(args) => flamegraph::run(&args).map(|()| Exit::Ok.into()),
        Verb::Daemon(verb) => daemon::main(verb),
        Verb::Continuous(args) => daemon::run(&args),
        Verb::Query(args) => query::run(&args),
        Verb::BenchOverhead(args) => bench_overhead::run(*args),
        Verb::Doctor(args) => doctor::run(&args),
        Verb::Debug(args) => debug::run(&args),
    };
    result.unwrap_or_else(|error| fail(&error))
}

fn usage(error: &clap::Error) -> ExitCode {
    // Help and version are what was asked for; standard output may be closed already.
    let _closed = error.print();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Exit::Ok.into(),
        _ => Exit::Usage.into(),
    }
}

#[expect(clippy::print_stderr, reason = "the command line talks to people on standard error")]
fn fail(error: &anyhow::Error) -> ExitCode {
    if is_broken_pipe(error) {
        // `perf-agent report | head`: the reader has what it wanted.
        return Exit::Ok.into();
    }
    let error = match error.downcast_ref::<Refusal>() {
        Some(refusal) => &CliError::from(refusal.clone()).into(),
        None => error,
    };
    let exit = error
        .chain()
        .find_map(|cause| cause.downcast_ref::<CliError>())
        .map_or(Exit::Runtime, CliError::exit);
    eprintln!("error: {error:#}");
    exit.into()
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let mut causes = error.chain().filter_map(|cause| cause.downcast_ref::<std::io::Error>());
    causes.any(|cause| cause.kind() == std::io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grammar_is_consistent() {
        command().debug_assert();
    }
}
