//! What each process uses.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use super::Rows;
use crate::continuous::filter::Filter;
use crate::process::{cgroup_of, numeric_entries};
use crate::profile::{Meta, Profile, clean};
use crate::system::read;
use crate::system::target::Stat;

/// Processes that are looked at. Each look takes some ten microseconds.
const MOST_PROCESSES: usize = 8_192;
/// Open files that are counted one by one, where the kernel does not say how many there are (before 6.2).
const MOST_COUNTED_FILES: usize = 4_096;

/// Kind and unit of the values.
const VALUES: [(&str, &str); 6] = [
    ("cpu", "nanoseconds"),
    ("read", "bytes"),
    ("written", "bytes"),
    ("threads", "count_milliseconds"),
    ("descriptors", "count_milliseconds"),
    ("resident", "byte_milliseconds"),
];

/// A process as it was at the last look.
#[derive(Debug)]
struct Seen {
    start_ticks: u64,
    comm: Vec<u8>,
    name: Arc<str>,
    uid: Option<u32>,
    cgroup: Option<Arc<str>>,
    /// CPU time in clock ticks, bytes read from and written to storage.
    sums: [u64; 3],
}

/// All of them.
#[derive(Debug)]
pub(super) struct Processes {
    seen: HashMap<u32, Seen>,
    tick_ns: u64,
    page_bytes: u64,
}

impl Processes {
    pub(super) fn new() -> Self {
        let mut new = Self {
            seen: HashMap::new(),
            tick_ns: 1_000_000_000 / rustix::param::clock_ticks_per_second().max(1),
            page_bytes: rustix::param::page_size() as u64,
        };
        new.look(|_, _, _| {});
        new
    }

    /// What each has used since the last look. One that began since then has used all that it has.
    pub(super) fn window(&mut self, filter: &Filter, elapsed_ms: u64, meta: Meta) -> Profile {
        let mut rows = Rows::new(&VALUES);
        let (tick_ns, page_bytes) = (self.tick_ns, self.page_bytes);
        let left_out = self.look(|pid, seen, now| {
            if !filter.keeps_process(&seen.name, seen.uid, seen.cgroup.as_deref()) {
                return;
            }
            let held = |level: u64| level.saturating_mul(elapsed_ms);
            let values = [
                now.used[0].saturating_mul(tick_ns),
                now.used[1],
                now.used[2],
                held(now.threads),
                held(now.descriptors),
                held(now.resident_pages.saturating_mul(page_bytes)),
            ];
            rows.add(pid, &seen.name, seen.cgroup.as_ref(), &values);
        });
        let mut notes = Vec::new();
        if left_out > 0 {
            notes.push(format!("{left_out} processes past the first {MOST_PROCESSES} were not looked at"));
        }
        rows.finish(meta, notes)
    }

    /// Looks at every process; returns how many were left out.
    fn look(&mut self, mut show: impl FnMut(u32, &Seen, &Now)) -> usize {
        let pids = numeric_entries(Path::new("/proc"));
        let mut kept = HashMap::with_capacity(self.seen.len());
        for pid in pids.iter().copied().take(MOST_PROCESSES) {
            // Gone meanwhile is fine.
            let Ok(stat) = Stat::gather(pid) else { continue };
            if stat.is_kernel_thread() {
                continue;
            }
            let known = self.seen.remove(&pid).filter(|seen| seen.start_ticks == stat.start_ticks);
            let mut seen = known.unwrap_or_else(|| Seen::of(pid, stat.start_ticks));
            if seen.comm != stat.comm {
                // Another program in the same process.
                seen.name = Arc::from(clean(&stat.comm));
                seen.cgroup = cgroup_of(pid);
                seen.comm.clone_from(&stat.comm);
            }
            let (read, written) = moved(pid).unwrap_or((seen.sums[1], seen.sums[2]));
            let sums = [stat.cpu_ticks, read, written];
            let before = std::mem::replace(&mut seen.sums, sums);
            let used = std::array::from_fn(|index| sums[index].saturating_sub(before[index]));
            let now = Now {
                used,
                threads: u64::from(stat.threads),
                descriptors: descriptors(pid),
                resident_pages: stat.resident_pages,
            };
            show(pid, &seen, &now);
            kept.insert(pid, seen);
        }
        self.seen = kept;
        pids.len().saturating_sub(MOST_PROCESSES)
    }
}

/// What a look found.
struct Now {
    used: [u64; 3],
    threads: u64,
    descriptors: u64,
    resident_pages: u64,
}

impl Seen {
    fn of(pid: u32, start_ticks: u64) -> Self {
        let uid = fs::metadata(format!("/proc/{pid}")).ok().map(|data| data.uid());
        Self { start_ticks, comm: Vec::new(), name: Arc::from(""), uid, cgroup: None, sums: [0; 3] }
    }
}

/// Bytes that a process has had read from storage and written to it (`read_bytes` and `write_bytes` of `/proc/PID/io`, proc(5)).
fn moved(pid: u32) -> Option<(u64, u64)> {
    let text = read::text(format!("/proc/{pid}/io")).ok()?;
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().parse().ok()
    };
    Some((field("read_bytes:")?, field("write_bytes:")?))
}

/// How many files a process has open: the size of `/proc/PID/fd` (since Linux 6.2), else its entries.
fn descriptors(pid: u32) -> u64 {
    let path = format!("/proc/{pid}/fd");
    match fs::metadata(&path) {
        Ok(folder) if folder.size() > 0 => folder.size(),
        Ok(_) => fs::read_dir(&path).map_or(0, |entries| entries.take(MOST_COUNTED_FILES).count() as u64),
        Err(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::clock::thread_cpu_ns;

    #[test]
    fn we_use_what_we_use_and_a_filter_leaves_us_out() {
        let mut processes = Processes::new();
        // CPU time, not time: others may have the CPU.
        let began = thread_cpu_ns();
        while thread_cpu_ns() - began < 120_000_000 {
            std::hint::black_box(());
        }
        let own = std::process::id();
        let profile = processes.window(&Filter::default(), 1_000, Meta::default());
        let row = profile.samples.iter().find(|sample| profile.labels_of(sample).pid == own).unwrap();
        let value = |kind: &str| {
            let index = profile.value_types.iter().position(|value| value.kind == kind).unwrap();
            row.values[index]
        };
        assert!(value("cpu") >= 50_000_000, "{} ns", value("cpu"));
        assert!(value("resident") / 1_000 > 1 << 20, "{}", value("resident"));
        assert!(value("threads") >= 1_000 && value("descriptors") >= 3_000);
        assert!(profile.samples.len() > 1 && profile.stack(row.stack).is_empty());
        let name = profile.labels_of(row).process.to_string();
        let without = Filter { exclude: vec![crate::continuous::Rule::Name(name)], ..Filter::default() };
        let profile = processes.window(&without, 1_000, Meta::default());
        assert!(profile.samples.iter().all(|sample| profile.labels_of(sample).pid != own));
    }
}
