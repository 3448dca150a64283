//! The quality block of a window in numbers of the segment's names, so that windows can be merged without their strings.

use crate::profile::{Counter, ModuleUnknown, Overhead, ProgramCost, Quality, StageCost, UnwindTables};

use super::dictionary::Dictionary;
use super::entries::Entries;
use super::wire::{Cursor, Damage, put};

/// Different notes of one window that are kept; those behind them are counted.
const MOST_NOTES: usize = 64;

/// Numbers of one cost: what adds up first, then what is a largest value.
const COST_SUMS: usize = 5;
const COST_NUMBERS: usize = COST_SUMS + 3;

/// The same for unwind tables: events first, then what there was.
const TABLE_SUMS: usize = 6;
const TABLE_NUMBERS: usize = TABLE_SUMS + 6;

/// [`Quality`] with numbers of names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Figures {
    /// Samples, frames, frames without a name, notes that found no room.
    sums: [u64; 4],
    noun: u32,
    /// Identifier, words, count.
    lost: Vec<[u64; 3]>,
    cut_short: Vec<[u64; 3]>,
    /// Module, reason, frames.
    unknown: Vec<[u64; 3]>,
    /// Words, windows that have them.
    notes: Vec<[u64; 2]>,
    costs: Vec<[u64; COST_NUMBERS]>,
    /// Name, runs, nanoseconds.
    programs: Vec<[u64; 3]>,
    /// Name, nanoseconds.
    stages: Vec<[u64; 2]>,
    tables: Vec<[u64; TABLE_NUMBERS]>,
}

impl Figures {
    pub(super) fn of(quality: &Quality, dictionary: &mut Dictionary) -> Self {
        let mut name = |text: &str| u64::from(dictionary.name(text));
        let mut counters = |list: &[Counter]| -> Vec<[u64; 3]> {
            list.iter().map(|counter| [name(&counter.id), name(&counter.what), counter.count]).collect()
        };
        let (lost, cut_short) = (counters(&quality.lost), counters(&quality.cut_short));
        let unknown = quality
            .unknown_by_module
            .iter()
            .map(|module| [name(&module.module), name(&module.reason), module.frames])
            .collect();
        let kept = quality.notes.len().min(MOST_NOTES);
        let left_out = (quality.notes.len() - kept) as u64;
        let overhead = quality.overhead.as_ref();
        Self {
            sums: [quality.samples, quality.frames, quality.unknown_frames, left_out],
            noun: name(&quality.noun) as u32,
            lost,
            cut_short,
            unknown,
            notes: quality.notes[..kept].iter().map(|note| [name(note), 1]).collect(),
            costs: overhead.into_iter().map(cost_numbers).collect(),
            programs: overhead
                .iter()
                .flat_map(|overhead| &overhead.programs)
                .map(|program| [name(&program.name), program.runs, program.ns])
                .collect(),
            stages: overhead
                .iter()
                .flat_map(|overhead| &overhead.stages)
                .map(|stage| [name(&stage.name), stage.cpu_ns])
                .collect(),
            tables: quality.unwind.iter().map(table_numbers).collect(),
        }
    }

    /// Adds another window of the same segment.
    pub(super) fn add(&mut self, other: &Self) {
        for (sum, number) in self.sums.iter_mut().zip(other.sums) {
            *sum = sum.saturating_add(number);
        }
        self.noun = other.noun;
        add_rows::<2, 3>(&mut self.lost, &other.lost);
        add_rows::<2, 3>(&mut self.cut_short, &other.cut_short);
        add_rows::<2, 3>(&mut self.unknown, &other.unknown);
        add_rows::<1, 2>(&mut self.notes, &other.notes);
        self.sums[3] = self.sums[3].saturating_add(self.notes.len().saturating_sub(MOST_NOTES) as u64);
        self.notes.truncate(MOST_NOTES);
        add_numbers::<COST_SUMS, COST_NUMBERS>(&mut self.costs, &other.costs);
        add_rows::<1, 3>(&mut self.programs, &other.programs);
        add_rows::<1, 2>(&mut self.stages, &other.stages);
        add_numbers::<TABLE_SUMS, TABLE_NUMBERS>(&mut self.tables, &other.tables);
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        put_rows(out, &[self.sums]);
        put(out, u64::from(self.noun));
        put_rows(out, &self.lost);
        put_rows(out, &self.cut_short);
        put_rows(out, &self.unknown);
        put_rows(out, &self.notes);
        put_rows(out, &self.costs);
        put_rows(out, &self.programs);
        put_rows(out, &self.stages);
        put_rows(out, &self.tables);
    }

    pub(super) fn read(cursor: &mut Cursor<'_>) -> Result<Self, Damage> {
        let sums = *read_rows(cursor)?.first().ok_or(Damage("a window without sums"))?;
        Ok(Self {
            sums,
            noun: cursor.small()?,
            lost: read_rows(cursor)?,
            cut_short: read_rows(cursor)?,
            unknown: read_rows(cursor)?,
            notes: read_rows(cursor)?,
            costs: read_rows(cursor)?,
            programs: read_rows(cursor)?,
            stages: read_rows(cursor)?,
            tables: read_rows(cursor)?,
        })
    }

    /// The notes, and how many windows have each.
    pub(super) fn notes(&self, entries: &Entries) -> Result<Vec<(String, u64)>, Damage> {
        let mut notes = Vec::new();
        for [id, windows] in &self.notes {
            let id = u32::try_from(*id).map_err(|_| Damage("no such name"))?;
            notes.push((entries.cleaned(id)?.to_string(), *windows));
        }
        if self.sums[3] > 0 {
            notes.push((format!("{} more notes were left out when windows were merged", self.sums[3]), 1));
        }
        Ok(notes)
    }

    /// The quality block, with its names; without its notes.
    pub(super) fn quality(&self, entries: &Entries) -> Result<Quality, Damage> {
        let name = |id: u64| -> Result<String, Damage> {
            let id = u32::try_from(id).map_err(|_| Damage("no such name"))?;
            Ok(entries.cleaned(id)?.to_string())
        };
        let counters = |rows: &[[u64; 3]]| -> Result<Vec<Counter>, Damage> {
            rows.iter()
                .map(|[id, what, count]| Ok(Counter { id: name(*id)?, what: name(*what)?, count: *count }))
                .collect()
        };
        let module = |[module, reason, frames]: &[u64; 3]| -> Result<ModuleUnknown, Damage> {
            Ok(ModuleUnknown { module: name(*module)?, frames: *frames, reason: name(*reason)? })
        };
        let [samples, frames, unknown_frames, _] = self.sums;
        let mut overhead = self.costs.first().map(overhead_of);
        if let Some(overhead) = &mut overhead {
            for [id, runs, ns] in &self.programs {
                overhead.programs.push(ProgramCost { name: name(*id)?, runs: *runs, ns: *ns });
            }
            for [id, cpu_ns] in &self.stages {
                overhead.stages.push(StageCost { name: name(*id)?, cpu_ns: *cpu_ns });
            }
        }
        Ok(Quality {
            samples,
            noun: name(u64::from(self.noun))?,
            lost: counters(&self.lost)?,
            cut_short: counters(&self.cut_short)?,
            frames,
            unknown_frames,
            unknown_by_module: self.unknown.iter().map(module).collect::<Result<_, _>>()?,
            notes: Vec::new(),
            overhead,
            unwind: self.tables.first().map(tables_of),
        })
    }
}

fn cost_numbers(overhead: &Overhead) -> [u64; COST_NUMBERS] {
    [
        overhead.agent_cpu_ns,
        overhead.bpf_ns,
        overhead.probes_ns,
        overhead.busy_ns,
        overhead.wall_ns,
        u64::from(overhead.cpus),
        overhead.rss_peak_bytes,
        overhead.bpf_map_bytes,
    ]
}

fn overhead_of(numbers: &[u64; COST_NUMBERS]) -> Overhead {
    let [agent_cpu_ns, bpf_ns, probes_ns, busy_ns, wall_ns, cpus, rss_peak_bytes, bpf_map_bytes] = *numbers;
    let cpus = u32::try_from(cpus).unwrap_or(u32::MAX);
    Overhead {
        agent_cpu_ns,
        bpf_ns,
        probes_ns,
        busy_ns,
        wall_ns,
        cpus,
        rss_peak_bytes,
        bpf_map_bytes,
        programs: Vec::new(),
        stages: Vec::new(),
    }
}

fn table_numbers(tables: &UnwindTables) -> [u64; TABLE_NUMBERS] {
    [
        tables.evicted_pages,
        tables.refused_pages,
        tables.delayed_loads,
        tables.refused_mappings,
        tables.finished_samples,
        tables.given_up_samples,
        tables.pages,
        tables.rows,
        tables.rules,
        tables.pool_bytes,
        tables.spaces,
        tables.mapping_entries,
    ]
}

fn tables_of(numbers: &[u64; TABLE_NUMBERS]) -> UnwindTables {
    let [
        evicted_pages,
        refused_pages,
        delayed_loads,
        refused_mappings,
        finished_samples,
        given_up_samples,
        rest @ ..,
    ] = *numbers;
    let [pages, rows, rules, pool_bytes, spaces, mapping_entries] = rest;
    UnwindTables {
        pages,
        rows,
        rules,
        pool_bytes,
        evicted_pages,
        refused_pages,
        spaces,
        mapping_entries,
        delayed_loads,
        refused_mappings,
        finished_samples,
        given_up_samples,
    }
}

/// Adds rows to those with the same first `KEY` numbers.
fn add_rows<const KEY: usize, const N: usize>(to: &mut Vec<[u64; N]>, from: &[[u64; N]]) {
    for row in from {
        match to.iter_mut().find(|known| known[..KEY] == row[..KEY]) {
            Some(known) => {
                for (sum, number) in known[KEY..].iter_mut().zip(&row[KEY..]) {
                    *sum = sum.saturating_add(*number);
                }
            }
            None => to.push(*row),
        }
    }
}

/// Adds the first `SUMS` numbers, and takes the larger one of each of the others.
fn add_numbers<const SUMS: usize, const N: usize>(to: &mut Vec<[u64; N]>, from: &[[u64; N]]) {
    let Some(from) = from.first() else { return };
    let Some(known) = to.first_mut() else {
        to.push(*from);
        return;
    };
    for (index, (sum, number)) in known.iter_mut().zip(from).enumerate() {
        *sum = if index < SUMS { sum.saturating_add(*number) } else { (*sum).max(*number) };
    }
}

fn put_rows<const N: usize>(out: &mut Vec<u8>, rows: &[[u64; N]]) {
    put(out, rows.len() as u64);
    rows.iter().flatten().for_each(|number| put(out, *number));
}

fn read_rows<const N: usize>(cursor: &mut Cursor<'_>) -> Result<Vec<[u64; N]>, Damage> {
    let mut rows = Vec::new();
    for _ in 0..cursor.count()? {
        let mut row = [0; N];
        for number in &mut row {
            *number = cursor.number()?;
        }
        rows.push(row);
    }
    Ok(rows)
}

/// Adds the quality of another segment's windows.
pub(super) fn add_quality(to: &mut Quality, from: &Quality) {
    // The same rule as within a segment, so one place knows how quality adds up.
    let mut dictionary = Dictionary::default();
    let mut sum = Figures::of(to, &mut dictionary);
    sum.add(&Figures::of(from, &mut dictionary));
    let mut entries = Entries::default();
    let sections = dictionary.take_new();
    let sections = std::array::from_fn(|index| (sections[index].count, &*sections[index].bytes));
    if entries.add(&sections, None).is_ok()
        && let Ok(quality) = sum.quality(&entries)
    {
        *to = quality;
    }
}
