//! `perf-agent debug unwind`: the rows by which stacks are walked, of a file or of what a process runs.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use profiler_common::unwind::{Arch, TEXT_PAGE_BITS, TEXT_PAGE_BYTES};

use super::super::exit::{CliError, Exit, with_causes};
use crate::object::{DebugFiles, Elf, vdso_image};
use crate::process::{Access, Objects, Snapshot, SnapshotMapping};
use crate::profile::clean;
use crate::unwind_info::check::{Report, check};
use crate::unwind_info::{PageTable, UnwindInfo, describe};

/// Show how stacks are walked through a binary, or through the code of a process
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  perf-agent debug unwind /bin/ls          every row of a file
  perf-agent debug unwind /bin/ls 0x4120   the row of an address in the file's own address space
  perf-agent debug unwind 4242             how each mapping of process 4242 is walked
  perf-agent debug unwind 4242 0x7f1c…     the row of an address in the process")]
pub(super) struct UnwindArgs {
    /// An ELF file, or a process ID
    #[arg(value_name = "FILE|PID", required_unless_present = "check")]
    target: Option<String>,
    /// Show the row of this address only (hexadecimal)
    #[arg(value_name = "ADDRESS", value_parser = parse_address)]
    address: Option<u64>,
    /// Compare each row with another reader of the same information, and count
    #[arg(long, value_name = "FILE", num_args = 1.., hide = true, conflicts_with = "target")]
    check: Vec<PathBuf>,
}

/// Runs the verb.
///
/// # Errors
/// When the target cannot be read, or the result cannot be written, or rows differ.
pub(super) fn run(args: &UnwindArgs) -> anyhow::Result<()> {
    let mut out = BufWriter::new(io::stdout().lock());
    match &args.target {
        None => check_files(&args.check, &mut out)?,
        Some(target) => match target.parse() {
            Ok(pid) => show_process(pid, args.address, &mut out)?,
            Err(_) => show_file(Path::new(target), args.address, &mut out)?,
        },
    }
    out.flush()?;
    Ok(())
}

fn parse_address(text: &str) -> Result<u64, String> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    u64::from_str_radix(digits, 16).map_err(|_| "addresses are hexadecimal, such as 0x4120".to_owned())
}

fn open_file(path: &Path) -> Result<UnwindInfo, CliError> {
    let name = clean(path.as_os_str().as_bytes());
    let file = File::open(path).map_err(|error| {
        let error = CliError::new(Exit::Runtime, format!("can't open {name}: {error}"));
        error.hint("name an ELF file, or the ID of a process that runs")
    })?;
    open(file, path, None).map_err(|reason| {
        let error = CliError::new(Exit::Runtime, format!("can't read {name}: {reason}"));
        error.hint("programs and shared libraries have unwind information; scripts and archives have not")
    })
}

/// The unwind information of a file, with its debug file where that is needed.
fn open(file: File, path: &Path, root: Option<&OwnedFd>) -> Result<UnwindInfo, String> {
    if !file.metadata().is_ok_and(|metadata| metadata.is_file()) {
        return Err("not a regular file".to_owned());
    }
    let elf = Elf::open(file).map_err(|error| with_causes(&error))?;
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    Ok(UnwindInfo::open(elf, |elf| {
        let own = File::open("/").ok();
        let roots: Vec<_> =
            root.iter().map(|root| root.as_fd()).chain(own.as_ref().map(AsFd::as_fd)).collect();
        let files = DebugFiles { roots: &roots, dirs: &[PathBuf::from("/usr/lib/debug")] };
        files.find(elf, &absolute).map(|(elf, _)| elf)
    }))
}

fn show_file(path: &Path, address: Option<u64>, out: &mut impl Write) -> anyhow::Result<()> {
    let info = open_file(path)?;
    if let Some(virt_addr) = address {
        let Some(file_offset) = info.elf().file_offset(virt_addr) else {
            let error = CliError::usage(format!("{virt_addr:#x} is not in this file"));
            return Err(error.hint("addresses of a file are those that `readelf -S` and `nm` show").into());
        };
        return show_row(&info, file_offset, virt_addr, out);
    }
    let pages: Vec<(u64, Option<PageTable>)> =
        info.code_pages().into_iter().map(|number| (number, info.page(number).ok())).collect();
    let tables = || pages.iter().filter_map(|(_, table)| table.as_ref());
    let rules: BTreeSet<_> = tables().flat_map(|table| &table.rules).collect();
    writeln!(out, "{}", clean(path.as_os_str().as_bytes()))?;
    if let Some(id) = info.build_id() {
        writeln!(out, "build ID            {id}")?;
    }
    writeln!(out, "unwind information  {}, {} functions", info.source_name(), info.functions())?;
    writeln!(
        out,
        "tables              {} text pages, {} rows, {} rules, {} rows unsupported",
        pages.len(),
        tables().map(|table| table.rows.len()).sum::<usize>(),
        rules.len(),
        tables().map(|table| u64::from(table.unsupported)).sum::<u64>(),
    )?;
    let arch = info.arch().unwrap_or(Arch::X86_64);
    let mut last = None;
    for (number, table) in &pages {
        let start = number << TEXT_PAGE_BITS;
        let Some(table) = table else {
            writeln!(out, "text page {number}: over a limit: frame pointer")?;
            continue;
        };
        for row in &table.rows {
            // Rows of the page outside of all segments have no address.
            let Some(virt_addr) = info.elf().virt_addr(start + u64::from(row.offset())) else { continue };
            let rule = table.rule_at(row.offset());
            // A rule goes on over the end of its page.
            if last.replace(rule) != Some(rule) {
                writeln!(out, "{virt_addr:#10x}  {}", describe(&rule, arch))?;
            }
        }
    }
    Ok(())
}

/// The row that holds at one place, in the addresses of whoever asked.
fn show_row(info: &UnwindInfo, file_offset: u64, address: u64, out: &mut impl Write) -> anyhow::Result<()> {
    let table = info.page(file_offset >> TEXT_PAGE_BITS).map_err(|error| {
        CliError::new(Exit::Runtime, with_causes(&error))
            .hint("stacks through this page go by frame pointers")
    })?;
    let offset = (file_offset % TEXT_PAGE_BYTES) as u16;
    let row = table.rows.partition_point(|row| row.offset() <= offset);
    let start = row.checked_sub(1).and_then(|row| table.rows.get(row)).map_or(0, |row| row.offset());
    let end = table.rows.get(row).map_or(TEXT_PAGE_BYTES, |row| u64::from(row.offset()));
    let base = address.wrapping_sub(u64::from(offset));
    writeln!(
        out,
        "{:#x}-{:#x}  {}",
        base.wrapping_add(start.into()),
        base.wrapping_add(end),
        describe(&table.rule_at(offset), info.arch().unwrap_or(Arch::X86_64))
    )?;
    Ok(())
}

fn show_process(pid: u32, address: Option<u64>, out: &mut impl Write) -> anyhow::Result<()> {
    let Some(snapshot) = Snapshot::read(pid) else {
        let error = CliError::new(Exit::Runtime, format!("there is no process {pid}"));
        return Err(error.hint(format!("for a file of that name, write ./{pid}")).into());
    };
    if snapshot.mappings.is_empty() {
        let error = CliError::new(Exit::Permission, format!("can't see the mappings of process {pid}"));
        return Err(error.hint("it is a kernel thread, or belongs to another user: try with sudo").into());
    }
    let root = File::open(format!("/proc/{pid}/root")).ok().map(|root| Arc::new(OwnedFd::from(root)));
    let mut objects = Objects::default();
    let mut open = |mapping: &SnapshotMapping| open_mapping(&mut objects, pid, mapping, root.as_ref());
    if let Some(abs_addr) = address {
        let found = snapshot.mappings.iter().find(|mapping| (mapping.start..mapping.end).contains(&abs_addr));
        let Some(mapping) = found else {
            let error =
                CliError::usage(format!("{abs_addr:#x} is not in an executable mapping of process {pid}"));
            return Err(error.hint(format!("`perf-agent debug unwind {pid}` lists them")).into());
        };
        let info = open(mapping).map_err(|reason| {
            let name = name_of(mapping);
            CliError::new(Exit::Runtime, format!("{name}: {reason}"))
                .hint("stacks through it go by frame pointers")
        })?;
        let file_offset = abs_addr - mapping.start + mapping.file_offset;
        writeln!(out, "{}", name_of(mapping))?;
        return show_row(&info, file_offset, abs_addr, out);
    }
    writeln!(out, "process {pid}, {}", clean(&snapshot.comm))?;
    for mapping in &snapshot.mappings {
        write!(out, "{:#x}-{:#x}  {}: ", mapping.start, mapping.end, name_of(mapping))?;
        match open(mapping) {
            Ok(info) if info.functions() > 0 => {
                writeln!(out, "{}, {} functions", info.source_name(), info.functions())?;
            }
            Ok(_) => writeln!(out, "frame pointers: no unwind information")?,
            Err(reason) => writeln!(out, "frame pointers: {reason}")?,
        }
    }
    Ok(())
}

fn name_of(mapping: &SnapshotMapping) -> String {
    if mapping.path.is_empty() { "[anonymous]".to_owned() } else { clean(&mapping.path) }
}

/// The unwind information of what a process mapped, or why there is none.
fn open_mapping(
    objects: &mut Objects,
    pid: u32,
    mapping: &SnapshotMapping,
    root: Option<&Arc<OwnedFd>>,
) -> Result<UnwindInfo, String> {
    if mapping.path == b"[vdso]" {
        let image = vdso_image().ok_or("the kernel has no vDSO")?;
        let elf = Elf::from_bytes(image).map_err(|error| with_causes(&error))?;
        return Ok(UnwindInfo::open(elf, |_| None));
    }
    if mapping.inode == 0 {
        return Err("no file: code made at run time".to_owned());
    }
    let id = objects.intern(mapping.inode, &mapping.path);
    let range = (mapping.start, mapping.end);
    objects.hold(id, &Access { pid, range, root, mapped_unix_ns: 0 });
    let file = objects.object(id).file.as_ref().and_then(|file| file.try_clone().ok());
    let path = Path::new(std::ffi::OsStr::from_bytes(&mapping.path));
    open(file.ok_or("the file can't be opened")?, path, root.map(AsRef::as_ref))
}

/// Compares files with another reader, prints what came out and fails when anything differs.
fn check_files(files: &[PathBuf], out: &mut impl Write) -> anyhow::Result<()> {
    let (mut sum, mut rules) = (Report::default(), BTreeSet::new());
    for path in files {
        let report = match open_file(path) {
            Ok(info) if info.functions() > 0 => check(&info).map_err(|error| with_causes(&error)),
            Ok(_) => Err("no unwind information".to_owned()),
            Err(error) => Err(error.to_string()),
        };
        let name = clean(path.as_os_str().as_bytes());
        match report {
            Ok(report) => {
                write_counts(&name, &report, out)?;
                rules.extend(report.rules.keys().copied());
                sum.add(report);
            }
            Err(reason) => writeln!(out, "{name}: {reason}")?,
        }
    }
    write_counts("all", &sum, out)?;
    for (kind, count) in &sum.unsupported {
        writeln!(out, "  unsupported {count:8}  {kind}")?;
    }
    writeln!(out, "{} distinct rules", rules.len())?;
    out.flush()?;
    if sum.different > 0 {
        return Err(CliError::new(Exit::Runtime, format!("{} rows differ", sum.different)).into());
    }
    Ok(())
}

fn write_counts(name: &str, report: &Report, out: &mut impl Write) -> io::Result<()> {
    let (bytes, unsupported_bytes) = report.bytes;
    writeln!(
        out,
        "{name}: {} rows: {} equal, {} unsupported ({:.3} % of {bytes} bytes), {} replaced, {} different; {} pages refused",
        report.rows,
        report.equal,
        report.unsupported_rows(),
        unsupported_bytes as f64 * 100.0 / bytes.max(1) as f64,
        report.replaced,
        report.different,
        report.refused,
    )?;
    let (pages, building, longest) = report.pages;
    let mean = building.as_micros() / u128::from(pages.max(1));
    writeln!(out, "  {pages} pages, built in {mean} us each, the longest in {} us", longest.as_micros())?;
    for description in &report.descriptions {
        writeln!(out, "  {description}")?;
    }
    Ok(())
}
