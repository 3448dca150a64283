//! Times in which waits are not watched at all: the programs are off their tracepoints, and a switch costs nothing. The last resort where switches
//! come so often that even to count them is too much.

use crate::statistics::Chance;

/// How long waits are watched between two such times, 100 ms: a hundred times what putting the programs on and off takes.
const WATCHED_NS: u64 = 100_000_000;

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// Nothing.
    Stay,
    /// Take the programs off.
    Pause,
    /// Put them on.
    Resume,
}

/// Whether waits are watched, and for how long they were.
#[derive(Debug)]
pub(super) struct Watch {
    chance: Chance,
    is_paused: bool,
    /// When the current turn began, and how long it is to last.
    since_ns: u64,
    lasts_ns: u64,
    /// Since when times are counted, and how much of it was paused.
    counted_ns: u64,
    paused_ns: u64,
    /// Switches before the current turn, and when it began to be watched.
    before: (u64, u64),
    /// Switches a second of each turn between two pauses.
    rates: Vec<f64>,
}

/// What is to be known of a window.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Watched {
    /// The share of the time in which waits were watched.
    pub(super) share: f64,
    /// How far the rest may have been another: two standard errors of the mean rate of turns, as a share of it. None from fewer than three.
    pub(super) error: Option<f64>,
}

impl Default for Watched {
    fn default() -> Self {
        Self { share: 1.0, error: None }
    }
}

impl Watch {
    pub(super) fn new(now_ns: u64) -> Self {
        Self {
            chance: Chance::of_now(),
            is_paused: false,
            since_ns: now_ns,
            lasts_ns: WATCHED_NS,
            counted_ns: now_ns,
            paused_ns: 0,
            before: (0, now_ns),
            rates: Vec::new(),
        }
    }

    /// Takes turns in which waits are watched for one part in 2^`shift` of the time.
    pub(super) fn turn(&mut self, shift: usize, now_ns: u64) -> Turn {
        let lasted_ns = now_ns.saturating_sub(self.since_ns);
        if self.is_paused {
            // A rung down ends a pause that is too long for it.
            let longest_ns = WATCHED_NS * ((2 << shift) - 2);
            if lasted_ns < self.lasts_ns.min(longest_ns) {
                return Turn::Stay;
            }
            self.paused_ns += lasted_ns;
            self.begin(false, WATCHED_NS, now_ns);
            return Turn::Resume;
        }
        if shift == 0 {
            self.since_ns = now_ns;
            return Turn::Stay;
        }
        if lasted_ns < self.lasts_ns {
            return Turn::Stay;
        }
        // A little more or less, so that a program with a rhythm does not hide.
        let usual_ns = (WATCHED_NS * ((1 << shift) - 1)) as f64;
        let lasts_ns = usual_ns * (0.75 + 0.5 * self.chance.fraction());
        self.begin(true, lasts_ns as u64, now_ns);
        Turn::Pause
    }

    fn begin(&mut self, is_paused: bool, lasts_ns: u64, now_ns: u64) {
        (self.is_paused, self.since_ns, self.lasts_ns) = (is_paused, now_ns, lasts_ns);
    }

    /// The host had made so many switches when waits began to be watched again.
    pub(super) fn looks_from(&mut self, switches: u64, now_ns: u64) {
        self.before = (switches, now_ns);
    }

    /// And so many when they were watched no more.
    pub(super) fn saw(&mut self, switches: u64, now_ns: u64) {
        let (before, since_ns) = self.before;
        let seconds = now_ns.saturating_sub(since_ns).max(1) as f64 / 1e9;
        self.rates.push(switches.saturating_sub(before) as f64 / seconds);
    }

    /// What is to be known of the time since the last call.
    pub(super) fn take(&mut self, now_ns: u64) -> Watched {
        let all_ns = now_ns.saturating_sub(self.counted_ns);
        let mut paused_ns = self.paused_ns;
        if self.is_paused {
            paused_ns += now_ns.saturating_sub(self.since_ns.max(self.counted_ns));
            // What of a pause is counted now is not to be counted at its end.
            self.since_ns = now_ns;
        }
        (self.counted_ns, self.paused_ns) = (now_ns, 0);
        let share = if all_ns == 0 { 1.0 } else { 1.0 - (paused_ns as f64 / all_ns as f64).min(1.0) };
        Watched { share, error: error_of(&std::mem::take(&mut self.rates)) }
    }
}

/// Two standard errors of the mean of these, as a share of it.
fn error_of(rates: &[f64]) -> Option<f64> {
    let count = rates.len() as f64;
    let mean = rates.iter().sum::<f64>() / count;
    if rates.len() < 3 || mean <= 0.0 {
        return None;
    }
    let variance = rates.iter().map(|rate| (rate - mean).powi(2)).sum::<f64>() / (count - 1.0);
    Some(2.0 * (variance / count).sqrt() / mean)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOK_NS: u64 = 50_000_000;

    fn share(shift: usize, seconds: u64) -> (f64, f64) {
        let mut watch = Watch::new(0);
        let (mut watched, looks) = (0, seconds * 20);
        for look in 1..=looks {
            watched += u64::from(!watch.is_paused);
            watch.turn(shift, look * LOOK_NS);
        }
        (watched as f64 / looks as f64, watch.take(looks * LOOK_NS).share)
    }

    #[test]
    fn waits_are_watched_for_their_share_of_the_time() {
        assert_eq!(share(0, 10), (1.0, 1.0));
        for shift in 1..=4 {
            let (watched, told) = share(shift, 1_000);
            let wanted = 1.0 / f64::from(1 << shift);
            assert!((0.85..1.15).contains(&(watched / wanted)), "{watched} of {wanted}");
            assert!((told - watched).abs() < 0.01, "{told} is told, {watched} watched");
        }
    }

    #[test]
    fn shares_are_told_once() {
        let mut watch = Watch::new(0);
        assert_eq!(watch.turn(1, WATCHED_NS), Turn::Pause);
        assert!((watch.take(WATCHED_NS + 50).share - 1.0).abs() < 1e-3);
        assert!(watch.take(WATCHED_NS + 100).share < 1e-3, "paused all the time");
        assert_eq!(watch.turn(0, WATCHED_NS + 150), Turn::Resume);
        assert!(watch.take(WATCHED_NS + 150).share < 1e-3);
        assert!((watch.take(WATCHED_NS + 200).share - 1.0).abs() < 1e-3);
    }

    #[test]
    fn turns_that_differ_tell_how_sure_the_mean_is() {
        assert_eq!((error_of(&[5.0, 5.0]), error_of(&[0.0; 9])), (None, None));
        assert_eq!(error_of(&[5.0; 9]), Some(0.0));
        // Nine turns with a mean of 2 and a deviation of 1.5 (unbiased): 2 * 1.5 / 3 / 2.
        let error = error_of(&[0.0, 2.0, 4.0, 0.5, 3.5, 2.0, 2.0, 0.25, 3.75]).unwrap();
        assert!((0.45..0.55).contains(&error), "{error}");
        let mut watch = Watch::new(0);
        watch.looks_from(100, 1_000_000_000);
        watch.saw(300, 3_000_000_000);
        assert_eq!(watch.rates, [100.0]);
    }
}
