//! How often do rules speak when nothing happened, and how soon when something did? Thousands of hours of samples at 19 Hz, drawn at random.

use std::ops::Range;
use std::time::Duration;

use crate::statistics::Chance;

use super::engine::{Event, Past, Watched};
use super::measure::Point;
use super::rule::tests::rule;

const SECOND: u64 = 1_000_000_000;
const WINDOW_S: u64 = 10;
const WINDOWS_PER_HOUR: u64 = 3_600 / WINDOW_S;
const HZ: f64 = 19.0;

struct Nothing;

impl Past for Nothing {
    fn points(&self, _: &super::Rule, _: &Range<u64>) -> Vec<Point> {
        Vec::new()
    }
}

/// A Poisson distribution of fixed mean: how many samples a window has.
struct Poisson(Vec<f64>);

impl Poisson {
    fn of(mean: f64) -> Self {
        let (mut sum, mut sums) = (0.0, Vec::new());
        let mut log_chance = -mean;
        for count in 1.. {
            sum += log_chance.exp();
            sums.push(sum);
            log_chance += (mean / f64::from(count)).ln();
            if sum > 1.0 - 1e-12 || f64::from(count) > 20.0 * mean + 100.0 {
                break;
            }
        }
        Self(sums)
    }

    fn draw(&self, chance: &mut Chance) -> f64 {
        let drawn = chance.fraction();
        self.0.partition_point(|sum| *sum < drawn) as f64
    }
}

/// A service that keeps `cpus` busy, and a function in it with this share.
struct Service {
    hits: Poisson,
    others: Poisson,
}

impl Service {
    fn of(cpus: f64, share: f64) -> Self {
        let mean = cpus * HZ * WINDOW_S as f64;
        Self { hits: Poisson::of(mean * share), others: Poisson::of(mean * (1.0 - share)) }
    }

    fn window(&self, index: u64, chance: &mut Chance) -> Point {
        let part = self.hits.draw(chance);
        let whole = part + self.others.draw(chance);
        Point {
            part,
            whole,
            trials: whole,
            scale: 1.0,
            start_unix_ns: index * WINDOW_S * SECOND,
            duration_ns: WINDOW_S * SECOND,
        }
    }
}

struct Run {
    watched: Watched,
    index: u64,
    raised: u64,
}

impl Run {
    fn of(text: &str) -> Self {
        Self { watched: Watched::new(rule(text)), index: 0, raised: 0 }
    }

    fn window(&mut self, point: Point) -> bool {
        self.index += 1;
        let event = self.watched.window(Some(point), self.index * WINDOW_S * SECOND, &Nothing);
        let is_new = matches!(event, Some(Event::Raised(_)));
        self.raised += u64::from(is_new);
        is_new
    }

    fn hours(&mut self, hours: u64, service: &Service, chance: &mut Chance) {
        for _ in 0..hours * WINDOWS_PER_HOUR {
            let point = service.window(self.index, chance);
            self.window(point);
        }
    }
}

const RISES: &str = "name='r'\nfunction='f'\nrises_by='2%'";

/// None in seven times so many hours: with 95 % certainty fewer than one in 700 hours.
const HOURS: u64 = 300;
/// Regressions that are seeded.
const RUNS: u64 = 300;

#[test]
fn hours_of_steady_load_raise_nothing() {
    let mut chance = Chance::seeded(7);
    for (text, cpus, share) in [
        (RISES, 1.0, 0.10),
        (RISES, 0.1, 0.30),
        (RISES, 16.0, 0.50),
        (RISES, 1.0, 0.001),
        ("name='r'\nfunction='f'\nabove='12%'", 1.0, 0.10),
        ("name='r'\nfunction='f'\nabove='20%'\nover='10s'", 1.0, 0.10),
        ("name='r'\nfunction='f'\ngrows_per_hour='5%'", 1.0, 0.10),
    ] {
        let mut run = Run::of(text);
        run.hours(HOURS, &Service::of(cpus, share), &mut chance);
        assert_eq!(run.raised, 0, "{text}: {cpus} CPUs, a share of {share}");
    }
}

#[test]
fn a_share_exactly_at_its_limit_raises_next_to_nothing() {
    let mut chance = Chance::seeded(8);
    let mut run = Run::of("name='r'\nfunction='f'\nabove='10%'");
    run.hours(2_000, &Service::of(1.0, 0.10), &mut chance);
    // One in a hundred hours at most.
    assert!(run.raised <= 20, "{}", run.raised);
}

#[test]
fn a_regression_is_raised_within_a_minute() {
    let mut chance = Chance::seeded(9);
    let (before, after) = (Service::of(1.0, 0.10), Service::of(1.0, 0.30));
    let (mut late, mut slowest) = (0, 0);
    for _ in 0..RUNS {
        let mut run = Run::of(RISES);
        for _ in 0..200 {
            let point = before.window(run.index, &mut chance);
            run.window(point);
        }
        assert_eq!(run.raised, 0);
        let began = run.index;
        while !{
            let point = after.window(run.index, &mut chance);
            run.window(point)
        } {
            assert!(run.index - began < 60, "never raised");
        }
        slowest = slowest.max(run.index - began);
        late += u64::from((run.index - began) * WINDOW_S > 60);
    }
    assert!(late * 100 <= RUNS, "{late} of {RUNS} took more than a minute, the slowest {slowest} windows");
}

#[test]
fn small_rises_are_raised_when_samples_suffice() {
    let mut chance = Chance::seeded(10);
    let mut run = Run::of("name='r'\nfunction='f'\nrises_by='2%'\nover='10m'\nbaseline='1h'");
    run.hours(2, &Service::of(8.0, 0.10), &mut chance);
    assert_eq!(run.raised, 0);
    run.hours(1, &Service::of(8.0, 0.14), &mut chance);
    assert_eq!(run.raised, 1, "four points more, of sixteen CPU hours");
}

#[test]
fn load_that_comes_in_bursts_is_no_regression() {
    let mut chance = Chance::seeded(11);
    let (calm, burst) = (Service::of(1.0, 0.05), Service::of(1.0, 0.25));
    let mut run = Run::of(RISES);
    // Half a minute in two, at random: a stretch of a minute may be all bursts.
    for _ in 0..300 * WINDOWS_PER_HOUR / 3 {
        let service = if chance.fraction() < 0.25 { &burst } else { &calm };
        for _ in 0..3 {
            let point = service.window(run.index, &mut chance);
            run.window(point);
        }
    }
    // Sampling alone would call every minute of bursts a regression: dozens an hour.
    assert!(run.raised <= 6, "{} in 300 hours", run.raised);
}

#[test]
fn a_rise_that_becomes_the_usual_stays_raised_and_ends_when_it_is_gone() {
    let mut chance = Chance::seeded(12);
    let (before, after) = (Service::of(4.0, 0.10), Service::of(4.0, 0.30));
    let mut run = Run::of("name='r'\nfunction='f'\nrises_by='5%'\nclear='3%'");
    run.hours(1, &before, &mut chance);
    run.hours(3, &after, &mut chance);
    assert!(run.watched.is_raised(), "the new level must not become the measure");
    assert_eq!(run.raised, 1);
    run.hours(1, &before, &mut chance);
    assert!(!run.watched.is_raised());
}

#[test]
fn it_has_to_hold_for_as_long_as_the_rule_says_and_data_that_stops_ends_it() {
    let mut chance = Chance::seeded(13);
    let service = Service::of(4.0, 0.5);
    let mut run = Run::of("name='r'\nfunction='f'\nabove='20%'\nfor='5m'");
    for _ in 0..(300 + 40) / WINDOW_S {
        let point = service.window(run.index, &mut chance);
        assert!(!run.window(point));
    }
    run.hours(1, &service, &mut chance);
    assert_eq!(run.raised, 1);
    let quiet = Point { duration_ns: WINDOW_S * SECOND, scale: 1.0, ..Point::default() };
    let patience = Duration::from_mins(7).as_secs() / WINDOW_S;
    for _ in 0..patience {
        let start_unix_ns = run.index * WINDOW_S * SECOND;
        run.window(Point { start_unix_ns, ..quiet });
    }
    assert!(!run.watched.is_raised());
    assert!(run.watched.last_words().contains("too few samples"));
}
