//! Our rules against the unwind information itself, for every row of a file.
//!
//! In: an object. Out: how many rows say the same, cannot be said, or differ. Independent of how pages are built: the
//! section is read as a whole and front to back, its expressions are evaluated, and a step by our rule and a step by
//! gimli's row are taken on the same made-up registers and memory.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use gimli::{
    BaseAddresses, CfaRule, CieOrFde, CommonInformationEntry, DebugFrame, EhFrame, EndianSlice, Evaluation,
    EvaluationResult, Expression, LittleEndian, Location, Register, RegisterRule, UnwindContext,
    UnwindExpression, UnwindSection, UnwindTableRow, Value, Vendor,
};
use profiler_common::stop::StopReason;
use profiler_common::unwind::{
    Arch, CFA_END, CFA_NONE, CFA_SIGNAL, CFA_SWITCH, CFA_UNSUPPORTED, Memory, Registers, Rule, SAVED, Step,
    TEXT_PAGE_BITS, TEXT_PAGE_BYTES, step,
};

use super::{PageTable, UnwindInfo};
use crate::object::{Elf, ObjectError, Section, SectionData};

/// Differences that are described; the others are only counted.
const DESCRIBED: usize = 20;

/// Largest section that is read: ten times that of libLLVM.
const SECTION_BYTES: u64 = 256 << 20;

/// What a comparison came to. A row is looked at where it begins and in its middle; rows count once.
#[derive(Debug, Default)]
pub struct Report {
    /// Rows that were compared.
    pub rows: u64,
    /// Rows whose rule leads to the same caller.
    pub equal: u64,
    /// Rows that no rule can say, by kind.
    pub unsupported: BTreeMap<String, u64>,
    /// Bytes of code that all rows, and those that no rule can say, hold for.
    pub bytes: (u64, u64),
    /// Rows that were replaced on purpose: Go's runtime, trampolines.
    pub replaced: u64,
    /// Rows that lead elsewhere.
    pub different: u64,
    /// The first of those, in words.
    pub descriptions: Vec<String>,
    /// Pages that were over a limit.
    pub refused: u64,
    /// Pages that were built, the time that took, and the longest for one.
    pub pages: (u64, Duration, Duration),
    /// Distinct rules, and in how many pages each is.
    pub rules: BTreeMap<Rule, u64>,
}

impl Report {
    /// Rows that no rule can say.
    pub fn unsupported_rows(&self) -> u64 {
        self.unsupported.values().sum()
    }

    /// Adds the counts of another file.
    pub fn add(&mut self, other: Self) {
        self.rows += other.rows;
        self.equal += other.equal;
        self.replaced += other.replaced;
        self.different += other.different;
        self.refused += other.refused;
        let (pages, building, longest) = other.pages;
        self.pages = (self.pages.0 + pages, self.pages.1 + building, self.pages.2.max(longest));
        self.bytes = (self.bytes.0 + other.bytes.0, self.bytes.1 + other.bytes.1);
        for (kind, count) in other.unsupported {
            *self.unsupported.entry(kind).or_default() += count;
        }
    }

    fn differs(&mut self, text: String) {
        self.different += 1;
        if self.descriptions.len() < DESCRIBED {
            self.descriptions.push(text);
        }
    }
}

type Slice<'a> = EndianSlice<'a, LittleEndian>;

/// Compares all rows of an object.
///
/// # Errors
/// When the section cannot be read.
pub fn check(info: &UnwindInfo) -> Result<Report, ObjectError> {
    let mut checker = Checker { info, pages: HashMap::new(), covered: Vec::new(), report: Report::default() };
    let Some(arch) = info.arch() else { return Ok(checker.report) };
    let vendor = match arch {
        Arch::X86_64 => Vendor::Default,
        Arch::Aarch64 => Vendor::AArch64,
    };
    if info.eh_frame.is_some()
        && let Some(section) = info.elf.section(".eh_frame")
    {
        let bytes = whole(&info.elf, section)?;
        let mut frames = EhFrame::new(&bytes, LittleEndian);
        frames.set_vendor(vendor);
        frames.set_address_size(8);
        checker.section(arch, &frames, &BaseAddresses::default().set_eh_frame(section.virt_addr));
    }
    let debug = info.debug.as_ref().unwrap_or(&info.elf);
    if info.debug_frame.is_some()
        && let Some(section) = debug.section(".debug_frame").or_else(|| debug.section(".zdebug_frame"))
    {
        let bytes = whole(debug, section)?;
        let mut frames = DebugFrame::new(&bytes, LittleEndian);
        frames.set_vendor(vendor);
        frames.set_address_size(8);
        checker.section(arch, &frames, &BaseAddresses::default());
    }
    checker.gaps();
    for table in checker.pages.into_values().flatten() {
        for rule in table.rules {
            *checker.report.rules.entry(rule).or_default() += 1;
        }
    }
    Ok(checker.report)
}

fn whole(elf: &Elf, section: &Section) -> Result<Vec<u8>, ObjectError> {
    let data = SectionData::open(elf, section, &mut { SECTION_BYTES })?;
    if data.len() > SECTION_BYTES {
        return Err(ObjectError::Limit("a section to check"));
    }
    let mut bytes = vec![0; data.len() as usize];
    data.read_exact_at(0, &mut bytes)?;
    Ok(bytes)
}

struct Checker<'a> {
    info: &'a UnwindInfo,
    pages: HashMap<u64, Option<PageTable>>,
    /// Addresses with information.
    covered: Vec<(u64, u64)>,
    report: Report,
}

impl Checker<'_> {
    fn section<'s, S: UnwindSection<Slice<'s>>>(&mut self, arch: Arch, section: &S, bases: &BaseAddresses) {
        let (mut context, mut seen) = (UnwindContext::new(), Vec::new());
        let mut entries = section.entries(bases);
        while let Ok(Some(entry)) = entries.next() {
            let CieOrFde::Fde(partial) = entry else { continue };
            let Ok(fde) = partial.parse(S::cie_from_offset) else { continue };
            // `.debug_frame` speaks where `.eh_frame` is silent.
            let is_spoken_for =
                self.covered.binary_search_by_key(&fde.initial_address(), |range| range.0).is_ok();
            if fde.len() == 0 || is_spoken_for || self.info.elf.file_offset(fde.initial_address()).is_none() {
                continue;
            }
            seen.push((fde.initial_address(), fde.end_address()));
            let Ok(mut table) = fde.rows(section, bases, &mut context) else { continue };
            while let Ok(Some(row)) = table.next_row() {
                let reference = Reference { arch, section, cie: fde.cie() };
                self.row(&reference, row, fde.is_signal_trampoline());
            }
        }
        self.covered.append(&mut seen);
        self.covered.sort_unstable();
    }

    fn row<'s, S: UnwindSection<Slice<'s>>>(
        &mut self,
        reference: &Reference<'_, 's, S>,
        row: &UnwindTableRow<usize>,
        is_signal: bool,
    ) {
        let (start, end) = (row.start_address(), row.end_address());
        if start >= end {
            return;
        }
        self.report.rows += 1;
        self.report.bytes.0 += end - start;
        let mut outcome = Outcome::Equal;
        for pc in [start, start.midpoint(end), end - 1] {
            let Some(rule) = self.rule_at(pc) else { return };
            outcome = reference.compare(row, pc, &rule, is_signal);
            if !matches!(outcome, Outcome::Equal) {
                break;
            }
        }
        match outcome {
            Outcome::Equal => self.report.equal += 1,
            Outcome::Replaced => self.report.replaced += 1,
            Outcome::Unsupported(kind) => {
                *self.report.unsupported.entry(kind).or_default() += 1;
                self.report.bytes.1 += end - start;
            }
            Outcome::Different(text) => self.report.differs(text),
        }
    }

    /// Between functions nothing may be known.
    fn gaps(&mut self) {
        let covered = std::mem::take(&mut self.covered);
        let mut last = 0;
        for (start, end) in covered {
            if last != 0 && start > last {
                let info = self.info;
                for pc in [last, last.midpoint(start), start - 1] {
                    if info.stubs.contains(pc) {
                        continue;
                    }
                    match self.rule_at(pc) {
                        Some(rule) if !matches!(rule.cfa, CFA_NONE | CFA_END | CFA_SIGNAL | CFA_SWITCH) => {
                            self.report.differs(format!("{pc:#x}: {rule:?} where nothing is known"));
                        }
                        _ => {}
                    }
                }
            }
            last = last.max(end);
        }
    }

    fn rule_at(&mut self, pc: u64) -> Option<Rule> {
        let file_offset = self.info.elf.file_offset(pc)?;
        let number = file_offset >> TEXT_PAGE_BITS;
        let (info, report) = (self.info, &mut self.report);
        let table = self.pages.entry(number).or_insert_with(|| {
            let start = Instant::now();
            let table = info.page(number).ok();
            let (count, sum, longest) = report.pages;
            report.pages = (count + 1, sum + start.elapsed(), longest.max(start.elapsed()));
            report.refused += u64::from(table.is_none());
            table
        });
        Some(table.as_ref()?.rule_at((file_offset % TEXT_PAGE_BYTES) as u16))
    }
}

enum Outcome {
    Equal,
    Replaced,
    Unsupported(String),
    Different(String),
}

/// Where a stack begins whose words nobody wrote: each is a number made from its own address.
const STACK: u64 = 0x7f00_0000_0000;

struct MadeUp;

impl Memory for MadeUp {
    /// Good as a return address and as a frame address.
    fn word(&self, abs_addr: u64) -> Option<u64> {
        let mixed = abs_addr.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
        Some(STACK + (1 << 32) + mixed * 8)
    }

    fn word_pair(&self, abs_addr: u64) -> Option<[u64; 2]> {
        Some([self.word(abs_addr)?, self.word(abs_addr.wrapping_add(8))?])
    }
}

struct Reference<'a, 's, S> {
    arch: Arch,
    section: &'a S,
    cie: &'a CommonInformationEntry<Slice<'s>>,
}

/// What a row says of the caller; none where it says nothing.
struct Caller {
    ip: u64,
    sp: u64,
    fp: Option<u64>,
    rbx_at: Option<u64>,
}

impl<'s, S: UnwindSection<Slice<'s>>> Reference<'_, 's, S> {
    fn compare(&self, row: &UnwindTableRow<usize>, pc: u64, rule: &Rule, is_signal: bool) -> Outcome {
        let return_address = row.register(self.cie.return_address_register());
        if matches!(return_address, Some(RegisterRule::Undefined)) {
            return if rule.cfa == CFA_END {
                Outcome::Equal
            } else {
                Outcome::Different(format!("{pc:#x}: {rule:?} at the end of the stack"))
            };
        }
        match rule.cfa {
            CFA_UNSUPPORTED => return Outcome::Unsupported(self.kind(row)),
            CFA_END | CFA_SWITCH => return Outcome::Replaced,
            CFA_SIGNAL if !is_signal => return Outcome::Replaced,
            _ => {}
        }
        let before = registers(self.arch, pc);
        let expected = self.caller(row, &before);
        let mut after = before;
        let step = step(self.arch, rule, &mut after, u64::MAX, &MadeUp);
        let found = match step.unwrap_or_else(|frame| frame.leave(self.arch, &mut after, &MadeUp)) {
            Step::Caller => {
                // A signal frame has all registers back; the row says them one by one, and these are enough.
                let rbx = if rule.cfa == CFA_SIGNAL { None } else { Some(after.rbx_at) };
                Some((after.ip, after.sp, after.fp, rbx))
            }
            // Compilers sometimes write frame addresses that cannot be; a walk refuses those.
            Step::Stop(StopReason::BadFrameAddress)
                if expected.as_ref().is_some_and(|caller| caller.sp < before.sp || caller.sp % 8 != 0) =>
            {
                return Outcome::Equal;
            }
            Step::Stop(_) => None,
        };
        let is_same = match (&expected, found) {
            (Some(expected), Some((ip, sp, fp, rbx_at))) => {
                let is_fp_same = expected.fp.is_none_or(|expected| expected == fp);
                let is_rbx_same =
                    expected.rbx_at.zip(rbx_at).is_none_or(|(expected, found)| expected == found);
                if (ip, sp) == (expected.ip, expected.sp) && !is_fp_same && self.is_go_frame(row, rule) {
                    return Outcome::Replaced;
                }
                (ip, sp) == (expected.ip, expected.sp) && is_fp_same && is_rbx_same
            }
            _ => false,
        };
        if is_same {
            return Outcome::Equal;
        }
        let expected = expected.map(|caller| format!("{:x} {:x} {:x?}", caller.ip, caller.sp, caller.fp));
        Outcome::Different(format!("{pc:#x}: {rule:?} leads to {found:x?}, not to {expected:?}"))
    }

    /// Go says nothing about the frame pointer, which lies below the return address.
    fn is_go_frame(&self, row: &UnwindTableRow<usize>, rule: &Rule) -> bool {
        row.register(Register(frame_pointer(self.arch))).is_none()
            && rule.fp == SAVED
            && rule.fp_offset + 1 == rule.ra_offset
    }

    fn caller(&self, row: &UnwindTableRow<usize>, registers: &Registers) -> Option<Caller> {
        let cfa = match row.cfa() {
            CfaRule::RegisterAndOffset { register, offset } => {
                self.value(*register, registers)?.wrapping_add_signed(*offset)
            }
            CfaRule::Expression(expression) => self.evaluate(*expression, None, registers)?,
        };
        let return_register = self.cie.return_address_register();
        let ip = match (row.register(return_register), self.arch) {
            (None, Arch::X86_64) => return None,
            (rule, _) => self.restored(rule.as_ref(), return_register, cfa, registers)?,
        };
        // In a signal frame even the stack pointer has a rule.
        let sp = match row.register(Register(stack_pointer(self.arch))) {
            None => cfa,
            rule => self.restored(rule.as_ref(), Register(stack_pointer(self.arch)), cfa, registers)?,
        };
        let fp = Register(frame_pointer(self.arch));
        let fp = match row.register(fp) {
            Some(RegisterRule::Undefined) => None,
            rule => Some(self.restored(rule.as_ref(), fp, cfa, registers)?),
        };
        let rbx_at = match (self.arch, row.register(Register(3))) {
            (Arch::X86_64, Some(RegisterRule::Offset(offset))) => Some(cfa.wrapping_add_signed(offset)),
            (Arch::X86_64, None | Some(RegisterRule::SameValue)) => Some(0),
            _ => None,
        };
        Some(Caller { ip, sp, fp, rbx_at })
    }

    fn restored(
        &self,
        rule: Option<&RegisterRule<usize>>,
        register: Register,
        cfa: u64,
        registers: &Registers,
    ) -> Option<u64> {
        match rule {
            None | Some(RegisterRule::SameValue) => self.value(register, registers),
            Some(RegisterRule::Offset(offset)) => MadeUp.word(cfa.wrapping_add_signed(*offset)),
            Some(RegisterRule::ValOffset(offset)) => Some(cfa.wrapping_add_signed(*offset)),
            Some(RegisterRule::Register(other)) => self.value(*other, registers),
            Some(RegisterRule::Expression(expression)) => {
                MadeUp.word(self.evaluate(*expression, Some(cfa), registers)?)
            }
            Some(RegisterRule::ValExpression(expression)) => self.evaluate(*expression, Some(cfa), registers),
            _ => None,
        }
    }

    fn value(&self, register: Register, registers: &Registers) -> Option<u64> {
        match (self.arch, register.0) {
            (Arch::X86_64, 16) => Some(registers.ip),
            (Arch::X86_64, 7) | (Arch::Aarch64, 31) => Some(registers.sp),
            (_, number) => registers.general.get(usize::from(number)).copied(),
        }
    }

    fn evaluate(
        &self,
        expression: UnwindExpression<usize>,
        cfa: Option<u64>,
        registers: &Registers,
    ) -> Option<u64> {
        let expression: Expression<Slice<'s>> = expression.get(self.section).ok()?;
        let mut evaluation: Evaluation<Slice<'s>> = expression.evaluation(self.cie.encoding());
        if let Some(cfa) = cfa {
            evaluation.set_initial_value(cfa);
        }
        evaluation.set_max_iterations(1000);
        let mut result = evaluation.evaluate().ok()?;
        loop {
            result = match result {
                EvaluationResult::Complete => break,
                EvaluationResult::RequiresRegister { register, .. } => {
                    evaluation.resume_with_register(Value::Generic(self.value(register, registers)?)).ok()?
                }
                EvaluationResult::RequiresMemory { address, size: 8, .. } => {
                    evaluation.resume_with_memory(Value::Generic(MadeUp.word(address)?)).ok()?
                }
                _ => return None,
            };
        }
        match evaluation.as_result().first()?.location {
            Location::Address { address } => Some(address),
            _ => None,
        }
    }

    /// What about a row cannot be said.
    fn kind(&self, row: &UnwindTableRow<usize>) -> String {
        let mut kind = String::new();
        if let CfaRule::Expression(expression) = row.cfa() {
            let _infallible = write!(kind, "frame address{} ", self.operations(*expression));
        }
        let named = [
            ("return address", self.cie.return_address_register()),
            ("frame pointer", Register(frame_pointer(self.arch))),
        ];
        for (name, register) in named {
            let text = match row.register(register) {
                None | Some(RegisterRule::Offset(_) | RegisterRule::SameValue) => continue,
                Some(RegisterRule::Expression(expression)) => self.operations(expression),
                Some(rule) => format!(" {rule:?}"),
            };
            let _infallible = write!(kind, "{name}{text} ");
        }
        if kind.is_empty() {
            let _infallible = write!(kind, "{:?}", row.cfa());
        }
        kind
    }

    fn operations(&self, expression: UnwindExpression<usize>) -> String {
        let mut text = String::new();
        let expression: Option<Expression<Slice<'s>>> = expression.get(self.section).ok();
        let operations = expression.map(|expression| expression.operations(self.cie.encoding()));
        for operation in operations.into_iter().flatten().flatten() {
            let operation = format!("{operation:?}");
            let name = operation.split([' ', '{', '(']).next().unwrap_or_default();
            let _infallible = write!(text, " {name}");
        }
        text
    }
}

fn frame_pointer(arch: Arch) -> u16 {
    match arch {
        Arch::X86_64 => 6,
        Arch::Aarch64 => 29,
    }
}

fn stack_pointer(arch: Arch) -> u16 {
    match arch {
        Arch::X86_64 => 7,
        Arch::Aarch64 => 31,
    }
}

/// Registers of a leaf, all different and all above its stack pointer.
fn registers(arch: Arch, pc: u64) -> Registers {
    let place = |number: usize| STACK + (8 << 20) + ((number as u64) << 24);
    let fp = place(frame_pointer(arch).into());
    let mut registers = Registers::interrupted(pc, STACK, fp, place(30));
    for (number, register) in registers.general.iter_mut().enumerate() {
        *register = place(number);
    }
    registers
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn our_own_rows_lead_where_the_information_leads() {
        let elf = Elf::open(File::open("/proc/self/exe").unwrap()).unwrap();
        let report = check(&UnwindInfo::open(elf, |_| None)).unwrap();
        assert_eq!(report.descriptions, Vec::<String>::new());
        // Cryptography that is written in assembly has rows of its own kind.
        let unsupported: u64 = report.unsupported.values().sum();
        let (rows, equal) = (report.rows, report.equal);
        assert!(rows > 10_000 && equal + unsupported == rows, "{equal} of {rows}, {:?}", report.unsupported);
        assert!(unsupported * 10_000 < rows, "{:?}", report.unsupported);
    }
}
