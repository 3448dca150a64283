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
    /// There are no more pauses: settle those that were.
    End,
    /// Take the programs off.
    Pause,
    /// Put them on.
    Resume,
}

/// Whether waits are watched, and for how long they were.
///
/// Waits that are measured are taken to have been in a pause as they were in the turn before it, by the time. Those that pass are taken to have had
/// their share of the switches, which the kernel counts in a pause too: the share that they had in the turns of some seconds, before the
/// pause and after it (see [`Pool`]). So a program that storms for two seconds out of eight counts if one turn of them saw it.
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
    /// The turn before the current pause, and where that stands for it so far.
    last: Option<Turned>,
    missed: Counts,
    pool: Pool,
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
    ns: u64,
    switches: f64,
    waits: f64,
}

impl Turned {
    fn between(begin: &Counts, end: &Counts) -> Self {
        Self {
            ns: end.ns.saturating_sub(begin.ns).max(1),
            switches: end.switches.saturating_sub(begin.switches) as f64,
            waits: end.waits.saturating_sub(begin.waits) as f64,
        }
    }
}

/// How long turns stand together for the pauses between them at least, 10 s. In long recordings what was long ago says little of what is now.
const POOL_NS: u64 = 10_000_000_000;

/// Turns that stand together for the pauses between them, as far as those are not settled yet.
///
/// A ratio estimate: waits seen, times switches unseen, by switches seen.
#[derive(Debug, Clone, Copy, Default)]
struct Pool {
    began_ns: u64,
    /// How often waits were to be left out in it.
    shift: usize,
    turns: f64,
    ns: f64,
    switches: f64,
    waits: f64,
    /// Sums of squares and of products: of switches, of waits, of both.
    squares: [f64; 3],
    /// Of pauses.
    unseen_ns: f64,
    unseen: f64,
}

impl Pool {
    fn add(&mut self, turn: &Turned) {
        self.turns += 1.0;
        self.ns += turn.ns as f64;
        self.switches += turn.switches;
        self.waits += turn.waits;
        let products = [turn.switches * turn.switches, turn.waits * turn.waits, turn.switches * turn.waits];
        for (sum, product) in self.squares.iter_mut().zip(products) {
            *sum += product;
        }
    }

    fn missed(&mut self, from: &Counts, to: &Counts) {
        self.unseen_ns += to.ns.saturating_sub(from.ns) as f64;
        self.unseen += to.switches.saturating_sub(from.switches) as f64;
    }

    /// How often what was seen is to be added for what was not.
    fn stretch(&self) -> f64 {
        if self.switches > 0.0 { self.unseen / self.switches } else { 0.0 }
    }

    /// The variance of the number of waits that were not seen; none where a single turn stands for it.
    ///
    /// That of a ratio estimate from turns that differ, for the waits of a time that has turns of its own. Switches beyond the rate of the
    /// turns are of something that nobody has seen: any part of them, from none to all, may have been waits.
    fn variance(&self) -> Option<f64> {
        if self.turns < 2.0 || self.switches <= 0.0 {
            return None;
        }
        let ratio = self.waits / self.switches;
        let [switches, waits, both] = self.squares;
        let off = (waits - 2.0 * ratio * both + ratio * ratio * switches).max(0.0) / (self.turns - 1.0);
        let by = self.stretch();
        let expected = self.switches * self.unseen_ns / self.ns.max(1.0);
        let strange = (self.unseen - expected).max(0.0) * ratio.max(1.0 - ratio).min(1.0) / 2.0;
        Some(self.turns * off * by * (by + 1.0) + strange * strange)
    }
}

/// What a window adds up.
#[derive(Debug, Default)]
struct Window {
    /// Waits that passed and were seen, and those that pauses are taken to have had.
    seen: f64,
    unseen: f64,
    /// The variance of the latter; none where it is known of none of them.
    variance: Option<f64>,
    /// Those of which it is not known, because a single turn stands for them: they may be off by as many.
    unsure: f64,
}

/// What is to be known of a window.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Watched {
    /// The share of the time in which waits were watched.
    pub(super) share: f64,
    /// Two standard errors of the number of waits that passed, as a share of it. None where a single turn has to stand for the rest.
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
            missed: Counts::default(),
            pool: Pool::default(),
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
            return if std::mem::take(&mut self.takes_turns) { Turn::End } else { Turn::Stay };
        }
        if !self.takes_turns {
            self.takes_turns = true;
            (self.last, self.pool) = (None, Pool { began_ns: now_ns, shift, ..Pool::default() });
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
        let turn = Turned::between(&self.before, &end);
        self.pool.add(&turn);
        self.window.seen += turn.waits;
        (self.last, self.missed) = (Some(turn), end);
    }

    /// The pause, or the part of it up to now that was not told yet. Returns how often what the turn before it measured is to be added for it,
    /// by the time.
    pub(super) fn misses(&mut self, now: Counts) -> f64 {
        let Some(last) = self.last else { return 0.0 };
        let from = std::mem::replace(&mut self.missed, now);
        self.pool.missed(&from, &now);
        now.ns.saturating_sub(from.ns) as f64 / last.ns as f64
    }

    /// Whether the turns so far should no longer stand for pauses to come: they are long ago, or pauses were longer or shorter.
    pub(super) fn is_pool_over(&self, shift: usize, now_ns: u64) -> bool {
        self.pool.shift != shift || now_ns.saturating_sub(self.pool.began_ns) >= POOL_NS
    }

    /// Settles the pauses up to now: returns how often what passed in the turns is to be added for them. `turn` is the current one, as far as it
    /// is to count too. The last turn is among those that stand for the next pauses.
    pub(super) fn settle(&mut self, shift: usize, turn: Option<Counts>, now_ns: u64) -> f64 {
        let fresh = Pool { began_ns: now_ns, shift, ..Pool::default() };
        let mut pool = std::mem::replace(&mut self.pool, fresh);
        if let Some(now) = turn {
            pool.add(&Turned::between(&self.before, &now));
        }
        if let Some(last) = &self.last {
            self.pool.add(last);
        }
        let by = pool.stretch();
        if pool.unseen > 0.0 {
            self.window.unseen += pool.waits * by;
            match pool.variance() {
                Some(variance) => *self.window.variance.get_or_insert_default() += variance,
                None => self.window.unsure += pool.waits * by,
            }
        }
        by
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
        let variance = self.variance?;
        (all > 0.0).then(|| 2.0 * (variance + self.unsure * self.unsure).sqrt() / all)
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

    const fn at(ns: u64, switches: u64, waits: u64) -> Counts {
        Counts { ns, switches, waits }
    }

    #[track_caller]
    fn about(found: f64, wanted: f64) {
        assert!((found - wanted).abs() < 1e-6 * wanted.abs().max(1.0), "{found}, {wanted} is right");
    }

    #[test]
    fn what_is_measured_goes_by_the_time_of_the_turn_before() {
        let mut watch = Watch::new(0);
        watch.looks_from(at(1_000, 7, 3));
        about(watch.misses(at(2_000, 9, 3)), 0.0);
        watch.saw(at(1_200, 107, 53));
        about(watch.misses(at(1_400, 307, 53)), 1.0);
        about(watch.misses(at(1_400, 307, 53)), 0.0);
        about(watch.misses(at(1_500, 357, 53)), 0.5);
        about(watch.settle(0, None, 1_500), 2.5);
        about(watch.window.seen, 50.0);
        about(watch.window.unseen, 125.0);
        // The next window is in the same pause.
        about(watch.misses(at(1_600, 407, 53)), 0.5);
        about(watch.settle(0, None, 1_600), 0.5);
    }

    #[test]
    fn turns_before_and_after_stand_for_what_passes_in_pauses() {
        let mut watch = Watch::new(0);
        watch.looks_from(at(0, 0, 0));
        watch.saw(at(200, 20, 10));
        watch.misses(at(2_000, 180_000, 10));
        // A storm goes on: each switch of it is a wait.
        watch.looks_from(at(2_000, 180_000, 10));
        watch.saw(at(2_200, 200_000, 20_010));
        watch.misses(at(4_000, 200_180, 20_010));
        watch.looks_from(at(4_000, 200_180, 20_010));
        // In the middle of a turn.
        let by = watch.settle(0, Some(at(4_100, 200_190, 20_015)), 4_100);
        about(by, 180_160.0 / 20_030.0);
        let waits = watch.window.seen + watch.window.unseen;
        assert!((195_000.0..205_000.0).contains(&waits), "{waits}");
        let error = watch.take(4_100).error.unwrap();
        assert!((0.05..0.9).contains(&error), "{error}");
    }

    #[test]
    fn turns_that_differ_tell_how_sure_the_whole_is() {
        let mut watch = Watch::new(0);
        let mut end = Counts::default();
        let mut turn = |watch: &mut Watch, waits: u64| {
            watch.looks_from(end);
            end = at(end.ns + 10, end.switches + 4_000, end.waits + waits);
            watch.saw(end);
            (end.ns, end.switches) = (end.ns + 30, end.switches + 12_000);
            about(watch.misses(end), 3.0);
        };
        turn(&mut watch, 1_000);
        about(watch.settle(0, None, 1), 3.0);
        assert_eq!(watch.take(0).error, None, "one turn says nothing of the next");
        turn(&mut watch, 1_000);
        turn(&mut watch, 1_000);
        about(watch.settle(0, None, 2), 2.0);
        about(watch.take(0).error.unwrap(), 0.0);
        turn(&mut watch, 2_000);
        about(watch.settle(0, None, 3), 1.5);
        // Two turns that are 500 off stand for one and a half times as much.
        let variance: f64 = 2.0 * 500_000.0 * 1.5 * 2.5;
        about(watch.take(0).error.unwrap(), 2.0 * variance.sqrt() / (2_000.0 + 4_500.0));
    }

    #[test]
    fn switches_beyond_the_rate_of_the_turns_may_be_anything() {
        let mut watch = Watch::new(0);
        for begin in [0, 200] {
            watch.looks_from(at(begin * 10, begin, begin / 2));
            watch.saw(at(begin * 10 + 200, begin + 100, begin / 2 + 50));
            watch.misses(at(begin * 10 + 400, begin + 200, begin / 2 + 50));
        }
        watch.misses(at(2_400, 20_400, 150));
        about(watch.settle(0, None, 3), 102.0 - 1.0);
        let error = watch.take(0).error.unwrap();
        assert!((0.9..1.1).contains(&error), "{error}: nobody has seen what came at the end");
    }

    #[test]
    fn turns_do_not_stand_for_pauses_of_another_time() {
        let mut watch = Watch::new(0);
        assert_eq!(watch.turn(2, 0), Turn::Begin);
        assert!(!watch.is_pool_over(2, POOL_NS - 1));
        assert!(watch.is_pool_over(2, POOL_NS) && watch.is_pool_over(1, 1));
        watch.settle(1, None, POOL_NS);
        assert!(!watch.is_pool_over(1, POOL_NS + 1));
        assert_eq!(watch.turn(0, POOL_NS + 2), Turn::End);
        assert_eq!(watch.turn(0, POOL_NS + 3), Turn::Stay);
    }
}
