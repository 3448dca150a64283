//! The probes in the processes of a recording: put in as allocators appear, taken out with their processes.

mod report;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use thiserror::Error;

use super::go::{GoMode, GoProcess};
use crate::allocator::{Allocator, Entry, Group, Identity, find, mapped_files};
use crate::bpf::{LoadError, Place, Probing, Programs, Uprobe, When};
use crate::causes::with_causes;
use crate::session::clock::cpu_ns_of;

/// Processes that get probes. Each probe is a descriptor, and an allocator has up to forty.
const MOST_PROCESSES: usize = 64;

/// Times that a process is asked to take probes.
const MOST_TRIES: u32 = 5;

/// Why allocations cannot be recorded.
#[derive(Debug, Error)]
pub enum ProbesError {
    /// The kernel has no unit for probes in user code.
    #[error("this kernel has no uprobes (CONFIG_UPROBE_EVENTS), or /sys is not mounted")]
    Unit(#[source] io::Error),
    /// No object of the target has functions of an allocator.
    #[error("{0}")]
    NoAllocator(String),
    /// The kernel refused a probe.
    #[error("cannot put a probe on `{function}` in {path} of process {pid}")]
    Attach {
        /// The function.
        function: String,
        /// The object.
        path: String,
        /// The process.
        pid: u32,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The programs could not be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
}

/// What is probed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Probed {
    /// Calls that allocate.
    Calls,
    /// Those, and calls that free.
    CallsAndFrees,
    /// Those, and returns: what a block needs to be followed.
    Blocks,
}

impl Probed {
    /// What is probed unless something is to be learned from the difference.
    pub(super) fn usual(live: bool) -> Self {
        if live { Self::Blocks } else { Self::Calls }
    }
}

/// All probes of a recording.
pub(super) struct Probes {
    probing: Probing,
    live: bool,
    /// Every call is asked for, whatever it costs.
    every: bool,
    by_process: HashMap<u32, Vec<(Identity, Uprobe)>>,
    /// How blocks are counted in the Go programs among them.
    go: HashMap<(u32, Identity), GoProcess>,
    /// The last of each object that has ended.
    ended_go: HashMap<Identity, GoProcess>,
    /// Objects that were looked at, by process.
    looked_at: HashSet<(u32, Vec<u8>)>,
    allocators: HashMap<Identity, Arc<Allocator>>,
    /// Which of them each process has.
    objects: HashMap<u32, Vec<Identity>>,
    /// Processes to look at in the next tick.
    changed: BTreeSet<u32>,
    /// Allocators that came to a process that was watched already.
    late: HashSet<Identity>,
    too_many: HashSet<u32>,
    /// Go programs whose allocator was not found.
    unknown_go: HashSet<u32>,
    entered: Vec<u32>,
    cpu_ns: HashMap<u32, u64>,
    /// Times that probes were refused, by process.
    tries: HashMap<u32, u32>,
    /// Processes that refused for good, and why the first one did.
    refused: Option<(u64, String)>,
}

impl Probes {
    pub(super) fn new(programs: &Programs, live: bool, exact: bool) -> Result<Self, ProbesError> {
        Ok(Self {
            probing: programs.heap_probing().map_err(ProbesError::Unit)?,
            live,
            // Only blocks that Go chooses can be followed.
            every: exact && !live,
            by_process: HashMap::new(),
            go: HashMap::new(),
            ended_go: HashMap::new(),
            looked_at: HashSet::new(),
            allocators: HashMap::new(),
            objects: HashMap::new(),
            changed: BTreeSet::new(),
            late: HashSet::new(),
            too_many: HashSet::new(),
            unknown_go: HashSet::new(),
            entered: Vec::new(),
            cpu_ns: HashMap::new(),
            tries: HashMap::new(),
            refused: None,
        })
    }

    /// Puts probes into the allocators of a process that have none yet; one that has just begun may not have set itself up. A process that has ended
    /// is no error.
    pub(super) fn enter(&mut self, programs: &Programs, pid: u32, age: Age) -> Result<(), ProbesError> {
        if self.by_process.len() >= MOST_PROCESSES && !self.by_process.contains_key(&pid) {
            self.too_many.insert(pid);
            return Ok(());
        }
        let watched = self.objects.contains_key(&pid);
        for file in mapped_files(pid) {
            if !self.looked_at.insert((pid, file.path.clone())) {
                continue;
            }
            for found in find(pid, &file, self.live) {
                let allocator =
                    Arc::clone(self.allocators.entry(found.identity).or_insert_with(|| Arc::new(found)));
                if let Some(choice) = allocator.go {
                    let go = GoProcess::new(choice, pid, file.clone(), self.every, age);
                    self.go.insert((pid, allocator.identity), go);
                }
                if let Err(error) = self.add(programs, pid, &allocator, Probed::usual(self.live)) {
                    self.looked_at.remove(&(pid, file.path));
                    return Err(error);
                }
                if watched {
                    self.late.insert(allocator.identity);
                }
                self.objects.entry(pid).or_default().push(allocator.identity);
                self.entered.push(pid);
            }
        }
        let entered = self.objects.contains_key(&pid);
        if entered && !self.go.keys().any(|(known, _)| *known == pid) && is_go(pid) {
            self.unknown_go.insert(pid);
        }
        Ok(())
    }

    fn add(
        &mut self,
        programs: &Programs,
        pid: u32,
        allocator: &Allocator,
        probed: Probed,
    ) -> Result<(), ProbesError> {
        let probes = self.attach(programs, pid, allocator, probed)?;
        let probes = probes.into_iter().map(|probe| (allocator.identity, probe));
        self.by_process.entry(pid).or_default().extend(probes);
        Ok(())
    }

    fn attach(
        &self,
        programs: &Programs,
        pid: u32,
        allocator: &Allocator,
        probed: Probed,
    ) -> Result<Vec<Uprobe>, ProbesError> {
        let mut probes = Vec::new();
        let mode = self.go.get(&(pid, allocator.identity)).map(GoProcess::mode);
        // Returns first, frees last: a call whose beginning is seen has its end seen too, and no block is freed before it was known.
        let mut put = |name: &'static str, when: When, wanted: &dyn Fn(&Entry) -> bool| {
            let program = programs.heap_program_fd(name)?;
            let entries: Vec<_> = allocator
                .entries
                .iter()
                .filter(|entry| wanted(entry) && has_probe(mode, entry.group))
                .collect();
            let places: Vec<Place> = entries
                .iter()
                .map(|entry| Place { file_offset: entry.file_offset, cookie: entry.site.0 })
                .collect();
            match self.probing.attach(program, pid, allocator.file.as_fd(), &places, when) {
                Ok(more) => probes.extend(more),
                Err((_, error)) if error.raw_os_error() == Some(libc::ESRCH) => {}
                Err((index, source)) => {
                    return Err(ProbesError::Attach {
                        function: entries[index].name.clone(),
                        path: allocator.path.clone(),
                        pid,
                        source,
                    });
                }
            }
            Ok(())
        };
        put("heap_returned", When::Return, &|entry| has_return_probe(entry, probed == Probed::Blocks))?;
        let entered = if mode.is_some() { "go_heap_entered" } else { "heap_entered" };
        put(entered, When::Entry, &|entry| !entry.frees)?;
        put(entered, When::Entry, &|entry| entry.frees && probed != Probed::Calls)?;
        Ok(probes)
    }

    /// A process changed.
    pub(super) fn look_at(&mut self, pid: u32) {
        self.changed.insert(pid);
    }

    /// A process ended.
    pub(super) fn leave(&mut self, pid: u32) {
        close_aside(self.by_process.remove(&pid).unwrap_or_default().into_iter().map(|(_, probe)| probe));
        self.objects.remove(&pid);
        let ended = self.go.extract_if(|(known, _), _| *known == pid);
        self.ended_go.extend(ended.map(|((_, identity), process)| (identity, process)));
        self.changed.remove(&pid);
        self.looked_at.retain(|(known, _)| *known != pid);
    }

    /// Whether a process has an allocator that is probed, or will be in the next slice.
    pub(super) fn knows(&self, pid: u32) -> bool {
        self.objects.contains_key(&pid)
    }

    /// Puts probes into processes that changed.
    pub(super) fn tick(&mut self, programs: &Programs, in_scope: impl Fn(u32) -> bool) {
        for pid in std::mem::take(&mut self.changed) {
            if !in_scope(pid) {
                continue;
            }
            // A process that is just becoming another program may refuse; it is asked again.
            if let Err(error) = self.enter(programs, pid, Age::New)
                && std::path::Path::new(&format!("/proc/{pid}")).exists()
            {
                let tries = self.tries.entry(pid).or_default();
                *tries += 1;
                if *tries < MOST_TRIES {
                    self.changed.insert(pid);
                } else {
                    self.refuse(&error);
                }
            }
        }
        for (pid, identity) in self.look_at_rates() {
            let probes = self.by_process.entry(pid).or_default();
            let (old, kept): (Vec<_>, Vec<_>) =
                std::mem::take(probes).into_iter().partition(|(of, _)| *of == identity);
            *probes = kept;
            close_aside(old.into_iter().map(|(_, probe)| probe));
            let Some(allocator) = self.allocators.get(&identity).map(Arc::clone) else { continue };
            if let Err(error) = self.add(programs, pid, &allocator, Probed::usual(self.live)) {
                self.refuse(&error);
            }
        }
    }

    /// Go programs that began or ceased to choose blocks since the last look.
    fn look_at_rates(&mut self) -> Vec<(u32, Identity)> {
        self.go.iter_mut().filter_map(|(key, process)| process.look(key.0).then_some(*key)).collect()
    }

    fn refuse(&mut self, error: &ProbesError) {
        self.refused.get_or_insert_with(|| (0, with_causes(error))).0 += 1;
    }

    pub(super) fn take_entered(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.entered)
    }

    /// CPU time that the processes with probes have used, those that have ended included, nanoseconds.
    pub(super) fn cpu_ns(&self) -> u64 {
        self.cpu_ns.values().sum()
    }

    /// Processes with probes, also while these are out.
    pub(super) fn processes(&self) -> impl Iterator<Item = u32> {
        self.by_process.keys().copied()
    }

    /// Looks how much CPU time the processes have used; what was seen last of one that has ended stays.
    pub(super) fn read_cpu(&mut self) {
        for pid in self.by_process.keys() {
            if let Some(cpu_ns) = cpu_ns_of(*pid) {
                self.cpu_ns.insert(*pid, cpu_ns);
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_process.is_empty()
    }

    /// Takes all probes out, and does not wait until the kernel has put away what was behind them.
    pub(super) fn clear(&mut self) {
        close_aside(self.by_process.drain().flat_map(|(_, probes)| probes).map(|(_, probe)| probe));
    }

    /// Takes all probes out for a while: the processes stay known.
    pub(super) fn pause(&mut self) {
        close_aside(self.by_process.values_mut().flat_map(|probes| probes.drain(..)).map(|(_, probe)| probe));
    }

    /// Puts the probes back that [`Self::pause`] took out. Processes that have ended are passed over.
    pub(super) fn resume(&mut self, programs: &Programs, probed: Probed) {
        self.look_at_rates();
        for (pid, objects) in self.objects.clone() {
            for identity in objects {
                let Some(allocator) = self.allocators.get(&identity).map(Arc::clone) else { continue };
                if let Err(error) = self.add(programs, pid, &allocator, probed) {
                    self.refuse(&error);
                }
            }
        }
    }
}

/// When a process began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Age {
    /// Before the recording.
    Old,
    /// It may be just beginning.
    New,
}

/// Whether a function gets a probe at its return. None of Go's does: Go moves stacks with their return addresses, and ends the program when it finds one
/// that is not its own.
fn has_return_probe(entry: &Entry, live: bool) -> bool {
    entry.group == Group::All && (entry.encloses || (live && !entry.frees))
}

/// Whether a function gets a probe where blocks are counted in this way; only Go programs have such ways.
fn has_probe(mode: Option<GoMode>, group: Group) -> bool {
    match group {
        Group::All => true,
        Group::GoChosen => mode == Some(GoMode::Chosen),
        Group::GoAll => mode == Some(GoMode::All),
    }
}

/// Closes each probe on a thread of its own, all at once; here, where no thread can be had. It is out at once, but closing waits until no program
/// runs any more, and the next one would be out only then.
pub(super) fn close_aside(probes: impl IntoIterator<Item = Uprobe>) {
    for probe in probes {
        let _on_this_thread = std::thread::Builder::new().stack_size(64 << 10).spawn(move || drop(probe));
    }
}

fn is_go(pid: u32) -> bool {
    let Ok(file) = std::fs::File::open(format!("/proc/{pid}/exe")) else { return false };
    crate::system::binary::Binary::inspect(file).is_ok_and(|binary| binary.go)
}

#[cfg(test)]
mod tests {
    use profiler_common::heap::{CALL_ALLOCATE, Site};

    use super::*;

    #[test]
    fn no_probe_stands_at_a_return_in_go_code() {
        let site = Site::new(CALL_ALLOCATE, [0; 3], 0, false);
        let entry = |group, encloses| Entry {
            name: String::new(),
            file_offset: 0,
            site,
            emulated: true,
            encloses,
            frees: false,
            group,
        };
        for encloses in [false, true] {
            assert!(has_return_probe(&entry(Group::All, encloses), true));
            for group in [Group::GoChosen, Group::GoAll] {
                assert!(!has_return_probe(&entry(group, encloses), true));
            }
        }
    }
}
