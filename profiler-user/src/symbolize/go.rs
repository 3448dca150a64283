//! Go's own table of functions and lines (`.gopclntab`), which stays when a Go program is stripped.
//!
//! In: an object and a sorted batch of addresses. Out: function, file and line of each address in Go code. The runtime
//! needs the table for its own stack traces, so every Go binary since 1.2 has one; the form of 1.16 and later is read
//! here. Inlined calls are not: their tree lies where only the runtime's module data leads.
//!
//! The form is defined by Go's `src/internal/abi/symtab.go`, `src/runtime/symtab.go` and `src/debug/gosym/pclntab.go`.

use std::ops::Range;
use std::sync::Arc;

use super::Names;
use super::dwarf::{Chain, DwarfFrame, FunctionName};
use crate::object::{Elf, SectionData, limits};

/// Magic numbers of the three forms.
const GO_1_16: u32 = 0xffff_fffa;
const GO_1_18: u32 = 0xffff_fff0;
const GO_1_20: u32 = 0xffff_fff1;

/// Steps through the tables of lines in one object. A function has some hundred, so this is for half a million addresses.
const STEPS: u64 = 50_000_000;

/// What one read from the file counts for in the search for names: a system call against a comparison.
const MISS_STEPS: u64 = 200;

/// Longest file name that is read.
const LONGEST_PATH_BYTES: usize = 4096;

/// Adds what the table knows to those of `chains` that are empty. The `addresses` are sorted.
pub(super) fn locate(elf: &Elf, addresses: &[u64], chains: &mut [Chain], names: &mut Names) {
    let Some(mut table) = Table::of(elf) else { return };
    let mut last: Option<Function> = None;
    for (address, chain) in addresses.iter().zip(chains).filter(|(_, chain)| chain.is_empty()) {
        let known = last.take().filter(|function| (function.start..function.end).contains(address));
        let Some(function) = known.or_else(|| table.function(*address, names)) else { continue };
        let (file, line) = table.position(&function, *address, names);
        chain.push(DwarfFrame { function: Some(FunctionName::Full(Arc::clone(&function.name))), file, line });
        last = Some(function);
    }
}

/// Where the Go code of an object is.
pub(crate) struct GoCode<T> {
    /// From the first function's start to the last one's end.
    pub(crate) code: Range<u64>,
    /// The functions that were asked for: what they were taken for, and addresses.
    pub(crate) functions: Vec<(T, Range<u64>)>,
}

/// Where Go code is, and the first `most` functions whose names `wanted` takes; none when the object is not Go's. Variants in the older calling
/// convention end in `.abi0`.
pub(crate) fn go_code<T>(elf: &Elf, most: usize, wanted: impl Fn(&[u8]) -> Option<T>) -> Option<GoCode<T>> {
    /// Longer than any name that is asked for.
    const NAME_BYTES: usize = 64;

    let table = Table::of(elf)?;
    let code = table.start(0)?..table.start(table.functions)?;
    let mut functions = Vec::new();
    let mut work = STEPS;
    for index in 0..table.functions {
        let misses = table.data.misses();
        // Damage ends the search; what was found stays.
        let Some(name) = table.name(index, NAME_BYTES) else { break };
        if let Some(found) = wanted(&name) {
            functions.push((found, table.start(index)?..table.start(index + 1)?));
            if functions.len() == most {
                break;
            }
        }
        let read = (table.data.misses() - misses) * MISS_STEPS;
        let Some(left) = work.checked_sub(1 + read) else { break };
        work = left;
    }
    Some(GoCode { code, functions })
}

/// The table: a header, and five parts that it points to.
struct Table<'a> {
    data: SectionData<'a>,
    /// Bytes of an address.
    pointer: u64,
    /// Bytes of the smallest instruction, the unit of all code offsets.
    quantum: u64,
    functions: u64,
    /// What function starts are relative to; zero where they are absolute.
    text_start: u64,
    /// True from 1.18: starts are 32-bit offsets and not addresses.
    relative: bool,
    names_at: u64,
    units_at: u64,
    files_at: u64,
    steps_at: u64,
    functions_at: u64,
    steps_left: u64,
}

/// One function.
struct Function {
    name: Arc<str>,
    start: u64,
    end: u64,
    /// Where the tables of file numbers and lines begin, and the unit whose files the numbers mean.
    file_steps: u64,
    line_steps: u64,
    unit: u64,
}

impl<'a> Table<'a> {
    /// An object's table; none when it has none of a known form.
    fn of(elf: &'a Elf) -> Option<Self> {
        let named = |name| elf.section(name).filter(|section| section.has_bytes());
        let section = named(".gopclntab").or_else(|| named(".data.rel.ro.gopclntab"))?;
        let text = elf.section(".text").map(|text| text.virt_addr);
        let data = SectionData::range(elf.source(), section.file_offset, section.size).ok()?;
        Self::open(data, text)
    }

    /// Reads the header. `text` is where the code section starts.
    fn open(data: SectionData<'a>, text: Option<u64>) -> Option<Self> {
        let mut table = Self {
            data,
            pointer: 8,
            quantum: 1,
            functions: 0,
            text_start: 0,
            relative: true,
            names_at: 0,
            units_at: 0,
            files_at: 0,
            steps_at: 0,
            functions_at: 0,
            steps_left: STEPS,
        };
        let magic = table.u32(0)?;
        let head = table.u32(4)?.to_le_bytes();
        (table.quantum, table.pointer) = (head[2].into(), head[3].into());
        let known = matches!(magic, GO_1_16 | GO_1_18 | GO_1_20);
        if !known || !matches!(table.quantum, 1 | 2 | 4) || !matches!(table.pointer, 4 | 8) {
            return None;
        }
        table.relative = magic != GO_1_16;
        let field = |table: &Self, index: u64| table.word(8 + index * table.pointer);
        table.functions = field(&table, 0)?;
        // The second field counts files. The third is where code starts; the older form does not have it.
        let first = if table.relative { 3 } else { 2 };
        if table.relative {
            table.text_start = field(&table, 2)?;
            // Newer linkers leave the place empty and let the runtime know it from elsewhere.
            if table.text_start == 0 {
                table.text_start = text?;
            }
        }
        table.names_at = field(&table, first)?;
        table.units_at = field(&table, first + 1)?;
        table.files_at = field(&table, first + 2)?;
        table.steps_at = field(&table, first + 3)?;
        table.functions_at = field(&table, first + 4)?;
        (table.functions > 0 && table.functions <= limits::SYMBOLS).then_some(table)
    }

    /// The function that holds an address, by binary search: entries are sorted, and one more entry ends the last.
    fn function(&self, address: u64, names: &mut Names) -> Option<Function> {
        let (mut low, mut high) = (0, self.functions);
        if address < self.start(0)? || address >= self.start(self.functions)? {
            return None;
        }
        while high - low > 1 {
            let middle = low.midpoint(high);
            if self.start(middle)? <= address { low = middle } else { high = middle }
        }
        let (start, end) = (self.start(low)?, self.start(low + 1)?);
        let name = self.name(low, limits::SYMBOL_NAME_BYTES)?;
        let field = |number| self.record_field(low, number);
        let (file_steps, line_steps) =
            (self.steps_at.checked_add(field(4)?)?, self.steps_at.checked_add(field(5)?)?);
        let unit = field(7)?;
        (!name.is_empty()).then(|| Function {
            name: names.text(&name),
            start,
            end,
            file_steps,
            line_steps,
            unit,
        })
    }

    /// A field of a function's record. After the start: name, size of arguments, deferred return, and the tables of stack
    /// sizes, files and lines.
    fn record_field(&self, index: u64, number: u64) -> Option<u64> {
        let record = self.functions_at.checked_add(self.entry_field(index, 1)?)?;
        let fields = record.checked_add(if self.relative { 4 } else { self.pointer })?;
        self.u32(fields.checked_add(number * 4)?).map(u64::from)
    }

    fn name(&self, index: u64, longest: usize) -> Option<Vec<u8>> {
        self.data.string_at(self.names_at.checked_add(self.record_field(index, 0)?)?, longest).ok()
    }

    fn position(
        &mut self,
        function: &Function,
        address: u64,
        names: &mut Names,
    ) -> (Option<Arc<str>>, Option<u32>) {
        let line = self.value_at(function.line_steps, function.start, address);
        let line = line.and_then(|line| u32::try_from(line).ok()).filter(|line| *line != 0);
        let file = self.value_at(function.file_steps, function.start, address);
        let file = file.and_then(|number| {
            let entry = function.unit.checked_add(u64::try_from(number).ok()?)?.checked_mul(4)?;
            let offset = self.u32(self.units_at.checked_add(entry)?)?;
            let name =
                self.data.string_at(self.files_at.checked_add(offset.into())?, LONGEST_PATH_BYTES).ok()?;
            Some(names.text(&name))
        });
        (file, line)
    }

    /// The value that a table of steps has for an address: pairs of a change of value and a length of code.
    fn value_at(&mut self, mut at: u64, start: u64, address: u64) -> Option<i32> {
        let (mut value, mut code) = (-1_i32, start);
        let mut first = true;
        loop {
            self.steps_left = self.steps_left.checked_sub(1)?;
            let change = self.varint(&mut at)?;
            if change == 0 && !first {
                return None;
            }
            first = false;
            // Zigzag: the lowest bit is the sign.
            let change = if change & 1 == 0 { (change >> 1) as i32 } else { !((change >> 1) as i32) };
            value = value.wrapping_add(change);
            code = code.checked_add(u64::from(self.varint(&mut at)?) * self.quantum)?;
            if address < code {
                return Some(value);
            }
        }
    }

    /// Where a function starts; the index after the last gives the end of all.
    fn start(&self, index: u64) -> Option<u64> {
        self.entry_field(index, 0)?.checked_add(if self.relative { self.text_start } else { 0 })
    }

    /// A field of the sorted list of functions: start and place of the record.
    fn entry_field(&self, index: u64, field: u64) -> Option<u64> {
        let size = if self.relative { 4 } else { self.pointer };
        let at = self.functions_at.checked_add((index * 2 + field) * size)?;
        if self.relative { self.u32(at).map(u64::from) } else { self.word(at) }
    }

    fn varint(&self, at: &mut u64) -> Option<u32> {
        let (mut value, mut shift) = (0_u32, 0);
        loop {
            let mut byte = [0];
            self.data.read_exact_at(*at, &mut byte).ok()?;
            *at += 1;
            value |= u32::from(byte[0] & 0x7f).checked_shl(shift)?;
            if byte[0] & 0x80 == 0 {
                return Some(value);
            }
            shift += 7;
        }
    }

    fn u32(&self, at: u64) -> Option<u32> {
        let mut bytes = [0; 4];
        self.data.read_exact_at(at, &mut bytes).ok()?;
        Some(u32::from_le_bytes(bytes))
    }

    /// A word of the size of an address.
    fn word(&self, at: u64) -> Option<u64> {
        if self.pointer == 4 {
            return self.u32(at).map(u64::from);
        }
        let mut bytes = [0; 8];
        self.data.read_exact_at(at, &mut bytes).ok()?;
        Some(u64::from_le_bytes(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A table of the form of Go 1.20 with two functions, `main.first` (16 bytes) and `main.second` (32 bytes).
    fn table() -> Vec<u8> {
        let words = |values: &[u64]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
        let halves =
            |values: &[u32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
        let names = b"main.first\0main.second\0".to_vec();
        let units = halves(&[0, 5]);
        let files = b"a.go\0b.go\0".to_vec();
        // Value from -1 by zigzag steps: file 0 all over; file 1 all over; lines 10 and 12, eight bytes each.
        let steps = vec![0, 2, 16, 0, 4, 32, 0, 22, 8, 4, 8, 0];
        let names_at = 8 + 8 * 8;
        let units_at = names_at + names.len();
        let files_at = units_at + units.len();
        let steps_at = files_at + files.len();
        let functions_at = steps_at + steps.len();
        let mut list = halves(&[0, 20, 16, 60, 48]);
        // entry, name, args, deferreturn, pcsp, pcfile, pcln, npcdata, unit, line
        list.extend(halves(&[0, 0, 0, 0, 0, 1, 7, 0, 0, 0]));
        list.extend(halves(&[16, 11, 0, 0, 0, 4, 7, 0, 0, 0]));
        let mut out = halves(&[GO_1_20]);
        out.extend([0, 0, 1, 8]);
        let at = |place: usize| place as u64;
        out.extend(words(&[
            2,
            2,
            0x1000,
            at(names_at),
            at(units_at),
            at(files_at),
            at(steps_at),
            at(functions_at),
        ]));
        for part in [names, units, files, steps, list] {
            out.extend(part);
        }
        out
    }

    fn look_up(bytes: Vec<u8>, address: u64) -> Option<String> {
        let (mut table, mut names) = (Table::open(SectionData::memory(bytes), None)?, Names::default());
        let function = table.function(address, &mut names)?;
        let (file, line) = table.position(&function, address, &mut names);
        Some(format!("{} {}:{}", function.name, file.as_deref().unwrap_or("?"), line.unwrap_or(0)))
    }

    #[test]
    fn functions_files_and_lines_are_found() {
        let at = |address| look_up(table(), address);
        assert_eq!(at(0xfff), None);
        assert_eq!(at(0x1000).unwrap(), "main.first a.go:10");
        assert_eq!(at(0x100f).unwrap(), "main.first a.go:12");
        assert_eq!(at(0x1010).unwrap(), "main.second b.go:10");
        assert_eq!(at(0x102f).unwrap(), "main.second b.go:0");
        assert_eq!(at(0x1030), None);
    }

    proptest::proptest! {
        #[test]
        fn damaged_tables_are_survived(
            changes in proptest::collection::vec((8..200_usize, proptest::num::u8::ANY), 0..12),
            cut in 0..60_usize,
        ) {
            let mut bytes = table();
            bytes.truncate(bytes.len() - cut);
            for (at, byte) in changes {
                if let Some(place) = bytes.get_mut(at) {
                    *place = byte;
                }
            }
            for address in [0, 0x1000, 0x1012, 0x102f, u64::MAX] {
                let _ = look_up(bytes.clone(), address);
            }
        }
    }
}
