//! A binary's unwind information, as rows of one text page at a time.
//!
//! In: an ELF file, and a separate debug file where the file itself has nothing. Out: for each 64 KiB of the file a
//! [`PageTable`], which the BPF side searches. Only what belongs to the page is read: the sorted index that linkers
//! write leads there, and where there is none, one pass over the section makes one. Everything is hostile: work and
//! memory are limited per page, and information that contradicts itself ends up as "nothing known".
//!
//! The format is defined by the Linux Standard Base Core 5.0, chapter 10.6 (`.eh_frame`, `.eh_frame_hdr`) and DWARF 5,
//! section 6.4 (`.debug_frame`).

pub mod cache;
pub mod check;
mod describe;
mod expression;
mod frames;
mod go;
mod index;
mod page;
mod plt;
mod trampoline;
mod translate;

use object::elf;
use profiler_common::unwind::{Arch, Row, Rule};

pub use describe::describe;

use crate::object::{BuildId, Elf, Work, limits};
use frames::Frames;
use go::GoFunctions;
use page::Page;
use plt::Stubs;

/// Why a page has no table. The page is then as one without information.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PageError {
    /// The page asks for more than a real one does.
    #[error("over the limit for {0}")]
    Limit(&'static str),
}

/// One text page's rows.
///
/// `rows[0]` is at offset zero; rows are strictly sorted; neighbours have different rules; [`Row::rule`] is an index into
/// `rules`, which are all different.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageTable {
    /// From which offset on which rule holds.
    pub rows: Vec<Row>,
    /// The rules of this page.
    pub rules: Vec<Rule>,
    /// Rows whose information no rule can say.
    pub unsupported: u32,
}

impl PageTable {
    /// True when nothing is known anywhere in the page.
    pub fn is_empty(&self) -> bool {
        matches!(self.rules.as_slice(), [only] if *only == Rule::NONE)
    }

    /// The rule that holds at an offset of the page.
    pub fn rule_at(&self, offset: u16) -> Rule {
        let after = self.rows.partition_point(|row| row.offset() <= offset);
        let row = after.checked_sub(1).and_then(|index| self.rows.get(index));
        row.and_then(|row| self.rules.get(usize::from(row.rule()))).copied().unwrap_or(Rule::NONE)
    }
}

/// The unwind information of one object.
#[derive(Debug)]
pub struct UnwindInfo {
    elf: Elf,
    debug: Option<Elf>,
    /// None for a processor that we do not unwind.
    arch: Option<Arch>,
    build_id: Option<BuildId>,
    eh_frame: Option<Frames>,
    debug_frame: Option<Frames>,
    go: GoFunctions,
    stubs: Stubs,
}

impl UnwindInfo {
    /// Finds out where the information is. `find_debug` looks for a separate debug file, and is asked only when the
    /// object itself has no usable information. An object without any is not an error: all its pages are empty.
    pub fn open(elf: Elf, find_debug: impl FnOnce(&Elf) -> Option<Elf>) -> Self {
        let build_id = BuildId::of(&elf);
        let arch = match elf.machine() {
            elf::EM_X86_64 if elf.is_64() => Some(Arch::X86_64),
            elf::EM_AARCH64 if elf.is_64() => Some(Arch::Aarch64),
            _ => None,
        };
        let mut info = Self {
            elf,
            debug: None,
            arch,
            build_id,
            eh_frame: None,
            debug_frame: None,
            go: GoFunctions::default(),
            stubs: Stubs::default(),
        };
        let Some(arch) = arch else { return info };
        info.eh_frame = Frames::eh_frame(&info.elf, arch);
        info.debug_frame = Frames::debug_frame(&info.elf, &info.elf, arch);
        if info.eh_frame.is_none() && info.debug_frame.is_none() {
            info.debug = find_debug(&info.elf);
            info.debug_frame =
                info.debug.as_ref().and_then(|debug| Frames::debug_frame(debug, &info.elf, arch));
        }
        info.go = GoFunctions::of(&info.elf);
        info.stubs = Stubs::of(&info.elf, arch);
        info
    }

    /// The object's build ID.
    pub fn build_id(&self) -> Option<&BuildId> {
        self.build_id.as_ref()
    }

    /// The object itself.
    pub fn elf(&self) -> &Elf {
        &self.elf
    }

    /// The instruction set; none for one that is not unwound.
    pub fn arch(&self) -> Option<Arch> {
        self.arch
    }

    /// Where the information comes from, for people.
    pub fn source_name(&self) -> &'static str {
        match (&self.eh_frame, &self.debug_frame, &self.debug) {
            (Some(_), Some(_), _) => ".eh_frame and .debug_frame",
            (Some(_), None, _) => ".eh_frame",
            (None, Some(_), None) => ".debug_frame",
            (None, Some(_), Some(_)) => ".debug_frame of the debug file",
            (None, None, _) => "none",
        }
    }

    /// Number of functions that the information describes.
    pub fn functions(&self) -> u64 {
        self.eh_frame.iter().chain(&self.debug_frame).map(Frames::len).sum()
    }

    /// Numbers of the text pages that hold code, sorted.
    pub fn code_pages(&self) -> Vec<u64> {
        page::code_pages(&self.elf)
    }

    /// The rows of text page `number`, which is the file offsets from `number << 16` on.
    ///
    /// # Errors
    /// When the page would take more work or memory than any real one does.
    pub fn page(&self, number: u64) -> Result<PageTable, PageError> {
        let Some(arch) = self.arch else { return Ok(Page::new().into_table()) };
        let mut page = Page::new();
        let work = Work::of(limits::PAGE_READS);
        for piece in page::pieces(&self.elf, number) {
            if let Some(frames) = &self.eh_frame {
                frames.paint(&self.elf, arch, &self.go, &piece, &mut page, &work)?;
            }
            if let Some(frames) = &self.debug_frame {
                let elf = self.debug.as_ref().unwrap_or(&self.elf);
                frames.paint(elf, arch, &self.go, &piece, &mut page, &work)?;
            }
            self.stubs.paint(&piece, &mut page)?;
            trampoline::paint(&self.elf, arch, &piece, &mut page);
            self.go.paint(&piece, &mut page);
        }
        Ok(page.into_table())
    }
}

#[cfg(test)]
mod tests;
