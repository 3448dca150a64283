//! What a session adds up: an aggregate for each kind of profile that it records.

use crate::aggregate::{Aggregate, StackScope};
use crate::profile_type::ProfileKind;

/// The sums of one kind.
#[derive(Debug)]
pub(super) struct Sums {
    pub(super) kind: ProfileKind,
    pub(super) aggregate: Aggregate,
    /// Samples of earlier windows whose stacks were not kept apart.
    overflowed: u64,
}

impl Sums {
    fn new(kind: ProfileKind, stacks: StackScope) -> Self {
        Self { kind, aggregate: Aggregate::new(stacks), overflowed: 0 }
    }

    /// Takes out what a window has come to.
    pub(super) fn take(&mut self) -> Aggregate {
        self.overflowed += self.aggregate.overflowed();
        // Waits and allocations name stacks that were sent in an earlier window, so the stacks stay.
        let names_stacks = self.kind.waits().is_some() || self.kind.heap().is_some_and(|heap| heap.windows);
        if names_stacks { self.aggregate.take_sums() } else { self.aggregate.take() }
    }
}

/// The sums of all kinds. The first is the one that the recording is about.
#[derive(Debug)]
pub(super) struct AllSums {
    first: Sums,
    beside: Vec<Sums>,
}

impl AllSums {
    pub(super) fn new(first: &ProfileKind, beside: &[ProfileKind], stacks: StackScope) -> Self {
        let new = |kind: &ProfileKind| Sums::new(kind.clone(), stacks);
        Self { first: new(first), beside: beside.iter().map(new).collect() }
    }

    pub(super) fn first(&self) -> &Sums {
        &self.first
    }

    pub(super) fn first_mut(&mut self) -> &mut Sums {
        &mut self.first
    }

    /// Where samples of a collector go: to the first kind that has it.
    pub(super) fn of(&mut self, has: impl Fn(&ProfileKind) -> bool) -> &mut Sums {
        if has(&self.first.kind) {
            return &mut self.first;
        }
        self.beside.iter_mut().find(|sums| has(&sums.kind)).unwrap_or(&mut self.first)
    }

    pub(super) fn all_mut(&mut self) -> impl Iterator<Item = &mut Sums> {
        std::iter::once(&mut self.first).chain(&mut self.beside)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Sums> {
        std::iter::once(&self.first).chain(&self.beside)
    }

    /// Stacks that were not kept apart so far.
    pub(super) fn overflowed(&self) -> u64 {
        self.all().map(|sums| sums.overflowed + sums.aggregate.overflowed()).sum()
    }
}
