//! Unwinding of user stacks, one frame at a time, over a [`Memory`] and [`Tables`].
//!
//! Pure and bounded: no allocation, no loops that depend on input, no panics, so that the BPF verifier accepts it
//! and the host can test and fuzz it. In: registers, stack memory, rules. Out: the caller's registers, or why there is
//! none. Writing frames down is the caller's business.

mod frame_pointer;
mod native;
mod registers;
mod rule;
mod signal;

pub use registers::{KNOWN_ALL, KNOWN_RBX, REGISTERS, REGISTERS_BYTES, Registers};
pub use rule::{
    AT_FP, CFA_DEREF, CFA_END, CFA_FP, CFA_NONE, CFA_PLT, CFA_REGISTER, CFA_SIGNAL, CFA_SP, CFA_SWITCH,
    CFA_UNSUPPORTED, IN_REGISTER, MAX_PAGE_ROWS, RULE_NONE, Row, Rows, Rule, SAME, SAVED, TEXT_PAGE_BITS,
    TEXT_PAGE_BYTES, search,
};
pub use signal::SignalFrame;

use crate::stop::StopReason;

/// Stack memory of the walked task.
pub trait Memory {
    /// The 64-bit word at `abs_addr`, or none when it cannot be read.
    fn word(&self, abs_addr: u64) -> Option<u64>;

    /// The two 64-bit words at `abs_addr` and `abs_addr + 8`, or none when they cannot be read.
    fn word_pair(&self, abs_addr: u64) -> Option<[u64; 2]>;

    /// Fills `into` with the 64-bit words from `abs_addr` on; false when not all can be read, and `into` means nothing then.
    fn words(&self, abs_addr: u64, into: &mut [u64]) -> bool {
        let mut at = abs_addr;
        for slot in into {
            let Some(word) = self.word(at) else { return false };
            *slot = word;
            at = at.wrapping_add(8);
        }
        true
    }
}

/// Where the rule of an address comes from.
pub trait Tables {
    /// The rule for a program counter, or why there is none.
    fn find(&mut self, pc: u64) -> Found;
}

/// What [`Tables::find`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// A rule; [`Rule::NONE`] where the code has no unwind information.
    Rule(Rule),
    /// The walk ends here.
    Missing(StopReason),
}

/// The instruction set, as far as a stack walk differs by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arch {
    /// x86_64: the call pushes the return address.
    X86_64,
    /// AArch64: the call leaves the return address in x30; it may be signed.
    Aarch64,
}

/// What one step of a walk found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The registers are the caller's now.
    Caller,
    /// There is no caller, or none that can be found; the registers may be partly changed.
    Stop(StopReason),
}

/// Steps from the frame in `registers` to its caller. `code_mask` removes the signature of an AArch64 return address.
///
/// # Errors
///
/// The frame of a signal handler's return is handed back for [`SignalFrame::leave`]: taking that step inside the loop of a
/// BPF program doubles what the verifier has to look at.
#[inline(always)]
#[expect(
    clippy::inline_always,
    reason = "a call costs the BPF verifier a frame of its own and a spilled state"
)]
pub fn advance(
    arch: Arch,
    registers: &mut Registers,
    code_mask: u64,
    tables: &mut impl Tables,
    memory: &impl Memory,
) -> Result<Step, SignalFrame> {
    match tables.find(registers.lookup_address()) {
        Found::Rule(rule) => step(arch, &rule, registers, code_mask, memory),
        Found::Missing(reason) => Ok(Step::Stop(reason)),
    }
}

/// Steps to the caller by a rule, like [`advance`].
#[inline(always)]
#[expect(
    clippy::inline_always,
    reason = "a call costs the BPF verifier a frame of its own and a spilled state"
)]
pub fn step(
    arch: Arch,
    rule: &Rule,
    registers: &mut Registers,
    code_mask: u64,
    memory: &impl Memory,
) -> Result<Step, SignalFrame> {
    Ok(match rule.cfa {
        CFA_NONE => frame_pointer::step(arch, registers, code_mask, memory, frame_pointer::Stack::Same),
        CFA_SWITCH => frame_pointer::step(arch, registers, code_mask, memory, frame_pointer::Stack::Other),
        CFA_END => Step::Stop(StopReason::Complete),
        CFA_UNSUPPORTED => Step::Stop(StopReason::UnsupportedRule),
        CFA_SIGNAL => return Err(SignalFrame::of(rule, registers)),
        _ => native::step(arch, rule, registers, code_mask, memory),
    })
}

/// User addresses end below this on both architectures (x86_64 with five-level page tables: 2^56).
const USER_ADDRESS_LIMIT: u64 = 1 << 56;

/// Lowest address that code can have: `vm.mmap_min_addr` keeps the first pages free on every distribution.
const LOWEST_CODE_ADDRESS: u64 = 0x1000;

/// Takes over a return address that was read from the stack.
#[inline(always)]
#[expect(clippy::inline_always, reason = "as above")]
fn judge_return_address(saved_ip: u64, code_mask: u64) -> Result<u64, StopReason> {
    let ip = saved_ip & code_mask;
    if ip == 0 {
        // The C library's and the kernel's way of ending a chain.
        return Err(StopReason::Complete);
    }
    if !(LOWEST_CODE_ADDRESS..USER_ADDRESS_LIMIT).contains(&ip) {
        return Err(StopReason::BadReturnAddress);
    }
    Ok(ip)
}

#[cfg(test)]
pub(crate) mod test_stack {
    use super::Memory;
    use std::vec::Vec;

    /// An array as the stack: word `n` lies at `BASE + 8 * n`.
    pub(crate) struct Stack(pub(crate) Vec<u64>);
    pub(crate) const BASE: u64 = 0x7fff_0000_0000;

    impl Memory for Stack {
        fn word(&self, abs_addr: u64) -> Option<u64> {
            let offset = abs_addr.checked_sub(BASE)?;
            if offset % 8 != 0 {
                return None;
            }
            self.0.get(usize::try_from(offset / 8).ok()?).copied()
        }

        fn word_pair(&self, abs_addr: u64) -> Option<[u64; 2]> {
            Some([self.word(abs_addr)?, self.word(abs_addr.wrapping_add(8))?])
        }
    }
}
