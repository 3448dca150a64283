//! The programs at an allocator's functions and their tables.

use std::os::fd::{AsFd, BorrowedFd};

use aya::maps::{Array, Map, MapData, PerCpuArray};
use aya::programs::UProbe;
use aya::{Ebpf, EbpfLoader};
use profiler_common::heap::{
    ALL_SIZES, Block, BlockKey, ChainSum, HeapControl, HeapSum, RATES, Rate, SizeSum,
};
use profiler_common::limits::{MAX_CHAIN_SUMS, MAX_HEAP_SUMS, MAX_HEAP_THREADS};

use super::batch::{self, Read};
use super::entry::{ProgramRuns, Trigger};
use super::loader::{hash, map_error, refused, take_map};
use super::multi::{self, LoadedProgram, MultiProgram};
use super::{LoadError, Probing, Programs, UprobeUnit, raw};

/// What is recorded of an allocator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeapTables {
    /// Calls.
    Calls,
    /// Calls, and this many blocks at most until they are freed.
    Blocks(u32),
}

/// Makes the tables as large as the recording needs them.
pub(super) fn size_tables(loader: &mut EbpfLoader<'_>, tables: Option<HeapTables>) {
    let entries = |wanted: bool, entries: u32| if wanted { entries } else { 1 };
    let blocks = match tables {
        Some(HeapTables::Blocks(entries)) => entries.max(1),
        Some(HeapTables::Calls) | None => 1,
    };
    loader
        .map_max_entries("HEAP_THREADS", entries(tables.is_some(), MAX_HEAP_THREADS))
        .map_max_entries("HEAP_SUMS", entries(tables.is_some(), MAX_HEAP_SUMS))
        .map_max_entries("BLOCKS", blocks)
        .map_max_entries("CHAIN_SUMS", entries(matches!(tables, Some(HeapTables::Blocks(_))), MAX_CHAIN_SUMS))
        .map_max_entries("HEAP_SIZES", entries(tables.is_some(), ALL_SIZES + 1));
}

/// The tables of the programs.
pub struct HeapMaps {
    control: Array<MapData, HeapControl>,
    rates: Array<MapData, Rate>,
    sizes: PerCpuArray<MapData, SizeSum>,
    sums: MapData,
    blocks: MapData,
    chains: MapData,
    /// The kernel runs a tail call only as long as somebody holds the table.
    _walk: MapData,
}

impl HeapMaps {
    /// Says how calls of each size are taken; one entry for each bucket.
    ///
    /// # Errors
    ///
    /// What the kernel refused.
    pub fn set_rates(&mut self, rates: &[Rate]) -> Result<(), LoadError> {
        for (bucket, rate) in (0..RATES).zip(rates) {
            self.rates.set(bucket, rate, 0).map_err(|source| map_error("HEAP_RATES", source))?;
        }
        Ok(())
    }

    /// Tells the programs how to go on.
    ///
    /// # Errors
    ///
    /// What the kernel refused.
    pub fn control(&mut self, control: HeapControl) -> Result<(), LoadError> {
        self.control.set(0, control, 0).map_err(|source| map_error("HEAP_CONTROL", source))
    }

    /// Calls and bytes by size bucket, over all CPUs.
    pub fn sizes(&self) -> Vec<SizeSum> {
        (0..RATES).map(|bucket| self.size(bucket)).collect()
    }

    /// Calls and bytes of all sizes, over all CPUs.
    pub fn total(&self) -> SizeSum {
        self.size(ALL_SIZES)
    }

    fn size(&self, index: u32) -> SizeSum {
        let cpus = self.sizes.get(&index, 0).ok();
        cpus.iter().flat_map(|cpus| cpus.iter()).fold(SizeSum::default(), |sum, cpu| SizeSum {
            count: sum.count.wrapping_add(cpu.count),
            bytes: sum.bytes.wrapping_add(cpu.bytes),
        })
    }

    /// Sums by stack, so far.
    ///
    /// # Errors
    ///
    /// What `bpf(2)` reports.
    pub fn sums(&self) -> Result<Vec<(u64, HeapSum)>, LoadError> {
        batch::entries(self.sums.fd().as_fd(), Read::Keep)
            .map_err(|source| LoadError::Batch { map: "HEAP_SUMS", source })
    }

    /// Forgets the sums of these stacks.
    ///
    /// # Errors
    ///
    /// What `bpf(2)` reports.
    pub fn forget_sums(&self, numbers: &[u64]) -> Result<(), LoadError> {
        batch::remove(self.sums.fd().as_fd(), numbers)
            .map_err(|source| LoadError::Batch { map: "HEAP_SUMS", source })
    }

    /// Sums of resized blocks by stack, so far.
    ///
    /// # Errors
    ///
    /// What `bpf(2)` reports.
    pub fn chains(&self) -> Result<Vec<(u64, ChainSum)>, LoadError> {
        batch::entries(self.chains.fd().as_fd(), Read::Keep)
            .map_err(|source| LoadError::Batch { map: "CHAIN_SUMS", source })
    }

    /// Blocks that were not freed, so far.
    ///
    /// # Errors
    ///
    /// What `bpf(2)` reports.
    pub fn blocks(&self) -> Result<Vec<(BlockKey, Block)>, LoadError> {
        batch::entries(self.blocks.fd().as_fd(), Read::Keep)
            .map_err(|source| LoadError::Batch { map: "BLOCKS", source })
    }

    /// Follows these blocks no longer.
    ///
    /// # Errors
    ///
    /// What `bpf(2)` reports.
    pub fn forget_blocks(&self, keys: &[BlockKey]) -> Result<(), LoadError> {
        batch::remove(self.blocks.fd().as_fd(), keys)
            .map_err(|source| LoadError::Batch { map: "BLOCKS", source })
    }
}

/// The programs.
const PROGRAMS: [&str; 4] = [ENTERED, GO_ENTERED, RETURNED, WALK];
const ENTERED: &str = "heap_entered";
const GO_ENTERED: &str = "go_heap_entered";
const RETURNED: &str = "heap_returned";
const WALK: &str = "walk_heap";

/// Runs of the programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HeapRuns {
    /// Of those at the beginning of calls.
    pub entered: u64,
    /// Of the one at their return.
    pub returned: u64,
    /// Time of all, nanoseconds.
    pub run_ns: u64,
}

/// How the programs are loaded.
#[derive(Default)]
pub(super) struct HeapPrograms {
    /// For links to many places; none where the kernel has none.
    multi: Option<Vec<MultiProgram>>,
    /// Those of them that were loaded.
    loaded: Vec<LoadedProgram>,
}

impl HeapPrograms {
    /// While all maps are with `ebpf`.
    pub(super) fn read(ebpf: &Ebpf, tables: Option<HeapTables>) -> Self {
        Self { multi: tables.and_then(|_| multi::read(ebpf, &PROGRAMS)), loaded: Vec::new() }
    }

    fn fd(&self, name: &str) -> Option<BorrowedFd<'_>> {
        Some(self.loaded.iter().find(|program| program.name == name)?.as_fd())
    }

    /// Names, and instructions that the verifier went through.
    pub(super) fn verified(&self) -> impl Iterator<Item = (String, Option<u32>)> {
        self.loaded.iter().filter_map(|program| {
            let count = program.info()?.verified_insns;
            Some((program.name.to_owned(), (count > 0).then_some(count)))
        })
    }

    /// What each cost so far.
    pub(super) fn costs(&self) -> impl Iterator<Item = ProgramRuns> {
        self.loaded.iter().filter_map(|program| {
            let info = program.info()?;
            let (runs, ns) = (info.run_cnt, info.run_time_ns);
            Some(ProgramRuns { name: program.name.to_owned(), trigger: Trigger::Probe, runs, ns })
        })
    }
}

impl Programs {
    /// Loads the programs of an allocator. Nothing is attached.
    ///
    /// # Errors
    ///
    /// What the kernel refused, or they were loaded before.
    pub fn load_heap(&mut self) -> Result<HeapMaps, LoadError> {
        if let Some(programs) = self.heap.multi.take() {
            // A kernel that refuses says more to aya, below.
            self.heap.loaded =
                programs.iter().map(MultiProgram::load).collect::<Result<_, _>>().unwrap_or_default();
        }
        if self.heap.loaded.is_empty() {
            for program in PROGRAMS {
                self.heap_program(program)?.load().map_err(|source| refused(program, source))?;
            }
        }
        let Map::ProgramArray(walk) = take_map(&mut self.ebpf, "WALK_HEAP")? else {
            return Err(LoadError::Missing("WALK_HEAP"));
        };
        raw::set_first_program(walk.fd().as_fd(), self.heap_program_fd(WALK)?)
            .map_err(|source| LoadError::Batch { map: "WALK_HEAP", source })?;
        let (control, rates, sizes) = (
            take_map(&mut self.ebpf, "HEAP_CONTROL")?,
            take_map(&mut self.ebpf, "HEAP_RATES")?,
            take_map(&mut self.ebpf, "HEAP_SIZES")?,
        );
        Ok(HeapMaps {
            control: Array::try_from(control).map_err(|source| map_error("HEAP_CONTROL", source))?,
            rates: Array::try_from(rates).map_err(|source| map_error("HEAP_RATES", source))?,
            sizes: PerCpuArray::try_from(sizes).map_err(|source| map_error("HEAP_SIZES", source))?,
            sums: hash(&mut self.ebpf, "HEAP_SUMS")?,
            blocks: hash(&mut self.ebpf, "BLOCKS")?,
            chains: hash(&mut self.ebpf, "CHAIN_SUMS")?,
            _walk: walk,
        })
    }

    /// How probes that run the programs are put in.
    ///
    /// # Errors
    ///
    /// The kernel has no probes in user code.
    pub fn heap_probing(&self) -> std::io::Result<Probing> {
        if self.heap.loaded.is_empty() { UprobeUnit::find().map(Probing::Events) } else { Ok(Probing::Links) }
    }

    /// One of the programs `heap_entered`, `go_heap_entered` and `heap_returned`, to link to a probe.
    ///
    /// # Errors
    ///
    /// It was not loaded.
    pub fn heap_program_fd(&self, name: &'static str) -> Result<BorrowedFd<'_>, LoadError> {
        if let Some(fd) = self.heap.fd(name) {
            return Ok(fd);
        }
        let program = self.ebpf.program(name).ok_or(LoadError::Missing(name))?;
        let program: &UProbe = program.try_into().map_err(|source| refused(name, source))?;
        Ok(program.fd().map_err(|source| refused(name, source))?.as_fd())
    }

    /// How often the programs ran so far and how long; zeroes where the kernel keeps no run-time statistics.
    pub fn heap_runs(&self) -> HeapRuns {
        let (entered_ns, entered) = self.runs_of(ENTERED);
        let (go_ns, go_entered) = self.runs_of(GO_ENTERED);
        let (returned_ns, returned) = self.runs_of(RETURNED);
        HeapRuns { entered: entered + go_entered, returned, run_ns: entered_ns + go_ns + returned_ns }
    }

    /// Nanoseconds of one program, with what it tail-calls, and how often it ran.
    fn runs_of(&self, name: &str) -> (u64, u64) {
        if let Some(program) = self.heap.loaded.iter().find(|program| program.name == name) {
            return program.info().map_or((0, 0), |info| (info.run_time_ns, info.run_cnt));
        }
        let info = self.ebpf.program(name).and_then(|program| program.info().ok());
        info.map_or((0, 0), |info| (info.run_time().as_nanos() as u64, info.run_count()))
    }

    fn heap_program(&mut self, name: &'static str) -> Result<&mut UProbe, LoadError> {
        let program = self.ebpf.program_mut(name).ok_or(LoadError::Missing(name))?;
        program.try_into().map_err(|source| refused(name, source))
    }
}
