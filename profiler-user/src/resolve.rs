//! Places → names: turns the aggregate of a recording, or of one window of it, into a [`Profile`], each distinct place looked up once.
//!
//! Runs after the sampling (or beside it, on a copy), never in the drain loop. One object is open at a time, so memory
//! follows the largest one and not their sum.

mod named;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::os::fd::AsFd;
use std::sync::Arc;

use profiler_common::stop::StopReason;

use crate::aggregate::{Aggregate, Cut, Place};
use crate::object::vdso_image;
use crate::process::{CgroupNames, Known, Object, ObjectId, ProcessId, ProcessInfo};
use crate::profile::{
    Counter, Frame, FrameKind, Labels, Location, LocationId, Mapping, MappingId, Meta, ModuleUnknown,
    Profile, ProfileBuilder, Quality, ValueType,
};
use crate::symbolize::kernel;
use crate::symbolize::native::{self, Content, ObjectSource, ObjectSymbols};
use crate::symbolize::{Names, jit, unknown_frame};
use named::Found;
pub use named::Named;

/// Whether names are looked up.
#[derive(Debug, Clone)]
pub enum Naming {
    /// Look names up, in this way.
    Full(native::Options),
    /// Leave addresses as they are: for a reader who wants the data at once.
    Raw,
}

/// The reason for every nameless frame of [`Naming::Raw`].
const NOT_LOOKED_UP: &str = "not looked up";

/// Why a frame has no name, with the module to blame.
type Unknown = (String, String);

/// Symbolizes an aggregate.
///
/// `value_types` says what the values of the aggregate's tallies are. Leaks in `meta` name stacks by their index in the aggregate. The quality block that comes back counts what this step knows (samples,
/// stacks cut short, unknown frames); losses and costs are the caller's to add.
pub fn resolve(
    aggregate: &Aggregate,
    known: &Known,
    cgroups: &mut CgroupNames,
    value_types: &[ValueType],
    meta: Meta,
    naming: &Naming,
) -> Profile {
    resolve_window(aggregate, known, cgroups, value_types, meta, naming, &mut Named::default())
}

/// Symbolizes the aggregate of a window like [`resolve`], with the names that earlier windows looked up.
pub fn resolve_window(
    aggregate: &Aggregate,
    known: &Known,
    cgroups: &mut CgroupNames,
    value_types: &[ValueType],
    meta: Meta,
    naming: &Naming,
    named: &mut Named,
) -> Profile {
    let mut resolver = Resolver {
        builder: ProfileBuilder::new(value_types.to_vec()),
        named,
        naming,
        locations: vec![None; aggregate.places().len()],
        unknown: HashMap::new(),
        mappings: HashMap::new(),
    };
    resolver.named_before(aggregate);
    resolver.objects(aggregate, known);
    resolver.kernel(aggregate);
    resolver.vdso(aggregate);
    resolver.anonymous(aggregate, known);
    resolver.remarks(aggregate, known);
    resolver.finish(aggregate, known, cgroups, meta)
}

/// Looks up the names of what several aggregates of one window have in files, so that each file is read once and not once for each of them. Who resolves
/// them afterwards with the same names finds them there.
pub fn name_together(stacks: &[(&Aggregate, &Known)], naming: &Naming, named: &mut Named) {
    if matches!(naming, Naming::Raw) {
        return;
    }
    let mut by_object: BTreeMap<ObjectId, BTreeSet<u64>> = BTreeMap::new();
    for place in stacks.iter().flat_map(|(aggregate, _)| aggregate.places()) {
        if let Place::Object { object, file_offset } = place
            && named.find(place).is_none()
        {
            by_object.entry(*object).or_default().insert(*file_offset);
        }
    }
    let own_root = File::open("/").ok();
    for (id, offsets) in by_object {
        // One of them may know the file where another came too late to open it.
        let known = stacks.iter().filter_map(|(_, known)| known.object(id));
        let Some(object) = known.max_by_key(|object| object.file.is_some()) else { continue };
        let offsets: Vec<u64> = offsets.into_iter().collect();
        let found = with_source(object, own_root.as_ref(), |source| look_up(source, &offsets, naming, named));
        for (file_offset, found) in offsets.into_iter().zip(found) {
            named.keep(Place::Object { object: id, file_offset }, &found);
        }
    }
}

/// Calls `then` with a file as its process sees it.
fn with_source<T>(object: &Object, own_root: Option<&File>, then: impl FnOnce(&ObjectSource<'_>) -> T) -> T {
    let roots: Vec<_> =
        object.root.iter().map(|root| root.as_fd()).chain(own_root.map(AsFd::as_fd)).collect();
    let content = object.file.as_ref().map_or(Content::Gone, |file| Content::File(file));
    then(&ObjectSource { path: &object.path, content, roots: &roots, build_id: None })
}

/// What is at these offsets of one object.
fn look_up(
    source: &ObjectSource<'_>,
    offsets: &[u64],
    naming: &Naming,
    named: &mut Named,
) -> Vec<Arc<Found>> {
    let symbols = match naming {
        Naming::Full(options) => native::symbolize(source, offsets, options, &mut named.names),
        Naming::Raw => raw(source, offsets, &mut named.names),
    };
    let build_id = symbols.build_id.map(|id| id.to_string()).unwrap_or_default();
    let path = named.names.text(source.path.as_bytes());
    let mapping = Mapping { start: 0, limit: 0, file_offset: 0, path, build_id };
    let module = mapping.module().to_owned();
    let mapping = named.mapping(mapping);
    let found = symbols.addresses.into_iter().map(|found| {
        let unknown = found.unknown.map(|reason| {
            let reason = match naming {
                Naming::Full(_) => reason.to_string(),
                Naming::Raw => NOT_LOOKED_UP.to_owned(),
            };
            Arc::new((module.clone(), reason))
        });
        let (mapping, address) = (Some(Arc::clone(&mapping)), found.virt_addr);
        Arc::new(Found { mapping, address, kind: FrameKind::Native, frames: found.frames, unknown })
    });
    found.collect()
}

/// What [`native::symbolize`] says of an object that it was not shown.
fn raw(source: &ObjectSource<'_>, offsets: &[u64], names: &mut Names) -> ObjectSymbols {
    let nothing = ObjectSource { content: Content::Gone, ..*source };
    native::symbolize(&nothing, offsets, &native::Options::default(), names)
}

struct Resolver<'a> {
    builder: ProfileBuilder,
    named: &'a mut Named,
    naming: &'a Naming,
    /// By place; the index of `aggregate.places()`.
    locations: Vec<Option<LocationId>>,
    /// Places without a name.
    unknown: HashMap<usize, Arc<Unknown>>,
    /// Mappings of this profile, by where they lie in memory.
    mappings: HashMap<*const Mapping, MappingId>,
}

impl Resolver<'_> {
    /// Takes the names that an earlier window has looked up.
    fn named_before(&mut self, aggregate: &Aggregate) {
        if matches!(self.naming, Naming::Raw) {
            return;
        }
        for (index, place) in aggregate.places().iter().enumerate() {
            if let Some(found) = self.named.find(place) {
                self.enter(index, &found);
            }
        }
    }

    /// The selected places that have no name yet, with their addresses, by address.
    fn places(&self, aggregate: &Aggregate, select: impl Fn(&Place) -> Option<u64>) -> Vec<(u64, usize)> {
        let new = aggregate.places().iter().enumerate().filter(|(index, _)| self.locations[*index].is_none());
        let mut selected: Vec<_> = new.filter_map(|(index, place)| Some((select(place)?, index))).collect();
        selected.sort_unstable();
        selected
    }

    fn objects(&mut self, aggregate: &Aggregate, known: &Known) {
        let mut by_object: BTreeMap<ObjectId, Vec<(u64, usize)>> = BTreeMap::new();
        for (index, place) in aggregate.places().iter().enumerate() {
            if let Place::Object { object, file_offset } = place
                && self.locations[index].is_none()
            {
                by_object.entry(*object).or_default().push((*file_offset, index));
            }
        }
        let own_root = File::open("/").ok();
        for (id, places) in by_object {
            let Some(object) = known.object(id) else { continue };
            with_source(object, own_root.as_ref(), |source| self.native(aggregate, source, &places));
        }
    }

    fn vdso(&mut self, aggregate: &Aggregate) {
        let places = self.places(aggregate, |place| match place {
            Place::Vdso { offset } => Some(*offset),
            _ => None,
        });
        let image = if places.is_empty() { None } else { vdso_image() };
        let content = image.as_deref().map_or(Content::Gone, Content::Bytes);
        let source = ObjectSource { path: "[vdso]", content, roots: &[], build_id: None };
        self.native(aggregate, &source, &places);
    }

    /// Offsets in one object, with the places that they belong to.
    fn native(&mut self, aggregate: &Aggregate, source: &ObjectSource<'_>, places: &[(u64, usize)]) {
        if places.is_empty() {
            return;
        }
        let offsets: Vec<u64> = places.iter().map(|(offset, _)| *offset).collect();
        let found = look_up(source, &offsets, self.naming, self.named);
        for ((_, index), found) in places.iter().zip(found) {
            self.keep(*index, aggregate, &found);
        }
    }

    fn kernel(&mut self, aggregate: &Aggregate) {
        let places = self.places(aggregate, |place| match place {
            Place::Kernel { abs_addr } => Some(*abs_addr),
            _ => None,
        });
        if places.is_empty() {
            return;
        }
        let addresses: Vec<u64> = places.iter().map(|(address, _)| *address).collect();
        let symbols = match self.naming {
            Naming::Full(_) => self.named.kernel(&addresses),
            Naming::Raw => Err(NOT_LOOKED_UP.to_owned()),
        };
        // Why an address has no name: it is in no symbol, or there are no symbols.
        let (frames, reason): (Vec<_>, String) = match symbols {
            Ok((symbols, names)) => {
                let frame = |address: &u64| {
                    let (frame, path) = symbols.frame(*address, names);
                    (frame, path, symbols.lookup(*address).is_some())
                };
                (addresses.iter().map(frame).collect(), "no symbol covers it".to_owned())
            }
            Err(reason) => {
                let names = &mut self.named.names;
                let frame = |address: &u64| {
                    (unknown_frame("[kernel]", *address, names), Arc::from("[kernel]"), false)
                };
                (addresses.iter().map(frame).collect(), reason)
            }
        };
        let unknown = Arc::new(("[kernel]".to_owned(), reason));
        for ((address, index), (frame, path, known)) in places.into_iter().zip(frames) {
            let mapping = Some(self.named.pseudo_mapping(&path));
            let unknown = (!known).then(|| Arc::clone(&unknown));
            let kind = FrameKind::Kernel;
            let found = Found { mapping, address, kind, frames: vec![frame], unknown };
            self.keep(index, aggregate, &Arc::new(found));
        }
    }

    fn anonymous(&mut self, aggregate: &Aggregate, known: &Known) {
        let mut by_process: BTreeMap<ProcessId, Vec<(u64, usize)>> = BTreeMap::new();
        for (index, place) in aggregate.places().iter().enumerate() {
            if let Place::Anonymous { process, abs_addr } = place {
                by_process.entry(*process).or_default().push((*abs_addr, index));
            }
        }
        let mapping = (!by_process.is_empty()).then(|| self.named.pseudo_mapping("[jit]"));
        for (process, mut places) in by_process {
            places.sort_unstable();
            let addresses: Vec<u64> = places.iter().map(|(address, _)| *address).collect();
            let (found, reason) = self.perf_map(known.info(process), &addresses);
            let reason = Arc::new(("[jit]".to_owned(), reason));
            for (position, (address, index)) in places.into_iter().enumerate() {
                let (frame, unknown) = match found.get(position).cloned().flatten() {
                    Some(function) => (Frame { function, file: None, line: None, inlined: false }, None),
                    None => {
                        (unknown_frame("[jit]", address, &mut self.named.names), Some(Arc::clone(&reason)))
                    }
                };
                let (mapping, kind) = (mapping.clone(), FrameKind::Jit);
                let found = Found { mapping, address, kind, frames: vec![frame], unknown };
                self.keep(index, aggregate, &Arc::new(found));
            }
        }
    }

    /// Names from a process's perf map, and why others have none.
    fn perf_map(&mut self, info: Option<&ProcessInfo>, addresses: &[u64]) -> (Vec<Option<Arc<str>>>, String) {
        if matches!(self.naming, Naming::Raw) {
            return (Vec::new(), NOT_LOOKED_UP.to_owned());
        }
        let Some((info, root, uid)) = info.and_then(|info| Some((info, info.root.as_ref()?, info.uid?)))
        else {
            return (Vec::new(), "the process was gone".to_owned());
        };
        match jit::open_perf_map(root.as_fd(), info.inner_pid, uid) {
            Ok(map) => (
                jit::symbolize(map, addresses, &mut self.named.names).names,
                "not in the perf map".to_owned(),
            ),
            Err(error) => (Vec::new(), error.to_string()),
        }
    }

    /// Places that are no code.
    fn remarks(&mut self, aggregate: &Aggregate, known: &Known) {
        for (index, place) in aggregate.places().iter().enumerate() {
            let text = match place {
                Place::Stopped(reason, module) => {
                    format!("[unwind: {}]", stop_text(*reason, *module, known))
                }
                Place::WalkedOut => "[unwind: return address is not in code]".to_owned(),
                Place::UserMode => "[user mode]".to_owned(),
                Place::Invisible => "[user code outside this PID namespace]".to_owned(),
                Place::Overflow => "[stack table full]".to_owned(),
                Place::Remark(remark) => aggregate.remarks()[*remark as usize].to_string(),
                Place::WokenBy => "[woken by]".to_owned(),
                Place::Unmapped { abs_addr } => {
                    let unknown = ("[unmapped]".to_owned(), "mapping unknown".to_owned());
                    self.unknown.insert(index, Arc::new(unknown));
                    let frames = vec![self.named(&format!("[unmapped+{abs_addr:#x}]"))];
                    self.place(
                        index,
                        Location { mapping: None, address: *abs_addr, kind: FrameKind::Native, frames },
                    );
                    continue;
                }
                Place::Object { .. }
                | Place::Vdso { .. }
                | Place::Anonymous { .. }
                | Place::Kernel { .. } => continue,
            };
            let frames = vec![self.named(&text)];
            self.place(index, Location { mapping: None, address: 0, kind: FrameKind::Marker, frames });
        }
    }

    fn finish(
        mut self,
        aggregate: &Aggregate,
        known: &Known,
        cgroups: &mut CgroupNames,
        meta: Meta,
    ) -> Profile {
        let mut quality = Quality { samples: aggregate.samples(), ..Quality::default() };
        let mut unknown_by_place: HashMap<usize, u64> = HashMap::new();
        let telling: Vec<Cow<'_, [u32]>> =
            (0..aggregate.stacks().len()).map(|id| self.telling_places(aggregate, id as u32)).collect();
        let stack_ids: Vec<_> = telling.iter().map(|places| self.stack(aggregate, places)).collect();
        let mut meta = meta;
        for known in meta.leaks.iter_mut().flat_map(|leaks| &mut leaks.stacks) {
            known.stack = stack_ids[known.stack.0 as usize];
        }
        let comms: Vec<Arc<str>> = aggregate.comms().iter().map(|comm| self.named.names.text(comm)).collect();
        let mut tallies: Vec<_> = aggregate.tallies().collect();
        // The map's order is random; equal recordings should give equal files.
        tallies.sort_unstable_by_key(|(key, _)| (key.process, key.tid, key.stack, key.comm, key.cgroup_id));
        for (key, tally) in tallies {
            let Some(info) = known.info(key.process) else { continue };
            let labels = self.builder.labels(Labels {
                pid: info.pid,
                tid: key.tid,
                process: Arc::clone(&info.name),
                thread: Arc::clone(&comms[key.comm as usize]),
                cgroup: cgroups.name(key.cgroup_id),
                cpu: None,
            });
            self.builder.add(stack_ids[key.stack as usize], labels, &tally.values);
            for place in &*telling[key.stack as usize] {
                let index = *place as usize;
                quality.frames += u64::from(is_code(&aggregate.places()[index])) * tally.samples;
                if self.unknown.contains_key(&index) {
                    *unknown_by_place.entry(index).or_default() += tally.samples;
                }
            }
        }
        quality.cut_short = cut_short(aggregate, known);
        self.count_unknown(&mut quality, &unknown_by_place);
        self.builder.finish(meta, quality)
    }

    /// The places of a stack that say something: at a tracepoint the program that took it stands at the leaf.
    fn telling_places<'p>(&self, aggregate: &'p Aggregate, id: u32) -> Cow<'p, [u32]> {
        let places = &*aggregate.stacks()[id as usize];
        if !aggregate.is_traced(id) {
            return Cow::Borrowed(places);
        }
        let is = |place: &u32, wanted: Place| aggregate.places()[*place as usize] == wanted;
        let (waker, thread) = match places.iter().position(|place| is(place, Place::WokenBy)) {
            Some(mark) => places.split_at(mark),
            None => places.split_at(0),
        };
        // A waker's stack is turned around. If it was an interrupt, whoever was interrupted has nothing to do with it.
        let entry = waker
            .iter()
            .position(|place| self.kernel_function(*place).is_some_and(kernel::is_interrupt_entry));
        let mut kept: Vec<u32> = waker[entry.unwrap_or(0)..].to_vec();
        while kept.last().is_some_and(|place| self.is_tracing(*place)) {
            kept.pop();
        }
        let mut at_leaf = true;
        for place in thread {
            // Remarks of what is waited for come before the kernel's frames.
            let is_frame = matches!(aggregate.places()[*place as usize], Place::Kernel { .. });
            if at_leaf && is_frame && self.is_tracing(*place) {
                continue;
            }
            at_leaf &= !is_frame;
            kept.push(*place);
        }
        Cow::Owned(kept)
    }

    /// Whether a kernel frame is part of what took the stack. The code of BPF programs has a name only where `net.core.bpf_jit_kallsyms` is on.
    fn is_tracing(&self, place: u32) -> bool {
        self.kernel_function(place).is_some_and(|function| {
            kernel::is_tracing(function) || self.unknown.contains_key(&(place as usize))
        })
    }

    fn stack(&mut self, aggregate: &Aggregate, places: &[u32]) -> crate::profile::StackId {
        let mut locations: Vec<LocationId> =
            places.iter().filter_map(|place| self.locations[*place as usize]).collect();
        let is_waker = |place: &u32| aggregate.places()[*place as usize] == Place::WokenBy;
        let begins_in_kernel = places.first().is_some_and(|place| self.kernel_function(*place).is_some());
        if begins_in_kernel && places.iter().any(is_waker) {
            locations.insert(0, self.interrupt());
        }
        self.builder.stack(locations)
    }

    /// The name of a kernel frame.
    fn kernel_function(&self, place: u32) -> Option<&str> {
        let location = self.builder.location_of(self.locations[place as usize]?);
        (location.kind == FrameKind::Kernel).then(|| &*location.frames[0].function)
    }

    fn interrupt(&mut self) -> LocationId {
        let frames = vec![self.named("[interrupt]")];
        self.builder.location(Location { mapping: None, address: 0, kind: FrameKind::Marker, frames })
    }

    fn count_unknown(&self, quality: &mut Quality, by_place: &HashMap<usize, u64>) {
        let mut by_module: HashMap<&Unknown, u64> = HashMap::new();
        for (index, count) in by_place {
            quality.unknown_frames += count;
            *by_module.entry(&*self.unknown[index]).or_default() += count;
        }
        quality.unknown_by_module = by_module
            .into_iter()
            .map(|((module, reason), frames)| ModuleUnknown {
                module: module.clone(),
                frames,
                reason: reason.clone(),
            })
            .collect();
        quality
            .unknown_by_module
            .sort_by(|a, b| b.frames.cmp(&a.frames).then_with(|| a.module.cmp(&b.module)));
    }

    fn place(&mut self, index: usize, location: Location) {
        self.locations[index] = Some(self.builder.location(location));
    }

    /// Enters what was found, and remembers it for later windows.
    fn keep(&mut self, index: usize, aggregate: &Aggregate, found: &Arc<Found>) {
        if matches!(self.naming, Naming::Full(_)) {
            self.named.keep(aggregate.places()[index], found);
        }
        self.enter(index, found);
    }

    fn enter(&mut self, index: usize, found: &Found) {
        if let Some(unknown) = &found.unknown {
            self.unknown.insert(index, Arc::clone(unknown));
        }
        let mapping = found.mapping.as_ref().map(|mapping| {
            let builder = &mut self.builder;
            // The names of all windows hold it as long as this one is looked at, so its place in memory is its own.
            *self.mappings.entry(Arc::as_ptr(mapping)).or_insert_with(|| builder.mapping((**mapping).clone()))
        });
        let Found { address, kind, ref frames, .. } = *found;
        self.place(index, Location { mapping, address, kind, frames: frames.clone() });
    }

    /// A frame with a name and nothing else.
    fn named(&mut self, name: &str) -> Frame {
        Frame { function: self.named.names.text(name.as_bytes()), file: None, line: None, inlined: false }
    }
}

fn is_code(place: &Place) -> bool {
    match place {
        Place::Object { .. }
        | Place::Vdso { .. }
        | Place::Anonymous { .. }
        | Place::Kernel { .. }
        | Place::Unmapped { .. } => true,
        Place::Stopped(..)
        | Place::WalkedOut
        | Place::UserMode
        | Place::Invisible
        | Place::Overflow
        | Place::Remark(_)
        | Place::WokenBy => false,
    }
}

/// Why a stack ends early, with the module of its last frame.
fn stop_text(reason: StopReason, module: Option<ObjectId>, known: &Known) -> String {
    let Some(module) = module.and_then(|module| known.object(module)) else {
        return reason.describe().to_owned();
    };
    let path = &module.path;
    let name = path.rsplit('/').next().unwrap_or(path);
    format!("{} in {name}", reason.describe())
}

fn cut_short(aggregate: &Aggregate, known: &Known) -> Vec<Counter> {
    let counter = |(cut, count)| {
        let (id, what) = match cut {
            Cut::Stopped(reason, module) => (reason.id(), stop_text(reason, module, known)),
            Cut::WalkedOut => ("walked_out", "return address is not in code".to_owned()),
        };
        Counter { id: id.to_owned(), what, count }
    };
    let mut counters: Vec<_> = aggregate.cut_short().into_iter().map(counter).collect();
    counters.sort_by_key(|counter| std::cmp::Reverse(counter.count));
    counters
}
