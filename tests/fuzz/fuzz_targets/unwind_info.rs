//! The unwind information of a hostile object file: its index, its pages, and what is kept of them.
//!
//! In: the bytes of an ELF file. Nothing may panic, no input may take more time or memory than the limits allow, and
//! every table must be one that the kernel side can search.

#![no_main]

use libfuzzer_sys::fuzz_target;
use profiler_user::object::Elf;
use profiler_user::unwind_info::{UnwindInfo, describe};

/// Pages looked at: those of four megabytes.
const PAGES: u64 = 64;

fuzz_target!(|bytes: &[u8]| {
    let Ok(elf) = Elf::from_bytes(bytes.to_vec()) else { return };
    let info = UnwindInfo::open(elf, |elf| Elf::from_bytes(elf.source().read_at(0, elf.source().len()).ok()?).ok());
    let _ = info.code_pages();
    for number in 0..PAGES.min(bytes.len() as u64 / 65_536 + 1) {
        let Ok(table) = info.page(number) else { continue };
        assert_eq!(table.rows[0].offset(), 0);
        assert!(table.rows.is_sorted_by(|a, b| a.offset() < b.offset() && a.rule() != b.rule()));
        assert!(table.rows.iter().all(|row| usize::from(row.rule()) < table.rules.len()));
        for rule in &table.rules {
            assert!(rule.cfa < 32 && rule.register < 32 && rule.ra < 4 && rule.fp < 4);
            if let Some(arch) = info.arch() {
                let _ = describe(rule, arch);
            }
        }
    }
});
