//! The probes in the processes of a recording: put in as allocators appear, taken out with their processes.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use thiserror::Error;

use crate::allocator::{Allocator, find, mapped_files};
use crate::bpf::{LoadError, Place, Probing, Programs, Uprobe, When};
use crate::profile::AllocatorReport;
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

/// All probes of a recording.
pub(super) struct Probes {
    probing: Probing,
    live: bool,
    by_process: HashMap<u32, Vec<Uprobe>>,
    /// Objects that were looked at, by process.
    looked_at: HashSet<(u32, Vec<u8>)>,
    allocators: HashMap<(u64, u64), Arc<Allocator>>,
    /// Which of them each process has.
    objects: HashMap<u32, Vec<(u64, u64)>>,
    /// Processes to look at in the next tick.
    changed: BTreeSet<u32>,
    too_many: HashSet<u32>,
    entered: Vec<u32>,
    cpu_ns: HashMap<u32, u64>,
    /// Times that probes were refused, by process.
    tries: HashMap<u32, u32>,
    /// Processes that refused for good, and why the first one did.
    refused: Option<(u64, String)>,
}

impl Probes {
    pub(super) fn new(programs: &Programs, live: bool) -> Result<Self, ProbesError> {
        Ok(Self {
            probing: programs.heap_probing().map_err(ProbesError::Unit)?,
            live,
            by_process: HashMap::new(),
            looked_at: HashSet::new(),
            allocators: HashMap::new(),
            objects: HashMap::new(),
            changed: BTreeSet::new(),
            too_many: HashSet::new(),
            entered: Vec::new(),
            cpu_ns: HashMap::new(),
            tries: HashMap::new(),
            refused: None,
        })
    }

    /// Puts probes into the allocators of a process that have none yet. A process that has ended is no error.
    pub(super) fn enter(&mut self, programs: &Programs, pid: u32) -> Result<(), ProbesError> {
        if self.by_process.len() >= MOST_PROCESSES && !self.by_process.contains_key(&pid) {
            self.too_many.insert(pid);
            return Ok(());
        }
        for file in mapped_files(pid) {
            if !self.looked_at.insert((pid, file.path.clone())) {
                continue;
            }
            let Some(found) = find(pid, &file, self.live) else { continue };
            let allocator =
                Arc::clone(self.allocators.entry(found.identity).or_insert_with(|| Arc::new(found)));
            let probes = match self.attach(programs, pid, &allocator) {
                Ok(probes) => probes,
                Err(error) => {
                    self.looked_at.remove(&(pid, file.path));
                    return Err(error);
                }
            };
            self.by_process.entry(pid).or_default().extend(probes);
            self.objects.entry(pid).or_default().push(allocator.identity);
            self.entered.push(pid);
        }
        Ok(())
    }

    fn attach(
        &self,
        programs: &Programs,
        pid: u32,
        allocator: &Allocator,
    ) -> Result<Vec<Uprobe>, ProbesError> {
        let mut probes = Vec::new();
        // Returns first, frees last: a call whose beginning is seen has its end seen too, and no block is freed before it was known.
        let mut put = |name: &'static str, when: When, wanted: &dyn Fn(&crate::allocator::Entry) -> bool| {
            let program = programs.heap_program_fd(name)?;
            let entries: Vec<_> = allocator.entries.iter().filter(|entry| wanted(entry)).collect();
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
        put("heap_returned", When::Return, &|entry| entry.encloses || (self.live && !entry.frees))?;
        put("heap_entered", When::Entry, &|entry| !entry.frees)?;
        put("heap_entered", When::Entry, &|entry| entry.frees && self.live)?;
        Ok(probes)
    }

    /// Fails, in words that help, when no process has a probe.
    pub(super) fn need_one(&self, pids: &[u32]) -> Result<(), ProbesError> {
        if !self.by_process.is_empty() {
            return Ok(());
        }
        let modules: Vec<String> = pids
            .iter()
            .flat_map(|pid| mapped_files(*pid))
            .map(|file| {
                crate::profile::clean(file.path.rsplit(|byte| *byte == b'/').next().unwrap_or_default())
            })
            .take(8)
            .collect();
        let go = pids.iter().any(|pid| is_go(*pid));
        let why = if go {
            "the target is a Go program: its allocator is inlined and has no border to probe; `perf-agent memory` shows where it grows, and the \
             program's own heap profile (net/http/pprof) who allocates"
        } else {
            "a program that is linked statically needs its symbol table (.symtab) for this; `perf-agent memory` shows growth without one"
        };
        Err(ProbesError::NoAllocator(format!(
            "no allocator was found: none of {} defines malloc and free; {why}",
            if modules.is_empty() { "the target's files".to_owned() } else { modules.join(", ") }
        )))
    }

    /// A process changed.
    pub(super) fn look_at(&mut self, pid: u32) {
        self.changed.insert(pid);
    }

    /// A process ended.
    pub(super) fn leave(&mut self, pid: u32) {
        close_aside(self.by_process.remove(&pid).unwrap_or_default());
        self.objects.remove(&pid);
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
            if let Err(error) = self.enter(programs, pid)
                && std::path::Path::new(&format!("/proc/{pid}")).exists()
            {
                let tries = self.tries.entry(pid).or_default();
                *tries += 1;
                if *tries < MOST_TRIES {
                    self.changed.insert(pid);
                } else {
                    self.refused.get_or_insert_with(|| (0, with_causes(&error))).0 += 1;
                }
            }
        }
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
        close_aside(self.by_process.drain().flat_map(|(_, probes)| probes).collect());
    }

    /// Takes all probes out for a while: the processes stay known.
    pub(super) fn pause(&mut self) {
        close_aside(self.by_process.values_mut().flat_map(|probes| probes.drain(..)).collect());
    }

    /// Puts the probes back that [`Self::pause`] took out. Processes that have ended are passed over.
    pub(super) fn resume(&mut self, programs: &Programs) {
        for (pid, objects) in self.objects.clone() {
            for identity in objects {
                let Some(allocator) = self.allocators.get(&identity).map(Arc::clone) else { continue };
                match self.attach(programs, pid, &allocator) {
                    Ok(probes) => self.by_process.entry(pid).or_default().extend(probes),
                    Err(error) => self.refused.get_or_insert_with(|| (0, with_causes(&error))).0 += 1,
                }
            }
        }
    }

    /// What was found, for the result.
    pub(super) fn describe(&self) -> Vec<AllocatorReport> {
        let mut reports: Vec<AllocatorReport> = self
            .allocators
            .values()
            .map(|allocator| AllocatorReport {
                name: allocator.flavour.name().to_owned(),
                path: allocator.path.clone(),
                functions: allocator.entries.len() as u64,
                emulated: allocator.entries.iter().filter(|entry| entry.emulated).count() as u64,
            })
            .collect();
        reports.sort_by(|a, b| a.path.cmp(&b.path));
        reports
    }

    /// What the reader should know of the probes.
    pub(super) fn notes(&self) -> Vec<String> {
        let mut notes: Vec<String> = self
            .describe()
            .iter()
            .map(|found| {
                format!(
                    "{} in {}: {} functions, {} of them probed at an instruction that the kernel emulates",
                    found.name, found.path, found.functions, found.emulated
                )
            })
            .collect();
        if self.looked_at.iter().any(|(_, path)| is_python(path)) {
            notes.push(
                "Python keeps blocks of up to 512 bytes in pools of its own, which are no calls of malloc: perf-agent memory shows how they grow"
                    .to_owned(),
            );
        }
        if !self.too_many.is_empty() {
            notes.push(format!(
                "{} processes past the first {MOST_PROCESSES} got no probes; name the ones that matter",
                self.too_many.len()
            ));
        }
        if let Some((count, why)) = &self.refused {
            notes.push(format!("probes were refused in {count} processes: {why}"));
        }
        notes
    }
}

/// An error with what is behind it, in one line.
fn with_causes(error: &ProbesError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// Closes each probe on a thread of its own, all at once; here, where no thread can be had. Closing waits until no program runs any more.
pub(super) fn close_aside(probes: Vec<Uprobe>) {
    for probe in probes {
        let _on_this_thread = std::thread::Builder::new().stack_size(64 << 10).spawn(move || drop(probe));
    }
}

/// Whether an object is an interpreter with `pymalloc`.
fn is_python(path: &[u8]) -> bool {
    let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    name.starts_with(b"libpython3") || name.starts_with(b"python3")
}

fn is_go(pid: u32) -> bool {
    let Ok(file) = std::fs::File::open(format!("/proc/{pid}/exe")) else { return false };
    crate::system::binary::Binary::inspect(file).is_ok_and(|binary| binary.go)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pythons_pools_are_known_by_name() {
        assert!(
            is_python(b"/usr/lib/x86_64-linux-gnu/libpython3.11.so.1.0") && is_python(b"/usr/bin/python3.11")
        );
        assert!(!is_python(b"/usr/lib/python3/apt.so") && !is_python(b""));
    }
}
