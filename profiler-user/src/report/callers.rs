//! Who calls a function, and what it calls: the paths above or below its outermost occurrence in each stack.

use std::collections::BTreeMap;

use super::{Detail, Function, FunctionId, Functions};
use crate::profile::Profile;

/// Which way to look from the function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Towards the root: who calls it.
    Callers,
    /// Towards the leaf: what it calls.
    Callees,
}

/// One function on a path from the one in question, with the paths that go on from here.
#[derive(Debug, Clone)]
pub struct Branch {
    /// The caller or callee.
    pub function: FunctionId,
    /// Value of the samples on this path.
    pub total: u64,
    /// The next level, most expensive first.
    pub branches: Vec<Branch>,
}

/// The answer for one function.
#[derive(Debug)]
pub struct Neighbours<'p> {
    /// Names for the branches.
    pub functions: Functions<'p>,
    /// The functions that the question matched. Several when it was only a part of a name.
    pub matched: Vec<FunctionId>,
    /// Which way the branches go.
    pub side: Side,
    /// Value of the samples with the function as the innermost frame.
    pub own: u64,
    /// Value of the samples with the function on the stack.
    pub total: u64,
    /// Value of the samples that have no caller (or no callee) of it.
    pub ends_here: u64,
    /// Value of all samples of the profile.
    pub profile_total: u64,
    /// The first level, most expensive first.
    pub branches: Vec<Branch>,
}

/// Deepest tree that [`neighbours`] makes. Deeper ones are no help to a reader, and trees are walked by recursion.
pub const MAX_LEVELS: usize = 64;

/// No function of the profile has this name or a name that contains it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no function in this profile is named {wanted:?} or has it in its name")]
pub struct NoSuchFunction {
    /// What was asked for.
    pub wanted: String,
}

/// Looks up the callers or callees of `wanted`: the functions of exactly this name, or else all whose name
/// contains it, or contains it in other letter case. Paths are followed for `levels` steps, at most [`MAX_LEVELS`].
///
/// # Errors
/// When no function matches.
pub fn neighbours<'p>(
    profile: &'p Profile,
    value: usize,
    wanted: &str,
    side: Side,
    levels: usize,
) -> Result<Neighbours<'p>, NoSuchFunction> {
    let levels = levels.min(MAX_LEVELS);
    let functions = Functions::new(profile, Detail::Function);
    let matched = matching(&functions, wanted)?;
    let mut found = Neighbours {
        matched,
        side,
        own: 0,
        total: 0,
        ends_here: 0,
        profile_total: profile.total(value),
        branches: Vec::new(),
        functions,
    };
    let mut tree = Level::default();
    for sample in &profile.samples {
        let amount = sample.values.get(value).copied().unwrap_or(0);
        let stack: Vec<FunctionId> = found.functions.of_stack(profile.stack(sample.stack)).collect();
        // The outermost occurrence: a recursive function is its own callee, and counts once.
        let Some(at) = stack.iter().rposition(|id| found.matched.binary_search(id).is_ok()) else { continue };
        if found.matched.binary_search(&stack[0]).is_ok() {
            found.own = found.own.saturating_add(amount);
        }
        found.total = found.total.saturating_add(amount);
        let empty = match side {
            Side::Callers => tree.add(&mut stack[at + 1..].iter().take(levels), amount),
            Side::Callees => tree.add(&mut stack[..at].iter().rev().take(levels), amount),
        };
        if empty {
            found.ends_here = found.ends_here.saturating_add(amount);
        }
    }
    found.branches = tree.sorted(&found.functions);
    Ok(found)
}

/// Ids of the functions that `wanted` names, sorted.
fn matching(functions: &Functions<'_>, wanted: &str) -> Result<Vec<FunctionId>, NoSuchFunction> {
    let select = |matches: &dyn Fn(&Function<'_>) -> bool| -> Vec<FunctionId> {
        let all = functions.entries().iter().enumerate();
        all.filter(|(_, function)| matches(function)).map(|(id, _)| FunctionId(id as u32)).collect()
    };
    let exact = select(&|function| function.name == wanted);
    let mut matched = exact;
    if matched.is_empty() {
        matched = select(&|function| function.name.contains(wanted));
    }
    if matched.is_empty() {
        let wanted = wanted.to_lowercase();
        matched = select(&|function| function.name.to_lowercase().contains(&wanted));
    }
    if matched.is_empty() { Err(NoSuchFunction { wanted: wanted.to_owned() }) } else { Ok(matched) }
}

/// The branches below one point while they are being added up.
#[derive(Default)]
struct Level {
    branches: BTreeMap<FunctionId, (u64, Level)>,
}

impl Level {
    /// Adds one path. True when it was empty.
    fn add(&mut self, path: &mut dyn Iterator<Item = &FunctionId>, amount: u64) -> bool {
        let mut level = self;
        let mut empty = true;
        for id in path {
            let (total, below) = level.branches.entry(*id).or_default();
            *total = total.saturating_add(amount);
            level = below;
            empty = false;
        }
        empty
    }

    fn sorted(self, functions: &Functions<'_>) -> Vec<Branch> {
        let mut branches: Vec<Branch> = self
            .branches
            .into_iter()
            .map(|(function, (total, below))| Branch { function, total, branches: below.sorted(functions) })
            .collect();
        branches.sort_by(|a, b| {
            b.total.cmp(&a.total).then_with(|| functions.get(a.function).cmp(functions.get(b.function)))
        });
        branches
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::fixture;

    #[test]
    fn callers_and_callees_of_a_recursive_function() {
        let profile = fixture::recursive();
        let callers = neighbours(&profile, 0, "fib", Side::Callers, 8).unwrap();
        assert_eq!((callers.own, callers.total, callers.ends_here), (7, 9, 0));
        assert_eq!(callers.functions.get(callers.branches[0].function).name, "main");
        assert_eq!(callers.branches[0].total, 9);

        let callees = neighbours(&profile, 0, "fib", Side::Callees, 1).unwrap();
        assert_eq!((callees.total, callees.ends_here), (9, 4));
        assert_eq!(callees.functions.get(callees.branches[0].function).name, "fib");
        assert_eq!((callees.branches[0].total, callees.branches[0].branches.len()), (5, 0));
    }

    #[test]
    fn a_part_of_a_name_matches_when_no_name_is_equal() {
        let profile = fixture::recursive();
        let found = neighbours(&profile, 0, "ea", Side::Callers, 2).unwrap();
        assert_eq!(found.functions.get(found.matched[0]).name, "leaf");
        let missing = neighbours(&profile, 0, "nothing", Side::Callers, 2).unwrap_err();
        assert_eq!(missing.wanted, "nothing");
    }
}
