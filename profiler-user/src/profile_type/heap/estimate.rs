//! From what time slices saw to what there was, with an interval.
//!
//! Pure: slices in, a factor and its error out. Slices come at random times, so calls for each second of them are those of the whole time, but
//! for what the probes changed. A target that has time to spare does as much as ever. One that computes all the time does less, by all the time
//! that probes take of it. One that spins until it is time for the next request looks the same and is not. So some slices slow such a target
//! down a little more, by a time that is known, and how much fewer calls they see says how much of that time is lost to it. A target that has
//! time to spare but for the probes does an unknown part of its work later: the interval is as wide as that leaves it.

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
    /// CPU time that probes took, nanoseconds.
    pub(super) probe_ns: f64,
    /// Probes took more time than they need, on purpose.
    pub(super) slowed: bool,
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
            slowed: self.slowed,
        }
    }

    /// CPUs that the target used or waited for.
    pub(super) fn busy(&self) -> f64 {
        (self.cpu_ns + self.waited_ns) / self.wall_ns.max(1.0)
    }
}

/// What the slices say of the time outside of them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Estimate {
    /// Calls for each second without probes, over calls for each second of slices.
    pub(super) correction: f64,
    /// Half of the 95 % interval, as a share.
    pub(super) error: f64,
    /// How much of the time that probes take is lost to the target: zero to one.
    pub(super) taken: f64,
}

/// Fewest slices that say anything of how slices differ.
const FEWEST: usize = 3;
/// Share of one CPU from which a target may have no time to spare. Time that it waits for a CPU is told late.
const BUSY: f64 = 0.85;
/// Share of one CPU outside of slices from which it is one that computes all the time, even if others run on its CPU too.
const COMPUTES: f64 = 0.8;
/// Least time of the target's own for a call, nanoseconds: a pair of calls to the fastest allocators takes about as long.
const LEAST_OWN_NS: f64 = 10.0;
/// Standard error of what a hit of a probe costs, as a share: here against where it was measured.
const COST_ERROR: f64 = 0.1;

/// Whether a target that is this busy in slices and outside of them has to be slowed down to learn how it bears it.
pub(super) fn is_unclear(inside: f64, outside: f64) -> bool {
    inside > BUSY && outside > COMPUTES
}

/// Estimates from all slices, and the share of one CPU that the target used outside of them; none from too few slices.
pub(super) fn estimate(seen: &[Slice], outside: f64) -> Option<Estimate> {
    let sum = |of: fn(&Slice) -> f64| seen.iter().map(of).sum::<f64>();
    let (wall, calls) = (sum(|slice| slice.wall_ns), sum(|slice| slice.calls));
    if seen.len() < FEWEST || wall <= 0.0 {
        return None;
    }
    if calls <= 0.0 {
        return Some(Estimate { correction: 1.0, error: 0.0, taken: 0.0 });
    }
    let inside = seen.iter().map(|slice| slice.busy() * slice.wall_ns).sum::<f64>() / wall;
    let unclear = is_unclear(inside, outside);
    let (taken, taken_error) = if unclear { lost_share(seen) } else { (0.0, 0.05) };
    // What calls go with: the time that passes, or the CPU time of a target that computes all the time, which others may take from it.
    let time = |slice: &Slice| if unclear { slice.cpu_ns.max(1.0) } else { slice.wall_ns.max(1.0) };
    // Calls without probes for each one with them, if so much of a slice was lost.
    let own = |slice: &Slice, taken: f64, cost: f64| {
        let left = 1.0 - taken.clamp(0.0, 1.0) * cost * slice.probe_ns / time(slice);
        let least = (slice.calls * LEAST_OWN_NS / time(slice)).clamp(0.001, 1.0);
        1.0 / left.max(least)
    };
    let for_time = if unclear { outside * wall / seen.iter().map(time).sum::<f64>() } else { 1.0 };
    let corrected = |taken: f64, cost: f64| {
        seen.iter().map(|slice| slice.calls * own(slice, taken, cost)).sum::<f64>() / calls * for_time
    };
    let correction = corrected(taken, 1.0);
    let half = |high: f64, low: f64| (high - low).abs() / 2.0 / correction;
    let by_taken = half(corrected(taken + taken_error, 1.0), corrected(taken - taken_error, 1.0));
    let by_cost = half(corrected(taken, 1.0 + COST_ERROR), corrected(taken, 1.0 - COST_ERROR));
    let spread = |of: fn(&Slice) -> f64| {
        ratio_error(seen.iter().map(|slice| (of(slice) * own(slice, taken, 1.0), time(slice))))
    };
    let has_bytes = sum(|slice| slice.bytes) > 0.0;
    let by_slices =
        spread(|slice| slice.calls).max(if has_bytes { spread(|slice| slice.bytes) } else { 0.0 });
    let error = student(seen.len()) * by_slices.hypot(by_taken).hypot(by_cost);
    // Of its usual work the target did at least what the probes left it, if they cost what they may cost at most.
    let put_off = |slice: &Slice| {
        let left = (slice.cpu_ns - slice.probe_ns * (1.0 + 2.0 * COST_ERROR)).max(slice.calls * LEAST_OWN_NS);
        let usual = outside * slice.wall_ns;
        slice.calls * (usual / left.max(1.0) - 1.0).max(0.0)
    };
    let postponed = if unclear {
        0.0
    } else {
        seen.iter().filter(|slice| slice.busy() > BUSY).map(put_off).sum::<f64>() / calls
    };
    Some(Estimate { correction, error: error + postponed, taken })
}

/// Share of the time that probes take by which a busy target does less, and its standard error.
fn lost_share(seen: &[Slice]) -> (f64, f64) {
    /// Nothing is known before.
    const UNKNOWN: (f64, f64) = (0.5, 0.5);
    // Of the slices of one kind: CPU time for a call, its standard error, and what probes take for a call.
    let kind = |slowed: bool| {
        let of_kind = || seen.iter().filter(move |slice| slice.slowed == slowed);
        let calls: f64 = of_kind().map(|slice| slice.calls).sum();
        let cpu: f64 = of_kind().map(|slice| slice.cpu_ns).sum();
        let probe: f64 = of_kind().map(|slice| slice.probe_ns).sum();
        let error = ratio_error(of_kind().map(|slice| (slice.calls, slice.cpu_ns)));
        (of_kind().count() >= FEWEST && calls > 0.0)
            .then(|| (cpu / calls, error * cpu / calls, probe / calls))
    };
    let (Some((plain, plain_error, cost)), Some((slowed, slowed_error, more))) = (kind(false), kind(true))
    else {
        return UNKNOWN;
    };
    if more - cost <= cost / 10.0 {
        return UNKNOWN;
    }
    let found = (slowed - plain) / (more - cost);
    let found_error = plain_error.hypot(slowed_error) / (more - cost);
    let (weight, found_weight) = (UNKNOWN.1.powi(-2), found_error.max(0.01).powi(-2));
    let taken = (UNKNOWN.0 * weight + found * found_weight) / (weight + found_weight);
    (taken.clamp(0.0, 1.0), (weight + found_weight).powf(-0.5))
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

    /// Thirty slices of a target that takes `work` nanoseconds for a call, with noise; and the calls that it makes without probes in the same
    /// time.
    fn slices(target: Target, work: f64, cost: f64, noise: f64, random: &mut u64) -> (Vec<Slice>, f64) {
        let mut draw = || {
            *random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (*random >> 40) as f64 / f64::from(1_u32 << 24) - 0.5
        };
        let mut slice = |slowed: bool| {
            let cost = if slowed { 1.4 * cost } else { cost };
            let pace = if matches!(target, Target::Computes) { 0.0 } else { 1000.0 };
            let time = f64::max(work + cost, pace) * (1.0 + noise * draw());
            let calls = 4e6 / time;
            let cpu_ns = if matches!(target, Target::Sleeps) { calls * (work + cost) } else { 4e6 };
            let probe_ns = calls * cost;
            Slice { calls, bytes: calls * 100.0, wall_ns: 4e6, cpu_ns, waited_ns: 0.0, probe_ns, slowed }
        };
        let seen = (0..30).map(|index| slice(index % 3 == 0)).collect();
        let truth = if matches!(target, Target::Computes) { work } else { 1000.0 };
        (seen, 30.0 * 4e6 / truth)
    }

    #[test]
    fn the_interval_holds_the_truth_for_targets_of_every_kind() {
        let (mut random, cost) = (1, 700.0);
        for (target, work, outside) in [
            (Target::Computes, 1000.0, 1.0),
            (Target::Computes, 200.0, 1.0),
            (Target::Sleeps, 50.0, 0.05),
            (Target::Sleeps, 100.0, 0.1),
            (Target::Spins, 50.0, 1.0),
        ] {
            let (mut held, mut widest) = (0, 0.0_f64);
            for _ in 0..200 {
                // What a hit costs is known within some percent only.
                let (mut seen, truth) = slices(target, work, cost, 0.3, &mut random);
                let wrong = 1.0 + 0.1 * ((random % 100) as f64 / 50.0 - 1.0);
                for slice in &mut seen {
                    slice.probe_ns *= wrong;
                }
                let found = estimate(&seen, outside).unwrap();
                let calls: f64 = seen.iter().map(|slice| slice.calls).sum::<f64>() * found.correction;
                held += u32::from((calls - truth).abs() <= calls * found.error);
                widest = widest.max(found.error);
            }
            assert!(held >= 186, "{target:?}, {work} ns: {held} of 200");
            // Where a call takes a fraction of what its probe does, little is left to see.
            assert!(
                widest < if outside < 0.9 || work < cost { 20.0 } else { 0.6 },
                "{target:?}, {work} ns: ± {widest}"
            );
        }
    }

    #[test]
    fn work_that_is_put_off_widens_the_interval() {
        let (seen, _) = slices(Target::Sleeps, 50.0, 990.0, 0.0, &mut 1);
        assert!(estimate(&seen, 0.05).unwrap().error > 0.5);
    }

    proptest::proptest! {
        #[test]
        fn whatever_slices_say_the_result_is_a_number(
            slices in proptest::collection::vec(
                (0_u32..1000, 0_u32..1000, 0_u32..1000, 0_u32..1000, proptest::bool::ANY), 0..40
            ),
            outside in 0.0_f64..4.0,
        ) {
            let seen: Vec<Slice> = slices.into_iter().map(|(calls, wall, busy, probe, slowed)| Slice {
                calls: calls.into(),
                bytes: calls.into(),
                wall_ns: wall.into(),
                cpu_ns: busy.into(),
                waited_ns: 0.0,
                probe_ns: probe.into(),
                slowed,
            }).collect();
            if let Some(found) = estimate(&seen, outside) {
                proptest::prop_assert!(found.correction.is_finite() && found.correction >= 0.0);
                proptest::prop_assert!(found.error.is_finite() && found.error >= 0.0);
            }
        }
    }
}
