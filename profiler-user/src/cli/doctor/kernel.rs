//! Checks of the kernel itself: version, processor, types, lockdown, tracing.

use super::Facts;
use super::check::{Check, Group::Kernel};
use crate::system::btf::{BtfError, KernelTypes};
use crate::system::features::{Features, Lockdown, Release, Tracefs, kernel_addresses_visible};

/// Fields of kernel structs that programs read, each with the names it has had.
const FIELDS: [(&str, &[&str]); 13] = [
    ("task_struct", &["pid"]),
    ("task_struct", &["tgid"]),
    ("task_struct", &["thread_pid"]),
    ("task_struct", &["group_leader"]),
    ("task_struct", &["start_boottime", "real_start_time"]),
    ("task_struct", &["comm"]),
    ("task_struct", &["flags"]),
    ("pid", &["level"]),
    ("pid", &["numbers"]),
    ("upid", &["nr"]),
    ("upid", &["ns"]),
    ("pid_namespace", &["ns"]),
    ("ns_common", &["inum"]),
];

pub(super) fn checks(facts: &Facts) -> Vec<Check> {
    let host = &facts.host;
    vec![
        release(host.release.as_ref()),
        processor(std::env::consts::ARCH),
        types(KernelTypes::load()),
        lockdown(host.lockdown, facts.program.is_ok()),
        names(kernel_addresses_visible(), host.sysctls.kptr_restrict),
        tracefs(&host.tracefs),
        event_source(
            "uprobes",
            host.uprobe_type,
            "CONFIG_UPROBE_EVENTS",
            "functions of programs (allocations, locks)",
        ),
        event_source("kprobes", host.kprobe_type, "CONFIG_KPROBE_EVENTS", "functions of the kernel"),
        modules(host),
    ]
}

fn release(release: Option<&Release>) -> Check {
    let Some(release) = release else {
        return Check::warn(Kernel, "kernel", "kernel", "unknown release").why("5.8 or later is needed");
    };
    if !release.at_least(5, 8) {
        return Check::fail(Kernel, "kernel", "kernel", &release.text)
            .why("BPF ring buffers and CAP_BPF arrived in 5.8")
            .fix("run a kernel of version 5.8 or later");
    }
    if release.at_least(5, 19) && !release.at_least(6, 1) {
        return Check::warn(Kernel, "kernel", "kernel", &release.text)
            .why("perf interrupts that read user memory have locked up machines on 5.19 to 6.0")
            .fix("run a kernel of version 6.1 or later, or 5.15");
    }
    Check::ok(Kernel, "kernel", "kernel", &release.text).why("5.8 or later is needed")
}

fn processor(name: &str) -> Check {
    match name {
        "x86_64" | "aarch64" => Check::ok(Kernel, "architecture", "processor", name),
        _ => Check::fail(Kernel, "architecture", "processor", name)
            .why("only x86_64 and aarch64 stacks can be walked"),
    }
}

fn types(types: Result<KernelTypes, BtfError>) -> Check {
    const WHY: &str = "offsets of kernel fields are read from it; features that need one are off without";
    const FIX: &str = "run a kernel built with CONFIG_DEBUG_INFO_BTF=y";
    let types = match types {
        Ok(types) => types,
        Err(BtfError::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            return Check::warn(Kernel, "btf", "kernel types (BTF)", "absent").why(WHY).fix(FIX);
        }
        Err(error) => {
            return Check::warn(Kernel, "btf", "kernel types (BTF)", error.to_string()).why(WHY).fix(FIX);
        }
    };
    let lacking: Vec<String> = FIELDS
        .iter()
        .filter(|(structure, names)| types.any_field(structure, names).is_none())
        .map(|(structure, names)| format!("{structure}.{}", names[0]))
        .collect();
    if lacking.is_empty() {
        return Check::ok(Kernel, "btf", "kernel types (BTF)", "present")
            .why("every field that is used was found");
    }
    Check::warn(Kernel, "btf", "kernel types (BTF)", format!("present, without {}", lacking.join(", ")))
        .why(WHY)
}

fn lockdown(mode: Lockdown, programs_load: bool) -> Check {
    match mode {
        Lockdown::Confidentiality if programs_load => {
            Check::warn(Kernel, "lockdown", "lockdown", mode.name())
                .why("programs load, but may be refused the memory that they have to read")
                .fix("boot without lockdown=confidentiality; lockdown=integrity is fine")
        }
        Lockdown::Confidentiality => Check::fail(Kernel, "lockdown", "lockdown", mode.name())
            .why("the kernel lets no BPF program read memory, so no stack can be walked")
            .fix("boot without lockdown=confidentiality; lockdown=integrity is fine"),
        Lockdown::None | Lockdown::Integrity => {
            Check::ok(Kernel, "lockdown", "lockdown", mode.name()).why("only confidentiality is in the way")
        }
    }
}

fn names(visible: bool, kptr_restrict: Option<i64>) -> Check {
    let setting = kptr_restrict.map_or_else(|| "absent".to_owned(), |value| value.to_string());
    let value = |found: &str| format!("{found}; kernel.kptr_restrict = {setting}");
    if visible {
        return Check::ok(Kernel, "kptr_restrict", "kernel symbols", value("readable"));
    }
    let check = Check::warn(Kernel, "kptr_restrict", "kernel symbols", value("hidden"))
        .why("kernel functions appear as addresses without names");
    if kptr_restrict == Some(2) {
        return check.fix("sudo sysctl kernel.kptr_restrict=1");
    }
    check.fix("run as root or with CAP_SYSLOG")
}

fn tracefs(tracefs: &Tracefs) -> Check {
    const WHY: &str = "numbers and layouts of tracepoints are read there (off-CPU, syscalls, scheduler)";
    match tracefs {
        Tracefs::At(place) => Check::ok(Kernel, "tracefs", "tracefs", place.display().to_string()),
        Tracefs::Unreadable(place) => {
            Check::warn(Kernel, "tracefs", "tracefs", format!("{} is closed to this user", place.display()))
                .why(WHY)
                .fix("run as root (sudo)")
        }
        Tracefs::NotMounted => Check::warn(Kernel, "tracefs", "tracefs", "not mounted")
            .why(WHY)
            .fix("sudo mount -t tracefs tracefs /sys/kernel/tracing"),
        Tracefs::Absent => Check::warn(Kernel, "tracefs", "tracefs", "not in this kernel")
            .why(WHY)
            .fix("run a kernel built with CONFIG_TRACING=y"),
    }
}

fn event_source(name: &str, number: Option<u32>, option: &str, what: &str) -> Check {
    match number {
        Some(_) => Check::ok(Kernel, name, name, "supported"),
        None => Check::warn(Kernel, name, name, "not in this kernel")
            .why(format!("{what} cannot be traced; CPU profiles do not need it"))
            .fix(format!("run a kernel built with {option}=y")),
    }
}

fn modules(host: &Features) -> Check {
    let value = if host.modules { "supported" } else { "none: everything is built in" };
    Check::ok(Kernel, "modules", "kernel modules", value)
}

#[cfg(test)]
mod tests {
    use super::super::check::Status;
    use super::*;

    fn status_of(text: &str) -> Status {
        release(Release::parse(text).as_ref()).status
    }

    #[test]
    fn versions_are_judged_by_what_they_bring_and_break() {
        assert_eq!(status_of("5.4.0-150-generic"), Status::Fail);
        assert_eq!(status_of("5.8.0"), Status::Ok);
        assert_eq!(status_of("5.19.0"), Status::Warn);
        assert_eq!(status_of("6.0.9"), Status::Warn);
        assert_eq!(status_of("6.1.0"), Status::Ok);
        assert_eq!(status_of("odd"), Status::Warn);
    }

    #[test]
    fn only_confidentiality_stands_in_the_way() {
        assert_eq!(lockdown(Lockdown::Integrity, true).status, Status::Ok);
        assert_eq!(lockdown(Lockdown::Confidentiality, false).status, Status::Fail);
    }

    #[test]
    fn hidden_symbols_name_the_setting_or_the_capability() {
        assert!(names(false, Some(2)).fix[0].contains("kptr_restrict=1"));
        assert!(names(false, Some(1)).fix[0].contains("CAP_SYSLOG"));
        assert_eq!(names(true, None).value, "readable; kernel.kptr_restrict = absent");
    }

    #[test]
    fn an_unreadable_btf_is_a_remark() {
        assert_eq!(types(Err(BtfError::NotBtf)).status, Status::Warn);
        assert_eq!(types(KernelTypes::parse(Vec::new())).status, Status::Warn);
    }
}
