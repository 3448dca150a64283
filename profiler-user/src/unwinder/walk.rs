//! The user side's walk: the same steps as in the kernel, over a copy of the stack.

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

/// A copy of a stack.
struct StackCopy<'a> {
    base: u64,
    bytes: &'a [u8],
}

impl StackCopy<'_> {
    /// Whether an address lies above the copy because the copy is as long as copies get.
    fn was_cut(&self) -> bool {
        self.bytes.len() >= STACK_COPY_BYTES * STACK_COPY_RECORDS
    }
}

impl Memory for StackCopy<'_> {
    fn word(&self, abs_addr: u64) -> Option<u64> {
        let offset = usize::try_from(abs_addr.checked_sub(self.base)?).ok()?;
        let bytes = self.bytes.get(offset..offset.checked_add(8)?)?;
        Some(u64::from_le_bytes(bytes.try_into().ok()?))
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
    let memory = StackCopy { base: cold.stack_base, bytes: &cold.stack };
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
