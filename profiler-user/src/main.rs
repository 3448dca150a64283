//! The `perf-agent` binary: reads the command line, runs one verb, turns its outcome into an exit code.

mod cli;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "perf-agent", version, about, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Report(cli::report::ReportArgs),
    Flamegraph(cli::flamegraph::FlamegraphArgs),
}

#[expect(clippy::print_stderr, reason = "the command line reports its errors")]
fn main() -> ExitCode {
    let result = match Cli::parse().verb {
        Verb::Report(args) => cli::report::run(&args),
        Verb::Flamegraph(args) => cli::flamegraph::run(&args),
    };
    let Err(error) = result else { return ExitCode::SUCCESS };
    match cli::exit_code(&error) {
        Some(code) => {
            eprintln!("error: {error:#}");
            ExitCode::from(code)
        }
        None => ExitCode::SUCCESS,
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
