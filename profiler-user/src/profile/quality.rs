//! How far a profile can be trusted: counts of everything that was lost, cut or not understood, and what it cost.

use serde::{Deserialize, Serialize};

/// A named count with the sentence that explains it. Zero counts are kept out of a [`Quality`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counter {
    /// Stable identifier, for machines: `ring_full`.
    pub id: String,
    /// What happened, for people: `ring buffer full`.
    pub what: String,
    /// How often.
    pub count: u64,
}

/// Frames without a name in one module, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModuleUnknown {
    /// Module name.
    pub module: String,
    /// Frames (weighted by samples) that have no name.
    pub frames: u64,
    /// Why: `no symbols`, `file is gone`, …
    pub reason: String,
}

/// What one BPF program cost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramCost {
    /// Its name.
    pub name: String,
    /// Times that it ran.
    pub runs: u64,
    /// How long in all, nanoseconds, as the kernel counts it, with the programs that it tail-calls.
    pub ns: u64,
}

/// CPU time of one stage of the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageCost {
    /// What it does, one of the `STAGE_` names.
    pub name: String,
    /// CPU time, nanoseconds.
    pub cpu_ns: u64,
}

/// Names of windows that are closed, and the store, on a thread of its own: of recordings that go on.
pub const STAGE_WINDOWS: &str = "names and store";
/// The agent's CPU time up to the first sample: loading and checking the programs, entering what runs already.
pub const STAGE_START: &str = "start";
/// Draining the ring and the tables, adding up.
pub const STAGE_DRAIN: &str = "drain";
/// Threads beside the one that drains, which build unwind tables.
pub const STAGE_TABLES: &str = "unwind tables";
/// Looking names up when the recording is over.
pub const STAGE_SYMBOLS: &str = "symbols";

impl Counter {
    /// What happened so often; none where it did not.
    pub(crate) fn of(id: &str, what: &str, count: u64) -> Option<Self> {
        (count > 0).then(|| Self { id: id.to_owned(), what: what.to_owned(), count })
    }

    /// What was counted since, cause by cause; causes without anything new are left out.
    pub fn since(now: &[Self], before: &[Self]) -> Vec<Self> {
        let fresh = now.iter().filter_map(|counter| {
            let old = before.iter().filter(|old| old.id == counter.id && old.what == counter.what);
            let old = old.fold(0, |sum: u64, old| sum.saturating_add(old.count));
            let count = counter.count.saturating_sub(old);
            (count > 0).then(|| Self { count, ..counter.clone() })
        });
        fresh.collect()
    }
}

/// The part of the machine's time that has to be busy for a slowdown to be told: one in so many.
const LEAST_BUSY_SHARE: u64 = 50;

/// What the recording cost.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Overhead {
    /// CPU time of the agent's own process, nanoseconds: its start, the recording, and the names that were looked up after it.
    pub agent_cpu_ns: u64,
    /// Run time of its BPF programs while it recorded, nanoseconds, as the kernel counts it.
    pub bpf_ns: u64,
    /// Time on the way into these programs (interrupts of the sampler, tracepoints), nanoseconds: runs times what each was measured to
    /// cost when the recording started.
    #[serde(default)]
    pub probes_ns: u64,
    /// Time that the machine's CPUs were busy meanwhile, with whatever, nanoseconds, all CPUs together; zero where that is not known.
    #[serde(default)]
    pub busy_ns: u64,
    /// Length of the recording, nanoseconds of wall time.
    pub wall_ns: u64,
    /// CPUs of the machine.
    pub cpus: u32,
    /// The agent's largest resident set, bytes.
    pub rss_peak_bytes: u64,
    /// Memory of its BPF maps, bytes.
    pub bpf_map_bytes: u64,
    /// The programs that ran.
    #[serde(default)]
    pub programs: Vec<ProgramCost>,
    /// The agent's CPU time by what it did.
    #[serde(default)]
    pub stages: Vec<StageCost>,
}

impl Overhead {
    /// A time as a share of what all CPUs of the machine could do while it was recorded, in percent.
    pub fn percent_of_machine(&self, ns: u64) -> f64 {
        percent(ns, self.wall_ns.saturating_mul(u64::from(self.cpus)))
    }

    /// What the agent spent once, however long it recorded: its start, and looking names up. Nanoseconds of CPU time.
    pub fn once_ns(&self) -> u64 {
        let once = self.stages.iter().filter(|stage| [STAGE_START, STAGE_SYMBOLS].contains(&&*stage.name));
        once.fold(0, |sum: u64, stage| sum.saturating_add(stage.cpu_ns)).min(self.agent_cpu_ns)
    }

    /// What the agent spent on recording, nanoseconds of CPU time.
    pub fn agent_running_ns(&self) -> u64 {
        self.agent_cpu_ns.saturating_sub(self.once_ns())
    }

    /// Everything that was spent on recording, nanoseconds of CPU time.
    pub fn running_ns(&self) -> u64 {
        self.agent_running_ns().saturating_add(self.bpf_ns).saturating_add(self.probes_ns)
    }

    /// By how much longer running programs ran because of what was done on their time, in percent; none where that is not known, as on a host that
    /// hardly ran anything: the kernel counts its busy time in ticks, most of which miss what is brief.
    pub fn slowdown_percent(&self) -> Option<f64> {
        let on_their_time = self.bpf_ns.saturating_add(self.probes_ns);
        let rest = self.busy_ns.checked_sub(on_their_time.saturating_add(self.agent_cpu_ns))?;
        let machine_ns = self.wall_ns.saturating_mul(u64::from(self.cpus));
        (rest > machine_ns / LEAST_BUSY_SHARE).then(|| percent(on_their_time, rest))
    }

    /// What was spent since, of sums that only grow: a window's part. Levels, such as memory, are those at its end.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let programs = self.programs.iter().map(|now| {
            let old = before.programs.iter().find(|old| old.name == now.name);
            let (runs, ns) = old.map_or((0, 0), |old| (old.runs, old.ns));
            let (runs, ns) = (now.runs.saturating_sub(runs), now.ns.saturating_sub(ns));
            ProgramCost { name: now.name.clone(), runs, ns }
        });
        let stages = self.stages.iter().map(|now| {
            let old = before.stages.iter().find(|old| old.name == now.name).map_or(0, |old| old.cpu_ns);
            StageCost { name: now.name.clone(), cpu_ns: now.cpu_ns.saturating_sub(old) }
        });
        Self {
            agent_cpu_ns: self.agent_cpu_ns.saturating_sub(before.agent_cpu_ns),
            bpf_ns: self.bpf_ns.saturating_sub(before.bpf_ns),
            probes_ns: self.probes_ns.saturating_sub(before.probes_ns),
            busy_ns: self.busy_ns.saturating_sub(before.busy_ns),
            wall_ns: self.wall_ns.saturating_sub(before.wall_ns),
            cpus: self.cpus,
            rss_peak_bytes: self.rss_peak_bytes,
            bpf_map_bytes: self.bpf_map_bytes,
            programs: programs.filter(|program| program.runs > 0).collect(),
            stages: stages.filter(|stage| stage.cpu_ns > 0).collect(),
        }
    }

    /// Counts what the agent did after the recording.
    pub fn add_stage(&mut self, name: &str, cpu_ns: u64) {
        self.agent_cpu_ns = self.agent_cpu_ns.saturating_add(cpu_ns);
        self.stages.push(StageCost { name: name.to_owned(), cpu_ns });
    }
}

/// The unwind tables behind the stacks of a recording.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct UnwindTables {
    /// Text pages (64 KiB of code) whose rows were loaded at the end.
    pub pages: u64,
    /// Rows of these pages.
    pub rows: u64,
    /// Distinct rules that the rows refer to.
    pub rules: u64,
    /// Memory of the row pool, bytes.
    pub pool_bytes: u64,
    /// Pages that gave way to others because the pool was full.
    pub evicted_pages: u64,
    /// Pages that found no room.
    pub refused_pages: u64,
    /// Address spaces that the kernel side knew at the end; processes that forked from one another share one.
    pub spaces: u64,
    /// Entries of the mapping trie.
    pub mapping_entries: u64,
    /// Times that the loading of mappings had to wait because too much was to be loaded at once.
    pub delayed_loads: u64,
    /// Mappings that found the trie or the page directory full.
    pub refused_mappings: u64,
    /// Samples that met a missing table in the kernel and were finished in user space.
    pub finished_samples: u64,
    /// Samples that were given up because their table did not come in time.
    pub given_up_samples: u64,
}

impl UnwindTables {
    /// What happened since, with what there is now.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        Self {
            evicted_pages: self.evicted_pages.saturating_sub(before.evicted_pages),
            refused_pages: self.refused_pages.saturating_sub(before.refused_pages),
            delayed_loads: self.delayed_loads.saturating_sub(before.delayed_loads),
            refused_mappings: self.refused_mappings.saturating_sub(before.refused_mappings),
            finished_samples: self.finished_samples.saturating_sub(before.finished_samples),
            given_up_samples: self.given_up_samples.saturating_sub(before.given_up_samples),
            ..*self
        }
    }
}

/// The quality block of a profile.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Quality {
    /// Samples in the profile.
    pub samples: u64,
    /// What they are called where they are not samples: `waits`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub noun: String,
    /// Samples and events that were not recorded, by cause.
    pub lost: Vec<Counter>,
    /// Stacks that end before the thread's entry point, by reason. Reasons that are not a defect (a clean end) are not in here.
    pub cut_short: Vec<Counter>,
    /// Frames in all samples.
    pub frames: u64,
    /// Of these, frames without a name.
    pub unknown_frames: u64,
    /// Unknown frames by module, most first.
    pub unknown_by_module: Vec<ModuleUnknown>,
    /// Fallbacks and restrictions that the reader should know of, one sentence each.
    pub notes: Vec<String>,
    /// What the recording cost; none for profiles that were imported.
    pub overhead: Option<Overhead>,
    /// Unwind tables; none for profiles that were imported.
    #[serde(default)]
    pub unwind: Option<UnwindTables>,
}

impl Quality {
    /// What the entries of the profile are called.
    pub fn counted(&self) -> &str {
        if self.noun.is_empty() { "samples" } else { &self.noun }
    }

    /// All losses together.
    pub fn lost_total(&self) -> u64 {
        sum(&self.lost)
    }

    /// All stacks that were cut short.
    pub fn cut_short_total(&self) -> u64 {
        sum(&self.cut_short)
    }

    /// Share of stacks that were cut short, percent of samples.
    pub fn cut_short_percent(&self) -> f64 {
        percent(self.cut_short_total(), self.samples)
    }

    /// Share of frames without a name, percent of frames.
    pub fn unknown_percent(&self) -> f64 {
        percent(self.unknown_frames, self.frames)
    }
}

/// Saturates: a profile read from a file may claim any number.
fn sum(counters: &[Counter]) -> u64 {
    counters.iter().fold(0, |sum, counter| sum.saturating_add(counter.count))
}

fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 * 100.0 / whole as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counter(id: &str, count: u64) -> Counter {
        Counter { id: id.to_owned(), what: id.to_owned(), count }
    }

    #[test]
    fn losses_of_windows_add_up_to_the_losses_of_all() {
        let totals = [
            vec![],
            vec![counter("ring_full", 3)],
            vec![counter("ring_full", 3), counter("undecodable", 1)],
            vec![counter("ring_full", 10), counter("undecodable", 1)],
        ];
        let parts: Vec<_> = totals.windows(2).map(|pair| Counter::since(&pair[1], &pair[0])).collect();
        assert_eq!(
            parts,
            [vec![counter("ring_full", 3)], vec![counter("undecodable", 1)], vec![counter("ring_full", 7)]]
        );
    }

    #[test]
    fn a_slowdown_is_told_of_hosts_that_ran_something() {
        let busy = |busy_ns| Overhead {
            agent_cpu_ns: 1_000,
            bpf_ns: 100,
            probes_ns: 100,
            busy_ns,
            wall_ns: 100_000,
            cpus: 2,
            ..Overhead::default()
        };
        assert_eq!(busy(0).slowdown_percent(), None);
        assert_eq!(busy(5_000).slowdown_percent(), None, "3,800 of 200,000 is within what ticks miss");
        assert_eq!(busy(21_200).slowdown_percent(), Some(1.0));
    }

    #[test]
    fn the_cost_of_a_window_is_what_came_in_it() {
        let program = |runs, ns| ProgramCost { name: "sample".to_owned(), runs, ns };
        let before = Overhead {
            agent_cpu_ns: 50,
            bpf_ns: 7,
            wall_ns: 100,
            cpus: 2,
            rss_peak_bytes: 5,
            programs: vec![program(3, 7)],
            stages: vec![StageCost { name: STAGE_START.to_owned(), cpu_ns: 40 }],
            ..Overhead::default()
        };
        let mut now = before.clone();
        (now.agent_cpu_ns, now.bpf_ns, now.wall_ns, now.rss_peak_bytes) = (60, 10, 300, 6);
        now.programs = vec![program(4, 10)];
        now.stages.push(StageCost { name: STAGE_DRAIN.to_owned(), cpu_ns: 10 });
        let part = now.since(&before);
        assert_eq!((part.agent_cpu_ns, part.bpf_ns, part.wall_ns, part.rss_peak_bytes), (10, 3, 200, 6));
        assert_eq!(part.programs, [program(1, 3)]);
        assert_eq!(part.stages, [StageCost { name: STAGE_DRAIN.to_owned(), cpu_ns: 10 }]);
        assert_eq!(part.once_ns(), 0, "the start was another window's");
    }
}
