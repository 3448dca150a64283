//! From an address to its unwind rule: mapping trie → page directory → rows of the text page → rule.

use aya_ebpf::maps::lpm_trie::Key;
use profiler_common::mapping::{
    MAPPING_KEY_BITS, MAPPING_TABLES, MappingKey, PAGE_FRAME_POINTERS, PAGE_LOADED, PageRef, SLAB_ROWS,
};
use profiler_common::stop::StopReason;
use profiler_common::unwind::{Found, Rows, Rule, TEXT_PAGE_BITS, TEXT_PAGE_BYTES, Tables, search};

use crate::maps::{MAPPINGS, PAGES, RULES, SLABS, Slab};
use crate::scratch::{WalkState, opaque};

/// The agent's tables, with the walk whose last mapping is remembered.
pub(super) struct KernelTables {
    pub(super) walk: *mut WalkState,
}

impl Tables for KernelTables {
    #[inline(always)]
    fn find(&mut self, pc: u64) -> Found {
        let walk = self.walk;
        // SAFETY: the walk is this CPU's scratch, here and below.
        let (start, end) = unsafe { ((*walk).mapping.start, (*walk).mapping.end) };
        if (pc < start || pc >= end) && !unsafe { enter_mapping(walk, pc) } {
            return Found::Missing(StopReason::NoMapping);
        }
        let mapping = unsafe { &raw const (*walk).mapping };
        if unsafe { (*mapping).kind } != MAPPING_TABLES {
            return Found::Rule(Rule::NONE);
        }
        let offset = unsafe { pc.wrapping_sub((*mapping).start).wrapping_add(u64::from((*mapping).skew)) };
        let index = unsafe { (*mapping).first_page }.wrapping_add((offset >> TEXT_PAGE_BITS) as u32);
        let Some(page) = PAGES.get_ptr(index) else {
            return Found::Missing(StopReason::TableMissing);
        };
        // SAFETY: a word of the directory; the agent may write it at any time, in one piece.
        let page = PageRef(unsafe { page.cast::<u64>().read_volatile() });
        if page.state() == PAGE_FRAME_POINTERS {
            return Found::Rule(Rule::NONE);
        }
        if page.state() != PAGE_LOADED {
            return Found::Missing(StopReason::TableMissing);
        }
        let Some(slab) = SLABS.get_value_ptr_mut(page.slab(), &0) else {
            return Found::Missing(StopReason::TableMissing);
        };
        let rows = SlabRows { slab };
        let row = search(&rows, page.start(), page.last(), page.top_step(), offset & (TEXT_PAGE_BYTES - 1));
        match RULES.get(u32::from(row.rule())) {
            Some(rule) => Found::Rule(*rule),
            None => Found::Missing(StopReason::TableMissing),
        }
    }
}

/// Looks the mapping of an address up and remembers it.
///
/// # Safety
///
/// `walk` is this CPU's.
#[inline(always)]
unsafe fn enter_mapping(walk: *mut WalkState, pc: u64) -> bool {
    // SAFETY: valid by the caller, here and below.
    let space = unsafe { (*walk).space };
    if space == 0 {
        return false;
    }
    let key = Key::new(MAPPING_KEY_BITS, MappingKey::new(space, pc));
    let Some(found) = MAPPINGS.get(&key) else { return false };
    if pc < found.start || pc >= found.end {
        return false;
    }
    unsafe {
        (*walk).mapping.start = found.start;
        (*walk).mapping.end = found.end;
        (*walk).mapping.first_page = found.first_page;
        (*walk).mapping.skew = found.skew;
        (*walk).mapping.kind = found.kind;
    }
    true
}

/// The rows of one slab.
struct SlabRows {
    slab: *mut Slab,
}

impl Rows for SlabRows {
    #[inline(always)]
    fn hide(&self, mut value: u64) -> u64 {
        opaque(&mut value);
        value
    }

    #[inline(always)]
    fn row(&self, index: u64) -> u64 {
        let mut at = index;
        opaque(&mut at);
        let at = at & (SLAB_ROWS as u64 - 1);
        // SAFETY: masked to the slab's length.
        u64::from(unsafe { self.slab.cast::<u32>().add(at as usize).read() })
    }
}
