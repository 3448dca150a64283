//! Recordings of the run queue as tables, histograms and JSON.

use std::io::{self, Write};

use serde_json::{Value, json};

use super::TextStyle;
use super::histogram::write_histogram;
use super::numbers::{duration, percent, thousands};
use super::quality::quality_line;
use crate::sched::{Distribution, SchedReport, Turns};

/// Version of the JSON's layout; raised when a reader of the old one would misread the new one.
const SCHEMA: u32 = 1;

/// How much to show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SchedOptions {
    /// Processes.
    pub top: usize,
    /// Draw the histograms of each process and CPU, not only those of all together.
    pub histograms: bool,
    /// How to print.
    pub style: TextStyle,
}

/// Everything as tables: all together with its histograms, processes, CPUs.
pub fn write_sched(out: &mut dyn Write, report: &SchedReport, options: SchedOptions) -> io::Result<()> {
    let style = options.style;
    let meta = &report.meta;
    let mut parts = vec![format!("perf-agent {}", env!("CARGO_PKG_VERSION")), meta.profile_type.clone()];
    parts.extend([meta.target.clone(), duration(meta.duration_ns)]);
    writeln!(out, "{}", style.paint("1", &parts.join(" · ")))?;
    titles(out, style)?;
    row(out, &report.all, "all")?;
    histograms(out, &report.all, style)?;
    writeln!(out)?;
    titles(out, style)?;
    for process in report.processes.iter().take(options.top) {
        row(out, &process.turns, &format!("{} ({})", process.name, process.pid))?;
        if options.histograms {
            histograms(out, &process.turns, style)?;
        }
    }
    if let Some(more) = report.processes.len().checked_sub(options.top).filter(|more| *more > 0) {
        writeln!(out, "{}", style.paint("2", &format!("{} more processes", thousands(more as u64))))?;
    }
    writeln!(out)?;
    titles(out, style)?;
    for cpu in &report.cpus {
        row(out, &cpu.turns, &format!("CPU {}", cpu.cpu))?;
        if options.histograms {
            histograms(out, &cpu.turns, style)?;
        }
    }
    write_quality(out, report)
}

fn titles(out: &mut dyn Write, style: TextStyle) -> io::Result<()> {
    let first = format!("{:>23} {:>40} {:>31}", "", "WAITING FOR A CPU", "TURNS ON A CPU");
    let second = format!(
        "{:>12} {:>10} {:>10} {:>9} {:>9} {:>9} {:>10} {:>9} {:>9}",
        "SWITCHES", "PREEMPTED", "TOTAL", "P50", "P99", "MAX", "TOTAL", "P50", "P99"
    );
    writeln!(out, "{}\n{}", style.paint("2", first.trim_end()), style.paint("2", &second))
}

fn row(out: &mut dyn Write, turns: &Turns, name: &str) -> io::Result<()> {
    let (queue, cpu) = (&turns.run_queue, &turns.on_cpu);
    let preempted = percent(turns.preempted as f64 * 100.0 / turns.switches.max(1) as f64);
    writeln!(
        out,
        "{:>12} {:>10} {:>10} {:>9} {:>9} {:>9} {:>10} {:>9} {:>9}  {name}",
        thousands(turns.switches),
        preempted,
        duration(queue.total_ns),
        duration(queue.p50_ns),
        duration(queue.p99_ns),
        duration(queue.max_ns),
        duration(cpu.total_ns),
        duration(cpu.p50_ns),
        duration(cpu.p99_ns),
    )
}

fn histograms(out: &mut dyn Write, turns: &Turns, style: TextStyle) -> io::Result<()> {
    for (title, times) in [("waiting for a CPU", &turns.run_queue), ("turns on a CPU", &turns.on_cpu)] {
        if !times.histogram.is_empty() {
            writeln!(out, "\n{:>16} {}", "", style.paint("1", title))?;
            write_histogram(out, &times.histogram, style)?;
        }
    }
    Ok(())
}

fn write_quality(out: &mut dyn Write, report: &SchedReport) -> io::Result<()> {
    let quality = &report.quality;
    // Stacks and names of frames, which the line speaks of otherwise, are not part of this.
    let line = quality_line(quality);
    let parts =
        line.split(" · ").filter(|part| !part.ends_with("truncated") && !part.ends_with("unknown frames"));
    writeln!(out, "\nQuality  {}", parts.collect::<Vec<_>>().join(" · "))?;
    for note in &quality.notes {
        writeln!(out, "         {note}")?;
    }
    Ok(())
}

/// Everything as JSON.
pub fn sched_json(report: &SchedReport) -> Value {
    let processes = report.processes.iter().map(|process| {
        let mut object = turns(&process.turns);
        object["pid"] = process.pid.into();
        object["comm"] = (*process.name).into();
        object
    });
    let cpus = report.cpus.iter().map(|cpu| {
        let mut object = turns(&cpu.turns);
        object["cpu"] = cpu.cpu.into();
        object
    });
    json!({
        "schema": SCHEMA,
        "meta": report.meta,
        "all": turns(&report.all),
        "processes": processes.collect::<Vec<_>>(),
        "cpus": cpus.collect::<Vec<_>>(),
        "quality": report.quality,
    })
}

fn turns(turns: &Turns) -> Value {
    json!({
        "switches": turns.switches,
        "preempted": turns.preempted,
        "run_queue": times(&turns.run_queue),
        "on_cpu": times(&turns.on_cpu),
    })
}

fn times(times: &Distribution) -> Value {
    json!({
        "count": times.count,
        "total_ns": times.total_ns,
        "mean_ns": times.mean_ns,
        "p50_ns": times.p50_ns,
        "p95_ns": times.p95_ns,
        "p99_ns": times.p99_ns,
        "max_ns": times.max_ns,
        "histogram": times.histogram.iter().map(|(first, last, count)| json!([first, last, count])).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::{Meta, Quality};
    use crate::sched::{CpuReport, ProcessTurns};

    fn report() -> SchedReport {
        let times = Distribution {
            count: 3,
            total_ns: 7_000,
            mean_ns: 2_333,
            p50_ns: 2_000,
            p95_ns: 4_000,
            p99_ns: 4_000,
            max_ns: 4_000,
            histogram: vec![(960, 1_023, 1), (1_984, 2_047, 1), (3_968, 4_095, 1)],
        };
        let turns = Turns { switches: 4, preempted: 1, run_queue: times.clone(), on_cpu: times };
        SchedReport {
            meta: Meta { profile_type: "sched".into(), target: "whole host".into(), ..Meta::default() },
            all: turns.clone(),
            processes: vec![ProcessTurns { pid: 7, name: "a\"<".into(), turns: turns.clone() }],
            cpus: vec![CpuReport { cpu: 1, turns }],
            quality: Quality { samples: 4, noun: "switches".into(), ..Quality::default() },
        }
    }

    #[test]
    fn tables_name_processes_and_cpus() {
        let mut out = Vec::new();
        let options = SchedOptions { top: 5, histograms: true, style: TextStyle::default() };
        write_sched(&mut out, &report(), options).unwrap();
        let text = String::from_utf8(out).unwrap();
        for part in ["a\"< (7)", "CPU 1", "25.0 %", "waiting for a CPU", "Quality  4 switches · 0 lost\n"] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
    }

    #[test]
    fn json_has_all_of_it() {
        let json = sched_json(&report());
        assert_eq!(json["processes"][0]["comm"], "a\"<");
        assert_eq!(json["cpus"][0]["run_queue"]["histogram"][2][2], 1);
        assert_eq!(json["all"]["preempted"], 1);
    }
}
