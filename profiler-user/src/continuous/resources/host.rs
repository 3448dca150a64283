//! What the host as a whole uses, and what it waits for.

use std::sync::Arc;

use procfs::{Current, CurrentSI};

use super::Rows;
use crate::profile::{Meta, Profile};

/// Kind and unit of the values. Pressure is time in which some, or all, tasks could not go on for want of it (PSI,
/// Documentation/accounting/psi.rst).
const VALUES: [(&str, &str); 9] = [
    ("stolen", "nanoseconds"),
    ("cpu_pressure", "nanoseconds"),
    ("memory_pressure_some", "nanoseconds"),
    ("memory_pressure_full", "nanoseconds"),
    ("io_pressure_some", "nanoseconds"),
    ("io_pressure_full", "nanoseconds"),
    ("load", "milli_milliseconds"),
    ("memory_used", "byte_milliseconds"),
    ("cpu", "nanoseconds"),
];

/// Name of the only row.
const NAME: &str = "[host]";

/// The host at one moment; what the kernel does not say is zero.
#[derive(Debug, Default)]
pub(super) struct Host {
    /// Nanoseconds since the host began, in the order of the values.
    sums: [u64; 6],
    cpu_ns: u64,
    load_milli: u64,
    used_bytes: u64,
}

impl Host {
    pub(super) fn look() -> Self {
        let mut host = Self::default();
        if let Ok(stat) = procfs::KernelStats::current() {
            let total = stat.total;
            let ns = 1_000_000_000 / procfs::ticks_per_second().max(1);
            let busy =
                [total.user, total.nice, total.system, total.irq.unwrap_or(0), total.softirq.unwrap_or(0)];
            host.cpu_ns = busy.iter().fold(0_u64, |sum, ticks| sum.saturating_add(*ticks)).saturating_mul(ns);
            host.sums[0] = total.steal.unwrap_or(0).saturating_mul(ns);
        }
        let ns = |microseconds: u64| microseconds.saturating_mul(1_000);
        if let Ok(cpu) = procfs::CpuPressure::current() {
            host.sums[1] = ns(cpu.some.total);
        }
        if let Ok(memory) = procfs::MemoryPressure::current() {
            (host.sums[2], host.sums[3]) = (ns(memory.some.total), ns(memory.full.total));
        }
        if let Ok(io) = procfs::IoPressure::current() {
            (host.sums[4], host.sums[5]) = (ns(io.some.total), ns(io.full.total));
        }
        if let Ok(load) = procfs::LoadAverage::current() {
            host.load_milli = (f64::from(load.one) * 1_000.0) as u64;
        }
        if let Ok(memory) = procfs::Meminfo::current() {
            host.used_bytes =
                memory.mem_total.saturating_sub(memory.mem_available.unwrap_or(memory.mem_free));
        }
        host
    }

    /// What was used between another look and this one.
    pub(super) fn since(&self, before: &Self, elapsed_ms: u64, meta: Meta) -> Profile {
        let mut values = [0; VALUES.len()];
        for (value, (now, then)) in values.iter_mut().zip(self.sums.iter().zip(before.sums)) {
            *value = now.saturating_sub(then);
        }
        values[6] = self.load_milli.saturating_mul(elapsed_ms);
        values[7] = self.used_bytes.saturating_mul(elapsed_ms);
        values[8] = self.cpu_ns.saturating_sub(before.cpu_ns);
        let mut rows = Rows::new(&VALUES);
        rows.add(0, &Arc::from(NAME), None, &values);
        rows.finish(meta, Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_runs_and_has_memory() {
        let before = Host::look();
        let began = std::time::Instant::now();
        while began.elapsed().as_millis() < 120 {
            std::hint::black_box(());
        }
        let profile = Host::look().since(&before, 1_000, Meta::default());
        let values = &profile.samples[0].values;
        assert!(values[8] >= 50_000_000, "{values:?}");
        assert!(values[7] / 1_000 > 1 << 24, "{values:?}");
        assert_eq!(values.len(), profile.value_types.len());
    }
}
