//! Keeps the cost of a recording inside its budget: from what was spent to a rung of a ladder, on whose higher rungs a collector takes less.
//!
//! Pure: costs in, rungs out. Each collector says what its rungs mean; each is to cost about half of the one below. Fast to throttle: a look
//! at sixteen times the budget goes up four rungs at once. Slow to open again: one rung after a second in comfort, and after longer the more
//! often opening was a mistake. The budget is kept in every stretch of five seconds ([`WINDOW_NS`]), not in every look.

use std::collections::VecDeque;

/// Least time between two looks, 100 ms.
pub(crate) const LOOK_NS: u64 = 100_000_000;
/// Time over which the budget is kept.
const WINDOW_NS: u64 = 5_000_000_000;
/// Share of the budget of a window that may be spent before a look inside the budget is too much as well: on the bottom rung, where a look at
/// sixteen times the budget (a third of a window's) may be next, and on the others, where it would be at most half of that.
const WINDOW_TARGET: (f64, f64) = (0.6, 0.7);
/// Share of the budget that no window is to reach if the load stays as it is.
const WINDOW_FORECAST: f64 = 0.95;
/// Shares of the budget, of a look and of a window, under which a rung down is considered.
const COMFORTABLE: f64 = 0.4;
const WINDOW_COMFORTABLE: f64 = 0.5;
/// Rungs to go up at most in one look.
const HIGHEST_LEAP: f64 = 4.0;
/// How long it has to be comfortable before a rung down, nanoseconds: the least, and the most after mistakes.
const PATIENCE_NS: (u64, u64) = (1_000_000_000, 16_000_000_000);
/// How long the last rung is kept after load was shed, nanoseconds.
const SHED_NS: u64 = 10_000_000_000;

/// The controller.
#[derive(Debug)]
pub(crate) struct Governor {
    /// Budget as a share of one CPU, and the part of it that other recordings leave.
    budget: f64,
    part: f64,
    rung: usize,
    last: usize,
    /// What was spent and how long it took, for each look of the window.
    window: VecDeque<(u64, u64)>,
    comfortable_ns: u64,
    patience_ns: u64,
    /// Time since the last rung down.
    opened_ns: u64,
    /// Time for which it may not open.
    shed_ns: u64,
    story: Story,
}

/// What a governor did, for the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Story {
    /// Lowest and highest rung.
    pub(crate) rungs: (usize, usize),
    /// How often the rung changed.
    pub(crate) changes: u64,
    /// How long it was above the bottom, nanoseconds.
    pub(crate) throttled_ns: u64,
    /// How long the budget was exceeded on the last rung, nanoseconds.
    pub(crate) over_budget_ns: u64,
    /// All the time that it saw, nanoseconds.
    pub(crate) watched_ns: u64,
}

impl Story {
    /// Percent of the time in which something was left out.
    pub(crate) fn throttled_percent(&self) -> f64 {
        self.throttled_ns as f64 * 100.0 / self.watched_ns.max(1) as f64
    }

    /// Percent of the time in which the budget was exceeded although no more could be left out.
    pub(crate) fn over_budget_percent(&self) -> f64 {
        self.over_budget_ns as f64 * 100.0 / self.watched_ns.max(1) as f64
    }
}

impl Governor {
    /// `budget` is a share of one CPU: 0.02 for one percent of a machine with two. `rungs` is how many there are, at least one; it begins on
    /// the one named `first`.
    pub(crate) fn new(budget: f64, rungs: usize, first: usize) -> Self {
        let last = rungs.saturating_sub(1);
        let rung = first.min(last);
        Self {
            budget: budget.max(f64::MIN_POSITIVE),
            part: 1.0,
            rung,
            last,
            window: VecDeque::new(),
            comfortable_ns: 0,
            patience_ns: PATIENCE_NS.0,
            opened_ns: u64::MAX,
            shed_ns: 0,
            story: Story { rungs: (rung, rung), ..Story::default() },
        }
    }

    /// Takes in what was spent in a stretch of time; true when the rung changed.
    pub(crate) fn look(&mut self, spent_ns: u64, elapsed_ns: u64) -> bool {
        if elapsed_ns == 0 {
            return false;
        }
        let in_window = self.remember(spent_ns, elapsed_ns);
        let share = spent_ns as f64 / elapsed_ns as f64 / (self.budget * self.part);
        self.story.watched_ns += elapsed_ns;
        self.story.throttled_ns += if self.rung > 0 { elapsed_ns } else { 0 };
        self.opened_ns = self.opened_ns.saturating_add(elapsed_ns);
        self.shed_ns = self.shed_ns.saturating_sub(elapsed_ns);
        let target = if self.rung == 0 { WINDOW_TARGET.0 } else { WINDOW_TARGET.1 };
        if share > 1.0
            || (in_window > target && share > COMFORTABLE)
            || self.forecast(share) > WINDOW_FORECAST
        {
            self.story.over_budget_ns += if self.rung == self.last && share > 1.0 { elapsed_ns } else { 0 };
            return self.throttle(share);
        }
        if share > COMFORTABLE || in_window > WINDOW_COMFORTABLE || self.shed_ns > 0 {
            self.comfortable_ns = 0;
            return false;
        }
        self.comfortable_ns += elapsed_ns;
        self.comfortable_ns >= self.patience_ns && self.open()
    }

    /// Goes to the last rung at once and stays there for a while: something else than the budget is at its end.
    pub(crate) fn shed(&mut self) -> bool {
        self.shed_ns = SHED_NS;
        self.leap()
    }

    /// Goes to the last rung at once: it is known that none on the way there is enough.
    pub(crate) fn leap(&mut self) -> bool {
        self.comfortable_ns = 0;
        self.go(self.last)
    }

    /// Whether so much in a stretch of time is above the budget.
    pub(crate) fn is_over(&self, spent_ns: u64, elapsed_ns: u64) -> bool {
        spent_ns as f64 > elapsed_ns as f64 * self.budget * self.part
    }

    /// Leaves the rest of the budget to other recordings.
    pub(crate) fn share_budget(&mut self, part: f64) {
        self.part = part.clamp(1e-3, 1.0);
    }

    /// The rung: zero takes everything.
    pub(crate) fn rung(&self) -> usize {
        self.rung
    }

    /// What it did so far.
    #[cfg(test)]
    pub(crate) fn story(&self) -> Story {
        self.story
    }

    /// What it did so far, which is then told.
    pub(crate) fn take_story(&mut self) -> Story {
        let fresh = Story { rungs: (self.rung, self.rung), ..Story::default() };
        std::mem::replace(&mut self.story, fresh)
    }

    /// Adds a look; returns the share of the window's budget that is spent.
    fn remember(&mut self, spent_ns: u64, elapsed_ns: u64) -> f64 {
        self.window.push_back((spent_ns, elapsed_ns));
        let mut length: u64 = self.window.iter().map(|(_, elapsed)| elapsed).sum();
        while length > WINDOW_NS
            && let Some((_, oldest)) = self.window.front().copied()
            && self.window.len() > 1
        {
            length -= oldest;
            self.window.pop_front();
        }
        let spent: u64 = self.window.iter().map(|(spent, _)| spent).sum();
        spent as f64 / WINDOW_NS.max(length) as f64 / (self.budget * self.part)
    }

    /// The largest share of its budget that a window will have spent if all looks from now on are like one of this share.
    fn forecast(&self, share: f64) -> f64 {
        let budget = self.budget * self.part * WINDOW_NS as f64;
        let length: u64 = self.window.iter().map(|(_, elapsed)| elapsed).sum();
        let spent = self.window.iter().map(|(spent, _)| *spent as f64 / budget).sum::<f64>();
        let unfilled = WINDOW_NS.saturating_sub(length);
        let falls_out = self.window.iter().map(|(spent, elapsed)| (*spent as f64 / budget, *elapsed));
        let ahead =
            std::iter::once((0.0, unfilled)).chain(falls_out).scan(spent, |spent, (less, elapsed)| {
                *spent += share * elapsed.min(WINDOW_NS) as f64 / WINDOW_NS as f64 - less;
                Some(*spent)
            });
        ahead.fold(spent, f64::max)
    }

    fn throttle(&mut self, share: f64) -> bool {
        self.comfortable_ns = 0;
        if self.opened_ns < self.patience_ns.saturating_mul(2) {
            // Opening was a mistake: the next time is later.
            self.patience_ns = self.patience_ns.saturating_mul(2).min(PATIENCE_NS.1);
        }
        self.opened_ns = u64::MAX;
        let leap = share.log2().ceil().clamp(1.0, HIGHEST_LEAP) as usize;
        let holds = |leap: &usize| self.forecast(share / f64::from(1_u32 << leap)) <= WINDOW_FORECAST;
        let leap = (leap..=HIGHEST_LEAP as usize).find(holds).unwrap_or(HIGHEST_LEAP as usize);
        self.go((self.rung + leap).min(self.last))
    }

    fn open(&mut self) -> bool {
        self.comfortable_ns = 0;
        if self.opened_ns != u64::MAX {
            // The last time was none.
            self.patience_ns = (self.patience_ns / 2).max(PATIENCE_NS.0);
        }
        self.opened_ns = 0;
        self.go(self.rung.saturating_sub(1))
    }

    fn go(&mut self, rung: usize) -> bool {
        let changed = self.rung != rung;
        self.rung = rung;
        let (least, most) = self.story.rungs;
        self.story.rungs = (least.min(rung), most.max(rung));
        self.story.changes += u64::from(changed);
        changed
    }
}

/// A governor that is told totals, no more often than is useful.
#[derive(Debug)]
pub(crate) struct Throttle {
    governor: Governor,
    spent_ns: u64,
    looked_ns: u64,
}

impl Throttle {
    /// Begins now, with nothing spent.
    pub(crate) fn new(governor: Governor, now_ns: u64) -> Self {
        Self { governor, spent_ns: 0, looked_ns: now_ns }
    }

    /// The same, with this spent before it began.
    #[must_use]
    pub(crate) fn after(self, spent_ns: u64) -> Self {
        Self { spent_ns, ..self }
    }

    /// Whether it is time for another look.
    pub(crate) fn is_due(&self, now_ns: u64) -> bool {
        self.since_look_ns(now_ns) >= LOOK_NS
    }

    /// Time since the last look, nanoseconds.
    pub(crate) fn since_look_ns(&self, now_ns: u64) -> u64 {
        now_ns.saturating_sub(self.looked_ns)
    }

    /// Takes in what was spent since the beginning; true when the rung changed.
    pub(crate) fn look(&mut self, spent_ns: u64, now_ns: u64) -> bool {
        let (spent, elapsed) =
            (spent_ns.saturating_sub(self.spent_ns), now_ns.saturating_sub(self.looked_ns));
        self.spent_ns = spent_ns;
        self.looked_ns = now_ns;
        self.governor.look(spent, elapsed)
    }

    /// What was spent up to now is not to be looked at.
    pub(crate) fn skip(&mut self, spent_ns: u64, now_ns: u64) {
        self.spent_ns = spent_ns;
        self.looked_ns = now_ns;
    }

    /// Whether what was spent since the last look is above the budget.
    pub(crate) fn is_over(&self, spent_ns: u64, now_ns: u64) -> bool {
        self.governor.is_over(spent_ns.saturating_sub(self.spent_ns), self.since_look_ns(now_ns))
    }

    /// As [`Governor::leap`].
    pub(crate) fn leap(&mut self) -> bool {
        self.governor.leap()
    }

    /// As [`Governor::share_budget`].
    pub(crate) fn share_budget(&mut self, part: f64) {
        self.governor.share_budget(part);
    }

    /// As [`Governor::shed`].
    pub(crate) fn shed(&mut self) -> bool {
        self.governor.shed()
    }

    /// As [`Governor::rung`].
    pub(crate) fn rung(&self) -> usize {
        self.governor.rung()
    }

    /// As [`Governor::take_story`].
    pub(crate) fn take_story(&mut self) -> Story {
        self.governor.take_story()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BUDGET: f64 = 0.02;
    const RUNGS: usize = 8;
    const WINDOW_LOOKS: usize = (WINDOW_NS / LOOK_NS) as usize;

    /// Runs a load, given as multiples of the budget that it costs when everything is taken; returns the multiples that it did cost, and
    /// the rungs after each look.
    fn run(governor: &mut Governor, load: impl IntoIterator<Item = f64>) -> (Vec<f64>, Vec<usize>) {
        let look = |multiple: f64| {
            let cost = multiple / f64::from(1_u32 << governor.rung());
            governor.look((cost * BUDGET * LOOK_NS as f64) as u64, LOOK_NS);
            (cost, governor.rung())
        };
        load.into_iter().map(look).unzip()
    }

    fn worst_window(costs: &[f64]) -> f64 {
        let mean = |window: &[f64]| window.iter().sum::<f64>() / WINDOW_LOOKS as f64;
        costs.windows(WINDOW_LOOKS.min(costs.len().max(1))).map(mean).fold(0.0, f64::max)
    }

    #[test]
    fn a_leap_needs_no_look_at_what_is_on_the_way() {
        let mut throttle = Throttle::new(Governor::new(0.02, 12, 0), 0);
        assert!(!throttle.is_over(6_000_000, 300_000_000) && throttle.is_over(6_100_000, 300_000_000));
        assert!(throttle.leap() && !throttle.leap());
        assert_eq!(throttle.rung(), 11);
        // It opens again as from any rung.
        let opened = (1..=100).find(|look| {
            throttle.look(0, look * LOOK_NS);
            throttle.rung() < 11
        });
        assert!(opened.is_some_and(|look| (5..=40).contains(&look)), "{opened:?}");
    }

    #[test]
    fn a_step_is_throttled_within_two_looks_and_stays_so() {
        let mut governor = Governor::new(BUDGET, RUNGS, 0);
        let (costs, rungs) = run(&mut governor, [10.0; 300]);
        assert!(costs[2..].iter().all(|cost| *cost <= 1.0), "{costs:?}");
        assert!(worst_window(&costs) <= 1.0, "{}", worst_window(&costs));
        assert!(governor.story().changes <= 8, "it swings: {rungs:?}");
        assert_eq!(governor.story().over_budget_ns, 0);
    }

    #[test]
    fn what_is_over_is_forgotten() {
        let mut governor = Governor::new(BUDGET, RUNGS, 0);
        run(&mut governor, [30.0; 20]);
        assert!(governor.rung() >= 5);
        let (_, rungs) = run(&mut governor, [0.0; 400]);
        assert_eq!(rungs.last(), Some(&0));
        assert!(rungs[..10].iter().all(|rung| *rung >= 5), "slow to open: {rungs:?}");
    }

    #[test]
    fn a_quiet_host_is_never_throttled() {
        let mut governor = Governor::new(BUDGET, RUNGS, 0);
        let (_, rungs) = run(&mut governor, (0..500).map(|look| 0.3 + 0.3 * f64::from(look % 2)));
        assert!(rungs.iter().all(|rung| *rung == 0));
        assert_eq!((governor.story().changes, governor.story().throttled_ns), (0, 0));
    }

    #[test]
    fn a_ramp_is_followed() {
        let mut governor = Governor::new(BUDGET, RUNGS, 0);
        let (costs, _) = run(&mut governor, (0..1_000).map(|look| f64::from(look) / 20.0));
        assert!(worst_window(&costs) <= 1.0, "{}", worst_window(&costs));
    }

    #[test]
    fn bursts_that_come_back_are_met_with_patience() {
        let mut governor = Governor::new(BUDGET, RUNGS, 0);
        let (costs, _) = run(&mut governor, (0..3_000).map(|look| if look % 30 < 3 { 16.0 } else { 0.0 }));
        assert!(worst_window(&costs) <= 1.0, "{}", worst_window(&costs));
    }

    #[test]
    fn a_burst_on_top_of_a_load_just_inside_the_budget_is_inside_too() {
        for (percent, looks) in (0..=100).flat_map(|percent| (0..60).map(move |looks| (percent, looks))) {
            let before = std::iter::repeat_n(f64::from(percent) / 100.0, looks);
            for idle in [0, 5, 20] {
                let mut governor = Governor::new(BUDGET, RUNGS, 0);
                let load = std::iter::repeat_n(0.0, idle).chain(before.clone()).chain([16.0; 50]);
                let (costs, _) = run(&mut governor, load);
                let worst = worst_window(&costs);
                assert!(worst <= 1.0, "{worst} after {looks} looks at {percent} % and {idle} without load");
            }
        }
    }

    #[test]
    fn what_cannot_be_throttled_away_is_admitted() {
        let mut governor = Governor::new(BUDGET, RUNGS, 0);
        for _ in 0..50 {
            governor.look(LOOK_NS, LOOK_NS);
        }
        assert!(governor.story().over_budget_ns > 40 * LOOK_NS);
        assert!(governor.story().over_budget_percent() > 80.0);
    }

    #[test]
    fn what_was_shed_stays_so_for_a_while() {
        let mut governor = Governor::new(BUDGET, RUNGS, 0);
        assert!(governor.shed());
        let (_, rungs) = run(&mut governor, [0.0; 90]);
        assert!(rungs.iter().all(|rung| *rung == RUNGS - 1));
        let (_, rungs) = run(&mut governor, [0.0; 300]);
        assert_eq!(rungs.last(), Some(&0));
    }

    #[test]
    fn one_rung_is_no_choice() {
        let mut governor = Governor::new(BUDGET, 1, 2);
        assert!(!governor.look(LOOK_NS, LOOK_NS));
        assert_eq!(governor.rung(), 0);
    }

    proptest! {
        /// Any load up to sixteen times the budget, changing as it likes from look to look.
        #[test]
        fn the_budget_holds_in_every_window(
            load in prop::collection::vec((0.0_f64..16.0, 1_usize..60), 1..60)
        ) {
            let mut governor = Governor::new(BUDGET, RUNGS, 0);
            let load = load.into_iter().flat_map(|(multiple, looks)| std::iter::repeat_n(multiple, looks));
            let (costs, _) = run(&mut governor, load);
            prop_assert!(worst_window(&costs) <= 1.0, "{}", worst_window(&costs));
        }

        #[test]
        fn rungs_stay_on_the_ladder(looks in prop::collection::vec((any::<u64>(), any::<u64>()), 0..200)) {
            let mut governor = Governor::new(BUDGET, RUNGS, 3);
            for (spent, elapsed) in looks {
                governor.look(spent >> 8, elapsed >> 8);
                prop_assert!(governor.rung() < RUNGS);
            }
        }
    }
}
