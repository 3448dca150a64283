//! GNU build IDs: the identity of an object's contents, the same in the object and in its separate debug file.
//!
//! In: an [`Elf`]'s note segments, or note sections where there are no segments (debug files may have damaged ones).
//! Out: the ID. It is not verified against the contents; nobody can.

use std::fmt;

use object::elf;

use super::{Elf, limits};

/// Type of the note that holds the ID, under the name `GNU` (binutils `include/elf/common.h`, `NT_GNU_BUILD_ID`).
const NT_GNU_BUILD_ID: u32 = 3;

/// Longest ID that is taken. Linkers write 8 (lld `fast`), 16 (MD5, UUID), 20 (SHA-1) or 32 bytes.
const LONGEST_BYTES: usize = 64;

/// A GNU build ID.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BuildId(Box<[u8]>);

impl BuildId {
    /// An ID from its bytes; none when empty or longer than any linker writes.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        (1..=LONGEST_BYTES).contains(&bytes.len()).then(|| Self(bytes.into()))
    }

    /// The raw bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The build ID of an object, if it has one.
    pub fn of(elf: &Elf) -> Option<Self> {
        let segments = elf.segments().iter().filter(|segment| segment.kind == elf::PT_NOTE);
        let segments = segments.map(|segment| (segment.file_offset, segment.file_size));
        let sections = elf.sections().iter().filter(|section| section.kind == elf::SHT_NOTE);
        let sections = sections.map(|section| (section.file_offset, section.size));
        // Segments are what the kernel loads; but in a debug file they may describe bytes that are not there.
        segments.chain(sections).find_map(|(offset, size)| {
            let bytes = elf.source().read_at(offset, size.min(limits::NOTES_BYTES)).ok()?;
            Self::in_notes(&bytes)
        })
    }

    /// Finds the ID in a run of notes: three 32-bit words (name size, content size, type), name, content, each
    /// padded to four bytes.
    pub(crate) fn in_notes(mut notes: &[u8]) -> Option<Self> {
        loop {
            let (header, rest) = notes.split_at_checked(12)?;
            let word =
                |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
            let (name_size, content_size, kind) = (word(0) as usize, word(4) as usize, word(8));
            let name = rest.get(..name_size)?;
            let rest = rest.get(name_size.checked_next_multiple_of(4)?..)?;
            let content = rest.get(..content_size)?;
            if kind == NT_GNU_BUILD_ID && name == b"GNU\0" {
                return Self::new(content);
            }
            notes = rest.get(content_size.checked_next_multiple_of(4)?..)?;
        }
    }
}

impl fmt::Display for BuildId {
    /// Lower-case hex, as `file` and `readelf -n` print it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for BuildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BuildId({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(name: &[u8], kind: u32, content: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        for word in [name.len() as u32, content.len() as u32, kind] {
            out.extend(word.to_le_bytes());
        }
        for part in [name, content] {
            out.extend(part);
            out.resize(out.len().next_multiple_of(4), 0);
        }
        out
    }

    #[test]
    fn the_id_is_found_behind_other_notes() {
        let mut notes = note(b"GNU\0", 1, &[0; 16]);
        notes.extend(note(b"Go\0\0", 4, b"odd length"));
        notes.extend(note(b"GNU\0", 3, &[0xab, 0xcd, 0x01]));
        assert_eq!(BuildId::in_notes(&notes).unwrap().to_string(), "abcd01");
        assert_eq!(BuildId::in_notes(&notes[..notes.len() - 2]), None);
        assert_eq!(BuildId::in_notes(&note(b"GNU\0", 3, &[])), None);
    }

    #[test]
    fn libc_has_one_of_twenty_bytes() {
        let libc = std::fs::read_to_string("/proc/self/maps").unwrap();
        let path =
            libc.lines().find_map(|line| line.split_whitespace().nth(5).filter(|p| p.contains("libc.so")));
        // A test binary that is linked statically has no libc to look at.
        if let Some(path) = path {
            let elf = Elf::open(std::fs::File::open(path).unwrap()).unwrap();
            assert_eq!(BuildId::of(&elf).unwrap().as_bytes().len(), 20);
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let _ = BuildId::in_notes(&bytes);
        }
    }
}
