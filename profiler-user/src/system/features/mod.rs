//! What this kernel and host offer: release, settings, mounts, processors, limits.
//!
//! In: `/proc` and `/sys`. Out: [`Features`], where a missing file is `None`, which is normal: kernels without
//! modules, without lockdown, without tracefs exist. The parsers are pure and live next to what they parse.

mod cpus;
mod mounts;
mod release;
mod sysctl;

use std::path::Path;

pub use cpus::{CpuSet, online_cpus, possible_cpus};
pub use mounts::{Cgroups, Mount, Mounts, TRACEFS_PLACES, Tracefs};
pub use release::Release;
pub use sysctl::Sysctls;

use super::read;

/// How far the kernel is locked down (kernel_lockdown(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lockdown {
    /// Not locked down, or a kernel without the feature.
    None,
    /// The kernel cannot be changed from user space; profiling works.
    Integrity,
    /// Kernel memory cannot be read either: BPF programs may not read any memory.
    Confidentiality,
}

impl Lockdown {
    /// The name in `/sys/kernel/security/lockdown`.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Integrity => "integrity",
            Self::Confidentiality => "confidentiality",
        }
    }

    /// The file marks the mode in force with brackets: `none [integrity] confidentiality`.
    pub fn parse(file: &str) -> Self {
        if file.contains("[confidentiality]") {
            Self::Confidentiality
        } else if file.contains("[integrity]") {
            Self::Integrity
        } else {
            Self::None
        }
    }

    /// The mode in force; [`Lockdown::None`] when the kernel has no such file.
    pub fn gather() -> Self {
        read::line("/sys/kernel/security/lockdown").map_or(Self::None, |file| Self::parse(&file))
    }
}

/// A resource limit; `None` means unlimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// What is in force.
    pub soft: Option<u64>,
    /// How far it may be raised without `CAP_SYS_RESOURCE`.
    pub hard: Option<u64>,
}

impl Limit {
    /// Bytes that this process may lock in memory.
    pub fn locked_memory() -> Option<Self> {
        Self::gather(libc::RLIMIT_MEMLOCK)
    }

    /// File descriptors that this process may have open.
    pub fn open_files() -> Option<Self> {
        Self::gather(libc::RLIMIT_NOFILE)
    }

    fn gather(resource: libc::__rlimit_resource_t) -> Option<Self> {
        let mut raw = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: `raw` is a valid rlimit that outlives the call.
        let result = unsafe { libc::getrlimit(resource, &raw mut raw) };
        let finite = |value| (value != libc::RLIM_INFINITY).then_some(value);
        (result == 0).then(|| Self { soft: finite(raw.rlim_cur), hard: finite(raw.rlim_max) })
    }
}

/// Everything that is known about this kernel and host without asking the kernel to do something.
#[derive(Debug, Clone)]
pub struct Features {
    /// Kernel release; None when it cannot be parsed.
    pub release: Option<Release>,
    /// The kernel's settings that profiling depends on.
    pub sysctls: Sysctls,
    /// Lockdown mode.
    pub lockdown: Lockdown,
    /// The kernel exposes its own types.
    pub btf: bool,
    /// Where the trace file system is.
    pub tracefs: Tracefs,
    /// How control groups are mounted.
    pub cgroups: Cgroups,
    /// Processors in use now.
    pub online_cpus: CpuSet,
    /// Processors that could ever be in use: the length of per-CPU maps.
    pub possible_cpus: CpuSet,
    /// The kernel can load modules.
    pub modules: bool,
    /// Type number of the uprobe event source; None without `CONFIG_UPROBE_EVENTS` or before 4.17.
    pub uprobe_type: Option<u32>,
    /// Type number of the kprobe event source; None without `CONFIG_KPROBE_EVENTS` or before 4.17.
    pub kprobe_type: Option<u32>,
    /// The clock behind `CLOCK_MONOTONIC`, such as `tsc` or `kvm-clock`.
    pub clock_source: Option<String>,
    /// Locked-memory limit.
    pub locked_memory: Option<Limit>,
    /// Open-files limit.
    pub open_files: Option<Limit>,
}

impl Features {
    /// Looks everything up. Takes well under a millisecond.
    pub fn gather() -> Self {
        let mounts = Mounts::gather();
        let source = |name: &str| {
            let number = read::number(format!("/sys/bus/event_source/devices/{name}/type"))?;
            u32::try_from(number).ok()
        };
        Self {
            release: Release::gather(),
            sysctls: Sysctls::gather(),
            lockdown: Lockdown::gather(),
            btf: Path::new(super::btf::VMLINUX_BTF).exists(),
            tracefs: Tracefs::gather(),
            cgroups: Cgroups::from_mounts(&mounts),
            online_cpus: online_cpus(),
            possible_cpus: possible_cpus(),
            modules: Path::new("/proc/modules").exists(),
            uprobe_type: source("uprobe"),
            kprobe_type: source("kprobe"),
            clock_source: read::line("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
            locked_memory: Limit::locked_memory(),
            open_files: Limit::open_files(),
        }
    }
}

/// True when `/proc/kallsyms` shows this process real kernel addresses; with restricted pointers all are zero.
pub fn kernel_addresses_visible() -> bool {
    // The first entries are per-CPU offsets, which are zero on x86_64 before 6.15 even for root, so a few pages
    // are read. Reading all of it would take tens of milliseconds.
    read::text("/proc/kallsyms").is_ok_and(|text| shows_addresses(&text))
}

fn shows_addresses(kallsyms: &str) -> bool {
    // Per-CPU symbols are small offsets; addresses of code have the top bit set on x86_64 and arm64.
    kallsyms
        .lines()
        .filter_map(|line| u64::from_str_radix(line.split(' ').next()?, 16).ok())
        .any(|address| address >> 63 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lockdown_is_the_bracketed_word() {
        assert_eq!(Lockdown::parse("[none] integrity confidentiality\n"), Lockdown::None);
        assert_eq!(Lockdown::parse("none [integrity] confidentiality"), Lockdown::Integrity);
        assert_eq!(Lockdown::parse("none integrity [confidentiality]"), Lockdown::Confidentiality);
        assert_eq!(Lockdown::parse(""), Lockdown::None);
    }

    #[test]
    fn hidden_addresses_are_zeros_or_offsets() {
        assert!(!shows_addresses("0000000000000000 A fixed_percpu_data\n0000000000000000 T _text\n"));
        assert!(!shows_addresses("0000000000004000 A irq_stack\n"));
        assert!(shows_addresses("0000000000000000 A fixed_percpu_data\nffffffff81000000 T _text\n"));
    }

    #[test]
    fn this_host_can_be_described() {
        let features = Features::gather();
        assert!(features.online_cpus.count() >= 1);
        assert!(features.possible_cpus.count() >= features.online_cpus.count());
        assert!(features.release.is_some());
    }
}
