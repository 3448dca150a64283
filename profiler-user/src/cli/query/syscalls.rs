//! `perf-agent query syscalls`: which system calls were made, how often, with what errors, and how long they took.

use clap::Args;

use super::source::SourceArgs;
use crate::cli::syscalls::{CallTableArgs, ChoiceArgs};
use crate::question::RangeArgs;
use crate::syscalls::CallReport;

/// System calls of a stretch of time
#[derive(Debug, Clone, Args)]
pub(super) struct SyscallsQuestion {
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    range: RangeArgs,
    #[command(flatten)]
    choice: ChoiceArgs,
    #[command(flatten)]
    table: CallTableArgs,
}

/// Runs the question.
///
/// # Errors
///
/// Bad arguments, no store, nothing stored in that time.
pub(super) fn run(args: &SyscallsQuestion) -> anyhow::Result<()> {
    let choice = args.choice.parse()?;
    let source = args.source.of_type("syscalls");
    let mut report = CallReport::of_profile(&source.select(&args.range.range()?)?);
    choice.apply(&mut report);
    Ok(args.table.print(&report, false)?)
}
