//! The `perf-agent` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    profiler_user::cli::main()
}
