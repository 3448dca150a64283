//! A walk with any rules over any stack: no step panics, and each reads only what it was given.
#![no_main]

use libfuzzer_sys::fuzz_target;
use profiler_common::limits::MAX_USER_FRAMES;
use profiler_common::unwind::{
    Arch, Found, Memory, Registers, Rule, Step, Tables, advance,
};

const BASE: u64 = 0x7fff_0000_0000;
const RULE_BYTES: usize = 16;

struct Stack<'a>(&'a [u8]);

impl Memory for Stack<'_> {
    fn word(&self, abs_addr: u64) -> Option<u64> {
        let offset = usize::try_from(abs_addr.checked_sub(BASE)?).ok()?;
        let bytes = self.0.get(offset..offset.checked_add(8)?)?;
        let word = u64::from_le_bytes(bytes.try_into().ok()?);
        // Small words become plausible pointers, so that long walks happen.
        Some(if word >> 16 == 0 { BASE + (word & !7) } else { word })
    }

    fn word_pair(&self, abs_addr: u64) -> Option<[u64; 2]> {
        Some([self.word(abs_addr)?, self.word(abs_addr.checked_add(8)?)?])
    }
}

/// The rule of an address is some rule of the input.
struct Rules<'a>(&'a [u8]);

impl Tables for Rules<'_> {
    fn find(&mut self, pc: u64) -> Found {
        let count = self.0.len() / RULE_BYTES;
        if count == 0 {
            return Found::Rule(Rule::NONE);
        }
        let at = (pc % count as u64) as usize * RULE_BYTES;
        let bytes = &self.0[at..at + RULE_BYTES];
        let half = |index: usize| i16::from_le_bytes([bytes[index], bytes[index + 1]]);
        Found::Rule(Rule {
            cfa: bytes[0] & 0x1f,
            register: bytes[1],
            ra: bytes[2] & 3,
            fp: bytes[3] & 3,
            cfa_offset: i32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]) % 4096,
            cfa_add: half(8),
            ra_offset: half(10),
            fp_offset: half(12),
            rbx_offset: half(14),
        })
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((first, rest)) = data.split_first() else { return };
    let arch = if first & 1 == 0 { Arch::X86_64 } else { Arch::Aarch64 };
    let rules = rest.len().min(usize::from(first >> 1) * RULE_BYTES);
    let (rules, stack) = rest.split_at(rules);
    let (mut rules, stack) = (Rules(rules), Stack(stack));
    let mut registers = Registers::interrupted(0x40_0000, BASE, BASE + 64, 0x40_1000);
    for _ in 0..MAX_USER_FRAMES {
        let step = advance(arch, &mut registers, u64::MAX, &mut rules, &stack);
        if let Step::Stop(_) = step.unwrap_or_else(|frame| frame.leave(arch, &mut registers, &stack)) {
            return;
        }
    }
});
