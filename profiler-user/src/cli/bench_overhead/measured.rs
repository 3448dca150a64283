//! What one half of a pair came to, and what can be compared of two.

use serde::Serialize;

use crate::statistics::Estimate;

/// One half of a pair. Rates are per second of wall time.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub(super) struct Measured {
    /// Length: of the window, or of the command's run, seconds.
    pub(super) wall_s: f64,
    /// CPU time of target or command with children that were waited for, seconds; none where only the machine is watched.
    pub(super) cpu_s: Option<f64>,
    /// Context switches of the target's threads.
    pub(super) switches: Option<f64>,
    /// Its system calls of the read and write families.
    pub(super) io_calls: Option<f64>,
    /// Time that all CPUs were busy, percent of the machine.
    pub(super) busy_percent: f64,
    /// CPU time of the recording's process from outside, percent of the machine; none without a recording.
    pub(super) agent_percent: Option<f64>,
    /// What the recording says that it cost, BPF programs included, percent of the machine.
    pub(super) own_percent: Option<f64>,
}

/// Two halves.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Pair {
    pub(super) without: Measured,
    pub(super) with: Measured,
}

/// Something that is compared.
#[derive(Debug, Clone, Copy)]
pub(super) struct Quantity {
    /// For people.
    pub(super) name: &'static str,
    /// For machines.
    pub(super) id: &'static str,
    /// Its unit.
    pub(super) unit: &'static str,
    /// What it is in a half; none where it cannot be seen.
    pub(super) of: fn(&Measured) -> Option<f64>,
}

/// Everything that may be compared as a ratio. A rate of work below [`LEAST_EVENTS`] in a half says nothing and is left out.
pub(super) const QUANTITIES: [Quantity; 6] = [
    Quantity {
        name: "wall time",
        id: "wall",
        unit: "s",
        of: |half| half.cpu_s.filter(|_| half.is_of_command()).map(|_| half.wall_s),
    },
    Quantity {
        name: "CPU time",
        id: "cpu",
        unit: "s",
        of: |half| half.cpu_s.filter(|cpu| half.is_of_command() && *cpu > 0.0),
    },
    Quantity {
        name: "CPU time",
        id: "cpu_per_second",
        unit: "ms/s",
        of: |half| {
            half.cpu_s
                .filter(|cpu| !half.is_of_command() && *cpu >= LEAST_CPU_S)
                .map(|cpu| cpu * 1e3 / half.wall_s)
        },
    },
    Quantity {
        name: "context switches",
        id: "switches_per_second",
        unit: "/s",
        of: |half| half.switches.filter(|events| *events >= LEAST_EVENTS).map(|events| events / half.wall_s),
    },
    Quantity {
        name: "reads and writes",
        id: "io_calls_per_second",
        unit: "/s",
        of: |half| half.io_calls.filter(|events| *events >= LEAST_EVENTS).map(|events| events / half.wall_s),
    },
    Quantity {
        name: "CPU time per read or write",
        id: "cpu_per_io_call",
        unit: "µs",
        of: |half| {
            let calls = half.io_calls.filter(|events| *events >= LEAST_EVENTS)?;
            Some(half.cpu_s.filter(|cpu| *cpu >= LEAST_CPU_S)? * 1e6 / calls)
        },
    },
];

/// Below that a rate is chance.
const LEAST_EVENTS: f64 = 100.0;
/// Below that a target is idle, seconds.
const LEAST_CPU_S: f64 = 0.02;

impl Measured {
    /// A command's run has no count of switches: its processes are gone when it ends.
    fn is_of_command(&self) -> bool {
        self.switches.is_none()
    }
}

impl Quantity {
    /// Ratios of all pairs in which it can be seen on both sides; none when it cannot in half of them.
    pub(super) fn compare(&self, pairs: &[Pair]) -> Option<Compared> {
        let seen: Vec<(f64, f64)> = pairs
            .iter()
            .filter_map(|pair| Some(((self.of)(&pair.without)?, (self.of)(&pair.with)?)))
            .collect();
        if seen.len() * 2 < pairs.len().max(1) {
            return None;
        }
        Some(Compared {
            without: Estimate::of(seen.iter().map(|(without, _)| *without))?,
            with: Estimate::of(seen.iter().map(|(_, with)| *with))?,
            ratio: Estimate::of(seen.iter().map(|(without, with)| with / without))?,
        })
    }
}

/// A quantity of all pairs.
pub(super) struct Compared {
    pub(super) without: Estimate,
    pub(super) with: Estimate,
    pub(super) ratio: Estimate,
}

impl Pair {
    /// The ratios of what can be seen.
    pub(super) fn ratios(&self) -> impl Iterator<Item = (&'static str, f64)> {
        let ratio = |it: &Quantity| Some((it.name, (it.of)(&self.with)? / (it.of)(&self.without)?));
        let busy = (self.with.busy_percent - self.without.busy_percent) / 100.0;
        QUANTITIES.iter().filter_map(ratio).chain(std::iter::once(("machine", 1.0 + busy)))
    }

    /// How much busier the machine was with the recording, in points of percent.
    pub(super) fn busier(&self) -> f64 {
        self.with.busy_percent - self.without.busy_percent
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A pair of windows over a target, with so much more CPU time.
    pub(in super::super) fn windows(slower: f64) -> Pair {
        let without = Measured {
            wall_s: 5.0,
            cpu_s: Some(1.0),
            switches: Some(1_000.0),
            io_calls: Some(5_000.0),
            busy_percent: 40.0,
            ..Measured::default()
        };
        let with = Measured {
            cpu_s: Some(slower),
            busy_percent: 40.5,
            agent_percent: Some(0.3),
            own_percent: Some(0.4),
            ..without
        };
        Pair { without, with }
    }

    fn by_id(id: &str) -> Quantity {
        *QUANTITIES.iter().find(|quantity| quantity.id == id).unwrap()
    }

    #[test]
    fn rates_are_per_second_and_ratios_within_pairs() {
        let pairs: Vec<Pair> = (0..7).map(|_| windows(1.02)).collect();
        let cpu = by_id("cpu_per_second").compare(&pairs).unwrap();
        assert!((cpu.without.median - 200.0).abs() < 1e-9 && (cpu.ratio.median - 1.02).abs() < 1e-9);
        let each = by_id("cpu_per_io_call").compare(&pairs).unwrap();
        assert!((each.without.median - 200.0).abs() < 1e-9 && (each.ratio.high - 1.02).abs() < 1e-9);
        assert!(by_id("wall").compare(&pairs).is_none(), "a window's length is ours");
        assert!((pairs[0].busier() - 0.5).abs() < 1e-9);
    }

    #[test]
    fn idle_targets_are_not_compared() {
        let mut idle = windows(1.0);
        (idle.with.cpu_s, idle.with.io_calls) = (Some(0.0), Some(3.0));
        assert!(by_id("cpu_per_second").compare(&[idle]).is_none());
        assert!(by_id("io_calls_per_second").compare(&[idle]).is_none());
        assert!(by_id("switches_per_second").compare(&[idle]).is_some());
    }

    #[test]
    fn a_command_has_wall_and_cpu_time() {
        let without = Measured { wall_s: 2.0, cpu_s: Some(1.5), ..Measured::default() };
        let pair = Pair { without, with: Measured { wall_s: 2.1, ..without } };
        let seen: Vec<_> =
            QUANTITIES.iter().filter(|it| it.compare(&[pair]).is_some()).map(|it| it.id).collect();
        assert_eq!(seen, ["wall", "cpu"]);
    }
}
