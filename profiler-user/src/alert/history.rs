//! The windows of the last minutes, as one rule sees them, and what a stretch of them comes to.

use std::collections::VecDeque;
use std::ops::Range;

use super::bound::Share;
use super::measure::Point;

/// Most windows that are remembered of one rule: six hours of them, at ten seconds each, and as much again before.
const MOST_POINTS: usize = 4_400;
/// Fewest parts of a stretch that show how much it scatters by itself.
const FEWEST_PARTS: usize = 6;

/// Points in the order in which they were measured.
#[derive(Debug, Clone, Default)]
pub(super) struct History {
    points: VecDeque<Point>,
}

/// What a stretch comes to.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Stretch {
    /// Time that was recorded, nanoseconds.
    pub(super) covered_ns: u64,
    /// Share of the part in the whole, none without a whole.
    pub(super) share: Option<f64>,
    /// As many samples of equal weight would say as much.
    pub(super) trials: f64,
    /// How much more its parts scatter than samples do that know nothing of each other: 1 or more.
    pub(super) scatter: f64,
    /// What a share of one is in the rule's unit.
    pub(super) scale: f64,
}

impl Stretch {
    /// Its share; `scatter` says how much less a sample says than one that knows nothing of the others.
    pub(super) fn as_share(&self, scatter: f64) -> Option<Share> {
        Some(Share { share: self.share?, trials: self.trials / scatter.max(1.0) })
    }
}

impl History {
    /// Adds the newest window, and forgets those that began more than `keep_ns` before it.
    pub(super) fn add(&mut self, point: Point, keep_ns: u64) {
        let oldest = point.start_unix_ns.saturating_sub(keep_ns);
        while self.points.front().is_some_and(|first| first.start_unix_ns < oldest)
            || self.points.len() >= MOST_POINTS
        {
            self.points.pop_front();
        }
        self.points.push_back(point);
    }

    /// Middle and value of each window of a stretch: seconds since its beginning, shares.
    pub(super) fn series(&self, range: &Range<u64>) -> (Vec<f64>, Vec<f64>) {
        let points = self.within(range).filter(|point| point.whole > 0.0);
        points
            .map(|point| {
                let seconds = point.middle_ns().saturating_sub(range.start) as f64 / 1e9;
                (seconds, point.part / point.whole * point.scale)
            })
            .unzip()
    }

    fn within(&self, range: &Range<u64>) -> impl Iterator<Item = &Point> {
        // Times rise, unless the clock of the wall was set.
        self.points.iter().filter(|point| range.contains(&point.middle_ns()))
    }

    /// What a stretch comes to, and how much its parts of `block_ns` scatter.
    pub(super) fn stretch(&self, range: &Range<u64>, block_ns: u64) -> Stretch {
        sum(self.within(range), block_ns)
    }
}

/// What windows come to together.
pub(super) fn sum<'a>(points: impl Iterator<Item = &'a Point>, block_ns: u64) -> Stretch {
    let mut stretch = Stretch { scatter: 1.0, scale: 1.0, ..Stretch::default() };
    let (mut part, mut whole, mut squares) = (0.0, 0.0, 0.0);
    let mut blocks: Vec<(u64, f64, f64)> = Vec::new();
    for point in points {
        stretch.covered_ns = stretch.covered_ns.saturating_add(point.duration_ns);
        stretch.scale = point.scale;
        part += point.part;
        whole += point.whole;
        if point.whole > 0.0 {
            squares += point.whole * point.whole / point.trials.max(1.0);
        }
        let block = point.middle_ns() / block_ns.max(1);
        match blocks.last_mut() {
            Some((last, parts, wholes)) if *last == block => {
                *parts += point.part;
                *wholes += point.whole;
            }
            _ => blocks.push((block, point.part, point.whole)),
        }
    }
    if whole <= 0.0 {
        return stretch;
    }
    let share = part / whole;
    stretch.share = Some(share);
    // Kish's effective size: samples of other weights say less than as many equal ones.
    stretch.trials = if squares > 0.0 { whole * whole / squares } else { f64::INFINITY };
    let by_chance = share * (1.0 - share) / stretch.trials;
    if blocks.len() >= FEWEST_PARTS && by_chance > 0.0 {
        // Variance of a ratio over clusters (Cochran, Sampling Techniques, 6.3).
        let rest: f64 = blocks.iter().map(|(_, parts, wholes)| (parts - share * wholes).powi(2)).sum();
        let count = blocks.len() as f64;
        stretch.scatter = (rest * count / (count - 1.0) / (whole * whole) / by_chance).max(1.0);
    }
    stretch
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn point(index: u64, part: f64) -> Point {
        Point {
            start_unix_ns: index * 10 * SECOND,
            duration_ns: 10 * SECOND,
            part,
            whole: 100.0,
            trials: 100.0,
            scale: 1.0,
        }
    }

    #[test]
    fn a_stretch_adds_up_the_windows_whose_middles_it_holds() {
        let mut history = History::default();
        for index in 0..20 {
            history.add(point(index, index as f64), 150 * SECOND);
        }
        let stretch = history.stretch(&(100 * SECOND..140 * SECOND), SECOND);
        assert_eq!((stretch.covered_ns, stretch.share, stretch.trials), (40 * SECOND, Some(0.115), 400.0));
        assert_eq!(history.points.len(), 16, "older ones are forgotten");
        assert_eq!(history.stretch(&(500 * SECOND..600 * SECOND), SECOND).share, None);
        for index in 20..20 + 2 * MOST_POINTS as u64 {
            history.add(point(index, 0.0), u64::MAX);
        }
        assert!(history.points.len() <= MOST_POINTS);
    }

    #[test]
    fn what_comes_in_bursts_scatters_more_than_samples_do() {
        let steady: Vec<Point> =
            (0..60).map(|index| point(index, if index % 2 == 0 { 8.0 } else { 12.0 })).collect();
        let bursts: Vec<Point> =
            (0..60).map(|index| point(index, if index % 6 == 0 { 60.0 } else { 0.0 })).collect();
        let by_window = 10 * SECOND;
        assert!(sum(steady.iter(), by_window).scatter < 1.01);
        assert!(sum(bursts.iter(), by_window).scatter > 20.0);
        // A minute holds each burst once: that is what a stretch of a minute shows every time.
        assert!(sum(bursts.iter(), 60 * SECOND).scatter < 1.01);
    }

    #[test]
    fn heavier_samples_say_less() {
        let light = Point { whole: 100.0, trials: 100.0, ..point(0, 10.0) };
        let heavy = Point { whole: 100.0, trials: 10.0, ..point(1, 10.0) };
        let both = sum([light, heavy].iter(), SECOND).trials;
        assert!(both > 10.0 && both < 110.0, "{both}");
        assert!(sum([Point { trials: f64::INFINITY, ..light }].iter(), SECOND).trials.is_infinite());
    }
}
