//! Processor lists in the kernel's notation: `0-3,8,10-11`.

use std::ops::RangeInclusive;

use super::super::read;

/// Most processors believed; the kernel's own limit (`NR_CPUS`) is 8192.
const MOST_CPUS: u32 = 1 << 16;

/// A set of processors, as sorted ranges.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CpuSet {
    ranges: Vec<RangeInclusive<u32>>,
}

impl CpuSet {
    /// Parses `0-3,8`. None when the text is not such a list; an empty text is an empty set.
    pub fn parse(list: &str) -> Option<Self> {
        let mut ranges = Vec::new();
        for part in list.trim().split(',').filter(|part| !part.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last): (u32, u32) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
            if first > last || last >= MOST_CPUS {
                return None;
            }
            ranges.push(first..=last);
        }
        ranges.sort_by_key(|range| *range.start());
        let mut merged: Vec<RangeInclusive<u32>> = Vec::with_capacity(ranges.len());
        for range in ranges {
            match merged.last_mut() {
                Some(last) if *range.start() <= last.end() + 1 => {
                    *last = *last.start()..=*range.end().max(last.end());
                }
                _ => merged.push(range),
            }
        }
        Some(Self { ranges: merged })
    }

    /// The processors, ascending, each once.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.ranges.iter().cloned().flatten()
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.iter().count()
    }

    /// Whether `cpu` is one of them.
    pub fn contains(&self, cpu: u32) -> bool {
        self.ranges.iter().any(|range| range.contains(&cpu))
    }
}

impl std::fmt::Display for CpuSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, range) in self.ranges.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            if range.start() == range.end() {
                write!(f, "{comma}{}", range.start())?;
            } else {
                write!(f, "{comma}{}-{}", range.start(), range.end())?;
            }
        }
        Ok(())
    }
}

/// Processors in use now: the ones to open a perf event on. Processor 0 alone when the kernel does not say.
pub fn online_cpus() -> CpuSet {
    gather("online")
}

/// Processors that could ever be in use: the length of per-CPU maps. Processor 0 alone when the kernel does not say.
pub fn possible_cpus() -> CpuSet {
    gather("possible")
}

fn gather(name: &str) -> CpuSet {
    read::line(format!("/sys/devices/system/cpu/{name}"))
        .and_then(|list| CpuSet::parse(&list))
        .unwrap_or_else(|| CpuSet { ranges: vec![0..=0] })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpus(list: &str) -> Option<Vec<u32>> {
        CpuSet::parse(list).map(|set| set.iter().collect())
    }

    #[test]
    fn lists_and_ranges_are_read() {
        assert_eq!(cpus("0"), Some(vec![0]));
        assert_eq!(cpus("0-3,8\n"), Some(vec![0, 1, 2, 3, 8]));
        assert_eq!(cpus(""), Some(vec![]));
    }

    #[test]
    fn overlaps_and_disorder_give_each_cpu_once() {
        let set = CpuSet::parse("8,2-4,0-2,3,5").unwrap();
        assert_eq!(set.to_string(), "0-5,8");
        assert_eq!(set.count(), 7);
        assert!(set.contains(5) && !set.contains(6));
    }

    #[test]
    fn what_is_not_a_list_is_refused() {
        for bad in ["a", "3-1", "1-", "-1", "0-4294967295", "99999999999", "1;2"] {
            assert_eq!(cpus(bad), None, "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn what_is_printed_reads_back(list in "[0-9]{1,3}(-[0-9]{1,3})?(,[0-9]{1,3}){0,5}") {
            if let Some(set) = CpuSet::parse(&list) {
                proptest::prop_assert_eq!(CpuSet::parse(&set.to_string()), Some(set));
            }
        }
    }
}
