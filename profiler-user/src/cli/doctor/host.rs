//! Checks of the host around the kernel: processors, clock, control groups, the place for results.

use std::ffi::CString;
use std::path::Path;

use super::Facts;
use super::check::{Check, Group::Host};
use crate::profile::clean;
use crate::session::together;
use crate::system::features::Cgroups;

/// Free space below which results may not fit: a minute of a busy host is some 10 MiB.
const LEAST_FREE_BYTES: u64 = 64 << 20;

/// Clocks that cost a microsecond or more to read.
const SLOW_CLOCKS: [&str; 4] = ["hpet", "acpi_pm", "jiffies", "pit"];

pub(super) fn checks(facts: &Facts) -> Vec<Check> {
    let host = &facts.host;
    let cpus = format!(
        "{} online ({}), {} possible",
        host.online_cpus.count(),
        host.online_cpus,
        host.possible_cpus.count()
    );
    vec![
        Check::ok(Host, "cpus", "processors", cpus),
        clock_source(host.clock_source.as_deref()),
        cgroups(&host.cgroups),
        recordings(&together::running()),
        output_place(Path::new(".")),
    ]
}

/// What other recordings of this host cost now; they share one budget.
fn recordings(running: &[(u32, f64)]) -> Check {
    let (id, title) = ("recordings", "recordings that run");
    let each = running.iter().map(|(pid, share)| format!("pid {pid} {:.2} %", share * 100.0));
    match running.len() {
        0 => Check::ok(Host, id, title, "none"),
        _ => Check::ok(Host, id, title, format!("{} of the machine", each.collect::<Vec<_>>().join(", "))),
    }
}

fn clock_source(name: Option<&str>) -> Check {
    let (id, title) = ("clock_source", "clock source");
    let Some(name) = name else { return Check::ok(Host, id, title, "not told") };
    let shown = clean(name.as_bytes());
    if !SLOW_CLOCKS.contains(&name) {
        return Check::ok(Host, id, title, shown);
    }
    Check::warn(Host, id, title, shown)
        .why("reading the time takes a microsecond or more, which every sample pays")
        .fix("cat /sys/devices/system/clocksource/clocksource0/available_clocksource   (tsc or kvm-clock are fast)")
}

fn cgroups(cgroups: &Cgroups) -> Check {
    let (id, title) = ("cgroups", "control groups");
    match (&cgroups.v2, cgroups.v1) {
        (Some(place), false) => Check::ok(Host, id, title, format!("version 2 at {}", clean_path(place))),
        (Some(place), true) => {
            Check::ok(Host, id, title, format!("versions 1 and 2 (2 at {})", clean_path(place)))
                .why("only version 2 groups can be filtered by")
        }
        (None, true) => Check::warn(Host, id, title, "version 1 only")
            .why("samples carry version 2 groups; --cgroup and container labels are off")
            .fix("boot with systemd.unified_cgroup_hierarchy=1"),
        (None, false) => Check::warn(Host, id, title, "not mounted")
            .why("--cgroup and container labels are off")
            .fix("sudo mount -t cgroup2 none /sys/fs/cgroup"),
    }
}

fn clean_path(path: &Path) -> String {
    clean(path.as_os_str().as_encoded_bytes())
}

/// Results are written to the working directory unless told otherwise.
fn output_place(place: &Path) -> Check {
    let (id, title) = ("output_place", "place for results");
    let shown = std::fs::canonicalize(place)
        .map_or_else(|_| "the working directory".to_owned(), |path| clean_path(&path));
    let Ok(path) = CString::new(place.as_os_str().as_encoded_bytes()) else {
        return Check::ok(Host, id, title, shown);
    };
    // SAFETY: the path is a C string that outlives the call.
    if unsafe { libc::access(path.as_ptr(), libc::W_OK | libc::X_OK) } != 0 {
        return Check::warn(Host, id, title, format!("{shown} is not writable"))
            .why("results are written to the working directory by default")
            .fix("change to another directory, or give one with -o");
    }
    // SAFETY: statvfs is plain data.
    let mut stats: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: the path is a C string and `stats` a statvfs; both outlive the call.
    if unsafe { libc::statvfs(path.as_ptr(), &raw mut stats) } != 0 {
        return Check::ok(Host, id, title, shown);
    }
    let free = stats.f_bavail.saturating_mul(stats.f_frsize);
    let value = format!("{shown} ({} MiB free)", free >> 20);
    if free >= LEAST_FREE_BYTES {
        return Check::ok(Host, id, title, value);
    }
    Check::warn(Host, id, title, value)
        .why("a long recording may not fit")
        .fix("free some space, or give another directory with -o")
}

#[cfg(test)]
mod tests {
    use super::super::check::Status;
    use super::*;

    #[test]
    fn what_runs_is_listed_with_its_cost() {
        assert_eq!(recordings(&[]).value, "none");
        assert_eq!(recordings(&[(7, 0.0031), (19, 0.0)]).value, "pid 7 0.31 %, pid 19 0.00 % of the machine");
    }

    #[test]
    fn slow_clocks_are_a_remark() {
        assert_eq!(clock_source(Some("hpet")).status, Status::Warn);
        assert_eq!(clock_source(Some("kvm-clock")).status, Status::Ok);
        assert_eq!(clock_source(None).status, Status::Ok);
    }

    #[test]
    fn places_that_cannot_be_written_are_named() {
        let dir = tempfile::tempdir().unwrap();
        assert!(output_place(dir.path()).value.contains("MiB free"));
        assert_eq!(output_place(&dir.path().join("none")).status, Status::Warn);
    }

    #[test]
    fn version_1_alone_is_a_remark() {
        assert_eq!(cgroups(&Cgroups { v2: None, v1: true }).status, Status::Warn);
        assert_eq!(cgroups(&Cgroups { v2: Some("/sys/fs/cgroup".into()), v1: false }).status, Status::Ok);
    }
}
