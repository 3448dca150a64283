//! The command line: one file per family of verbs, and what they share.
//!
//! Standard output carries data only; everything said about the work goes to standard error. This is the only place
//! that uses anyhow, prints, and knows exit codes.

pub(crate) mod flamegraph;
pub(crate) mod input;
pub(crate) mod output_args;
pub(crate) mod report;
pub(crate) mod terminal;

/// A mistake in how the program was called: exit code 2, as clap's own.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct UsageError(pub(crate) String);

/// Exit code for an error: 2 for usage, 1 for anything that went wrong while running. None when there is nothing to
/// report, because whoever read the output has stopped reading.
pub(crate) fn exit_code(error: &anyhow::Error) -> Option<u8> {
    for cause in error.chain() {
        let io = cause.downcast_ref::<std::io::Error>();
        if io.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe) {
            return None;
        }
    }
    Some(if error.is::<UsageError>() { 2 } else { 1 })
}

#[cfg(test)]
mod tests {
    use std::io::{Error, ErrorKind};

    use super::*;

    #[test]
    fn exit_codes() {
        let usage = anyhow::Error::from(UsageError("x".into())).context("--value");
        assert_eq!(exit_code(&usage), Some(2));
        assert_eq!(exit_code(&anyhow::anyhow!("x")), Some(1));
        let broken = anyhow::Error::from(Error::from(ErrorKind::BrokenPipe)).context("writing");
        assert_eq!(exit_code(&broken), None);
    }
}
