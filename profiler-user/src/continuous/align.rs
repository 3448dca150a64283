//! When windows end: on the clock of the wall, so that those of all hosts begin together and merge without splitting.

use std::time::Duration;

/// The time from `now_unix_ns` to the next multiple of `length` on the clock, and the multiple. A window that would be shorter than a quarter
/// of `length` is joined with the next one, so that a start just before a boundary does not make a window of nothing.
pub(super) fn next_end(now_unix_ns: u64, length: Duration) -> (Duration, u64) {
    let length_ns = (length.as_nanos() as u64).max(1);
    let mut end = (now_unix_ns / length_ns).saturating_add(1).saturating_mul(length_ns);
    if end.saturating_sub(now_unix_ns) < length_ns / 4 {
        end = end.saturating_add(length_ns);
    }
    (Duration::from_nanos(end.saturating_sub(now_unix_ns)), end)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEN: Duration = Duration::from_secs(10);
    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn windows_end_on_the_clock() {
        assert_eq!(next_end(100 * SECOND, TEN), (TEN, 110 * SECOND));
        assert_eq!(next_end(103 * SECOND + 1, TEN).1, 110 * SECOND);
        // The timer may have come a little early or late; neither makes a window of nothing.
        assert_eq!(next_end(110 * SECOND - 1, TEN).1, 120 * SECOND);
        assert_eq!(next_end(110 * SECOND + 1, TEN).1, 120 * SECOND);
        assert_eq!(next_end(108 * SECOND, TEN).1, 120 * SECOND);
    }

    #[test]
    fn no_clock_and_no_length_is_a_panic() {
        for now in [0, 1, SECOND, u64::MAX - 1, u64::MAX] {
            for length in [Duration::ZERO, Duration::from_nanos(1), TEN, Duration::MAX] {
                let (wait, end) = next_end(now, length);
                assert_eq!(now.saturating_add(wait.as_nanos() as u64), end);
            }
        }
    }
}
