//! `perf-agent doctor`: can this host, this user and this target be profiled, and what must change if not.
//!
//! In: the facts of `system`. Out: one line for each check with value, reason and fix, or the same as JSON; exit code
//! 0 when nothing fails and 3 otherwise. Looks and tries, changes nothing.

mod binary;
mod bpf;
mod check;
mod host;
mod kernel;
mod perf;
mod render;
mod rights;
mod target;
mod unwinding;

use std::io::{self, BufWriter, IsTerminal, Write};
use std::process::ExitCode;

use anyhow::Context;

use crate::system::features::Features;
use crate::system::privileges::Privileges;
use crate::system::probe::{self, Event, Scope};
use check::{Report, Status};
use render::Style;

/// Exit code for hosts and targets that cannot be profiled (see the list in the manual).
const NOT_ABLE: u8 = 3;

/// Targets checked when a name matches many processes; the rest is counted.
const MOST_TARGETS: usize = 4;

/// Check whether this host, this user and a target can be profiled, and print what to fix
#[derive(Debug, Clone, clap::Args)]
pub(super) struct DoctorArgs {
    /// Process to check as well: pid, name or /regex/
    #[arg(value_name = "PID|NAME")]
    pub target: Option<String>,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

/// What was looked up and tried once, for all checks.
#[derive(Debug)]
struct Facts {
    me: Privileges,
    host: Features,
    perf: io::Result<()>,
    cycles: io::Result<()>,
    ring_buffer: io::Result<()>,
    program: io::Result<()>,
}

impl Facts {
    fn gather() -> Self {
        let perf = probe::perf_event(Event::CpuClock, Scope::OneCpu);
        // Without rights for a whole CPU the kernel says "no access" before it looks for a counter.
        let scope = if perf.is_ok() { Scope::OneCpu } else { Scope::OwnUserCode };
        Self {
            me: Privileges::gather(),
            host: Features::gather(),
            cycles: probe::perf_event(Event::Cycles, scope),
            ring_buffer: probe::ring_buffer(),
            program: probe::bpf_program(),
            perf,
        }
    }
}

/// Runs the verb.
///
/// # Errors
/// When the result cannot be written to standard output.
pub(super) fn run(args: &DoctorArgs) -> anyhow::Result<ExitCode> {
    let facts = Facts::gather();
    let mut checks = kernel::checks(&facts);
    checks.extend(bpf::checks(&facts));
    checks.extend(perf::checks(&facts));
    checks.extend(rights::checks(&facts));
    checks.extend(host::checks(&facts));
    if let Some(text) = &args.target {
        checks.extend(target::checks(text, &facts.me));
    }
    let report = Report::new(checks);
    let stdout = io::stdout();
    let style = Style::of_stdout(stdout.is_terminal());
    let mut out = BufWriter::new(stdout.lock());
    let written = if args.json {
        serde_json::to_writer_pretty(&mut out, &report).map_err(io::Error::from).and_then(|()| writeln!(out))
    } else {
        render::write(&report, style, &mut out)
    };
    match written.and_then(|()| out.flush()) {
        // `doctor | head` is no failure of the host.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            return Err(error).context("can't write the result");
        }
        _ => {}
    }
    Ok(if report.count(Status::Fail) == 0 { ExitCode::SUCCESS } else { ExitCode::from(NOT_ABLE) })
}
