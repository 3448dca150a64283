//! From what time slices saw to what there was, with an interval.
//!
//! Pure: slices in, a factor and its error out. Slices come at random times, so a target that has time to spare in them makes as many calls in
//! each second as ever. One that has none does less than usual: it computes all the time, or it puts off what the probes left no time for. But a
//! call takes it as much time of its own as ever, so what is counted for each second of its own time, times that of the whole recording, is
//! right for both. Its own time is what probes leave of its CPU time, and what they take of that is not quite what they take of us: caches and
//! branch predictors suffer. So some slices have more or fewer probes than the others, and how much more CPU time a call takes there says what
//! they really take. A target that spins until the next call is due loses nothing by them, and shows it in the same way.

/// What a slice saw.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Slice {
    pub(super) calls: f64,
    pub(super) bytes: f64,
    /// Its length, nanoseconds.
    pub(super) wall_ns: f64,
    /// CPU time of the target, nanoseconds.
    pub(super) cpu_ns: f64,
    /// Time that it waited for a CPU, nanoseconds.
    pub(super) waited_ns: f64,
    /// CPU time that probes took, by what they take of us, nanoseconds.
    pub(super) probe_ns: f64,
    /// It had other probes than most, on purpose.
    pub(super) other: bool,
}

impl Slice {
    /// Two slices as one.
    pub(super) fn join(self, other: Self) -> Self {
        Self {
            calls: self.calls + other.calls,
            bytes: self.bytes + other.bytes,
            wall_ns: self.wall_ns + other.wall_ns,
            cpu_ns: self.cpu_ns + other.cpu_ns,
            waited_ns: self.waited_ns + other.waited_ns,
            probe_ns: self.probe_ns + other.probe_ns,
            other: self.other,
        }
    }

    /// CPUs that the target used or waited for.
    pub(super) fn busy(&self) -> f64 {
        (self.cpu_ns + self.waited_ns) / self.wall_ns.max(1.0)
    }

    /// Time of the target's own, if probes take so many times what they take of us.
    fn own_ns(&self, dearer: f64) -> f64 {
        (self.cpu_ns - dearer * self.probe_ns).max(self.calls * LEAST_OWN_NS).max(1.0)
    }
}

/// What the slices say of the time outside of them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Estimate {
    /// Calls for each second without probes, over calls for each second of slices.
    pub(super) correction: f64,
    /// Farther end of the 95 % interval, as a share.
    pub(super) error: f64,
    /// How many times what probes take of us they take of the target, where that was to be learned: zero of one that loses nothing by them.
    pub(super) dearer: Option<f64>,
}

/// Fewest slices that say anything of how slices differ.
const FEWEST: usize = 3;
/// Share of one CPU from which a target may have no time to spare. Time that it waits for a CPU is told late.
const BUSY: f64 = 0.85;
/// Share of one CPU outside of slices from which it is one that computes all the time, even if others run on its CPU too.
const COMPUTES: f64 = 0.8;
/// Share of calls in slices without time to spare from which on they are what the estimate goes by.
const MANY: f64 = 0.1;
/// Least time of the target's own for a call, nanoseconds: a pair of calls to the fastest allocators takes about as long.
const LEAST_OWN_NS: f64 = 10.0;
/// What probes take of a target, over what they take of us, before anything is known of it, and the standard error of that.
pub(super) const USUALLY_DEARER: (f64, f64) = (1.25, 0.6);
/// By how much more the probes of one kind of slice disturb for each nanosecond than those that come on top: these find the kernel's code in the caches
/// and their programs do less. And the standard error of that.
const FIRST_DISTURBS: (f64, f64) = (1.1, 0.06);
/// Calls for each second of own time, over those for each second of CPU time in slices, from which on the target may as well be one that spins: then
/// it would have kept up with its time outside, and only there.
const MAY_SPIN: f64 = 3.5;

/// Upper over lower bound up to which what was computed is an estimate. Where they are farther apart it may lie anywhere between them.
const WELL_KNOWN: f64 = 3.0;

/// Whether a target that is this busy in slices may have no time to spare in them.
pub(super) fn is_saturated(inside: f64) -> bool {
    inside > BUSY
}

/// Estimates from all slices, and the share of one CPU that the target used outside of them; none from too few slices.
pub(super) fn estimate(seen: &[Slice], outside: f64) -> Option<Estimate> {
    let sum = |of: fn(&Slice) -> f64| seen.iter().map(of).sum::<f64>();
    let (wall, calls) = (sum(|slice| slice.wall_ns), sum(|slice| slice.calls));
    if seen.len() < FEWEST || wall <= 0.0 {
        return None;
    }
    if calls <= 0.0 {
        return Some(Estimate { correction: 1.0, error: 0.0, dearer: None });
    }
    let saturated = seen.iter().filter(|slice| is_saturated(slice.busy()));
    Some(if saturated.clone().map(|slice| slice.calls).sum::<f64>() < MANY * calls {
        let put_off: f64 = saturated.map(|slice| postponed(slice, outside)).sum();
        by_time(seen, put_off / calls)
    } else {
        by_own_time(seen, outside)
    })
}

/// Calls that a slice without time to spare may have lacked: of its usual work the target did at least what the probes left it.
fn postponed(slice: &Slice, outside: f64) -> f64 {
    let (usual, error) = USUALLY_DEARER;
    let left = slice.own_ns(usual + error);
    slice.calls * (outside * slice.wall_ns / left - 1.0).max(0.0)
}

/// Of a target that has time to spare: slices are like any other time.
fn by_time(seen: &[Slice], postponed: f64) -> Estimate {
    let error = spread(seen, |slice| slice.wall_ns.max(1.0));
    Estimate { correction: 1.0, error: error + postponed, dearer: None }
}

/// Of a target that has none: its own time counts.
fn by_own_time(seen: &[Slice], outside: f64) -> Estimate {
    let sum = |of: fn(&Slice) -> f64| seen.iter().map(of).sum::<f64>();
    let (wall, calls, cpu, probe) = (
        sum(|slice| slice.wall_ns),
        sum(|slice| slice.calls),
        sum(|slice| slice.cpu_ns),
        sum(|slice| slice.probe_ns),
    );
    let usual = outside * wall;
    let least_own = calls * LEAST_OWN_NS;
    let correction = |dearer: f64| usual / (cpu - dearer.max(0.0) * probe).max(least_own).max(1.0);
    let (dearer, error) = how_much_dearer(seen);
    let by_slices = spread(seen, |slice| slice.own_ns(dearer));
    let middle = correction(dearer);
    let mut low = middle - (middle - correction(dearer - 2.0 * error)).hypot(middle * by_slices);
    let mut high = middle + (correction(dearer + 2.0 * error) - middle).hypot(middle * by_slices);
    // A target with time to spare outside makes no fewer calls there than where it suffers least. One that spins until its time comes has some
    // as well, but it does not show.
    let spare = outside < COMPUTES;
    let least = if spare { most_calls(seen) / (calls / wall) } else { correction(0.0) };
    if spare || middle > MAY_SPIN * least {
        low = low.min(least);
    }
    // Whatever the errors are, no call takes less than it can.
    high = high.min(usual / least_own);
    let low = if spare { low.max(least) } else { low };
    let high = high.max(low);
    let middle = if high <= WELL_KNOWN * low {
        middle.clamp(low, high)
    } else if spare {
        // Next to nothing of a call's time is its own, and how little does not show. What was seen is what there is at least.
        low
    } else {
        low * (high / low.max(f64::MIN_POSITIVE)).min(WELL_KNOWN * WELL_KNOWN).sqrt()
    };
    Estimate {
        correction: middle,
        error: (high - middle).max(middle - low) / middle.max(f64::MIN_POSITIVE),
        dearer: Some(dearer),
    }
}

/// Calls a nanosecond in the slices of that kind which has most.
fn most_calls(seen: &[Slice]) -> f64 {
    let of_kind = |other: bool| {
        let (calls, wall) = seen
            .iter()
            .filter(|slice| slice.other == other)
            .fold((0.0, 0.0), |(calls, wall), slice| (calls + slice.calls, wall + slice.wall_ns));
        calls / f64::max(wall, 1.0)
    };
    of_kind(false).max(of_kind(true))
}

/// Half of the 95 % interval of calls for each unit of something that slices have, as a share, as far as slices differ.
fn spread(seen: &[Slice], unit: impl Fn(&Slice) -> f64) -> f64 {
    let error = |of: fn(&Slice) -> f64| ratio_error(seen.iter().map(|slice| (of(slice), unit(slice))));
    let has_bytes = seen.iter().any(|slice| slice.bytes > 0.0);
    let bytes = if has_bytes { error(|slice| slice.bytes) } else { 0.0 };
    student(seen.len()) * error(|slice| slice.calls).max(bytes)
}

/// How many times what probes take of us they take of the target, and its standard error: by how much more CPU time a call takes where there are
/// more of them.
fn how_much_dearer(seen: &[Slice]) -> (f64, f64) {
    // Of the slices of one kind: CPU time for a call, its standard error, and what probes take for a call.
    let kind = |other: bool| {
        let of_kind = || seen.iter().filter(move |slice| slice.other == other);
        let calls: f64 = of_kind().map(|slice| slice.calls).sum();
        let cpu: f64 = of_kind().map(|slice| slice.cpu_ns).sum();
        let probe: f64 = of_kind().map(|slice| slice.probe_ns).sum();
        let error = ratio_error(of_kind().map(|slice| (slice.calls, slice.cpu_ns)));
        (of_kind().count() >= FEWEST && calls > 0.0)
            .then(|| (cpu / calls, error * cpu / calls, probe / calls))
    };
    let (Some((one, one_error, one_cost)), Some((two, two_error, two_cost))) = (kind(false), kind(true))
    else {
        return USUALLY_DEARER;
    };
    let more = two_cost - one_cost;
    if more.abs() <= one_cost / 10.0 {
        return USUALLY_DEARER;
    }
    let (first, first_error) = FIRST_DISTURBS;
    let found = (two - one) / more * first;
    let found_error = (one_error.hypot(two_error) / more).hypot(found * first_error);
    let (usual, usual_error) = USUALLY_DEARER;
    let (weight, found_weight) = (usual_error.powi(-2), found_error.powi(-2));
    let dearer = (usual * weight + found * found_weight) / (weight + found_weight);
    (dearer.max(0.0), (weight + found_weight).powf(-0.5))
}

/// Standard error of a ratio of sums, as a share of it (Cochran, Sampling Techniques, 2.11).
fn ratio_error(pairs: impl Iterator<Item = (f64, f64)> + Clone) -> f64 {
    let (count, all, whole) =
        pairs.clone().fold((0.0, 0.0, 0.0), |(count, all, whole), (y, x)| (count + 1.0, all + y, whole + x));
    if count < 2.0 || all <= 0.0 || whole <= 0.0 {
        return 1.0;
    }
    let squares: f64 = pairs.map(|(y, x)| (y - all / whole * x).powi(2)).sum();
    (squares * count / (count - 1.0)).sqrt() / all
}

/// Standard errors in half of a 95 % interval, by how many slices there were: Student's t, within 2 % from four on.
fn student(count: usize) -> f64 {
    let freedom = count.saturating_sub(1).max(1) as f64;
    1.96 + 2.4 / freedom + 3.0 / freedom.powi(2) + 5.0 / freedom.powi(4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn students_t_is_that_of_the_tables() {
        for (count, t) in [(4, 3.182), (5, 2.776), (10, 2.262), (30, 2.045), (1000, 1.962)] {
            assert!((student(count) / t - 1.0).abs() < 0.02, "{count}: {} for {t}", student(count));
        }
    }

    #[test]
    fn too_few_slices_say_nothing() {
        let slice = Slice { calls: 10.0, wall_ns: 1e6, ..Slice::default() };
        assert_eq!(estimate(&[slice; 2], 0.1), None);
        assert!(estimate(&[slice; 3], 0.1).is_some_and(|found| found.error < 0.2));
        assert!(estimate(&[Slice { wall_ns: 1e6, ..Slice::default() }; 3], 0.1).is_some());
    }

    /// How a target bears probes.
    #[derive(Debug, Clone, Copy)]
    enum Target {
        /// It computes all the time.
        Computes,
        /// It makes a call each microsecond, and sleeps between them.
        Sleeps,
        /// The same, and spins.
        Spins,
    }

    /// Thirty slices of a target that takes `work` nanoseconds for a call, with noise, and where a probe takes a quarter more of it than of us;
    /// and the calls that it makes without probes in the same time.
    fn slices(target: Target, work: f64, cost: f64, noise: f64, random: &mut u64) -> (Vec<Slice>, f64) {
        let mut draw = || {
            *random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (*random >> 40) as f64 / f64::from(1_u32 << 24) - 0.5
        };
        let mut slice = |other: bool| {
            let (cost, disturbs) = if other { (2.0 * cost, 1.25 * 0.955) } else { (cost, 1.25) };
            let pace = if matches!(target, Target::Computes) { 0.0 } else { 1000.0 };
            let busy = (work + disturbs * cost) * (1.0 + noise * draw());
            let calls = 4e6 / f64::max(busy, pace);
            let cpu_ns = if matches!(target, Target::Sleeps) { calls * busy } else { 4e6 };
            let probe_ns = calls * cost;
            Slice { calls, bytes: calls * 100.0, wall_ns: 4e6, cpu_ns, waited_ns: 0.0, probe_ns, other }
        };
        let seen = (0..30).map(|index| slice(index % 3 == 0)).collect();
        let truth = if matches!(target, Target::Computes) { work } else { 1000.0 };
        (seen, 30.0 * 4e6 / truth)
    }

    #[test]
    fn the_interval_holds_the_truth_for_targets_of_every_kind() {
        let mut random = 1;
        for (target, work, outside, cost, widest_error) in [
            (Target::Computes, 1000.0, 1.0, 700.0, 0.4),
            // Most of what a call takes is the probe's.
            (Target::Computes, 200.0, 1.0, 700.0, 60.0),
            // Two calls out of three find time to spare.
            (Target::Sleeps, 50.0, 0.05, 300.0, 0.2),
            // None does, and next to nothing of a call's time is the target's own.
            (Target::Sleeps, 20.0, 0.02, 900.0, 4.0),
            (Target::Sleeps, 300.0, 0.3, 900.0, 60.0),
            (Target::Sleeps, 700.0, 0.7, 900.0, 3.0),
            (Target::Spins, 50.0, 1.0, 300.0, 0.3),
        ] {
            let (mut held, mut widest) = (0, 0.0_f64);
            for _ in 0..200 {
                let (seen, truth) = slices(target, work, cost, 0.1, &mut random);
                let found = estimate(&seen, outside).unwrap();
                let calls: f64 = seen.iter().map(|slice| slice.calls).sum::<f64>() * found.correction;
                held += u32::from((calls - truth).abs() <= calls * found.error);
                widest = widest.max(found.error);
            }
            assert!(held >= 190, "{target:?}, {work} ns: {held} of 200");
            assert!(widest < widest_error, "{target:?}, {work} ns: ± {widest}");
        }
    }

    #[test]
    fn slices_full_of_probes_do_not_make_numbers_without_bounds() {
        // Probes are thought to take more than there is: nothing is left that could be the target's own.
        for (target, outside) in [(Target::Computes, 1.0), (Target::Sleeps, 0.3)] {
            let (mut seen, _) = slices(target, 300.0, 900.0, 0.1, &mut 1);
            for slice in &mut seen {
                slice.probe_ns = slice.cpu_ns * 0.99;
                slice.other = false;
            }
            let found = estimate(&seen, outside).unwrap();
            assert!((1.0..=3.0).contains(&found.correction) && found.error > 1.0, "{target:?}: {found:?}");
        }
    }

    #[test]
    fn what_probes_take_is_learned_from_slices_that_differ() {
        let (seen, _) = slices(Target::Computes, 1000.0, 700.0, 0.02, &mut 1);
        let dearer = estimate(&seen, 1.0).unwrap().dearer.unwrap();
        assert!((dearer - 1.25).abs() < 0.05, "{dearer}");
        let alike: Vec<Slice> = seen.into_iter().filter(|slice| !slice.other).collect();
        let known = estimate(&alike, 1.0).unwrap();
        assert_eq!(known.dearer, Some(USUALLY_DEARER.0));
        assert!(known.error > 0.3, "{}", known.error);
    }

    #[test]
    fn a_few_slices_without_time_to_spare_widen_the_interval() {
        let (mut seen, _) = slices(Target::Sleeps, 50.0, 100.0, 0.0, &mut 1);
        assert!(estimate(&seen, 0.05).unwrap().error < 0.01);
        let (full, _) = slices(Target::Sleeps, 50.0, 990.0, 0.0, &mut 1);
        seen.push(full[1]);
        let found = estimate(&seen, 0.05).unwrap();
        assert!(found.error > 0.02 && found.dearer.is_none(), "{found:?}");
    }

    proptest::proptest! {
        #[test]
        fn whatever_slices_say_the_result_is_a_number(
            slices in proptest::collection::vec(
                (0_u32..1000, 0_u32..1000, 0_u32..1000, 0_u32..1000, proptest::bool::ANY), 0..40
            ),
            outside in 0.0_f64..4.0,
        ) {
            let seen: Vec<Slice> = slices.into_iter().map(|(calls, wall, busy, probe, other)| Slice {
                calls: calls.into(),
                bytes: calls.into(),
                wall_ns: wall.into(),
                cpu_ns: busy.into(),
                waited_ns: 0.0,
                probe_ns: probe.into(),
                other,
            }).collect();
            if let Some(found) = estimate(&seen, outside) {
                proptest::prop_assert!(found.correction.is_finite() && found.correction >= 0.0);
                proptest::prop_assert!(found.error.is_finite() && found.error >= 0.0);
            }
        }
    }
}
