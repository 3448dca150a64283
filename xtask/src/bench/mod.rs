//! What profilers cost: real programs and worst cases, each with and without each profiler, ours and others.
//!
//! Two equal runs on a virtual machine differ by ten percent and more, so nothing is compared across minutes: in every round all profilers
//! take their turn in random order, and each is compared with the turn without one of the same round. What comes out is the median of
//! these ratios with its interval. Beside it stands what was counted, which scatters less: CPU time per unit of work, and the profilers' own.

mod children;
mod options;
mod profilers;
mod results;
// The build script of `profiler-user` depends on this package, so this package cannot depend on `profiler-user`.
#[allow(dead_code, unreachable_pub, reason = "a file of profiler-user, which uses all of it")]
#[path = "../../../profiler-user/src/statistics.rs"]
mod statistics;
mod turn;
mod usage;
mod workloads;

use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use crate::workloads::{Linking, compile};
use crate::{apt, build};
use children::Interrupt;
use options::Options;
use profilers::{NONE, Profiler};
use results::{Results, Turn};
use statistics::Chance;
use turn::Place;
use workloads::{Running, Workload};

/// Measures and writes the tables.
///
/// # Errors
///
/// Wrong options, no root, a workload that does not run, or an interrupt before the first round. A profiler that does not run is a row.
pub(crate) fn run(words: &[&str]) -> Result<ExitCode> {
    let options = Options::parse(words)?;
    if !apt::is_root() {
        bail!(
            "profiling needs root; run:\n  sudo -E env PATH=\"$PATH\" cargo xtask bench {}",
            words.join(" ")
        );
    }
    install(&options)?;
    let agent = match std::env::var_os("PERF_AGENT_BIN") {
        Some(agent) => agent.into(),
        None => build::release()?,
    };
    let programs = compile("", "host", Linking::Dynamic)?;
    let interrupt = Interrupt::watch()?;
    let place = Place { agent, programs };
    let mut results = Results::new(&options, &place);
    let mut failed = None;
    for workload in &options.workloads {
        if let Err(error) = measure(workload, &options, &place, &mut results) {
            failed = Some(error.context(format!("workload {}", workload.name)));
            if interrupt.came() {
                break;
            }
            // The other workloads are worth their table all the same.
            eprintln!("FAILED {:#}", failed.as_ref().context("no error")?);
        }
    }
    if results.is_empty() {
        return Err(failed.context("nothing was measured")?);
    }
    let (table, json) = results.write(&build::target_folder().join("bench"))?;
    println!("{}\n{}", table.display(), json.display());
    match failed {
        Some(error) => Err(error.context("not all was measured; what there is was written")),
        None => Ok(ExitCode::SUCCESS),
    }
}

fn install(options: &Options) -> Result<()> {
    if !apt::available() {
        return Ok(());
    }
    for workload in &options.workloads {
        apt::install(workload.packages, workload.name)?;
    }
    for profiler in &options.profilers {
        // Other kernels and releases may lack one of them; its row says so then.
        if let Err(error) = apt::install(profiler.packages, profiler.name) {
            eprintln!("  {}: {error:#}", profiler.name);
        }
    }
    Ok(())
}

fn measure(
    workload: &'static Workload,
    options: &Options,
    place: &Place,
    results: &mut Results,
) -> Result<()> {
    println!("==> {}", workload.name);
    let mut running = Running::start(workload, place)?;
    running.calibrate(options.seconds)?;
    let mut chance = Chance::of_now();
    let mut profilers: Vec<&Profiler> =
        options.profilers.iter().copied().filter(|it| it.fits(workload.name)).collect();
    for round in 0..options.rounds {
        chance.shuffle(&mut profilers);
        for profiler in &profilers {
            let turn = turn::take(profiler, &mut running, place)?;
            say(round, profiler, &turn);
            if profiler.name == NONE && turn.is_err() {
                bail!("it does not run even without a profiler");
            }
            results.add(workload, profiler, round, turn);
        }
    }
    Ok(())
}

fn say(round: usize, profiler: &Profiler, turn: &Result<Turn, String>) {
    match turn {
        Ok(turn) => println!(
            "  round {:>2}  {:<20} {:>12.1} a second, {:>10.2} µs of CPU each, profiler {:>5.2} %, others {:>5.1} %",
            round + 1,
            profiler.name,
            turn.units / turn.wall_s,
            turn.target_cpu_s * 1e6 / turn.units,
            turn.percent_of_machine(turn.profiler_cpu_s),
            turn.others_percent(),
        ),
        Err(error) => println!("  round {:>2}  {:<20} FAILED: {error}", round + 1, profiler.name),
    }
}
