//! The programs that measure the run queue, and their tables.

use std::os::fd::AsFd;

use aya::Ebpf;
use aya::maps::{MapData, PerCpuArray};
use profiler_common::histogram::BUCKETS;
use profiler_common::sched::{TurnBucket, TurnSum};

use super::batch::{self, Read};
use super::loader::{hash, map_error, raw_tracepoint, refused, take_map};
use super::{LoadError, Programs};

/// The programs with their tracepoints. A program may hang at several.
const PROBES: [(&str, &[&str]); 2] =
    [("thread_queued", &["sched_wakeup", "sched_wakeup_new"]), ("turn_switched", &["sched_switch"])];

/// The tables that a recording without them needs no room for.
pub(super) const TABLES: [&str; 3] = ["TURNS", "TURN_SUMS", "TURN_BUCKETS"];

/// What one CPU did.
#[derive(Debug, Clone)]
pub struct CpuTurns {
    /// Its number.
    pub cpu: u32,
    /// Sums of its turns.
    pub sum: TurnSum,
    /// Its histograms by `MEASURE_` number, whole: most buckets are empty.
    pub buckets: [Vec<u64>; 2],
}

/// The tables of the programs that measure the run queue.
pub struct TurnMaps {
    sums: MapData,
    buckets: MapData,
    cpu_sums: PerCpuArray<MapData, TurnSum>,
    cpu_buckets: PerCpuArray<MapData, CpuBuckets>,
}

/// [`profiler_common::sched::CpuBuckets`] as a type of this crate, which may say that it is plain data.
#[repr(transparent)]
#[derive(Clone, Copy)]
struct CpuBuckets(profiler_common::sched::CpuBuckets);

// SAFETY: an array of integers.
unsafe impl aya::Pod for CpuBuckets {}

impl TurnMaps {
    /// Sums by process.
    ///
    /// # Errors
    ///
    /// The kernel refused.
    pub fn sums(&self) -> Result<Vec<(u32, TurnSum)>, LoadError> {
        batch::entries(self.sums.fd().as_fd(), Read::Keep)
            .map_err(|source| LoadError::Batch { map: "TURN_SUMS", source })
    }

    /// Histograms by process.
    ///
    /// # Errors
    ///
    /// The kernel refused.
    pub fn buckets(&self) -> Result<Vec<(TurnBucket, u64)>, LoadError> {
        batch::entries(self.buckets.fd().as_fd(), Read::Keep)
            .map_err(|source| LoadError::Batch { map: "TURN_BUCKETS", source })
    }

    /// What each CPU did.
    ///
    /// # Errors
    ///
    /// The kernel refused.
    pub fn cpus(&self) -> Result<Vec<CpuTurns>, LoadError> {
        let sums = self.cpu_sums.get(&0, 0).map_err(|source| map_error("CPU_TURNS", source))?;
        let buckets = self.cpu_buckets.get(&0, 0).map_err(|source| map_error("CPU_TURN_BUCKETS", source))?;
        let of = |measure: &[u64; BUCKETS as usize]| measure.to_vec();
        let cpus = sums.iter().zip(buckets.iter()).enumerate();
        Ok(cpus
            .map(|(cpu, (sum, CpuBuckets([queued, ran])))| CpuTurns {
                cpu: cpu as u32,
                sum: *sum,
                buckets: [of(queued), of(ran)],
            })
            .collect())
    }
}

impl Programs {
    /// Loads the programs that measure the run queue.
    ///
    /// # Errors
    ///
    /// What the kernel refused.
    pub fn load_turns(&mut self) -> Result<TurnMaps, LoadError> {
        for (program, _) in PROBES {
            raw_tracepoint(&mut self.ebpf, program)?.load().map_err(|source| refused(program, source))?;
        }
        let array = |ebpf: &mut Ebpf, name| take_map(ebpf, name);
        Ok(TurnMaps {
            sums: hash(&mut self.ebpf, "TURN_SUMS")?,
            buckets: hash(&mut self.ebpf, "TURN_BUCKETS")?,
            cpu_sums: PerCpuArray::try_from(array(&mut self.ebpf, "CPU_TURNS")?)
                .map_err(|source| map_error("CPU_TURNS", source))?,
            cpu_buckets: PerCpuArray::try_from(array(&mut self.ebpf, "CPU_TURN_BUCKETS")?)
                .map_err(|source| map_error("CPU_TURN_BUCKETS", source))?,
        })
    }

    /// Begins to measure the run queue.
    ///
    /// # Errors
    ///
    /// What the kernel refused.
    pub fn attach_turns(&mut self) -> Result<(), LoadError> {
        for (program, tracepoints) in PROBES {
            for tracepoint in tracepoints {
                let loaded = raw_tracepoint(&mut self.ebpf, program)?;
                loaded.attach(tracepoint).map_err(|source| refused(program, source))?;
            }
        }
        Ok(())
    }

    /// Ends it.
    ///
    /// # Errors
    ///
    /// What the kernel refused.
    pub fn detach_turns(&mut self) -> Result<(), LoadError> {
        for (program, _) in PROBES {
            raw_tracepoint(&mut self.ebpf, program)?.unload().map_err(|source| refused(program, source))?;
        }
        Ok(())
    }
}
