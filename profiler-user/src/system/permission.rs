//! The error for an operation that the kernel refused: what failed, what this process is and has, how to fix it.
//!
//! In: the failed operation and its error number. Out: [`PermissionReport`], an error whose text has the three parts
//! that a reader needs to act, in this order, with commands that can be pasted. It belongs to exit code 3.

use std::fmt;

use super::features::{Features, Lockdown};
use super::privileges::{Capability, Need, Privileges, Seccomp};
use super::probe::errno_name;

/// The capabilities for `setcap`: all that profiling has a use for, except those only needed by old kernels.
const SETCAP: &str =
    "cap_bpf,cap_perfmon,cap_sys_ptrace,cap_dac_read_search,cap_syslog,cap_checkpoint_restore+ep";

/// Why the kernel most likely refused, and with it what would help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Capabilities are missing.
    Capabilities,
    /// This user namespace's capabilities do not count (rootless container, `unshare -U`).
    UserNamespace,
    /// The rights are there, but a seccomp filter refuses the system call.
    Seccomp,
    /// The rights are there, but the kernel is locked down to confidentiality.
    Lockdown,
    /// The rights are there, but a security module confines this process.
    SecurityModule,
    /// The kernel lacks the system call or the feature.
    Unsupported,
    /// None of the above.
    Unknown,
}

/// A refused operation, explained.
#[derive(Debug, Clone, thiserror::Error)]
pub struct PermissionReport {
    /// What could not be done, such as `cannot open a CPU sampling event for pid 4242`.
    pub what: String,
    /// The system call, such as `perf_event_open`.
    pub syscall: String,
    /// Its error number.
    pub errno: i32,
    /// The process to profile, when there is one.
    pub target: Option<u32>,
    /// Why.
    pub cause: Cause,
    /// Facts about this process and host that bear on it.
    pub here: Vec<String>,
    /// Commands or settings that fix it, the preferred one first.
    pub fixes: Vec<String>,
}

impl PermissionReport {
    /// Explains why `syscall` failed with `errno` while doing `what`, from the state of this process and host.
    pub fn gather(what: &str, syscall: &str, errno: i32, target: Option<u32>) -> Self {
        let command = Command::of_this_process();
        Self::explain(what, syscall, errno, target, &Privileges::gather(), &Features::gather(), &command)
    }

    fn explain(
        what: &str,
        syscall: &str,
        errno: i32,
        target: Option<u32>,
        me: &Privileges,
        host: &Features,
        command: &Command,
    ) -> Self {
        let cause = cause(errno, me, host);
        Self {
            what: what.to_owned(),
            syscall: syscall.to_owned(),
            errno,
            target,
            cause,
            here: facts(me, host),
            fixes: fixes(cause, me, command),
        }
    }
}

impl fmt::Display for PermissionReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} ({}: {})", self.what, self.syscall, errno_name(self.errno))?;
        writeln!(f, "  here: {}", self.here.join("; "))?;
        let one_of = if self.fixes.len() > 1 { ", any one of" } else { "" };
        writeln!(f, "  fix{one_of}:")?;
        for fix in &self.fixes {
            writeln!(f, "    {fix}")?;
        }
        let target = self.target.map_or_else(String::new, |pid| format!(" {pid}"));
        write!(f, "  run `perf-agent doctor{target}` for the whole picture")
    }
}

/// How this process was started, for fixes that start it again.
#[derive(Debug, Clone)]
struct Command {
    /// Arguments after the program's name.
    arguments: String,
    /// Path of the program.
    program: String,
}

impl Command {
    fn of_this_process() -> Self {
        let arguments: Vec<String> =
            std::env::args_os().skip(1).map(|arg| shell_word(arg.as_encoded_bytes())).collect();
        let program = std::env::current_exe().map_or_else(
            |_| "$(command -v perf-agent)".to_owned(),
            |path| shell_word(path.as_os_str().as_encoded_bytes()),
        );
        Self { arguments: arguments.join(" "), program }
    }
}

/// A word that a shell reads back as it is; control characters appear escaped instead.
fn shell_word(raw: &[u8]) -> String {
    let word = crate::profile::clean(raw);
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word;
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

fn cause(errno: i32, me: &Privileges, host: &Features) -> Cause {
    match errno {
        libc::EPERM | libc::EACCES if !me.initial_user_namespace => Cause::UserNamespace,
        libc::EPERM | libc::EACCES if !me.sufficient() => Cause::Capabilities,
        libc::EPERM | libc::EACCES if host.lockdown == Lockdown::Confidentiality => Cause::Lockdown,
        libc::EPERM | libc::EACCES | libc::ENOSYS if me.seccomp != Seccomp::Off => Cause::Seccomp,
        libc::EPERM | libc::EACCES if me.label.is_some() => Cause::SecurityModule,
        libc::EPERM | libc::EACCES if !me.missing(Need::Useful).is_empty() => Cause::Capabilities,
        libc::ENOSYS | libc::EOPNOTSUPP | libc::EINVAL | libc::ENODEV | libc::ENOENT => Cause::Unsupported,
        _ => Cause::Unknown,
    }
}

fn facts(me: &Privileges, host: &Features) -> Vec<String> {
    let mut facts = vec![format!("uid {}", me.uid)];
    let lacking: Vec<_> =
        [Need::Required, Need::Useful].into_iter().flat_map(|need| me.missing(need)).collect();
    if lacking.is_empty() {
        facts.push("CapEff has all that is needed".to_owned());
    } else {
        let names: Vec<_> = lacking.iter().map(|cap| Capability::name(*cap)).collect();
        facts.push(format!("CapEff lacks {}", names.join("+")));
    }
    if !me.initial_user_namespace {
        facts.push("inside a user namespace, where capabilities do not count for profiling".to_owned());
    }
    let setting = |value: Option<i64>| value.map_or_else(|| "absent".to_owned(), |value| value.to_string());
    facts.push(format!("kernel.perf_event_paranoid = {}", setting(host.sysctls.perf_event_paranoid)));
    facts.push(format!("lockdown = {}", host.lockdown.name()));
    facts.push(format!("BTF = {}", if host.btf { "yes" } else { "no" }));
    if me.seccomp != Seccomp::Off {
        facts.push("a seccomp filter is active".to_owned());
    }
    if let Some(label) = &me.label {
        facts.push(format!("confined as {label}"));
    }
    facts
}

/// How to start this command again with the capabilities that `me` lacks, the preferred way first.
pub fn capability_fixes(me: &Privileges) -> Vec<String> {
    fixes(Cause::Capabilities, me, &Command::of_this_process())
}

fn fixes(cause: Cause, me: &Privileges, command: &Command) -> Vec<String> {
    let again = format!("sudo perf-agent {}", command.arguments);
    let set_capabilities = format!("sudo setcap {SETCAP} {}", command.program);
    let container = "docker run --cap-add BPF --cap-add PERFMON --cap-add SYS_PTRACE --pid=host …".to_owned();
    match cause {
        // Root without capabilities is a container: sudo and setcap would change nothing.
        Cause::Capabilities if me.uid == 0 => {
            vec![container, "docker run --privileged --pid=host …   (all rights)".to_owned()]
        }
        Cause::Capabilities => vec![again, set_capabilities, format!("{container}   (in a container)")],
        Cause::UserNamespace => vec![
            format!("{again}   (outside of the user namespace or rootless container)"),
            format!("sudo {container}   (a container that is not rootless)"),
        ],
        Cause::Seccomp => vec![
            format!("{container}   (Docker's own filter follows the added capabilities)"),
            "docker run --security-opt seccomp=unconfined …".to_owned(),
            "systemd unit: SystemCallFilter=@default bpf perf_event_open".to_owned(),
        ],
        Cause::Lockdown => {
            vec!["boot without lockdown=confidentiality (lockdown=integrity is enough to profile)".to_owned()]
        }
        Cause::SecurityModule => vec![
            "docker run --security-opt apparmor=unconfined …   (AppArmor)".to_owned(),
            "sudo ausearch -m avc -ts recent   (SELinux: shows the rule that is missing)".to_owned(),
        ],
        Cause::Unsupported => {
            vec!["a kernel of version 5.8 or later with CONFIG_BPF_SYSCALL and CONFIG_PERF_EVENTS".to_owned()]
        }
        Cause::Unknown => vec!["look into the kernel's log: sudo dmesg | tail".to_owned()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::privileges::CapabilitySet;

    fn report(errno: i32, me: &Privileges) -> PermissionReport {
        let mut host = Features::gather();
        host.lockdown = Lockdown::None;
        host.btf = true;
        host.sysctls.perf_event_paranoid = Some(2);
        let command =
            Command { arguments: "attach 4242".to_owned(), program: "/usr/bin/perf-agent".to_owned() };
        let what = "cannot open a CPU sampling event for pid 4242";
        PermissionReport::explain(what, "perf_event_open", errno, Some(4242), me, &host, &command)
    }

    fn user() -> Privileges {
        Privileges { uid: 1000, initial_user_namespace: true, own_proc: true, ..Privileges::default() }
    }

    #[test]
    fn an_ordinary_user_reads_what_why_and_how() {
        let me = Privileges { effective: CapabilitySet(1 << 19 | 1 << 2 | 1 << 34), ..user() };
        assert_eq!(
            report(libc::EACCES, &me).to_string(),
            "cannot open a CPU sampling event for pid 4242 (perf_event_open: EACCES)\n  \
             here: uid 1000; CapEff lacks CAP_BPF+CAP_PERFMON; kernel.perf_event_paranoid = 2; lockdown = none; \
             BTF = yes\n  \
             fix, any one of:\n    \
             sudo perf-agent attach 4242\n    \
             sudo setcap cap_bpf,cap_perfmon,cap_sys_ptrace,cap_dac_read_search,cap_syslog,\
             cap_checkpoint_restore+ep /usr/bin/perf-agent\n    \
             docker run --cap-add BPF --cap-add PERFMON --cap-add SYS_PTRACE --pid=host …   (in a container)\n  \
             run `perf-agent doctor 4242` for the whole picture"
        );
    }

    #[test]
    fn root_in_a_container_is_not_told_to_use_sudo() {
        let text = report(libc::EPERM, &Privileges { uid: 0, ..user() }).to_string();
        assert!(!text.contains("sudo") && text.contains("docker run --cap-add BPF"), "{text}");
    }

    #[test]
    fn with_all_rights_something_else_is_to_blame() {
        let all = Privileges { uid: 0, effective: CapabilitySet(u64::MAX), ..user() };
        assert_eq!(report(libc::ENOSYS, &all).cause, Cause::Unsupported);
        let filtered = Privileges { seccomp: Seccomp::Filter, ..all.clone() };
        assert_eq!(report(libc::EPERM, &filtered).cause, Cause::Seccomp);
        let confined = Privileges { label: Some("docker-default (enforce)".to_owned()), ..all.clone() };
        assert_eq!(report(libc::EPERM, &confined).cause, Cause::SecurityModule);
        let nested = Privileges { initial_user_namespace: false, ..all };
        assert_eq!(report(libc::EPERM, &nested).cause, Cause::UserNamespace);
    }

    #[test]
    fn arguments_are_quoted_for_the_shell() {
        assert_eq!(shell_word(b"/redis.*/"), "'/redis.*/'");
        assert_eq!(shell_word(b"it's"), r"'it'\''s'");
        assert_eq!(shell_word(b""), "''");
        assert_eq!(shell_word(b"--duration=30s"), "--duration=30s");
    }
}
