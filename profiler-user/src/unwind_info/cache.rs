//! Page tables on disk, so that the next recording has them at once.
//!
//! In: tables under a binary's build ID. Out: the same tables, or nothing: whatever is odd about a file, it is ignored and
//! removed. A build ID is a claim of whoever made a binary, so only tables of files that nobody but root could have
//! written belong here; [`Cache::may_hold`] tells.
//!
//! A file has a header, a directory and pages, all little-endian. The header and directory are under one CRC, each page is
//! under its own. Nothing is trusted: tables are checked as if a target had written them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use profiler_common::unwind::{
    AT_FP, Arch, CFA_DEREF, CFA_REGISTER, CFA_SP, CFA_SWITCH, CFA_UNSUPPORTED, MAX_PAGE_ROWS, REGISTERS, Row,
    Rule,
};

use super::PageTable;
use crate::object::{BuildId, limits};

/// Where the cache is on a host.
pub const DEFAULT_DIRECTORY: &str = "/var/cache/perf-agent/unwind";

/// Bytes of all files together. The tables of a server's usual programs take a few.
const MOST_BYTES: u64 = 64 << 20;

/// Bytes that are written at once.
const WRITE_BYTES: usize = 64 << 10;

/// Pages of one file: a gigabyte of code. More are not kept.
const MOST_PAGES: usize = 1 << 14;

/// A file that was being written when the agent or the host stopped is removed after this.
const ABANDONED: Duration = Duration::from_hours(1);

/// `PAUNWIND`, and a number that counts the forms of this file.
const MAGIC: [u8; 8] = *b"PAUNWIND";
const FORM: u32 = 1;

/// Magic, form, version, architecture, length of the build ID, build ID, number of pages, CRC of all that and the directory.
const HEADER_BYTES: usize = 8 + 4 * 4 + BUILD_ID_BYTES + 4 + 4;
const BUILD_ID_BYTES: usize = 64;
const CRC_AT: usize = HEADER_BYTES - 4;

/// Page number, place in the file, number of rows, number of rules, CRC, zero.
const ENTRY_BYTES: usize = 8 + 8 + 4 * 4;

const ROW_BYTES: usize = size_of::<Row>();
const RULE_BYTES: usize = size_of::<Rule>();

/// A directory of cached tables.
#[derive(Debug)]
pub struct Cache {
    directory: PathBuf,
}

impl Cache {
    /// Opens the cache, and creates it when it is not there.
    ///
    /// # Errors
    /// When it cannot be created, or others could have put files there: it has to be a directory, not a link to one, that
    /// belongs to root or to us, and that nobody else may write to.
    pub fn open(directory: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        let metadata = fs::symlink_metadata(directory)?;
        let is_ours = metadata.uid() == 0 || metadata.uid() == rustix::process::geteuid().as_raw();
        if !metadata.is_dir() || !is_ours || metadata.mode() & 0o022 != 0 {
            let reason = "others can write to it, or it is not a directory";
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, reason));
        }
        Ok(Self { directory: directory.to_owned() })
    }

    /// True for a file whose tables may be kept: its owner is root and nobody else may write to it. Anybody can write any
    /// build ID into a file of their own.
    pub fn may_hold(file: &File) -> bool {
        file.metadata().is_ok_and(|metadata| metadata.uid() == 0 && metadata.mode() & 0o022 == 0)
    }

    /// The tables of a binary, if there are any.
    pub fn load(&self, build_id: &BuildId, arch: Arch) -> Option<CachedPages> {
        let path = self.path(build_id);
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(&path).ok()?;
        let directory = read_directory(&file, build_id, arch);
        let Some(directory) = directory else {
            remove(&path);
            return None;
        };
        // What is used stays; a failure only makes it look older than it is.
        let _unused = file.set_modified(SystemTime::now());
        Some(CachedPages { file, path, directory })
    }

    /// Adds tables of a binary to those that are there, in the memory of one page beside what is given: a large program has megabytes of them.
    ///
    /// # Errors
    /// When the file cannot be written, or what was there is damaged. The old one is still there then.
    pub fn store(&self, build_id: &BuildId, arch: Arch, pages: &BTreeMap<u64, PageTable>) -> io::Result<()> {
        let before = self.load(build_id, arch);
        let mut all: BTreeMap<u64, Page<'_>> = BTreeMap::new();
        if let Some(before) = &before {
            all.extend(before.directory.iter().map(|(number, entry)| (*number, Page::Kept(before, *entry))));
        }
        for (number, table) in pages {
            if all.len() < MOST_PAGES || all.contains_key(number) {
                all.insert(*number, Page::New(table));
            }
        }
        let temporary = self.directory.join(temporary_name());
        let written = write_file(&temporary, build_id, arch, &all)
            .and_then(|()| fs::rename(&temporary, self.path(build_id)));
        if written.is_err() {
            remove(&temporary);
        }
        self.shrink(MOST_BYTES);
        written
    }

    /// Removes the oldest files until the rest fits.
    fn shrink(&self, most_bytes: u64) {
        let mut files = Vec::new();
        let entries = fs::read_dir(&self.directory).into_iter().flatten().flatten();
        for entry in entries {
            let Ok(metadata) = entry.metadata() else { continue };
            let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            let is_temporary = entry.file_name().as_encoded_bytes().starts_with(TEMPORARY.as_bytes());
            if is_temporary && modified.elapsed().is_ok_and(|age| age > ABANDONED) {
                remove(&entry.path());
            } else if !is_temporary && metadata.is_file() {
                files.push((modified, metadata.len(), entry.path()));
            }
        }
        files.sort_unstable();
        let mut sum: u64 = files.iter().map(|(_, len, _)| len).sum();
        for (_, len, path) in files {
            if sum <= most_bytes {
                break;
            }
            remove(&path);
            sum -= len;
        }
    }

    fn path(&self, build_id: &BuildId) -> PathBuf {
        self.directory.join(format!("{build_id}.unwind"))
    }
}

/// What files that are being written are called.
const TEMPORARY: &str = ".writing-";

/// A name that no other thread or process uses.
fn temporary_name() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    format!("{TEMPORARY}{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// A file that is gone already is as good as removed, and one that stays will be refused again.
fn remove(path: &Path) {
    let _unused = fs::remove_file(path);
}

fn write_file(
    path: &Path,
    build_id: &BuildId,
    arch: Arch,
    pages: &BTreeMap<u64, Page<'_>>,
) -> io::Result<()> {
    let mut options = OpenOptions::new();
    // A file of this name is left of a process that had our number.
    remove(path);
    let file = options.write(true).create_new(true).mode(0o600).custom_flags(libc::O_NOFOLLOW).open(path)?;
    let mut out = BufWriter::with_capacity(WRITE_BYTES, file);
    out.write_all(&head(build_id, arch, pages))?;
    for page in pages.values() {
        out.write_all(&page.body()?.bytes)?;
    }
    out.into_inner()?.sync_all()
}

/// A page to be written.
enum Page<'a> {
    /// It is in the file that is replaced.
    Kept(&'a CachedPages, Entry),
    New(&'a PageTable),
}

impl Page<'_> {
    fn body(&self) -> io::Result<Body> {
        match self {
            Self::New(table) => Ok(Body::of(table)),
            Self::Kept(pages, entry) => entry.read(&pages.file).ok_or_else(|| {
                remove(&pages.path);
                io::Error::new(io::ErrorKind::InvalidData, "a page is damaged")
            }),
        }
    }

    /// How many rows and rules it has, and its CRC.
    fn figures(&self) -> (usize, usize, u32) {
        match self {
            Self::Kept(_, entry) => (entry.rows, entry.rules, entry.crc),
            Self::New(table) => (table.rows.len(), table.rules.len(), crc(&[&Body::of(table).bytes])),
        }
    }
}

/// The tables of one binary.
#[derive(Debug)]
pub struct CachedPages {
    file: File,
    path: PathBuf,
    directory: BTreeMap<u64, Entry>,
}

impl CachedPages {
    /// A page's table; none when it is not there, or damaged.
    pub fn page(&self, number: u64) -> Option<PageTable> {
        let entry = self.directory.get(&number)?;
        let table = entry.read(&self.file).and_then(|body| body.table());
        if table.is_none() {
            remove(&self.path);
        }
        table
    }

    /// Number of pages.
    pub fn len(&self) -> usize {
        self.directory.len()
    }

    /// True when there is no page.
    pub fn is_empty(&self) -> bool {
        self.directory.is_empty()
    }
}

/// Where a page is.
#[derive(Debug, Clone, Copy)]
struct Entry {
    offset: u64,
    rows: usize,
    rules: usize,
    crc: u32,
}

impl Entry {
    fn bytes(&self) -> usize {
        self.rows * ROW_BYTES + self.rules * RULE_BYTES
    }

    fn read(&self, file: &File) -> Option<Body> {
        let mut bytes = vec![0; self.bytes()];
        file.read_exact_at(&mut bytes, self.offset).ok()?;
        (crc(&[&bytes]) == self.crc).then_some(Body { rows: self.rows, bytes })
    }
}

/// A page as it is in a file: rows, then rules.
struct Body {
    rows: usize,
    bytes: Vec<u8>,
}

impl Body {
    fn of(table: &PageTable) -> Self {
        let mut bytes = Vec::with_capacity(table.rows.len() * ROW_BYTES + table.rules.len() * RULE_BYTES);
        table.rows.iter().for_each(|row| bytes.extend(row.0.to_le_bytes()));
        for rule in &table.rules {
            bytes.extend([rule.cfa, rule.register, rule.ra, rule.fp]);
            bytes.extend(rule.cfa_offset.to_le_bytes());
            for field in [rule.cfa_add, rule.ra_offset, rule.fp_offset, rule.rbx_offset] {
                bytes.extend(field.to_le_bytes());
            }
        }
        Self { rows: table.rows.len(), bytes }
    }

    /// The table, if it is as [`PageTable`] promises.
    fn table(&self) -> Option<PageTable> {
        let (rows, rules) = self.bytes.split_at_checked(self.rows * ROW_BYTES)?;
        let rows: Vec<Row> = rows
            .chunks_exact(ROW_BYTES)
            .filter_map(|row| Some(Row(u32::from_le_bytes(*row.first_chunk()?))))
            .collect();
        let rules: Vec<Rule> = rules.chunks_exact(RULE_BYTES).map(rule).collect::<Option<_>>()?;
        let is_whole = rows.first()?.offset() == 0
            && rows.is_sorted_by(|a, b| a.offset() < b.offset() && a.rule() != b.rule())
            && rows.iter().all(|row| usize::from(row.rule()) < rules.len())
            && rules.iter().collect::<BTreeSet<_>>().len() == rules.len();
        if !is_whole {
            return None;
        }
        let is_unsupported =
            |row: &&Row| rules.get(usize::from(row.rule())).is_some_and(|rule| rule.cfa == CFA_UNSUPPORTED);
        let unsupported = rows.iter().filter(is_unsupported).count() as u32;
        Some(PageTable { rows, rules, unsupported })
    }
}

/// A rule of a kind that exists.
fn rule(bytes: &[u8]) -> Option<Rule> {
    let (kinds, rest) = bytes.split_first_chunk::<4>()?;
    let (cfa_offset, rest) = rest.split_first_chunk::<4>()?;
    let field = |index: usize| Some(i16::from_le_bytes(*rest.get(index * 2..)?.first_chunk()?));
    let [cfa, register, ra, fp] = *kinds;
    let is_known = match cfa.checked_sub(CFA_DEREF) {
        Some(base) => (CFA_SP..=CFA_REGISTER).contains(&base),
        None => cfa <= CFA_SWITCH,
    };
    (is_known && usize::from(register) < REGISTERS && ra <= AT_FP && fp <= AT_FP).then_some(Rule {
        cfa,
        register,
        ra,
        fp,
        cfa_offset: i32::from_le_bytes(*cfa_offset),
        cfa_add: field(0)?,
        ra_offset: field(1)?,
        fp_offset: field(2)?,
        rbx_offset: field(3)?,
    })
}

/// Magic to build ID: what the file of a binary must begin with.
fn identity(build_id: &BuildId, arch: Arch) -> Vec<u8> {
    // Another version of the agent may know more about the same binary.
    let version = crc(&[env!("CARGO_PKG_VERSION").as_bytes()]);
    let arch: u32 = match arch {
        Arch::X86_64 => 1,
        Arch::Aarch64 => 2,
    };
    let id = build_id.as_bytes();
    let mut out = MAGIC.to_vec();
    for word in [FORM, version, arch, id.len() as u32] {
        out.extend(word.to_le_bytes());
    }
    out.extend(id);
    out.resize(CRC_AT - 4, 0);
    out
}

/// What a file has before its pages.
fn head(build_id: &BuildId, arch: Arch, pages: &BTreeMap<u64, Page<'_>>) -> Vec<u8> {
    let mut header = identity(build_id, arch);
    header.extend((pages.len() as u32).to_le_bytes());
    let mut directory = Vec::with_capacity(pages.len() * ENTRY_BYTES);
    let mut offset = (HEADER_BYTES + pages.len() * ENTRY_BYTES) as u64;
    for (number, page) in pages {
        let (rows, rules, crc) = page.figures();
        let entry = Entry { offset, rows, rules, crc };
        directory.extend([*number, offset].iter().flat_map(|word| word.to_le_bytes()));
        directory.extend([rows as u32, rules as u32, crc, 0].iter().flat_map(|word| word.to_le_bytes()));
        offset += entry.bytes() as u64;
    }
    header.extend(crc(&[&header, &directory]).to_le_bytes());
    header.extend(directory);
    header
}

/// The directory of a file that is what it should be.
fn read_directory(file: &File, build_id: &BuildId, arch: Arch) -> Option<BTreeMap<u64, Entry>> {
    let metadata = file.metadata().ok().filter(fs::Metadata::is_file)?;
    let mut header = [0; HEADER_BYTES];
    file.read_exact_at(&mut header, 0).ok()?;
    let (checked, sum) = header.split_at_checked(CRC_AT)?;
    let pages = checked.strip_prefix(identity(build_id, arch).as_slice())?;
    let count = u32::from_le_bytes(*pages.first_chunk()?) as usize;
    if count > MOST_PAGES {
        return None;
    }
    let mut directory = vec![0; count * ENTRY_BYTES];
    file.read_exact_at(&mut directory, HEADER_BYTES as u64).ok()?;
    if crc(&[checked, &directory]) != u32::from_le_bytes(*sum.first_chunk()?) {
        return None;
    }
    let entries = directory.chunks_exact(ENTRY_BYTES).map(|bytes| {
        let long = |at: usize| Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
        let word = |at: usize| Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
        let (rows, rules) = (word(16)? as usize, word(20)? as usize);
        let entry = Entry { offset: long(8)?, rows, rules, crc: word(24)? };
        let is_sane = (1..=MAX_PAGE_ROWS).contains(&rows) && (1..=limits::PAGE_RULES).contains(&rules);
        let end = entry.offset.checked_add(if is_sane { entry.bytes() as u64 } else { return None })?;
        (end <= metadata.len()).then_some((long(0)?, entry))
    });
    entries.collect()
}

fn crc(parts: &[&[u8]]) -> u32 {
    let mut crc = flate2::Crc::new();
    for part in parts {
        crc.update(part);
    }
    crc.sum()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;
    use crate::object::Elf;
    use crate::unwind_info::UnwindInfo;

    fn id(number: u8) -> BuildId {
        BuildId::new(&[number; 20]).unwrap()
    }

    /// Some pages of our own code.
    fn pages(count: usize) -> BTreeMap<u64, PageTable> {
        let info = UnwindInfo::open(Elf::open(File::open("/proc/self/exe").unwrap()).unwrap(), |_| None);
        let numbers = info.code_pages();
        numbers.into_iter().skip(20).take(count).map(|number| (number, info.page(number).unwrap())).collect()
    }

    fn cache() -> (tempfile::TempDir, Cache) {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(&folder.path().join("new/unwind")).unwrap();
        (folder, cache)
    }

    #[test]
    fn what_was_stored_is_loaded_and_added_to() {
        let (_folder, cache) = cache();
        let all = pages(4);
        assert!(cache.load(&id(1), Arch::X86_64).is_none());
        let mut first = all.clone();
        let second = first.split_off(all.keys().nth(2).unwrap());
        cache.store(&id(1), Arch::X86_64, &first).unwrap();
        cache.store(&id(1), Arch::X86_64, &second).unwrap();
        let loaded = cache.load(&id(1), Arch::X86_64).unwrap();
        assert_eq!(loaded.len(), 4);
        for (number, table) in &all {
            assert_eq!(loaded.page(*number).as_ref(), Some(table));
        }
        assert_eq!(loaded.page(u64::MAX), None);
        assert!(cache.load(&id(2), Arch::X86_64).is_none());
        // Another processor's file is not one of ours.
        assert!(cache.load(&id(1), Arch::Aarch64).is_none());
        assert!(cache.load(&id(1), Arch::X86_64).is_none(), "what is odd is removed");
        let mode = fs::metadata(&cache.directory).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }

    #[test]
    fn directories_that_others_can_write_to_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let open = folder.path().join("open");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, PermissionsExt::from_mode(0o777)).unwrap();
        assert!(Cache::open(&open).is_err());
        fs::set_permissions(&open, PermissionsExt::from_mode(0o755)).unwrap();
        assert!(Cache::open(&open).is_ok());
        symlink(&open, folder.path().join("link")).unwrap();
        assert!(Cache::open(&folder.path().join("link")).is_err());
        fs::write(folder.path().join("file"), "").unwrap();
        assert!(Cache::open(&folder.path().join("file")).is_err());
    }

    #[test]
    fn only_files_of_root_may_be_held() {
        assert!(Cache::may_hold(&File::open("/usr/bin/env").unwrap()));
        let own = tempfile::NamedTempFile::new().unwrap();
        fs::set_permissions(own.path(), PermissionsExt::from_mode(0o666)).unwrap();
        assert!(!Cache::may_hold(own.as_file()));
    }

    #[test]
    fn the_oldest_files_go_first() {
        let (_folder, cache) = cache();
        let pages = pages(1);
        for (number, age) in [(1, 30), (2, 10), (3, 20)] {
            cache.store(&id(number), Arch::X86_64, &pages).unwrap();
            let file = File::options().write(true).open(cache.path(&id(number))).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_mins(age)).unwrap();
        }
        let one = fs::metadata(cache.path(&id(1))).unwrap().len();
        let left = || [1, 2, 3].map(|number| cache.path(&id(number)).exists());
        cache.shrink(3 * one);
        assert_eq!(left(), [true, true, true]);
        cache.shrink(2 * one);
        assert_eq!(left(), [false, true, true]);
        cache.shrink(2 * one - 1);
        assert_eq!(left(), [false, true, false]);
        let abandoned = cache.directory.join(".writing-1-1");
        fs::write(&abandoned, "x").unwrap();
        cache.shrink(one);
        assert!(abandoned.exists());
        let file = File::options().write(true).open(&abandoned).unwrap();
        file.set_modified(SystemTime::now() - 2 * ABANDONED).unwrap();
        cache.shrink(one);
        assert!(!abandoned.exists());
    }

    #[test]
    fn writers_at_the_same_time_leave_a_whole_file() {
        let (_folder, cache) = cache();
        let all = pages(4);
        std::thread::scope(|scope| {
            for (number, table) in &all {
                let (cache, page) = (&cache, BTreeMap::from([(*number, table.clone())]));
                scope.spawn(move || {
                    for _ in 0..5 {
                        cache.store(&id(1), Arch::X86_64, &page).unwrap();
                    }
                });
            }
            for _ in 0..50 {
                if let Some(loaded) = cache.load(&id(1), Arch::X86_64) {
                    assert!(
                        loaded
                            .directory
                            .keys()
                            .all(|number| loaded.page(*number).as_ref() == all.get(number))
                    );
                }
            }
        });
        assert!(!cache.load(&id(1), Arch::X86_64).unwrap().is_empty());
        assert_eq!(fs::read_dir(&cache.directory).unwrap().count(), 1);
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]
        #[test]
        fn damaged_files_are_refused(
            changes in proptest::collection::vec((proptest::num::usize::ANY, 1u8..), 0..4),
            cut in 0..2000_usize,
            resum in proptest::bool::ANY,
        ) {
            thread_local!(static PAGES: BTreeMap<u64, PageTable> = pages(2));
            let pages = PAGES.with(Clone::clone);
            let (_folder, cache) = cache();
            cache.store(&id(1), Arch::X86_64, &pages).unwrap();
            let path = cache.path(&id(1));
            let mut bytes = fs::read(&path).unwrap();
            // How long the file is depends on the program whose pages are in it.
            bytes.truncate(bytes.len().saturating_sub(cut));
            for (at, change) in changes {
                let at = at % bytes.len().max(1);
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= change;
                }
            }
            let directory = HEADER_BYTES..HEADER_BYTES + 2 * ENTRY_BYTES;
            if resum && bytes.len() >= directory.end {
                // Somebody who can count: the sums are right, the contents are not.
                for page in 0..2 {
                    let at = directory.start + page * ENTRY_BYTES;
                    let start = u64::from_le_bytes(bytes[at + 8..at + 16].try_into().unwrap()) as usize;
                    let rows = u32::from_le_bytes(bytes[at + 16..at + 20].try_into().unwrap()) as usize;
                    let rules = u32::from_le_bytes(bytes[at + 20..at + 24].try_into().unwrap()) as usize;
                    let len = rows.saturating_mul(4).saturating_add(rules.saturating_mul(16));
                    let sum = bytes.get(start..start.saturating_add(len)).map_or(0, |body| crc(&[body]));
                    bytes[at + 24..at + 28].copy_from_slice(&sum.to_le_bytes());
                }
                let sum = crc(&[&bytes[..CRC_AT], &bytes[directory]]);
                bytes[CRC_AT..HEADER_BYTES].copy_from_slice(&sum.to_le_bytes());
            }
            fs::write(&path, &bytes).unwrap();
            let Some(loaded) = cache.load(&id(1), Arch::X86_64) else {
                proptest::prop_assert!(!path.exists());
                return Ok(());
            };
            for number in loaded.directory.keys() {
                let Some(table) = loaded.page(*number) else { continue };
                proptest::prop_assert!(resum || Some(&table) == pages.get(number));
                proptest::prop_assert!(table.rows.iter().all(|row| usize::from(row.rule()) < table.rules.len()));
                proptest::prop_assert!(table.rows.is_sorted_by_key(|row| row.offset()) && table.rows[0].offset() == 0);
            }
        }
    }
}
