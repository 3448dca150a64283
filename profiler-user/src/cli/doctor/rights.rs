//! Checks of this process: user, capabilities, namespaces, confinement, limits.

use super::Facts;
use super::check::{Check, Group::Rights};
use crate::system::features::{Features, Limit};
use crate::system::permission::capability_fixes;
use crate::system::privileges::{Capability, Need, Privileges, Seccomp};

/// Descriptors for maps, programs, logs and files that are open whatever the number of CPUs.
const DESCRIPTORS_ALWAYS: u64 = 256;
/// Descriptors for each CPU: its event and the link to the program, doubled for room.
const DESCRIPTORS_PER_CPU: u64 = 4;

pub(super) fn checks(facts: &Facts) -> Vec<Check> {
    let (me, host) = (&facts.me, &facts.host);
    let works = facts.perf.is_ok() && facts.program.is_ok() && facts.ring_buffer.is_ok();
    let mut checks: Vec<Check> = Capability::USED.into_iter().map(|cap| capability(cap, me, host)).collect();
    checks.extend(capabilities(me));
    checks.push(user_namespace(me));
    checks.push(pid_namespace(me));
    checks.push(confinement(me, works));
    checks.push(locked_memory(host));
    checks.push(open_files(host.open_files, host.online_cpus.count() as u64));
    checks
}

/// Memory of maps and programs counts as locked memory before 5.11, and to the memory control group since.
fn counts_locked_memory(host: &Features) -> bool {
    host.release.as_ref().is_some_and(|release| !release.at_least(5, 11))
}

fn capability(cap: Capability, me: &Privileges, host: &Features) -> Check {
    let id = cap.name().to_lowercase();
    let title = cap.name();
    if me.effective.holds(cap) {
        return Check::ok(Rights, &id, title, "held");
    }
    if me.effective.allows(cap) {
        return Check::ok(Rights, &id, title, "held through CAP_SYS_ADMIN");
    }
    if cap == Capability::SysResource && !counts_locked_memory(host) {
        return Check::ok(Rights, &id, title, "missing").why("not needed on this kernel");
    }
    let check = match cap.need() {
        Need::Required => Check::fail(Rights, &id, title, "missing"),
        Need::Useful | Need::Rare => Check::warn(Rights, &id, title, "missing"),
    };
    check.why(format!("needed to {}", cap.purpose())).fix("see `all capabilities` below")
}

/// The fixes for all missing capabilities at once: `setcap` replaces what a file had, so one at a time would not do.
fn capabilities(me: &Privileges) -> Option<Check> {
    let lacking = me.missing(Need::Required).len() + me.missing(Need::Useful).len();
    let verdict = if me.missing(Need::Required).is_empty() { Check::warn } else { Check::fail };
    let check = verdict(Rights, "capabilities", "all capabilities", format!("{lacking} missing"))
        .why("any one of these ways gives all that are missing");
    (lacking > 0).then(|| capability_fixes(me).into_iter().fold(check, Check::fix))
}

fn user_namespace(me: &Privileges) -> Check {
    let (id, title) = ("user_namespace", "user namespace");
    if me.initial_user_namespace {
        return Check::ok(Rights, id, title, format!("the host's (uid {})", me.uid));
    }
    Check::fail(Rights, id, title, format!("a nested one (uid {} in it)", me.uid))
        .why("capabilities held in it do not count for BPF and perf events")
        .fix("run it outside of the user namespace or rootless container")
}

fn pid_namespace(me: &Privileges) -> Check {
    let (id, title) = ("pid_namespace", "PID namespace");
    if !me.own_proc {
        return Check::fail(Rights, id, title, "/proc belongs to another one")
            .why("process numbers here and in /proc mean different processes")
            .fix("mount -t proc proc /proc   (inside the namespace)");
    }
    if me.initial_pid_namespace {
        return Check::ok(Rights, id, title, "the host's");
    }
    Check::warn(Rights, id, title, "a nested one")
        .why("only the processes in it can be named and profiled")
        .fix("docker run --pid=host …, or run it on the host")
}

fn confinement(me: &Privileges, works: bool) -> Check {
    let (id, title) = ("confinement", "seccomp and LSM");
    let mut found = Vec::new();
    match me.seccomp {
        Seccomp::Off => {}
        Seccomp::Strict => found.push("seccomp strict mode".to_owned()),
        Seccomp::Filter => found.push("a seccomp filter".to_owned()),
    }
    found.extend(me.label.clone());
    match (found.is_empty(), works) {
        (true, _) => Check::ok(Rights, id, title, "not confined"),
        (false, true) => {
            Check::ok(Rights, id, title, found.join(", ")).why("lets BPF and perf events through")
        }
        (false, false) => Check::warn(Rights, id, title, found.join(", "))
            .why("may be what refuses BPF or perf events")
            .fix("docker run --security-opt seccomp=unconfined --security-opt apparmor=unconfined …"),
    }
}

fn locked_memory(host: &Features) -> Check {
    let (id, title) = ("rlimit_memlock", "locked-memory limit");
    let Some(limit) = host.locked_memory else { return Check::ok(Rights, id, title, "not told") };
    let value = limit.soft.map_or_else(|| "unlimited".to_owned(), |bytes| format!("{} KiB", bytes / 1024));
    if !counts_locked_memory(host) {
        return Check::ok(Rights, id, title, value).why("BPF maps do not count since 5.11");
    }
    if limit.soft.is_none() || limit.hard.is_none() {
        return Check::ok(Rights, id, title, value);
    }
    Check::warn(Rights, id, title, value)
        .why("BPF maps count as locked memory before 5.11 and do not fit")
        .fix("ulimit -l unlimited   (or LimitMEMLOCK=infinity in a systemd unit)")
}

fn open_files(limit: Option<Limit>, cpus: u64) -> Check {
    let (id, title) = ("rlimit_nofile", "open-files limit");
    let Some(limit) = limit else { return Check::ok(Rights, id, title, "not told") };
    let shown = |value: Option<u64>| value.map_or_else(|| "unlimited".to_owned(), |value| value.to_string());
    let value = format!("{} (may be raised to {})", shown(limit.soft), shown(limit.hard));
    let needed = DESCRIPTORS_ALWAYS + DESCRIPTORS_PER_CPU * cpus;
    if limit.soft.is_none_or(|soft| soft >= needed) {
        return Check::ok(Rights, id, title, value);
    }
    Check::warn(Rights, id, title, value)
        .why(format!("up to {needed} descriptors are used on a host of {cpus} CPUs"))
        .fix(format!("ulimit -n {}", needed.next_power_of_two()))
}

#[cfg(test)]
mod tests {
    use super::super::check::Status;
    use super::*;
    use crate::system::privileges::CapabilitySet;

    #[test]
    fn each_missing_capability_says_what_it_is_for() {
        let (me, host) = (Privileges::default(), Features::gather());
        for cap in Capability::USED {
            let check = capability(cap, &me, &host);
            assert_eq!(check.value, "missing");
            assert!(!check.why.is_empty(), "{cap}");
        }
        assert_eq!(capability(Capability::Bpf, &me, &host).status, Status::Fail);
        let admin = Privileges { effective: CapabilitySet(1 << 21), ..me };
        assert_eq!(capability(Capability::Bpf, &admin, &host).value, "held through CAP_SYS_ADMIN");
    }

    #[test]
    fn a_wrong_proc_fails_and_a_nested_namespace_is_a_remark() {
        let nested = Privileges { own_proc: true, ..Privileges::default() };
        assert_eq!(pid_namespace(&nested).status, Status::Warn);
        assert_eq!(pid_namespace(&Privileges::default()).status, Status::Fail);
    }

    #[test]
    fn file_limits_grow_with_the_cpus() {
        let limit = Some(Limit { soft: Some(1024), hard: Some(4096) });
        assert_eq!(open_files(limit, 2).status, Status::Ok);
        let check = open_files(limit, 256);
        assert_eq!((check.status, check.fix), (Status::Warn, vec!["ulimit -n 2048".to_owned()]));
    }
}
