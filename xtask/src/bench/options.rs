//! The command line of `cargo xtask bench`.

use anyhow::{Context, Result, bail};

use super::profilers::{self, NONE, PROFILERS, Profiler};
use super::workloads::{WORKLOADS, Workload};

/// What to measure.
pub(super) struct Options {
    pub(super) workloads: Vec<&'static Workload>,
    /// [`NONE`] is always among them.
    pub(super) profilers: Vec<&'static Profiler>,
    /// Turns of each profiler on each workload.
    pub(super) rounds: usize,
    /// Length of the work in one turn, about.
    pub(super) seconds: f64,
    /// Turns in which other programs took more of the machine are not compared, percent.
    pub(super) most_others: f64,
}

/// Twelve ratios leave out two at each end of the sorted list, so that a single disturbed turn does not set the interval.
const ROUNDS: usize = 12;
const SECONDS: f64 = 3.0;
/// A profiler of one percent cannot be seen beside a program that takes a tenth of the machine now and nothing then.
const MOST_OTHERS: f64 = 10.0;
/// For a look: all profilers start, and the intervals are wide.
const QUICK_ROUNDS: usize = 3;
const QUICK_SECONDS: f64 = 1.0;

impl Options {
    /// Reads the words behind `bench`.
    ///
    /// # Errors
    ///
    /// Says which word is not understood, and what is.
    pub(super) fn parse(words: &[&str]) -> Result<Self> {
        let mut options = Self {
            workloads: WORKLOADS.iter().collect(),
            profilers: PROFILERS.iter().collect(),
            rounds: ROUNDS,
            seconds: SECONDS,
            most_others: MOST_OTHERS,
        };
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let (name, inline) =
                word.split_once('=').map_or((*word, None), |(name, value)| (name, Some(value)));
            if name == "--quick" {
                (options.rounds, options.seconds) = (QUICK_ROUNDS, QUICK_SECONDS);
                continue;
            }
            let mut value =
                || inline.or_else(|| words.next().copied()).with_context(|| format!("{name} needs a value"));
            match name {
                "--workloads" => {
                    options.workloads =
                        chosen(value()?, &WORKLOADS.iter().map(|it| (it.name, it)), "workload")?;
                }
                "--profilers" => {
                    options.profilers =
                        chosen(value()?, &PROFILERS.iter().map(|it| (it.name, it)), "profiler")?;
                }
                "--rounds" => {
                    let text = value()?;
                    let rounds = text.parse().ok().filter(|rounds| (1..=1000).contains(rounds));
                    options.rounds = rounds.with_context(|| format!("--rounds {text}: from 1 to 1000"))?;
                }
                "--seconds" => {
                    let text = value()?;
                    let seconds = text.parse().ok().filter(|seconds| (0.2..=600.0).contains(seconds));
                    options.seconds =
                        seconds.with_context(|| format!("--seconds {text}: from 0.2 to 600"))?;
                }
                "--others" => {
                    let text = value()?;
                    let percent = text
                        .trim_end_matches('%')
                        .parse()
                        .ok()
                        .filter(|others| (0.0..=100.0).contains(others));
                    options.most_others =
                        percent.with_context(|| format!("--others {text}: from 0 to 100 %"))?;
                }
                _ => bail!(
                    "`{word}` is not understood; bench takes --workloads, --profilers, --rounds, --seconds, --others, --quick"
                ),
            }
        }
        if !options.profilers.iter().any(|profiler| profiler.name == NONE) {
            options.profilers.insert(0, profilers::none());
        }
        Ok(options)
    }
}

fn chosen<T>(
    list: &str,
    known: &(impl Iterator<Item = (&'static str, T)> + Clone),
    what: &str,
) -> Result<Vec<T>> {
    let find = |name: &str| {
        known.clone().find(|(known, _)| *known == name).map(|(_, item)| item).with_context(|| {
            let names: Vec<_> = known.clone().map(|(name, _)| name).collect();
            format!("there is no {what} `{name}`; there are: {}", names.join(", "))
        })
    };
    list.split(',').map(find).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_keeps_its_order_and_is_compared_with_nothing() {
        let options =
            Options::parse(&["--workloads", "python3,redis", "--profilers=cpu", "--rounds", "4"]).unwrap();
        let names: Vec<_> = options.workloads.iter().map(|workload| workload.name).collect();
        assert_eq!(names, ["python3", "redis"]);
        let names: Vec<_> = options.profilers.iter().map(|profiler| profiler.name).collect();
        assert_eq!((names.as_slice(), options.rounds), ([NONE, "cpu"].as_slice(), 4));
    }

    #[test]
    fn what_is_not_understood_is_named() {
        for (words, part) in [
            (["--workloads", "reddis"], "redis, "),
            (["--rounds", "0"], "--rounds 0"),
            (["--seconds", "x"], "--seconds x"),
            (["--others", "x"], "--others x"),
            (["--fast", "1"], "--fast"),
        ] {
            let error = Options::parse(&words).err().unwrap().to_string();
            assert!(error.contains(part), "{error}");
        }
        assert!(Options::parse(&["--rounds"]).is_err());
    }
}
