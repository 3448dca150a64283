//! Clocks, and what this process has used so far.

use std::time::{SystemTime, UNIX_EPOCH};

/// Unix time, nanoseconds.
pub(crate) fn unix_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

/// What to add to `CLOCK_MONOTONIC` to get Unix time.
pub(crate) fn unix_offset_ns() -> u64 {
    unix_ns().saturating_sub(monotonic_ns())
}

/// `CLOCK_MONOTONIC`, which the kernel side uses too, nanoseconds.
pub(crate) fn monotonic_ns() -> u64 {
    read(libc::CLOCK_MONOTONIC)
}

fn read(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is valid for writes.
    let result = unsafe { libc::clock_gettime(clock, &raw mut time) };
    if result == 0 { time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64 } else { 0 }
}

/// CPU time of this process, all threads, nanoseconds.
pub(crate) fn own_cpu_ns() -> u64 {
    read(libc::CLOCK_PROCESS_CPUTIME_ID)
}

/// CPU time of a process, all threads that it has or had, nanoseconds; none when it has ended.
pub(crate) fn cpu_ns_of(pid: u32) -> Option<u64> {
    /// `CPUCLOCK_SCHED`, include/linux/posix-timers.h: the clock of a process is its number, turned around, above three bits of kind.
    const SCHED: libc::clockid_t = 2;
    let clock = (!(pid as libc::clockid_t)) << 3 | SCHED;
    Some(read(clock)).filter(|ns| *ns > 0)
}

/// Largest resident set of this process so far, bytes (`VmHWM`).
pub(crate) fn rss_peak_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    peak.and_then(|value| value.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()).unwrap_or(0) * 1024
}
