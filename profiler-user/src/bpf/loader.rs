//! Loads the BPF object for one recording: configuration, self-check, walk chain, counters.

use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use aya::maps::{Array, MapData, PerCpuArray, ProgramArray, RingBuf};
use aya::programs::{
    PerfEvent as PerfEventProgram, Program, ProgramError, RawTracePoint, RawTracePointRunOptions, TestRun,
};
use aya::{Ebpf, EbpfLoader, VerifierLogLevel};
use profiler_common::config::{Config, SelfCheck};
use profiler_common::limits::{
    CHAIN_CPU, CHAINS, MAX_PASSING, MAX_STACKS_SENT, MAX_WAITING_THREADS, MAX_WAITS,
};
use profiler_common::stats::Stat;
use profiler_common::syscall::SyscallConfig;
use thiserror::Error;

use super::entry::{ProgramRuns, Trigger};

/// The BPF object, built by the build script.
pub(super) static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("PERF_AGENT_BPF_OBJECT"));

/// Why the programs could not be loaded.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The kernel refused a map or the object could not be understood.
    #[error("cannot load the BPF object")]
    Object(#[source] Box<aya::EbpfError>),
    /// The kernel refused a program.
    #[error("the kernel refused the BPF program `{program}`")]
    Program {
        /// Name of the program.
        program: &'static str,
        /// What the kernel said, with the verifier's log.
        #[source]
        source: Box<ProgramError>,
    },
    /// The object lacks a map or program: it was built from other sources.
    #[error("the BPF object has no `{0}`")]
    Missing(&'static str),
    /// A map could not be read or written.
    #[error("cannot use the BPF map `{map}`")]
    Map {
        /// Name of the map.
        map: &'static str,
        /// What the kernel said.
        #[source]
        source: Box<aya::maps::MapError>,
    },
    /// A map could not be read as a whole.
    #[error("cannot read the BPF map `{map}`")]
    Batch {
        /// Name of the map.
        map: &'static str,
        /// What `bpf(2)` said.
        #[source]
        source: std::io::Error,
    },
    /// A map's memory could not be shared.
    #[error("cannot map the memory of the BPF map `{map}`")]
    Memory {
        /// Name of the map.
        map: &'static str,
        /// What `mmap(2)` said.
        #[source]
        source: std::io::Error,
    },
    /// Kernel fields are not where BTF says.
    #[error("reading our own process through BTF offsets gave {found}, expected {expected}")]
    SelfCheck {
        /// What was read.
        found: String,
        /// What it should have been.
        expected: String,
    },
}

impl LoadError {
    /// True when the kernel refused for want of a privilege.
    pub fn is_permission(&self) -> bool {
        let mut source: Option<&(dyn std::error::Error + 'static)> = Some(self);
        while let Some(error) = source {
            if let Some(io) = error.downcast_ref::<std::io::Error>() {
                return io.kind() == std::io::ErrorKind::PermissionDenied;
            }
            source = error.source();
        }
        false
    }
}

/// How system calls are counted.
#[derive(Debug, Clone, Copy)]
pub struct CallTables {
    /// What the programs are told.
    pub config: SyscallConfig,
    /// Entries of each table; none for the usual sizes.
    pub entries: Option<u32>,
}

/// How to load.
#[derive(Debug, Clone, Copy)]
pub struct ProgramsOptions {
    /// What the programs are told.
    pub config: Config,
    /// Size of the ring, bytes: a power of two and a multiple of the page size.
    pub ring_bytes: u32,
    /// Whether CPUs are sampled.
    pub cpu_samples: bool,
    /// Entries of the tables of waits; none when waits are not measured.
    pub waits: Option<WaitTables>,
    /// Whether the run queue is measured.
    pub turns: bool,
    /// Whether page faults are sampled.
    pub growth: bool,
    /// What is recorded of allocators; none when nothing is.
    pub heap: Option<super::HeapTables>,
    /// How system calls are counted; none when they are not recorded and their tables need no room.
    pub syscalls: Option<CallTables>,
}

/// How much room the tables of waits have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WaitTables {
    /// Threads that are followed.
    pub threads: u32,
    /// Sums between two looks of the agent.
    pub sums: u32,
}

impl Default for WaitTables {
    fn default() -> Self {
        Self { threads: MAX_WAITING_THREADS, sums: MAX_WAITS }
    }
}

/// The loaded programs and their maps. Dropping it removes everything from the kernel.
pub struct Programs {
    pub(super) ebpf: Ebpf,
    ring: RingBuf<MapData>,
    pub(super) stats: PerCpuArray<MapData, u64>,
    tick: Array<MapData, u64>,
    targets: super::Targets,
    /// Until the unwinder takes them.
    tables: Option<super::TableMaps>,
    /// The kernel runs a tail call only as long as somebody holds the table.
    _walk: Option<ProgramArray<MapData>>,
    /// Until the measurement of waits takes them.
    waits: Option<super::Waits>,
    wait_links: Vec<aya::programs::raw_trace_point::RawTracePointLinkId>,
    /// The programs of allocators.
    pub(super) heap: super::heap::HeapPrograms,
    /// The programs' log, for work on them.
    #[cfg(feature = "bpf-log")]
    log: Option<super::log::BpfLog>,
    /// Turns the kernel's run-time statistics on for as long as it is open; none where the kernel refused.
    run_time_stats: Option<OwnedFd>,
}

impl Programs {
    /// Loads everything and checks it on our own process. Nothing is attached yet.
    ///
    /// # Errors
    ///
    /// What the kernel or the check refused.
    pub fn load(options: &ProgramsOptions) -> Result<Self, LoadError> {
        // Those beside CPU samples that take stacks, in scratches of their own.
        let stacks =
            options.waits.is_some() || options.growth || options.syscalls.is_some() || options.heap.is_some();
        let mut loader = EbpfLoader::new();
        super::syscalls::size_tables(&mut loader, options.syscalls.as_ref());
        super::heap::size_tables(&mut loader, options.heap);
        if !options.turns {
            for table in super::turns::TABLES {
                loader.map_max_entries(table, 1);
            }
        }
        let mut ebpf = loader
            // The offsets come as configuration; the object has no relocations against the kernel's types.
            .btf(None)
            .verifier_log_level(VerifierLogLevel::STATS)
            .override_global("CONFIG", &options.config, true)
            .map_max_entries("RING", options.ring_bytes)
            .map_max_entries("SCRATCH", if stacks { CHAINS } else { CHAIN_CPU + 1 })
            .map_max_entries("OFF_CPU_THREADS", options.waits.map_or(1, |tables| tables.threads))
            .map_max_entries("PASSING", if options.waits.is_some() { MAX_PASSING } else { 1 })
            .map_max_entries("WAITS", options.waits.map_or(1, |tables| tables.sums))
            .map_max_entries(
                "STACKS_SENT",
                if options.waits.is_some() || options.heap.is_some() { MAX_STACKS_SENT } else { 1 },
            )
            .load(OBJECT)
            .map_err(|error| LoadError::Object(Box::new(error)))?;
        #[cfg(feature = "bpf-log")]
        let log = super::log::BpfLog::open(&mut ebpf);
        let heap = super::heap::HeapPrograms::read(&ebpf, options.heap);
        let run_time_stats = run_time_stats(options);
        self_check(&mut ebpf, &options.config)?;
        let walk = options.cpu_samples.then(|| load_sampler(&mut ebpf)).transpose()?;
        let waits = options
            .waits
            .map(|_| super::Waits::load(&mut ebpf, options.config.switch.wakers != 0))
            .transpose()?;
        Ok(Self {
            ring: RingBuf::try_from(take_map(&mut ebpf, "RING")?)
                .map_err(|source| map_error("RING", source))?,
            stats: PerCpuArray::try_from(take_map(&mut ebpf, "STATS")?)
                .map_err(|source| map_error("STATS", source))?,
            tick: Array::try_from(take_map(&mut ebpf, "TICK_NS")?)
                .map_err(|source| map_error("TICK_NS", source))?,
            targets: super::Targets::take(&mut ebpf)?,
            tables: Some(super::TableMaps::take(&mut ebpf)?),
            _walk: walk,
            waits,
            wait_links: Vec::new(),
            heap,
            #[cfg(feature = "bpf-log")]
            log,
            run_time_stats,
            ebpf,
        })
    }

    /// The maps that say how to walk; once.
    ///
    /// # Errors
    ///
    /// They were taken before.
    pub fn take_tables(&mut self) -> Result<super::TableMaps, LoadError> {
        self.tables.take().ok_or(LoadError::Missing("SPACES"))
    }

    /// The maps of waits; once.
    ///
    /// # Errors
    ///
    /// They were taken before, or the programs were loaded without.
    pub fn take_waits(&mut self) -> Result<super::Waits, LoadError> {
        self.waits.take().ok_or(LoadError::Missing("WAITS"))
    }

    /// Begins to measure waits.
    ///
    /// # Errors
    ///
    /// What the kernel refused.
    pub fn attach_waits(&mut self) -> Result<(), LoadError> {
        self.wait_links = super::Waits::attach(&mut self.ebpf)?;
        Ok(())
    }

    /// Ends it.
    ///
    /// # Errors
    ///
    /// What the kernel refused.
    pub fn detach_waits(&mut self) -> Result<(), LoadError> {
        super::Waits::detach(&mut self.ebpf, std::mem::take(&mut self.wait_links))
    }

    /// The ring, to wait for a wake-up.
    ///
    /// # Errors
    ///
    /// No descriptor is left.
    pub fn ring_fd(&self) -> std::io::Result<OwnedFd> {
        use std::os::fd::{AsRawFd, BorrowedFd};
        // SAFETY: the ring is open as long as `self` is borrowed.
        unsafe { BorrowedFd::borrow_raw(self.ring.as_raw_fd()) }.try_clone_to_owned()
    }

    /// Attaches the programs that keep the tables of processes right.
    ///
    /// # Errors
    ///
    /// What the kernel refused.
    pub fn follow_processes(&mut self) -> Result<(), LoadError> {
        let programs = [
            ("process_forked", "task_newtask"),
            ("process_executed", "sched_process_exec"),
            ("process_exited", "sched_process_exit"),
        ];
        for (program, tracepoint) in programs {
            let loaded = raw_tracepoint(&mut self.ebpf, program)?;
            loaded
                .load()
                .and_then(|()| loaded.attach(tracepoint))
                .map_err(|source| refused(program, source))?;
        }
        Ok(())
    }

    /// Whom the programs look at.
    pub fn targets(&self) -> &super::Targets {
        &self.targets
    }

    /// Whom the programs look at, to change it.
    pub fn targets_mut(&mut self) -> &mut super::Targets {
        &mut self.targets
    }

    /// The program to run at each CPU sample.
    ///
    /// # Errors
    ///
    /// The object lacks it.
    pub fn cpu_sampler(&mut self) -> Result<std::os::fd::BorrowedFd<'_>, LoadError> {
        let program = perf_program(&mut self.ebpf, "sample_cpu")?;
        Ok(program.fd().map_err(|source| refused("sample_cpu", source))?.as_fd())
    }

    /// Tells the sampler the distance of its ticks, nanoseconds, when it is not the one that it was loaded with.
    ///
    /// # Errors
    ///
    /// What the kernel refused.
    pub fn set_tick_ns(&mut self, tick_ns: u64) -> Result<(), LoadError> {
        self.tick.set(0, tick_ns, 0).map_err(|source| map_error("TICK_NS", source))
    }

    /// Hands every record in the ring to `take`, up to `limit` records.
    pub fn drain(&mut self, limit: usize, mut take: impl FnMut(&[u8])) {
        #[cfg(feature = "bpf-log")]
        if let Some(log) = &mut self.log {
            log.print();
        }
        for _ in 0..limit {
            let Some(record) = self.ring.next() else { return };
            take(&record);
        }
    }

    /// The counters, summed over CPUs.
    pub fn stats(&self) -> Vec<(Stat, u64)> {
        Stat::ALL.into_iter().map(|stat| (stat, self.stat(stat))).collect()
    }

    /// One of them.
    pub fn stat(&self, stat: Stat) -> u64 {
        self.stats.get(&(stat as u32), 0).map_or(0, |values| values.iter().sum())
    }

    /// The names of the programs that are loaded, and the instructions that the verifier went through.
    pub(super) fn loaded(&self) -> Vec<(String, Option<u32>)> {
        let programs = self.ebpf.programs().filter_map(|(name, program)| {
            let info = program.info().ok()?;
            Some((name.to_owned(), info.verified_instruction_count()))
        });
        programs.chain(self.heap.verified()).collect()
    }

    /// Run time of one program so far, nanoseconds, with the programs that it tail-calls.
    pub fn run_time_of_ns(&self, name: &str) -> u64 {
        let info = self.ebpf.program(name).and_then(|program| program.info().ok());
        info.map_or(0, |info| info.run_time().as_nanos() as u64)
    }

    /// Whether the kernel counts what the programs cost. It does not for those who may load programs, but lack `CAP_SYS_ADMIN`
    /// (`bpf_enable_stats`, kernel/bpf/syscall.c).
    pub fn are_timed(&self) -> bool {
        let by_operator = || crate::system::features::Sysctls::gather().bpf_stats_enabled == Some(1);
        self.run_time_stats.is_some() || TIMED.get().is_some() || by_operator()
    }

    /// What each program cost so far, and what makes it run. Tail-called programs count with their first.
    pub fn costs(&self) -> Vec<ProgramRuns> {
        let own = self.ebpf.programs().filter_map(|(name, program)| {
            let info = program.info().ok()?;
            let trigger = match program {
                Program::UProbe(_) => Trigger::Probe,
                _ if name == "sample_cpu" => Trigger::Timer,
                _ if ["thread_switched", "thread_woken"].contains(&name) => Trigger::Scheduler,
                _ => Trigger::Tracepoint,
            };
            let (runs, ns) = (info.run_count(), info.run_time().as_nanos() as u64);
            Some(ProgramRuns { name: name.to_owned(), trigger, runs, ns })
        });
        let mut costs: Vec<ProgramRuns> = own.chain(self.heap.costs()).collect();
        costs.sort_by(|a, b| a.name.cmp(&b.name));
        costs
    }
}

/// Turns the kernel's run-time statistics on. Not for system calls: they would make the programs there cost half as much again, and
/// what those cost is measured in another way.
fn run_time_stats(options: &ProgramsOptions) -> Option<OwnedFd> {
    if options.syscalls.is_some() { None } else { aya::sys::enable_stats(aya::sys::Stats::RunTime).ok() }
}

/// Keeps the kernel's run-time statistics on for the life of this process.
static TIMED: OnceLock<OwnedFd> = OnceLock::new();

/// Has the kernel count what programs cost as long as this process lives, so that the right to ask for it can be given up.
///
/// # Errors
///
/// The kernel refuses it.
pub fn time_programs() -> std::io::Result<()> {
    let stats = aya::sys::enable_stats(aya::sys::Stats::RunTime).map_err(|error| error.io_error)?;
    let _first = TIMED.set(stats);
    Ok(())
}

/// How long what was read of the maps counts: the parts of a window are closed one after the other, and each wants it.
const MAP_MEMORY_HOLDS: Duration = Duration::from_secs(1);

/// Memory of all BPF maps that this process holds, bytes, as the kernel accounts it in `/proc/self/fdinfo`; at most a second old.
pub fn map_memory_bytes() -> u64 {
    static LAST: Mutex<Option<(Instant, u64)>> = Mutex::new(None);
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    match *last {
        Some((read, bytes)) if read.elapsed() < MAP_MEMORY_HOLDS => bytes,
        _ => last.insert((Instant::now(), read_map_memory())).1,
    }
}

fn read_map_memory() -> u64 {
    let Ok(descriptors) = std::fs::read_dir("/proc/self/fd") else { return 0 };
    // Hundreds are files that are held for their names; to be told what a descriptor is costs less than to be told all about it.
    let is_map =
        |path: &Path| std::fs::read_link(path).is_ok_and(|to| to.as_os_str() == "anon_inode:bpf-map");
    let of_maps = descriptors.flatten().filter(|entry| is_map(&entry.path()));
    let texts = of_maps.filter_map(|entry| {
        std::fs::read_to_string(Path::new("/proc/self/fdinfo").join(entry.file_name())).ok()
    });
    let field = |text: &str, name: &str| -> Option<u64> {
        text.lines().find_map(|line| line.strip_prefix(name))?.trim().parse().ok()
    };
    // By ID, because two descriptors may lead to one map.
    let maps: std::collections::HashMap<u64, u64> =
        texts.filter_map(|text| Some((field(&text, "map_id:")?, field(&text, "memlock:")?))).collect();
    maps.values().sum()
}

/// Loads the sampler of CPUs; returns the table of its walk.
fn load_sampler(ebpf: &mut Ebpf) -> Result<ProgramArray<MapData>, LoadError> {
    for program in ["sample_cpu", "walk_cpu"] {
        perf_program(ebpf, program)?.load().map_err(|source| refused(program, source))?;
    }
    let mut walk = ProgramArray::try_from(take_map(ebpf, "WALK_CPU")?)
        .map_err(|source| map_error("WALK_CPU", source))?;
    let step = perf_program(ebpf, "walk_cpu")?.fd().and_then(|fd| Ok(fd.try_clone()?));
    let step = step.map_err(|source| refused("walk_cpu", source))?;
    walk.set(0, &step, 0).map_err(|source| map_error("WALK_CPU", source))?;
    Ok(walk)
}

fn self_check(ebpf: &mut Ebpf, config: &Config) -> Result<(), LoadError> {
    let program = raw_tracepoint(ebpf, "self_check")?;
    program.load().map_err(|source| refused("self_check", source))?;
    program.test_run(RawTracePointRunOptions::new()).map_err(|source| refused("self_check", source))?;
    program.unload().map_err(|source| refused("self_check", source))?;
    let results: Array<_, SelfCheck> =
        Array::try_from(take_map(ebpf, "SELF_CHECK")?).map_err(|source| map_error("SELF_CHECK", source))?;
    let found = results.get(&0, 0).map_err(|source| map_error("SELF_CHECK", source))?;
    judge(config, &found, std::process::id(), own_tid())
}

/// Compares what the program read of us with what we know.
fn judge(config: &Config, found: &SelfCheck, pid: u32, tid: u32) -> Result<(), LoadError> {
    let differs = |what: &str, found: u64, expected: u64| LoadError::SelfCheck {
        found: format!("{what} {found}"),
        expected: format!("{what} {expected}"),
    };
    if found.ran != 1 {
        return Err(differs("runs", u64::from(found.ran), 1));
    }
    if (found.own_pid, found.own_tid) != (pid, tid) {
        return Err(differs("pid", u64::from(found.own_pid), u64::from(pid)));
    }
    if config.has_offsets == 0 {
        return Ok(());
    }
    let by_offsets = u64::from(found.task_tgid) << 32 | u64::from(found.task_pid);
    if by_offsets != found.pid_tgid {
        return Err(differs("tgid and pid", by_offsets, found.pid_tgid));
    }
    if found.has_mm != 1 {
        return Err(differs("mm", u64::from(found.has_mm), 1));
    }
    let threads = std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count) as u64;
    // A thread that is just ending may be counted on one side only.
    if threads.abs_diff(u64::from(found.live_threads)) > 1 {
        return Err(differs("threads", u64::from(found.live_threads), threads));
    }
    Ok(())
}

fn own_tid() -> u32 {
    // SAFETY: no preconditions.
    (unsafe { libc::gettid() }) as u32
}

pub(super) fn refused(program: &'static str, source: ProgramError) -> LoadError {
    LoadError::Program { program, source: Box::new(source) }
}

pub(super) fn map_error(map: &'static str, source: aya::maps::MapError) -> LoadError {
    LoadError::Map { map, source: Box::new(source) }
}

pub(super) fn take_map(ebpf: &mut Ebpf, name: &'static str) -> Result<aya::maps::Map, LoadError> {
    ebpf.take_map(name).ok_or(LoadError::Missing(name))
}

/// A hash map that is read as a whole, with types that the reader knows.
pub(super) fn hash(ebpf: &mut Ebpf, name: &'static str) -> Result<MapData, LoadError> {
    match take_map(ebpf, name)? {
        aya::maps::Map::HashMap(data) => Ok(data),
        _ => Err(LoadError::Missing(name)),
    }
}

/// The same of an array.
pub(super) fn array(ebpf: &mut Ebpf, name: &'static str) -> Result<MapData, LoadError> {
    match take_map(ebpf, name)? {
        aya::maps::Map::Array(data) => Ok(data),
        _ => Err(LoadError::Missing(name)),
    }
}

pub(super) fn perf_program<'a>(
    ebpf: &'a mut Ebpf,
    name: &'static str,
) -> Result<&'a mut PerfEventProgram, LoadError> {
    let program = ebpf.program_mut(name).ok_or(LoadError::Missing(name))?;
    program.try_into().map_err(|source| refused(name, source))
}

pub(super) fn raw_tracepoint<'a>(
    ebpf: &'a mut Ebpf,
    name: &'static str,
) -> Result<&'a mut RawTracePoint, LoadError> {
    let program = ebpf.program_mut(name).ok_or(LoadError::Missing(name))?;
    program.try_into().map_err(|source| refused(name, source))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn honest() -> SelfCheck {
        let threads = std::fs::read_dir("/proc/self/task").unwrap().count() as u32;
        SelfCheck {
            ran: 1,
            task_pid: 11,
            task_tgid: 10,
            own_pid: 10,
            own_tid: 11,
            live_threads: threads,
            has_mm: 1,
            padding: 0,
            pid_tgid: 0xa_0000_000b,
        }
    }

    #[test]
    fn offsets_that_read_something_else_are_refused() {
        let config = Config { has_offsets: 1, ..Config::default() };
        assert!(judge(&config, &honest(), 10, 11).is_ok());
        assert!(judge(&config, &SelfCheck { task_pid: 9, ..honest() }, 10, 11).is_err());
        assert!(judge(&config, &SelfCheck { has_mm: 0, ..honest() }, 10, 11).is_err());
        assert!(judge(&config, &SelfCheck { live_threads: 70_000, ..honest() }, 10, 11).is_err());
        assert!(judge(&config, &SelfCheck { own_pid: 1, ..honest() }, 10, 11).is_err());
    }
}
