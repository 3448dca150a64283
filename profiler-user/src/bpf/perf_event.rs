//! Perf events: the sampling clock of each CPU, and the side band that reports processes and mappings.
//!
//! aya opens perf events too, but without the attributes that matter here (clock, side-band records).

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use aya_obj::generated as sys;

/// What makes a CPU take samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    /// A high-resolution timer per CPU (`PERF_COUNT_SW_CPU_CLOCK`): works everywhere, also in virtual machines.
    CpuClock,
    /// The CPU's cycle counter (`PERF_COUNT_HW_CPU_CYCLES`): fires in proportion to the cycles that were really run.
    Cycles,
}

impl Clock {
    /// Name for titles and for `--event`.
    pub fn name(self) -> &'static str {
        match self {
            Self::CpuClock => "cpu-clock",
            Self::Cycles => "cycles",
        }
    }
}

/// Page faults that were handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Faults {
    /// Without waiting for a disk (`PERF_COUNT_SW_PAGE_FAULTS_MIN`).
    Minor,
    /// After something had to be read, or after a second try (`PERF_COUNT_SW_PAGE_FAULTS_MAJ`).
    Major,
}

/// What the side band tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tells {
    /// Processes: that they begin, end, or get another name.
    Processes,
    /// Their mappings too, of which a program that starts has three or more, each with a path that the kernel has to find.
    Mappings,
}

/// An open perf event.
#[derive(Debug)]
pub struct PerfEvent {
    file: File,
}

impl PerfEvent {
    /// Opens the sampling event of one CPU, for all its tasks, disabled.
    ///
    /// # Errors
    ///
    /// What `perf_event_open(2)` reports: `EACCES`/`EPERM` without privileges, `EINVAL` for a frequency above
    /// `kernel.perf_event_max_sample_rate`, `ENOENT`/`EOPNOTSUPP` without a hardware counter, `ENODEV` for a CPU that is offline.
    pub fn open_sampler(cpu: u32, clock: Clock, frequency_hz: u64) -> io::Result<Self> {
        let mut attr = new_attr();
        match clock {
            Clock::CpuClock => {
                attr.type_ = sys::perf_type_id::PERF_TYPE_SOFTWARE as u32;
                attr.config = u64::from(sys::perf_sw_ids::PERF_COUNT_SW_CPU_CLOCK as u32);
            }
            Clock::Cycles => {
                attr.type_ = sys::perf_type_id::PERF_TYPE_HARDWARE as u32;
                attr.config = u64::from(sys::perf_hw_id::PERF_COUNT_HW_CPU_CYCLES as u32);
            }
        }
        attr.__bindgen_anon_1.sample_freq = frequency_hz;
        attr.set_freq(1);
        attr.set_disabled(1);
        open(&attr, cpu)
    }

    /// Opens a timer that interrupts one CPU, disabled; nobody takes what it samples.
    ///
    /// # Errors
    ///
    /// What `perf_event_open(2)` reports, as for [`Self::open_sampler`].
    pub fn open_timer(cpu: u32, period_ns: u64) -> io::Result<Self> {
        let mut attr = new_attr();
        attr.type_ = sys::perf_type_id::PERF_TYPE_SOFTWARE as u32;
        attr.config = u64::from(sys::perf_sw_ids::PERF_COUNT_SW_CPU_CLOCK as u32);
        attr.__bindgen_anon_1.sample_period = period_ns;
        attr.set_disabled(1);
        open(&attr, cpu)
    }

    /// Opens the event of one CPU that samples page faults of one kind by count, once they were handled, disabled.
    ///
    /// # Errors
    ///
    /// What `perf_event_open(2)` reports, as for [`Self::open_sampler`].
    pub fn open_faults(cpu: u32, kind: Faults, period: u64) -> io::Result<Self> {
        let mut attr = faults_attr(kind);
        attr.__bindgen_anon_1.sample_period = period;
        attr.set_disabled(1);
        open(&attr, cpu)
    }

    /// Opens a plain counter of the page faults of one CPU, running: what the samples are compared with.
    ///
    /// # Errors
    ///
    /// As for [`Self::open_faults`].
    pub fn open_fault_counter(cpu: u32, kind: Faults) -> io::Result<Self> {
        open(&faults_attr(kind), cpu)
    }

    /// Opens a counter of the CPU time of one thread, nanoseconds, exact to the moment in which it is read. The clocks of other processes lag behind
    /// by up to a tick.
    ///
    /// # Errors
    ///
    /// What `perf_event_open(2)` reports: `ESRCH` for a thread that has ended.
    pub fn open_cpu_time(tid: u32) -> io::Result<Self> {
        let mut attr = new_attr();
        attr.type_ = sys::perf_type_id::PERF_TYPE_SOFTWARE as u32;
        attr.config = u64::from(sys::perf_sw_ids::PERF_COUNT_SW_TASK_CLOCK as u32);
        open_for(&attr, tid as libc::pid_t, ANY_CPU)
    }

    /// Takes one event in `period` from now on.
    ///
    /// # Errors
    ///
    /// What `ioctl(2)` reports.
    pub fn set_period(&self, period: u64) -> io::Result<()> {
        // SAFETY: the request reads one word, which lives through the call.
        let result =
            unsafe { libc::ioctl(self.file.as_raw_fd(), IOC_PERIOD as _, std::ptr::from_ref(&period)) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Events counted so far.
    ///
    /// # Errors
    ///
    /// What `read(2)` reports.
    pub fn count(&self) -> io::Result<u64> {
        let mut word = [0; 8];
        (&self.file).read_exact(&mut word)?;
        Ok(u64::from_ne_bytes(word))
    }

    /// Opens the side-band event of one CPU: fork, exec, exit and rename records of all tasks, and mmap records where they are wanted, stamped
    /// with `CLOCK_MONOTONIC`.
    ///
    /// # Errors
    ///
    /// What `perf_event_open(2)` reports.
    pub fn open_side_band(cpu: u32, tells: Tells) -> io::Result<Self> {
        let mut attr = new_attr();
        attr.type_ = sys::perf_type_id::PERF_TYPE_SOFTWARE as u32;
        attr.config = u64::from(sys::perf_sw_ids::PERF_COUNT_SW_DUMMY as u32);
        attr.__bindgen_anon_1.sample_period = 1;
        attr.sample_type = SIDE_BAND_SAMPLE_TYPE;
        attr.set_sample_id_all(1);
        let mappings = u64::from(tells == Tells::Mappings);
        attr.set_mmap(mappings);
        attr.set_mmap2(mappings);
        attr.set_comm(1);
        attr.set_comm_exec(1);
        attr.set_task(1);
        // The clock of `bpf_ktime_get_ns`, so that samples and side band sort into one order.
        attr.set_use_clockid(1);
        attr.clockid = libc::CLOCK_MONOTONIC;
        // A watermark that is never reached: the reader polls with the same timer as the samples' ring.
        attr.set_watermark(1);
        attr.__bindgen_anon_2.wakeup_watermark = u32::MAX;
        open(&attr, cpu)
    }

    /// Opens a hardware cycle counter on this CPU just to see whether there is one.
    pub fn cycles_available(cpu: u32) -> bool {
        Self::open_sampler(cpu, Clock::Cycles, 1).is_ok()
    }

    /// Runs a BPF program at each overflow.
    ///
    /// # Errors
    ///
    /// `EINVAL` when the program is of another type, `EEXIST` when the event already has one.
    pub fn set_program(&self, program: BorrowedFd<'_>) -> io::Result<()> {
        self.ioctl(IOC_SET_BPF, program.as_raw_fd() as libc::c_ulong)
    }

    /// Starts the event.
    ///
    /// # Errors
    ///
    /// What `ioctl(2)` reports.
    pub fn enable(&self) -> io::Result<()> {
        self.ioctl(IOC_ENABLE, 0)
    }

    /// Stops the event.
    ///
    /// # Errors
    ///
    /// What `ioctl(2)` reports.
    pub fn disable(&self) -> io::Result<()> {
        self.ioctl(IOC_DISABLE, 0)
    }

    /// The descriptor, for mapping the event's ring.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    fn ioctl(&self, request: libc::c_ulong, argument: libc::c_ulong) -> io::Result<()> {
        // SAFETY: the requests take an integer; no memory is passed.
        let result = unsafe { libc::ioctl(self.file.as_raw_fd(), request as _, argument) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

/// Fields of the trailer that every side-band record carries, in this order.
const SIDE_BAND_SAMPLE_TYPE: u64 = 1 << 1 | 1 << 2 | 1 << 7;
/// Bytes of that trailer: pid and tid, time, CPU and a reserved word.
pub(crate) const SIDE_BAND_TRAILER_BYTES: usize = 24;

// `PERF_EVENT_IOC_*`, include/uapi/linux/perf_event.h.
const IOC_ENABLE: libc::c_ulong = 0x2400;
const IOC_DISABLE: libc::c_ulong = 0x2401;
const IOC_PERIOD: libc::c_ulong = 0x4008_2404;
const IOC_SET_BPF: libc::c_ulong = 0x4004_2408;

fn new_attr() -> sys::perf_event_attr {
    // SAFETY: the structure holds only integers and unions of integers; all zeroes is its documented default.
    let mut attr: sys::perf_event_attr = unsafe { std::mem::zeroed() };
    attr.size = size_of::<sys::perf_event_attr>() as u32;
    attr
}

fn faults_attr(kind: Faults) -> sys::perf_event_attr {
    let mut attr = new_attr();
    attr.type_ = sys::perf_type_id::PERF_TYPE_SOFTWARE as u32;
    attr.config = match kind {
        Faults::Minor => u64::from(sys::perf_sw_ids::PERF_COUNT_SW_PAGE_FAULTS_MIN as u32),
        Faults::Major => u64::from(sys::perf_sw_ids::PERF_COUNT_SW_PAGE_FAULTS_MAJ as u32),
    };
    attr
}

const ANY_PROCESS: libc::pid_t = -1;
const ANY_CPU: libc::c_int = -1;

fn open(attr: &sys::perf_event_attr, cpu: u32) -> io::Result<PerfEvent> {
    open_for(attr, ANY_PROCESS, cpu as libc::c_int)
}

fn open_for(attr: &sys::perf_event_attr, tid: libc::pid_t, cpu: libc::c_int) -> io::Result<PerfEvent> {
    const NO_GROUP: libc::c_int = -1;
    const FLAG_FD_CLOEXEC: libc::c_ulong = 8;
    // SAFETY: `attr` lives through the call and says its own size; a smaller size is taken by older kernels as long as the rest is zero.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            std::ptr::from_ref(attr),
            tid,
            cpu,
            NO_GROUP,
            FLAG_FD_CLOEXEC,
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just returned this descriptor and nobody else owns it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) };
    Ok(PerfEvent { file: File::from(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_side_band_trailer_is_tid_time_cpu() {
        use sys::perf_event_sample_format as format;
        let expected =
            format::PERF_SAMPLE_TID as u64 | format::PERF_SAMPLE_TIME as u64 | format::PERF_SAMPLE_CPU as u64;
        assert_eq!(SIDE_BAND_SAMPLE_TYPE, expected);
    }
}
