//! `perf-agent flamegraph`: a recorded profile in another format, a picture unless told otherwise.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::exit::Exit;
use super::output_args::OutputArgs;
use super::record::file_error;
use super::report::read_profile;
use crate::output::file::{NameParts, OutputPlan};

/// `perf-agent flamegraph`.
#[derive(Debug, Args)]
pub(super) struct FlamegraphArgs {
    /// Profile to read: pprof (.pb.gz, .pb) or folded stacks
    #[arg(value_name = "FILE", default_value = "last.pb.gz")]
    file: PathBuf,
    #[command(flatten)]
    output: OutputArgs,
}

/// Runs `flamegraph`.
///
/// # Errors
///
/// The file cannot be read or the picture cannot be written.
#[expect(clippy::print_stderr, reason = "what was written where belongs on standard error")]
pub(super) fn run(args: &FlamegraphArgs) -> anyhow::Result<ExitCode> {
    let profile = read_profile(&args.file)?;
    let stem = args.file.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let stem = stem.split('.').next().unwrap_or("profile").to_owned();
    let parts = NameParts {
        slug: if profile.meta.target_slug.is_empty() { stem } else { profile.meta.target_slug.clone() },
        host: profile.meta.host.clone(),
        mode: profile.meta.profile_type.clone(),
        start_unix_ns: profile.meta.start_unix_ns,
        number: 1,
        ..NameParts::default()
    };
    let files = OutputPlan::open(&args.output.request()?, &parts).map_err(|error| file_error(&error))?;
    let mut exit = Exit::Ok;
    for result in files.write(&profile, &args.output.options()) {
        match result {
            Ok(written) if written.path.as_os_str() == "-" => {}
            Ok(written) => eprintln!("Wrote {}", written.path.display()),
            Err(error) => {
                eprintln!("error: {error}");
                exit = Exit::Runtime;
            }
        }
    }
    Ok(exit.into())
}
