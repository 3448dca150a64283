//! Separate debug files: where distributions and build systems put the symbols that they strip.
//!
//! In: an [`Elf`], the path under which the target runs it, and the root directories to search. Out: the file that
//! belongs to it. A candidate must prove that: by an equal build ID, or by the CRC of `.gnu_debuglink` where one of
//! the two has no ID. Nothing is fetched from the network.

use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::{BuildId, Elf, ObjectError, Result, Section, limits, open_in_root};

/// Where to look for debug files.
#[derive(Debug, Clone, Copy)]
pub struct DebugFiles<'a> {
    /// Directories that stand for `/`, in the order to try: the target's root, then the host's where it differs.
    pub roots: &'a [BorrowedFd<'a>],
    /// Debug directories inside each root: `/usr/lib/debug`.
    pub dirs: &'a [PathBuf],
}

impl DebugFiles<'_> {
    /// The separate debug file of an object, and where it was found.
    ///
    /// `path` is the object's own path as the target sees it; debug links are relative to it.
    pub fn find(&self, elf: &Elf, path: &Path) -> Option<(Elf, PathBuf)> {
        let build_id = BuildId::of(elf);
        let by_id = build_id.as_ref().and_then(|id| {
            let name = by_build_id(id)?;
            self.first(self.dirs.iter().map(|dir| dir.join(&name)), |found| has_id(found, id))
        });
        by_id.or_else(|| {
            let (link, crc) = debug_link(elf)?;
            let dir = path.parent()?;
            let beside = [dir.join(&link), dir.join(".debug").join(&link)];
            let inside = dir.strip_prefix("/").unwrap_or(dir);
            let below = self.dirs.iter().map(|debug_dir| debug_dir.join(inside).join(&link));
            self.first(beside.into_iter().chain(below), |found| match (&build_id, BuildId::of(found)) {
                (Some(wanted), Some(id)) => *wanted == id,
                _ => crc32(found).is_some_and(|sum| sum == crc),
            })
        })
    }

    /// The first candidate that opens, parses and passes the check.
    fn first(
        &self,
        candidates: impl Iterator<Item = PathBuf>,
        belongs: impl Fn(&Elf) -> bool,
    ) -> Option<(Elf, PathBuf)> {
        candidates.into_iter().find_map(|path| {
            self.roots.iter().find_map(|root| {
                let found = Elf::open(open_in_root(*root, &path).ok()?).ok()?;
                // A link may lead back to the stripped file itself.
                (has_symbols(&found) && belongs(&found)).then(|| (found, path.clone()))
            })
        })
    }
}

/// The supplementary file that `dwz` moved shared debug information to, named by `.gnu_debugaltlink`.
///
/// `path` is the debug file's own path; the link is relative to it, or absolute.
pub fn supplementary(files: &DebugFiles<'_>, elf: &Elf, path: &Path) -> Option<Elf> {
    let contents = small_section(elf, ".gnu_debugaltlink")?;
    let end = contents.iter().position(|byte| *byte == 0)?;
    let id = BuildId::new(&contents[end + 1..])?;
    let link = Path::new(std::ffi::OsStr::from_bytes(&contents[..end]));
    let by_name = path.parent().map(|dir| dir.join(link));
    let by_id = by_build_id(&id);
    let by_id = by_id.iter().flat_map(|name| files.dirs.iter().map(move |dir| dir.join(name)));
    files.first(by_name.into_iter().chain(by_id), |found| has_id(found, &id)).map(|(found, _)| found)
}

/// The small symbol table that some distributions keep, compressed, inside the stripped object itself
/// (`.gnu_debugdata`, "MiniDebugInfo"): functions that the dynamic table does not export.
///
/// # Errors
/// When the section is damaged or unpacks to more than the limit.
pub fn mini_debug_info(elf: &Elf) -> Result<Option<Elf>> {
    use std::io::Read;

    let Some(section) = elf.section(".gnu_debugdata").filter(|section| section.has_bytes()) else {
        return Ok(None);
    };
    if section.size > limits::MINI_DEBUG_BYTES {
        return Err(ObjectError::Limit("mini debug info"));
    }
    let packed = elf.source().read_at(section.file_offset, section.size)?;
    let decoder_kb = (limits::MINI_DEBUG_DECODER_BYTES >> 10) as u32;
    let reader = lzma_rust2::XzReader::new_mem_limit(&packed[..], false, decoder_kb);
    let mut unpacked = Vec::new();
    // One byte more than allowed, to tell "just fits" from "too much".
    reader
        .take(limits::MINI_DEBUG_BYTES + 1)
        .read_to_end(&mut unpacked)
        .map_err(|_| ObjectError::Damaged("mini debug info"))?;
    if unpacked.len() as u64 > limits::MINI_DEBUG_BYTES {
        return Err(ObjectError::Limit("mini debug info"));
    }
    Elf::from_bytes(unpacked).map(Some)
}

/// `.build-id/ab/cdef….debug`: the layout that gdb defined and distributions install.
fn by_build_id(id: &BuildId) -> Option<PathBuf> {
    let hex = id.to_string();
    let (first, rest) = hex.split_at_checked(2)?;
    (!rest.is_empty()).then(|| PathBuf::from(format!(".build-id/{first}/{rest}.debug")))
}

fn has_symbols(elf: &Elf) -> bool {
    let has = |name| elf.section(name).is_some_and(Section::has_bytes);
    [".symtab", ".debug_info", ".zdebug_info"].into_iter().any(has)
}

fn has_id(elf: &Elf, id: &BuildId) -> bool {
    BuildId::of(elf).is_some_and(|found| found == *id)
}

/// File name and CRC from `.gnu_debuglink`: a zero-terminated name, padded to four bytes, then the CRC.
fn debug_link(elf: &Elf) -> Option<(PathBuf, u32)> {
    let contents = small_section(elf, ".gnu_debuglink")?;
    let end = contents.iter().position(|byte| *byte == 0)?;
    let crc = contents.get((end + 1).next_multiple_of(4)..)?.first_chunk()?;
    let name = Path::new(std::ffi::OsStr::from_bytes(&contents[..end]));
    // The section holds a name, not a path; anything else would search in surprising places.
    (name.file_name() == Some(name.as_os_str())).then(|| (name.to_owned(), u32::from_le_bytes(*crc)))
}

fn small_section(elf: &Elf, name: &str) -> Option<Vec<u8>> {
    let section = elf.section(name)?;
    (section.has_bytes() && section.size <= limits::PATH_BYTES + limits::NOTES_BYTES)
        .then(|| elf.source().read_at(section.file_offset, section.size).ok())?
}

/// CRC-32 of a whole file, as `.gnu_debuglink` wants it; none when the file is over the limit.
fn crc32(elf: &Elf) -> Option<u32> {
    let (source, mut crc) = (elf.source(), flate2::Crc::new());
    if source.len() > limits::CRC_BYTES {
        return None;
    }
    let mut buffer = vec![0; 256 << 10];
    let mut at = 0;
    while at < source.len() {
        let part = &mut buffer[..(source.len() - at).min(256 << 10) as usize];
        source.read_exact_at(at, part).ok()?;
        crc.update(part);
        at += part.len() as u64;
    }
    Some(crc.sum())
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::fd::AsFd;

    use super::*;
    use crate::object::fixtures;

    /// Puts fixtures into a directory that stands for `/`, and searches there.
    fn find(files: &[(&str, &str)], object: &str, path: &str) -> Option<PathBuf> {
        let root = tempfile::tempdir().unwrap();
        for (fixture, place) in files {
            let place = root.path().join(place);
            fs::create_dir_all(place.parent().unwrap()).unwrap();
            fs::copy(fixtures::path(fixture), place).unwrap();
        }
        let dir = File::open(root.path()).unwrap();
        let files = DebugFiles { roots: &[dir.as_fd()], dirs: &[PathBuf::from("/usr/lib/debug")] };
        files.find(&fixtures::elf(object), Path::new(path)).map(|(_, path)| path)
    }

    #[test]
    fn a_build_id_leads_to_the_file_that_has_the_same() {
        let name = by_build_id(&BuildId::of(&fixtures::elf("stripped.so")).unwrap()).unwrap();
        let place = format!("usr/lib/debug/{}", name.display());
        let found = find(&[("inlines.debug", &place)], "stripped.so", "/opt/stripped.so");
        assert_eq!(found, Some(PathBuf::from("/").join(&place)));
        assert_eq!(find(&[("no-id.debug", &place)], "stripped.so", "/opt/stripped.so"), None);
        assert_eq!(find(&[("stripped.so", &place)], "stripped.so", "/opt/stripped.so"), None);
    }

    #[test]
    fn a_link_leads_to_the_file_of_that_checksum_in_each_usual_place() {
        for place in ["opt/no-id.debug", "opt/.debug/no-id.debug", "usr/lib/debug/opt/no-id.debug"] {
            let found = find(&[("no-id.debug", place)], "linked.so", "/opt/linked.so");
            assert_eq!(found, Some(PathBuf::from("/").join(place)));
            assert_eq!(
                find(&[("inlines.debug", place)], "linked.so", "/opt/linked.so"),
                None,
                "other checksum"
            );
        }
        assert_eq!(find(&[("no-id.debug", "srv/no-id.debug")], "linked.so", "/opt/linked.so"), None);
    }

    #[test]
    fn the_small_table_is_unpacked_and_its_damage_is_an_error() {
        let mini = mini_debug_info(&fixtures::elf("mini.so")).unwrap().unwrap();
        assert!(mini.section(".symtab").is_some());
        assert!(mini_debug_info(&fixtures::elf("stripped.so")).unwrap().is_none());
        let mut bytes = fs::read(fixtures::path("mini.so")).unwrap();
        let offset = fixtures::elf("mini.so").section(".gnu_debugdata").unwrap().file_offset as usize;
        bytes[offset + 40..offset + 80].fill(0xff);
        assert!(mini_debug_info(&Elf::from_bytes(bytes).unwrap()).is_err());
    }

    #[test]
    fn shared_information_is_found_beside_the_file() {
        let dir = File::open(fixtures::path("")).unwrap();
        let files = DebugFiles { roots: &[dir.as_fd()], dirs: &[] };
        assert!(supplementary(&files, &fixtures::elf("dwz.so"), Path::new("/dwz.so")).is_some());
        assert!(supplementary(&files, &fixtures::elf("dwz.so"), Path::new("/elsewhere/dwz.so")).is_none());
        assert!(supplementary(&files, &fixtures::elf("inlines.so"), Path::new("/inlines.so")).is_none());
    }
}
