//! Checks of BPF: a program and a ring buffer that were really made, the compiler, the settings.

use std::io;

use super::Facts;
use super::check::{Check, Group::Bpf};
use crate::system::privileges::{Capability, Privileges, Seccomp};
use crate::system::probe::errno_name;

pub(super) fn checks(facts: &Facts) -> Vec<Check> {
    let settings = &facts.host.sysctls;
    vec![
        tried("bpf_program", "BPF program", "loaded one", &facts.program, &facts.me),
        tried("bpf_ring_buffer", "BPF ring buffer", "created one", &facts.ring_buffer, &facts.me),
        compiler(settings.bpf_jit_enable),
        statistics(settings.bpf_stats_enabled),
        unprivileged(settings.unprivileged_bpf_disabled),
    ]
}

fn tried(id: &str, title: &str, success: &str, result: &io::Result<()>, me: &Privileges) -> Check {
    let Err(error) = result else { return Check::ok(Bpf, id, title, success) };
    let check =
        Check::fail(Bpf, id, title, format!("bpf: {}", errno_name(error.raw_os_error().unwrap_or(0))));
    explain(check, error, Capability::Bpf, me, "CONFIG_BPF_SYSCALL")
}

/// Reason and fix of a refused system call, shared with the perf events.
pub(super) fn explain(
    check: Check,
    error: &io::Error,
    needed: Capability,
    me: &Privileges,
    option: &str,
) -> Check {
    match error.raw_os_error() {
        Some(libc::ENOSYS) if me.seccomp == Seccomp::Off => {
            check.why("the kernel has no such system call").fix(format!("run a kernel built with {option}=y"))
        }
        Some(libc::EPERM | libc::EACCES) if !me.initial_user_namespace => check
            .why("capabilities inside a user namespace do not count for this")
            .fix("run it outside of the user namespace or rootless container"),
        Some(libc::EPERM | libc::EACCES) if !me.effective.allows(needed) => {
            check.why(format!("{needed} is missing (see below)")).fix("run as root (sudo)")
        }
        Some(libc::EPERM | libc::EACCES | libc::ENOSYS) if me.seccomp != Seccomp::Off => check
            .why("the capability is there, but a seccomp filter refuses the system call")
            .fix("docker run --security-opt seccomp=unconfined …")
            .fix("systemd unit: SystemCallFilter=@default bpf perf_event_open"),
        Some(libc::EPERM | libc::EACCES) => {
            let module =
                me.label.as_deref().map_or_else(String::new, |label| format!(" (confined as {label})"));
            check
                .why(format!("the capability is there; lockdown or a security module refuses{module}"))
                .fix("sudo dmesg | tail   (names what refused it)")
        }
        Some(libc::EMFILE | libc::ENFILE) => check.why("no file descriptor is left").fix("ulimit -n 65536"),
        _ => check.why(error.to_string()),
    }
}

fn compiler(setting: Option<i64>) -> Check {
    let title = "BPF compiler (JIT)";
    match setting {
        Some(1) => Check::ok(Bpf, "bpf_jit", title, "on"),
        Some(2) => Check::warn(Bpf, "bpf_jit", title, "on, with debug output")
            .why("the kernel logs every program that it compiles")
            .fix("sudo sysctl net.core.bpf_jit_enable=1"),
        Some(_) => Check::warn(Bpf, "bpf_jit", title, "off")
            .why("interpreted programs cost several times as much for each sample")
            .fix("sudo sysctl net.core.bpf_jit_enable=1"),
        // Readable by root only on some kernels, absent in other network namespances' /proc/sys/net.
        None => Check::ok(Bpf, "bpf_jit", title, "not told"),
    }
}

fn statistics(setting: Option<i64>) -> Check {
    match setting {
        Some(1) => Check::warn(Bpf, "bpf_stats_enabled", "BPF statistics", "on")
            .why("every run of every BPF program on this host is timed, which costs some 20 ns each")
            .fix("sudo sysctl kernel.bpf_stats_enabled=0"),
        Some(_) => Check::ok(Bpf, "bpf_stats_enabled", "BPF statistics", "off"),
        None => Check::ok(Bpf, "bpf_stats_enabled", "BPF statistics", "not in this kernel"),
    }
}

fn unprivileged(setting: Option<i64>) -> Check {
    let (id, title) = ("unprivileged_bpf_disabled", "unprivileged BPF");
    match setting {
        Some(0) => {
            Check::ok(Bpf, id, title, "allowed").why("kernel.unprivileged_bpf_disabled = 0; not needed here")
        }
        Some(value) => Check::ok(Bpf, id, title, "refused")
            .why(format!("kernel.unprivileged_bpf_disabled = {value}; CAP_BPF is above it")),
        None => Check::ok(Bpf, id, title, "not told"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::Status;
    use super::*;
    use crate::system::privileges::CapabilitySet;

    fn refused(me: &Privileges) -> Check {
        tried("x", "x", "done", &Err(io::Error::from_raw_os_error(libc::EPERM)), me)
    }

    #[test]
    fn a_refusal_is_blamed_on_what_caused_it() {
        let nobody = Privileges { initial_user_namespace: true, ..Privileges::default() };
        assert!(refused(&nobody).why.contains("CAP_BPF is missing"));
        let root = Privileges { effective: CapabilitySet(u64::MAX), ..nobody };
        assert!(refused(&root).why.contains("lockdown or a security module"));
        let filtered = Privileges { seccomp: Seccomp::Filter, ..root.clone() };
        assert!(refused(&filtered).why.contains("seccomp"));
        let nested = Privileges { initial_user_namespace: false, ..root };
        assert!(refused(&nested).why.contains("user namespace"));
        assert_eq!(refused(&nested).value, "bpf: EPERM");
    }

    #[test]
    fn an_interpreter_is_a_remark() {
        assert_eq!(compiler(Some(0)).status, Status::Warn);
        assert_eq!(compiler(Some(1)).status, Status::Ok);
        assert_eq!(compiler(None).status, Status::Ok);
    }
}
