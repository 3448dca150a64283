//! `perf-agent daemon config`: the file that holds, and whether another one makes sense.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Subcommand;

use crate::cli::exit::{CliError, Exit, with_causes};
use crate::continuous::Config;
use crate::continuous::config::{ConfigError, DEFAULT_FILE, DEFAULT_TEXT};

/// What to do.
#[derive(Debug, Subcommand)]
pub(in crate::cli) enum ConfigVerb {
    /// Print a configuration with comments, in which every value is the one that holds without it
    PrintDefault,
    /// Check a configuration file, with the variables of this shell
    Check {
        /// The file
        #[arg(value_name = "FILE", default_value = DEFAULT_FILE)]
        file: PathBuf,
    },
}

/// Runs `daemon config`.
///
/// # Errors
///
/// The file means nothing.
pub(super) fn config(verb: &ConfigVerb) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match verb {
        ConfigVerb::PrintDefault => out.write_all(DEFAULT_TEXT.as_bytes())?,
        ConfigVerb::Check { file } => {
            let config = Config::read(file).map_err(|error| explain(&error))?;
            crate::serve::prepare(&config.api).map_err(|error| super::run::explain_api(&error))?;
            writeln!(
                out,
                "{}: fine: {} Hz, windows of {}, at most {} of the machine, store {}",
                file.display(),
                config.rate_hz,
                crate::output::duration(config.window.as_nanos() as u64),
                crate::output::percent(config.max_overhead * 100.0),
                config.store.folder.display(),
            )?;
        }
    }
    Ok(())
}

/// The configuration of a run: the named file, else the host's where there is one, else what holds without.
pub(super) fn load(named: Option<&Path>) -> Result<Config, CliError> {
    let read = match named {
        Some(file) => Config::read(file),
        None if Path::new(DEFAULT_FILE).exists() => Config::read(Path::new(DEFAULT_FILE)),
        None => Config::without_file(),
    };
    read.map_err(|error| explain(&error))
}

pub(super) fn explain(error: &ConfigError) -> CliError {
    let told = CliError::new(Exit::Usage, with_causes(error));
    match error {
        ConfigError::Unreadable { .. } => {
            told.hint(format!("perf-agent daemon config print-default | sudo tee {DEFAULT_FILE}"))
        }
        ConfigError::Wrong { path, .. } => {
            told.hint(format!("perf-agent daemon config check {}", path.display()))
        }
        ConfigError::Together { .. } => told.hint("perf-agent daemon config print-default explains each key"),
        ConfigError::Variable { name, .. } => told.hint(format!("unset {name}")),
    }
}
