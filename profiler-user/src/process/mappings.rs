//! The executable mappings of one process: a sorted list without overlaps.

use std::sync::atomic::{AtomicU64, Ordering};

use super::objects::ObjectId;

/// Most mappings that are kept of one process. The kernel's own limit (`vm.max_map_count`) is 65,530 by default; a process that raises it to
/// hide from profilers, or by accident, does not take our memory with it.
const MAX_REGIONS: usize = 1 << 17;

/// What lies at a range of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Placement {
    /// A file, mapped from `file_offset` on.
    Object {
        /// The file.
        object: ObjectId,
        /// Offset in the file of the region's first address.
        file_offset: u64,
    },
    /// The kernel's vDSO.
    Vdso,
    /// Anonymous memory or a pseudo-file: code made at run time.
    Anonymous,
}

/// A range of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region {
    /// First address.
    pub start: u64,
    /// End, exclusive.
    pub end: u64,
    /// What lies there.
    pub placement: Placement,
}

/// The executable mappings of one process.
#[derive(Debug, Clone, Default)]
pub struct Mappings {
    regions: Vec<Region>,
    /// Zero for none, else never the same for two states of any process's mappings.
    version: u64,
}

/// The next [`Mappings::version`].
static VERSIONS: AtomicU64 = AtomicU64::new(1);

impl Mappings {
    /// Maps a region, replacing what was there, as `mmap` with `MAP_FIXED` does. Empty regions are ignored, and so is anything past
    /// the limit on their number.
    pub fn insert(&mut self, new: Region) {
        if new.start >= new.end || self.regions.len() >= MAX_REGIONS {
            return;
        }
        let first = self.regions.partition_point(|region| region.end <= new.start);
        let last = self.regions.partition_point(|region| region.start < new.end);
        let mut pieces = Vec::with_capacity(3);
        if let Some(left) = self.regions.get(first).filter(|region| region.start < new.start && first < last)
        {
            pieces.push(Region { end: new.start, ..*left });
        }
        pieces.push(new);
        if let Some(right) = self.regions[first..last].last().filter(|region| region.end > new.end) {
            pieces.push(tail_of(right, new.end));
        }
        self.regions.splice(first..last, pieces);
        self.version = VERSIONS.fetch_add(1, Ordering::Relaxed);
    }

    /// The region that holds an address.
    pub fn find(&self, abs_addr: u64) -> Option<&Region> {
        let index = self.regions.partition_point(|region| region.end <= abs_addr);
        self.regions.get(index).filter(|region| region.start <= abs_addr)
    }

    /// What tells two states of mappings apart; copies share it until one of them changes.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// All regions, by address.
    pub fn regions(&self) -> &[Region] {
        &self.regions
    }
}

fn tail_of(region: &Region, start: u64) -> Region {
    let placement = match region.placement {
        Placement::Object { object, file_offset } => {
            Placement::Object { object, file_offset: file_offset.wrapping_add(start - region.start) }
        }
        other => other,
    };
    Region { start, end: region.end, placement }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(start: u64, end: u64, object: u32) -> Region {
        Region { start, end, placement: Placement::Object { object: ObjectId(object), file_offset: start } }
    }

    #[test]
    fn a_new_mapping_cuts_what_it_covers() {
        let mut mappings = Mappings::default();
        mappings.insert(region(0x1000, 0x9000, 1));
        mappings.insert(region(0x3000, 0x4000, 2));
        assert_eq!(
            mappings.regions(),
            [region(0x1000, 0x3000, 1), region(0x3000, 0x4000, 2), region(0x4000, 0x9000, 1)]
        );
        mappings.insert(region(0x2000, 0x5000, 3));
        assert_eq!(
            mappings.regions(),
            [region(0x1000, 0x2000, 1), region(0x2000, 0x5000, 3), region(0x5000, 0x9000, 1)]
        );
        assert_eq!(mappings.find(0x4fff), Some(&region(0x2000, 0x5000, 3)));
        assert_eq!((mappings.find(0xfff), mappings.find(0x9000)), (None, None));
    }

    proptest::proptest! {
        #[test]
        fn the_newest_mapping_of_an_address_wins(inserts in proptest::collection::vec((0u64..64, 1u64..16), 1..40)) {
            let mut mappings = Mappings::default();
            let mut truth = [None; 96];
            for (id, (start, length)) in inserts.iter().enumerate() {
                mappings.insert(region(*start, start + length, id as u32));
                truth[*start as usize..(start + length) as usize].fill(Some(id as u32));
            }
            for (address, expected) in truth.iter().enumerate() {
                let found = mappings.find(address as u64).map(|region| match region.placement {
                    Placement::Object { object, file_offset } => (object.0, file_offset + (address as u64 - region.start)),
                    _ => unreachable!("only objects were inserted"),
                });
                proptest::prop_assert_eq!(found, expected.map(|id| (id, address as u64)));
            }
            proptest::prop_assert!(mappings.regions().windows(2).all(|pair| pair[0].end <= pair[1].start));
        }
    }
}
