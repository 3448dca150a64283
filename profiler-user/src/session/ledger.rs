//! Who is told what was spent: there is one budget, and collectors that run together keep it together.
//!
//! Waits are the dearest, and give way first; CPU samples follow when waits have nothing left to give. From the second window on, taking in
//! what came and naming and storing it count as well. They come in lumps a window apart, which no rate can answer at once, so they
//! are spread over time. What the first window takes of them is mostly its start: everything is new then, however little is recorded.

use crate::profile_type::governor::LOOK_NS;

/// Time over which lumps are spread, nanoseconds: a usual window.
const SPREAD_NS: f64 = 10e9;

/// What a recording has cost so far, nanoseconds of CPU time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(clippy::struct_field_names, reason = "the unit")]
pub(crate) struct Spent {
    /// All programs and the way into them.
    pub(crate) programs_ns: u64,
    /// The part of that which samples CPUs.
    pub(crate) sampler_ns: u64,
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
    looked_ns: u64,
    before: Spent,
    /// From the second window on.
    lumps: Option<Spread>,
    told: Told,
}

impl Ledger {
    /// Begins now, with nothing spent.
    pub(crate) fn new(now_ns: u64) -> Self {
        Self { looked_ns: now_ns, before: Spent::default(), lumps: None, told: Told::default() }
    }

    /// Whether it is time for another look.
    pub(crate) fn is_due(&self, now_ns: u64) -> bool {
        now_ns.saturating_sub(self.looked_ns) >= LOOK_NS
    }

    /// A window has ended.
    pub(crate) fn window_ended(&mut self) {
        let outside = self.before.drain_ns + self.before.windows_ns;
        self.lumps.get_or_insert(Spread { given_ns: outside as f64 });
    }

    /// Enters what was spent so far.
    pub(crate) fn look(&mut self, now_ns: u64, spent: Spent, waiting: Waiting) -> Told {
        let elapsed_ns = now_ns.saturating_sub(self.looked_ns);
        let before = std::mem::replace(&mut self.before, spent);
        self.looked_ns = now_ns;
        let programs_ns = spent.programs_ns.saturating_sub(before.programs_ns);
        let Some(lumps) = &mut self.lumps else {
            self.told.waits_ns += programs_ns;
            self.told.sampler_ns += programs_ns + spent.drain_ns.saturating_sub(before.drain_ns);
            return self.told;
        };
        let all_ns = programs_ns + lumps.take(spent.drain_ns + spent.windows_ns, elapsed_ns);
        self.told.waits_ns += all_ns;
        self.told.sampler_ns += match waiting {
            Waiting::CanGive => spent.sampler_ns.saturating_sub(before.sampler_ns),
            Waiting::Not | Waiting::AtTheirEnd => all_ns,
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
    given_ns: f64,
}

impl Spread {
    fn take(&mut self, sum_ns: u64, elapsed_ns: u64) -> u64 {
        let left = (sum_ns as f64 - self.given_ns).max(0.0);
        let given = (left * -(-(elapsed_ns as f64) / SPREAD_NS).exp_m1()).floor();
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
        let (mut ledger, mut spent) = (Ledger::new(0), Spent::default());
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
        let all = run(Waiting::AtTheirEnd, true);
        assert_eq!(all.last().unwrap().sampler_ns, all.last().unwrap().waits_ns);
        assert_eq!(run(Waiting::Not, false).last().unwrap().sampler_ns, 9000 * MS);
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
