//! The kernel side's unwind tables, as maps: address spaces, mappings, page directory, row slabs, rules.

use aya::maps::lpm_trie::Key;
use aya::maps::{ArrayOfMaps, HashMap, LpmTrie, MapData};
use profiler_common::mapping::{MAX_PAGES, MAX_RULES, Mapping, MappingKey};
use std::os::fd::AsFd;

use super::memory::SharedMemory;
use super::slabs::Slabs;
use super::{LoadError, loader};

/// The maps that say how to walk.
#[derive(Debug)]
pub struct TableMaps {
    /// Address spaces and mappings.
    pub(crate) spaces: SpaceMaps,
    /// Page directory, rows, rules.
    pub(crate) pool: PoolMaps,
}

/// The maps of address spaces and mappings.
#[derive(Debug)]
pub(crate) struct SpaceMaps {
    spaces: HashMap<MapData, u32, u32>,
    mappings: LpmTrie<MapData, MappingKey, Mapping>,
}

/// The maps of pages, rows and rules.
#[derive(Debug)]
pub(crate) struct PoolMaps {
    slabs: Slabs,
    /// The page directory.
    pub(crate) pages: SharedMemory,
    /// The rules: two words each.
    pub(crate) rules: SharedMemory,
    /// The kernel keeps the memory; we keep the descriptors, so that it is counted as ours.
    _owners: [Option<MapData>; 2],
}

impl TableMaps {
    /// Takes the maps over from the loaded object.
    ///
    /// # Errors
    ///
    /// A map is missing, of another type, or cannot be mapped.
    pub(super) fn take(ebpf: &mut aya::Ebpf) -> Result<Self, LoadError> {
        let typed = |name: &'static str| move |source| loader::map_error(name, source);
        let pages = loader::array(ebpf, "PAGES")?;
        let rules = loader::array(ebpf, "RULES")?;
        let shared = |map: &MapData, name: &'static str, bytes: usize| {
            SharedMemory::of_map(map.fd().as_fd(), bytes)
                .map_err(|source| LoadError::Memory { map: name, source })
        };
        Ok(Self {
            spaces: SpaceMaps {
                spaces: HashMap::try_from(loader::take_map(ebpf, "SPACES")?).map_err(typed("SPACES"))?,
                mappings: LpmTrie::try_from(loader::take_map(ebpf, "MAPPINGS")?)
                    .map_err(typed("MAPPINGS"))?,
            },
            pool: PoolMaps {
                slabs: Slabs::of(
                    ArrayOfMaps::try_from(loader::take_map(ebpf, "SLABS")?).map_err(typed("SLABS"))?,
                ),
                pages: shared(&pages, "PAGES", MAX_PAGES as usize * 8)?,
                rules: shared(&rules, "RULES", MAX_RULES as usize * 16)?,
                _owners: [Some(pages), Some(rules)],
            },
        })
    }
}

impl SpaceMaps {
    /// Says in which address space a process is. False when the table is full.
    pub(crate) fn set_space(&mut self, pid: u32, space: u32) -> bool {
        self.spaces.insert(pid, space, 0).is_ok()
    }

    /// Forgets a process; an unknown one is fine.
    pub(crate) fn clear_space(&mut self, pid: u32) {
        let _absent_is_fine = self.spaces.remove(&pid);
    }

    /// Adds one prefix of a mapping. False when the trie is full.
    pub(crate) fn add_mapping(&mut self, prefix_bits: u32, key: MappingKey, mapping: Mapping) -> bool {
        self.mappings.insert(&Key::new(prefix_bits, key), mapping, 0).is_ok()
    }

    /// Removes one prefix of a mapping; false when it was not there.
    pub(crate) fn remove_mapping(&mut self, prefix_bits: u32, key: MappingKey) -> bool {
        self.mappings.remove(&Key::new(prefix_bits, key)).is_ok()
    }
}

impl PoolMaps {
    /// Memory without a kernel side.
    #[cfg(test)]
    pub(crate) fn anonymous() -> Self {
        Self {
            slabs: Slabs::anonymous(),
            pages: SharedMemory::anonymous(MAX_PAGES as usize * 8),
            rules: SharedMemory::anonymous(MAX_RULES as usize * 16),
            _owners: [None, None],
        }
    }

    /// Slabs in the row pool.
    pub(crate) fn slabs(&self) -> usize {
        self.slabs.len()
    }

    /// Adds a slab to the row pool.
    ///
    /// # Errors
    ///
    /// The kernel has no memory for it, or the pool has all the slabs that it can have.
    pub(crate) fn add_slab(&mut self) -> Result<(), LoadError> {
        self.slabs.add()
    }

    /// The rows of a slab; none when it does not exist or cannot be mapped.
    pub(crate) fn slab<T>(&self, slab: u16, look: impl FnOnce(&SharedMemory) -> T) -> Option<T> {
        self.slabs.with(slab, look)
    }
}
