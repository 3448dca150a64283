//! Builds page tables on a thread of its own, beside the drain.
//!
//! In: requests with an open file. Out: finished page tables, in the order of the requests, from the cache on disk where an earlier
//! recording left them there. The thread ends when the unwinder drops its side of the channel, and keeps what it built.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::pool::{PageKey, Source};
use crate::object::{DebugFiles, Elf, vdso_image};
use crate::unwind_info::cache::{Cache, CachedPages, DEFAULT_DIRECTORY};
use crate::unwind_info::{PageTable, UnwindInfo};

/// Binaries whose headers and index stay open between requests.
const OPEN_BINARIES: usize = 32;

/// A page to build.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) key: PageKey,
    /// The file; none for the vDSO, and for a file that could not be opened.
    pub(super) file: Option<File>,
    /// Path as the target sees it: debug files are searched relative to it.
    pub(super) path: Arc<str>,
    /// Root directory of a process that mapped it.
    pub(super) root: Option<Arc<OwnedFd>>,
}

/// A page that was built; no table when there is nothing to build it from.
#[derive(Debug)]
pub(super) struct Built {
    pub(super) key: PageKey,
    pub(super) table: Option<PageTable>,
}

/// The thread and the way to it.
#[derive(Debug)]
pub(super) struct Worker {
    requests: Option<Sender<Request>>,
    results: Receiver<Built>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    /// Starts the thread.
    ///
    /// # Errors
    ///
    /// The system has no room for another thread.
    pub(super) fn start() -> std::io::Result<Self> {
        let (requests, todo) = channel();
        let (done, results) = channel();
        let thread = std::thread::Builder::new()
            .name("unwind-tables".to_owned())
            .spawn(move || Builder::new().run(&todo, &done))?;
        Ok(Self { requests: Some(requests), results, thread: Some(thread) })
    }

    /// Asks for a page.
    pub(super) fn ask(&self, request: Request) {
        if let Some(requests) = &self.requests {
            // The thread outlives the sender; if it died, the samples that wait are given up in time.
            let _waits = requests.send(request);
        }
    }

    /// A page that is finished.
    pub(super) fn take(&self) -> Option<Built> {
        self.results.try_recv().ok()
    }

    /// A page that will be finished within `patience`.
    pub(super) fn wait(&self, patience: Duration) -> Option<Built> {
        self.results.recv_timeout(patience).ok()
    }
}

/// Longest time that the end of a recording waits for the tables to be kept on disk. It runs beside the naming, which takes
/// longer.
const WRITE_PATIENCE: Duration = Duration::from_secs(1);

impl Worker {
    /// Takes no more requests; the thread keeps what it built and ends.
    pub(super) fn close(&mut self) {
        self.requests = None;
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.close();
        let deadline = Instant::now() + WRITE_PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.results.recv_timeout(left) {
                Ok(_) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    let ended = self.thread.take().map(JoinHandle::join);
                    // A panic there was reported by the thread itself, and cost tables, not samples.
                    drop(ended);
                    return;
                }
                // Whatever it is at, nobody waits for it: a file on a hung mount must not keep us.
                Err(RecvTimeoutError::Timeout) => return,
            }
        }
    }
}

/// Pages built but not yet on disk, of all binaries, from which on they are written at once: about a megabyte.
const MOST_UNWRITTEN: usize = 256;
/// Time without a request after which they are written, however few they are.
const CALM: Duration = Duration::from_secs(10);

/// A binary that pages are built of.
struct Binary {
    /// When it was asked last.
    used: u64,
    info: UnwindInfo,
    /// Tables from an earlier recording.
    kept: Option<CachedPages>,
    /// Tables to keep for later ones.
    unwritten: BTreeMap<u64, PageTable>,
    /// Whether its build ID can be trusted with that.
    keeps: bool,
}

struct Builder {
    open: HashMap<Source, Option<Binary>>,
    /// Pages that are to be written, of all binaries.
    unwritten: usize,
    clock: u64,
    cache: Option<Cache>,
}

impl Builder {
    fn new() -> Self {
        // Without it every recording builds its own: a matter of milliseconds, so nothing to bother anybody with.
        let cache = Cache::open(Path::new(DEFAULT_DIRECTORY)).ok();
        Self { open: HashMap::new(), unwritten: 0, clock: 0, cache }
    }

    fn run(mut self, todo: &Receiver<Request>, done: &Sender<Built>) {
        loop {
            match todo.recv_timeout(CALM) {
                Ok(request) => {
                    let key = request.key;
                    let table = self.page(request);
                    if done.send(Built { key, table }).is_err() {
                        break;
                    }
                }
                Err(RecvTimeoutError::Timeout) => self.write_all(),
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        self.write_all();
    }

    fn page(&mut self, request: Request) -> Option<PageTable> {
        let (source, number) = request.key;
        self.clock += 1;
        if !self.open.contains_key(&source) {
            if self.open.len() >= OPEN_BINARIES {
                self.close_oldest();
            }
            let binary = self.open(request);
            self.open.insert(source, binary);
        }
        let binary = self.open.get_mut(&source)?.as_mut()?;
        binary.used = self.clock;
        let found = binary.kept.as_ref().and_then(|kept| kept.page(number));
        if found.is_some() {
            return found;
        }
        let table = binary.info.page(number).ok()?;
        if binary.keeps && binary.unwritten.insert(number, table.clone()).is_none() {
            self.unwritten += 1;
            if self.unwritten >= MOST_UNWRITTEN {
                self.write_all();
            }
        }
        Some(table)
    }

    fn close_oldest(&mut self) {
        let age = |binary: &Option<Binary>| binary.as_ref().map_or(0, |binary| binary.used);
        let oldest = self.open.iter().min_by_key(|(_, binary)| age(binary)).map(|(source, _)| *source);
        if let Some(binary) = oldest.and_then(|source| self.open.remove(&source)).flatten() {
            self.unwritten -= binary.unwritten.len();
            write(self.cache.as_ref(), &binary.info, &binary.unwritten);
        }
    }

    /// Keeps what was built. It is read from disk when it is asked for again.
    fn write_all(&mut self) {
        self.unwritten = 0;
        for binary in self.open.values_mut().flatten().filter(|binary| !binary.unwritten.is_empty()) {
            let pages = std::mem::take(&mut binary.unwritten);
            write(self.cache.as_ref(), &binary.info, &pages);
            binary.kept = kept(self.cache.as_ref(), &binary.info);
        }
    }

    fn open(&self, request: Request) -> Option<Binary> {
        let keeps = request.file.as_ref().is_some_and(Cache::may_hold);
        let info = open(request)?;
        let kept = keeps.then(|| kept(self.cache.as_ref(), &info)).flatten();
        Some(Binary { used: self.clock, info, kept, unwritten: BTreeMap::new(), keeps })
    }
}

/// Tables that were kept.
fn kept(cache: Option<&Cache>, info: &UnwindInfo) -> Option<CachedPages> {
    cache?.load(info.build_id()?, info.arch()?)
}

/// Keeps tables for the next recording. That it failed costs the next one a few milliseconds.
fn write(cache: Option<&Cache>, info: &UnwindInfo, pages: &BTreeMap<u64, PageTable>) {
    if let (Some(cache), Some(build_id), Some(arch), false) =
        (cache, info.build_id(), info.arch(), pages.is_empty())
    {
        let _unused = cache.store(build_id, arch, pages);
    }
}

fn open(request: Request) -> Option<UnwindInfo> {
    let elf = match request.key.0 {
        Source::Object(_) => Elf::open(request.file?).ok()?,
        Source::Vdso => Elf::from_bytes(vdso_image()?).ok()?,
    };
    let find_debug = |elf: &Elf| {
        let own = File::open("/").ok();
        let roots: Vec<_> =
            request.root.iter().map(|root| root.as_fd()).chain(own.as_ref().map(AsFd::as_fd)).collect();
        let files = DebugFiles { roots: &roots, dirs: &[PathBuf::from("/usr/lib/debug")] };
        files.find(elf, Path::new(&*request.path)).map(|(elf, _)| elf)
    };
    Some(UnwindInfo::open(elf, find_debug))
}
