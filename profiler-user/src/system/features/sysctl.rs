//! The kernel settings that profiling depends on.

use super::super::read;

/// Settings under `/proc/sys`; None where this kernel has no such setting.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sysctls {
    /// `kernel.perf_event_paranoid`: who may open perf events. -1 anyone, 2 own processes only; 3 and 4 are
    /// additions of Debian, Ubuntu and Android. `CAP_PERFMON` is above it.
    pub perf_event_paranoid: Option<i64>,
    /// `kernel.kptr_restrict`: 0 and 1 show kernel addresses to `CAP_SYSLOG`, 2 to nobody.
    pub kptr_restrict: Option<i64>,
    /// `kernel.unprivileged_bpf_disabled`: 0 lets anyone load some BPF programs, 1 and 2 do not.
    pub unprivileged_bpf_disabled: Option<i64>,
    /// `kernel.perf_event_max_sample_rate`: the highest frequency accepted, Hz. The kernel lowers it by itself.
    pub perf_event_max_sample_rate: Option<i64>,
    /// `kernel.perf_cpu_time_max_percent`: share of a CPU that samples may take before the kernel lowers the rate.
    pub perf_cpu_time_max_percent: Option<i64>,
    /// `kernel.perf_event_max_stack`: deepest kernel stack, frames.
    pub perf_event_max_stack: Option<i64>,
    /// `kernel.perf_event_mlock_kb`: memory for perf ring buffers that does not count as locked, KiB.
    pub perf_event_mlock_kb: Option<i64>,
    /// `kernel.bpf_stats_enabled`: the kernel times every run of every BPF program.
    pub bpf_stats_enabled: Option<i64>,
    /// `net.core.bpf_jit_enable`: 0 interprets BPF programs, 1 compiles them, 2 compiles and logs.
    pub bpf_jit_enable: Option<i64>,
    /// `kernel.pid_max`: process ids are below it.
    pub pid_max: Option<i64>,
}

impl Sysctls {
    /// Reads the settings of the running kernel.
    pub fn gather() -> Self {
        let kernel = |name: &str| read::number(format!("/proc/sys/kernel/{name}"));
        Self {
            perf_event_paranoid: kernel("perf_event_paranoid"),
            kptr_restrict: kernel("kptr_restrict"),
            unprivileged_bpf_disabled: kernel("unprivileged_bpf_disabled"),
            perf_event_max_sample_rate: kernel("perf_event_max_sample_rate"),
            perf_cpu_time_max_percent: kernel("perf_cpu_time_max_percent"),
            perf_event_max_stack: kernel("perf_event_max_stack"),
            perf_event_mlock_kb: kernel("perf_event_mlock_kb"),
            bpf_stats_enabled: kernel("bpf_stats_enabled"),
            bpf_jit_enable: read::number("/proc/sys/net/core/bpf_jit_enable"),
            pid_max: kernel("pid_max"),
        }
    }
}
