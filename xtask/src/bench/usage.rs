//! CPU time as the kernel accounts it: of a process with its children, and of the machine.

use std::collections::{HashMap, HashSet};

/// Clock ticks a second in what `/proc` says: `USER_HZ`, which is 100 on all architectures that we support.
const TICKS: f64 = 100.0;

/// A line of `/proc/PID/stat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stat {
    parent: u32,
    /// User and system time of the process, and of its children that have ended and were waited for, ticks.
    ticks: u64,
}

impl Stat {
    fn parse(line: &str) -> Option<Self> {
        // The name may have spaces and brackets in it.
        let fields: Vec<&str> = line.get(line.rfind(')')? + 1..)?.split_ascii_whitespace().collect();
        // Field numbers of proc(5); the first here is the third there.
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        Some(Self { parent: field(4)? as u32, ticks: field(14)? + field(15)? + field(16)? + field(17)? })
    }
}

fn processes() -> HashMap<u32, Stat> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let read =
        |pid: u32| Some((pid, Stat::parse(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?));
    pids.filter_map(read).collect()
}

fn descendants(root: u32, all: &HashMap<u32, Stat>) -> HashSet<u32> {
    let mut found = HashSet::from([root]);
    loop {
        let children = all.iter().filter(|(pid, stat)| found.contains(&stat.parent) && !found.contains(pid));
        let children: Vec<u32> = children.map(|(pid, _)| *pid).collect();
        if children.is_empty() {
            return found;
        }
        found.extend(children);
    }
}

/// A process and everything that descends from it.
pub(super) fn tree(root: u32) -> HashSet<u32> {
    descendants(root, &processes())
}

/// CPU time of a process, of everything that descends from it and of what did and was waited for, seconds.
pub(super) fn tree_cpu_s(roots: impl IntoIterator<Item = u32>) -> f64 {
    let all = processes();
    let ticks = |root| {
        descendants(root, &all).iter().filter_map(|pid| all.get(pid)).map(|stat| stat.ticks).sum::<u64>()
    };
    roots.into_iter().map(ticks).sum::<u64>() as f64 / TICKS
}

/// Run time of the BPF programs that these processes and their descendants hold, seconds; none where there are none, or nobody asked the kernel to
/// count (`BPF_ENABLE_STATS`, include/uapi/linux/bpf.h).
pub(super) fn bpf_run_s(roots: impl IntoIterator<Item = u32>) -> Option<f64> {
    let all = processes();
    let pids: HashSet<u32> = roots.into_iter().flat_map(|root| descendants(root, &all)).collect();
    let files = |pid| std::fs::read_dir(format!("/proc/{pid}/fdinfo")).into_iter().flatten().flatten();
    let texts = pids.into_iter().flat_map(files).filter_map(|file| std::fs::read_to_string(file.path()).ok());
    // Several descriptors, or processes, may hold one program.
    let programs: HashMap<u64, u64> = texts.filter_map(|text| program(&text)).collect();
    let ns: u64 = programs.values().sum();
    (ns > 0).then_some(ns as f64 / 1e9)
}

/// Number and run time of the BPF program that a descriptor is of: `bpf_prog_show_fdinfo`, kernel/bpf/syscall.c.
fn program(fdinfo: &str) -> Option<(u64, u64)> {
    let field =
        |name: &str| fdinfo.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
    Some((field("prog_id:")?, field("run_time_ns:")?))
}

/// CPU time of all processes that this one has started and waited for, seconds.
pub(super) fn reaped_cpu_s() -> f64 {
    let line = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = line.rsplit(')').next().unwrap_or_default().split_ascii_whitespace().collect();
    let field =
        |number: usize| fields.get(number - 3).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
    (field(16) + field(17)) as f64 / TICKS
}

/// Time that all CPUs together were busy since the start, seconds.
pub(super) fn machine_busy_s() -> f64 {
    busy_ticks(&std::fs::read_to_string("/proc/stat").unwrap_or_default()) as f64 / TICKS
}

/// `cpu user nice system idle iowait irq softirq steal guest …`; guests are in the first two already, and what was stolen nobody had.
fn busy_ticks(text: &str) -> u64 {
    let line = text.lines().next().unwrap_or_default();
    let fields: Vec<u64> =
        line.split_ascii_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
    [0, 1, 2, 5, 6].iter().filter_map(|index| fields.get(*index)).sum()
}

/// CPUs of the machine.
pub(super) fn cpus() -> f64 {
    std::thread::available_parallelism().map_or(1.0, |cpus| cpus.get() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_shift_the_fields() {
        let line = "42 (a) R 9 9 (b) S 7 42 42 0 -1 4194560 1 2 3 4 100 20 3 1 20 0 1 0";
        assert_eq!(Stat::parse(line), Some(Stat { parent: 7, ticks: 124 }));
        assert_eq!(Stat::parse("42 (a"), None);
    }

    #[test]
    fn trees_are_followed_to_their_leaves() {
        let stat = |parent| Stat { parent, ticks: 1 };
        let all = HashMap::from([(1, stat(0)), (2, stat(1)), (3, stat(2)), (4, stat(1)), (5, stat(4))]);
        assert_eq!(descendants(2, &all), HashSet::from([2, 3]));
        assert_eq!(descendants(1, &all).len(), 5);
    }

    #[test]
    fn run_time_is_that_of_programs_alone() {
        let of_program = "pos:\t0\nprog_type:\t17\nprog_id:\t39\nrun_time_ns:\t1200\nrun_cnt:\t3\n";
        assert_eq!(program(of_program), Some((39, 1_200)));
        assert_eq!(program("pos:\t0\nmap_id:\t7\n"), None);
        assert_eq!(program("link_type:\tperf\nprog_id:\t39\n"), None);
    }

    #[test]
    fn idle_waiting_and_stolen_time_is_not_busy() {
        assert_eq!(busy_ticks("cpu  1 2 4 1000 1000 8 16 1000 1 1\ncpu0 9 9 9"), 31);
        assert_eq!(busy_ticks(""), 0);
    }
}
