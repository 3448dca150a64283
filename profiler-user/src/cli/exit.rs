//! Exit codes, and errors that carry one.

use std::fmt;
use std::process::ExitCode;

pub(super) use crate::causes::with_causes;
use crate::question::{Kind, Refusal};

/// What a run of the command line came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// All went well.
    Ok,
    /// Something failed while it ran.
    Runtime,
    /// The arguments make no sense.
    Usage,
    /// We may not, or this kernel cannot.
    Permission,
    /// `--strict`: the data is not good enough.
    Quality,
    /// Not one sample.
    NothingSampled,
    /// Interrupted twice: raw data was written.
    Interrupted,
    /// What the launched command returned.
    Child(u8),
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Ok => 0,
            Exit::Runtime => 1,
            Exit::Usage => 2,
            Exit::Permission => 3,
            Exit::Quality => 4,
            Exit::NothingSampled => 5,
            Exit::Interrupted => 130,
            Exit::Child(code) => code,
        })
    }
}

/// An error for people: what failed, what to do about it, and how the process ends.
#[derive(Debug)]
pub struct CliError {
    exit: Exit,
    message: String,
    hint: Option<String>,
}

impl CliError {
    /// An error that ends the process with `exit`.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), hint: None }
    }

    /// A mistake in the arguments.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// Adds what the reader can do about it, with the exact command.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// How the process ends.
    pub fn exit(&self) -> Exit {
        self.exit
    }
}

impl From<Refusal> for CliError {
    fn from(refusal: Refusal) -> Self {
        let exit = match refusal.kind {
            Kind::Usage => Exit::Usage,
            Kind::Nothing => Exit::NothingSampled,
            Kind::Forbidden => Exit::Permission,
            Kind::Failed => Exit::Runtime,
        };
        Self { exit, message: refusal.message, hint: refusal.hint }
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if let Some(hint) = &self.hint {
            write!(f, "\nhint: {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for CliError {}
