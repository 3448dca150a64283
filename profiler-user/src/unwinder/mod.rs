//! Complete user stacks: loads unwind tables for what is sampled, and finishes the walks that came before their tables.
//!
//! A walk in the kernel that meets a missing mapping or page sends its registers and a copy of the stack. Here the same walk goes on
//! over that copy as soon as the page is built, so that the first sample in a binary, and the only sample of a process that is
//! already gone, have whole stacks too. Pages are built on another thread; the drain never waits for them.

mod blocks;
mod pool;
mod rows;
mod spaces;
mod walk;
mod worker;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use profiler_common::stop::StopReason;
use profiler_common::unwind::{Arch, TEXT_PAGE_BITS};

use crate::bpf::TableMaps;
use crate::bpf::tables::SpaceMaps;
use crate::ingest::{EventKind, ProcessEvent, RawSample};
use crate::process::{Mappings, Moment, ObjectId, Placement, Processes};
use crate::profile::UnwindTables;
use pool::{PageKey, Pool};
use spaces::Spaces;
use walk::{Outcome, walk};
use worker::{Request, Worker};

pub use pool::Source;

/// Memory of the samples that wait for their tables. A sample holds up to 24 KiB of stack.
const MAX_WAITING_BYTES: usize = 8 << 20;

/// Pages of code, 64 KiB each, that [`Unwinder::prepare`] asks for at once: 8 MiB, and of one object 2 MiB, more than the C library has.
const MOST_PREPARED_PAGES: usize = 128;
const MOST_PREPARED_OF_ONE: usize = 32;

/// Longest time that the end of a recording waits for tables that are being built.
const PATIENCE: Duration = Duration::from_secs(2);

/// A sample with what its addresses mean.
pub type Placed = (RawSample, Moment);

/// The end of an [`Unwinder`].
#[derive(Debug)]
pub struct Closing {
    _worker: Worker,
}

/// The tables of one recording.
#[derive(Debug)]
pub struct Unwinder {
    arch: Arch,
    code_mask: u64,
    pool: Pool,
    spaces: Spaces<SpaceMaps>,
    worker: Worker,
    requested: HashSet<PageKey>,
    /// Processes that the kernel side could not walk, or whose mappings have changed, since the drain began.
    unloaded: HashSet<u32>,
    waiting: Vec<(PageKey, Placed)>,
    waiting_bytes: usize,
    finished: u64,
    given_up: u64,
}

impl Unwinder {
    /// Takes the kernel side's maps. The rows take up to `max_bytes`.
    ///
    /// # Errors
    ///
    /// The thread that builds tables could not be started.
    pub fn new(maps: TableMaps, code_mask: u64, max_bytes: u64) -> std::io::Result<Self> {
        Ok(Self {
            arch: if cfg!(target_arch = "x86_64") { Arch::X86_64 } else { Arch::Aarch64 },
            code_mask,
            pool: Pool::new(maps.pool, max_bytes),
            spaces: Spaces::new(maps.spaces),
            worker: Worker::start()?,
            requested: HashSet::new(),
            unloaded: HashSet::new(),
            waiting: Vec::new(),
            waiting_bytes: 0,
            finished: 0,
            given_up: 0,
        })
    }

    /// Makes the kernel side know a process before its first sample.
    pub fn load(&mut self, pid: u32, mappings: &Arc<Mappings>) {
        if pid != 0 && !mappings.regions().is_empty() {
            let pool = &mut self.pool;
            self.spaces.load(pid, mappings, |source, first, count| pool.run(source, first, count));
        }
    }

    /// Keeps the numbers of address spaces right: forks share one, execs and exits end it.
    pub fn follow(&mut self, event: &ProcessEvent) {
        match &event.kind {
            EventKind::Fork { parent } => self.spaces.fork(*parent, event.pid),
            EventKind::Exec { .. } | EventKind::Exit => self.spaces.end(event.pid),
            EventKind::Map(_) if self.spaces.is_known(event.pid) => {
                self.unloaded.insert(event.pid);
            }
            _ => {}
        }
    }

    /// All events of a drain have come: makes the kernel side know the processes that it could not walk, as they are now. Most of those of a
    /// storm have ended by now, and cost nothing.
    pub fn catch_up(&mut self, processes: &Processes) {
        for pid in std::mem::take(&mut self.unloaded) {
            if let Some(mappings) = processes.mappings_of_living(pid) {
                self.load(pid, mappings);
            }
        }
    }

    /// A new drain begins.
    pub fn tick(&mut self) {
        self.pool.tick();
        self.spaces.tick();
    }

    /// Takes in a sample: hands it back at once when its walk is finished, else keeps it until [`Unwinder::poll`].
    pub fn take(&mut self, placed: Placed, processes: &mut Processes) -> Option<Placed> {
        if placed.0.cold.is_none() {
            if self.pool.is_tight() {
                self.touch(&placed);
            }
            return Some(placed);
        }
        self.unloaded.insert(placed.1.pid);
        processes.hold_all(&placed.1);
        self.go_on(placed, processes)
    }

    /// The pages of a sample's frames were used.
    fn touch(&mut self, (sample, moment): &Placed) {
        for address in &sample.user {
            let Some(region) = moment.mappings.find(*address) else { continue };
            let (source, file_offset) = match region.placement {
                Placement::Object { object, file_offset } => (Source::Object(object), file_offset),
                Placement::Vdso => (Source::Vdso, 0),
                Placement::Anonymous => continue,
            };
            self.pool.touch((source, (address - region.start).wrapping_add(file_offset) >> TEXT_PAGE_BITS));
        }
    }

    fn go_on(&mut self, mut placed: Placed, processes: &mut Processes) -> Option<Placed> {
        match walk(&mut placed.0, self.arch, self.code_mask, &placed.1.mappings, &self.pool) {
            Outcome::Ended => {
                self.finished += 1;
                placed.0.cold = None;
                Some(placed)
            }
            Outcome::Needs(_) if self.waiting_bytes > MAX_WAITING_BYTES => Some(self.give_up(placed)),
            Outcome::Needs(key) => {
                if self.requested.insert(key) {
                    if let Source::Object(object) = key.0 {
                        processes.hold_object(&placed.1, object);
                    }
                    self.worker.ask(request(key, processes));
                }
                self.waiting_bytes += bytes_of(&placed);
                self.waiting.push((key, placed));
                None
            }
        }
    }

    fn give_up(&mut self, mut placed: Placed) -> Placed {
        self.given_up += 1;
        placed.0.stop = StopReason::TableMissing;
        placed.0.cold = None;
        placed
    }

    /// Asks for the tables of a process's code before it is sampled, as far as it is small: for recordings whose first moments bring more
    /// samples than could wait for them.
    pub fn prepare(&mut self, moment: &Moment, processes: &mut Processes) {
        self.load(moment.pid, &moment.mappings);
        let mut left = MOST_PREPARED_PAGES;
        for region in moment.mappings.regions() {
            let Placement::Object { object, file_offset } = region.placement else { continue };
            let last =
                file_offset.saturating_add(region.end - region.start).saturating_sub(1) >> TEXT_PAGE_BITS;
            for page in (file_offset >> TEXT_PAGE_BITS..=last).take(MOST_PREPARED_OF_ONE) {
                let key = (Source::Object(object), page);
                if left == 0 {
                    return;
                }
                if self.requested.insert(key) {
                    left -= 1;
                    processes.hold_object(moment, object);
                    self.worker.ask(request(key, processes));
                }
            }
        }
    }

    /// Samples whose tables have come since the last call.
    pub fn poll(&mut self, processes: &mut Processes) -> Vec<Placed> {
        let mut finished = Vec::new();
        loop {
            let mut installed = HashSet::new();
            while let Some(built) = self.worker.take() {
                self.install(&built, &mut installed);
            }
            if installed.is_empty() {
                return finished;
            }
            self.go_on_with(&installed, processes, &mut finished);
        }
    }

    /// All samples that still wait, finished or given up.
    pub fn finish(&mut self, processes: &mut Processes) -> Vec<Placed> {
        let deadline = Instant::now() + PATIENCE;
        let mut finished = self.poll(processes);
        while !self.waiting.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            let Some(built) = self.worker.wait(left) else { break };
            let mut installed = HashSet::new();
            self.install(&built, &mut installed);
            self.go_on_with(&installed, processes, &mut finished);
        }
        for (_, placed) in std::mem::take(&mut self.waiting) {
            let placed = self.give_up(placed);
            finished.push(placed);
        }
        finished
    }

    fn install(&mut self, built: &worker::Built, installed: &mut HashSet<PageKey>) {
        self.requested.remove(&built.key);
        self.pool.install(built.key, built.table.as_ref());
        installed.insert(built.key);
    }

    fn go_on_with(
        &mut self,
        pages: &HashSet<PageKey>,
        processes: &mut Processes,
        finished: &mut Vec<Placed>,
    ) {
        let (ready, waiting) =
            std::mem::take(&mut self.waiting).into_iter().partition(|(key, _)| pages.contains(key));
        self.waiting = waiting;
        for (_, placed) in ready {
            self.waiting_bytes = self.waiting_bytes.saturating_sub(bytes_of(&placed));
            finished.extend(self.go_on(placed, processes));
        }
    }

    /// What samples that wait for tables still need to know of their processes.
    pub fn waiting_moments(&self) -> impl Iterator<Item = &Moment> {
        self.waiting.iter().map(|(_, (_, moment))| moment)
    }

    /// Lets go of the tables of all objects but these.
    pub fn forget(&mut self, wanted: &HashSet<ObjectId>) {
        self.pool.forget(|source| match source {
            Source::Object(object) => wanted.contains(&object),
            Source::Vdso => true,
        });
    }

    /// A process is gone, although no event said so.
    pub fn end(&mut self, pid: u32) {
        self.spaces.end(pid);
    }

    /// Ends the thread that builds tables. It keeps them on disk meanwhile; dropping what is returned waits a moment for that.
    pub fn close(mut self) -> Closing {
        self.worker.close();
        Closing { _worker: self.worker }
    }

    /// Whether samples wait for tables, so that a look after a few milliseconds is worth while.
    pub fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// What it holds and did.
    pub fn figures(&self) -> UnwindTables {
        let pool = self.pool.figures();
        let spaces = self.spaces.figures();
        UnwindTables {
            pages: pool.pages,
            rows: pool.rows,
            rules: pool.rules,
            pool_bytes: pool.bytes,
            evicted_pages: pool.evicted,
            refused_pages: pool.refused,
            spaces: spaces.spaces,
            mapping_entries: spaces.entries,
            delayed_loads: spaces.delayed,
            refused_mappings: spaces.refused,
            finished_samples: self.finished,
            given_up_samples: self.given_up,
        }
    }
}

fn bytes_of(placed: &Placed) -> usize {
    placed.0.cold.as_ref().map_or(0, |cold| cold.stack.len()) + 1024
}

fn request(key: PageKey, processes: &Processes) -> Request {
    match key.0 {
        Source::Object(id) => {
            let object = processes.objects.object(id);
            let file = object.file.as_ref().and_then(|file| file.try_clone().ok());
            Request { key, file, path: Arc::clone(&object.path), root: object.root.clone() }
        }
        Source::Vdso => Request { key, file: None, path: Arc::from("[vdso]"), root: None },
    }
}
