//! The result in words: what was compared, what could be seen and how large a difference could not.

use std::fmt;

use serde_json::{Value, json};

use super::Ending;
use super::measured::{Pair, QUANTITIES};
use crate::output::duration;
use crate::statistics::{CONFIDENCE, Estimate};

/// Above that busy time says nothing.
const SATURATED_PERCENT: f64 = 98.0;

/// Everything that was measured.
pub(super) struct Report {
    /// What was looked at.
    pub(super) title: String,
    /// The recording, as one would type it.
    pub(super) with: String,
    pub(super) pairs: Vec<Pair>,
    pub(super) ending: Ending,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ending {
            Ending::Enough => {}
            Ending::Asked => writeln!(f, "Stopped early.")?,
            Ending::Gone => writeln!(f, "The target has ended.")?,
        }
        let Some(first) = self.pairs.first() else {
            return writeln!(f, "Not one pair was measured, so nothing can be said.");
        };
        writeln!(
            f,
            "Cost of `{}` to {}: {} pairs of {} each, in random order",
            self.with,
            self.title,
            self.pairs.len(),
            duration((first.without.wall_s * 1e9) as u64),
        )?;
        writeln!(
            f,
            "\n  {:<28} {:>14} {:>14}   change, with its {:.0} % interval",
            "",
            "without",
            "with",
            CONFIDENCE * 100.0
        )?;
        let mut seen = Vec::new();
        for quantity in QUANTITIES {
            let Some(found) = quantity.compare(&self.pairs) else { continue };
            let cell = |estimate: Estimate| format!("{} {}", figures(estimate.median), quantity.unit);
            writeln!(
                f,
                "  {:<28} {:>14} {:>14}   {}",
                quantity.name,
                cell(found.without),
                cell(found.with),
                change(found.ratio, 1.0, 100.0, "%")
            )?;
            seen.push((quantity.name, found.ratio));
        }
        if let Some(busier) = self.busier() {
            let busy =
                |of: fn(&Pair) -> f64| Estimate::of(self.pairs.iter().map(of)).map_or(0.0, |it| it.median);
            writeln!(
                f,
                "  {:<28} {:>12.2} % {:>12.2} %   {}",
                "CPUs of the machine busy",
                busy(|pair| pair.without.busy_percent),
                busy(|pair| pair.with.busy_percent),
                change(busier, 0.0, 1.0, "points")
            )?;
        }
        writeln!(f)?;
        for (name, ratio) in &seen {
            writeln!(f, "{name}: {}", verdict(*ratio, 1.0, 100.0, "%"))?;
        }
        if let Some(busier) = self.busier() {
            writeln!(f, "CPUs of the machine busy: {}", verdict(busier, 0.0, 1.0, "points"))?;
        }
        if let Some(agent) = self.agent() {
            write!(
                f,
                "The recording's process used {:.2} % of the machine (seen from outside)",
                agent.median
            )?;
            match self.own() {
                Some(own) => writeln!(f, "; its own figure, BPF programs included: {:.2} %", own.median)?,
                None => writeln!(f)?,
            }
        }
        let busy = Estimate::of(self.pairs.iter().map(|pair| pair.without.busy_percent));
        if busy.is_some_and(|busy| busy.median > SATURATED_PERCENT) {
            writeln!(
                f,
                "The machine has no idle time: what the recording takes, others lack, and busy CPUs cannot show it."
            )?;
        }
        if let Some(weak) = self.busier().filter(|busier| !busier.is_confident()) {
            writeln!(
                f,
                "With {} pairs an interval holds the truth with {:.0} %, not {:.0} %; use --rounds {} or more.",
                weak.count,
                weak.confidence * 100.0,
                CONFIDENCE * 100.0,
                super::LEAST_PAIRS
            )?;
        }
        Ok(())
    }
}

impl Report {
    fn busier(&self) -> Option<Estimate> {
        Estimate::of(self.pairs.iter().map(Pair::busier))
    }

    fn agent(&self) -> Option<Estimate> {
        Estimate::of(self.pairs.iter().filter_map(|pair| pair.with.agent_percent))
    }

    fn own(&self) -> Option<Estimate> {
        Estimate::of(self.pairs.iter().filter_map(|pair| pair.with.own_percent))
    }

    /// For machines: the same figures, and all pairs.
    pub(super) fn json(&self) -> Value {
        let compared: serde_json::Map<String, Value> = QUANTITIES
            .iter()
            .filter_map(|it| {
                let found = it.compare(&self.pairs)?;
                let figures = json!({
                    "unit": it.unit,
                    "without": estimate(found.without),
                    "with": estimate(found.with),
                    "ratio": estimate(found.ratio),
                });
                Some((it.id.to_owned(), figures))
            })
            .collect();
        json!({
            "schema": 1,
            "target": self.title,
            "with": self.with,
            "stopped_early": self.ending != Ending::Enough,
            "compared": compared,
            "machine_busier_points": self.busier().map(estimate),
            "agent_percent_of_machine": self.agent().map(estimate),
            "own_figure_percent_of_machine": self.own().map(estimate),
            "pairs": self.pairs,
        })
    }
}

fn estimate(it: Estimate) -> Value {
    json!({"median": it.median, "low": it.low, "high": it.high, "confidence": it.confidence, "count": it.count})
}

/// `+0.4 % (−0.8 to +1.2 %)`: distances from `equal`, times `scale`.
fn change(estimate: Estimate, equal: f64, scale: f64, unit: &str) -> String {
    let of = |value: f64| (value - equal) * scale;
    format!("{:+.1} {unit} ({:+.1} to {:+.1})", of(estimate.median), of(estimate.low), of(estimate.high))
}

/// What may be concluded.
fn verdict(estimate: Estimate, equal: f64, scale: f64, unit: &str) -> String {
    if !estimate.is_confident() {
        return "too few pairs to say".to_owned();
    }
    if estimate.holds(equal) {
        let unseen = estimate.farthest_from(equal) * scale;
        return format!("no difference could be seen; one larger than {unseen:.1} {unit} would have been");
    }
    let more = if estimate.median > equal { "more" } else { "less" };
    let of = |value: f64| ((value - equal) * scale).abs();
    let (least, most) = (of(estimate.low).min(of(estimate.high)), of(estimate.low).max(of(estimate.high)));
    format!("{:.1} {unit} {more} with the recording, between {least:.1} and {most:.1}", of(estimate.median))
}

/// Three figures, or all before the point.
fn figures(value: f64) -> String {
    match value {
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::measured::tests::windows;
    use super::*;

    fn report(pairs: usize, slower: &[f64]) -> Report {
        let pairs = slower.iter().cycle().take(pairs).map(|slower| windows(*slower)).collect();
        Report {
            title: "pid 7 (x)".into(),
            with: "perf-agent record -a -F 99".into(),
            pairs,
            ending: Ending::Enough,
        }
    }

    #[test]
    fn what_cannot_be_seen_is_given_a_size() {
        let text = report(8, &[0.99, 1.012]).to_string();
        assert!(
            text.contains("CPU time: no difference could be seen; one larger than 1.2 % would have been"),
            "{text}"
        );
        assert!(text.contains("8 pairs of 5") && text.contains("+0.1 % (-1.0 to +1.2)"), "{text}");
        assert!(text.contains("0.30 % of the machine") && text.contains("included: 0.40 %"), "{text}");
    }

    #[test]
    fn what_can_be_seen_is_said() {
        let text = report(8, &[1.02, 1.04]).to_string();
        assert!(text.contains("CPU time: 3.0 % more with the recording, between 2.0 and 4.0"), "{text}");
        assert!(text.contains("CPUs of the machine busy: 0.5 points more"), "{text}");
    }

    #[test]
    fn too_few_pairs_say_what_they_are_worth() {
        let text = report(2, &[1.02, 1.04]).to_string();
        assert!(
            text.contains("CPU time: too few pairs to say")
                && text.contains("With 2 pairs an interval holds the truth with 50 %"),
            "{text}"
        );
        let mut none = report(0, &[1.0]);
        none.ending = Ending::Asked;
        assert!(none.to_string().contains("Not one pair"), "{none}");
    }

    #[test]
    fn machines_get_all_pairs() {
        let json = report(7, &[1.5]).json();
        assert_eq!(json["pairs"].as_array().unwrap().len(), 7);
        assert_eq!(json["compared"]["cpu_per_second"]["ratio"]["median"], 1.5);
        assert_eq!(json["pairs"][0]["with"]["io_calls"], 5000.0);
    }
}
