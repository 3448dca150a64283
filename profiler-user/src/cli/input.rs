//! The profile file that a verb reads.

use std::io;
use std::path::{Path, PathBuf};

use crate::import;
use crate::profile::Profile;
use clap::Args;

use super::exit::{CliError, Exit, with_causes};

/// The link to the newest recording.
const NEWEST: &str = "last.pb.gz";

/// Which file to read.
#[derive(Debug, Clone, Args)]
pub(super) struct InputArgs {
    /// Profile to read: .pb.gz or .pb (pprof), or folded stacks; `-` for standard input [default: last.pb.gz]
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// The same as FILE
    #[arg(short = 'i', long = "input", value_name = "FILE", conflicts_with = "file", hide = true)]
    input: Option<PathBuf>,
}

impl InputArgs {
    /// The file to read.
    pub(super) fn path(&self) -> anyhow::Result<PathBuf> {
        if let Some(path) = self.file.as_ref().or(self.input.as_ref()) {
            return Ok(path.clone());
        }
        if Path::new(NEWEST).exists() {
            return Ok(PathBuf::from(NEWEST));
        }
        Err(CliError::usage(format!("name a profile to read: there is no {NEWEST} in this directory")).into())
    }

    /// Reads the profile.
    pub(super) fn read(&self) -> anyhow::Result<Profile> {
        let path = self.path()?;
        if path == Path::new("-") {
            return import::read_from(io::stdin().lock(), Path::new("standard input"))
                .map_err(|error| explained(&error));
        }
        import::read_file(&path).map_err(|error| explained(&error))
    }
}

/// A file that cannot be read as a profile, with what can.
fn explained(error: &import::ImportError) -> anyhow::Error {
    let hint = "perf-agent reads what it wrote (.pb.gz, .folded) and other tools' pprof and folded files";
    CliError::new(Exit::Runtime, with_causes(error)).hint(hint).into()
}
