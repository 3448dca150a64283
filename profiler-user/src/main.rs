//! The `perf-agent` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    profiler_user::cli::main()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
