//! Who is told what was spent: there is one budget, and collectors that run together keep it together.
//!
//! Waits are the dearest, and give way first; CPU samples follow when waits have nothing left to give and all together are above the budget for a
//! while: waits that are watched in turns cost nothing between them, and samples less than the turns scatter. From the second window on, taking in
//! what came and naming and storing it count as well. They come in lumps a window apart, which no rate can answer at once, so they
//! are spread over time. What the first window takes of them is mostly its start: everything is new then, however little is recorded.

use crate::profile_type::governor::LOOK_NS;

/// Time over which lumps are spread, nanoseconds: a usual window.
const SPREAD_NS: f64 = 10e9;
/// Time over which other programs' costs are spread for the sampler: several turns of waits, the longest of which with its pause takes four seconds.
const OTHERS_SPREAD_NS: f64 = 30e9;

/// What a recording has cost so far, nanoseconds of CPU time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(clippy::struct_field_names, reason = "the unit")]
pub(crate) struct Spent {
    /// All programs and the way into them.
    pub(crate) programs_ns: u64,
    /// The part of that which samples CPUs.
    pub(crate) sampler_ns: u64,
    /// The part of it that watches switches and wake-ups.
    pub(crate) scheduler_ns: u64,
    /// Taking in what programs send.
    pub(crate) drain_ns: u64,
    /// Naming and storing closed windows.
    pub(crate) windows_ns: u64,
}

impl Spent {
    /// All of it.
    pub(crate) fn all_ns(self) -> u64 {
        self.programs_ns + self.drain_ns + self.windows_ns
    }

    /// Programs that do not sample CPUs.
    fn others_ns(self) -> u64 {
        self.programs_ns.saturating_sub(self.sampler_ns)
    }
}

/// Whether waits are recorded, and what they can still leave out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waiting {
    /// They are not recorded.
    Not,
    /// Fewer stacks could be taken.
    CanGive,
    /// As few stacks as possible are taken.
    AtTheirEnd,
}

/// What is said to the collectors: totals that only grow, nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Told {
    pub(crate) waits_ns: u64,
    pub(crate) sampler_ns: u64,
}

/// The books.
#[derive(Debug)]
pub(crate) struct Ledger {
    /// What all collectors may spend, as a share of one CPU.
    budget: f64,
    looked_ns: u64,
    before: Spent,
    /// From the second window on: what comes once in a window, and the programs of others as the sampler sees them.
    spreads: Option<(Spread, Spread)>,
    told: Told,
}

impl Ledger {
    /// Begins now, with nothing spent. The budget is a share of one CPU.
    pub(crate) fn new(budget: f64, now_ns: u64) -> Self {
        Self { budget, looked_ns: now_ns, before: Spent::default(), spreads: None, told: Told::default() }
    }

    /// Another budget from now on.
    pub(crate) fn set_budget(&mut self, budget: f64) {
        self.budget = budget;
    }

    /// Whether it is time for another look.
    pub(crate) fn is_due(&self, now_ns: u64) -> bool {
        now_ns.saturating_sub(self.looked_ns) >= LOOK_NS
    }

    /// A window has ended.
    pub(crate) fn window_ended(&mut self) {
        let outside = self.before.drain_ns + self.before.windows_ns;
        let others = self.before.others_ns();
        self.spreads.get_or_insert((
            Spread { over_ns: SPREAD_NS, given_ns: outside as f64 },
            Spread { over_ns: OTHERS_SPREAD_NS, given_ns: others as f64 },
        ));
    }

    /// Enters what was spent so far.
    pub(crate) fn look(&mut self, now_ns: u64, spent: Spent, waiting: Waiting) -> Told {
        let elapsed_ns = now_ns.saturating_sub(self.looked_ns);
        let before = std::mem::replace(&mut self.before, spent);
        self.looked_ns = now_ns;
        let programs_ns = spent.programs_ns.saturating_sub(before.programs_ns);
        let Some((lumps, others)) = &mut self.spreads else {
            self.told.waits_ns += programs_ns;
            self.told.sampler_ns += programs_ns + spent.drain_ns.saturating_sub(before.drain_ns);
            return self.told;
        };
        let lump_ns = lumps.take(spent.drain_ns + spent.windows_ns, elapsed_ns);
        let own_ns = spent.sampler_ns.saturating_sub(before.sampler_ns);
        let smooth_ns = own_ns + lump_ns + others.take(spent.others_ns(), elapsed_ns);
        self.told.waits_ns += programs_ns + lump_ns;
        self.told.sampler_ns += match waiting {
            Waiting::Not => programs_ns + lump_ns,
            Waiting::AtTheirEnd if smooth_ns as f64 > self.budget * elapsed_ns as f64 => smooth_ns,
            Waiting::CanGive | Waiting::AtTheirEnd => own_ns,
        };
        self.told
    }

    /// What was said last.
    pub(crate) fn told(&self) -> Told {
        self.told
    }
}

/// A sum that grows in lumps, handed on smoothly: each moment a part of what is left, so that nothing is lost.
#[derive(Debug)]
struct Spread {
    over_ns: f64,
    given_ns: f64,
}

impl Spread {
    fn take(&mut self, sum_ns: u64, elapsed_ns: u64) -> u64 {
        let left = (sum_ns as f64 - self.given_ns).max(0.0);
        let given = (left * -(-(elapsed_ns as f64) / self.over_ns).exp_m1()).floor();
        self.given_ns += given;
        given as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// Ten looks a second; each costs the sampler 1 ms and waits 2 ms, and each window of ten seconds 200 ms at its end.
    fn run(waiting: Waiting, windows: bool) -> Vec<Told> {
        let (mut ledger, mut spent) = (Ledger::new(0.0, 0), Spent::default());
        let look = |at: u64| {
            spent.programs_ns += 3 * MS;
            spent.sampler_ns += MS;
            if windows && at.is_multiple_of(100) {
                spent.windows_ns += 200 * MS;
                ledger.window_ended();
            }
            assert!(ledger.is_due(at * LOOK_NS));
            ledger.look(at * LOOK_NS, spent, waiting)
        };
        (1..=3000).map(look).collect()
    }

    #[test]
    fn waits_give_way_first() {
        let own = run(Waiting::CanGive, true).last().unwrap().sampler_ns;
        // A hundred looks before the first window ended count with all programs.
        assert!((3190 * MS..3210 * MS).contains(&own), "{own}");
        let all = *run(Waiting::AtTheirEnd, true).last().unwrap();
        let on_its_way = all.waits_ns - all.sampler_ns;
        assert!((0..700 * MS).contains(&on_its_way), "{on_its_way}");
        assert_eq!(run(Waiting::Not, false).last().unwrap().sampler_ns, 9000 * MS);
    }

    /// Waits are watched in two looks out of 34, 30 ms each: 1.8 % of a CPU. Samples take 0.1 %.
    fn turns(budget: f64) -> (u64, u64) {
        let (mut ledger, mut spent) = (Ledger::new(budget, 0), Spent::default());
        ledger.window_ended();
        let mut told = Told::default();
        for look in 1..=6_000 {
            let turn = if look % 34 < 2 { 30 * MS } else { 0 };
            spent.sampler_ns += MS / 10;
            spent.programs_ns += MS / 10 + turn;
            told = ledger.look(look * LOOK_NS, spent, Waiting::AtTheirEnd);
        }
        (told.sampler_ns / MS, told.waits_ns / MS)
    }

    #[test]
    fn turns_of_waits_inside_the_budget_leave_samples_their_rate() {
        let (sampler, waits) = turns(0.021);
        assert_eq!(sampler, 600, "its own");
        assert!((11_000..11_400).contains(&waits), "{waits}");
        let (sampler, _) = turns(0.015);
        assert!(sampler > 10_000, "{sampler}: all of it");
    }

    #[test]
    fn lumps_are_spread_and_none_is_lost() {
        let told = run(Waiting::CanGive, true);
        let looks: Vec<u64> = told.windows(2).map(|pair| pair[1].waits_ns - pair[0].waits_ns).collect();
        assert!(looks.iter().all(|ns| *ns < 7 * MS), "{:?}", looks.iter().max());
        // Thirty windows, but for the lump of the first one, and what is on its way of the last ones.
        let lumps = told.last().unwrap().waits_ns - 9000 * MS;
        assert!((5400 * MS..=6000 * MS).contains(&lumps), "{lumps}");
    }
}
