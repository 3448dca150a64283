//! Another unwinder's opinion: walks the stacks that `--dump-stacks` wrote with framehop and compares the frames.
//!
//! framehop evaluates the same unwind information with code of its own, from the same registers and stack bytes.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader};
use std::path::Path;

use anyhow::{Context, Result};
use framehop::x86_64::{CacheX86_64, Reg, UnwindRegsX86_64, UnwinderX86_64};
use framehop::{ExplicitModuleSectionInfo, Module, Unwinder};
use object::{Object, ObjectSection, ObjectSegment};
use serde_json::Value;

/// How the two agree.
#[derive(Debug, Default)]
pub struct Agreement {
    /// Stacks compared.
    pub stacks: u64,
    /// Frames equal, one by one, to the end of the shorter list; the other list ends there too or its stack copy does.
    pub equal: u64,
    /// The rest, by what differs, with an example each.
    pub differences: BTreeMap<String, (u64, String)>,
}

impl Agreement {
    /// Share of equal stacks, percent.
    pub fn percent(&self) -> f64 {
        self.equal as f64 * 100.0 / self.stacks.max(1) as f64
    }
}

type Modules = UnwinderX86_64<Vec<u8>>;

/// Compares every sample of a dump.
///
/// # Errors
///
/// The dump cannot be read.
pub fn compare(dump: &Path) -> Result<Agreement> {
    let file = std::fs::File::open(dump).with_context(|| format!("cannot open {}", dump.display()))?;
    let mut spaces: HashMap<u64, Modules> = HashMap::new();
    let mut regions: HashMap<u64, Value> = HashMap::new();
    let mut agreement = Agreement::default();
    for line in BufReader::new(file).lines() {
        let line: Value = serde_json::from_str(&line?)?;
        if let Some(version) = line["mappings"].as_u64() {
            spaces.insert(version, modules(&line["regions"]));
            regions.insert(version, line["regions"].clone());
            continue;
        }
        let version = line["in"].as_u64().context("a sample without mappings")?;
        let modules = spaces.get(&version).context("a sample before its mappings")?;
        judge(&mut agreement, &line, modules, &regions[&version]);
    }
    Ok(agreement)
}

fn judge(agreement: &mut Agreement, sample: &Value, modules: &Modules, regions: &Value) {
    // Where our walk had to wait for tables, the dump has no frames of it.
    if matches!(sample["stop"].as_str(), Some("table_missing" | "no_mapping" | "no_user_side")) {
        return;
    }
    let ours: Vec<u64> = numbers(&sample["frames"]);
    let stack = bytes(sample["stack"].as_str().unwrap_or_default());
    let base = sample["stack_base"].as_u64().unwrap_or_default();
    let theirs = walk(sample, modules, base, &stack);
    agreement.stacks += 1;
    let common = ours.len().min(theirs.len());
    let was_cut = stack.len() >= 24 << 10;
    let same = ours[..common] == theirs[..common];
    if same && (ours.len() == theirs.len() || (was_cut && theirs.len() < ours.len())) {
        agreement.equal += 1;
        return;
    }
    let at = ours.iter().zip(&theirs).position(|(a, b)| a != b).unwrap_or(common);
    let module = |address: Option<&u64>| {
        address.map_or("the end".to_owned(), |address| {
            let found = regions.as_array().into_iter().flatten().find(|region| {
                region["start"].as_u64() <= Some(*address) && Some(*address) < region["end"].as_u64()
            });
            found.map_or("nowhere".to_owned(), |region| region["path"].as_str().unwrap_or("").to_owned())
        })
    };
    let from = module(at.checked_sub(1).and_then(|at| ours.get(at)));
    let what = format!("from {from}: ours {}, theirs {}", module(ours.get(at)), module(theirs.get(at)));
    let example = format!("{ours:x?} / {theirs:x?}");
    agreement.differences.entry(what).or_insert((0, example)).0 += 1;
}

fn walk(sample: &Value, modules: &Modules, base: u64, stack: &[u8]) -> Vec<u64> {
    let number = |key: &str| sample[key].as_u64().unwrap_or_default();
    let mut registers = UnwindRegsX86_64::new(number("ip"), number("sp"), number("fp"));
    // DWARF numbers 0 to 15, in the same order as framehop's.
    let order = [
        Reg::RAX,
        Reg::RDX,
        Reg::RCX,
        Reg::RBX,
        Reg::RSI,
        Reg::RDI,
        Reg::RBP,
        Reg::RSP,
        Reg::R8,
        Reg::R9,
        Reg::R10,
        Reg::R11,
        Reg::R12,
        Reg::R13,
        Reg::R14,
        Reg::R15,
    ];
    for (register, value) in order.into_iter().zip(numbers(&sample["general"])) {
        registers.set(register, value);
    }
    let mut read = |address: u64| -> Result<u64, ()> {
        let offset = usize::try_from(address.checked_sub(base).ok_or(())?).map_err(|_| ())?;
        let word = stack.get(offset..offset + 8).ok_or(())?;
        Ok(u64::from_le_bytes(word.try_into().map_err(|_| ())?))
    };
    let mut cache = CacheX86_64::new();
    let mut frames = Vec::new();
    let mut iterator = modules.iter_frames(number("ip"), registers, &mut cache, &mut read);
    while let Ok(Some(frame)) = iterator.next() {
        frames.push(frame.address());
        if frames.len() >= 480 {
            break;
        }
    }
    frames
}

fn modules(regions: &Value) -> Modules {
    let mut modules = UnwinderX86_64::new();
    for region in regions.as_array().into_iter().flatten() {
        let (Some(start), Some(end), Some(offset), Some(path)) = (
            region["start"].as_u64(),
            region["end"].as_u64(),
            region["offset"].as_u64(),
            region["path"].as_str(),
        ) else {
            continue;
        };
        let Ok(file) = std::fs::read(path) else { continue };
        let Ok(elf) = object::File::parse(&*file) else { continue };
        let segment = elf.segments().find(|segment| {
            let (at, size) = segment.file_range();
            offset >= at & !0xfff && offset < at + size
        });
        let Some(segment) = segment else { continue };
        let base =
            start.wrapping_sub(offset).wrapping_add(segment.file_range().0).wrapping_sub(segment.address());
        let section = |name: &str| {
            let section = elf.section_by_name(name)?;
            let data = section.uncompressed_data().ok()?.into_owned();
            Some((section.address()..section.address() + section.size(), data))
        };
        let mut info = ExplicitModuleSectionInfo::<Vec<u8>> {
            text_svma: section(".text").map(|(range, _)| range),
            text: section(".text").map(|(_, data)| data),
            got_svma: section(".got").map(|(range, _)| range),
            ..Default::default()
        };
        if let Some((range, data)) = section(".eh_frame") {
            info.eh_frame_svma = Some(range);
            info.eh_frame = Some(data);
        }
        if let Some((range, data)) = section(".eh_frame_hdr") {
            info.eh_frame_hdr_svma = Some(range);
            info.eh_frame_hdr = Some(data);
        }
        modules.add_module(Module::new(path.to_owned(), start..end, base, info));
    }
    modules
}

fn numbers(value: &Value) -> Vec<u64> {
    value.as_array().into_iter().flatten().filter_map(Value::as_u64).collect()
}

fn bytes(hex: &str) -> Vec<u8> {
    hex.as_bytes()
        .chunks_exact(2)
        .filter_map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect()
}
