//! Builds the BPF object that the library carries.

use std::process::ExitCode;

use xtask::bpf::{Logging, build_for_script};

fn main() -> ExitCode {
    let logging =
        if std::env::var_os("CARGO_FEATURE_BPF_LOG").is_some() { Logging::On } else { Logging::Off };
    match build_for_script(logging) {
        Ok(object) => {
            println!("cargo::rustc-env=PERF_AGENT_BPF_OBJECT={}", object.display());
            ExitCode::SUCCESS
        }
        Err(error) => {
            for line in format!("{error:#}").lines() {
                println!("cargo::error={line}");
            }
            ExitCode::FAILURE
        }
    }
}
