//! The slope of a series with its error, when nobody knows whether the noise around it forgets or adds up.
//!
//! Live bytes may scatter around a line (a queue) or wander (a leak that is sampled is a random walk with a drift). Ordinary least squares calls
//! every second walk a trend; means of increments need far too long for a slow leak in noise. So the noise is taken as an autoregression of
//! first order whose coefficient is estimated and set to one when it is close to it; the slope is then that of generalized least squares
//! (Perron and Yabu, Journal of Econometrics 151, 2009). A saw tooth with one fall or more comes out as "no trend": its increments are as large
//! as their sum.

/// Fewest points of a series that say anything.
const FEWEST_POINTS: usize = 6;

/// A slope.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Trend {
    /// Units a second.
    pub slope: f64,
    /// Its standard error.
    pub error: f64,
    /// Degrees of freedom of that.
    pub freedom: f64,
}

impl Trend {
    /// Probability that the true slope is above zero, 0 to 1.
    pub fn sure(&self) -> f64 {
        self.sure_above(0.0)
    }

    /// Probability that the true slope is above `least`.
    pub fn sure_above(&self, least: f64) -> f64 {
        let away = self.slope - least;
        if self.error <= f64::EPSILON * self.slope.abs() {
            return if away > 0.0 {
                1.0
            } else if away < 0.0 {
                0.0
            } else {
                0.5
            };
        }
        student(away / self.error, self.freedom)
    }
}

/// Student's distribution function, by the normal one (Wallace 1959): off by less than 0.003 from four degrees on.
fn student(t: f64, freedom: f64) -> f64 {
    let freedom = freedom.max(1.0);
    let z = (freedom * (t * t / freedom).ln_1p()).sqrt() * (1.0 - 3.0 / (8.0 * freedom + 1.0) / 4.0);
    normal(z.copysign(t))
}

/// The normal distribution function (Abramowitz and Stegun 26.2.17): off by less than 10⁻⁷.
pub(super) fn normal(z: f64) -> f64 {
    let t = 1.0 / (1.0 + 0.231_641_9 * z.abs());
    let polynomial = t
        * (0.319_381_530
            + t * (-0.356_563_782 + t * (1.781_477_937 + t * (-1.821_255_978 + t * 1.330_274_429))));
    let tail = (-z * z / 2.0).exp() / std::f64::consts::TAU.sqrt() * polynomial;
    if z > 0.0 { 1.0 - tail } else { tail }
}

/// The slope of values at these seconds; none of too few.
pub fn trend(seconds: &[f64], values: &[f64]) -> Option<Trend> {
    let count = seconds.len().min(values.len());
    let (seconds, values) = (&seconds[..count], &values[..count]);
    if count < FEWEST_POINTS || seconds[count - 1] <= seconds[0] {
        return None;
    }
    let ones = vec![1.0; count];
    let (plain, rest) = fit(&ones, seconds, values)?;
    let squares = |values: &[f64]| values.iter().map(|value| value * value).sum::<f64>();
    let scale = values.iter().fold(0.0_f64, |most, value| most.max(value.abs()));
    if squares(&rest) <= (1e-9 * scale).powi(2) * count as f64 {
        // A line without noise.
        return Some(plain);
    }
    let n = count as f64;
    let memory =
        rest.windows(2).map(|pair| pair[0] * pair[1]).sum::<f64>() / squares(&rest[..count - 1]).max(1e-300);
    // Taking a line off takes memory off too: Kendall's correction for a line (Orcutt and Winokur 1969).
    let memory = (memory + (2.0 + 4.0 * memory) / n).max(0.0);
    if memory > 1.0 - 2.0 / n.sqrt() {
        return Some(drift(seconds, values));
    }
    // Prais and Winsten: each point less what the one before explains of it.
    let first = (1.0 - memory * memory).sqrt();
    let transform = |values: &[f64]| -> Vec<f64> {
        let mut out = vec![values[0] * first];
        out.extend(values.windows(2).map(|pair| pair[1] - memory * pair[0]));
        out
    };
    fit(&transform(&ones), &transform(seconds), &transform(values)).map(|(trend, _)| trend)
}

/// The mean increment, with the error that increments show which do not know of each other.
fn drift(seconds: &[f64], values: &[f64]) -> Trend {
    let count = values.len();
    let length = seconds[count - 1] - seconds[0];
    let slope = (values[count - 1] - values[0]) / length;
    let pairs = seconds.windows(2).zip(values.windows(2));
    let squares: f64 = pairs
        .map(|(time, value)| {
            let step = (time[1] - time[0]).max(length * 1e-6);
            (value[1] - value[0] - slope * step).powi(2) / step
        })
        .sum();
    let freedom = (count - 2) as f64;
    Trend { slope, error: (squares / freedom / length).sqrt(), freedom }
}

/// Least squares on two columns: the second one's coefficient, and what is left over.
fn fit(constant: &[f64], slope: &[f64], values: &[f64]) -> Option<(Trend, Vec<f64>)> {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let (cc, cs, ss) = (dot(constant, constant), dot(constant, slope), dot(slope, slope));
    let (cv, sv) = (dot(constant, values), dot(slope, values));
    let whole = cc * ss - cs * cs;
    if whole <= 1e-12 * cc * ss {
        return None;
    }
    let (a, b) = ((ss * cv - cs * sv) / whole, (cc * sv - cs * cv) / whole);
    let rest: Vec<f64> =
        constant.iter().zip(slope).zip(values).map(|((c, s), value)| value - a * c - b * s).collect();
    let freedom = values.len().saturating_sub(2).max(1) as f64;
    let error = (dot(&rest, &rest) / freedom * cc / whole).sqrt();
    Some((Trend { slope: b, error, freedom }, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::leaks::random::Random;

    fn seconds(count: usize) -> Vec<f64> {
        (0..count).map(|index| index as f64 * 0.5).collect()
    }

    #[test]
    fn distribution_functions_are_those_of_the_tables() {
        assert!((normal(1.959_964) - 0.975).abs() < 1e-5 && (normal(-1.0) - 0.158_655).abs() < 1e-5);
        for (t, freedom, wanted) in [(2.776, 4.0, 0.975), (2.228, 10.0, 0.975), (3.169, 10.0, 0.995)] {
            assert!((student(t, freedom) - wanted).abs() < 0.004, "{}", student(t, freedom));
        }
    }

    #[test]
    fn a_line_has_its_slope_and_no_error() {
        let times = seconds(20);
        let values: Vec<f64> = times.iter().map(|time| 100.0 + 7.0 * time).collect();
        let found = trend(&times, &values).unwrap();
        assert!((found.slope - 7.0).abs() < 1e-6 && found.sure() > 0.999);
        let flat = trend(&times, &[5.0; 20]).unwrap();
        assert!(flat.slope.abs() < 1e-9 && (flat.sure() - 0.5).abs() < 1e-6, "{flat:?}");
        assert!(trend(&times[..3], &values).is_none());
        assert!(trend(&[1.0; 20], &[5.0; 20]).is_none());
    }

    /// Share of runs whose true slope lies within two standard errors, and share of runs that are called growing.
    fn runs(slope: f64, noise: impl Fn(&mut Random, f64) -> f64) -> (f64, f64) {
        const RUNS: u32 = 400;
        let (mut covered, mut growing) = (0, 0);
        for seed in 0..RUNS {
            let mut random = Random::new(u64::from(seed));
            let times = seconds(50);
            let mut level = 0.0;
            let values: Vec<f64> = times
                .iter()
                .map(|time| {
                    level = noise(&mut random, level);
                    1000.0 + slope * time + level
                })
                .collect();
            let found = trend(&times, &values).unwrap();
            covered += u32::from((0.025..=0.975).contains(&found.sure_above(slope)));
            growing += u32::from(found.sure() > 0.99);
        }
        (f64::from(covered) / f64::from(RUNS), f64::from(growing) / f64::from(RUNS))
    }

    #[test]
    fn the_error_is_honest_whether_noise_forgets_or_adds_up() {
        for memory in [0.0, 0.5, 0.8, 1.0] {
            let (covered, growing) = runs(0.0, |random, level| memory * level + random.normal());
            assert!(covered > 0.88, "memory {memory}: {covered} covered");
            assert!(growing < 0.06, "memory {memory}: {growing} called growing");
        }
    }

    #[test]
    fn slow_growth_in_noise_is_found() {
        // Less than one standard deviation of the noise in all.
        let (covered, growing) = runs(0.1, |random, _| random.normal());
        assert!(covered > 0.9 && growing > 0.9, "{covered} {growing}");
        // A leak that is sampled: every step is random, and none is ever taken back.
        let (covered, growing) = runs(1.0, |random, level| level + random.normal() * 0.5);
        assert!(covered > 0.88 && growing > 0.9, "{covered} {growing}");
    }
}
