//! Raw samples → distinct stacks with added-up values. One entry per distinct stack and thread, whatever the number of samples.
//!
//! In: a raw sample and the table of processes at its moment. Out: addresses placed in objects, interned, counted. Names come later,
//! once per distinct address.

use std::collections::{BTreeMap, HashMap, HashSet};

use profiler_common::stop::StopReason;

use crate::ingest::RawSample;
use crate::intern::Interner;
use crate::process::{Known, Moment, ObjectId, Placement, ProcessId, Processes};

/// Distinct stack frames (over all stacks) after which new stacks are counted but no longer kept apart: about 100 MB at eight
/// bytes a frame and the usual depth would be far past what a person can read.
const MAX_STACK_FRAMES: usize = 8_000_000;

/// Where a frame's address lies, before it has a name. Addresses are the ones to look up: a return address less one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Place {
    /// In a file.
    Object {
        /// The file.
        object: ObjectId,
        /// Offset in it.
        file_offset: u64,
    },
    /// In the vDSO.
    Vdso {
        /// Offset from its start.
        offset: u64,
    },
    /// In memory without a file; only the process's perf map can name it.
    Anonymous {
        /// The process.
        process: ProcessId,
        /// Address.
        abs_addr: u64,
    },
    /// In no executable mapping that we know of.
    Unmapped {
        /// Address.
        abs_addr: u64,
    },
    /// In the kernel.
    Kernel {
        /// Address.
        abs_addr: u64,
    },
    /// Not code: the walk ended here, early, in the code of this object where it has one.
    Stopped(StopReason, Option<ObjectId>),
    /// Not code: the return address that the walk found lies in no executable mapping.
    WalkedOut,
    /// Not code: user mode was interrupted, and only kernel stacks are recorded.
    UserMode,
    /// Not code: the user side of a process that our PID namespace does not see.
    Invisible,
    /// Not code: stacks past the limit on distinct ones.
    Overflow,
    /// Not code: a remark, as an index into [`Aggregate::remarks`].
    Remark(u32),
    /// Not code: between the thread that waited and, further out and turned around, the stack that woke it.
    WokenBy,
}

/// Values that one tally adds up.
pub const MAX_VALUES: usize = 6;

/// The values of a sample, with zeroes behind them up to [`MAX_VALUES`].
pub const fn values<const N: usize>(given: [u64; N]) -> [u64; MAX_VALUES] {
    const { assert!(N <= MAX_VALUES, "more values than a tally has") };
    let mut values = [0; MAX_VALUES];
    let mut index = 0;
    while index < N {
        values[index] = given[index];
        index += 1;
    }
    values
}

/// Why a stack ends before it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Cut {
    /// The walk stopped, in the code of this object where it has one.
    Stopped(StopReason, Option<ObjectId>),
    /// The return address that the walk found lies in no executable mapping.
    WalkedOut,
}

/// Index into [`Aggregate::places`].
pub type PlaceId = u32;

/// What samples are added up by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SampleKey {
    /// Index into [`Aggregate::stacks`].
    pub stack: u32,
    /// The process.
    pub process: ProcessId,
    /// The thread.
    pub tid: u32,
    /// Index into [`Aggregate::comms`].
    pub comm: u32,
    /// Control group (v2) ID.
    pub cgroup_id: u64,
}

/// Sum of samples with one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Samples, or waits.
    pub samples: u64,
    /// Their values, in the order of the profile's value types.
    pub values: [u64; MAX_VALUES],
}

/// Which parts of a stack a recording keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StackScope {
    /// User and kernel.
    #[default]
    Both,
    /// Kernel frames; samples of user mode are one marker.
    KernelOnly,
    /// User frames; samples of the kernel end at the system call.
    UserOnly,
}

/// Added-up samples.
#[derive(Debug, Default)]
pub struct Aggregate {
    scope: StackScope,
    places: Interner<Place>,
    stacks: Interner<Box<[PlaceId]>>,
    comms: Interner<Vec<u8>>,
    tallies: HashMap<SampleKey, Tally>,
    remarks: Interner<Box<str>>,
    /// Stacks that were taken at a tracepoint, whose own frames are at the leaf.
    traced: HashSet<u32>,
    samples: u64,
    stack_frames: usize,
    overflowed: u64,
    scratch: Vec<PlaceId>,
}

impl Aggregate {
    /// Nothing yet.
    pub fn new(scope: StackScope) -> Self {
        Self { scope, ..Self::default() }
    }

    /// Takes everything out and begins anew: the end of a window. What the stacks of a window are made of is interned again in the next, at the
    /// price of one copy of each distinct stack, so that nothing piles up over months.
    #[must_use]
    pub fn take(&mut self) -> Self {
        std::mem::replace(self, self.empty())
    }

    /// Nothing yet, of the same parts of stacks.
    #[must_use]
    pub fn empty(&self) -> Self {
        Self::new(self.scope)
    }

    /// Takes the sums out, with copies of the stacks that they have: the end of a window of a recording whose later sums name stacks of this one.
    #[must_use]
    pub fn take_sums(&mut self) -> Self {
        let mut taken = Self::new(self.scope);
        taken.samples = std::mem::take(&mut self.samples);
        taken.overflowed = std::mem::take(&mut self.overflowed);
        let mut copied = HashMap::new();
        for (key, tally) in std::mem::take(&mut self.tallies) {
            let stack = *copied.entry(key.stack).or_insert_with(|| taken.copy_stack(self, key.stack));
            let comm = taken.copy_comm(self, key.comm);
            taken.tallies.insert(SampleKey { stack, comm, ..key }, tally);
        }
        taken
    }

    /// A key with its stack and its name, from another aggregate.
    pub fn copy_key(&mut self, from: &Self, key: &SampleKey) -> SampleKey {
        SampleKey { stack: self.copy_stack(from, key.stack), comm: self.copy_comm(from, key.comm), ..*key }
    }

    fn copy_comm(&mut self, from: &Self, comm: u32) -> u32 {
        self.comm(&from.comms.entries()[comm as usize])
    }

    fn copy_stack(&mut self, from: &Self, stack: u32) -> u32 {
        self.scratch.clear();
        for place in &*from.stacks.entries()[stack as usize] {
            let place = match from.places.entries()[*place as usize] {
                Place::Remark(remark) => {
                    Place::Remark(self.remarks.intern_ref(&*from.remarks.entries()[remark as usize]))
                }
                place => place,
            };
            self.push(place);
        }
        let copy = self.intern_scratch();
        if from.is_traced(stack) {
            self.traced.insert(copy);
        }
        copy
    }

    /// Files that its stacks have frames in.
    pub(crate) fn objects(&self) -> impl Iterator<Item = ObjectId> {
        self.places().iter().filter_map(|place| match place {
            Place::Object { object, .. } | Place::Stopped(_, Some(object)) => Some(*object),
            _ => None,
        })
    }

    /// What the names of its places are looked up by.
    pub(crate) fn known(&self, processes: &Processes) -> Known {
        let of_places = self.places().iter().filter_map(|place| match place {
            Place::Anonymous { process, .. } => Some(*process),
            _ => None,
        });
        let all: HashSet<ProcessId> = self.tallies.keys().map(|key| key.process).chain(of_places).collect();
        let objects: HashSet<ObjectId> = self.objects().collect();
        processes.known(all.into_iter(), objects.into_iter())
    }

    /// Leaves out the sums for whose key `keep` says no; returns how many samples that were.
    pub fn retain(&mut self, mut keep: impl FnMut(&SampleKey) -> bool) -> u64 {
        let mut left_out: u64 = 0;
        self.tallies.retain(|key, tally| {
            let kept = keep(key);
            left_out = left_out.saturating_add(if kept { 0 } else { tally.samples });
            kept
        });
        self.samples = self.samples.saturating_sub(left_out);
        left_out
    }

    /// Adds one sample.
    pub fn add(
        &mut self,
        sample: &RawSample,
        moment: &Moment,
        processes: &mut Processes,
        values: [u64; MAX_VALUES],
    ) {
        let key = self.key_of(sample, moment, processes);
        self.add_values(key, 1, values);
    }

    /// What a sample is added up by, without adding it.
    pub fn key_of(&mut self, sample: &RawSample, moment: &Moment, processes: &mut Processes) -> SampleKey {
        self.scratch.clear();
        self.push_kernel(sample);
        if self.scope != StackScope::KernelOnly {
            self.push_user(sample, moment, processes);
        } else if sample.kernel.is_empty() {
            self.push(Place::UserMode);
        }
        let stack = self.intern_scratch();
        if sample.number != 0 {
            self.traced.insert(stack);
        }
        let comm = self.comms.intern_ref(sample.comm());
        SampleKey { stack, process: moment.process, tid: sample.tid, comm, cgroup_id: sample.cgroup_id }
    }

    /// Adds `samples` samples with these values in all.
    pub fn add_values(&mut self, key: SampleKey, samples: u64, values: [u64; MAX_VALUES]) {
        let tally = self.tallies.entry(key).or_default();
        tally.samples = tally.samples.saturating_add(samples);
        for (sum, value) in tally.values.iter_mut().zip(values) {
            *sum = sum.saturating_add(value);
        }
        self.samples = self.samples.saturating_add(samples);
    }

    /// Changes the values of all tallies at once.
    pub fn revalue(&mut self, mut change: impl FnMut(&SampleKey, &mut [u64; MAX_VALUES])) {
        for (key, tally) in &mut self.tallies {
            change(key, &mut tally.values);
        }
    }

    /// These stacks alone, without sums, for a look while the recording goes on; and the number that each has there.
    pub fn part(&self, stacks: impl Iterator<Item = u32>) -> (Self, HashMap<u32, u32>) {
        let mut part = Self { comms: self.comms.clone(), ..Self::new(self.scope) };
        let numbers = stacks.map(|stack| (stack, part.copy_stack(self, stack))).collect();
        (part, numbers)
    }

    /// The stack that has a remark for its leaf and `stack` below it.
    pub fn remark_on(&mut self, stack: u32, remark: &str) -> u32 {
        let leaf = self.remark(remark);
        self.scratch.clear();
        self.scratch.push(leaf);
        self.append(stack);
        self.intern_as(stack)
    }

    /// The stack that has a remark for its root and `stack` above it.
    pub fn remark_below(&mut self, stack: u32, remark: &str) -> u32 {
        let root = self.remark(remark);
        self.scratch.clear();
        self.append(stack);
        self.scratch.push(root);
        self.intern_as(stack)
    }

    /// A stack of nothing but a remark.
    pub fn remark_only(&mut self, remark: &str) -> u32 {
        let leaf = self.remark(remark);
        self.scratch.clear();
        self.scratch.push(leaf);
        self.intern_scratch()
    }

    /// The stack of a thread that waited with the stack that woke it on top: turned around, so that the two meet at their leaves, and with
    /// the waker's name as the outermost frame.
    pub fn woken_by(&mut self, stack: u32, waker: u32, name: &str) -> u32 {
        let name = self.remark(name);
        let turned: Vec<PlaceId> = self.stacks.entries()[waker as usize].iter().rev().copied().collect();
        self.scratch.clear();
        self.scratch.push(name);
        self.scratch.extend(turned);
        self.push(Place::WokenBy);
        self.append(stack);
        self.intern_as(stack)
    }

    /// The number of a thread name.
    pub fn comm(&mut self, comm: &[u8]) -> u32 {
        self.comms.intern_ref(comm)
    }

    fn remark(&mut self, text: &str) -> PlaceId {
        let remark = self.remarks.intern_ref(text);
        self.places.intern(Place::Remark(remark))
    }

    fn append(&mut self, stack: u32) {
        self.scratch.extend_from_slice(&self.stacks.entries()[stack as usize]);
    }

    /// The number of the stack in the scratch, which was taken where `model` was.
    fn intern_as(&mut self, model: u32) -> u32 {
        let traced = self.traced.contains(&model);
        let stack = self.intern_scratch();
        if traced {
            self.traced.insert(stack);
        }
        stack
    }

    fn intern_scratch(&mut self) -> u32 {
        if self.stack_frames + self.scratch.len() > MAX_STACK_FRAMES
            && !self.stacks.contains(self.scratch.as_slice())
        {
            self.overflowed += 1;
            self.scratch.clear();
            self.push(Place::Overflow);
        }
        let known = self.stacks.entries().len();
        let stack = self.stacks.intern_ref(self.scratch.as_slice());
        if self.stacks.entries().len() > known {
            self.stack_frames += self.scratch.len();
        }
        stack
    }

    fn push_kernel(&mut self, sample: &RawSample) {
        for (index, address) in sample.kernel.iter().enumerate() {
            self.push(Place::Kernel { abs_addr: look_up_address(*address, index) });
        }
    }

    fn push_user(&mut self, sample: &RawSample, moment: &Moment, processes: &mut Processes) {
        if sample.pid == 0 {
            // The idle task has no user side; what our PID namespace does not see has mappings that we cannot know.
            if !sample.user.is_empty() {
                self.push(Place::Invisible);
            }
            return;
        }
        let process = moment.process;
        let mut module = None;
        let mut walked_out = false;
        for (index, address) in sample.user.iter().enumerate() {
            let abs_addr = look_up_address(*address, index);
            let place = match processes.place(moment, abs_addr) {
                Some(region) => match region.placement {
                    Placement::Object { object, file_offset } => Place::Object {
                        object,
                        file_offset: file_offset.wrapping_add(abs_addr - region.start),
                    },
                    Placement::Vdso => Place::Vdso { offset: abs_addr - region.start },
                    Placement::Anonymous => Place::Anonymous { process, abs_addr },
                },
                // The leaf was really run, wherever it is; a caller that is not in code was never one.
                None if index == 0 => Place::Unmapped { abs_addr },
                None => {
                    walked_out = true;
                    break;
                }
            };
            module = match place {
                Place::Object { object, .. } => Some(object),
                _ => None,
            };
            self.push(place);
        }
        if walked_out {
            self.push(Place::WalkedOut);
        } else if !sample.stop.is_clean() {
            let module = module.filter(|_| sample.stop.is_about_code());
            self.push(Place::Stopped(sample.stop, module));
        }
    }

    fn push(&mut self, place: Place) {
        let id = self.places.intern(place);
        self.scratch.push(id);
    }

    /// Distinct places.
    pub fn places(&self) -> &[Place] {
        self.places.entries()
    }

    /// Distinct stacks, leaf first.
    pub fn stacks(&self) -> &[Box<[PlaceId]>] {
        self.stacks.entries()
    }

    /// Distinct thread names, as bytes.
    pub fn comms(&self) -> &[Vec<u8>] {
        self.comms.entries()
    }

    /// The sums.
    pub fn tallies(&self) -> impl Iterator<Item = (&SampleKey, &Tally)> {
        self.tallies.iter()
    }

    /// Samples added.
    pub fn samples(&self) -> u64 {
        self.samples
    }

    /// Whether a stack was taken at a tracepoint.
    pub fn is_traced(&self, stack: u32) -> bool {
        self.traced.contains(&stack)
    }

    /// Texts of remarks.
    pub fn remarks(&self) -> &[Box<str>] {
        self.remarks.entries()
    }

    /// Samples whose stack ends early, by reason.
    pub fn cut_short(&self) -> BTreeMap<Cut, u64> {
        let mut cuts: BTreeMap<Cut, u64> = BTreeMap::new();
        for (key, tally) in &self.tallies {
            let places = self.stacks.entries()[key.stack as usize].iter();
            let cut = places.rev().find_map(|place| match self.places.entries()[*place as usize] {
                Place::Stopped(reason, module) => Some(Cut::Stopped(reason, module)),
                Place::WalkedOut => Some(Cut::WalkedOut),
                _ => None,
            });
            if let Some(cut) = cut {
                *cuts.entry(cut).or_default() += tally.samples;
            }
        }
        cuts
    }

    /// Samples whose stack was not kept apart because there were too many.
    pub fn overflowed(&self) -> u64 {
        self.overflowed
    }
}

/// The address whose code is meant: a return address points behind its call, which may be the end of the function.
fn look_up_address(address: u64, index: usize) -> u64 {
    if index == 0 { address } else { address.saturating_sub(1) }
}
