//! What was allocated and not freed over windows, by stack: how much, and how fast it grows.
//!
//! In: the windows of one stretch of time, each with what its stacks asked for and what was freed of it. Out: a profile as the verb `leaks` ends
//! with, for the same tables; what windows do not know (which blocks are left, and how old they are) is left open in it.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

use clap::Args;
use serde_json::{Value, json};

use super::{Kind, PartArgs, Refusal, explained, open};
use crate::output::{quality_line, sites_json};
use crate::profile::{LeakStack, LeakSums, Leaks, Profile, StackId, ValueType};
use crate::quantity::amount;
use crate::report::{Detail, Functions};

/// The profile type that has what is asked for.
const ALLOCATIONS: &str = "alloc";
/// Points over time; of more windows neighbours become one.
const MOST_MOMENTS: usize = 128;

/// Which sites.
#[derive(Debug, Clone, Args)]
pub(crate) struct LeakArgs {
    /// Leave out sites with fewer bytes: 1M, 64K
    #[arg(short = 'z', long, value_name = "SIZE", default_value = "0", value_parser = amount)]
    min_bytes: u64,
}

impl LeakArgs {
    /// What was allocated in that time and not freed.
    ///
    /// # Errors
    ///
    /// Nothing is stored of it, or the store could not be read.
    pub(crate) fn leaks(
        &self,
        store: &Path,
        part: &PartArgs,
        range: &Range<u64>,
    ) -> Result<Profile, Refusal> {
        let part = part.of_type(ALLOCATIONS);
        let reader = open(store)?;
        let mut profile = part.select(store, range).map_err(|refusal| {
            let any = |(windows, _): (Vec<crate::store::WindowInfo>, _)| {
                windows.iter().any(|window| window.profile_type == ALLOCATIONS)
            };
            if reader.windows(&(0..u64::MAX)).is_ok_and(any) {
                refusal
            } else {
                refusal.hint("allocations are recorded of processes that a rule names: [allocations] in perf-agent daemon config print-default")
            }
        })?;
        let values = Places::of(&profile).ok_or_else(|| {
            Refusal::new(Kind::Nothing, "these profiles do not say what was freed".to_owned())
        })?;
        let mut steps = Vec::new();
        {
            let stacks = Stacks::of(&profile);
            let problems = reader.each(range, ALLOCATIONS, &part.filter(), |window| {
                if let Some(values) = Places::of(&window) {
                    steps.push(Step::of(&window, &values, &stacks));
                }
            });
            // What could not be read is in the notes of the sum.
            problems.map_err(|error| explained(&error))?;
        }
        let windows = steps.len() as u64;
        let (moments_ns, series) = series(steps);
        let mut sums = by_stack(&profile, &values);
        for (stack, series) in series {
            if let Some(known) = sums.get_mut(&stack) {
                known.series = series;
            }
        }
        let mut stacks: Vec<LeakStack> =
            sums.into_iter().map(|(stack, sums)| LeakStack { stack, sums }).collect();
        stacks.retain(|stack| stack.sums.says_something());
        stacks.sort_unstable_by_key(|stack| stack.stack);
        profile.meta.leaks = Some(Leaks {
            watched_ns: profile.meta.duration_ns,
            min_bytes: self.min_bytes,
            moments_ns,
            correction: 1.0,
            windows: Some(windows),
            unfollowed_bytes: stacks.iter().map(|stack| stack.sums.unfollowed_bytes).sum::<f64>() as u64,
            stacks,
            ..Leaks::default()
        });
        values.rewrite(&mut profile);
        Ok(profile)
    }

    /// The same question as parameters of the API.
    pub(crate) fn parameters(&self) -> Vec<(&'static str, String)> {
        vec![("min-bytes", self.min_bytes.to_string())]
    }

    /// The answer for programs.
    pub(crate) fn json(profile: &Profile) -> Value {
        json!({
            "schema": 1,
            "meta": &profile.meta,
            "sites": sites_json(profile),
            "quality_line": quality_line(&profile.quality),
            "notes": &profile.quality.notes,
        })
    }
}

/// Where the values are.
struct Places {
    sampled: usize,
    unfollowed_bytes: usize,
    freed_objects: usize,
    freed_bytes: usize,
    objects: usize,
    bytes: usize,
}

impl Places {
    fn of(profile: &Profile) -> Option<Self> {
        let place = |kind: &str| profile.value_types.iter().position(|known| known.kind == kind);
        Some(Self {
            sampled: place("sampled")?,
            unfollowed_bytes: place("unfollowed_space")?,
            freed_objects: place("freed_objects")?,
            freed_bytes: place("freed_space")?,
            objects: place("alloc_objects")?,
            bytes: place("alloc_space")?,
        })
    }

    /// Bytes that were allocated and surely not freed in that time, less those that were freed from before it.
    fn kept(&self, values: &[u64]) -> f64 {
        at(values, self.bytes) - at(values, self.freed_bytes) - at(values, self.unfollowed_bytes)
    }

    /// The values of a recording that ends, whose tables show what is in use.
    fn rewrite(&self, profile: &mut Profile) {
        let count = |kind| ValueType::new(kind, "count");
        let bytes = |kind| ValueType::new(kind, "bytes");
        profile.value_types = vec![
            count("sampled"),
            count("alloc_objects"),
            bytes("alloc_space"),
            count("inuse_objects"),
            bytes("inuse_space"),
        ];
        for sample in &mut profile.samples {
            let value = |index: usize| sample.values.get(index).copied().unwrap_or(0);
            sample.values = vec![
                value(self.sampled),
                value(self.objects),
                value(self.bytes),
                value(self.objects).saturating_sub(value(self.freed_objects)),
                self.kept(&sample.values).max(0.0) as u64,
            ];
        }
    }
}

fn at(values: &[u64], index: usize) -> f64 {
    values.get(index).copied().unwrap_or(0) as f64
}

/// What is left of each stack's blocks over the whole time.
fn by_stack(profile: &Profile, values: &Places) -> HashMap<StackId, LeakSums> {
    #[derive(Default)]
    struct Total {
        kept: f64,
        unknown: f64,
        objects: f64,
        freed: f64,
        sampled: f64,
    }
    let mut totals: HashMap<StackId, Total> = HashMap::new();
    for sample in &profile.samples {
        let total = totals.entry(sample.stack).or_default();
        total.kept += values.kept(&sample.values);
        total.unknown += at(&sample.values, values.unfollowed_bytes);
        total.objects += at(&sample.values, values.objects);
        total.freed += at(&sample.values, values.freed_objects);
        total.sampled += at(&sample.values, values.sampled);
    }
    let sums = |total: Total| {
        let live_bytes = total.kept.max(0.0);
        let live_count = if live_bytes > 0.0 { (total.objects - total.freed).max(0.0) } else { 0.0 };
        // Of the calls that stand for others as many are left as of all calls: each is one part of what is left.
        let sampled = total.sampled * live_count / total.objects.max(1.0);
        LeakSums {
            live_count,
            live_bytes,
            live_squares: if sampled > 0.0 { live_bytes * live_bytes / sampled.max(1.0) } else { 0.0 },
            unfollowed_bytes: total.unknown,
            ..LeakSums::default()
        }
    };
    totals.into_iter().map(|(stack, total)| (stack, sums(total))).collect()
}

/// The stacks of a profile by their functions and modules, which are the same in all windows. Stacks of equal names are one.
struct Stacks(HashMap<Vec<String>, StackId>);

impl Stacks {
    fn of(profile: &Profile) -> Self {
        let functions = Functions::new(profile, Detail::Function);
        let mut stacks = HashMap::new();
        for sample in &profile.samples {
            stacks.entry(names(profile, &functions, sample.stack)).or_insert(sample.stack);
        }
        Self(stacks)
    }
}

fn names(profile: &Profile, functions: &Functions<'_>, stack: StackId) -> Vec<String> {
    let name = |function: &crate::report::Function<'_>| format!("{}\0{}", function.name, function.module);
    functions.of_stack(profile.stack(stack)).map(|id| name(functions.get(id))).collect()
}

/// What one window adds.
struct Step {
    start_ns: u64,
    end_ns: u64,
    kept: HashMap<StackId, f64>,
}

impl Step {
    fn of(window: &Profile, values: &Places, stacks: &Stacks) -> Self {
        let functions = Functions::new(window, Detail::Function);
        let mut kept: HashMap<StackId, f64> = HashMap::new();
        for sample in &window.samples {
            // A window that was stored after the sum was made has stacks that are not in it.
            if let Some(stack) = stacks.0.get(&names(window, &functions, sample.stack)) {
                *kept.entry(*stack).or_default() += values.kept(&sample.values);
            }
        }
        let start_ns = window.meta.start_unix_ns;
        Self { start_ns, end_ns: start_ns.saturating_add(window.meta.duration_ns), kept }
    }
}

/// What each stack has kept up to the end of each window, from the beginning of the first on; and when that was.
fn series(mut steps: Vec<Step>) -> (Vec<u64>, HashMap<StackId, Vec<f64>>) {
    steps.sort_unstable_by_key(|step| step.start_ns);
    let start_ns = steps.first().map_or(0, |step| step.start_ns);
    let together = steps.len().div_ceil(MOST_MOMENTS).max(1);
    let mut moments_ns = Vec::new();
    let mut series: HashMap<StackId, Vec<f64>> = HashMap::new();
    for (index, steps) in steps.chunks(together).enumerate() {
        let end_ns = steps.iter().map(|step| step.end_ns).max().unwrap_or(start_ns);
        moments_ns.push(end_ns.saturating_sub(start_ns));
        for (stack, bytes) in steps.iter().flat_map(|step| &step.kept) {
            let values = series.entry(*stack).or_default();
            let so_far = values.last().copied().unwrap_or(0.0);
            values.resize(index + 1, so_far);
            values[index] += bytes;
        }
    }
    for values in series.values_mut() {
        values.resize(moments_ns.len(), values.last().copied().unwrap_or(0.0));
    }
    (moments_ns, series)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn step(number: u64, kept: &[(u32, f64)]) -> Step {
        let kept = kept.iter().map(|(stack, bytes)| (StackId(*stack), *bytes)).collect();
        Step { start_ns: number * SECOND, end_ns: (number + 1) * SECOND, kept }
    }

    #[test]
    fn what_windows_add_is_summed_in_the_order_of_time() {
        let steps = vec![
            step(12, &[(1, -5.0)]),
            step(10, &[(1, 10.0), (2, 1.0)]),
            step(11, &[]),
            step(14, &[(2, 2.0)]),
        ];
        let (moments, found) = series(steps);
        assert_eq!(moments, [SECOND, 2 * SECOND, 3 * SECOND, 5 * SECOND]);
        assert_eq!(found[&StackId(1)], [10.0, 10.0, 5.0, 5.0]);
        assert_eq!(found[&StackId(2)], [1.0, 1.0, 1.0, 3.0]);
    }

    #[test]
    fn many_windows_make_few_points_with_the_same_end() {
        let (moments, found) = series((0..1000).map(|number| step(number, &[(1, 1.0)])).collect());
        assert!(moments.len() <= MOST_MOMENTS && moments.is_sorted());
        let values = &found[&StackId(1)];
        assert_eq!((values.len(), values.last().copied()), (moments.len(), Some(1000.0)));
    }
}
