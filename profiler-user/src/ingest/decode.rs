//! One ring record → one raw sample, or more of its stack.

use std::mem::offset_of;

use profiler_common::limits::{MAX_KERNEL_FRAMES, MAX_USER_FRAMES, STACK_PAGE_BYTES};
use profiler_common::sample::{
    COMM_LEN, NO_SYSCALL, RECORD_COLD_SAMPLE, RECORD_SAMPLE, RECORD_STACK, SAMPLE_HEADER_BYTES, SampleHeader,
};
use profiler_common::stop::StopReason;
use profiler_common::unwind::{REGISTERS_BYTES, Registers};
use thiserror::Error;

/// A sample with addresses instead of names. Both stacks are leaf first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawSample {
    /// When, nanoseconds of `CLOCK_MONOTONIC`.
    pub time_ns: u64,
    /// Units of the sampling event that this sample stands for.
    pub weight: u64,
    /// Control group (v2) ID.
    pub cgroup_id: u64,
    /// CPU that was sampled.
    pub cpu: u32,
    /// Process ID in the agent's PID namespace; zero for the idle task and for tasks outside the namespace.
    pub pid: u32,
    /// Thread ID, likewise.
    pub tid: u32,
    /// Name of the thread, without the NUL.
    pub comm: [u8; COMM_LEN],
    /// Instruction pointer and return addresses of the user side.
    pub user: Vec<u64>,
    /// Instruction pointer and return addresses of the kernel side; empty when user mode was interrupted.
    pub kernel: Vec<u64>,
    /// Why the user side ends.
    pub stop: StopReason,
    /// True when user mode was interrupted.
    pub in_user_mode: bool,
    /// What is needed to walk on, when the kernel side met a table that was not loaded.
    pub cold: Option<Box<Cold>>,
    /// Number by which sums refer to this stack ([`profiler_common::off_cpu`]); zero for a sample that counts by itself.
    pub number: u64,
    /// System call that a thread with a numbered stack is in, and its first argument.
    pub syscall: Option<(u32, u64)>,
    /// An event of memory, for which `weight` has another meaning.
    pub memory: Option<MemoryEvent>,
}

/// An event of memory: see [`profiler_common::memory`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryEvent {
    /// [`profiler_common::memory::FAULT`] or the number of a system call.
    pub kind: u32,
    /// Events that it stands for.
    pub events: u32,
}

/// A walk that user space is to finish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cold {
    /// Registers of the last frame in [`RawSample::user`].
    pub registers: Registers,
    /// Address of the first byte of `stack`.
    pub stack_base: u64,
    /// A copy of the stack; it ends where the stack does, or at the longest copy.
    pub stack: Vec<u8>,
}

impl RawSample {
    /// A sample of which nothing is known, for what has to be counted all the same.
    pub fn of_nobody() -> Self {
        Self {
            time_ns: 0,
            weight: 0,
            cgroup_id: 0,
            cpu: 0,
            pid: 0,
            tid: 0,
            comm: [0; COMM_LEN],
            user: Vec::new(),
            kernel: Vec::new(),
            stop: StopReason::Complete,
            in_user_mode: false,
            cold: None,
            number: 0,
            syscall: None,
            memory: None,
        }
    }

    /// The thread's name up to the NUL.
    pub fn comm(&self) -> &[u8] {
        let end = self.comm.iter().position(|byte| *byte == 0).unwrap_or(COMM_LEN);
        &self.comm[..end]
    }
}

/// A record that does not follow [`profiler_common::sample`]: the two sides were built from different sources.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// Shorter than its header, or than the frames that the header announces.
    #[error("record of {found} bytes, {needed} needed")]
    Short {
        /// Bytes there.
        found: usize,
        /// Bytes announced.
        needed: usize,
    },
    /// Not a kind that this version knows.
    #[error("unknown record kind {0}")]
    Kind(u32),
    /// More frames than a record can hold.
    #[error("{0} frames in one record")]
    Frames(usize),
    /// Not a stop reason that this version knows.
    #[error("unknown stop reason {0}")]
    Stop(u8),
}

/// A record of the BPF ring.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// A sample.
    Sample(RawSample),
    /// More of the stack of the cold sample that this CPU took at this time.
    Stack {
        /// CPU.
        cpu: u32,
        /// Time of the sample.
        time_ns: u64,
        /// The bytes that follow those that came before.
        bytes: Vec<u8>,
    },
}

/// Decodes a record of the BPF ring.
///
/// # Errors
///
/// A record that does not follow the common layout; the caller counts it as lost.
pub fn decode_record(record: &[u8]) -> Result<Record, DecodeError> {
    let Some((header, stack)) = record.split_at_checked(SAMPLE_HEADER_BYTES) else {
        return Err(DecodeError::Short { found: record.len(), needed: SAMPLE_HEADER_BYTES });
    };
    let mut fields = Fields(header);
    if fields.u32() != RECORD_STACK {
        return decode_sample(record).map(Record::Sample);
    }
    let cpu = fields.u32();
    let time_ns = fields.u64();
    let mut fields = Fields(&header[offset_of!(SampleHeader, stack_bytes)..]);
    let wanted = usize::from(fields.u16());
    let needed = SAMPLE_HEADER_BYTES + wanted;
    let bytes = stack.get(..wanted).ok_or(DecodeError::Short { found: record.len(), needed })?;
    Ok(Record::Stack { cpu, time_ns, bytes: bytes.to_vec() })
}

fn decode_sample(record: &[u8]) -> Result<RawSample, DecodeError> {
    let short = |needed| DecodeError::Short { found: record.len(), needed };
    let Some((header, frames)) = record.split_at_checked(SAMPLE_HEADER_BYTES) else {
        return Err(short(SAMPLE_HEADER_BYTES));
    };
    let mut fields = Fields(header);
    let kind = fields.u32();
    if kind != RECORD_SAMPLE && kind != RECORD_COLD_SAMPLE {
        return Err(DecodeError::Kind(kind));
    }
    let cpu = fields.u32();
    let (time_ns, weight, cgroup_id) = (fields.u64(), fields.u64(), fields.u64());
    let (pid, tid) = (fields.u32(), fields.u32());
    let (user_frames, kernel_frames) = (usize::from(fields.u16()), usize::from(fields.u16()));
    let [stop, in_user_mode] = fields.take::<2>();
    let stack_bytes = usize::from(fields.u16());
    let comm = fields.take::<COMM_LEN>();
    let (number, syscall, events) = (fields.u64(), fields.u32(), fields.u32());
    if user_frames > MAX_USER_FRAMES || kernel_frames > MAX_KERNEL_FRAMES {
        return Err(DecodeError::Frames(user_frames + kernel_frames));
    }
    let frame_bytes = (user_frames + kernel_frames) * 8;
    let Some((frames, rest)) = frames.split_at_checked(frame_bytes) else {
        return Err(short(SAMPLE_HEADER_BYTES + frame_bytes));
    };
    let cold = if kind == RECORD_COLD_SAMPLE {
        let needed = REGISTERS_BYTES + stack_bytes;
        let rest = rest.get(..needed).ok_or_else(|| short(SAMPLE_HEADER_BYTES + frame_bytes + needed))?;
        Some(Box::new(decode_cold(rest)))
    } else {
        None
    };
    let (user, kernel) = frames.split_at(user_frames * 8);
    Ok(RawSample {
        time_ns,
        weight,
        cgroup_id,
        cpu,
        pid,
        tid,
        comm,
        user: words(user),
        kernel: words(kernel),
        stop: StopReason::from_wire(stop).ok_or(DecodeError::Stop(stop))?,
        in_user_mode: in_user_mode != 0,
        cold,
        number,
        syscall: (number != 0 && syscall != NO_SYSCALL).then_some((syscall, weight)),
        memory: (events != 0).then_some(MemoryEvent { kind: syscall, events }),
    })
}

/// Registers and the stack behind them.
fn decode_cold(bytes: &[u8]) -> Cold {
    let (registers, stack) = bytes.split_at(REGISTERS_BYTES.min(bytes.len()));
    let mut fields = Fields(registers);
    let mut next = || fields.u64();
    let (ip, sp, fp, lr, rbx_at, known) = (next(), next(), next(), next(), next(), next());
    let general = std::array::from_fn(|_| next());
    Cold {
        registers: Registers { ip, sp, fp, lr, rbx_at, known, general },
        stack_base: sp & !(STACK_PAGE_BYTES as u64 - 1),
        stack: stack.to_vec(),
    }
}

fn words(bytes: &[u8]) -> Vec<u64> {
    bytes.chunks_exact(8).map(|word| Fields(word).u64()).collect()
}

/// Fields of a header whose length was checked before; past the end they read as zero.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl Fields<'_> {
    pub(super) fn take<const N: usize>(&mut self) -> [u8; N] {
        let Some((field, rest)) = self.0.split_first_chunk::<N>() else {
            self.0 = &[];
            return [0; N];
        };
        self.0 = rest;
        *field
    }

    pub(super) fn u16(&mut self) -> u16 {
        u16::from_ne_bytes(self.take())
    }

    pub(super) fn u32(&mut self) -> u32 {
        u32::from_ne_bytes(self.take())
    }

    pub(super) fn u64(&mut self) -> u64 {
        u64::from_ne_bytes(self.take())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(user: &[u64], kernel: &[u64]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(RECORD_SAMPLE.to_ne_bytes());
        bytes.extend(3u32.to_ne_bytes());
        for word in [111u64, 10_101_010, 77] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend(42u32.to_ne_bytes());
        bytes.extend(43u32.to_ne_bytes());
        bytes.extend((user.len() as u16).to_ne_bytes());
        bytes.extend((kernel.len() as u16).to_ne_bytes());
        bytes.extend([StopReason::TooDeep as u8, 1, 0, 0]);
        bytes.extend(*b"worker\0garbage!!");
        bytes.extend(0u64.to_ne_bytes());
        bytes.extend(NO_SYSCALL.to_ne_bytes());
        bytes.extend(0u32.to_ne_bytes());
        bytes.extend(user.iter().chain(kernel).flat_map(|word| word.to_ne_bytes()));
        bytes
    }

    #[test]
    fn a_record_comes_back_as_it_was_sent() {
        let sample = decode_sample(&record(&[1, 2, 3], &[9])).unwrap();
        assert_eq!((sample.cpu, sample.time_ns, sample.weight, sample.cgroup_id), (3, 111, 10_101_010, 77));
        assert_eq!((sample.pid, sample.tid, sample.comm()), (42, 43, b"worker".as_slice()));
        assert_eq!(
            (sample.user.as_slice(), sample.kernel.as_slice()),
            ([1, 2, 3].as_slice(), [9].as_slice())
        );
        assert_eq!((sample.stop, sample.in_user_mode), (StopReason::TooDeep, true));
        assert_eq!((sample.cold, sample.number, sample.syscall), (None, 0, None));
    }

    #[test]
    fn a_numbered_stack_says_what_it_waits_for() {
        let mut bytes = record(&[1], &[9]);
        bytes[64..72].copy_from_slice(&99_u64.to_ne_bytes());
        let sample = decode_sample(&bytes).unwrap();
        assert_eq!((sample.number, sample.syscall), (99, None));
        bytes[72..76].copy_from_slice(&202_u32.to_ne_bytes());
        assert_eq!(decode_sample(&bytes).unwrap().syscall, Some((202, 10_101_010)));
    }

    #[test]
    fn an_event_of_memory_says_how_many_it_stands_for() {
        let mut bytes = record(&[1], &[]);
        assert_eq!(decode_sample(&bytes).unwrap().memory, None);
        bytes[72..76].copy_from_slice(&9_u32.to_ne_bytes());
        bytes[76..80].copy_from_slice(&31_u32.to_ne_bytes());
        assert_eq!(decode_sample(&bytes).unwrap().memory, Some(MemoryEvent { kind: 9, events: 31 }));
    }

    #[test]
    fn a_cold_record_brings_registers_and_stack() {
        let mut bytes = record(&[1], &[9]);
        bytes[0] = RECORD_COLD_SAMPLE as u8;
        bytes[46..48].copy_from_slice(&16_u16.to_ne_bytes());
        bytes.extend((0..REGISTERS_BYTES as u64 / 8).flat_map(|word| (word + 0x1_1000).to_ne_bytes()));
        bytes.extend([7; 16]);
        let cold = decode_sample(&bytes).unwrap().cold.unwrap();
        assert_eq!((cold.registers.ip, cold.registers.sp, cold.stack_base), (0x1_1000, 0x1_1001, 0x1_1000));
        assert_eq!((cold.registers.known, cold.registers.general[31]), (0x1_1005, 0x1_1025));
        assert_eq!(cold.stack, [7; 16]);
        bytes.pop();
        assert!(matches!(decode_sample(&bytes), Err(DecodeError::Short { .. })));
    }

    #[test]
    fn a_stack_record_belongs_to_a_cpu_and_a_time() {
        let mut bytes = record(&[], &[]);
        bytes[0] = RECORD_STACK as u8;
        bytes[46..48].copy_from_slice(&8_u16.to_ne_bytes());
        bytes.extend([5; 8]);
        let expected = Record::Stack { cpu: 3, time_ns: 111, bytes: vec![5; 8] };
        assert_eq!(decode_record(&bytes), Ok(expected));
        bytes.pop();
        assert!(decode_record(&bytes).is_err());
    }

    #[test]
    fn records_that_are_not_ours_say_what_is_wrong() {
        let whole = record(&[1, 2], &[3]);
        assert_eq!(
            decode_sample(&whole[..10]),
            Err(DecodeError::Short { found: 10, needed: SAMPLE_HEADER_BYTES })
        );
        assert_eq!(decode_sample(&whole[..96]), Err(DecodeError::Short { found: 96, needed: 104 }));
        let mut other = whole.clone();
        other[0] = 9;
        assert_eq!(decode_sample(&other), Err(DecodeError::Kind(9)));
        let mut stop = whole;
        stop[44] = 99;
        assert_eq!(decode_sample(&stop), Err(DecodeError::Stop(99)));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_a_sample_or_an_error(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..600)) {
            let _ = decode_record(&bytes);
        }
    }
}
