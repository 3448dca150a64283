//! Source lines: one pass over a unit's line program for a sorted batch of addresses.
//!
//! In: a unit's root entry. Out: file index and line of each address, and the full names of files by index. Rows are
//! compared as they come and never kept.

use std::collections::HashMap;
use std::sync::Arc;

use gimli::{Dwarf, Error, IncompleteLineProgram, Reader as _, Result, Section as _};

use super::super::Names;
use super::unit::Root;
use crate::object::{SectionReader, Work};

/// Bytes of one line program's header, which gimli parses into a table of files and directories twenty times as
/// large. A unit with ten thousand source files needs about 200 KiB.
const HEADER_BYTES: u64 = 1 << 20;

/// Longest path that is put together from directory and file name.
const LONGEST_PATH_BYTES: usize = 8 << 10;

/// Where an address was written down: index into the unit's files, and the line from 1 where there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) file: u64,
    pub(super) line: Option<u32>,
}

/// A unit's line program.
pub(super) struct Lines<'d, 'r, 'a> {
    dwarf: &'d Dwarf<SectionReader<'a>>,
    root: &'r Root<'a>,
    program: Option<IncompleteLineProgram<SectionReader<'a>>>,
    files: HashMap<u64, Option<Arc<str>>>,
}

impl<'d, 'r, 'a> Lines<'d, 'r, 'a> {
    /// Reads the header. Without a program, or with a damaged one, nothing has a line.
    pub(super) fn of(dwarf: &'d Dwarf<SectionReader<'a>>, root: &'r Root<'a>) -> Self {
        Self { dwarf, root, program: program(dwarf, root).ok().flatten(), files: HashMap::new() }
    }

    /// The row of each of the sorted `addresses`.
    pub(super) fn rows(&self, addresses: &[u64], work: &Work) -> Vec<Option<Row>> {
        let mut found = vec![None; addresses.len()];
        if let Some(program) = &self.program {
            // A program that breaks off has said something about the addresses before that.
            let _ = run(program.clone(), addresses, &mut found, work);
        }
        found
    }

    /// The full name of a file.
    pub(super) fn file(&mut self, index: u64, names: &mut Names) -> Option<Arc<str>> {
        if let Some(known) = self.files.get(&index) {
            return known.clone();
        }
        let path = self.path(index).filter(|path| !path.is_empty()).map(|path| names.text(&path));
        self.files.insert(index, path.clone());
        path
    }

    /// Compilation directory, include directory and file name, as far as each is relative.
    fn path(&self, index: u64) -> Option<Vec<u8>> {
        let (dwarf, unit) = (self.dwarf, &self.root.unit);
        let header = self.program.as_ref()?.header();
        let file = header.file(index)?;
        let mut path = Vec::new();
        if let (_, Some(directory)) = self.root.source_file(dwarf) {
            path = directory.bytes().ok()?;
        }
        // Directory 0 is the compilation directory itself up to version 4, and named again from version 5. Builds that
        // remap their paths make it relative; joined to itself it would be a path that never was.
        if (file.directory_index() != 0 || header.version() >= 5)
            && let Some(directory) = file.directory(header)
        {
            let directory = dwarf.attr_string(unit, directory).ok()?.bytes().ok()?;
            if directory != path {
                push(&mut path, &directory);
            }
        }
        push(&mut path, &dwarf.attr_string(unit, file.path_name()).ok()?.bytes().ok()?);
        Some(path)
    }
}

fn program<'a>(
    dwarf: &Dwarf<SectionReader<'a>>,
    root: &Root<'a>,
) -> Result<Option<IncompleteLineProgram<SectionReader<'a>>>> {
    let Some(offset) = root.line_program else { return Ok(None) };
    // gimli takes memory for as many files as the header claims to have room for, so its size is checked before.
    let mut input = *dwarf.debug_line.reader();
    input.skip(offset.0)?;
    let (_, format) = input.read_initial_length()?;
    if input.read_u16()? >= 5 {
        input.skip(2)?;
    }
    if input.read_length(format)? > HEADER_BYTES {
        return Err(Error::UnsupportedOffset);
    }
    let (name, directory) = root.source_file(dwarf);
    dwarf.debug_line.program(offset, root.unit.header.address_size(), directory, name).map(Some)
}

/// Each row covers the addresses up to the next one of its sequence.
fn run(
    program: IncompleteLineProgram<SectionReader<'_>>,
    addresses: &[u64],
    found: &mut [Option<Row>],
    work: &Work,
) -> Result<()> {
    let mut rows = program.rows();
    let mut last: Option<(u64, Row)> = None;
    // The first address that is not below the last row.
    let mut next = 0;
    while let Some((_, row)) = rows.next_row()? {
        let address = row.address();
        let in_order = last.is_some_and(|(before, _)| before <= address);
        match last {
            Some((_, covering)) if in_order => {
                while next < addresses.len() && addresses[next] < address {
                    work.charge(1)?;
                    found[next].get_or_insert(covering);
                    next += 1;
                }
            }
            _ => next = addresses.partition_point(|wanted| *wanted < address),
        }
        let line = row.line().and_then(|line| u32::try_from(line.get()).ok());
        last = (!row.end_sequence()).then(|| (address, Row { file: row.file_index(), line }));
    }
    Ok(())
}

/// Appends a path, or replaces by it when it is absolute. Windows paths occur in cross-built objects.
fn push(path: &mut Vec<u8>, part: &[u8]) {
    let absolute = part.starts_with(b"/") || part.get(1..3) == Some(b":\\");
    if absolute {
        path.clear();
    } else if !path.is_empty() && !path.ends_with(b"/") && !part.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(part);
    path.truncate(LONGEST_PATH_BYTES);
}
