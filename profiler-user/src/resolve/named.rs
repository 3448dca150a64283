//! Names that were looked up, kept for the windows to come: a window looks up the places that are new in it, and no others.
//!
//! Bounded: places that no window has used for a while are forgotten, and all of them when there are too many. What is forgotten is looked up
//! again when it is seen again. Code that is generated at run time is never kept: what an address means there may change at any time.

use std::collections::HashMap;
use std::sync::Arc;

use super::Unknown;
use crate::aggregate::Place;
use crate::profile::{Frame, FrameKind, Mapping};
use crate::symbolize::Names;
use crate::symbolize::kernel::{KernelSymbols, kernel_build_id, module_build_id};

/// Places kept: about 250 bytes each with their share of the names, 6 MB in all. Hosts use some thousands.
const MOST_PLACES: usize = 25_000;
/// Windows between two looks for what is not used any more, and windows after which a place counts as such: ten minutes and five in windows of
/// ten seconds.
const LOOK_EVERY: u64 = 60;
const UNUSED_AFTER: u64 = 30;
/// The same where there is no room for all of these.
const UNUSED_SOON: u64 = 6;
/// Windows before the kernel's symbols are read again because an address is in none of them. Reading takes some 25 ms.
const KERNEL_AGAIN_AFTER: u64 = 30;
/// Windows after which the kernel's symbols, 2 to 4 MB, are forgotten if all kernel addresses were known without them.
const KERNEL_UNUSED_AFTER: u64 = 6;

/// What is known of a place.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) mapping: Option<Arc<Mapping>>,
    pub(super) address: u64,
    pub(super) kind: FrameKind,
    pub(super) frames: Vec<Frame>,
    /// Why it has no name, where it has none.
    pub(super) unknown: Option<Arc<Unknown>>,
}

/// Names by place, over windows.
#[derive(Debug, Default)]
pub struct Named {
    places: HashMap<Place, (Arc<Found>, u64)>,
    mappings: HashMap<Mapping, Arc<Mapping>>,
    modules: HashMap<Arc<str>, Arc<Mapping>>,
    kernel: Option<KernelSymbols>,
    /// Windows in which they were read, and used.
    kernel_read: u64,
    kernel_used: u64,
    window: u64,
    pub(super) names: Names,
}

impl Named {
    /// Places that are known.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether nothing is known yet.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// A window begins; returns whether what is remembered elsewhere under the same terms is to be forgotten as well.
    pub fn begin_window(&mut self) -> bool {
        self.window += 1;
        if self.window > self.kernel_used + KERNEL_UNUSED_AFTER {
            self.kernel = None;
        }
        let is_full = self.places.len() > MOST_PLACES;
        if !is_full && !self.window.is_multiple_of(LOOK_EVERY) {
            return false;
        }
        let now = self.window;
        self.places.retain(|_, (_, used)| *used + UNUSED_AFTER > now);
        if self.places.len() > MOST_PLACES / 2 {
            self.places.retain(|_, (_, used)| *used + UNUSED_SOON > now);
        }
        if self.places.len() > MOST_PLACES / 2 {
            self.places.clear();
        }
        self.places.shrink_to_fit();
        self.mappings.retain(|_, mapping| Arc::strong_count(mapping) > 1);
        self.modules.clear();
        self.kernel = None;
        self.names.forget_unused();
        true
    }

    /// What is known of a place.
    pub(super) fn find(&mut self, place: &Place) -> Option<Arc<Found>> {
        let (found, used) = self.places.get_mut(place)?;
        *used = self.window;
        Some(Arc::clone(found))
    }

    /// Remembers a place, if it means the same in every window.
    pub(super) fn keep(&mut self, place: Place, found: &Arc<Found>) {
        if matches!(place, Place::Object { .. } | Place::Vdso { .. } | Place::Kernel { .. }) {
            self.places.insert(place, (Arc::clone(found), self.window));
        }
    }

    /// The one copy of a mapping.
    pub(super) fn mapping(&mut self, mapping: Mapping) -> Arc<Mapping> {
        let known = self.mappings.entry(mapping);
        let shared = Arc::new(known.key().clone());
        Arc::clone(known.or_insert(shared))
    }

    /// The mapping of something that is not a file: the kernel, a module, generated code.
    pub(super) fn pseudo_mapping(&mut self, path: &str) -> Arc<Mapping> {
        if let Some(known) = self.modules.get(path) {
            return Arc::clone(known);
        }
        let build_id = match path {
            "[kernel]" => kernel_build_id(),
            "[jit]" | "[bpf]" => None,
            module => module_build_id(module.trim_matches(['[', ']'])),
        };
        let build_id = build_id.map(|id| id.to_string()).unwrap_or_default();
        let path = self.names.text(path.as_bytes());
        let mapping =
            self.mapping(Mapping { start: 0, limit: 0, file_offset: 0, path: Arc::clone(&path), build_id });
        self.modules.insert(path, Arc::clone(&mapping));
        mapping
    }

    /// The kernel's symbols, read again when they are old and do not have one of these addresses: a module may have come.
    pub(super) fn kernel(&mut self, addresses: &[u64]) -> Result<(&KernelSymbols, &mut Names), String> {
        self.kernel_used = self.window;
        let is_known =
            |address: &u64| self.kernel.as_ref().is_some_and(|symbols| symbols.lookup(*address).is_some());
        let is_old = self.window >= self.kernel_read + KERNEL_AGAIN_AFTER;
        if self.kernel.is_none() || is_old && !addresses.iter().all(is_known) {
            self.kernel_read = self.window;
            self.kernel = Some(KernelSymbols::load().map_err(|error| error.to_string())?);
        }
        let symbols = self.kernel.as_ref().ok_or("no symbols")?;
        Ok((symbols, &mut self.names))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::ObjectId;

    fn found() -> Arc<Found> {
        Arc::new(Found {
            mapping: None,
            address: 0,
            kind: FrameKind::Native,
            frames: Vec::new(),
            unknown: None,
        })
    }

    fn place(number: usize) -> Place {
        Place::Object { object: ObjectId(7), file_offset: number as u64 }
    }

    #[test]
    fn what_is_not_used_is_forgotten_and_what_is_used_stays() {
        let mut named = Named::default();
        named.keep(place(1), &found());
        named.keep(place(2), &found());
        let mut looks = 0;
        for _ in 0..=LOOK_EVERY {
            looks += u32::from(named.begin_window());
            assert!(named.find(&place(1)).is_some());
        }
        assert_eq!((looks, named.len()), (1, 1));
        assert!(named.find(&place(2)).is_none());
    }

    #[test]
    fn there_is_an_end_to_what_is_kept() {
        let mut named = Named::default();
        for number in 0..4 * MOST_PLACES {
            if number % 1000 == 0 {
                named.begin_window();
            }
            named.keep(place(number), &found());
            assert!(named.len() <= MOST_PLACES + 1001);
        }
    }

    #[test]
    fn symbols_of_the_kernel_go_when_no_window_needs_them() {
        let mut named = Named::default();
        named.begin_window();
        named.kernel = Some(KernelSymbols::default());
        named.kernel_read = 1;
        assert!(named.kernel(&[]).is_ok());
        for _ in 0..KERNEL_UNUSED_AFTER {
            named.begin_window();
            assert!(named.kernel.is_some());
        }
        named.begin_window();
        assert!(named.kernel.is_none());
    }

    #[test]
    fn generated_code_is_looked_up_every_time() {
        let mut named = Named::default();
        let generated = Place::Anonymous { process: crate::process::ProcessId(1), abs_addr: 5 };
        named.keep(generated, &found());
        assert!(named.find(&generated).is_none() && named.is_empty());
    }
}
