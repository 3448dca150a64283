//! The one model that every profile type ends in and every output reads.
//!
//! In: aggregated, symbolized stacks. Out: plain data. No I/O happens here, and nothing in this module knows where
//! a sample came from, so a new output serves all profile types and a new profile type gets all outputs.

mod build;
mod fold;
mod idle;
mod leaks;
mod quality;
mod text;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use build::ProfileBuilder;
pub use idle::fold_idle;
pub use leaks::{Cohorts, LeakStack, LeakSums, Leaks, WatchedSlices, age_bucket, ages_of_bucket};
pub use quality::{
    Counter, ModuleUnknown, Overhead, ProgramCost, Quality, STAGE_DRAIN, STAGE_START, STAGE_SYMBOLS,
    STAGE_TABLES, STAGE_WINDOWS, StageCost, UnwindTables,
};
pub use text::clean;

/// Index into [`Profile::mappings`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct MappingId(pub u32);

/// Index into [`Profile::locations`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LocationId(pub u32);

/// Index into [`Profile::stacks`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct StackId(pub u32);

/// Index into [`Profile::labels`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LabelsId(pub u32);

/// What a profile's numbers mean: one entry per value in [`Sample::values`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ValueType {
    /// The kind of quantity, in pprof's words: `samples`, `cpu`, `off_cpu`, `alloc_space`.
    pub kind: String,
    /// Its unit, in pprof's words: `count`, `nanoseconds`, `bytes`.
    pub unit: String,
}

impl ValueType {
    /// A value type from its kind and unit.
    pub fn new(kind: &str, unit: &str) -> Self {
        Self { kind: kind.to_owned(), unit: unit.to_owned() }
    }
}

/// Where code came from: one executable, library, kernel image or kernel module.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Mapping {
    /// First address that the profile's locations use for this object. Zero for objects whose locations carry
    /// addresses of the object file itself.
    pub start: u64,
    /// End of the address range, exclusive.
    pub limit: u64,
    /// File offset of `start`.
    pub file_offset: u64,
    /// Path as the target sees it (cleaned, see [`clean`]), or `[kernel]`, `[vdso]`, `[jit]`.
    pub path: Arc<str>,
    /// GNU build ID in lower-case hex, empty when the object has none.
    pub build_id: String,
}

impl Mapping {
    /// The last path component: what tables and `[name+0x1f]` frames show. Names in brackets stay whole.
    pub fn module(&self) -> &str {
        if self.path.starts_with('[') {
            return &self.path;
        }
        let path = self.path.strip_suffix(" (deleted)").unwrap_or(&self.path);
        path.rsplit('/').find(|part| !part.is_empty()).unwrap_or(path)
    }
}

/// What kind of code a frame runs; outputs colour by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FrameKind {
    /// Machine code of an executable or a library.
    Native,
    /// Kernel or kernel-module code.
    Kernel,
    /// Code generated at run time, named by a perf map.
    Jit,
    /// Not code: a remark of the profiler, such as why a walk ended.
    Marker,
}

/// One function at a location. Inlining gives several per location.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Frame {
    /// Demangled and cleaned function name, or `[libfoo.so+0x1a2b]` where no name is known.
    pub function: Arc<str>,
    /// Source file as the debug information names it, cleaned.
    pub file: Option<Arc<str>>,
    /// Source line, from 1.
    pub line: Option<u32>,
    /// True when the compiler inlined this function into the next frame of the same location.
    pub inlined: bool,
}

/// One address, symbolized: a chain of frames, innermost inlined function first.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Location {
    /// The object that holds the address; none for markers.
    pub mapping: Option<MappingId>,
    /// The address that was looked up: the instruction pointer of a leaf, the return address minus one of a
    /// caller. In the object's own virtual address space for native code, absolute for kernel and JIT code.
    pub address: u64,
    /// What kind of code this is.
    pub kind: FrameKind,
    /// Never empty; the last entry is the function that really exists in the object.
    pub frames: Vec<Frame>,
}

/// Who ran: the labels that all samples of one thread on one CPU share.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Labels {
    /// Process ID as the caller of perf-agent sees it (its PID namespace).
    pub pid: u32,
    /// Thread ID, same namespace.
    pub tid: u32,
    /// Name of the process (the comm of its main thread), cleaned.
    pub process: Arc<str>,
    /// Name of the thread (its comm), cleaned.
    pub thread: Arc<str>,
    /// Control group path, when known.
    pub cgroup: Option<Arc<str>>,
    /// CPU on which the samples were taken, when the profile keeps CPUs apart.
    pub cpu: Option<u32>,
}

/// Everything that was observed for one stack and one set of labels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// The stack.
    pub stack: StackId,
    /// The labels.
    pub labels: LabelsId,
    /// One value per [`Profile::value_types`] entry, same order.
    pub values: Vec<u64>,
}

/// What was profiled and how, for titles and headers.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Meta {
    /// Profile type in the words of the command line: `cpu`, `off-cpu`, …
    pub profile_type: String,
    /// Who was profiled, for people: `pid 4242 (nginx)`, `whole host`.
    pub target: String,
    /// Short form of the target for file names: `nginx-4242`, or the host's name.
    pub target_slug: String,
    /// Host name.
    pub host: String,
    /// Kernel release.
    pub kernel: String,
    /// Clock or event that triggered the samples: `cpu-clock`, `cycles`.
    pub clock: String,
    /// Samples per second and CPU that were asked for; zero when a period was used.
    pub frequency_hz: u64,
    /// Units of the last value type between two samples (nanoseconds for `cpu`).
    pub period: u64,
    /// When the recording began, nanoseconds since the Unix epoch.
    pub start_unix_ns: u64,
    /// Length of the recording, nanoseconds.
    pub duration_ns: u64,
    /// Restrictions in words, such as `kernel stacks only`.
    pub scope_notes: Vec<String>,
    /// Resident memory over time, for profiles of memory; empty for others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resident: Vec<Resident>,
    /// Totals of an allocator's calls, for profiles of allocations; none for others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allocations: Option<Allocations>,
    /// Blocks that were not freed, for profiles of leaks; none for others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leaks: Option<Leaks>,
}

/// All calls of allocators that were seen, whether their stacks were taken or not.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Allocations {
    /// Calls that ask for memory.
    pub calls: u64,
    /// Bytes that they asked for.
    pub bytes: u64,
    /// Calls that free memory; zero where frees are not followed.
    pub frees: u64,
    /// Of these, calls that freed blocks that nobody saw allocated; none in time slices, and where blocks are not followed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unseen_frees: Option<UnseenFrees>,
    /// Blocks that could not be followed, mostly because the table of blocks was full: what became of them is not known.
    #[serde(default)]
    pub unfollowed_count: u64,
    /// Their bytes.
    #[serde(default)]
    pub unfollowed_bytes: u64,
    /// Half of the 95 % interval of calls and bytes, percent: zero where every call was counted, else what time slices leave open, and programs that
    /// choose themselves which blocks are seen.
    #[serde(default)]
    pub error_percent: f64,
    /// The part of it that all sites have in common: time slices.
    #[serde(default)]
    pub common_error_percent: f64,
    /// Calls by size, smallest first.
    pub sizes: Vec<SizeBucket>,
    /// Where the calls were seen.
    pub allocators: Vec<AllocatorReport>,
    /// Blocks that were resized, where blocks were followed and every call was watched. Written as sites, not as it is.
    #[serde(skip)]
    pub chains: Vec<ChainStack>,
}

/// Blocks of one stack that were resized.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ChainStack {
    /// The stack that asked for the first block.
    pub stack: StackId,
    /// Numbers that add up.
    pub sums: ChainSums,
}

/// What resizing one block again and again comes to, for all such blocks of a stack or a site: estimates, where some stand for others.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct ChainSums {
    /// Blocks that were resized at least once, each with all that became of it.
    pub chains: f64,
    /// Of these, those that were followed.
    pub followed: u64,
    /// Calls that resized them.
    pub steps: f64,
    /// Calls that resized the one that was resized most.
    pub longest: u64,
    /// Bytes of first blocks.
    pub first_bytes: f64,
    /// Bytes of last blocks.
    pub last_bytes: f64,
    /// Calls that gave the block another address.
    pub moves: f64,
    /// Bytes that were copied then, at most: an allocator may have moved pages instead.
    pub moved_bytes: f64,
}

impl ChainSums {
    /// Adds other blocks.
    pub fn add(&mut self, other: &Self) {
        self.chains += other.chains;
        self.followed = self.followed.saturating_add(other.followed);
        self.steps += other.steps;
        self.longest = self.longest.max(other.longest);
        self.first_bytes += other.first_bytes;
        self.last_bytes += other.last_bytes;
        self.moves += other.moves;
        self.moved_bytes += other.moved_bytes;
    }

    /// A sum's share of one block.
    pub fn mean(&self, sum: f64) -> f64 {
        sum / self.chains.max(f64::MIN_POSITIVE)
    }
}

/// Frees of blocks that nobody saw allocated: they are older than the recording, or copies that a fork made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct UnseenFrees {
    /// How many.
    pub count: u64,
    /// Half of the 95 % interval of that; zero where every block was followed.
    pub error: u64,
}

/// Calls of similar size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SizeBucket {
    /// Smallest size, bytes.
    pub first: u64,
    /// Largest size, bytes.
    pub last: u64,
    /// Calls.
    pub count: u64,
}

/// An allocator that was found.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct AllocatorReport {
    /// Whose it is: `glibc`, `jemalloc`.
    pub name: String,
    /// The object that brings it, cleaned.
    pub path: String,
    /// Functions that were probed.
    pub functions: u64,
    /// Of these, functions whose probe lies on an instruction that the kernel emulates.
    pub emulated: u64,
}

/// Resident memory at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Resident {
    /// Milliseconds since the first moment.
    pub ms: u64,
    /// Anonymous memory, bytes.
    pub anon_bytes: u64,
    /// Pages of files, bytes.
    pub file_bytes: u64,
    /// Memory shared with other processes that is no file (`RssShmem`), bytes.
    pub shared_bytes: u64,
}

impl Resident {
    /// All of it, bytes.
    pub fn total_bytes(&self) -> u64 {
        self.anon_bytes.saturating_add(self.file_bytes).saturating_add(self.shared_bytes)
    }
}

/// A finished profile.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Profile {
    /// What was profiled and how.
    pub meta: Meta,
    /// Meaning of each sample value. The last one is the default to show.
    pub value_types: Vec<ValueType>,
    /// Objects.
    pub mappings: Vec<Mapping>,
    /// Symbolized addresses.
    pub locations: Vec<Location>,
    /// Stacks, leaf first.
    pub stacks: Vec<Vec<LocationId>>,
    /// Label sets.
    pub labels: Vec<Labels>,
    /// Observations.
    pub samples: Vec<Sample>,
    /// How far the numbers can be trusted.
    pub quality: Quality,
}

impl Profile {
    /// The location behind an id.
    pub fn location(&self, id: LocationId) -> &Location {
        &self.locations[id.0 as usize]
    }

    /// The stack behind an id, leaf first.
    pub fn stack(&self, id: StackId) -> &[LocationId] {
        &self.stacks[id.0 as usize]
    }

    /// The labels behind an id.
    pub fn labels_of(&self, sample: &Sample) -> &Labels {
        &self.labels[sample.labels.0 as usize]
    }

    /// The module of a location: the object's short name, `[kernel]` with its module, or an empty string for markers.
    pub fn module_of(&self, location: &Location) -> &str {
        location.mapping.map_or("", |id| self.mappings[id.0 as usize].module())
    }

    /// Index into [`Sample::values`] of the value that outputs show unless told otherwise: the last one, as in pprof.
    pub fn default_value(&self) -> usize {
        self.value_types.len().saturating_sub(1)
    }

    /// Index of the value that says how much of the value number `of` was spent waiting: for wall time, which is both.
    pub fn waiting_value(&self, of: usize) -> Option<usize> {
        self.value_types.get(of).filter(|value| value.kind == "wall")?;
        self.value_types.iter().position(|value| value.kind == "off_cpu")
    }

    /// Sum of one value over all samples; saturates, since a profile read from a file may hold any number.
    pub fn total(&self, value: usize) -> u64 {
        let values = self.samples.iter().filter_map(|sample| sample.values.get(value));
        values.fold(0, |sum, value| sum.saturating_add(*value))
    }
}
