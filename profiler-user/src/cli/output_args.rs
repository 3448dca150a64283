//! Options about results that all recording and picture verbs share.

use std::path::PathBuf;

use crate::output::file::{Destination, Existing, FileError, NameParts, OutputPlan, PlanRequest, Written};
use crate::output::{self, Format};
use crate::question::parse_format;
use crate::system::identity::Invoker;
use clap::Args;

use super::exit::{CliError, Exit, with_causes};

/// Where results go.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Output")]
pub(super) struct OutputArgs {
    /// Write the result here; the ending selects the format. Repeatable; `-` is standard output (folded stacks, unless
    /// --format says otherwise). %p pid, %c command, %h host, %t time, %m mode and %n number are filled in
    #[arg(short = 'o', long = "output", value_name = "FILE")]
    pub(super) output: Vec<PathBuf>,
    /// Format of all results, whatever their names end in
    #[arg(short = 'f', long, value_name = "FORMAT", value_parser = parse_format)]
    pub(super) format: Option<&'static Format>,
    /// Folded stacks on standard output: short for -o - -f folded
    #[arg(long, conflicts_with_all = ["output", "format", "json"])]
    folded: bool,
    /// JSON on standard output: short for -o - -f json
    #[arg(long, conflicts_with_all = ["output", "format"])]
    json: bool,
    /// Replace files that exist instead of renaming them to FILE.old
    #[arg(long)]
    pub(super) force: bool,
}

impl OutputArgs {
    /// Settles names and opens places; before a recording, so that mistakes show at once.
    pub(super) fn plan(&self, parts: &NameParts) -> anyhow::Result<OutputPlan> {
        let to_stdout = match (self.folded, self.json) {
            (true, _) => Some("folded"),
            (_, true) => Some("json"),
            _ => None,
        };
        let existing = if self.force { Existing::Replace } else { Existing::KeepAsOld };
        let request = match to_stdout {
            Some(format) => PlanRequest {
                paths: vec![PathBuf::from("-")],
                format: Format::from_name(format).ok(),
                existing,
            },
            None => PlanRequest { paths: self.output.clone(), format: self.format, existing },
        };
        OutputPlan::open(&request, parts).map_err(|error| told_apart(&error))
    }
}

impl OutputArgs {
    /// Whether nothing says where the result goes.
    pub(super) fn is_default(&self) -> bool {
        self.output.is_empty() && !self.folded && !self.json
    }
}

/// Says on standard error what was written. The first failure is returned after all successes were told.
#[expect(clippy::print_stderr, reason = "progress belongs on standard error")]
pub(super) fn tell(results: Vec<Result<Written, FileError>>) -> anyhow::Result<()> {
    let mut failure = None;
    for result in results {
        match result {
            Ok(written) if written.bytes == 0 => {}
            Ok(written) => {
                let kept = written.old.map(|old| format!("; the file before it is {}", old.display()));
                let size = output::bytes(written.bytes);
                eprintln!("Wrote {} ({size}){}", written.path.display(), kept.unwrap_or_default());
            }
            Err(error) if failure.is_none() => failure = Some(error),
            Err(error) => eprintln!("error: {}", with_causes(&error)),
        }
    }
    failure.map_or(Ok(()), |error| Err(told_apart(&error)))
}

/// A file for a result that is JSON alone.
pub(super) fn json_file(path: &std::path::Path, force: bool) -> Result<Destination, CliError> {
    if path.extension().is_none_or(|extension| !extension.eq_ignore_ascii_case("json")) {
        return Err(CliError::usage(format!("can't tell the format of {}; known: .json", path.display())));
    }
    let existing = if force { Existing::Replace } else { Existing::KeepAsOld };
    Destination::open(path, existing, Invoker::behind_sudo().as_ref()).map_err(|error| {
        CliError::new(if error.is_usage() { Exit::Usage } else { Exit::Runtime }, with_causes(&error))
    })
}

/// Mistakes of the caller get exit code 2.
pub(super) fn told_apart(error: &FileError) -> anyhow::Error {
    CliError::new(if error.is_usage() { Exit::Usage } else { Exit::Runtime }, with_causes(error)).into()
}
