//! What the target's own memory says of sites that seem to grow, where only slices were watched.
//!
//! Blocks that live for a tenth of a second look, in slices of a millisecond, like blocks that stay: hardly one is seen to go, and hardly one of the
//! addresses is handed out again while somebody looks. But a target cannot keep more than it grows by. A site that would have grown it many
//! times over, while others account for what it did grow by, frees its blocks where nobody looks.
//!
//! This moves a site behind others and says that nothing is known of it; it never clears all of them. A leak that fills memory which the allocator
//! had free from before does not make the target grow.

use super::verdict::{Finding, Verdict};
use crate::profile::Leaks;

/// Times the target's growth that its sites may have grown by: some of it goes into what the allocator had free, or is never touched.
const ROOM: f64 = 1.5;
/// The same in bytes, for targets that hardly grow.
const ROOM_BYTES: f64 = 512.0 * 1024.0;
/// Part of the target's growth for which other sites must be able to account.
const ACCOUNTED: f64 = 0.5;

/// Compares all sites that seem to grow with what the target grew by.
pub fn compare_with_growth(leaks: &Leaks, findings: &mut [&mut Finding]) {
    let (Some(grown), Some(_)) = (leaks.grown_bytes, &leaks.slices) else { return };
    let seconds = leaks.watched_ns as f64 / 1e9;
    let most = (grown as f64 * ROOM + ROOM_BYTES) / seconds.max(1e-9);
    // What it grows by when all that outlived its slice stays, less one standard error of the factor that all sites have in common: `rate_error`
    // is two, and an error of many times is one in the logarithm.
    let least = |finding: &Finding| finding.growth / (1.0 + leaks.rate_error.max(0.0)).sqrt();
    let too_fast = |finding: &Finding| {
        finding.verdict == Verdict::Growing && finding.bounds.0 <= 0.0 && least(finding) > most
    };
    let fits = |finding: &&&mut Finding| {
        matches!(finding.verdict, Verdict::Leaking | Verdict::Growing) && !too_fast(finding)
    };
    let accounted: f64 = findings.iter().filter(fits).map(|finding| finding.bounds.1.max(0.0)).sum();
    // The negation, so that what is no number changes nothing.
    if !(accounted > 0.0 && accounted * seconds >= ACCOUNTED * grown as f64) {
        return;
    }
    for finding in findings.iter_mut().filter(|finding| too_fast(finding)) {
        **finding = Finding {
            verdict: Verdict::Unknown,
            growth: 0.0,
            error: most / 2.0,
            bounds: (0.0, most),
            sure: 0.5,
            ..**finding
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::WatchedSlices;

    fn growing(growth: f64, low: f64) -> Finding {
        let bounds = (low, growth * 3.0);
        Finding { verdict: Verdict::Growing, growth, error: growth / 4.0, bounds, sure: 0.9, hidden: 0.0 }
    }

    /// Ten seconds in slices, in which the target grew by so much, and its speed without probes is known within a factor of two.
    fn compare(grown: Option<u64>, mut findings: Vec<Finding>) -> Vec<&'static str> {
        let slices = Some(WatchedSlices { count: 20, ..WatchedSlices::default() });
        let leaks = Leaks {
            watched_ns: 10_000_000_000,
            slices,
            rate_error: 1.0,
            grown_bytes: grown,
            ..Leaks::default()
        };
        compare_with_growth(&leaks, &mut findings.iter_mut().collect::<Vec<_>>());
        findings.iter().map(|finding| finding.verdict.word()).collect()
    }

    #[test]
    fn a_site_that_keeps_more_than_the_target_grows_by_is_not_the_leak() {
        // A window of requests at 9 MB/s, and a leak of 200 KB/s that the target shows.
        let sites = || vec![growing(9e6, 0.0), growing(2e5, 0.0)];
        assert_eq!(compare(Some(2_000_000), sites()), ["unclear", "growing?"]);
        // Nobody looked at the target's memory.
        assert_eq!(compare(None, sites()), ["growing?", "growing?"]);
        // It grew as fast as both say.
        assert_eq!(compare(Some(90_000_000), sites()), ["growing?", "growing?"]);
    }

    #[test]
    fn the_only_one_that_may_leak_is_never_cleared() {
        assert_eq!(compare(Some(0), vec![growing(9e6, 0.0)]), ["growing?"]);
        // The slow one cannot have made the target grow so much.
        assert_eq!(compare(Some(20_000_000), vec![growing(9e6, 0.0), growing(1e3, 0.0)]), ["growing?"; 2]);
        // What is known to stay stays.
        assert_eq!(compare(Some(2_000_000), vec![growing(9e6, 1e6), growing(2e5, 0.0)]), ["growing?"; 2]);
    }

    proptest::proptest! {
        #[test]
        fn whatever_files_hold_is_compared(
            numbers in proptest::collection::vec((proptest::num::f64::ANY, proptest::num::f64::ANY), 0..8),
            grown in proptest::num::u64::ANY,
            rate_error in proptest::num::f64::ANY,
            watched_ns in proptest::num::u64::ANY,
        ) {
            let slices = Some(WatchedSlices::default());
            let leaks = Leaks { watched_ns, slices, rate_error, grown_bytes: Some(grown), ..Leaks::default() };
            let mut findings: Vec<Finding> =
                numbers.iter().map(|(growth, low)| growing(*growth, *low)).collect();
            compare_with_growth(&leaks, &mut findings.iter_mut().collect::<Vec<_>>());
            let unclear = findings.iter().filter(|finding| finding.verdict == Verdict::Unknown).count();
            proptest::prop_assert!(unclear == 0 || unclear < findings.len());
        }
    }
}
