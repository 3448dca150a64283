//! How many functions of a program set up a frame pointer: an estimate from their first instructions.
//!
//! Function starts come from the index over the unwind tables, or from a symbol table where there is none. A few
//! hundred functions spread over the program are looked at; short ones are left out, because compilers leave the
//! frame out of leaf functions even when told to keep frame pointers.

use super::elf::{Elf, Machine, SectionKind, u16_at, u32_at, u64_at};

/// Functions looked at: enough for an estimate within a few percent, at one `pread` each.
const FUNCTIONS_SAMPLED: u64 = 800;
/// Functions shorter than this are mostly leaves and stubs.
const SHORTEST_FUNCTION_BYTES: u64 = 48;
/// Bytes of a function that are looked at: Go's stack check before the frame takes up to 20.
const PROLOGUE_BYTES: u64 = 40;
/// Size of an entry in the unwind index's table: two 4-byte offsets.
const INDEX_ENTRY_BYTES: u64 = 8;
/// `sizeof(Elf64_Sym)`.
const SYMBOL_BYTES: u64 = 24;
/// `STT_FUNC`.
const FUNCTION_SYMBOL: u8 = 2;

/// The outcome of the estimate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FramePointers {
    /// Functions looked at.
    pub functions: u32,
    /// How many of them begin by setting up a frame pointer.
    pub with: u32,
}

impl FramePointers {
    /// Share of functions with a frame pointer, percent.
    pub fn percent(self) -> u32 {
        self.with * 100 / self.functions.max(1)
    }

    pub(super) fn estimate(elf: &Elf, go: bool) -> Option<Self> {
        // Go writes no unwind tables for its own functions; those that exist are of the C code linked in.
        let starts = if go { None } else { from_unwind_index(elf) };
        let starts = starts
            .or_else(|| from_symbols(elf, SectionKind::Symbols))
            .or_else(|| from_symbols(elf, SectionKind::DynamicSymbols))?;
        let mut found = Self { functions: 0, with: 0 };
        for start in starts {
            let code =
                elf.file_offset(start).and_then(|(offset, left)| elf.read(offset, left.min(PROLOGUE_BYTES)));
            let Some(code) = code else { continue };
            found.functions += 1;
            found.with += u32::from(sets_frame_pointer(elf.machine, &code)?);
        }
        (found.functions > 0).then_some(found)
    }
}

/// Starts of functions from `.eh_frame_hdr`, in the one encoding that linkers write (LSB, "DWARF Extensions"):
/// version 1, a 4-byte pointer, a 4-byte count, and a table of 4-byte offsets relative to the section.
fn from_unwind_index(elf: &Elf) -> Option<Vec<u64>> {
    let index = elf.unwind_index()?;
    let header = elf.read(index.offset, 12)?;
    if header.get(..4) != Some(&[1, 0x1b, 0x03, 0x3b]) {
        return None;
    }
    let count = u64::from(u32_at(&header, 8)?).min(index.file_size / INDEX_ENTRY_BYTES);
    let step = (count / FUNCTIONS_SAMPLED).max(1);
    let starts: Vec<u64> = (0..count.saturating_sub(1))
        .step_by(step as usize)
        .filter_map(|entry| {
            let pair = elf.read(index.offset + 12 + entry * INDEX_ENTRY_BYTES, 2 * INDEX_ENTRY_BYTES)?;
            let start =
                |at| Some(index.virt_addr.wrapping_add_signed(i64::from(u32_at(&pair, at)?.cast_signed())));
            let (this, next) = (start(0)?, start(8)?);
            (next.checked_sub(this)? >= SHORTEST_FUNCTION_BYTES).then_some(this)
        })
        .collect();
    (!starts.is_empty()).then_some(starts)
}

fn from_symbols(elf: &Elf, kind: SectionKind) -> Option<Vec<u64>> {
    let table = elf.sections.iter().find(|section| section.kind == kind)?;
    let count = table.size / SYMBOL_BYTES;
    let step = (count / (2 * FUNCTIONS_SAMPLED)).max(1);
    let starts: Vec<u64> = (0..count)
        .step_by(step as usize)
        .filter_map(|entry| {
            let symbol = elf.read(table.offset.checked_add(entry * SYMBOL_BYTES)?, SYMBOL_BYTES)?;
            let is_function = symbol.get(4)? & 0xf == FUNCTION_SYMBOL && u16_at(&symbol, 6)? != 0;
            (is_function && u64_at(&symbol, 16)? >= SHORTEST_FUNCTION_BYTES).then(|| u64_at(&symbol, 8))?
        })
        .collect();
    (!starts.is_empty()).then_some(starts)
}

/// Whether a function's first bytes set up a frame pointer; None for processors that are not known.
fn sets_frame_pointer(machine: Machine, code: &[u8]) -> Option<bool> {
    match machine {
        Machine::X86_64 => Some(sets_rbp(code)),
        Machine::Aarch64 => Some(sets_x29(code)),
        Machine::Other(_) => None,
    }
}

/// `push rbp; mov rbp, rsp`: together anywhere at the start (Go checks its stack first), or with other instructions
/// scheduled between them when the function begins with the push.
fn sets_rbp(code: &[u8]) -> bool {
    const ENDBR64: &[u8] = &[0xf3, 0x0f, 0x1e, 0xfa];
    const PUSH_RBP: u8 = 0x55;
    let is_move = |part: &[u8]| part == [0x48, 0x89, 0xe5] || part == [0x48, 0x8b, 0xec];
    let together = code.windows(4).any(|part| part[0] == PUSH_RBP && is_move(&part[1..]));
    let body = code.strip_prefix(ENDBR64).unwrap_or(code);
    let scheduled = body.first() == Some(&PUSH_RBP) && body.windows(3).take(24).any(is_move);
    together || scheduled || stores_rbp_in_frame(code)
}

/// Go before 1.21 makes the whole frame first: `sub rsp, N; mov [rsp+N-8], rbp; lea rbp, [rsp+N-8]`.
fn stores_rbp_in_frame(code: &[u8]) -> bool {
    let with = |store: &[u8], displacement: usize, set: &[u8]| {
        code.windows(store.len() + displacement + set.len())
            .any(|part| part.starts_with(store) && part.ends_with(set))
    };
    with(&[0x48, 0x89, 0x6c, 0x24], 1, &[0x48, 0x8d, 0x6c, 0x24])
        || with(&[0x48, 0x89, 0xac, 0x24], 4, &[0x48, 0x8d, 0xac, 0x24])
}

/// `stp x29, x30, [sp, …]` and then `mov x29, sp` or `add x29, sp, …` (Arm ARM, C6.2).
fn sets_x29(code: &[u8]) -> bool {
    let words = || code.chunks_exact(4).filter_map(|word| u32_at(word, 0));
    // Pre-index and signed-offset forms; the 7-bit immediate is masked out.
    let is_store = |word: u32| matches!(word & 0xffc0_7fff, 0xa980_7bfd | 0xa900_7bfd);
    let is_set = |word: u32| word & 0xffc0_03ff == 0x9100_03fd;
    words().position(is_store).is_some_and(|store| words().skip(store + 1).any(is_set))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn x86_frames_are_known_with_and_without_company() {
        assert!(sets_rbp(&[0x55, 0x48, 0x89, 0xe5]));
        assert!(sets_rbp(&[0xf3, 0x0f, 0x1e, 0xfa, 0x55, 0x48, 0x89, 0xe5]));
        // push rbp; lea rax, [rip+1]; mov rbp, rsp
        assert!(sets_rbp(&[0x55, 0x48, 0x8d, 0x05, 1, 0, 0, 0, 0x48, 0x89, 0xe5]));
        // Go: cmp rsp, [r14+16]; jbe; push rbp; mov rbp, rsp
        assert!(sets_rbp(&[0x49, 0x3b, 0x66, 0x10, 0x76, 0x20, 0x55, 0x48, 0x89, 0xe5]));
        // Go 1.19: sub rsp, 24; mov [rsp+16], rbp; lea rbp, [rsp+16]
        assert!(sets_rbp(&[0x48, 0x83, 0xec, 24, 0x48, 0x89, 0x6c, 0x24, 16, 0x48, 0x8d, 0x6c, 0x24, 16]));
        // push r15; push rbp; sub rsp, 8: rbp is just a saved register
        assert!(!sets_rbp(&[0x41, 0x57, 0x55, 0x48, 0x83, 0xec, 0x08]));
        assert!(!sets_rbp(&[]));
    }

    #[test]
    fn arm_frames_need_the_store_and_then_the_move() {
        let code = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>();
        let (paciasp, store, set) = (0xd503_233f, 0xa9bf_7bfd, 0x9100_03fd);
        assert!(sets_x29(&code(&[paciasp, store, set])));
        // sub sp, sp, #0x30; stp x29, x30, [sp, #0x20]; add x29, sp, #0x20
        assert!(sets_x29(&code(&[0xd100_c3ff, 0xa902_7bfd, 0x9100_83fd])));
        assert!(!sets_x29(&code(&[paciasp, store])));
        assert!(!sets_x29(&code(&[set, store])));
    }
}
