//! Checks of perf events: the sampling clock that was really opened, hardware counters, the settings.

use std::io;

use super::Facts;
use super::bpf::explain;
use super::check::{Check, Group::Perf};
use crate::system::features::Sysctls;
use crate::system::privileges::{Capability, Privileges};
use crate::system::probe::errno_name;

/// Samples per second and CPU that `attach` and `record` take by default.
const DEFAULT_FREQUENCY_HZ: i64 = 99;
/// The kernel's default for `perf_event_max_stack` (`PERF_MAX_STACK_DEPTH`).
const DEFAULT_KERNEL_STACK: i64 = 127;

pub(super) fn checks(facts: &Facts) -> Vec<Check> {
    let settings = &facts.host.sysctls;
    vec![
        clock(&facts.perf, &facts.me),
        counters(&facts.cycles),
        paranoid(settings.perf_event_paranoid, facts.perf.is_ok()),
        rate(settings),
        share(settings.perf_cpu_time_max_percent),
        depth(settings.perf_event_max_stack),
        buffers(settings.perf_event_mlock_kb),
    ]
}

fn clock(result: &io::Result<()>, me: &Privileges) -> Check {
    let (id, title) = ("perf_event", "sampling clock");
    let Err(error) = result else {
        return Check::ok(Perf, id, title, "cpu-clock").why("opened one on a whole CPU, kernel included");
    };
    let name = errno_name(error.raw_os_error().unwrap_or(0));
    let check = Check::fail(Perf, id, title, format!("perf_event_open: {name}"));
    explain(check, error, Capability::Perfmon, me, "CONFIG_PERF_EVENTS")
}

fn counters(result: &io::Result<()>) -> Check {
    let (id, title) = ("pmu", "hardware counters");
    match result {
        Ok(()) => Check::ok(Perf, id, title, "cycles").why("--event cycles can be used"),
        // Ok and not a remark: on a virtual machine there is nothing to fix, and cpu-clock is the default anyway.
        Err(error)
            if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EOPNOTSUPP | libc::ENODEV)) =>
        {
            Check::ok(Perf, id, title, "none").why("usual on virtual machines; cpu-clock is used")
        }
        Err(error) => {
            let name = errno_name(error.raw_os_error().unwrap_or(0));
            Check::warn(Perf, id, title, format!("perf_event_open: {name}"))
                .why("--event cycles cannot be used")
        }
    }
}

fn paranoid(setting: Option<i64>, opened: bool) -> Check {
    let (id, title) = ("perf_event_paranoid", "perf_event_paranoid");
    let Some(value) = setting else {
        return Check::fail(Perf, id, title, "absent")
            .why("the kernel has no perf events")
            .fix("run a kernel built with CONFIG_PERF_EVENTS=y");
    };
    if opened {
        return Check::ok(Perf, id, title, value.to_string()).why("this process is above it");
    }
    Check::warn(Perf, id, title, value.to_string())
        .why("it keeps those without CAP_PERFMON from the kernel and from other users' processes")
        .fix("run as root or with CAP_PERFMON; the setting can stay as it is")
}

fn rate(settings: &Sysctls) -> Check {
    let (id, title) = ("perf_event_max_sample_rate", "highest sample rate");
    match settings.perf_event_max_sample_rate {
        Some(rate) if rate < DEFAULT_FREQUENCY_HZ => Check::warn(Perf, id, title, format!("{rate} Hz"))
            .why("below the default of 99 Hz; the kernel lowers it when samples took too long")
            .fix("sudo sysctl kernel.perf_event_max_sample_rate=100000"),
        Some(rate) => Check::ok(Perf, id, title, format!("{rate} Hz")),
        None => Check::ok(Perf, id, title, "not told"),
    }
}

fn share(setting: Option<i64>) -> Check {
    let (id, title) = ("perf_cpu_time_max_percent", "CPU share of samples");
    match setting {
        Some(0 | 100) => Check::ok(Perf, id, title, "not limited by the kernel"),
        Some(percent) if percent < 5 => Check::warn(Perf, id, title, format!("{percent} %"))
            .why("the kernel lowers the sample rate when samples take longer than this")
            .fix("sudo sysctl kernel.perf_cpu_time_max_percent=25"),
        Some(percent) => Check::ok(Perf, id, title, format!("{percent} %"))
            .why("above it the kernel lowers the sample rate"),
        None => Check::ok(Perf, id, title, "not told"),
    }
}

fn depth(setting: Option<i64>) -> Check {
    let (id, title) = ("perf_event_max_stack", "kernel stack depth");
    match setting {
        Some(frames) if frames < DEFAULT_KERNEL_STACK => {
            Check::warn(Perf, id, title, format!("{frames} frames"))
                .why("kernel stacks are cut; 127 is the kernel's default")
                .fix("sudo sysctl kernel.perf_event_max_stack=127")
        }
        Some(frames) => {
            Check::ok(Perf, id, title, format!("{frames} frames")).why("user stacks have their own limit")
        }
        None => Check::ok(Perf, id, title, "not told"),
    }
}

fn buffers(setting: Option<i64>) -> Check {
    let value = setting.map_or_else(|| "not told".to_owned(), |kib| format!("{kib} KiB"));
    Check::ok(Perf, "perf_event_mlock_kb", "perf buffer memory", value)
        .why("not used: samples go through BPF")
}

#[cfg(test)]
mod tests {
    use super::super::check::Status;
    use super::*;

    fn error(errno: i32) -> io::Result<()> {
        Err(io::Error::from_raw_os_error(errno))
    }

    #[test]
    fn missing_counters_are_no_fault() {
        assert_eq!(counters(&error(libc::ENOENT)).status, Status::Ok);
        assert_eq!(counters(&error(libc::EACCES)).status, Status::Warn);
        assert_eq!(counters(&Ok(())).value, "cycles");
    }

    #[test]
    fn a_strict_setting_matters_only_to_those_below_it() {
        assert_eq!(paranoid(Some(3), true).status, Status::Ok);
        assert_eq!(paranoid(Some(2), false).status, Status::Warn);
        assert_eq!(paranoid(None, false).status, Status::Fail);
    }

    #[test]
    fn throttled_hosts_are_told() {
        let slow = Sysctls { perf_event_max_sample_rate: Some(50), ..Sysctls::default() };
        assert_eq!(rate(&slow).status, Status::Warn);
        assert_eq!(share(Some(1)).status, Status::Warn);
        assert_eq!(share(Some(0)).status, Status::Ok);
        assert_eq!(depth(Some(16)).status, Status::Warn);
    }
}
