//! What the processes of a target grew by while their allocations were watched.

use std::collections::HashMap;

use crate::profile_type::memory::anonymous_bytes;

/// Time between two looks, 1 s.
const LOOK_EVERY_NS: u64 = 1_000_000_000;
/// Processes that are looked at.
const MOST_PROCESSES: usize = 256;

/// Anonymous memory of each process, when it was first looked at and when last.
#[derive(Debug, Default)]
pub(super) struct Growth {
    processes: HashMap<u32, (u64, u64)>,
    next_ns: u64,
}

impl Growth {
    /// Looks at these processes if it is time.
    pub(super) fn look(&mut self, pids: impl Iterator<Item = u32>, now_ns: u64) {
        if now_ns < self.next_ns {
            return;
        }
        self.next_ns = now_ns + LOOK_EVERY_NS;
        for pid in pids.take(MOST_PROCESSES) {
            if let Some(bytes) = anonymous_bytes(pid) {
                self.processes.entry(pid).or_insert((bytes, bytes)).1 = bytes;
            }
        }
    }

    /// Bytes that they grew by, those included that have ended since; none when nothing could be read.
    pub(super) fn bytes(&self) -> Option<u64> {
        let grown: i128 =
            self.processes.values().map(|(first, last)| i128::from(*last) - i128::from(*first)).sum();
        (!self.processes.is_empty()).then(|| u64::try_from(grown.max(0)).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_of_ourselves_is_seen() {
        let mut growth = Growth::default();
        assert_eq!(growth.bytes(), None);
        let own = std::process::id();
        growth.look([own, u32::MAX].into_iter(), 1);
        let memory = vec![7_u8; 64 << 20];
        growth.look(std::iter::once(own), 2);
        assert!(growth.bytes().is_some_and(|bytes| bytes < 64 << 20), "not yet time");
        growth.look(std::iter::once(own), 2 + LOOK_EVERY_NS);
        assert!(growth.bytes().is_some_and(|bytes| bytes > 48 << 20), "{:?}", growth.bytes());
        assert_eq!(std::hint::black_box(&memory)[12345], 7);
    }
}
