//! One run of a command.

use super::Half;
use super::measured::Measured;
use super::running::Look;
use crate::cli::exit::{CliError, Exit};
use crate::cli::launch::{Launch, RunAs};
use crate::cli::running::{Signals, exit_code};
use crate::cli::target::CommandArgs;
use crate::session::clock::children_cpu_ns;

/// Runs it, silently, to its end.
///
/// # Errors
///
/// It cannot be started, or fails: what does not do its work every time cannot be compared.
pub(super) async fn run(
    args: &CommandArgs,
    agent: Option<u32>,
    signals: &mut Signals,
) -> anyhow::Result<Half> {
    let run_as = if args.keep_root { RunAs::Agent } else { RunAs::Caller };
    let program =
        args.command.first().map_or_else(String::new, |program| program.to_string_lossy().into_owned());
    let launch = Launch::prepare(&args.command, run_as).silent();
    let (before, cpu_before_ns) = (Look::now(&[], agent), children_cpu_ns());
    let mut child = launch.start().map_err(|error| {
        CliError::new(Exit::Runtime, format!("cannot start `{program}`: {error}"))
            .hint("check its name, or give the full path")
    })?;
    let mut awaited = Some(&mut child);
    let code = tokio::select! {
        code = exit_code(&mut awaited) => Some(code),
        // From the terminal it has come to the command as well.
        _ = signals.interrupt.recv() => None,
        _ = signals.terminate.recv() => None,
    };
    let Some(code) = code else { return end(&mut child).await };
    let measured = before.until(&Look::now(&[], agent));
    let cpu_s = children_cpu_ns().saturating_sub(cpu_before_ns) as f64 / 1e9;
    if code != 0 {
        return Err(CliError::new(Exit::Child(code), format!("`{program}` failed with exit code {code}"))
            .hint("it is run several times, without input and output; run it by hand to see what it says")
            .into());
    }
    Ok(measured.map_or(Half::Gone, |measured| Half::Measured(Measured { cpu_s: Some(cpu_s), ..measured })))
}

async fn end(child: &mut tokio::process::Child) -> anyhow::Result<Half> {
    if let Some(pid) = child.id().and_then(|pid| rustix::process::Pid::from_raw(pid as i32)) {
        // It may be gone already.
        let _gone = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
    child.wait().await?;
    Ok(Half::Asked)
}
