//! The `perf-agent` binary.
#![expect(clippy::print_stdout, reason = "the command line owns standard output")]

fn main() {
    println!("perf-agent");
}
