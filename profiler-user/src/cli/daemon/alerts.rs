//! `perf-agent daemon alerts`: the rules, what they would have said, and whether those who are to be told can be.

use std::io::Write;
use std::ops::Range;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::config::load;
use crate::alert::{replay, try_targets};
use crate::cli::exit::{CliError, Exit};
use crate::output::thousands;
use crate::profile::clean;
use crate::question::time::shown;
use crate::question::{RangeArgs, explained};
use crate::session::clock::unix_ns;

/// What to do.
#[derive(Debug, Subcommand)]
pub(in crate::cli) enum AlertsVerb {
    /// Send a test alert to every target, and show what the rules would have said of the time that is stored
    Test(TestArgs),
    /// Show the rules and what they say now
    List(ListArgs),
}

/// Which rules.
#[derive(Debug, Args)]
pub(in crate::cli) struct ListArgs {
    /// The configuration [default: /etc/perf-agent/config.toml where there is one]
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Which rules, and which time.
#[derive(Debug, Args)]
pub(in crate::cli) struct TestArgs {
    #[command(flatten)]
    rules: ListArgs,
    #[command(flatten)]
    range: RangeArgs,
    /// Send nothing
    #[arg(long)]
    no_send: bool,
}

/// Runs `daemon alerts`. Exit code 1 when a target cannot be told.
///
/// # Errors
///
/// The configuration means nothing, or the store cannot be read.
pub(super) fn alerts(verb: &AlertsVerb) -> anyhow::Result<ExitCode> {
    match verb {
        AlertsVerb::Test(args) => {
            let range = args.range.range().map_err(CliError::from)?;
            test(&args.rules, &range, !args.no_send)
        }
        AlertsVerb::List(args) => {
            let now = unix_ns();
            test(args, &(now.saturating_sub(600_000_000_000)..now), false)
        }
    }
}

fn test(args: &ListArgs, range: &Range<u64>, sends: bool) -> anyhow::Result<ExitCode> {
    let config = load(args.config.as_deref())?;
    let mut out = std::io::stdout().lock();
    let mut exit = Exit::Ok;
    if sends {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let tried = try_targets(&config.alerts, host.trim());
        if tried.is_empty() {
            writeln!(out, "no target is configured but the log ([alerts] webhooks = [\"http://…\"])")?;
        }
        for tried in tried {
            match tried.outcome {
                Ok(words) => writeln!(out, "{}: {words}", tried.target)?,
                Err(words) => {
                    exit = Exit::Runtime;
                    writeln!(out, "{}: FAILED: {words}", tried.target)?;
                }
            }
        }
    }
    if config.alerts.rules.is_empty() {
        writeln!(
            out,
            "no rule is configured ([[alerts.rules]]; perf-agent daemon config print-default has examples)"
        )?;
        return Ok(exit.into());
    }
    let store = &config.store.folder;
    let (replayed, windows) =
        replay(&config.alerts, store, range).map_err(|error| CliError::from(explained(&error)))?;
    let (from, to) = (shown(range.start), shown(range.end));
    writeln!(out, "{} windows from {from} to {to}:", thousands(windows))?;
    for rule in replayed {
        let raised = rule.changes.iter().filter(|(_, raised, _)| *raised).count();
        writeln!(out, "{}: raised {raised} times; now: {}", rule.name, clean(rule.last.as_bytes()))?;
        for (at, raised, words) in rule.changes {
            let what = if raised { "raised" } else { "ended " };
            writeln!(out, "  {} {what} {}", shown(at), clean(words.as_bytes()))?;
        }
    }
    Ok(exit.into())
}
