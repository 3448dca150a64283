//! What came out: ratios with intervals, as a table for people and as JSON with every turn.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::options::Options;
use super::profilers::{NONE, Profiler};
use super::statistics::{CONFIDENCE, Estimate, LEAST_FOR_CONFIDENCE};
use super::turn::Place;
use super::workloads::Workload;

/// What one turn came to. Times are seconds of all CPUs together unless they are of the wall.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Turn {
    /// Work done.
    pub(super) units: f64,
    /// Wall time of the work.
    pub(super) wall_s: f64,
    /// Wall time between the two looks at the CPU times below.
    pub(super) window_s: f64,
    /// CPUs of the machine.
    pub(super) cpus: f64,
    /// CPU time of the target with its children.
    pub(super) target_cpu_s: f64,
    /// CPU time of the profiler's processes meanwhile.
    pub(super) profiler_cpu_s: f64,
    /// CPU time of the profiler's processes from start to end, names and files included.
    pub(super) profiler_total_cpu_s: f64,
    /// Run time of the profiler's BPF programs while the work was done, as the kernel counts it, which is on the target's time; none where it does
    /// not count.
    pub(super) bpf_s: Option<f64>,
    /// The same from the start to the end of the work.
    pub(super) bpf_total_s: Option<f64>,
    /// CPU time of everything else but the client: how quiet the machine was.
    pub(super) others_cpu_s: f64,
    /// What the profiler's results say that it cost: its process, its BPF programs and the way into them.
    pub(super) meter_cpu_s: Option<f64>,
}

impl Turn {
    /// CPU time as percent of what the machine has.
    pub(super) fn percent_of_machine(&self, cpu_s: f64) -> f64 {
        cpu_s * 100.0 / (self.window_s * self.cpus)
    }

    /// CPU time that other programs took, percent of the machine.
    pub(super) fn others_percent(&self) -> f64 {
        self.percent_of_machine(self.others_cpu_s)
    }
}

struct Row {
    workload: &'static Workload,
    profiler: &'static str,
    round: usize,
    turn: Result<Turn, String>,
}

/// All turns.
pub(super) struct Results {
    workloads: Vec<&'static Workload>,
    profilers: Vec<&'static Profiler>,
    rows: Vec<Row>,
    rounds: usize,
    seconds: f64,
    /// Turns in which other programs took more of the machine are not compared, percent.
    most_others: f64,
    agent: String,
}

/// What is compared, of one profiler on one workload.
struct Compared {
    /// Work per second, as a ratio to the turn without a profiler of the same round.
    throughput: Option<Estimate>,
    /// CPU time of the target per unit of work, likewise.
    target_cpu: Option<Estimate>,
    profiler_percent: Option<Estimate>,
    bpf_percent: Option<Estimate>,
    /// From start to end, BPF programs included.
    profiler_total_s: Option<Estimate>,
    meter_s: Option<Estimate>,
    /// Turns that other programs disturbed.
    disturbed: usize,
    /// Of the turns that failed, what the first one said, and how many there were.
    failure: Option<(String, usize)>,
}

impl Results {
    pub(super) fn new(options: &Options, place: &Place) -> Self {
        let version = std::process::Command::new(&place.agent).arg("--version").output();
        Self {
            workloads: options.workloads.clone(),
            profilers: options.profilers.clone(),
            rows: Vec::new(),
            rounds: options.rounds,
            seconds: options.seconds,
            most_others: options.most_others,
            agent: version
                .map(|out| String::from_utf8_lossy(&out.stdout).trim().to_owned())
                .unwrap_or_default(),
        }
    }

    pub(super) fn add(
        &mut self,
        workload: &'static Workload,
        profiler: &Profiler,
        round: usize,
        turn: Result<Turn, String>,
    ) {
        self.rows.push(Row { workload, profiler: profiler.name, round, turn });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    fn turns<'a>(&'a self, workload: &'a str, profiler: &'a str) -> impl Iterator<Item = &'a Row> {
        self.rows.iter().filter(move |row| row.workload.name == workload && row.profiler == profiler)
    }

    fn compare(&self, workload: &str, profiler: &str) -> Option<Compared> {
        let good =
            |row: &'_ Row| row.turn.as_ref().is_ok_and(|turn| turn.others_percent() <= self.most_others);
        let of_round = |round| {
            let mut rows = self.turns(workload, NONE).filter(|row| good(row));
            rows.find(|row| row.round == round).and_then(|row| row.turn.as_ref().ok())
        };
        let rows: Vec<&Row> = self.turns(workload, profiler).collect();
        let usable = rows.iter().filter(|row| good(row));
        let pairs: Vec<(&Turn, &Turn)> =
            usable.filter_map(|row| Some((row.turn.as_ref().ok()?, of_round(row.round)?))).collect();
        let ratio =
            |of: fn(&Turn) -> f64| Estimate::of(pairs.iter().map(|(with, without)| of(with) / of(without)));
        let failed: Vec<&String> = rows.iter().filter_map(|row| row.turn.as_ref().err()).collect();
        (!rows.is_empty()).then(|| Compared {
            throughput: ratio(|turn| turn.units / turn.wall_s),
            target_cpu: ratio(|turn| turn.target_cpu_s / turn.units),
            profiler_percent: Estimate::of(
                pairs.iter().map(|(turn, _)| turn.percent_of_machine(turn.profiler_cpu_s)),
            ),
            bpf_percent: Estimate::of(
                pairs.iter().filter_map(|(turn, _)| Some(turn.percent_of_machine(turn.bpf_s?))),
            ),
            profiler_total_s: Estimate::of(
                pairs
                    .iter()
                    .map(|(turn, _)| turn.profiler_total_cpu_s + turn.bpf_total_s.unwrap_or_default()),
            ),
            meter_s: Estimate::of(pairs.iter().filter_map(|(turn, _)| turn.meter_cpu_s)),
            disturbed: rows.len() - failed.len() - pairs.len(),
            failure: failed.first().map(|first| ((*first).clone(), failed.len())),
        })
    }

    /// Writes both files into a folder, and returns where they are.
    pub(super) fn write(&self, folder: &Path) -> Result<(PathBuf, PathBuf)> {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let (table, json) = (folder.join("bench.md"), folder.join("bench.json"));
        let text = self.table();
        println!("\n{text}");
        std::fs::write(&table, text).with_context(|| format!("cannot write {}", table.display()))?;
        std::fs::write(&json, format!("{:#}\n", self.json()))
            .with_context(|| format!("cannot write {}", json.display()))?;
        Ok((table, json))
    }

    fn table(&self) -> String {
        let mut text = format!(
            "{} · {} · {} CPUs · {} rounds, {} s of work in each turn\n\n\
             Ratios are to the turn without a profiler of the same round: median and {:.0} % interval (sign test). Throughput below 1 is slower,\n\
             CPU per unit above 1 dearer; the latter is that of the target, in which interrupts and BPF programs are. The profiler's CPU is that of its\n\
             processes while the work was done, and beside it stands the run time of its BPF programs where the kernel counts it. \"Start to end\" is both together,\n\
             loading and names included, measured from outside; \"own figure\" is what the result says of itself for that time, the way into BPF programs included. Turns in which other programs took more than {} % of the machine are left out.\n",
            self.agent,
            machine(),
            super::usage::cpus(),
            self.rounds,
            self.seconds,
            CONFIDENCE * 100.0,
            self.most_others,
        );
        if self.rounds < LEAST_FOR_CONFIDENCE {
            let _ = writeln!(
                text,
                "\nWith fewer than {LEAST_FOR_CONFIDENCE} rounds the interval is the least and the greatest, and holds less often."
            );
        }
        for workload in &self.workloads {
            self.table_of(workload, &mut text);
        }
        text
    }

    fn table_of(&self, workload: &Workload, text: &mut String) {
        let turns: Vec<&Turn> =
            self.turns(workload.name, NONE).filter_map(|row| row.turn.as_ref().ok()).collect();
        let Some(rate) = Estimate::of(turns.iter().map(|turn| turn.units / turn.wall_s)) else { return };
        let cpu = Estimate::of(turns.iter().map(|turn| turn.target_cpu_s * 1e6 / turn.units));
        let all = self.rows.iter().filter(|row| row.workload.name == workload.name);
        let others = Estimate::of(all.filter_map(|row| row.turn.as_ref().ok()).map(Turn::others_percent));
        let _ = write!(
            text,
            "\n### {}: {}\n\nWithout a profiler {} a second ({} to {}), {} µs of the target's CPU each; other programs took {:.1} % of the machine meanwhile.\n\n\
             | profiler | throughput | CPU per unit | profiler's CPU, % of machine | BPF, % of machine | start to end, s | own figure, s | turns |\n|---|---|---|---|---|---|---|---|\n",
            workload.name,
            workload.what,
            figures(rate.median),
            figures(rate.low),
            figures(rate.high),
            cpu.map_or_else(|| "?".to_owned(), |cpu| figures(cpu.median)),
            others.map_or(0.0, |others| others.median),
        );
        for profiler in self.profilers.iter().filter(|profiler| profiler.name != NONE) {
            let Some(compared) = self.compare(workload.name, profiler.name) else { continue };
            let count = compared.throughput.map_or(0, |estimate| estimate.count);
            let disturbed = match compared.disturbed {
                0 => String::new(),
                turns => format!(", {turns} left out"),
            };
            let failed = compared
                .failure
                .map(|(said, times)| format!(", {times} failed: {}", said.replace('|', "\\|")));
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {} | {} | {} | {count}{disturbed}{} |",
                profiler.name,
                ratio(compared.throughput),
                ratio(compared.target_cpu),
                median(compared.profiler_percent),
                median(compared.bpf_percent),
                median(compared.profiler_total_s),
                median(compared.meter_s),
                failed.unwrap_or_default(),
            );
        }
    }

    fn json(&self) -> Value {
        let mut compared = Vec::new();
        for workload in &self.workloads {
            for profiler in &self.profilers {
                let Some(found) = self.compare(workload.name, profiler.name) else { continue };
                compared.push(json!({
                    "workload": workload.name,
                    "profiler": profiler.name,
                    "throughput_ratio": estimate(found.throughput),
                    "target_cpu_per_unit_ratio": estimate(found.target_cpu),
                    "profiler_percent_of_machine": estimate(found.profiler_percent),
                    "bpf_percent_of_machine": estimate(found.bpf_percent),
                    "profiler_total_cpu_s": estimate(found.profiler_total_s),
                    "own_figure_cpu_s": estimate(found.meter_s),
                    "left_out": found.disturbed,
                    "failed": found.failure.map(|(said, times)| json!({"times": times, "said": said})),
                }));
            }
        }
        let profilers: Vec<_> = self
            .profilers
            .iter()
            .map(|it| json!({"name": it.name, "what": it.what, "commands": it.commands}))
            .collect();
        json!({
            "schema": 1,
            "agent": self.agent,
            "machine": machine(),
            "rounds": self.rounds,
            "seconds": self.seconds,
            "most_others_percent": self.most_others,
            "profilers": profilers,
            "compared": compared,
            "turns": self.rows.iter().map(row).collect::<Vec<_>>(),
        })
    }
}

fn row(row: &Row) -> Value {
    let mut object = json!({"workload": row.workload.name, "profiler": row.profiler, "round": row.round});
    match &row.turn {
        Err(error) => object["failed"] = error.as_str().into(),
        Ok(turn) => {
            for (name, value) in [
                ("units", turn.units),
                ("wall_s", turn.wall_s),
                ("window_s", turn.window_s),
                ("target_cpu_s", turn.target_cpu_s),
                ("profiler_cpu_s", turn.profiler_cpu_s),
                ("profiler_total_cpu_s", turn.profiler_total_cpu_s),
                ("others_cpu_s", turn.others_cpu_s),
            ] {
                object[name] = value.into();
            }
            object["own_figure_cpu_s"] = turn.meter_cpu_s.into();
            object["bpf_s"] = turn.bpf_s.into();
            object["bpf_total_s"] = turn.bpf_total_s.into();
        }
    }
    object
}

fn estimate(estimate: Option<Estimate>) -> Value {
    estimate.map_or(Value::Null, |it| {
        json!({"median": it.median, "low": it.low, "high": it.high, "confidence": it.confidence, "count": it.count})
    })
}

fn ratio(estimate: Option<Estimate>) -> String {
    estimate
        .map_or_else(|| "–".to_owned(), |it| format!("{:.3} ({:.3} to {:.3})", it.median, it.low, it.high))
}

fn median(estimate: Option<Estimate>) -> String {
    estimate.map_or_else(|| "–".to_owned(), |it| format!("{:.2}", it.median))
}

/// A number with three figures at least.
fn figures(value: f64) -> String {
    if value >= 100.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

/// Kernel and processor.
fn machine() -> String {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("Linux {}, {}", kernel.trim(), std::env::consts::ARCH)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::profilers::PROFILERS;
    use crate::bench::workloads::WORKLOADS;

    fn turn(units: f64, cpu: f64) -> Turn {
        Turn {
            units,
            wall_s: 2.0,
            window_s: 2.0,
            cpus: 2.0,
            target_cpu_s: cpu,
            profiler_cpu_s: 0.02,
            profiler_total_cpu_s: 0.05,
            others_cpu_s: 0.1,
            bpf_s: None,
            bpf_total_s: Some(0.01),
            meter_cpu_s: None,
        }
    }

    fn results() -> Results {
        let options = Options::parse(&["--workloads", "redis", "--profilers", "none,cpu,perf-fp"]).unwrap();
        let place = Place { agent: "/nonexistent".into(), programs: PathBuf::new() };
        let mut results = Results::new(&options, &place);
        for round in 0..7 {
            // The machine gets slower from round to round; the ratio stays.
            let speed = 1000.0 / (1.0 + round as f64);
            results.add(&WORKLOADS[0], &PROFILERS[0], round, Ok(turn(speed, 1.0)));
            results.add(&WORKLOADS[0], &PROFILERS[1], round, Ok(turn(speed * 0.99, 0.99 * 1.02)));
            let perf = PROFILERS.iter().find(|profiler| profiler.name == "perf-fp").unwrap();
            results.add(&WORKLOADS[0], perf, round, Err("no | permission".to_owned()));
        }
        results
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        let compared = results().compare("redis", "cpu").unwrap();
        let throughput = compared.throughput.unwrap();
        assert!(
            (throughput.low - 0.99).abs() < 1e-9 && (throughput.high - 0.99).abs() < 1e-9,
            "{throughput:?}"
        );
        assert!((compared.target_cpu.unwrap().median - 1.02).abs() < 1e-9);
        assert!((compared.profiler_percent.unwrap().median - 0.5).abs() < 1e-9);
        assert!(results().compare("redis", "strace").is_none());
    }

    #[test]
    fn disturbed_turns_are_left_out_and_counted() {
        let mut results = results();
        if let Ok(turn) = &mut results.rows[0].turn {
            turn.others_cpu_s = 3.0;
        }
        let compared = results.compare("redis", "cpu").unwrap();
        assert_eq!((compared.throughput.unwrap().count, compared.disturbed), (6, 1));
        assert!(results.table().contains("| 6, 1 left out |"), "{}", results.table());
    }

    #[test]
    fn what_failed_is_a_row_that_says_so() {
        let text = results().table();
        assert!(
            text.contains(
                "| cpu | 0.990 (0.990 to 0.990) | 1.020 (1.020 to 1.020) | 0.50 | – | 0.06 | – | 7 |"
            ),
            "{text}"
        );
        assert!(
            text.contains("| perf-fp | – | – | – | – | – | – | 0, 7 failed: no \\| permission |"),
            "{text}"
        );
        let json = results().json();
        assert_eq!(json["turns"].as_array().unwrap().len(), 21);
        assert_eq!(json["compared"][2]["failed"]["times"], 7);
    }
}
