//! The row slabs of the unwind tables: arrays of the kernel's, of which only those in use are mapped.
//!
//! Rows are written when a page of code is first met and read when a walk is finished in user space; between, a host's tables of some
//! 20 MB would count as the agent's memory for nothing: the kernel has them either way.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::os::fd::AsFd;

use aya::maps::{ArrayOfMaps, MapData};
use profiler_common::mapping::SLAB_ROWS;

use super::memory::SharedMemory;
use super::{LoadError, loader};

/// Slabs that are mapped at the same time, 2 MiB in all: a walk goes back and forth between a few.
const MOST_MAPPED: usize = 8;

/// Bytes of a slab.
const BYTES: usize = SLAB_ROWS * 4;

/// All slabs of a recording.
#[derive(Debug)]
pub(super) struct Slabs {
    kind: Kind,
    count: usize,
    /// Those that were used last, the last one first.
    mapped: RefCell<VecDeque<(u16, SharedMemory)>>,
}

#[derive(Debug)]
enum Kind {
    /// The kernel keeps the memory; we keep the descriptors, to map it, and so that it is counted as ours.
    Kernel { slabs: Box<ArrayOfMaps<MapData, MapData>>, owners: Vec<MapData> },
    /// Memory of our own, for tests without a kernel side: all of it stays mapped.
    #[cfg(test)]
    Anonymous,
}

impl Slabs {
    /// None yet.
    pub(super) fn of(slabs: ArrayOfMaps<MapData, MapData>) -> Self {
        let kind = Kind::Kernel { slabs: Box::new(slabs), owners: Vec::new() };
        Self { kind, count: 0, mapped: RefCell::default() }
    }

    #[cfg(test)]
    pub(super) fn anonymous() -> Self {
        Self { kind: Kind::Anonymous, count: 0, mapped: RefCell::default() }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// Adds one.
    pub(super) fn add(&mut self) -> Result<(), LoadError> {
        match &mut self.kind {
            Kind::Kernel { slabs, owners } => {
                let kind = aya_obj::generated::bpf_map_type::BPF_MAP_TYPE_ARRAY as u32;
                let flags = aya_obj::generated::BPF_F_MMAPABLE;
                let map = aya_obj::Map::new_from_params(kind, 4, BYTES as u32, 1, flags);
                let slab =
                    MapData::create(map, "ROWS", None).map_err(|source| loader::map_error("ROWS", source))?;
                slabs
                    .set(self.count as u32, &slab, 0)
                    .map_err(|source| loader::map_error("SLABS", source))?;
                owners.push(slab);
            }
            #[cfg(test)]
            Kind::Anonymous => {
                let slab = (self.count as u16, SharedMemory::anonymous(BYTES));
                self.mapped.borrow_mut().push_front(slab);
            }
        }
        self.count += 1;
        Ok(())
    }

    /// What `look` finds in a slab. It must not look at another one meanwhile.
    pub(super) fn with<T>(&self, slab: u16, look: impl FnOnce(&SharedMemory) -> T) -> Option<T> {
        let mut mapped = self.mapped.borrow_mut();
        let place = mapped.iter().position(|(number, _)| *number == slab);
        let memory = match (&self.kind, place) {
            (_, Some(place)) => mapped.remove(place)?,
            (Kind::Kernel { owners, .. }, None) => {
                mapped.truncate(MOST_MAPPED - 1);
                let owner = owners.get(usize::from(slab))?;
                (slab, SharedMemory::of_map(owner.fd().as_fd(), BYTES).ok()?)
            }
            #[cfg(test)]
            (Kind::Anonymous, None) => return None,
        };
        mapped.push_front(memory);
        mapped.front().map(|(_, memory)| look(memory))
    }
}
