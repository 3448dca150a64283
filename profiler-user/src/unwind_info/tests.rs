use std::fs::File;
use std::path::PathBuf;

use profiler_common::unwind::{
    AT_FP, CFA_DEREF, CFA_FP, CFA_NONE, CFA_PLT, CFA_REGISTER, CFA_SIGNAL, CFA_SP, IN_REGISTER, SAME, SAVED,
    TEXT_PAGE_BITS, TEXT_PAGE_BYTES,
};

use super::*;
use crate::object::vdso_image;

fn open(elf: Elf) -> UnwindInfo {
    UnwindInfo::open(elf, |_| None)
}

fn own() -> Elf {
    Elf::open(File::open("/proc/self/exe").unwrap()).unwrap()
}

/// Checks what a table promises.
fn check(table: &PageTable) {
    assert_eq!(table.rows[0].offset(), 0);
    assert!(table.rows.windows(2).all(|pair| pair[0].offset() < pair[1].offset()));
    assert!(table.rows.windows(2).all(|pair| pair[0].rule() != pair[1].rule()));
    assert!(table.rows.iter().all(|row| usize::from(row.rule()) < table.rules.len()));
    let distinct: std::collections::BTreeSet<_> = table.rules.iter().collect();
    assert_eq!(distinct.len(), table.rules.len());
}

/// A small ELF file of one segment: code at 0x1000, `.eh_frame` with these functions (start, length, instructions) at
/// 0x2000, and the linker's table at 0x3000 if wanted. Section headers are at the end.
struct Image {
    machine: elf::Machine,
    augmentation: &'static str,
    return_register: u8,
    initial: Vec<u8>,
    functions: Vec<(u32, u32, Vec<u8>)>,
    has_table: bool,
    code: Vec<u8>,
}

const CODE: u64 = 0x1000;
const FRAMES: u64 = 0x2000;
const TABLE: u64 = 0x3000;

/// CFA = rsp + 8, return address at CFA - 8.
const X86_INITIAL: [u8; 5] = [0x0c, 7, 8, 0x90, 1];

impl Image {
    fn x86(functions: &[(u32, u32, &[u8])]) -> Self {
        Self {
            machine: elf::EM_X86_64,
            augmentation: "zR",
            return_register: 16,
            initial: X86_INITIAL.to_vec(),
            functions: functions.iter().map(|(start, len, code)| (*start, *len, code.to_vec())).collect(),
            has_table: true,
            code: Vec::new(),
        }
    }

    fn arm(functions: &[(u32, u32, &[u8])]) -> Self {
        Self {
            machine: elf::EM_AARCH64,
            return_register: 30,
            initial: vec![0x0c, 31, 0],
            ..Self::x86(functions)
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut out = vec![0; TABLE as usize];
        out[CODE as usize..][..self.code.len()].copy_from_slice(&self.code);
        let mut frames = Vec::new();
        let entry = |frames: &mut Vec<u8>, mut body: Vec<u8>| {
            body.resize(body.len().next_multiple_of(4), 0);
            frames.extend((body.len() as u32).to_le_bytes());
            frames.extend(body);
        };
        // Version 1, code alignment 1, data alignment -8; augmentation data: pointers are pcrel and 32 bits long.
        let mut cie = vec![0, 0, 0, 0, 1];
        cie.extend(self.augmentation.as_bytes());
        cie.extend([0, 1, 0x78, self.return_register, 1, 0x1b]);
        cie.extend(&self.initial);
        entry(&mut frames, cie);
        let mut table: Vec<u8> = vec![1, 0x1b, 0x03, 0x3b];
        table.extend((FRAMES as i32 - (TABLE as i32 + 4)).to_le_bytes());
        table.extend((self.functions.len() as u32).to_le_bytes());
        for (start, len, instructions) in &self.functions {
            let place = frames.len() as u32;
            let mut fde = (place + 4).to_le_bytes().to_vec();
            fde.extend((*start as i32 - (FRAMES as i32 + place as i32 + 8)).to_le_bytes());
            fde.extend(len.to_le_bytes());
            fde.push(0);
            fde.extend(instructions);
            entry(&mut frames, fde);
            table.extend((*start as i32 - TABLE as i32).to_le_bytes());
            table.extend((FRAMES as i32 + place as i32 - TABLE as i32).to_le_bytes());
        }
        frames.extend([0; 4]);
        out[FRAMES as usize..][..frames.len()].copy_from_slice(&frames);
        out.extend(&table);
        let names_at = out.len();
        out.extend(b"\0.eh_frame\0.shstrtab\0");
        let sections_at = out.len() as u64;
        let section = |name: u32, kind: u32, address: u64, at: u64, size: usize| {
            let mut header = [name, kind].map(u32::to_le_bytes).concat();
            header.extend([0, address, at, size as u64, 0, 1, 0].iter().flat_map(|word| word.to_le_bytes()));
            header
        };
        out.extend(section(0, 0, 0, 0, 0));
        out.extend(section(1, 1, FRAMES, FRAMES, frames.len()));
        out.extend(section(11, 3, 0, names_at as u64, 21));

        let mut head = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let half = |value: u16| value.to_le_bytes();
        head.extend([half(3), half(self.machine.0)].concat());
        head.extend(1_u32.to_le_bytes());
        head.extend([CODE, 64, sections_at].iter().flat_map(|word| word.to_le_bytes()));
        head.extend(0_u32.to_le_bytes());
        let segments = if self.has_table { 2 } else { 1 };
        head.extend([64, 56, segments, 64, 3, 2].map(half).concat());
        let segment = |kind: u32, flags: u32, at: u64, size: u64| {
            let mut header = [kind, flags].map(u32::to_le_bytes).concat();
            header.extend([at, at, at, size, size, 0x1000].iter().flat_map(|word| word.to_le_bytes()));
            header
        };
        head.extend(segment(1, 5, 0, sections_at));
        head.extend(segment(0x6474_e550, 4, TABLE, table.len() as u64));
        out[..head.len()].copy_from_slice(&head);
        out
    }

    fn info(&self) -> UnwindInfo {
        open(Elf::from_bytes(self.bytes()).unwrap())
    }

    /// Rows of the first page as (offset, rule).
    fn rows(&self) -> Vec<(u16, Rule)> {
        let table = self.info().page(0).unwrap();
        check(&table);
        table.rows.iter().map(|row| (row.offset(), table.rules[usize::from(row.rule())])).collect()
    }
}

/// CFA = rsp + `cfa`, return address below it.
fn sp(cfa: i32) -> Rule {
    Rule { cfa_offset: cfa, ra_offset: -1, ..Rule::of(CFA_SP) }
}

#[test]
fn an_ordinary_function_has_a_row_for_each_change() {
    // push rbp; mov rsp, rbp; push rbx; ...; ret
    let code = [0x41, 0x0e, 16, 0x86, 2, 0x43, 0x0d, 6, 0x41, 0x83, 3, 0x50, 0x0c, 7, 8];
    let mut image = Image::x86(&[(0x1000, 0x20, &code), (0x1040, 0x10, &[])]);
    let saved = Rule { fp: SAVED, fp_offset: -2, ..sp(16) };
    let framed = Rule { cfa: CFA_FP, ..saved };
    let after = Rule { rbx_offset: -3, ..framed };
    let restored = Rule { cfa: CFA_SP, cfa_offset: 8, ..after };
    let rows = [
        (0, Rule::NONE),
        (0x1000, sp(8)),
        (0x1001, saved),
        (0x1004, framed),
        (0x1005, after),
        (0x1015, restored),
        (0x1020, Rule::NONE),
        (0x1040, sp(8)),
        (0x1050, Rule::NONE),
    ];
    assert_eq!(image.rows(), rows);
    assert_eq!(image.info().functions(), 2);
    // The same by a pass over the section.
    image.has_table = false;
    assert_eq!(image.rows(), rows);
    assert_eq!(image.info().source_name(), ".eh_frame");
}

#[test]
fn section_headers_are_not_needed() {
    let image = Image::x86(&[(0x1000, 0x20, &[])]);
    let mut bytes = image.bytes();
    bytes[0x28..0x30].fill(0);
    let table = open(Elf::from_bytes(bytes).unwrap()).page(0).unwrap();
    assert_eq!(table.rule_at(0x1010), sp(8));
}

#[test]
fn a_table_that_is_not_sorted_or_not_true_is_not_used() {
    let image = Image::x86(&[(0x1040, 0x10, &[]), (0x1000, 0x20, &[0x0e, 24])]);
    let rows =
        [(0, Rule::NONE), (0x1000, sp(24)), (0x1020, Rule::NONE), (0x1040, sp(8)), (0x1050, Rule::NONE)];
    assert_eq!(image.rows(), rows);
    let mut bytes = Image::x86(&[(0x1000, 0x10, &[]), (0x1040, 0x10, &[])]).bytes();
    bytes[TABLE as usize + 16] ^= 4;
    let table = open(Elf::from_bytes(bytes).unwrap()).page(0).unwrap();
    assert_eq!([0x1000, 0x1040].map(|at| table.rule_at(at)), [sp(8); 2]);
}

#[test]
fn a_function_ends_where_the_next_one_starts() {
    let image = Image::x86(&[(0x1000, 0x100, &[]), (0x1020, 0x10, &[0x0e, 16]), (0x1020, 0x20, &[0x0e, 24])]);
    assert_eq!(
        image.rows(),
        [(0, Rule::NONE), (0x1000, sp(8)), (0x1020, sp(16)), (0x1030, sp(24)), (0x1040, Rule::NONE)]
    );
}

#[test]
fn a_function_without_code_does_not_hide_the_one_behind_it() {
    // lld's table names the first of those that start together.
    let mut image = Image::x86(&[(0x1000, 0, &[]), (0x1000, 0x10, &[0x0e, 16])]);
    let rows = [(0, Rule::NONE), (0x1000, sp(16)), (0x1010, Rule::NONE)];
    assert_eq!(image.rows(), rows);
    let mut bytes = image.bytes();
    bytes[TABLE as usize + 8] = 1;
    assert_eq!(open(Elf::from_bytes(bytes).unwrap()).page(0).unwrap().rule_at(0x1008), sp(16));
    image.has_table = false;
    assert_eq!(image.rows(), rows);
}

#[test]
fn realigned_stacks_and_stubs_are_known_expressions() {
    // lea 8(%rsp), %r10; …; push %rbp; mov %rsp, %rbp; push %r10
    let code = [
        0x45, 0x0c, 10, 0, 0x44, 0x10, 6, 2, 0x76, 0, 0x43, 0x0f, 3, 0x76, 0x78,
        0x06, // and what no rule says
        0x41, 0x0f, 4, 0x76, 0x78, 0x06, 0x06,
    ];
    let plt = [0x0f, 11, 0x77, 8, 0x80, 0, 0x3f, 0x1a, 0x3b, 0x2a, 0x33, 0x24, 0x22];
    let image = Image::x86(&[(0x1000, 0x20, &code), (0x1020, 0x10, &plt)]);
    let argument = Rule { register: 10, ra_offset: -1, ..Rule::of(CFA_REGISTER) };
    let saved = Rule { fp: AT_FP, ..argument };
    let found = Rule { fp: AT_FP, cfa_offset: -8, ra_offset: -1, ..Rule::of(CFA_FP | CFA_DEREF) };
    let stub = Rule { cfa_add: 11, ra_offset: -1, ..Rule::of(CFA_PLT) };
    assert_eq!(
        image.rows(),
        [
            (0, Rule::NONE),
            (0x1000, sp(8)),
            (0x1005, argument),
            (0x1009, saved),
            (0x100c, found),
            (0x100d, Rule::UNSUPPORTED),
            (0x1020, stub),
            (0x1030, Rule::NONE)
        ]
    );
    assert_eq!(image.info().page(0).unwrap().unsupported, 1);
}

#[test]
fn the_end_of_the_stack_and_odd_return_addresses() {
    // undefined; in rdi; unchanged, which cannot be; 4 bytes below the frame address (by an expression); saved at rsp
    let image = Image::x86(&[
        (0x1000, 0x10, &[0x07, 16]),
        (0x1010, 0x10, &[0x09, 16, 5, 0x0e, 0]),
        (0x1020, 0x10, &[0x08, 16]),
        (0x1030, 0x10, &[0x10, 16, 2, 0x77, 4]),
        (0x1040, 0x10, &[0x10, 16, 2, 0x77, 0x10, 0x0e, 32]),
    ]);
    let moved = Rule { ra: IN_REGISTER, ra_offset: 5, ..Rule::of(CFA_SP) };
    let saved = Rule { cfa_offset: 32, ra_offset: -2, ..Rule::of(CFA_SP) };
    assert_eq!(
        image.rows()[1..6],
        [
            (0x1000, Rule::END),
            (0x1010, moved),
            (0x1020, Rule::UNSUPPORTED),
            (0x1040, saved),
            (0x1050, Rule::NONE)
        ]
    );
}

#[test]
fn signal_frames_by_description_and_by_code() {
    let mut image = Image::x86(&[(0x1010, 0x10, &[0x0f, 4, 0x77, 0xa0, 1, 6, 0x10, 16, 3, 0x77, 0xb8, 1])]);
    image.augmentation = "zRS";
    image.code = [&[0x90][..], &[0x48, 0xc7, 0xc0, 15, 0, 0, 0, 0x0f, 5]].concat();
    let rows = image.rows();
    let signal = |saved| Rule { cfa_offset: saved, ..Rule::of(CFA_SIGNAL) };
    assert_eq!(
        rows[..5],
        [
            (0, Rule::NONE),
            (0x1000, signal(40)),
            (0x100a, Rule::NONE),
            (0x1010, signal(56)),
            (0x1020, Rule::NONE)
        ]
    );
    let mut image = Image::arm(&[(0x1000, 0x20, &[])]);
    image.code = vec![0; 4];
    image.code.extend([0x1f, 0x20, 3, 0xd5, 0x68, 0x11, 0x80, 0xd2, 1, 0, 0, 0xd4]);
    let leaf = Rule { ra: SAME, ..Rule::of(CFA_SP) };
    assert_eq!(image.rows()[1..4], [(0x1000, leaf), (0x1004, signal(312)), (0x1010, leaf)]);
}

#[test]
fn aarch64_with_signed_return_addresses() {
    // paciasp; stp x29, x30, [sp, #-32]!; mov x29, sp
    let code = [0x44, 0x2d, 0x44, 0x0e, 32, 0x9d, 4, 0x9e, 3, 0x44, 0x0d, 29];
    let image = Image::arm(&[(0x1000, 0x20, &code)]);
    let leaf = Rule { ra: SAME, ..Rule::of(CFA_SP) };
    let saved = Rule { cfa_offset: 32, ra_offset: -3, fp: SAVED, fp_offset: -4, ..Rule::of(CFA_SP) };
    assert_eq!(
        image.rows()[1..],
        [(0x1000, leaf), (0x1008, saved), (0x100c, Rule { cfa: CFA_FP, ..saved }), (0x1020, Rule::NONE)]
    );
}

#[test]
fn processors_that_we_do_not_unwind_have_nothing() {
    let mut image = Image::x86(&[(0x1000, 0x20, &[])]);
    image.machine = elf::EM_RISCV;
    let info = image.info();
    assert!(info.page(0).unwrap().is_empty() && info.arch().is_none());
    assert_eq!((info.source_name(), info.functions()), ("none", 0));
    assert!(Image::x86(&[]).info().page(u64::MAX).unwrap().is_empty());
}

#[test]
fn our_own_code_is_known_nearly_everywhere() {
    let elf = own();
    let text = elf.section(".text").unwrap().clone();
    let info = open(elf);
    assert!(
        info.source_name().starts_with(".eh_frame") && info.build_id() == BuildId::of(info.elf()).as_ref()
    );
    let (mut known, mut all, mut unsupported) = (0, 0, 0);
    for number in text.file_offset >> TEXT_PAGE_BITS..(text.file_offset + text.size) >> TEXT_PAGE_BITS {
        let table = info.page(number).unwrap();
        check(&table);
        unsupported += table.unsupported;
        for offset in (0..TEXT_PAGE_BYTES).step_by(64) {
            all += 1;
            known += u64::from(table.rule_at(offset as u16).cfa != CFA_NONE);
        }
    }
    assert!(all > 1000 && known * 100 > all * 98, "{known} of {all}");
    // Cryptography that is written in assembly has rows of its own kind.
    assert!(unsupported < 10, "{unsupported} rows are not understood");
}

/// Libraries and programs of this system that a test can look at.
fn system_files() -> Vec<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let mapped =
        maps.lines().filter_map(|line| line.split_whitespace().nth(5)).filter(|path| path.contains(".so"));
    let mut files: Vec<PathBuf> = mapped.map(PathBuf::from).collect();
    files.extend(["/bin/sh", "/usr/bin/env"].map(PathBuf::from));
    files.sort();
    files.dedup();
    files
}

#[test]
fn the_linkers_table_and_a_pass_over_the_section_find_the_same() {
    for path in system_files() {
        let Ok(elf) = Elf::open(File::open(&path).unwrap()) else { continue };
        let by_table = open(elf);
        let mut by_pass = open(Elf::open(File::open(&path).unwrap()).unwrap());
        by_pass.eh_frame = by_pass.arch.and_then(|arch| Frames::scanned_eh_frame(&by_pass.elf, arch));
        for number in by_table.code_pages() {
            let table = by_table.page(number).unwrap();
            check(&table);
            assert_eq!(table, by_pass.page(number).unwrap(), "{} page {number}", path.display());
        }
    }
}

proptest::proptest! {
    #[test]
    fn damaged_files_end_up_as_valid_tables(
        is_vdso in proptest::bool::ANY,
        changes in proptest::collection::vec((proptest::num::u16::ANY, proptest::num::u8::ANY), 1..24),
        cut in 0..4096_usize,
    ) {
        let frame = [0x41, 0x0e, 16, 0x86, 2, 0x43, 0x0d, 6, 0x0a, 0x41, 0x0b, 0x41, 0x0f, 3, 0x76, 0x78, 0x06];
        let image = Image::x86(&[(0x1000, 0x20, &frame), (0x1040, 0x10, &[]), (0x1080, 0x10, &frame)]);
        let mut bytes = if is_vdso { vdso_image().unwrap_or_default() } else { image.bytes() };
        bytes.truncate(bytes.len().saturating_sub(cut));
        // Half of the changes go where the information is.
        let frames = elf_frames(&bytes).unwrap_or(0..bytes.len());
        for (number, (at, new)) in changes.into_iter().enumerate() {
            let range = if number % 2 == 0 { frames.clone() } else { 0..bytes.len() };
            let place = range.start + usize::from(at) % range.len().max(1);
            if let Some(byte) = bytes.get_mut(place) {
                *byte = new;
            }
        }
        if let Ok(elf) = Elf::from_bytes(bytes) {
            let info = open(elf);
            for number in 0..3 {
                if let Ok(table) = info.page(number) {
                    check(&table);
                }
            }
        }
    }
}

fn elf_frames(bytes: &[u8]) -> Option<std::ops::Range<usize>> {
    let elf = Elf::from_bytes(bytes.to_vec()).ok()?;
    let section = elf.section(".eh_frame")?;
    Some(section.file_offset as usize..(section.file_offset + section.size) as usize)
}
