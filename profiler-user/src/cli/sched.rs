//! `perf-agent sched`: how long threads wait for a CPU, and how they lose it.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::exit::Exit;
use super::guard::Guard;
use super::output_args::{json_file, tell};
use super::quantity::{Length, length};
use super::running::{
    Ending, Running, Signals, guard_notes, outlive, prepare_command, start_command, start_error,
};
use super::target::{CommandArgs, FollowArgs, Found, ScopeArgs};
use super::terminal::{Colour, stdout_style};
use crate::output::sched::{SchedOptions, sched_json, write_sched};
use crate::profile::Meta;
use crate::sched::{SchedReport, SchedSession};

/// `perf-agent sched`.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
pub(super) struct SchedArgs {
    #[command(flatten)]
    scope: ScopeArgs,
    /// How long, like -d
    #[arg(value_name = "DURATION", value_parser = length, allow_hyphen_values = true)]
    trailing: Option<Length>,
    /// How long: 30 (seconds), 500ms, 5m, 1h30m; 0 or inf until Ctrl-C
    #[arg(short, long, value_name = "TIME", value_parser = length, allow_hyphen_values = true, conflicts_with = "trailing")]
    duration: Option<Length>,
    #[command(flatten)]
    follow: FollowArgs,
    /// Draw the histograms of each process and CPU too
    #[arg(short = 'H', long, help_heading = "Table")]
    histogram: bool,
    /// Processes to show
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
    #[command(flatten)]
    command: CommandArgs,
}

/// Runs `sched`.
///
/// # Errors
///
/// Bad arguments, missing privileges, failed outputs.
pub(super) fn run(args: SchedArgs) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(record(args))
}

async fn record(args: SchedArgs) -> anyhow::Result<ExitCode> {
    let found = args.scope.find(&args.command)?;
    let length = args.duration.or(args.trailing).unwrap_or(Length::Unlimited);
    let files: Vec<_> =
        args.output.iter().map(|path| json_file(path, args.force)).collect::<Result<_, _>>()?;
    let mut signals = Signals::new()?;
    let mut guard = Guard::new()?;
    let launch = prepare_command(&found.scope, &args.command);
    let failed = |error| start_error(&error, found.pid);
    let mut session = SchedSession::start(&found.scope, args.follow.follow_forks()).map_err(failed)?;
    let mut child = start_command(launch, &args.command, session.targets_mut())?;
    if !args.quiet {
        announce(&found, length, &args);
    }
    let mut running = Running::new(length, &mut signals, &mut guard, child.as_mut());
    let ending = loop {
        if let Some(ending) = running.tick().await {
            break ending;
        }
        session.tick();
        if running.is_life_sign_due() && !session.has_living_target() {
            break Ending::TargetGone;
        }
    };
    let mut report = session.stop(meta(&found)).map_err(failed)?;
    report.quality.notes.extend(guard_notes(&guard, ending));
    let write_file = |file: &crate::output::file::Destination| {
        file.write(|out| Ok(writeln!(out, "{}", sched_json(&report))?))
    };
    let told = tell(files.iter().map(write_file).collect());
    print(&args, &report)?;
    told?;
    if report.all.switches == 0 {
        return Ok(nothing_recorded(&found));
    }
    Ok(match (ending, child.as_mut()) {
        (Ending::Child(code), _) => Exit::Child(code).into(),
        // The recording ended first. The command goes on, and its exit code is still the one to pass on.
        (Ending::Time, Some(child)) => Exit::Child(outlive(child, &mut signals).await).into(),
        _ => Exit::Ok.into(),
    })
}

fn meta(found: &Found) -> Meta {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    Meta {
        profile_type: "sched".to_owned(),
        target: found.title.clone(),
        target_slug: found.slug.clone(),
        host: read("/proc/sys/kernel/hostname"),
        kernel: read("/proc/sys/kernel/osrelease"),
        clock: "sched_switch, sched_wakeup".to_owned(),
        ..Meta::default()
    }
}

fn print(args: &SchedArgs, report: &SchedReport) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", sched_json(report))?;
    } else {
        let style = stdout_style(args.color);
        write_sched(&mut out, report, SchedOptions { top: args.top, histograms: args.histogram, style })?;
    }
    out.flush()
}

/// Says what is being recorded and how to stop it.
#[expect(clippy::print_stderr, reason = "progress belongs on standard error")]
fn announce(found: &Found, length: Length, args: &SchedArgs) {
    let length = match length {
        Length::For(duration) => format!("{} s — Ctrl-C to stop early", duration.as_secs_f64()),
        Length::Unlimited if args.command.command.is_empty() => "until Ctrl-C".to_owned(),
        Length::Unlimited => "until it ends".to_owned(),
    };
    eprintln!("perf-agent {} · sched · {} · {length}", env!("CARGO_PKG_VERSION"), found.title);
}

#[expect(clippy::print_stderr, reason = "the command line talks to people on standard error")]
fn nothing_recorded(found: &Found) -> ExitCode {
    eprintln!("error: no context switch of {} was seen in that time", found.title);
    eprintln!("hint: record longer (-d 60s); `perf-agent doctor` says what this host can do");
    Exit::NothingSampled.into()
}
