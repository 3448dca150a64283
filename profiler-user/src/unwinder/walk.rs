//! The user side's walk: the same steps as in the kernel, over a copy of the stack.

use std::cell::OnceCell;
use std::fs::File;
use std::os::unix::fs::FileExt;

use profiler_common::limits::{MAX_USER_FRAMES, STACK_COPY_BYTES, STACK_COPY_RECORDS};
use profiler_common::stop::StopReason;
use profiler_common::unwind::{
    Arch, Found, Memory, Rule, Step, TEXT_PAGE_BITS, TEXT_PAGE_BYTES, Tables, advance,
};

use super::pool::{Look, PageKey, Pool, Source};
use crate::ingest::RawSample;
use crate::process::{Mappings, Placement};

/// What a walk came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It ended; the sample says why.
    Ended,
    /// It goes on when this page is there.
    Needs(PageKey),
}

/// A copy of a stack, and what the stack holds beyond it.
struct StackCopy<'a> {
    base: u64,
    bytes: &'a [u8],
    /// The process's memory, opened when it is first needed; none when it is not what was copied any more.
    live: OnceCell<Option<File>>,
    pid: u32,
}

/// Bytes at the end of a copy that have to be the same still.
const COMPARED_BYTES: usize = 256;
/// How far beyond its end the stack is read. Compilers have functions with frames of a quarter of a megabyte.
const LIVE_BYTES: u64 = 4 << 20;

impl StackCopy<'_> {
    /// Whether an address lies above the copy because the copy is as long as copies get.
    fn was_cut(&self) -> bool {
        self.bytes.len() >= STACK_COPY_BYTES * STACK_COPY_RECORDS
    }

    /// A word above the copy, as it is now: the copy ends at its limit, or at a page that nobody touched yet, in the middle of a large
    /// frame. What lies above belongs to functions that were called long before; that the end of the copy has not changed says that
    /// they are still the same calls.
    fn live_word(&self, offset: usize) -> Option<u64> {
        if offset as u64 > self.bytes.len() as u64 + LIVE_BYTES {
            return None;
        }
        let memory = self.live.get_or_init(|| self.open_unchanged()).as_ref()?;
        let mut word = [0; 8];
        memory.read_exact_at(&mut word, self.base.checked_add(offset as u64)?).ok()?;
        Some(u64::from_le_bytes(word))
    }

    fn open_unchanged(&self) -> Option<File> {
        let memory = File::open(format!("/proc/{}/mem", self.pid)).ok()?;
        let start = self.bytes.len().checked_sub(COMPARED_BYTES)?;
        let mut now = [0; COMPARED_BYTES];
        memory.read_exact_at(&mut now, self.base.checked_add(start as u64)?).ok()?;
        (self.bytes[start..] == now).then_some(memory)
    }
}

impl Memory for StackCopy<'_> {
    fn word(&self, abs_addr: u64) -> Option<u64> {
        let offset = usize::try_from(abs_addr.checked_sub(self.base)?).ok()?;
        match self.bytes.get(offset..offset.checked_add(8)?) {
            Some(bytes) => Some(u64::from_le_bytes(bytes.try_into().ok()?)),
            None => self.live_word(offset),
        }
    }

    fn word_pair(&self, abs_addr: u64) -> Option<[u64; 2]> {
        Some([self.word(abs_addr)?, self.word(abs_addr.checked_add(8)?)?])
    }
}

/// The mappings of one process over the pool.
struct HostTables<'a> {
    mappings: &'a Mappings,
    pool: &'a Pool,
    wanted: Option<PageKey>,
}

impl Tables for HostTables<'_> {
    fn find(&mut self, pc: u64) -> Found {
        let Some(region) = self.mappings.find(pc) else { return Found::Missing(StopReason::NoMapping) };
        let (source, file_offset) = match region.placement {
            Placement::Object { object, file_offset } => (Source::Object(object), file_offset),
            Placement::Vdso => (Source::Vdso, 0),
            Placement::Anonymous => return Found::Rule(Rule::NONE),
        };
        let offset = (pc - region.start).wrapping_add(file_offset);
        let key = (source, offset >> TEXT_PAGE_BITS);
        match self.pool.look(key, offset & (TEXT_PAGE_BYTES - 1)) {
            Look::Rule(rule) => Found::Rule(rule),
            Look::Absent => {
                self.wanted = Some(key);
                Found::Missing(StopReason::TableMissing)
            }
        }
    }
}

/// Walks a cold sample on from where it stopped.
pub(super) fn walk(
    sample: &mut RawSample,
    arch: Arch,
    code_mask: u64,
    mappings: &Mappings,
    pool: &Pool,
) -> Outcome {
    let Some(cold) = &mut sample.cold else { return Outcome::Ended };
    let memory =
        StackCopy { base: cold.stack_base, bytes: &cold.stack, live: OnceCell::new(), pid: sample.pid };
    let mut tables = HostTables { mappings, pool, wanted: None };
    while sample.user.len() < MAX_USER_FRAMES {
        let step = advance(arch, &mut cold.registers, code_mask, &mut tables, &memory);
        match step.unwrap_or_else(|frame| frame.leave(arch, &mut cold.registers, &memory)) {
            Step::Caller => sample.user.push(cold.registers.caller_address()),
            Step::Stop(reason) => {
                if let Some(key) = tables.wanted {
                    return Outcome::Needs(key);
                }
                // The rest of the stack was not copied: what is missing is the table that would have made the copy needless.
                let beyond = reason == StopReason::UnreadableStack && memory.was_cut();
                sample.stop = if beyond { StopReason::TableMissing } else { reason };
                return Outcome::Ended;
            }
        }
    }
    sample.stop = StopReason::TooDeep;
    Outcome::Ended
}
