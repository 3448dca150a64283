//! Made-up samples and processes, for benchmarks and for the test that counts allocations.

use profiler_common::sample::{NO_SYSCALL, RECORD_SAMPLE};
use profiler_common::stop::StopReason;
use profiler_user::ingest::RawSample;
use profiler_user::process::{OutsidePid, Processes, Snapshot, SnapshotMapping};

/// The first process's number: above what a kernel gives by default, so that nothing real is looked up.
pub(crate) const FIRST_PID: u32 = 4_200_000;
/// Where the program is mapped in each of them.
const CODE: (u64, u64) = (0x5555_0000_0000, 0x5555_0400_0000);

/// A table of processes, each with one program.
pub(crate) fn processes(count: u32) -> Processes {
    let mut processes = Processes::new(0, OutsidePid::Idle);
    for pid in FIRST_PID..FIRST_PID + count {
        let mapping = SnapshotMapping {
            start: CODE.0,
            end: CODE.1,
            file_offset: 0,
            inode: 1,
            path: b"/nonexistent/program".to_vec(),
        };
        processes.enter(&Snapshot { pid, comm: b"program".to_vec(), mappings: vec![mapping] });
    }
    processes
}

/// Samples of one process with so many different stacks, which share their outer halves as real ones do.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Samples {
    /// Different stacks.
    pub(crate) distinct: u64,
    /// Frames of each, five of them in the kernel.
    pub(crate) depth: u64,
}

impl Samples {
    /// The sample number `index`; stacks come round after [`Samples::distinct`].
    pub(crate) fn sample(&self, index: u64) -> RawSample {
        let stack = index % self.distinct;
        let own = |frame: u64| (stack.wrapping_mul(31).wrapping_add(frame * 977)) % (CODE.1 - CODE.0 - 64);
        let half = self.depth / 2;
        let user = (0..self.depth - 5)
            .map(|frame| CODE.0 + 16 + if frame < half { own(frame) } else { frame * 64 })
            .collect();
        RawSample {
            time_ns: index,
            weight: 10_101_010,
            pid: FIRST_PID,
            tid: FIRST_PID,
            comm: *b"program\0\0\0\0\0\0\0\0\0",
            user,
            kernel: (0..5).map(|frame| 0xffff_ffff_8100_0000 + frame * 64).collect(),
            ..RawSample::of_nobody()
        }
    }
}

/// A record of the BPF ring with these frames.
pub(crate) fn record(user: &[u64], kernel: &[u64]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(RECORD_SAMPLE.to_ne_bytes());
    bytes.extend(0_u32.to_ne_bytes());
    for word in [1_u64, 10_101_010, 0] {
        bytes.extend(word.to_ne_bytes());
    }
    bytes.extend(FIRST_PID.to_ne_bytes());
    bytes.extend(FIRST_PID.to_ne_bytes());
    bytes.extend((user.len() as u16).to_ne_bytes());
    bytes.extend((kernel.len() as u16).to_ne_bytes());
    bytes.extend([StopReason::Complete as u8, 1, 0, 0]);
    bytes.extend(*b"program\0\0\0\0\0\0\0\0\0");
    bytes.extend(0_u64.to_ne_bytes());
    bytes.extend(NO_SYSCALL.to_ne_bytes());
    bytes.extend(0_u32.to_ne_bytes());
    bytes.extend(user.iter().chain(kernel).flat_map(|word| word.to_ne_bytes()));
    bytes
}
