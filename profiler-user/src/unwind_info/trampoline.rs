//! Where signal handlers return to: found by the code itself.
//!
//! In: the code of one text page. Out: the signal rule on every trampoline. glibc describes its own; musl, Go and the
//! kernel's vDSO of AArch64 do not, or not in a way that a rule can say. The two instructions that make the system call
//! are the same everywhere, because debuggers have always recognised trampolines by them.

use std::ops::Range;

use profiler_common::unwind::{Arch, CFA_SIGNAL, Rule};

use super::page::{Page, Piece};
use crate::object::Elf;

/// `mov $15, %rax` in the two lengths that assemblers write; 15 is `rt_sigreturn`. And `syscall`.
const X86_MOVES: [&[u8]; 2] = [&[0x48, 0xc7, 0xc0, 15, 0, 0, 0], &[0xb8, 15, 0, 0, 0]];
const X86_SYSCALL: [u8; 2] = [0x0f, 0x05];

/// `mov x8, #139; svc #0`; 139 is `rt_sigreturn`.
const ARM: [u8; 8] = [0x68, 0x11, 0x80, 0xd2, 0x01, 0x00, 0x00, 0xd4];

/// Bytes of code read on each side of a piece, for a trampoline that begins or ends outside.
const MARGIN_BYTES: u64 = 16;

/// Bytes from the stack pointer in the trampoline to r8, the first register saved: `uc_flags`, `uc_link` and
/// `uc_stack` of `struct ucontext` (arch/x86/include/asm/sigframe.h, include/uapi/asm-generic/ucontext.h).
const X86_SAVED: i32 = 8 + 8 + 24;

/// Bytes from the stack pointer in the trampoline to x0: `siginfo`, then of `struct ucontext` the flags, the link, the
/// stack, the signal mask with room for 1024 signals, and eight that align the rest to 16; then the fault address
/// (arch/arm64/kernel/signal.c, arch/arm64/include/uapi/asm/ucontext.h).
const ARM_SAVED: i32 = 128 + (8 + 8 + 24 + 128 + 8) + 8;

/// Puts the signal rule on the trampolines of a piece of a page, and on the byte or instruction before each: a handler's
/// return address is the trampoline's first byte, and return addresses are looked up one less.
pub(super) fn paint(elf: &Elf, arch: Arch, piece: &Piece, page: &mut Page) {
    let start = piece.virt.start.saturating_sub(MARGIN_BYTES).max(piece.segment.start);
    let end = piece.virt.end.saturating_add(MARGIN_BYTES).min(piece.segment.end);
    let Ok(code) = elf.read_virt(start, end.saturating_sub(start)) else { return };
    let (found, before, saved) = match arch {
        Arch::X86_64 => (x86(&code), 1, X86_SAVED),
        Arch::Aarch64 => (arm(&code), 4, ARM_SAVED),
    };
    let rule = Rule { cfa_offset: saved, ..Rule::of(CFA_SIGNAL) };
    for at in found {
        let (from, to) = (start.saturating_add(at.start as u64), start.saturating_add(at.end as u64));
        page.overwrite(piece, &(from.saturating_sub(before)..to), rule);
    }
}

/// System calls are rarer than moves, so they are looked for first.
fn x86(code: &[u8]) -> Vec<Range<usize>> {
    let calls = code.windows(2).enumerate().filter(|(_, bytes)| **bytes == X86_SYSCALL);
    let trampoline = |(at, _): (usize, &[u8])| {
        let before = code.get(..at)?;
        let length = X86_MOVES.iter().find(|code| before.ends_with(code))?.len();
        Some(at - length..at + X86_SYSCALL.len())
    };
    calls.filter_map(trampoline).collect()
}

fn arm(code: &[u8]) -> Vec<Range<usize>> {
    let found = code.windows(ARM.len()).enumerate().filter(|(_, bytes)| **bytes == ARM);
    found.map(|(at, _)| at..at + ARM.len()).collect()
}

#[cfg(test)]
mod tests {
    use std::iter;

    use super::*;

    #[test]
    fn trampolines_are_known_by_their_code() {
        // nop; mov $15, %rax; syscall; nop; mov $15, %eax; syscall; mov $14, %eax; syscall
        let code = [
            0x90, 0x48, 0xc7, 0xc0, 15, 0, 0, 0, 0x0f, 0x05, 0x90, 0xb8, 15, 0, 0, 0, 0x0f, 0x05, 0xb8, 14,
            0, 0, 0, 0x0f, 0x05,
        ];
        assert_eq!(x86(&code), [1..10, 11..18]);
        assert!(x86(&X86_SYSCALL).is_empty());
        let code = [&[0x1f, 0x20, 0x03, 0xd5], &ARM[..], &ARM[..4]].concat();
        assert!(arm(&code).into_iter().eq(iter::once(4..12)));
        assert_eq!(ARM_SAVED, 312);
    }
}
