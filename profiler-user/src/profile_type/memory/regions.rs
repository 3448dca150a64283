//! What kind of memory an address is: a look into `/proc/PID/maps` at the time of the sample.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;

use super::pages::{FolioSizes, PRESENT, page_bytes};
use crate::profile::clean;

/// Most bytes of a `maps` file that are read: a hundred thousand mappings.
const MOST_BYTES: u64 = 8 << 20;
/// Ticks after which mappings are read anew, about a second.
const TICKS_BETWEEN_READS: u64 = 10;
/// Bytes that a read fault on a file maps at once, as far as they are cached: `fault_around_bytes`, mm/memory.c.
const FAULT_AROUND_BYTES: u64 = 64 << 10;

/// What memory is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// The process's own: heap, stacks, anonymous mappings, private copies of files.
    Anonymous,
    /// Pages of files, and memory shared with other processes.
    File,
    /// The mapping is not there any more.
    Unknown,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Region {
    start: u64,
    end: u64,
    class: Class,
    /// A fault on it maps what is cached around it.
    faults_around: bool,
    /// Name of the frame at the root of its stacks.
    root: String,
}

/// A fault, put into its place.
pub(super) struct Fault<'a> {
    pub(super) class: Class,
    pub(super) root: String,
    pagemap: Option<&'a File>,
    /// Where pages may have been mapped along with it.
    window: Option<(u64, u64)>,
}

/// A fault with its size.
pub(super) struct SizedFault {
    pub(super) class: Class,
    pub(super) root: String,
    /// Bytes of one such fault.
    pub(super) bytes: u64,
}

/// The mappings of one process.
#[derive(Debug, Default)]
pub(super) struct Space {
    /// Held open, they stay those of the same address space whatever the process becomes.
    maps: Option<File>,
    pagemap: Option<File>,
    regions: Vec<Region>,
    read_at_tick: Option<u64>,
}

impl Space {
    pub(super) fn open(pid: u32) -> Self {
        let open = |name| File::open(format!("/proc/{pid}/{name}")).ok();
        Self { maps: open("maps"), pagemap: open("pagemap"), ..Self::default() }
    }

    /// Where the fault at an address belongs. `tick` is the clock: mappings are read anew after a while, and once a tick for addresses that
    /// are not in them.
    pub(super) fn fault(&mut self, address: u64, tick: u64) -> Fault<'_> {
        let age = self.read_at_tick.map(|read| tick.saturating_sub(read));
        if age.is_none_or(|age| age >= TICKS_BETWEEN_READS)
            || (age != Some(0) && find(&self.regions, address).is_none())
        {
            self.read_at_tick = Some(tick);
            self.read();
        }
        let Some(region) = find(&self.regions, address) else {
            return Fault {
                class: Class::Unknown,
                root: "[unknown memory]".to_owned(),
                pagemap: None,
                window: None,
            };
        };
        let start = address & !(FAULT_AROUND_BYTES - 1);
        let window = (start.max(region.start), start.saturating_add(FAULT_AROUND_BYTES).min(region.end));
        Fault {
            class: region.class,
            root: region.root.clone(),
            pagemap: self.pagemap.as_ref(),
            window: region.faults_around.then_some(window),
        }
    }

    /// Where the heap that `brk` moves ends.
    pub(super) fn heap_end(&mut self) -> Option<u64> {
        if self.read_at_tick.is_none() {
            self.read();
        }
        self.regions.iter().find(|region| region.root == "[heap]").map(|region| region.end)
    }

    fn read(&mut self) {
        let Some(maps) = &mut self.maps else { return };
        let mut text = Vec::new();
        // A process that has ended has no mappings any more; those that it had are still good.
        let read = std::io::Seek::rewind(maps).and_then(|()| maps.take(MOST_BYTES).read_to_end(&mut text));
        if read.is_ok_and(|read| read > 0) {
            self.regions = parse(&text);
        }
    }
}

impl Fault<'_> {
    /// Looks up how many bytes were mapped.
    pub(super) fn sized(self, address: u64, folios: &mut FolioSizes) -> SizedFault {
        let page = page_bytes();
        let entries = |start: u64, end: u64| -> Option<Vec<u8>> {
            let mut entries = vec![0; ((end.saturating_sub(start)) / page).min(64) as usize * 8];
            self.pagemap?.read_exact_at(&mut entries, start / page * 8).ok()?;
            Some(entries)
        };
        let bytes = if let Some((start, end)) = self.window {
            entries(start, end).map(|entries| {
                let present = entries.chunks_exact(8).filter(|entry| word(entry) & PRESENT != 0).count();
                (present as u64).max(1) * page
            })
        } else {
            let start = address & !(page - 1);
            entries(start, start.saturating_add(page)).map(|entry| folios.bytes(word(&entry)))
        };
        SizedFault { class: self.class, root: self.root, bytes: bytes.unwrap_or(page) }
    }
}

fn word(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or(0, |word| u64::from_ne_bytes(*word))
}

fn find(regions: &[Region], address: u64) -> Option<&Region> {
    let after = regions.partition_point(|region| region.start <= address);
    regions.get(after.checked_sub(1)?).filter(|region| address < region.end)
}

/// Reads the lines of `/proc/PID/maps` (proc_pid_maps(5)), which come in the order of addresses. Lines that make no sense are left out.
fn parse(text: &[u8]) -> Vec<Region> {
    text.split(|byte| *byte == b'\n').filter_map(parse_line).collect()
}

fn parse_line(line: &[u8]) -> Option<Region> {
    let mut fields = line.splitn(6, |byte| *byte == b' ');
    let mut field = || fields.next().and_then(|field| std::str::from_utf8(field).ok());
    let (start, end) = field()?.split_once('-')?;
    let number = |text| u64::from_str_radix(text, 16).ok();
    let (start, end) = (number(start)?, number(end)?);
    let permissions = field()?.as_bytes();
    let (_offset, _device, inode) = (field()?, field()?, field()?);
    let path = fields.next().unwrap_or_default();
    let path = &path[path.iter().position(|byte| *byte != b' ').unwrap_or(path.len())..];
    let (writable, shared) = (permissions.get(1) == Some(&b'w'), permissions.get(3) == Some(&b's'));
    let (class, root) = name(path, inode != "0", writable, shared);
    let faults_around = class == Class::File && !writable;
    (start < end).then_some(Region { start, end, class, faults_around, root })
}

fn name(path: &[u8], has_inode: bool, writable: bool, shared: bool) -> (Class, String) {
    let file = clean(path.rsplit(|byte| *byte == b'/').next().unwrap_or(path));
    if !has_inode {
        let root = match path {
            b"" => "[anonymous]".to_owned(),
            // `[heap]`, `[stack]`, `[anon:name]`
            _ => clean(path),
        };
        return (Class::Anonymous, root);
    }
    if shared
        && (path.starts_with(b"/dev/shm/") || path.starts_with(b"/memfd:") || path.starts_with(b"/SYSV"))
    {
        (Class::File, format!("[shared memory {file}]"))
    } else if shared && path.starts_with(b"/dev/zero") {
        (Class::File, "[shared memory]".to_owned())
    } else if writable && !shared {
        // Reading it maps the file's page; but who maps a file to be written privately means to write.
        (Class::Anonymous, format!("[private copy of {file}]"))
    } else {
        (Class::File, format!("[file {file}]"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: &[u8] =
        b"55d0c0000000-55d0c0001000 r-xp 00001000 fe:00 1234                       /usr/bin/red is
55d0c1000000-55d0c1021000 rw-p 00000000 00:00 0                          [heap]
7f0000000000-7f0000400000 rw-p 00000000 00:00 0 
7f0000500000-7f0000501000 rw-p 00002000 fe:00 99                         /usr/lib/libz.so.1 (deleted)
7f0000600000-7f0000700000 rw-s 00000000 00:01 17                         /dev/zero (deleted)
7f0000700000-7f0000800000 rw-s 00000000 00:01 18                         /memfd:x (deleted)
garbage
7f0000900000-7f0000800000 rw-p 0 0 0";

    #[test]
    fn every_kind_of_memory_has_its_name() {
        let regions = parse(MAPS);
        let found = |address| find(&regions, address).map(|region| (region.class, region.root.as_str()));
        assert_eq!(found(0x55d0_c000_0fff), Some((Class::File, "[file red is]")));
        assert_eq!(found(0x55d0_c000_1000), None);
        assert_eq!(found(0x55d0_c100_0000), Some((Class::Anonymous, "[heap]")));
        assert_eq!(found(0x7f00_0020_0000), Some((Class::Anonymous, "[anonymous]")));
        assert_eq!(
            found(0x7f00_0050_0000),
            Some((Class::Anonymous, "[private copy of libz.so.1 (deleted)]"))
        );
        assert_eq!(found(0x7f00_0060_0000), Some((Class::File, "[shared memory]")));
        assert_eq!(found(0x7f00_0070_0000), Some((Class::File, "[shared memory memfd:x (deleted)]")));
        assert_eq!((found(0), regions.len()), (None, 6));
        assert!(regions[0].faults_around && !regions[4].faults_around);
    }

    #[test]
    fn our_own_memory_is_found_and_has_a_size() {
        let mut space = Space::open(std::process::id());
        let value = Box::new(7_u64);
        let address = &raw const *value as u64;
        let fault = space.fault(address, 1).sized(address, &mut FolioSizes::open());
        assert_eq!(fault.class, Class::Anonymous);
        assert!(fault.bytes >= page_bytes() && fault.bytes.is_multiple_of(page_bytes()));
        assert_eq!(space.fault(0, 1).class, Class::Unknown);
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_regions_or_nothing(text in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
            let _ = parse(&text);
        }
    }
}
