//! Simulated sites whose behaviour is known.

use super::*;
use crate::report::leaks::random::Random;

const MOMENTS: usize = 50;

/// Judges a site whose live bytes at each half second are these, and which still has this share of what it had at half time.
fn word(live: impl Fn(f64) -> f64, early: f64) -> (&'static str, Finding) {
    let moments_ns: Vec<u64> = (0..MOMENTS as u64).map(|index| index * 500_000_000).collect();
    let series: Vec<f64> = moments_ns.iter().map(|moment| live(*moment as f64 / 1e9)).collect();
    let leaks = Leaks { watched_ns: 25_000_000_000, moments_ns, ..Leaks::default() };
    let early_bytes = early * series[MOMENTS / 2];
    let found = judge(&leaks, &LeakSums { early_bytes, series, ..LeakSums::default() });
    (found.verdict.word(), found)
}

/// The words for forty noisy sites of a kind.
fn words(early: f64, live: impl Fn(&mut Random, f64) -> f64 + Copy) -> Vec<&'static str> {
    (0..40)
        .map(|seed| {
            let random = std::cell::RefCell::new(Random::new(seed));
            word(|time| live(&mut random.borrow_mut(), time), early).0
        })
        .collect()
}

fn share(words: &[&str], wanted: &str) -> f64 {
    words.iter().filter(|word| **word == wanted).count() as f64 / words.len() as f64
}

#[test]
fn a_leak_is_one() {
    let (word, found) = word(|time| 64_000.0 * time, 1.0);
    assert_eq!(word, "leaking");
    assert!((found.growth - 64_000.0).abs() < 1.0 && found.sure > 0.999);
    let noisy = words(1.0, |random, time| 64_000.0 * time + 50_000.0 * random.normal());
    assert!(share(&noisy, "leaking") > 0.95, "{noisy:?}");
}

#[test]
fn a_slow_leak_in_noise_is_growing_at_least() {
    let slow = words(1.0, |random, time| 1e6 + 12_000.0 * time + 100_000.0 * random.normal());
    assert!(share(&slow, "leaking") + share(&slow, "growing?") > 0.9, "{slow:?}");
}

#[test]
fn a_plateau_is_no_leak() {
    // Full before the recording, after a third of it, and with noise.
    assert_eq!(word(|_| 1e6, 1.0).0, "steady");
    assert_eq!(word(|time| 1e5 * time.min(8.0), 1.0).0, "filled");
    let noisy = words(1.0, |random, time| 1e5 * time.min(8.0) + 1e4 * random.normal());
    assert!(share(&noisy, "leaking") < 0.01 && share(&noisy, "growing?") < 0.1, "{noisy:?}");
    let level = words(1.0, |random, _| 1e6 + 1e5 * random.normal());
    assert!(share(&level, "leaking") < 0.01 && share(&level, "steady") > 0.9, "{level:?}");
}

#[test]
fn a_warm_up_is_no_leak() {
    for time_constant in [2.0, 4.0, 6.0] {
        let found = word(|time| 1e6 * -(-time / time_constant).exp_m1(), 1.0);
        assert_eq!(found.0, "filled", "{time_constant} {:?}", found.1);
    }
}

#[test]
fn a_saw_tooth_is_no_leak() {
    for period in [1.7, 4.0, 7.0, 11.0] {
        for shift in [0.0, 0.3, 0.6, 0.9] {
            let found = word(|time| 1e6 * (time / period + shift).fract(), 0.0);
            assert!(matches!(found.0, "swings" | "steady"), "{period} {shift} {found:?}");
        }
    }
}

#[test]
fn a_saw_tooth_that_begins_late_is_no_leak() {
    for period in [0.7, 1.3, 2.9] {
        let found = word(|time| if time < 4.0 { 0.0 } else { 1e6 * (time / period).fract() }, 0.0);
        assert_eq!(found.0, "swings", "{period} {found:?}");
    }
}

#[test]
fn growth_whose_first_blocks_are_freed_is_not_called_a_leak() {
    // A queue that gets longer and is emptied from its old end.
    assert_eq!(word(|time| 1e4 * time, 0.0).0, "growing?");
}

#[test]
fn too_few_looks_say_nothing() {
    let leaks = Leaks { watched_ns: 1_000_000_000, moments_ns: vec![0, 1, 2], ..Leaks::default() };
    let sums = LeakSums { series: vec![1.0, 2.0, 3.0], ..LeakSums::default() };
    assert_eq!(judge(&leaks, &sums).verdict, Verdict::Unknown);
}

#[test]
fn the_order_of_two_sites_is_as_sure_as_their_errors_let_it_be() {
    let of = |growth: f64, error: f64| Finding {
        verdict: Verdict::Growing,
        growth,
        error,
        bounds: (growth - 2.0 * error, growth + 2.0 * error),
        sure: 1.0,
        hidden: 0.0,
    };
    assert!(sure_of_order(&of(100.0, 1.0), &of(50.0, 1.0)) > 0.999);
    // Time slices may have no lower bound, whatever the standard error of what they saw is.
    let unbounded = Finding { bounds: (0.0, 1000.0), ..of(100.0, 1.0) };
    assert!(sure_of_order(&unbounded, &of(50.0, 1.0)) < 0.95);
    assert!((sure_of_order(&of(100.0, 50.0), &of(100.0, 50.0)) - 0.5).abs() < 1e-6);
    assert!(sure_of_order(&of(2.0, 0.0), &of(1.0, 0.0)) > 0.999);
    // All that is hidden of the second one may be growth.
    let hidden = Finding { hidden: 60.0, ..of(50.0, 1.0) };
    assert!(sure_of_order(&of(100.0, 1.0), &hidden) < 0.001);
    assert!(sure_of_order(&of(2.0, 0.0), &Finding { hidden: 5.0, ..of(1.0, 0.0) }) < 0.001);
}

#[test]
fn nothing_is_claimed_of_blocks_that_were_not_followed() {
    let leaks = |live: &dyn Fn(f64) -> f64, unfollowed_bytes: f64| {
        let moments_ns: Vec<u64> = (0..MOMENTS as u64).map(|index| index * 500_000_000).collect();
        let series: Vec<f64> = moments_ns.iter().map(|moment| live(*moment as f64 / 1e9)).collect();
        let leaks = Leaks { watched_ns: 25_000_000_000, moments_ns, ..Leaks::default() };
        let (live_bytes, early_bytes) = (series[MOMENTS - 1], series[MOMENTS / 2]);
        judge(&leaks, &LeakSums { live_bytes, early_bytes, unfollowed_bytes, series, ..LeakSums::default() })
    };
    // The table was full from two seconds on: what came then may be a leak of this size, or nothing.
    let full = |time: f64| 64_000.0 * time.min(2.0);
    assert_eq!(leaks(&full, 0.0).verdict, Verdict::Filled);
    let found = leaks(&full, 64_000.0 * 22.0);
    assert_eq!((found.verdict, found.sure), (Verdict::Unknown, 0.5));
    assert!(found.bounds.1 > 50_000.0, "{found:?}");
    // What grows in spite of it grows, and faster perhaps.
    let found = leaks(&|time| 64_000.0 * time, 25e6);
    assert_eq!(found.verdict, Verdict::Leaking);
    assert!((found.hidden - 1e6).abs() < 1.0 && found.bounds.1 > 1_050_000.0, "{found:?}");
    // A few of many change nothing.
    assert_eq!(leaks(&full, 100.0).verdict, Verdict::Filled);
}

proptest::proptest! {
    /// A file may hold anything.
    #[test]
    fn whatever_is_known_of_a_site_it_is_judged(
        moments_ns in proptest::collection::vec(proptest::num::u64::ANY, 0..20),
        series in proptest::collection::vec(proptest::num::f64::ANY, 0..20),
        ages in proptest::collection::vec(proptest::num::f64::ANY, 0..20),
        numbers in proptest::array::uniform6(proptest::num::u64::ANY),
        sizes in proptest::array::uniform6(proptest::num::f64::ANY),
        in_slices in proptest::bool::ANY,
    ) {
        let [count, merged, open_ns, span_ns, watched_ns, oldest_ns] = numbers;
        let slices = in_slices.then_some(WatchedSlices { count, merged, open_ns, span_ns });
        let leaks = Leaks { watched_ns, open_ns: moments_ns.clone(), moments_ns, slices, ..Leaks::default() };
        let [live_bytes, early_bytes, unfollowed_bytes, born, kept_squares, gone_squares] = sizes;
        let cohorts = crate::profile::Cohorts {
            born,
            brief: born,
            kept: series.clone(),
            kept_squares,
            at_risk: ages.clone(),
            gone: ages,
            gone_squares,
        };
        let sums = LeakSums {
            live_bytes, oldest_ns, early_bytes, unfollowed_bytes, series, cohorts, ..LeakSums::default()
        };
        let found = judge(&leaks, &sums);
        proptest::prop_assert!(!found.verdict.word().is_empty());
    }
}
