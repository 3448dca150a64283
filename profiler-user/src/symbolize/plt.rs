//! Names for the stubs of the procedure linkage table: `malloc@plt`.
//!
//! In: addresses in `.plt` sections. Out: the name of the function that each stub jumps to, by way of the slot that its
//! code loads and the relocation that fills that slot. Reading the code works for every layout that linkers have made
//! up (lazy, `-z now`, branch protection), on x86_64 and arm64; other processors get no names here.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use object::elf;

use super::Names;
use super::symbols::SymbolName;

use crate::object::{Elf, Section, SectionData, SymbolTable};

/// Relocations read. A large C++ program has about ten thousand for its stubs and a million others.
const RELOCATIONS: u64 = 4 << 20;

/// Bytes of one 64-bit relocation with addend: place, symbol and type, addend.
const RELOCATION_BYTES: u64 = 24;

/// How a stub says which function it means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Target {
    /// The slot, by its address, that the linker's relocation fills.
    Slot(u64),
    /// The position of the relocation in `.rela.plt`.
    Relocation(u64),
}

/// What fills a stub's slot.
#[derive(Debug, Clone, Copy)]
enum Filler {
    /// The function of this index in the dynamic symbol table.
    Symbol(u32),
    /// Whatever the function at this address chooses, in statically linked programs: `strlen` for this processor.
    Resolver(u64),
}

/// Names, `malloc@plt`, of those of `addresses` that are stubs. `name_of` names sorted addresses of functions.
pub(super) fn look_up(
    elf: &Elf,
    addresses: &[u64],
    names: &mut Names,
    name_of: impl Fn(&[u64], &mut Names) -> Vec<Option<SymbolName>>,
) -> Vec<Option<SymbolName>> {
    let targets: Vec<Option<Target>> = addresses.iter().map(|address| target(elf, *address)).collect();
    let unique: HashSet<Target> = targets.iter().flatten().copied().collect();
    let mut fillers: HashMap<Target, Filler> = HashMap::new();
    if !unique.is_empty() {
        for (section, is_plt) in [(".rela.plt", true), (".rela.dyn", false)] {
            read_relocations(elf, section, |index, slot, filler| {
                let (by_slot, by_index) = (Target::Slot(slot), Target::Relocation(index));
                if unique.contains(&by_slot) {
                    fillers.insert(by_slot, filler);
                } else if is_plt && unique.contains(&by_index) {
                    fillers.insert(by_index, filler);
                }
            });
        }
    }
    let mut resolvers: Vec<u64> = fillers
        .values()
        .filter_map(|filler| if let Filler::Resolver(address) = filler { Some(*address) } else { None })
        .collect();
    resolvers.sort_unstable();
    resolvers.dedup();
    let resolver_names = if resolvers.is_empty() { Vec::new() } else { name_of(&resolvers, names) };
    let table = SymbolTable::dynamic(elf);
    let mut name = |target: Option<Target>| {
        let function = match *fillers.get(&target?)? {
            Filler::Symbol(index) => {
                let table = table.as_ref()?;
                names.function(&table.name(&table.get(index).ok()?).ok()?)
            }
            Filler::Resolver(address) => {
                Arc::clone(&resolver_names[resolvers.binary_search(&address).ok()?].as_ref()?.text)
            }
        };
        let text = (!function.is_empty()).then(|| names.share(&format!("{function}@plt")))?;
        Some(SymbolName { text, was_mangled: false })
    };
    targets.into_iter().map(&mut name).collect()
}

fn target(elf: &Elf, address: u64) -> Option<Target> {
    let section = elf.code_section_at(address).filter(|section| section.name.starts_with(".plt"))?;
    match elf.machine() {
        elf::EM_X86_64 => target_x86_64(elf, section, address),
        elf::EM_AARCH64 => target_aarch64(elf, section, address),
        _ => None,
    }
}

/// `jmp *slot(%rip)`, maybe behind `endbr64` or with a `bnd` prefix; lazy stubs with branch protection have
/// `push $index` instead (System V ABI for x86-64, chapter 5.2).
fn target_x86_64(elf: &Elf, section: &Section, address: u64) -> Option<Target> {
    // `.plt.got` has stubs of eight bytes where there is no branch protection.
    let size = if section.entry_size == 8 { 8 } else { 16 };
    let start = section.virt_addr + (address - section.virt_addr) / size * size;
    let code = elf.read_virt(start, size.min(section.virt_end() - start)).ok()?;
    let operand = |at: usize| code.get(at..at + 4)?.first_chunk().map(|bytes| i32::from_le_bytes(*bytes));
    // The table's header also jumps through a slot, but pushes one first.
    if code.starts_with(&[0xff, 0x35]) {
        return None;
    }
    let body = if code.starts_with(&[0xf3, 0x0f, 0x1e, 0xfa]) { 4 } else { 0 };
    if code.get(body) == Some(&0x68) {
        return Some(Target::Relocation(u64::try_from(operand(body + 1)?).ok()?));
    }
    let jump = if code.get(body) == Some(&0xf2) { body + 1 } else { body };
    if code.get(jump..jump + 2) != Some(&[0xff, 0x25]) {
        return None;
    }
    let next = start.wrapping_add(jump as u64 + 6);
    Some(Target::Slot(next.wrapping_add_signed(i64::from(operand(jump + 2)?))))
}

/// `adrp x16, page; ldr x17, [x16, #offset]; add x16, …; br x17`, maybe behind `bti c` (ABI for the Arm 64-bit
/// Architecture, "Procedure Linkage Table").
fn target_aarch64(elf: &Elf, section: &Section, address: u64) -> Option<Target> {
    const BTI_C: u32 = 0xd503_245f;
    let address = address & !3;
    let instruction = |at: u64| {
        let inside = (section.virt_addr..section.virt_end()).contains(&at);
        let bytes = inside.then(|| elf.read_virt(at, 4).ok())??;
        bytes.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
    };
    let first = if instruction(address)? == BTI_C { address + 4 } else { address };
    (0..4).find_map(|steps| {
        let at = first.checked_sub(steps * 4)?;
        let (adrp, ldr) = (instruction(at)?, instruction(at + 4)?);
        if adrp & 0x9f00_001f != 0x9000_0010 || ldr & 0xffc0_03ff != 0xf940_0211 {
            return None;
        }
        // 21 bits, high part in bits 5..24, low part in bits 29..31: pages of 4 KiB, signed.
        let pages = ((adrp >> 5) & 0x7_ffff) << 2 | (adrp >> 29) & 3;
        let pages = i64::from((pages << 11) as i32 >> 11);
        let page = (at & !0xfff).wrapping_add_signed(pages << 12);
        Some(Target::Slot(page.wrapping_add(u64::from((ldr >> 10) & 0xfff) * 8)))
    })
}

/// Calls `each` with position, slot and filler of every relocation in a section.
fn read_relocations(elf: &Elf, name: &str, mut each: impl FnMut(u64, u64, Filler)) {
    let Some(section) = elf.section(name).filter(|section| section.has_bytes() && elf.is_64()) else {
        return;
    };
    let Ok(data) = SectionData::range(elf.source(), section.file_offset, section.size) else { return };
    let count = (section.size / RELOCATION_BYTES).min(RELOCATIONS);
    for index in 0..count {
        let mut entry = [0; RELOCATION_BYTES as usize];
        if data.read_exact_at(index * RELOCATION_BYTES, &mut entry).is_err() {
            return;
        }
        let word = |at: usize| entry[at..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        let filler = match (word(8) >> 32) as u32 {
            0 => Filler::Resolver(word(16)),
            symbol => Filler::Symbol(symbol),
        };
        each(index, word(0), filler);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The stubs that the linker made for us: each must jump to a function that the dynamic table imports.
    #[test]
    fn our_own_stubs_have_names() {
        let elf = Elf::open(std::fs::File::open("/proc/self/exe").unwrap()).unwrap();
        let Some(section) = elf.sections().iter().find(|section| section.name.starts_with(".plt.")) else {
            return; // Linked without stubs.
        };
        let addresses: Vec<u64> = (section.virt_addr..section.virt_end()).step_by(8).collect();
        let names = look_up(&elf, &addresses, &mut Names::default(), |_, _| Vec::new());
        assert!(names.iter().flatten().next().is_some());
        assert!(names.iter().flatten().all(|name| name.text.ends_with("@plt")));
    }
}
