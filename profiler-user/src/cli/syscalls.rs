//! `perf-agent syscalls`: who makes which system calls, how often, with what errors, and how long they take.

mod drive;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};

use super::exit::CliError;
use super::output_args::{json_file, parse_percent, tell};
use super::quantity::{Length, length};
use super::target::{CommandArgs, FollowArgs, Found, ScopeArgs};
use super::terminal::{Colour, stdout_style};
use crate::output::file::Destination;
use crate::output::syscalls::{TableOptions, calls_json, write_calls};
use crate::profile::Meta;
use crate::syscalls::{CallChoice, CallReport, CallSessionOptions, Owner};

/// `perf-agent syscalls`.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
pub(super) struct SyscallsArgs {
    #[command(flatten)]
    scope: ScopeArgs,
    /// How long, like -d
    #[arg(value_name = "DURATION", value_parser = length, allow_hyphen_values = true)]
    trailing: Option<Length>,
    /// How long: 30 (seconds), 500ms, 5m, 1h30m; 0 or inf until Ctrl-C
    #[arg(short, long, value_name = "TIME", value_parser = length, allow_hyphen_values = true, conflicts_with = "trailing")]
    duration: Option<Length>,
    /// Print a table of what is new this often
    #[arg(short, long, value_name = "TIME", value_parser = length, conflicts_with = "json")]
    interval: Option<Length>,
    #[command(flatten)]
    follow: FollowArgs,
    /// Only calls that failed
    #[arg(short = 'x', long, help_heading = "Calls")]
    failed: bool,
    /// Only calls that failed with these errors: ENOENT,EAGAIN
    #[arg(long, value_name = "LIST", value_delimiter = ',', help_heading = "Calls")]
    errno: Vec<String>,
    /// Only these calls: openat,read
    #[arg(short = 'S', long = "syscall", value_name = "LIST", value_delimiter = ',', help_heading = "Calls")]
    calls: Vec<String>,
    /// By whom calls are kept apart
    #[arg(long, value_enum, default_value_t, value_name = "WHOM", help_heading = "Calls")]
    by: By,
    /// By process: short for --by process, which is the default
    #[arg(short = 'P', long, conflicts_with = "by", help_heading = "Calls")]
    by_process: bool,
    /// Measure every call, whatever it costs
    #[arg(long, help_heading = "Cost")]
    exact: bool,
    /// What measuring may cost the machine's busiest CPU, percent of its time
    #[arg(long, value_name = "PERCENT", default_value = "1", value_parser = parse_percent, help_heading = "Cost")]
    max_overhead: f64,
    /// Draw the histogram of each call
    #[arg(short = 'H', long, help_heading = "Table")]
    histogram: bool,
    /// Times are always there; accepted because other tools ask for it
    #[arg(short = 'L', long, help_heading = "Table")]
    latency: bool,
    /// Processes, and rows for each of them
    #[arg(short = 'T', long, value_name = "ROWS", default_value_t = 20, help_heading = "Table")]
    top: usize,
    /// When to use colours
    #[arg(long, value_enum, default_value_t, value_name = "WHEN", alias = "colour", help_heading = "Table")]
    color: Colour,
    /// JSON on standard output
    #[arg(long, help_heading = "Output")]
    json: bool,
    /// Write the result to this file, as JSON
    #[arg(short = 'o', long = "output", value_name = "FILE", help_heading = "Output")]
    output: Vec<PathBuf>,
    /// Replace files that exist instead of renaming them to FILE.old
    #[arg(long, help_heading = "Output")]
    force: bool,
    /// Say nothing about progress
    #[arg(short, long, help_heading = "Output")]
    quiet: bool,
    /// Entries of each of the kernel's tables, to see what happens when they are full
    #[arg(long, value_name = "NUMBER", hide = true)]
    table_entries: Option<u32>,
    #[command(flatten)]
    command: CommandArgs,
}

/// By whom calls are kept apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum By {
    /// By process
    #[default]
    Process,
    /// By thread
    Thread,
    /// By control group (version 2)
    Cgroup,
}

/// A recording as the command line describes it.
struct Plan {
    session: CallSessionOptions,
    found: Found,
    length: Length,
    interval: Option<std::time::Duration>,
    choice: CallChoice,
    files: Vec<Destination>,
    args: SyscallsArgs,
}

/// Runs `syscalls`.
///
/// # Errors
///
/// Bad arguments, missing privileges, failed outputs.
pub(super) fn run(args: SyscallsArgs) -> anyhow::Result<ExitCode> {
    let choice = CallChoice::parse(args.failed, &args.errno, &args.calls).map_err(CliError::usage)?;
    let found = args.scope.find(&args.command)?;
    let session = CallSessionOptions {
        scope: found.scope.clone(),
        follow_forks: args.follow.follow_forks(),
        owner: match args.by {
            By::Process => Owner::Process,
            By::Thread => Owner::Thread,
            By::Cgroup => Owner::Cgroup,
        },
        budget: (!args.exact).then_some(args.max_overhead / 100.0),
        table_entries: args.table_entries,
    };
    let interval = match args.interval {
        Some(Length::For(interval)) => Some(interval),
        _ => None,
    };
    let length = args.duration.or(args.trailing).unwrap_or(Length::Unlimited);
    let files = args.output.iter().map(|path| json_file(path, args.force)).collect::<Result<_, _>>()?;
    drive::run(Plan { session, found, length, interval, choice, files, args })
}

impl Plan {
    fn meta(&self) -> Meta {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let mut scope_notes = Vec::new();
        if self.choice.failed {
            scope_notes.push("failed calls only".to_owned());
        }
        if !self.choice.errors.is_empty() {
            scope_notes.push(format!("{} only", self.choice.errors.join(", ")));
        }
        if !self.choice.calls.is_empty() {
            scope_notes.push(format!("{} only", self.choice.calls.join(", ")));
        }
        Meta {
            profile_type: "syscalls".to_owned(),
            target: self.found.title.clone(),
            target_slug: self.found.slug.clone(),
            host: read("/proc/sys/kernel/hostname"),
            kernel: read("/proc/sys/kernel/osrelease"),
            clock: "sys_enter, sys_exit".to_owned(),
            scope_notes,
            ..Meta::default()
        }
    }

    /// Writes what was asked for.
    fn write(&self, report: &CallReport) -> anyhow::Result<()> {
        let write_file = |file: &Destination| {
            file.write(|out| {
                Ok(serde_json::to_writer(out, &calls_json(report)).map_err(std::io::Error::from)?)
            })
        };
        let told = if self.args.quiet && self.files.is_empty() {
            Ok(())
        } else {
            tell(self.files.iter().map(write_file).collect())
        };
        let printed = self.print(report);
        told?;
        Ok(printed?)
    }

    /// The table of an interval; on a terminal in place of the one before.
    fn print_live(&self, report: &CallReport) -> std::io::Result<()> {
        use std::io::{IsTerminal, Write};
        let mut out = std::io::stdout();
        if out.is_terminal() {
            out.write_all(b"\x1b[H\x1b[2J")?;
        }
        self.print(report)?;
        writeln!(out)
    }

    /// The table, or the JSON, on standard output.
    fn print(&self, report: &CallReport) -> std::io::Result<()> {
        use std::io::Write;
        let mut out = std::io::stdout().lock();
        if self.args.json {
            writeln!(out, "{}", calls_json(report))?;
        } else {
            let style = stdout_style(self.args.color);
            let options = TableOptions { top: self.args.top, histograms: self.args.histogram, style };
            write_calls(&mut out, report, options)?;
        }
        out.flush()
    }
}
