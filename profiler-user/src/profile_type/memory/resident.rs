//! The resident set over time, from `/proc`.

use std::fs;

use crate::profile::Resident;

/// First distance of two points, half a second.
const FIRST_DISTANCE_NS: u64 = 500_000_000;
/// Points that are kept; when there are more, every second one goes and the distance doubles.
const MOST_POINTS: usize = 600;
/// Most processes that are added up.
const MOST_PROCESSES: usize = 1_000;

/// Whose memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whom {
    /// The machine's: `/proc/meminfo`.
    Host,
    /// That of the processes in scope, added up; pages that they share count for each.
    Processes,
    /// Nobody's: the scope is some threads of processes, which have no memory of their own.
    Threads,
    /// That of a control group, where its directory has a `memory.stat`.
    Group(std::path::PathBuf),
}

/// The points so far.
#[derive(Debug)]
pub(super) struct Series {
    whom: Whom,
    points: Vec<(u64, Resident)>,
    distance_ns: u64,
    next_ns: u64,
}

impl Series {
    pub(super) fn new(whom: Whom) -> Self {
        Self { whom, points: Vec::new(), distance_ns: FIRST_DISTANCE_NS, next_ns: 0 }
    }

    /// Takes a point when it is due.
    pub(super) fn look(&mut self, now_ns: u64, targets: impl FnOnce() -> Vec<u32>) {
        if now_ns < self.next_ns {
            return;
        }
        self.next_ns = now_ns + self.distance_ns;
        let now = match &self.whom {
            Whom::Host => fs::read("/proc/meminfo").ok().map(|text| of_host(&text)),
            Whom::Group(folder) => fs::read(folder.join("memory.stat")).ok().map(|text| of_group(&text)),
            Whom::Threads => None,
            Whom::Processes => of_processes(&targets()),
        };
        let Some(now) = now else { return };
        self.points.push((now_ns, now));
        if self.points.len() > MOST_POINTS {
            let mut keep = false;
            self.points.retain(|_| {
                keep = !keep;
                keep
            });
            self.distance_ns *= 2;
        }
    }

    /// Takes the points out.
    pub(super) fn take(&mut self) -> Vec<Resident> {
        let points = self.points();
        self.points.clear();
        points
    }

    fn points(&self) -> Vec<Resident> {
        let began = self.points.first().map_or(0, |point| point.0);
        self.points.iter().map(|(at, point)| Resident { ms: (at - began) / 1_000_000, ..*point }).collect()
    }
}

/// A number of a file whose lines are a name and a number, in the unit of the file.
fn number(text: &[u8], name: &str) -> u64 {
    let text = String::from_utf8_lossy(text);
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

fn of_host(text: &[u8]) -> Resident {
    let kib = |name| number(text, name) * 1024;
    let shared_bytes = kib("Shmem:");
    let file_bytes = kib("Mapped:").saturating_sub(shared_bytes);
    Resident { ms: 0, anon_bytes: kib("AnonPages:"), file_bytes, shared_bytes }
}

fn of_group(text: &[u8]) -> Resident {
    let bytes = |name| number(text, name);
    Resident {
        ms: 0,
        anon_bytes: bytes("anon "),
        file_bytes: bytes("file_mapped "),
        shared_bytes: bytes("shmem "),
    }
}

/// None when all of them have ended: a fall to nothing would hide what was there before.
fn of_processes(pids: &[u32]) -> Option<Resident> {
    let mut sum = Resident::default();
    let mut any = false;
    for pid in pids.iter().take(MOST_PROCESSES) {
        let Ok(status) = fs::read(format!("/proc/{pid}/status")) else { continue };
        let kib = |name| number(&status, name) * 1024;
        any |= kib("VmRSS:") > 0;
        sum.anon_bytes += kib("RssAnon:");
        sum.file_bytes += kib("RssFile:");
        sum.shared_bytes += kib("RssShmem:");
    }
    any.then_some(sum)
}

/// Anonymous memory of a process, resident or swapped out, bytes; none when it has ended.
pub(in crate::profile_type) fn anonymous_bytes(pid: u32) -> Option<u64> {
    let status = fs::read(format!("/proc/{pid}/status")).ok()?;
    let kib = |name| number(&status, name) * 1024;
    (kib("VmRSS:") > 0).then(|| kib("RssAnon:") + kib("VmSwap:"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn we_have_memory_and_nobody_has_none() {
        assert!(of_processes(&[std::process::id()]).unwrap().total_bytes() > 100_000);
        assert_eq!(of_processes(&[u32::MAX]), None);
        assert!(of_host(&fs::read("/proc/meminfo").unwrap()).anon_bytes > 0);
        assert_eq!(of_group(b"anon 4096\nanon_thp 1\nfile_mapped 12\nshmem 3").total_bytes(), 4111);
    }

    #[test]
    fn a_long_recording_keeps_a_bounded_number_of_points() {
        let mut series = Series::new(Whom::Host);
        for second in 0..5_000 {
            series.look(second * 1_000_000_000, Vec::new);
        }
        let points = series.points();
        assert!(points.len() <= MOST_POINTS && points.len() > MOST_POINTS / 3, "{}", points.len());
        assert_eq!(points[0].ms, 0);
    }
}
