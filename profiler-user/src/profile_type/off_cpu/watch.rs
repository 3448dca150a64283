//! Times in which waits are not watched at all: the programs are off their tracepoints, and a switch costs nothing. The last resort where switches
//! come so often that even to count them is too much.

use crate::statistics::Chance;

/// How long waits are watched between two such times, 200 ms.
const WATCHED_NS: u64 = 200_000_000;

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// Nothing.
    Stay,
    /// Cut off what was watched so far: from now on turns are to stand for pauses.
    Begin,
    /// Take the programs off.
    Pause,
    /// Put them on.
    Resume,
}

/// Whether waits are watched, and for how long they were.
///
/// Each pause is taken to have been like the turn before it. Waits that are measured had their share of the time. Those that pass had their share
/// of the switches, which the kernel counts in a pause too. How much the waits to a switch differ from one turn to the next says how far off
/// that may be.
#[derive(Debug)]
pub(super) struct Watch {
    chance: Chance,
    is_paused: bool,
    /// Whether turns stand for pauses now.
    takes_turns: bool,
    /// When the current turn or pause began, and how long it is to last.
    since_ns: u64,
    lasts_ns: u64,
    /// Since when times are counted, when the pause began as far as it is not counted yet, and what is.
    counted_ns: u64,
    paused_since_ns: u64,
    paused_ns: u64,
    /// Before the current turn.
    before: Counts,
    /// The turn before the current pause, and how far into it that stands for it so far.
    last: Option<Turned>,
    stretched: Stretched,
    window: Window,
}

/// What the host has counted up to a moment.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counts {
    /// That moment, nanoseconds.
    pub(super) ns: u64,
    /// Context switches, as the kernel counts them.
    pub(super) switches: u64,
    /// Waits that passed.
    pub(super) waits: u64,
}

/// A turn in which waits were watched.
#[derive(Debug, Clone, Copy)]
struct Turned {
    /// Where it ended.
    end: Counts,
    ns: u64,
    switches: u64,
    waits: f64,
}

impl Turned {
    fn ratio(&self) -> f64 {
        self.waits / self.switches as f64
    }
}

/// What of a pause is settled.
#[derive(Debug, Clone, Copy, Default)]
struct Stretched {
    ns: u64,
    switches: u64,
}

/// How often what the last turn had is to be added for a pause, or a part of it.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Stretch {
    /// What goes by switches.
    pub(super) by_switches: f64,
    /// What goes by time.
    pub(super) by_time: f64,
}

/// What a window adds up.
#[derive(Debug, Default)]
struct Window {
    /// Waits that passed and were seen, and those that pauses are taken to have had.
    seen: f64,
    unseen: f64,
    /// Pauses with a turn before and after, and the sum of the squares of what either turn would have made of them beside the other.
    pauses: u32,
    squares: f64,
}

/// What is to be known of a window.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Watched {
    /// The share of the time in which waits were watched.
    pub(super) share: f64,
    /// Two standard errors of the number of waits that passed, as a share of it. None from fewer than two pauses.
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
            takes_turns: false,
            since_ns: now_ns,
            lasts_ns: WATCHED_NS,
            counted_ns: now_ns,
            paused_since_ns: now_ns,
            paused_ns: 0,
            before: Counts::default(),
            last: None,
            stretched: Stretched::default(),
            window: Window::default(),
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
            self.count_pause(now_ns);
            self.begin(false, WATCHED_NS, now_ns);
            return Turn::Resume;
        }
        if shift == 0 {
            self.since_ns = now_ns;
            self.takes_turns = false;
            return Turn::Stay;
        }
        if !self.takes_turns {
            (self.takes_turns, self.last, self.stretched) = (true, None, Stretched::default());
            self.begin(false, WATCHED_NS, now_ns);
            return Turn::Begin;
        }
        if lasted_ns < self.lasts_ns {
            return Turn::Stay;
        }
        // A little more or less, so that a program with a rhythm does not hide.
        let usual_ns = (WATCHED_NS * ((1 << shift) - 1)) as f64;
        let lasts_ns = usual_ns * (0.75 + 0.5 * self.chance.fraction());
        self.paused_since_ns = now_ns;
        self.begin(true, lasts_ns as u64, now_ns);
        Turn::Pause
    }

    fn begin(&mut self, is_paused: bool, lasts_ns: u64, now_ns: u64) {
        (self.is_paused, self.since_ns, self.lasts_ns) = (is_paused, now_ns, lasts_ns);
    }

    fn count_pause(&mut self, now_ns: u64) {
        self.paused_ns += now_ns.saturating_sub(std::mem::replace(&mut self.paused_since_ns, now_ns));
    }

    /// A turn begins.
    pub(super) fn looks_from(&mut self, before: Counts) {
        self.before = before;
    }

    /// Whether turns stand for pauses now.
    pub(super) fn takes_turns(&self) -> bool {
        self.takes_turns
    }

    /// A turn has ended, and a pause begins.
    pub(super) fn saw(&mut self, end: Counts) {
        let waits = end.waits.saturating_sub(self.before.waits) as f64;
        let turn = Turned {
            end,
            ns: end.ns.saturating_sub(self.before.ns).max(1),
            switches: end.switches.saturating_sub(self.before.switches).max(1),
            waits,
        };
        let stretched = std::mem::take(&mut self.stretched).switches as f64;
        if let Some(last) = self.last.replace(turn) {
            // Neither of two turns that differ is nearer to what was between them: half the square of the difference is the variance of each.
            self.window.pauses += 1;
            self.window.squares += (stretched * (turn.ratio() - last.ratio())).powi(2) / 2.0;
        }
        self.window.seen += waits;
    }

    /// What is to be added for the pause up to now, as far as nobody has asked for it yet.
    pub(super) fn stretch(&mut self, now: Counts) -> Stretch {
        let Some(last) = self.last else { return Stretch::default() };
        let all = Stretched {
            ns: now.ns.saturating_sub(last.end.ns),
            switches: now.switches.saturating_sub(last.end.switches),
        };
        let before = std::mem::replace(&mut self.stretched, all);
        let switches = all.switches.saturating_sub(before.switches) as f64;
        self.window.unseen += switches * last.ratio();
        Stretch {
            by_switches: switches / last.switches as f64,
            by_time: all.ns.saturating_sub(before.ns) as f64 / last.ns as f64,
        }
    }

    /// Whether nobody watches now.
    pub(super) fn is_paused(&self) -> bool {
        self.is_paused
    }

    /// What is to be known of the time since the last call.
    pub(super) fn take(&mut self, now_ns: u64) -> Watched {
        if self.is_paused {
            self.count_pause(now_ns);
        }
        let all_ns = now_ns.saturating_sub(std::mem::replace(&mut self.counted_ns, now_ns));
        let paused_ns = std::mem::take(&mut self.paused_ns);
        let share = if all_ns == 0 { 1.0 } else { 1.0 - (paused_ns as f64 / all_ns as f64).min(1.0) };
        Watched { share, error: std::mem::take(&mut self.window).error() }
    }
}

impl Window {
    fn error(&self) -> Option<f64> {
        let all = self.seen + self.unseen;
        (self.pauses >= 2 && all > 0.0).then(|| 2.0 * self.squares.sqrt() / all)
    }
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
        assert_eq!(watch.turn(1, 0), Turn::Begin);
        assert_eq!(watch.turn(1, WATCHED_NS), Turn::Pause);
        assert!(watch.is_paused());
        assert!((watch.take(WATCHED_NS + 50).share - 1.0).abs() < 1e-3);
        assert!(watch.take(WATCHED_NS + 100).share < 1e-3, "paused all the time");
        assert_eq!(watch.turn(0, WATCHED_NS + 150), Turn::Resume);
        assert!(watch.take(WATCHED_NS + 150).share < 1e-3);
        assert!((watch.take(WATCHED_NS + 200).share - 1.0).abs() < 1e-3);
    }

    #[test]
    fn a_pause_is_like_the_turn_before_it() {
        let mut watch = Watch::new(0);
        watch.looks_from(Counts { ns: 1_000, switches: 7, waits: 3 });
        assert_eq!(watch.stretch(Counts { ns: 2_000, switches: 9, waits: 3 }), Stretch::default());
        watch.saw(Counts { ns: 1_200, switches: 107, waits: 53 });
        let mut until = |ns, switches, [by_switches, by_time]: [f64; 2]| {
            let stretch = watch.stretch(Counts { ns, switches, waits: 0 });
            assert!((stretch.by_switches - by_switches).abs() < 1e-9, "{stretch:?}");
            assert!((stretch.by_time - by_time).abs() < 1e-9, "{stretch:?}");
        };
        until(1_400, 307, [2.0, 1.0]);
        until(1_400, 307, [0.0, 0.0]);
        until(1_500, 357, [0.5, 0.5]);
        assert!((watch.window.seen - 50.0).abs() < 1e-9 && (watch.window.unseen - 125.0).abs() < 1e-9);
    }

    #[test]
    fn turns_that_differ_tell_how_sure_the_whole_is() {
        let mut watch = Watch::new(0);
        let mut end = Counts::default();
        let mut turn = |watch: &mut Watch, waits: u64| {
            end = Counts { ns: end.ns + 10, switches: end.switches + 4_000, waits: end.waits + waits };
            watch.saw(end);
            end.switches += 12_000;
            let stretch = watch.stretch(end).by_switches;
            assert!((stretch - 3.0).abs() < 1e-9, "{stretch}");
            watch.looks_from(end);
        };
        turn(&mut watch, 1_000);
        assert_eq!(watch.window.error(), None);
        turn(&mut watch, 2_000);
        turn(&mut watch, 1_000);
        // 16,000 in all. Twice 3,000 more or less are an error of 3,000, of which two are 37.5 %.
        let error = watch.take(0).error.unwrap();
        assert!((error - 0.375).abs() < 1e-9, "{error}");
        assert_eq!(watch.take(0).error, None, "of the next window nothing is known yet");
    }
}
