//! What is said of the probes: what was found, what was not, and what the reader should know.

use super::super::go::{self, GoMode, GoProcess};
use super::{MOST_PROCESSES, Probes, ProbesError, has_probe, is_go};
use crate::allocator::{Identity, mapped_files};
use crate::profile::AllocatorReport;

/// Why Go's allocator may not be found.
const OLD_GO: &str =
    "it is older than Go 1.17 (1.18 on arm64), or its compiler or linker is not the usual one";

impl Probes {
    /// Fails, in words that help, when no process has a probe.
    pub(in super::super) fn need_one(&self, pids: &[u32]) -> Result<(), ProbesError> {
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
            format!(
                "the target is a Go program in which Go's own was not found either: {OLD_GO}; `perf-agent memory` shows where it grows, and the \
                 program's own heap profile (net/http/pprof) who allocates"
            )
        } else {
            "a program that is linked statically needs its symbol table (.symtab) for this; `perf-agent memory` shows growth without one"
                .to_owned()
        };
        Err(ProbesError::NoAllocator(format!(
            "no allocator was found: none of {} defines malloc and free; {why}",
            if modules.is_empty() { "the target's files".to_owned() } else { modules.join(", ") }
        )))
    }

    /// Whether a process has an allocator whose blocks can be followed until they are freed.
    pub(in super::super) fn follows(&self, pid: u32) -> bool {
        let followed = |identity: &Identity| {
            self.go.get(&(pid, *identity)).is_none_or(|process| process.mode() == GoMode::Chosen)
        };
        self.objects.get(&pid).is_some_and(|objects| objects.iter().any(followed))
    }

    /// Fails, in words that help, when no block of these processes can be followed until it is freed.
    pub(in super::super) fn need_followed(&self) -> Result<(), ProbesError> {
        if self.objects.keys().any(|pid| self.follows(*pid)) {
            return Ok(());
        }
        Err(ProbesError::NoAllocator(
            "what becomes of blocks of this Go program cannot be seen, because it chooses none for a heap profile: import net/http/pprof in it and leave \
             runtime.MemProfileRate alone; `perf-agent alloc` shows who allocates, and `perf-agent memory` where it grows"
                .to_owned(),
        ))
    }

    /// Whether all calls that were seen are of blocks that programs choose themselves, so that totals are estimates.
    pub(in super::super) fn all_chosen(&self) -> bool {
        !self.allocators.is_empty()
            && self.allocators.values().all(|allocator| allocator.go.is_some())
            && self.go_processes().all(|(_, process)| process.mode() == GoMode::Chosen)
    }

    /// Whether some calls are.
    pub(in super::super) fn any_chosen(&self) -> bool {
        self.go_processes().any(|(_, process)| process.mode() == GoMode::Chosen)
    }

    fn go_processes(&self) -> impl Iterator<Item = (Identity, &GoProcess)> {
        let ended = self.ended_go.iter().map(|(identity, process)| (*identity, process));
        self.go.iter().map(|((_, identity), process)| (*identity, process)).chain(ended)
    }

    /// What was found, for the result.
    pub(in super::super) fn describe(&self) -> Vec<AllocatorReport> {
        let mut reports: Vec<AllocatorReport> = self
            .allocators
            .values()
            .map(|allocator| {
                let mut processes = self.go_processes().filter(|(of, _)| *of == allocator.identity);
                let mode = processes.next().map(|(_, process)| process.mode());
                let probed = || allocator.entries.iter().filter(|entry| has_probe(mode, entry.group));
                AllocatorReport {
                    name: allocator.flavour.name().to_owned(),
                    path: allocator.path.clone(),
                    functions: probed().count() as u64,
                    emulated: probed().filter(|entry| entry.emulated).count() as u64,
                }
            })
            .collect();
        reports.sort_by(|a, b| a.path.cmp(&b.path));
        reports
    }

    /// What the reader should know of the probes.
    pub(in super::super) fn notes(&self) -> Vec<String> {
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
        notes.extend(go::notes(self.go_processes().map(|(_, process)| process), self.live));
        if self.looked_at.iter().any(|(_, path)| is_python(path)) {
            notes.push(
                "Python keeps blocks of up to 512 bytes in pools of its own, which are no calls of malloc: perf-agent memory shows how they grow"
                    .to_owned(),
            );
        }
        let mut late: Vec<&str> = self
            .late
            .iter()
            .filter_map(|identity| self.allocators.get(identity))
            .map(|allocator| &*allocator.path)
            .collect();
        late.sort_unstable();
        for path in late {
            notes.push(format!(
                "{path} came to a process while it was watched: blocks that it gave out before its probes were in are not known"
            ));
        }
        if !self.unknown_go.is_empty() {
            notes.push(format!(
                "Go's own allocator was not found in {} processes, only that of C: {OLD_GO}; perf-agent memory shows growth",
                self.unknown_go.len()
            ));
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

/// Whether an object is an interpreter with `pymalloc`.
fn is_python(path: &[u8]) -> bool {
    let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    name.starts_with(b"libpython3") || name.starts_with(b"python3")
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
