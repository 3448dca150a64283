//! Which symbol answers for an address.
//!
//! In: symbol tables and a sorted batch of addresses. Out: one name per address, where a symbol covers it. Every table
//! is streamed past the addresses once, so what is kept grows with the addresses and not with the tables. A symbol
//! answers inside its own size only; one without a size, up to the next symbol or the end of its section.

use std::ops::ControlFlow;
use std::sync::Arc;

use object::elf;

use super::Names;
use super::demangle::is_mangled;
use crate::object::{ObjectError, Symbol, SymbolTable, limits};

/// Names of one place that are compared. glibc has up to six for one function.
const ALIASES: usize = 8;

/// Times that a symbol may be noted for an address, in all. Honest tables hardly overlap; hostile ones could have every
/// symbol cover every address.
const NOTES: u64 = 64 << 20;

/// What reading a piece of the name table counts for. Honest tables have names in the order of their symbols.
const MISS_NOTES: u64 = 1000;

/// A symbol's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SymbolName {
    /// Readable.
    pub(super) text: Arc<str>,
    /// True when the table has it in mangled form, with namespace and types.
    pub(super) was_mangled: bool,
}

/// A symbol that may answer, and the table that has its name.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    table: usize,
    symbol: Symbol,
}

/// The best candidates of one address: all have the same rank, and differ in their names only.
#[derive(Debug, Clone, Default)]
struct Best {
    candidates: Vec<Candidate>,
}

/// What is known about one address, or about the gap between it and the address before.
#[derive(Debug, Clone, Default)]
struct Slot {
    /// Symbols with a size that covers the address.
    sized: Best,
    /// The last symbols without a size that start in the gap.
    unsized_: Best,
    /// Start of the last symbol of any kind in the gap.
    last_start: Option<u64>,
}

/// The sorted addresses of a batch, divided so that the one to begin with is found in a step or two: a table may have a quarter of a million symbols,
/// and each of them asks.
struct Wanted<'a> {
    addresses: &'a [u64],
    /// Where the addresses of each division of their range begin, and the end of the last one.
    divisions: Vec<u32>,
    /// Length of a division, as a power of two.
    bits: u32,
}

impl<'a> Wanted<'a> {
    fn new(addresses: &'a [u64]) -> Self {
        let (Some(first), Some(last)) = (addresses.first(), addresses.last()) else {
            return Self { addresses, divisions: Vec::new(), bits: 0 };
        };
        let most = (2 * addresses.len()).next_power_of_two();
        let bits = (last - first).checked_ilog2().map_or(0, |bit| (bit + 1).saturating_sub(most.ilog2()));
        let mut divisions = vec![0];
        for (position, address) in addresses.iter().enumerate() {
            let division = ((address - first) >> bits) as usize;
            divisions.resize(divisions.len().max(division + 1), position as u32);
        }
        divisions.push(addresses.len() as u32);
        Self { addresses, divisions, bits }
    }

    /// Position of the first address that is not below `start`.
    fn first_from(&self, start: u64) -> usize {
        let Some(offset) = self.addresses.first().and_then(|first| start.checked_sub(*first)) else {
            return 0;
        };
        let division = usize::try_from(offset >> self.bits).unwrap_or(usize::MAX);
        let Some([from, to]) = division.checked_add(2).and_then(|end| self.divisions.get(division..end))
        else {
            return self.addresses.len();
        };
        let (from, to) = (*from as usize, *to as usize);
        from + self.addresses[from..to].partition_point(|address| *address < start)
    }
}

/// Names for the sorted `addresses`. The second value is what kept part of the tables from being read.
pub(super) fn look_up(
    tables: &[SymbolTable<'_>],
    addresses: &[u64],
    names: &mut Names,
) -> (Vec<Option<SymbolName>>, Option<ObjectError>) {
    let wanted = Wanted::new(addresses);
    let mut slots = vec![Slot::default(); addresses.len()];
    let (mut problem, mut notes) = (None, 0);
    for (number, table) in tables.iter().enumerate() {
        let scanned = table.for_each(|_, symbol| {
            if is_code(table, &symbol) {
                notes += note(&mut slots, &wanted, Candidate { table: number, symbol });
            }
            let work = notes + table.name_misses() * MISS_NOTES;
            if work > NOTES { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        problem = problem.or(scanned.err());
        notes += table.name_misses() * MISS_NOTES;
    }
    if notes > NOTES {
        problem = Some(ObjectError::Limit("overlapping symbols"));
    }
    (answer(&slots, tables, addresses, names), problem)
}

/// Enters a symbol where it may answer; returns how many addresses that were.
fn note(slots: &mut [Slot], wanted: &Wanted<'_>, candidate: Candidate) -> u64 {
    let Symbol { virt_addr: start, size, .. } = candidate.symbol;
    let first = wanted.first_from(start);
    let Some(gap) = slots.get_mut(first) else { return 1 };
    gap.last_start = gap.last_start.max(Some(start));
    if size == 0 {
        gap.unsized_.offer(candidate);
        return 1;
    }
    let (end, addresses) = (start.saturating_add(size), wanted.addresses);
    // Most symbols cover none of them.
    if addresses[first] >= end {
        return 1;
    }
    let covered = first..first + addresses[first..].partition_point(|address| *address < end);
    for slot in &mut slots[covered.clone()] {
        slot.sized.offer(candidate);
    }
    1 + covered.len() as u64
}

/// Chooses one name per address.
fn answer(
    slots: &[Slot],
    tables: &[SymbolTable<'_>],
    addresses: &[u64],
    names: &mut Names,
) -> Vec<Option<SymbolName>> {
    let (mut last_start, mut before) = (None, &Best::default());
    let mut answers: Vec<Option<SymbolName>> = Vec::with_capacity(addresses.len());
    let mut shown: Option<(u64, u64)> = None;
    for (slot, address) in slots.iter().zip(addresses) {
        last_start = last_start.max(slot.last_start);
        if slot.unsized_.start() > before.start() {
            before = &slot.unsized_;
        }
        let best = if !slot.sized.candidates.is_empty() {
            &slot.sized
        } else if before.start().is_some() && before.start() == last_start && before.reaches(tables, *address)
        {
            before
        } else {
            answers.push(None);
            shown = None;
            continue;
        };
        // Neighbours mostly lie in the same function.
        let same =
            best.candidates.first().map(|candidate| (candidate.symbol.virt_addr, candidate.symbol.size));
        let name = match answers.last() {
            Some(name) if shown == same => name.clone(),
            _ => best
                .name(tables)
                .map(|raw| SymbolName { was_mangled: is_mangled(&raw), text: names.function(&raw) }),
        };
        shown = same;
        answers.push(name);
    }
    answers
}

impl Best {
    /// Keeps the candidate if it is better than, or as good as, what is here.
    fn offer(&mut self, candidate: Candidate) {
        let rank = candidate.rank();
        match self.candidates.first().map(Candidate::rank) {
            Some(best) if rank < best => return,
            Some(best) if rank == best && self.candidates.len() >= ALIASES => return,
            Some(best) if rank == best => {}
            _ => self.candidates.clear(),
        }
        self.candidates.push(candidate);
    }

    fn start(&self) -> Option<u64> {
        self.candidates.first().map(|candidate| candidate.symbol.virt_addr)
    }

    /// True when the section of a symbol without a size extends to the address.
    fn reaches(&self, tables: &[SymbolTable<'_>], address: u64) -> bool {
        self.candidates.iter().any(|candidate| {
            let elf = tables[candidate.table].elf();
            match section_of(&tables[candidate.table], &candidate.symbol) {
                Some(section) => section.virt_end() > address,
                None => elf.segments().iter().any(|segment| {
                    let range = segment.virt_addr..segment.virt_addr.saturating_add(segment.mem_size);
                    segment.executable
                        && range.contains(&address)
                        && range.contains(&candidate.symbol.virt_addr)
                }),
            }
        })
    }

    /// The most telling of several names for one place, always the same one: fewest leading underscores (`malloc`,
    /// not `__libc_malloc`), then the shortest, then the first by letters.
    fn name(&self, tables: &[SymbolTable<'_>]) -> Option<Vec<u8>> {
        let names = self.candidates.iter().filter_map(|candidate| {
            let name = tables[candidate.table].name(&candidate.symbol).ok()?;
            (!name.is_empty()).then(|| without_version(name))
        });
        names.min_by(|a, b| {
            let key = |name: &[u8]| (name.iter().take_while(|byte| **byte == b'_').count(), name.len());
            key(a).cmp(&key(b)).then_with(|| a.cmp(b))
        })
    }
}

impl Candidate {
    /// Higher is better: the innermost symbol, then functions before labels, then names that other objects can see.
    fn rank(&self) -> (u64, u64, bool, bool) {
        let symbol = &self.symbol;
        let is_function = symbol.kind != elf::STT_NOTYPE;
        (symbol.virt_addr, u64::MAX - symbol.size, is_function, symbol.bind != elf::STB_LOCAL)
    }
}

fn section_of<'t>(table: &'t SymbolTable<'_>, symbol: &Symbol) -> Option<&'t crate::object::Section> {
    if symbol.section.is_special() {
        return None;
    }
    table.elf().sections().get(usize::from(symbol.section.0))
}

/// True for symbols that can name code: functions, and labels in code sections.
fn is_code(table: &SymbolTable<'_>, symbol: &Symbol) -> bool {
    if !matches!(symbol.kind, elf::STT_FUNC | elf::STT_GNU_IFUNC | elf::STT_NOTYPE)
        || symbol.section == elf::SHN_UNDEF
    {
        return false;
    }
    // SHN_XINDEX: the index did not fit; the section is unknown to us but exists.
    if symbol.section.is_special() && symbol.section != elf::SHN_XINDEX {
        return false;
    }
    if section_of(table, symbol).is_some_and(|section| !section.executable) {
        return false;
    }
    !is_mapping_symbol(table, symbol)
}

/// Arm marks where code and data begin with local labels `$x` and `$d` (AAELF64, "Mapping symbols"). They are not names.
fn is_mapping_symbol(table: &SymbolTable<'_>, symbol: &Symbol) -> bool {
    let marks = matches!(table.elf().machine(), elf::EM_AARCH64 | elf::EM_ARM | elf::EM_RISCV);
    let label = symbol.kind == elf::STT_NOTYPE && symbol.bind == elf::STB_LOCAL;
    marks && label && table.name(symbol).is_ok_and(|name| name.starts_with(b"$"))
}

/// `memcpy@@GLIBC_2.14` is `memcpy`: which version it is says nothing about where time goes.
fn without_version(mut name: Vec<u8>) -> Vec<u8> {
    if let Some(at) = name.iter().position(|byte| *byte == b'@').filter(|at| *at > 0) {
        name.truncate(at);
    }
    name
}

/// The limit on notes is above what any honest table within the symbol limit can need.
const _: () = assert!(NOTES > limits::SYMBOLS);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::Elf;

    fn own() -> Elf {
        Elf::open(std::fs::File::open("/proc/self/exe").unwrap()).unwrap()
    }

    fn candidate(start: u64, size: u64, kind: elf::SymbolType, bind: elf::SymbolBind) -> Candidate {
        let section = elf::SymbolSection(1);
        Candidate {
            table: 0,
            symbol: Symbol { name: start as u32, virt_addr: start, size, kind, bind, section },
        }
    }

    #[test]
    fn the_innermost_then_the_visible_function_wins() {
        let (function, label) = (elf::STT_FUNC, elf::STT_NOTYPE);
        let (local, global) = (elf::STB_LOCAL, elf::STB_GLOBAL);
        let outer = candidate(0x100, 0x100, function, global);
        let inner = candidate(0x140, 0x10, function, local);
        let (hidden, visible) =
            (candidate(0x100, 0x100, function, local), candidate(0x100, 0x100, label, global));
        assert!(inner.rank() > outer.rank());
        assert!(outer.rank() > hidden.rank());
        assert!(outer.rank() > visible.rank());
    }

    #[test]
    fn every_function_of_ours_is_found_by_its_addresses() {
        let elf = own();
        let table = [SymbolTable::full(&elf).unwrap()];
        let mut known = Vec::new();
        table[0]
            .for_each(|_, symbol| {
                if is_code(&table[0], &symbol) && symbol.size > 2 && symbol.kind == elf::STT_FUNC {
                    known.push(symbol);
                }
                ControlFlow::Continue(())
            })
            .unwrap();
        let step = (known.len() / 300).max(1);
        let mut known: Vec<Symbol> = known.into_iter().step_by(step).collect();
        known.sort_by_key(|symbol| symbol.virt_addr);
        let addresses: Vec<u64> = known.iter().map(|symbol| symbol.virt_addr + symbol.size - 1).collect();
        let (names, problem) = look_up(&table, &addresses, &mut Names::default());
        assert!(problem.is_none());
        for (symbol, name) in known.iter().zip(names) {
            assert!(name.is_some(), "{symbol:x?}");
        }
    }

    #[test]
    fn versions_are_no_part_of_a_name() {
        assert_eq!(without_version(b"memcpy@@GLIBC_2.14".to_vec()), b"memcpy");
        assert_eq!(without_version(b"@plain".to_vec()), b"@plain");
    }

    /// Addresses in ascending order, as the batch has them, against the obvious slow search.
    fn slow(symbols: &[Candidate], address: u64) -> Option<u64> {
        let covers =
            |c: &&Candidate| (c.symbol.virt_addr..c.symbol.virt_addr + c.symbol.size).contains(&address);
        let sized = symbols.iter().filter(covers).max_by_key(|c| c.rank()).map(|c| c.symbol.virt_addr);
        sized.or_else(|| {
            let last = symbols.iter().map(|c| c.symbol.virt_addr).filter(|start| *start <= address).max()?;
            symbols.iter().any(|c| c.symbol.virt_addr == last && c.symbol.size == 0).then_some(last)
        })
    }

    proptest::proptest! {
        #[test]
        fn the_stream_finds_what_a_search_finds(
            symbols in proptest::collection::vec((0..400_u64, 0..40_u64), 0..40),
            mut addresses in proptest::collection::vec(0..450_u64, 1..40),
        ) {
            addresses.sort_unstable();
            addresses.dedup();
            let symbols: Vec<Candidate> =
                symbols.iter().map(|(start, size)| candidate(*start, *size, elf::STT_FUNC, elf::STB_GLOBAL)).collect();
            let mut slots = vec![Slot::default(); addresses.len()];
            let wanted = Wanted::new(&addresses);
            for symbol in &symbols {
                note(&mut slots, &wanted, *symbol);
            }
            let (mut last, mut before) = (None, None);
            for (slot, address) in slots.iter().zip(&addresses) {
                last = last.max(slot.last_start);
                before = before.max(slot.unsized_.start());
                let found = slot.sized.start().or(before.filter(|start| Some(*start) == last));
                proptest::prop_assert_eq!(found, slow(&symbols, *address));
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn the_divisions_find_what_a_search_finds(
            mut addresses in proptest::collection::vec(proptest::prelude::any::<u64>(), 0..60),
            near in proptest::collection::vec(0..2_000_u64, 0..60),
            starts in proptest::collection::vec(proptest::prelude::any::<u64>(), 0..20),
        ) {
            let middle = addresses.first().copied().unwrap_or(1 << 40);
            addresses.extend(near.iter().map(|distance| middle.saturating_add(*distance)));
            addresses.sort_unstable();
            addresses.dedup();
            let wanted = Wanted::new(&addresses);
            let edges = addresses.iter().flat_map(|at| [at.saturating_sub(1), *at, at.saturating_add(1)]);
            for start in edges.chain(starts).chain([0, u64::MAX]) {
                let expected = addresses.partition_point(|address| *address < start);
                proptest::prop_assert_eq!(wanted.first_from(start), expected);
            }
        }
    }

    #[test]
    fn ranges_of_addresses_are_half_open() {
        let addresses = [9, 10, 19, 20];
        let mut slots = vec![Slot::default(); 4];
        note(&mut slots, &Wanted::new(&addresses), candidate(10, 10, elf::STT_FUNC, elf::STB_GLOBAL));
        let found: Vec<bool> = slots.iter().map(|slot| !slot.sized.candidates.is_empty()).collect();
        assert_eq!(found, [false, true, true, false]);
    }
}
