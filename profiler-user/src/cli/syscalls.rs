//! `perf-agent syscalls`: who makes which system calls, how often, with what errors, and how long they take.

mod drive;
mod table;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, ValueEnum};

use super::output_args::{json_file, tell, told_apart};
use super::quantity::{Length, length};
use super::target::{CommandArgs, FollowArgs, Found, ScopeArgs};
use crate::output::OutputOptions;
use crate::output::file::{Destination, Existing, NameParts, OutputPlan, PlanRequest};
use crate::output::syscalls::calls_json;
use crate::profile::Meta;
use crate::question::parse_percent;
use crate::session::clock;
use crate::syscalls::{CallChoice, CallReport, CallSessionOptions, Owner};

pub(super) use table::{CallTableArgs, ChoiceArgs};

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
    #[command(flatten)]
    choice: ChoiceArgs,
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
    /// List calls that took at least this long one by one, with arguments and stack: 10ms
    #[arg(long, value_name = "TIME", value_parser = length, help_heading = "Calls")]
    slower_than: Option<Length>,
    /// Times are always there; accepted because other tools ask for it
    #[arg(short = 'L', long, help_heading = "Table")]
    latency: bool,
    #[command(flatten)]
    table: CallTableArgs,
    /// Write the result here: .json is the whole table; .svg, .folded and .pb.gz are the calls by stack, sampled. Repeatable
    #[arg(short = 'o', long = "output", value_name = "FILE", help_heading = "Output")]
    output: Vec<PathBuf>,
    /// Let pictures show the number of calls, not their time
    #[arg(long, help_heading = "Output")]
    by_count: bool,
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
    pictures: Option<OutputPlan>,
    args: SyscallsArgs,
}

/// Runs `syscalls`.
///
/// # Errors
///
/// Bad arguments, missing privileges, failed outputs.
pub(super) fn run(args: SyscallsArgs) -> anyhow::Result<ExitCode> {
    let choice = args.choice.parse()?;
    let found = args.scope.find(&args.command)?;
    let (tables, pictures): (Vec<PathBuf>, Vec<PathBuf>) =
        args.output.iter().cloned().partition(|path| is_json(path));
    let session = CallSessionOptions {
        scope: found.scope.clone(),
        follow_forks: args.follow.follow_forks(),
        owner: match args.by {
            By::Process => Owner::Process,
            By::Thread => Owner::Thread,
            By::Cgroup => Owner::Cgroup,
        },
        slower_than_ns: match args.slower_than {
            Some(Length::For(time)) => Some(time.as_nanos() as u64),
            _ => None,
        },
        flame: !pictures.is_empty(),
        windows: false,
        budget: (!args.exact).then_some(args.max_overhead / 100.0),
        table_entries: args.table_entries,
    };
    let interval = match args.interval {
        Some(Length::For(interval)) => Some(interval),
        _ => None,
    };
    let length = args.duration.or(args.trailing).unwrap_or(Length::Unlimited);
    let files = tables.iter().map(|path| json_file(path, args.force)).collect::<Result<_, _>>()?;
    let pictures = picture_plan(pictures, &found, args.force)?;
    drive::run(Plan { session, found, length, interval, choice, files, pictures, args })
}

fn is_json(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json"))
}

/// Places for pictures and profiles; none when nobody asked for one.
fn picture_plan(paths: Vec<PathBuf>, found: &Found, force: bool) -> anyhow::Result<Option<OutputPlan>> {
    if paths.is_empty() {
        return Ok(None);
    }
    let parts = NameParts {
        slug: found.slug.clone(),
        pid: found.pid,
        comm: found.comm.clone().unwrap_or_default(),
        host: host_name(),
        mode: "syscalls".to_owned(),
        start_unix_ns: clock::unix_ns(),
        number: 1,
    };
    let existing = if force { Existing::Replace } else { Existing::KeepAsOld };
    let request = PlanRequest { paths, format: None, existing };
    OutputPlan::open(&request, &parts).map(Some).map_err(|error| told_apart(&error))
}

fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned()
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
            host: host_name(),
            kernel: read("/proc/sys/kernel/osrelease"),
            clock: "sys_enter, sys_exit".to_owned(),
            scope_notes,
            ..Meta::default()
        }
    }

    /// Writes what was asked for.
    fn write(&mut self, report: &CallReport) -> anyhow::Result<()> {
        let write_file = |file: &Destination| {
            file.write(|out| {
                Ok(serde_json::to_writer(out, &calls_json(report)).map_err(std::io::Error::from)?)
            })
        };
        let mut written: Vec<_> = self.files.iter().map(write_file).collect();
        let mut to_stdout = false;
        if let (Some(pictures), Some(profile)) = (self.pictures.take(), &report.flame) {
            to_stdout = pictures.uses_stdout();
            let value = self.args.by_count.then_some(0);
            written.extend(pictures.write(profile, &OutputOptions { value, ..OutputOptions::default() }));
        }
        let told = tell(written);
        let printed = if to_stdout { Ok(()) } else { self.print(report) };
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
        self.args.table.print(report, self.args.slower_than.is_some())
    }
}
