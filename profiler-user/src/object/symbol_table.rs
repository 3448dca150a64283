//! Symbol tables, streamed: `.symtab`, and the dynamic one by section or, without sections, by `PT_DYNAMIC`.
//!
//! In: an [`Elf`]. Out: its raw symbols one after the other, and their names on demand. A table is never held in
//! memory as a whole: a browser's has a million entries and thirty megabytes of names, of which a profile wants a
//! few hundred. Which symbol answers for an address is decided elsewhere.

use std::ops::ControlFlow;

use object::elf::{self, Sym32, Sym64};
use object::read::elf::Sym;
use object::{LittleEndian as LE, pod};

use super::dynamic::Dynamic;
use super::{Elf, ObjectError, Result, SectionData, limits};

/// Symbols read at a time.
const BATCH: u64 = 4096;

/// One symbol as the table has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Symbol {
    /// Offset of the name in the table's strings.
    pub name: u32,
    /// Address in the object's own address space (`st_value`).
    pub virt_addr: u64,
    /// Bytes; zero where the producer does not know, as for most assembly.
    pub size: u64,
    /// Function, data, section, …
    pub kind: elf::SymbolType,
    /// Local, global or weak.
    pub bind: elf::SymbolBind,
    /// Index of the section that it lies in, or a special one (`SHN_UNDEF`, `SHN_ABS`).
    pub section: elf::SymbolSection,
}

/// Where one symbol table and its strings lie in a file.
#[derive(Debug)]
pub struct SymbolTable<'a> {
    elf: &'a Elf,
    file_offset: u64,
    count: u64,
    strings: SectionData<'a>,
}

impl<'a> SymbolTable<'a> {
    /// The full table (`.symtab`), which stripping removes.
    pub fn full(elf: &'a Elf) -> Option<Self> {
        Self::of_kind(elf, elf::SHT_SYMTAB)
    }

    /// The dynamic table: what the object exports and imports.
    pub fn dynamic(elf: &'a Elf) -> Option<Self> {
        Self::of_kind(elf, elf::SHT_DYNSYM).or_else(|| {
            let dynamic = Dynamic::of(elf)?;
            let file_offset = elf.file_offset(dynamic.symbols?)?;
            let (strings, len) = dynamic.strings?;
            let strings = SectionData::range(elf.source(), elf.file_offset(strings)?, len).ok()?;
            let count = dynamic.symbol_count(elf)?;
            Some(Self { elf, file_offset, count, strings })
        })
    }

    fn of_kind(elf: &'a Elf, kind: elf::SectionType) -> Option<Self> {
        let section = elf.sections().iter().find(|section| section.kind == kind)?;
        let strings = elf.sections().get(section.link as usize).filter(|strings| strings.has_bytes())?;
        let strings = SectionData::range(elf.source(), strings.file_offset, strings.size).ok()?;
        let count = section.size / entry_size(elf);
        Some(Self { elf, file_offset: section.file_offset, count, strings })
    }

    /// Entries, the empty first one included.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The sections that the symbols' indexes mean.
    pub fn elf(&self) -> &'a Elf {
        self.elf
    }

    /// Calls `each` with every symbol and its index, in table order, until it breaks.
    ///
    /// # Errors
    /// When the table lies outside of the file, or is longer than the limit; symbols before the limit were seen.
    pub fn for_each(&self, mut each: impl FnMut(u32, Symbol) -> ControlFlow<()>) -> Result<()> {
        let mut at = 0;
        while at < self.count {
            if at >= limits::SYMBOLS {
                return Err(ObjectError::Limit("symbols"));
            }
            let batch = (self.count - at).min(BATCH);
            for (index, symbol) in (at as u32..).zip(self.read(at, batch)?) {
                if each(index, symbol).is_break() {
                    return Ok(());
                }
            }
            at += batch;
        }
        Ok(())
    }

    /// The symbol at an index.
    ///
    /// # Errors
    /// When there is none.
    pub fn get(&self, index: u32) -> Result<Symbol> {
        if u64::from(index) >= self.count {
            return Err(ObjectError::Damaged("a symbol index"));
        }
        self.read(index.into(), 1)?.first().copied().ok_or(ObjectError::Damaged("a symbol index"))
    }

    /// A symbol's name, raw.
    ///
    /// # Errors
    /// When it lies outside of the string table.
    pub fn name(&self, symbol: &Symbol) -> Result<Vec<u8>> {
        self.strings.string_at(symbol.name.into(), limits::SYMBOL_NAME_BYTES)
    }

    /// How often the file had to be read for names, for callers that limit work.
    pub fn name_misses(&self) -> u64 {
        self.strings.misses()
    }

    fn read(&self, first: u64, count: u64) -> Result<Vec<Symbol>> {
        let size = entry_size(self.elf);
        let bytes = self.elf.source().read_at(self.file_offset.saturating_add(first * size), count * size)?;
        if self.elf.is_64() { parse::<Sym64<LE>>(&bytes) } else { parse::<Sym32<LE>>(&bytes) }
    }
}

fn entry_size(elf: &Elf) -> u64 {
    (if elf.is_64() { size_of::<Sym64<LE>>() } else { size_of::<Sym32<LE>>() }) as u64
}

fn parse<S: Sym<Endian = LE>>(bytes: &[u8]) -> Result<Vec<Symbol>> {
    let raw = pod::slice_from_all_bytes::<S>(bytes).map_err(|()| ObjectError::Damaged("a symbol table"))?;
    let symbol = |raw: &S| Symbol {
        name: raw.st_name(LE),
        virt_addr: raw.st_value(LE).into(),
        size: raw.st_size(LE).into(),
        kind: raw.st_type(),
        bind: raw.st_bind(),
        section: raw.st_shndx(LE),
    };
    Ok(raw.iter().map(symbol).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vDSO exports a handful of functions and has no other table.
    fn names(elf: &Elf) -> Vec<String> {
        let table = SymbolTable::dynamic(elf).unwrap();
        let mut names = Vec::new();
        table
            .for_each(|_, symbol| {
                names.push(String::from_utf8(table.name(&symbol).unwrap()).unwrap());
                ControlFlow::Continue(())
            })
            .unwrap();
        names
    }

    #[test]
    fn the_dynamic_table_is_the_same_with_and_without_section_headers() {
        let image = crate::object::vdso_image().unwrap();
        let mut bare = image.clone();
        bare[0x28..0x30].fill(0);
        let (whole, bare) = (Elf::from_bytes(image).unwrap(), Elf::from_bytes(bare).unwrap());
        assert!(SymbolTable::full(&whole).is_none());
        assert!(bare.sections().is_empty());
        assert!(names(&whole).iter().any(|name| name.contains("clock_gettime")));
        assert_eq!(names(&whole), names(&bare));
    }
}
