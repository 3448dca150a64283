//! Go functions that leave their stack, or begin one.
//!
//! In: a Go program's own table of functions. Out: rules that replace what the call frame information says of a few
//! functions of the runtime. The information is right for the instructions, but the stack on the other side is not
//! where it says.

use std::ops::Range;

use profiler_common::unwind::{CFA_SWITCH, Rule};

use super::page::{Page, Piece};
use crate::object::Elf;
use crate::symbolize::go_code;

/// What a function of the runtime does to a walk (Go's src/runtime/asm_amd64.s, asm_arm64.s and stubs.go).
struct Special {
    name: &'static str,
    rule: Rule,
    /// Its entry, or the byte behind that, is put onto new stacks as a return address that nobody called from. Return
    /// addresses are looked up one less.
    is_return_address: bool,
}

const fn special(name: &'static str, rule: Rule, is_return_address: bool) -> Special {
    Special { name, rule, is_return_address }
}

const SPECIAL: &[Special] = &[
    // These run a function on the thread's own stack and come back; the frame pointer leads back to the goroutine's.
    special("runtime.systemstack", Rule::of(CFA_SWITCH), false),
    special("runtime.asmcgocall", Rule::of(CFA_SWITCH), false),
    // These leave the goroutine for good, or until somebody else resumes it.
    special("runtime.mcall", Rule::END, false),
    special("runtime.morestack", Rule::END, false),
    // Where goroutines, threads and the process begin.
    special("runtime.goexit", Rule::END, true),
    special("runtime.mstart", Rule::END, true),
    special("runtime.rt0_go", Rule::END, false),
    special("_rt0_amd64", Rule::END, false),
    special("_rt0_amd64_linux", Rule::END, false),
    special("_rt0_arm64_linux", Rule::END, false),
];

/// The Go code of an object.
#[derive(Debug, Default)]
pub(super) struct GoFunctions {
    code: Range<u64>,
    special: Vec<(Range<u64>, Rule)>,
}

impl GoFunctions {
    /// Reads the table of functions; empty for an object that is not Go's.
    pub(super) fn of(elf: &Elf) -> Self {
        // A name stands for its variant in the older calling convention as well.
        let named = |name: &[u8]| {
            let name = name.strip_suffix(b".abi0").unwrap_or(name);
            SPECIAL.iter().find(|special| special.name.as_bytes() == name)
        };
        let Some(found) = go_code(elf, SPECIAL.len() * 2, named) else { return Self::default() };
        let special = found.functions.into_iter().map(|(special, range)| {
            let before = u64::from(special.is_return_address);
            (range.start.saturating_sub(before)..range.end, special.rule)
        });
        Self { special: special.collect(), code: found.code }
    }

    /// True when Go's compiler or assembler made the code at an address.
    pub(super) fn contains(&self, virt_addr: u64) -> bool {
        self.code.contains(&virt_addr)
    }

    /// Puts the rules over what the call frame information says.
    pub(super) fn paint(&self, piece: &Piece, page: &mut Page) {
        for (range, rule) in &self.special {
            if range.start < piece.virt.end && piece.virt.start < range.end {
                page.overwrite(piece, range, *rule);
            }
        }
    }
}
