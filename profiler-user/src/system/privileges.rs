//! What this process may do: effective capabilities, user and PID namespace, confinement.
//!
//! In: `/proc/self`. Out: facts and, for each capability that perf-agent uses, what it is for. Whether an operation
//! really works is for [`super::probe`] to try; this module only explains.

use std::fmt;

use super::read;

/// The inode numbers that the kernel gives its first namespaces (`include/linux/proc_ns.h`,
/// `PROC_USER_INIT_INO` and `PROC_PID_INIT_INO`).
const INITIAL_USER_NAMESPACE: &str = "user:[4026531837]";
const INITIAL_PID_NAMESPACE: &str = "pid:[4026531836]";

/// A capability that perf-agent has a use for; the values are the bit numbers of `include/uapi/linux/capability.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Capability {
    /// Load BPF programs and create maps (5.8; before that `CAP_SYS_ADMIN`).
    Bpf = 39,
    /// Open perf events on other users' processes, on the kernel and on whole CPUs; read kernel memory from BPF.
    Perfmon = 38,
    /// Look into other users' processes: mappings, executables, roots.
    SysPtrace = 19,
    /// Read executables and libraries whatever their permissions.
    DacReadSearch = 2,
    /// Read kernel addresses in `/proc/kallsyms`.
    Syslog = 34,
    /// Open `/proc/PID/map_files`: binaries that were deleted or replaced while they run.
    CheckpointRestore = 40,
    /// Raise resource limits.
    SysResource = 24,
    /// Stands in for most of the others.
    SysAdmin = 21,
}

/// How much is lost without a capability.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Nothing can be profiled without it.
    Required,
    /// Some targets or some names are out of reach without it.
    Useful,
    /// Only in special cases.
    Rare,
}

impl Capability {
    /// Every capability worth naming to the user, the required ones first.
    pub const USED: [Self; 7] = [
        Self::Bpf,
        Self::Perfmon,
        Self::SysPtrace,
        Self::DacReadSearch,
        Self::Syslog,
        Self::CheckpointRestore,
        Self::SysResource,
    ];

    /// The name as in capabilities(7).
    pub fn name(self) -> &'static str {
        match self {
            Self::Bpf => "CAP_BPF",
            Self::Perfmon => "CAP_PERFMON",
            Self::SysPtrace => "CAP_SYS_PTRACE",
            Self::DacReadSearch => "CAP_DAC_READ_SEARCH",
            Self::Syslog => "CAP_SYSLOG",
            Self::CheckpointRestore => "CAP_CHECKPOINT_RESTORE",
            Self::SysResource => "CAP_SYS_RESOURCE",
            Self::SysAdmin => "CAP_SYS_ADMIN",
        }
    }

    /// What perf-agent does with it, as the end of a sentence that starts with "needed to".
    pub fn purpose(self) -> &'static str {
        match self {
            Self::Bpf => "load BPF programs and create their maps",
            Self::Perfmon => "open perf events on other users' processes, the kernel and whole CPUs",
            Self::SysPtrace => "read mappings and binaries of other users' processes",
            Self::DacReadSearch => "read binaries and debug files whatever their permissions",
            Self::Syslog => "see kernel addresses, without which kernel functions have no names",
            Self::CheckpointRestore => "read binaries that were deleted or replaced while they run",
            Self::SysResource => "raise the limits on locked memory (kernels before 5.11) and open files",
            Self::SysAdmin => "count what BPF programs cost, and do everything above on kernels before 5.8",
        }
    }

    /// How much is lost without it.
    pub fn need(self) -> Need {
        match self {
            Self::Bpf | Self::Perfmon => Need::Required,
            Self::SysPtrace | Self::DacReadSearch | Self::Syslog => Need::Useful,
            Self::CheckpointRestore | Self::SysResource | Self::SysAdmin => Need::Rare,
        }
    }

    /// Whether the kernel takes `CAP_SYS_ADMIN` in its place (`bpf_capable`, `perfmon_capable`,
    /// `checkpoint_restore_ns_capable`, `has_capability_noaudit` in `syslog`).
    fn implied_by_sys_admin(self) -> bool {
        matches!(self, Self::Bpf | Self::Perfmon | Self::Syslog | Self::CheckpointRestore)
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A set of capabilities, as the kernel prints it in hexadecimal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CapabilitySet(pub u64);

impl CapabilitySet {
    /// Exactly this capability, without stand-ins.
    pub fn holds(self, capability: Capability) -> bool {
        self.0 >> (capability as u8) & 1 == 1
    }

    /// This capability or `CAP_SYS_ADMIN` where the kernel takes it instead.
    pub fn allows(self, capability: Capability) -> bool {
        self.holds(capability) || (capability.implied_by_sys_admin() && self.holds(Capability::SysAdmin))
    }
}

/// Confinement by seccomp, from `/proc/self/status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Seccomp {
    /// No filter, or a kernel without seccomp.
    #[default]
    Off,
    /// Only read, write and exit.
    Strict,
    /// A filter decides per system call; container runtimes install one that refuses `bpf` and `perf_event_open`.
    Filter,
}

/// What this process may do.
#[derive(Debug, Clone, Default)]
pub struct Privileges {
    /// Effective user id, in this process's user namespace.
    pub uid: u32,
    /// Effective capabilities, in this process's user namespace.
    pub effective: CapabilitySet,
    /// Seccomp mode.
    pub seccomp: Seccomp,
    /// In the first user namespace. Capabilities held elsewhere do not count for BPF and perf events.
    pub initial_user_namespace: bool,
    /// In the first PID namespace: every process of the host is visible.
    pub initial_pid_namespace: bool,
    /// `/proc` shows this process's own PID namespace; false after `unshare -p` without `--mount-proc`.
    pub own_proc: bool,
    /// The security module's label, such as `docker-default (enforce)` or an SELinux context; None when unconfined.
    pub label: Option<String>,
}

impl Privileges {
    /// Reads this process's privileges. Facts that cannot be read count as not given.
    pub fn gather() -> Self {
        let status = read::text("/proc/self/status").unwrap_or_default();
        let namespace = |name: &str| read::link(format!("/proc/self/ns/{name}"));
        Self {
            own_proc: proc_is_ours(),
            // A kernel without CONFIG_USER_NS or CONFIG_PID_NS has no such link: there is only one namespace.
            initial_user_namespace: namespace("user")
                .is_none_or(|ns| ns == INITIAL_USER_NAMESPACE.as_bytes()),
            initial_pid_namespace: namespace("pid").is_none_or(|ns| ns == INITIAL_PID_NAMESPACE.as_bytes()),
            label: read::line("/proc/self/attr/current").and_then(|raw| parse_label(&raw)),
            ..Self::from_status(&status)
        }
    }

    /// The part that `/proc/PID/status` tells.
    pub fn from_status(status: &str) -> Self {
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        Self {
            uid: field("Uid").and_then(|ids| ids.split_whitespace().nth(1)?.parse().ok()).unwrap_or(u32::MAX),
            effective: field("CapEff")
                .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
                .map_or(CapabilitySet::default(), CapabilitySet),
            seccomp: match field("Seccomp").map(str::trim) {
                Some("1") => Seccomp::Strict,
                Some("2") => Seccomp::Filter,
                _ => Seccomp::Off,
            },
            ..Self::default()
        }
    }

    /// Capabilities of [`Capability::USED`] that this process lacks and that `need` says matter.
    pub fn missing(&self, need: Need) -> Vec<Capability> {
        Capability::USED
            .into_iter()
            .filter(|cap| cap.need() == need && !self.effective.allows(*cap))
            .collect()
    }

    /// True when every capability that profiling cannot do without is there and counts.
    pub fn sufficient(&self) -> bool {
        self.initial_user_namespace && self.missing(Need::Required).is_empty()
    }
}

/// Gives `CAP_SYS_ADMIN` up, on this thread and those that it starts, for good. Returns whether it could: before 5.8 nothing works without it.
///
/// # Errors
///
/// The kernel refuses to change the set.
pub fn give_up_sys_admin() -> std::io::Result<bool> {
    use rustix::thread::CapabilitySet as Sets;
    let mut held = rustix::thread::capabilities(None)?;
    if !held.effective.contains(Sets::BPF | Sets::PERFMON) {
        return Ok(false);
    }
    for set in [&mut held.effective, &mut held.permitted, &mut held.inheritable] {
        set.remove(Sets::SYS_ADMIN);
    }
    rustix::thread::set_capabilities(None, held)?;
    Ok(true)
}

/// True when `/proc` shows this process's own PID namespace, so that its numbers mean what they mean here.
pub fn proc_is_ours() -> bool {
    read::link("/proc/self").is_some_and(|pid| pid == std::process::id().to_string().as_bytes())
}

/// `attr/current` holds `unconfined`, `profile (mode)`, or an SELinux context; empty without such a module.
fn parse_label(raw: &str) -> Option<String> {
    let label = raw.trim_matches('\0').trim();
    let free =
        label.is_empty() || label == "unconfined" || label.contains(":unconfined_t") || label == "kernel";
    (!free).then(|| crate::profile::clean(label.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Name:\tbash\nUid:\t1000\t1001\t1000\t1000\nNSpid:\t7\nCapPrm:\t000001ffffffffff\n\
                          CapEff:\t0000004000080000\nSeccomp:\t2\nSeccomp_filters:\t1\n";

    #[test]
    fn status_gives_the_effective_ids_and_sets() {
        let me = Privileges::from_status(STATUS);
        assert_eq!((me.uid, me.seccomp), (1001, Seccomp::Filter));
        assert!(me.effective.holds(Capability::Perfmon) && me.effective.holds(Capability::SysPtrace));
        assert_eq!(me.missing(Need::Required), [Capability::Bpf]);
        assert_eq!(me.missing(Need::Useful), [Capability::DacReadSearch, Capability::Syslog]);
    }

    #[test]
    fn sys_admin_stands_in_for_some_but_not_for_ptrace() {
        let admin = CapabilitySet(1 << 21);
        assert!(admin.allows(Capability::Bpf) && !admin.holds(Capability::Bpf));
        assert!(admin.allows(Capability::CheckpointRestore));
        assert!(!admin.allows(Capability::SysPtrace) && !admin.allows(Capability::DacReadSearch));
    }

    #[test]
    fn an_unreadable_status_gives_no_rights() {
        let me = Privileges::from_status("");
        assert_eq!((me.uid, me.effective, me.sufficient()), (u32::MAX, CapabilitySet(0), false));
    }

    #[test]
    fn capabilities_in_another_user_namespace_do_not_suffice() {
        let all = Privileges { effective: CapabilitySet(u64::MAX), ..Privileges::default() };
        assert!(!all.sufficient());
        assert!(Privileges { initial_user_namespace: true, ..all }.sufficient());
    }

    #[test]
    fn labels_name_confinement_only() {
        assert_eq!(parse_label("unconfined\n"), None);
        assert_eq!(parse_label("unconfined_u:unconfined_r:unconfined_t:s0\0"), None);
        assert_eq!(parse_label("docker-default (enforce)").as_deref(), Some("docker-default (enforce)"));
    }
}
