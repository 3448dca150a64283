//! The kinds of profiles, and what the values of each are.

use profiler_common::off_cpu::{STATE_RUNNABLE, WaitSum};

use super::{HeapOptions, MemoryOptions, WaitOptions};
use crate::aggregate::{MAX_VALUES, values};
use crate::bpf::Clock;
use crate::profile::ValueType;

/// What a recording measures.
#[derive(Debug, Clone, PartialEq)]
pub enum ProfileKind {
    /// Where CPU time goes.
    OnCpu,
    /// Where threads wait.
    OffCpu(WaitOptions),
    /// Both, adding up to the time that threads exist.
    Wall(WaitOptions),
    /// Where resident memory grows.
    Memory(MemoryOptions),
    /// Who allocates.
    Alloc(HeapOptions),
}

impl ProfileKind {
    /// Its name on the command line and in files.
    pub fn name(&self) -> &'static str {
        match self {
            Self::OnCpu => "cpu",
            Self::OffCpu(_) => "off-cpu",
            Self::Wall(_) => "wall",
            Self::Memory(_) => "memory",
            Self::Alloc(options) if options.leaks.is_some() && !options.windows => "leaks",
            Self::Alloc(_) => "alloc",
        }
    }

    /// Whether CPUs are sampled.
    pub fn samples_cpus(&self) -> bool {
        matches!(self, Self::OnCpu | Self::Wall(_))
    }

    /// What it may cost, as a share of the machine, where it has a budget of its own.
    pub fn max_overhead(&self) -> Option<f64> {
        match self {
            Self::OnCpu => None,
            Self::OffCpu(options) | Self::Wall(options) => (!options.exact).then_some(options.max_overhead),
            Self::Memory(options) => options.period.is_none().then_some(options.max_overhead),
            Self::Alloc(options) => (!options.exact).then_some(options.max_overhead),
        }
    }

    /// How waits are measured, if they are.
    pub fn waits(&self) -> Option<&WaitOptions> {
        match self {
            Self::OnCpu | Self::Memory(_) | Self::Alloc(_) => None,
            Self::OffCpu(options) | Self::Wall(options) => Some(options),
        }
    }

    /// How the growth of memory is measured, if it is.
    pub fn memory(&self) -> Option<&MemoryOptions> {
        match self {
            Self::Memory(options) => Some(options),
            _ => None,
        }
    }

    /// How allocations are recorded, if they are.
    pub fn heap(&self) -> Option<&HeapOptions> {
        match self {
            Self::Alloc(options) => Some(options),
            _ => None,
        }
    }

    /// What triggers it, for headers.
    pub fn trigger(&self, clock: Clock) -> String {
        match self {
            Self::OnCpu => clock.name().to_owned(),
            Self::OffCpu(_) => "sched_switch".to_owned(),
            Self::Wall(_) => format!("sched_switch and {}", clock.name()),
            Self::Memory(options) if options.calls => "page faults and mapping calls".to_owned(),
            Self::Memory(_) => "page faults".to_owned(),
            Self::Alloc(options) if options.live => "allocations and frees".to_owned(),
            Self::Alloc(_) => "allocations".to_owned(),
        }
    }

    /// What its entries are called.
    pub fn counted(&self) -> &'static str {
        match self {
            Self::OnCpu => "samples",
            Self::OffCpu(_) => "waits",
            Self::Wall(_) => "samples and waits",
            Self::Memory(_) => "events",
            Self::Alloc(_) => "stacks",
        }
    }

    /// What the profile's numbers mean.
    pub fn value_types(&self, clock: Clock) -> Vec<ValueType> {
        let nanoseconds = |kind| ValueType::new(kind, "nanoseconds");
        match self {
            Self::OnCpu => {
                let weight = match clock {
                    Clock::CpuClock => nanoseconds("cpu"),
                    Clock::Cycles => ValueType::new("cycles", "count"),
                };
                vec![ValueType::new("samples", "count"), weight]
            }
            Self::OffCpu(_) => {
                vec![ValueType::new("waits", "count"), nanoseconds("run_queue"), nanoseconds("off_cpu")]
            }
            Self::Wall(_) => vec![nanoseconds("cpu"), nanoseconds("off_cpu"), nanoseconds("wall")],
            Self::Memory(options) => options.value_types(),
            Self::Alloc(options) => options.value_types(),
        }
    }

    /// The values of a CPU sample of this weight.
    pub fn values_of_sample(&self, weight: u64) -> [u64; MAX_VALUES] {
        match self {
            Self::Wall(_) => values([weight, 0, weight]),
            Self::OnCpu | Self::OffCpu(_) | Self::Memory(_) | Self::Alloc(_) => values([1, weight]),
        }
    }

    /// What a sum of waits adds to which stack: `blocked` is that of the thread until it was woken, `queued` that of the same thread in the
    /// run queue. Each entry has its stack, its count and its values.
    pub fn values_of_waits(
        &self,
        state: u32,
        sum: &WaitSum,
        blocked: u32,
        queued: u32,
    ) -> Vec<(u32, u64, [u64; MAX_VALUES])> {
        match self {
            Self::OnCpu | Self::Memory(_) | Self::Alloc(_) => Vec::new(),
            Self::OffCpu(_) => {
                // The time in the queue is a value of its own; only waits that were nothing else say so in their stack.
                let stack = if state == STATE_RUNNABLE { queued } else { blocked };
                vec![(stack, sum.count, values([sum.count, sum.queued_ns, sum.blocked_ns]))]
            }
            Self::Wall(_) => {
                let mut parts = Vec::new();
                if sum.blocked_ns > 0 {
                    parts.push((blocked, sum.count, values([0, sum.blocked_ns, sum.blocked_ns])));
                }
                if sum.queued_ns > 0 {
                    let count = if sum.blocked_ns > 0 { 0 } else { sum.count };
                    parts.push((queued, count, values([0, sum.queued_ns, sum.queued_ns])));
                }
                parts
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUM: WaitSum = WaitSum { count: 5, blocked_ns: 70, queued_ns: 30 };

    #[test]
    fn the_values_of_wall_time_add_up() {
        let wall = ProfileKind::Wall(WaitOptions::default());
        let parts = wall.values_of_waits(1, &SUM, 1, 2);
        assert_eq!(parts.iter().map(|(_, _, values)| values[2]).sum::<u64>(), 100);
        assert_eq!(parts.iter().map(|(_, count, _)| count).sum::<u64>(), 5);
        for values in parts.iter().map(|part| part.2).chain([wall.values_of_sample(10)]) {
            assert_eq!(values[0] + values[1], values[2]);
        }
    }

    #[test]
    fn time_in_the_run_queue_is_not_mixed_with_blocked_time() {
        let off_cpu = ProfileKind::OffCpu(WaitOptions::default());
        assert_eq!(off_cpu.values_of_waits(1, &SUM, 1, 2), [(1, 5, values([5, 30, 70]))]);
        let preempted = WaitSum { blocked_ns: 0, ..SUM };
        assert_eq!(off_cpu.values_of_waits(STATE_RUNNABLE, &preempted, 1, 2), [(2, 5, values([5, 30, 0]))]);
        assert_eq!(off_cpu.value_types(Clock::CpuClock)[2].kind, "off_cpu");
    }
}
