//! Clocks, and what this process has used so far.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::system::read::kilobytes;

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

/// CPU time of this thread, nanoseconds.
pub(crate) fn thread_cpu_ns() -> u64 {
    read(libc::CLOCK_THREAD_CPUTIME_ID)
}

/// Time that the machine's CPUs were busy since it booted, nanoseconds, all together: the first line of `/proc/stat` without idle, waiting
/// for disks, and stolen time (Documentation/filesystems/proc.rst).
pub(crate) fn machine_busy_ns() -> u64 {
    busy_ns(&std::fs::read_to_string("/proc/stat").unwrap_or_default())
}

/// Context switches of the machine since it booted: the line `ctxt` of the same file.
pub(crate) fn switches() -> u64 {
    switches_of(&std::fs::read_to_string("/proc/stat").unwrap_or_default())
}

fn switches_of(stat: &str) -> u64 {
    let count = stat.lines().find_map(|line| line.strip_prefix("ctxt "));
    count.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}

fn busy_ns(stat: &str) -> u64 {
    /// `USER_HZ` is a hundred on all architectures that we run on.
    const NS_PER_TICK: u64 = 10_000_000;
    const IDLE: usize = 3;
    const DISK: usize = 4;
    const STOLEN: usize = 7;
    let fields = stat.lines().next().unwrap_or_default().split_whitespace().skip(1).enumerate();
    let busy =
        fields.take_while(|(index, _)| *index < STOLEN).filter(|(index, _)| ![IDLE, DISK].contains(index));
    let ticks: u64 = busy.filter_map(|(_, field)| field.parse::<u64>().ok()).fold(0, u64::saturating_add);
    ticks.saturating_mul(NS_PER_TICK)
}

/// CPU time of a process, all threads that it has or had, nanoseconds; none when it has ended.
pub(crate) fn cpu_ns_of(pid: u32) -> Option<u64> {
    /// `CPUCLOCK_SCHED`, include/linux/posix-timers.h: the clock of a process is its number, turned around, above three bits of kind.
    const SCHED: libc::clockid_t = 2;
    let clock = (!(pid as libc::clockid_t)) << 3 | SCHED;
    Some(read(clock)).filter(|ns| *ns > 0)
}

/// CPU time of all children of this process that have ended and were waited for, with theirs, nanoseconds.
pub(crate) fn children_cpu_ns() -> u64 {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: `usage` is valid for writes, and all zeroes are a valid value of it.
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_CHILDREN, usage.as_mut_ptr());
        usage.assume_init()
    };
    let ns = |time: libc::timeval| time.tv_sec as u64 * 1_000_000_000 + time.tv_usec as u64 * 1_000;
    ns(usage.ru_utime) + ns(usage.ru_stime)
}

/// Largest resident set of this process so far, bytes (`VmHWM`).
pub(crate) fn rss_peak_bytes() -> u64 {
    own_status("VmHWM:")
}

/// Resident set of this process now, bytes (`VmRSS`).
pub(crate) fn rss_bytes() -> u64 {
    own_status("VmRSS:")
}

fn own_status(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    kilobytes(&status, name).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_is_neither_idle_nor_stolen() {
        assert_eq!(busy_ns("cpu  1 2 4 1000 1000 8 16 1000 5 5\ncpu0 9 9 9 9\n"), 31 * 10_000_000);
        assert_eq!(busy_ns(""), 0);
        assert_eq!(busy_ns("cpu  18446744073709551615 2 x"), u64::MAX);
        assert!(machine_busy_ns() > 0 && thread_cpu_ns() > 0);
    }

    #[test]
    fn switches_are_counted_by_the_kernel() {
        assert_eq!(switches_of("cpu  1 2\nintr 5 6\nctxt 1990473\nbtime 7\n"), 1_990_473);
        assert_eq!((switches_of(""), switches_of("ctxt x\n")), (0, 0));
        assert!(switches() > 0);
    }
}
