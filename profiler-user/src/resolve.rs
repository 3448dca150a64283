//! Places → names: turns a recording's aggregate into a [`Profile`], each distinct place looked up once.
//!
//! Runs after the sampling (or beside it, on a copy), never in the drain loop. One object is open at a time, so memory
//! follows the largest one and not their sum.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::AsFd;
use std::sync::Arc;

use crate::aggregate::{Aggregate, Place};
use crate::process::{CgroupNames, ObjectId, ProcessId, Processes};
use crate::profile::{
    Counter, Frame, FrameKind, Labels, Location, LocationId, Mapping, Meta, ModuleUnknown, Profile, ProfileBuilder,
    Quality, ValueType, clean,
};
use crate::symbolize::{
    KernelSymbols, NativeSymbolizer, ObjectSource, ObjectSymbols, PerfMap, SymbolizeOptions, vdso_symbols,
};

/// Why a frame has no name, with the module to blame.
type Unknown = (String, String);

/// Symbolizes an aggregate.
///
/// `value_types` has the samples' count first and their weight last. The quality block that comes back counts what this step knows (samples,
/// stacks cut short, unknown frames); losses and costs are the caller's to add.
pub fn resolve(
    aggregate: &Aggregate,
    processes: &Processes,
    cgroups: &mut CgroupNames,
    value_types: &[ValueType],
    meta: Meta,
    options: &SymbolizeOptions,
) -> Profile {
    let mut resolver = Resolver {
        builder: ProfileBuilder::new(value_types.to_vec()),
        locations: vec![None; aggregate.places().len()],
        unknown: HashMap::new(),
    };
    resolver.objects(aggregate, processes, options);
    resolver.kernel(aggregate);
    resolver.vdso(aggregate);
    resolver.anonymous(aggregate, processes);
    resolver.remarks(aggregate);
    resolver.finish(aggregate, processes, cgroups, meta)
}

struct Resolver {
    builder: ProfileBuilder,
    /// By place; the index of `aggregate.places()`.
    locations: Vec<Option<LocationId>>,
    /// Places without a name.
    unknown: HashMap<usize, Unknown>,
}

impl Resolver {
    fn objects(&mut self, aggregate: &Aggregate, processes: &Processes, options: &SymbolizeOptions) {
        let mut by_object: BTreeMap<ObjectId, Vec<(u64, usize)>> = BTreeMap::new();
        for (index, place) in aggregate.places().iter().enumerate() {
            if let Place::Object { object, file_offset } = place {
                by_object.entry(*object).or_default().push((*file_offset, index));
            }
        }
        let own_root = std::fs::File::open("/").ok();
        let mut symbolizer = NativeSymbolizer::new(options.clone());
        for (id, mut places) in by_object {
            places.sort_unstable();
            let object = processes.objects.object(id);
            let roots: Vec<_> =
                object.root.iter().map(|root| root.as_fd()).chain(own_root.as_ref().map(AsFd::as_fd)).collect();
            let source = ObjectSource { path: &object.path, file: object.file.as_ref(), roots: &roots };
            let offsets: Vec<u64> = places.iter().map(|(offset, _)| *offset).collect();
            let symbols = symbolizer.symbolize(&source, &offsets);
            let indices: Vec<usize> = places.iter().map(|(_, index)| *index).collect();
            self.native(&object.path, &indices, &offsets, symbols);
        }
    }

    fn native(&mut self, path: &Arc<str>, indices: &[usize], offsets: &[u64], symbols: ObjectSymbols) {
        let mapping = Mapping { start: 0, limit: 0, file_offset: 0, path: Arc::clone(path), build_id: symbols.build_id };
        let module = mapping.module().to_owned();
        let mapping = self.builder.mapping(mapping);
        for ((index, offset), found) in indices.iter().zip(offsets).zip(symbols.addresses) {
            let address = found.virt_addr.unwrap_or(*offset);
            let frames = if found.frames.is_empty() {
                let reason = found.unknown.map_or_else(|| "no symbols".to_owned(), |reason| reason.to_string());
                self.unknown.insert(*index, (module.clone(), reason));
                vec![self.named(&format!("[{module}+{address:#x}]"))]
            } else {
                found.frames
            };
            self.place(*index, Location { mapping: Some(mapping), address, kind: FrameKind::Native, frames });
        }
    }

    fn kernel(&mut self, aggregate: &Aggregate) {
        let addresses = places(aggregate, |place| match place {
            Place::Kernel { abs_addr } => Some(*abs_addr),
            _ => None,
        });
        if addresses.is_empty() {
            return;
        }
        let symbols = KernelSymbols::load();
        for (index, address) in addresses {
            let found = symbols.as_ref().ok().and_then(|symbols| symbols.lookup(address));
            let (path, frame) = match found {
                Some(symbol) => {
                    let path = symbol.module.map_or_else(|| "[kernel]".to_owned(), |module| format!("[{module}]"));
                    (path, self.named(&clean(symbol.name.as_bytes())))
                }
                None => {
                    let reason = symbols.as_ref().err().map_or_else(|| "no symbol".to_owned(), ToString::to_string);
                    self.unknown.insert(index, ("[kernel]".to_owned(), reason));
                    ("[kernel]".to_owned(), self.named(&format!("[kernel+{address:#x}]")))
                }
            };
            let mapping = self.pseudo_mapping(&path);
            self.place(index, Location { mapping: Some(mapping), address, kind: FrameKind::Kernel, frames: vec![frame] });
        }
    }

    fn vdso(&mut self, aggregate: &Aggregate) {
        let offsets = places(aggregate, |place| match place {
            Place::Vdso { offset } => Some(*offset),
            _ => None,
        });
        if offsets.is_empty() {
            return;
        }
        let (indices, offsets): (Vec<_>, Vec<_>) = offsets.into_iter().unzip();
        let symbols = vdso_symbols(&offsets);
        self.native(&Arc::from("[vdso]"), &indices, &offsets, symbols);
    }

    fn anonymous(&mut self, aggregate: &Aggregate, processes: &Processes) {
        let mut by_process: BTreeMap<ProcessId, Vec<(usize, u64)>> = BTreeMap::new();
        for (index, place) in aggregate.places().iter().enumerate() {
            if let Place::Anonymous { process, abs_addr } = place {
                by_process.entry(*process).or_default().push((index, *abs_addr));
            }
        }
        for (process, addresses) in by_process {
            let info = processes.info(process);
            let map = match (&info.root, info.uid) {
                (Some(root), Some(uid)) => PerfMap::read(root.as_fd(), info.inner_pid, uid).map_err(|error| error.to_string()),
                _ => Err("process was gone".to_owned()),
            };
            let mapping = self.pseudo_mapping("[jit]");
            for (index, address) in addresses {
                let name = map.as_ref().ok().and_then(|map| map.lookup(address)).map(ToOwned::to_owned);
                let name = name.unwrap_or_else(|| {
                    let reason = map.as_ref().err().cloned().unwrap_or_else(|| "not in the perf map".to_owned());
                    self.unknown.insert(index, ("[jit]".to_owned(), reason));
                    format!("[jit+{address:#x}]")
                });
                let frames = vec![self.named(&name)];
                self.place(index, Location { mapping: Some(mapping), address, kind: FrameKind::Jit, frames });
            }
        }
    }

    /// Places that are no code.
    fn remarks(&mut self, aggregate: &Aggregate) {
        for (index, place) in aggregate.places().iter().enumerate() {
            let text = match place {
                Place::Stopped(reason) => format!("[unwind: {}]", reason.describe()),
                Place::WalkedOut => "[unwind: return address is not in code]".to_owned(),
                Place::UserMode => "[user mode]".to_owned(),
                Place::Overflow => "[stack table full]".to_owned(),
                Place::Unmapped { abs_addr } => {
                    self.unknown.insert(index, ("[unmapped]".to_owned(), "mapping unknown".to_owned()));
                    let frames = vec![self.named(&format!("[unmapped+{abs_addr:#x}]"))];
                    self.place(index, Location { mapping: None, address: *abs_addr, kind: FrameKind::Native, frames });
                    continue;
                }
                Place::Object { .. } | Place::Vdso { .. } | Place::Anonymous { .. } | Place::Kernel { .. } => continue,
            };
            let frames = vec![self.named(&text)];
            self.place(index, Location { mapping: None, address: 0, kind: FrameKind::Marker, frames });
        }
    }

    fn finish(mut self, aggregate: &Aggregate, processes: &Processes, cgroups: &mut CgroupNames, meta: Meta) -> Profile {
        let mut quality = Quality { samples: aggregate.samples(), ..Quality::default() };
        let mut unknown_by_place: HashMap<usize, u64> = HashMap::new();
        let stack_ids: Vec<_> = aggregate.stacks().iter().map(|stack| self.stack(stack)).collect();
        let comms: Vec<Arc<str>> = aggregate.comms().iter().map(|comm| self.builder.name(&clean(comm))).collect();
        let mut tallies: Vec<_> = aggregate.tallies().collect();
        // The map's order is random; equal recordings should give equal files.
        tallies.sort_unstable_by_key(|(key, _)| (key.process, key.tid, key.stack, key.comm, key.cgroup_id));
        for (key, tally) in tallies {
            let info = processes.info(key.process);
            let labels = self.builder.labels(Labels {
                pid: info.pid,
                tid: key.tid,
                process: Arc::clone(&info.name),
                thread: Arc::clone(&comms[key.comm as usize]),
                cgroup: cgroups.name(key.cgroup_id),
                cpu: None,
            });
            self.builder.add(stack_ids[key.stack as usize], labels, &[tally.samples, tally.weight]);
            for place in &aggregate.stacks()[key.stack as usize] {
                let index = *place as usize;
                quality.frames += u64::from(is_code(&aggregate.places()[index])) * tally.samples;
                if self.unknown.contains_key(&index) {
                    *unknown_by_place.entry(index).or_default() += tally.samples;
                }
            }
        }
        quality.cut_short = cut_short(aggregate);
        self.count_unknown(&mut quality, &unknown_by_place);
        self.builder.finish(meta, quality)
    }

    fn stack(&mut self, places: &[u32]) -> crate::profile::StackId {
        let locations = places.iter().filter_map(|place| self.locations[*place as usize]).collect();
        self.builder.stack(locations)
    }

    fn count_unknown(&self, quality: &mut Quality, by_place: &HashMap<usize, u64>) {
        let mut by_module: HashMap<&Unknown, u64> = HashMap::new();
        for (index, count) in by_place {
            quality.unknown_frames += count;
            *by_module.entry(&self.unknown[index]).or_default() += count;
        }
        quality.unknown_by_module = by_module
            .into_iter()
            .map(|((module, reason), frames)| ModuleUnknown { module: module.clone(), frames, reason: reason.clone() })
            .collect();
        quality.unknown_by_module.sort_by(|a, b| b.frames.cmp(&a.frames).then_with(|| a.module.cmp(&b.module)));
    }

    fn place(&mut self, index: usize, location: Location) {
        self.locations[index] = Some(self.builder.location(location));
    }

    fn pseudo_mapping(&mut self, path: &str) -> crate::profile::MappingId {
        let path = self.builder.name(path);
        self.builder.mapping(Mapping { start: 0, limit: 0, file_offset: 0, path, build_id: String::new() })
    }

    /// A frame with a name and nothing else.
    fn named(&mut self, name: &str) -> Frame {
        Frame { function: self.builder.name(name), file: None, line: None, inlined: false }
    }
}

fn places(aggregate: &Aggregate, select: impl Fn(&Place) -> Option<u64>) -> Vec<(usize, u64)> {
    let selected = aggregate.places().iter().enumerate().filter_map(|(index, place)| Some((index, select(place)?)));
    let mut selected: Vec<_> = selected.collect();
    selected.sort_unstable_by_key(|(_, address)| *address);
    selected
}

fn is_code(place: &Place) -> bool {
    match place {
        Place::Object { .. } | Place::Vdso { .. } | Place::Anonymous { .. } | Place::Kernel { .. } | Place::Unmapped { .. } => true,
        Place::Stopped(_) | Place::WalkedOut | Place::UserMode | Place::Overflow => false,
    }
}

fn cut_short(aggregate: &Aggregate) -> Vec<Counter> {
    let stops = aggregate.stops().map(|(reason, count)| (reason.id(), reason.describe(), count));
    let walked_out = (aggregate.walked_out() > 0)
        .then(|| ("walked_out", "return address is not in code", aggregate.walked_out()));
    let counters = stops.chain(walked_out);
    let mut counters: Vec<_> =
        counters.map(|(id, what, count)| Counter { id: id.to_owned(), what: what.to_owned(), count }).collect();
    counters.sort_by_key(|counter| std::cmp::Reverse(counter.count));
    counters
}
