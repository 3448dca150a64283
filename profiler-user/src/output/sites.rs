//! Where memory is allocated: one row for each distinct stack, as a table and as JSON.
//!
//! A site in JSON: `stack` (root first), `alloc_bytes`, `alloc_count`, `live_bytes`, `live_count`, `temporary_percent`, `error_pct`. What was
//! not recorded is null. A site whose blocks were resized has `realloc_chains` as well: see [`super::chains`]. Where leaks were looked for there is more: see [`super::leaks`].

use std::collections::HashMap;
use std::io::{self, Write};

use serde_json::{Value, json};

use super::columns::cut;
use super::numbers::{bytes, thousands};
use super::text::TextStyle;
use crate::allocator::inner_frames;
use crate::profile::{Allocations, ChainSums, LeakSums, Profile, StackId, UnseenFrees};
use crate::report::leaks::{Finding, Verdict, compare_with_growth, judge};
use crate::report::{Detail, FunctionId, Functions};

/// Frames of a site that a table shows.
const FRAMES_SHOWN: usize = 4;

/// One place that allocates.
#[derive(Debug, Clone, PartialEq)]
pub struct Site {
    /// Functions, leaf first, those of the allocator left out.
    stack: Vec<FunctionId>,
    /// Bytes asked for.
    pub alloc_bytes: u64,
    /// Calls.
    pub alloc_count: u64,
    /// Bytes in use, where blocks were followed.
    pub live_bytes: Option<u64>,
    /// Blocks in use, likewise.
    pub live_count: Option<u64>,
    /// Blocks that were freed within a millisecond, likewise.
    pub temporary_count: Option<u64>,
    /// Calls that stand for others too.
    pub sampled: u64,
    /// Half of the 95 % interval of all sites together, percent: what time slices leave open.
    pub common_error: f64,
    /// What becomes of its blocks, where leaks were looked for.
    pub leak: Option<SiteLeak>,
    /// Blocks that it asked for first and that were resized later, by whomever.
    pub chains: Option<ChainSums>,
}

/// Blocks of a site that are not freed.
#[derive(Debug, Clone, PartialEq)]
pub struct SiteLeak {
    /// What was seen.
    pub sums: LeakSums,
    /// What it means.
    pub finding: Finding,
}

impl SiteLeak {
    /// Leaks come first, the fastest before the others; then what is in use.
    fn rank(&self) -> (u32, f64) {
        match self.finding.verdict {
            Verdict::Leaking => (0, -self.finding.growth),
            Verdict::Growing => (1, -self.finding.growth),
            _ => (2, -(self.sums.live_bytes + self.sums.unfollowed_bytes)),
        }
    }
}

impl Site {
    /// Half of the 95 % interval of the bytes, percent of them; zero where every call was taken. Of live bytes where leaks were looked for.
    pub fn error_percent(&self) -> f64 {
        /// Standard errors in it, of a count that is Poisson-distributed.
        const NORMAL: f64 = 1.96;
        if let Some(leak) = &self.leak {
            let share = leak.sums.live_squares.sqrt() / leak.sums.live_bytes.max(1.0);
            return (NORMAL * 100.0 * share).hypot(self.common_error);
        }
        let own = if self.sampled == 0 { 0.0 } else { NORMAL * 100.0 / (self.sampled as f64).sqrt() };
        own.hypot(self.common_error)
    }

    fn temporary_percent(&self) -> Option<f64> {
        self.temporary_count.map(|count| (count as f64 * 100.0 / self.alloc_count.max(1) as f64).min(100.0))
    }
}

/// The sites of a profile with the names for their frames.
pub struct Sites<'p> {
    functions: Functions<'p>,
    /// Those with most bytes first: in use where that is known, else asked for.
    pub sites: Vec<Site>,
}

/// Adds a profile of allocations up by site; none for a profile of something else.
pub fn sites(profile: &Profile) -> Option<Sites<'_>> {
    let index = |kind: &str| profile.value_types.iter().position(|value| value.kind == kind);
    let (space, objects) = (index("alloc_space")?, index("alloc_objects")?);
    let (live_space, live_objects) = (index("inuse_space"), index("inuse_objects"));
    let (temporary, sampled) = (index("temporary_objects"), index("sampled"));
    let common_error = profile.meta.allocations.as_ref().map_or(0.0, |all| all.common_error_percent);
    let functions = Functions::new(profile, Detail::Function);
    let mut by_stack: HashMap<Vec<FunctionId>, Site> = HashMap::new();
    let stack_of = |stack: StackId| {
        let mut stack: Vec<FunctionId> = functions.of_stack(profile.stack(stack)).collect();
        let inside = inner_frames(stack.iter().map(|id| functions.get(*id).name));
        stack.drain(..inside.min(stack.len().saturating_sub(1)));
        stack
    };
    for sample in &profile.samples {
        let value = |index: usize| sample.values.get(index).copied().unwrap_or(0);
        let site = by_stack.entry(stack_of(sample.stack)).or_insert_with_key(|stack| Site {
            stack: stack.clone(),
            alloc_bytes: 0,
            alloc_count: 0,
            live_bytes: live_space.map(|_| 0),
            live_count: live_objects.map(|_| 0),
            temporary_count: temporary.map(|_| 0),
            sampled: 0,
            common_error,
            leak: None,
            chains: None,
        });
        let add = |sum: &mut Option<u64>, index: Option<usize>| {
            if let (Some(sum), Some(index)) = (sum, index) {
                *sum = sum.saturating_add(value(index));
            }
        };
        site.alloc_bytes = site.alloc_bytes.saturating_add(value(space));
        site.alloc_count = site.alloc_count.saturating_add(value(objects));
        add(&mut site.live_bytes, live_space);
        add(&mut site.live_count, live_objects);
        add(&mut site.temporary_count, temporary);
        site.sampled = site.sampled.saturating_add(sampled.map_or(0, value));
    }
    for known in profile.meta.allocations.iter().flat_map(|all| &all.chains) {
        if let Some(site) = by_stack.get_mut(&stack_of(known.stack)) {
            site.chains.get_or_insert_default().add(&known.sums);
        }
    }
    let mut leaking: HashMap<Vec<FunctionId>, LeakSums> = HashMap::new();
    for known in profile.meta.leaks.iter().flat_map(|leaks| &leaks.stacks) {
        leaking.entry(stack_of(known.stack)).or_default().add(&known.sums);
    }
    for (site, leaks) in by_stack.values_mut().zip(profile.meta.leaks.iter().cycle()) {
        if let Some(sums) = leaking.remove(&site.stack) {
            site.leak = Some(SiteLeak { finding: judge(leaks, &sums), sums });
        }
    }
    let mut sites: Vec<Site> = by_stack.into_values().collect();
    if let Some(leaks) = &profile.meta.leaks {
        let found = sites.iter_mut().filter_map(|site| Some(&mut site.leak.as_mut()?.finding));
        compare_with_growth(leaks, &mut found.collect::<Vec<_>>());
    }
    sites.sort_by(|a, b| {
        let key = |site: &Site| (site.live_bytes.unwrap_or(site.alloc_bytes), site.alloc_bytes);
        let rank = |site: &Site| site.leak.as_ref().map_or((3, 0.0), SiteLeak::rank);
        let ((a_class, a_rank), (b_class, b_rank)) = (rank(a), rank(b));
        let by_leak = a_class.cmp(&b_class).then_with(|| a_rank.total_cmp(&b_rank));
        by_leak.then_with(|| key(b).cmp(&key(a))).then_with(|| a.stack.cmp(&b.stack))
    });
    Some(Sites { functions, sites })
}

impl Sites<'_> {
    /// Names of a site's frames, leaf first.
    pub(super) fn names(&self, site: &Site) -> impl DoubleEndedIterator<Item = &str> {
        site.stack.iter().map(|id| self.functions.get(*id).name)
    }
}

/// The table of sites; nothing for a profile of something else.
pub fn write_sites(out: &mut dyn Write, profile: &Profile, top: usize, style: TextStyle) -> io::Result<()> {
    let Some(found) = sites(profile) else { return Ok(()) };
    if let Some(all) = &profile.meta.allocations {
        let mean = all.bytes.checked_div(all.calls).unwrap_or(0);
        let frees = if all.frees > 0 { format!(", {} frees", thousands(all.frees)) } else { String::new() };
        let error =
            if all.error_percent > 0.0 { format!(" ± {:.1} %", all.error_percent) } else { String::new() };
        writeln!(
            out,
            "{} in {} calls{error}, {} on average{frees}; {}",
            bytes(all.bytes),
            thousands(all.calls),
            bytes(mean),
            common_sizes(profile)
        )?;
        if let Some(unseen) = unseen_frees(all) {
            writeln!(out, "{unseen}")?;
        }
        if all.unfollowed_count > 0 {
            writeln!(
                out,
                "live bytes are a lower bound: {} blocks with {} could not be followed, and what became of them is not known",
                thousands(all.unfollowed_count),
                bytes(all.unfollowed_bytes)
            )?;
        }
    }
    let live = found.sites.iter().any(|site| site.live_bytes.is_some());
    let titles = if live {
        "     BYTES      CALLS      MEAN      LIVE  TEMP%     ±%  SITE"
    } else {
        "     BYTES      CALLS      MEAN     ±%  SITE"
    };
    writeln!(out, "{titles}")?;
    let room =
        style.width.map_or(usize::MAX, |width| width.saturating_sub(if live { 56 } else { 39 }).max(20));
    for site in found.sites.iter().take(top) {
        let names: Vec<&str> = found.names(site).take(FRAMES_SHOWN).collect();
        let mean = bytes(site.alloc_bytes.checked_div(site.alloc_count).unwrap_or(0));
        let fixed = format!("{:>10} {:>10} {mean:>9}", bytes(site.alloc_bytes), thousands(site.alloc_count));
        let live = site.live_bytes.map_or_else(String::new, |live| {
            format!(" {:>9} {:>5.0}%", bytes(live), site.temporary_percent().unwrap_or(0.0))
        });
        writeln!(out, "{fixed}{live} {:>5.1}%  {}", site.error_percent(), cut(&names.join(" < "), room))?;
    }
    if found.sites.len() > top {
        writeln!(out, "{} more sites", thousands((found.sites.len() - top) as u64))?;
    }
    super::chains::write_chains(out, &found, top, style)
}

/// Frees of blocks that nobody saw allocated, in words; none where there were none as far as that is known.
pub(super) fn unseen_frees(all: &Allocations) -> Option<String> {
    let UnseenFrees { count, error } = all.unseen_frees?;
    if count == 0 || count <= error {
        return None;
    }
    let about = if error > 0 {
        format!("about {} ± {}", thousands(count), thousands(error))
    } else {
        thousands(count)
    };
    let why = if all.unfollowed_count > 0 {
        ", of copies that a fork made, or of blocks without room in the table"
    } else {
        " or of copies that a fork made"
    };
    Some(format!(
        "{about} of {} frees were of blocks from before the recording{why}: no part of live bytes",
        thousands(all.frees)
    ))
}

/// The three sizes that were asked for most, with their shares of the calls.
fn common_sizes(profile: &Profile) -> String {
    let Some(all) = &profile.meta.allocations else { return String::new() };
    let mut sizes = all.sizes.clone();
    sizes.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.first.cmp(&b.first)));
    let part = |size: &crate::profile::SizeBucket| {
        let range = if size.first == size.last {
            bytes(size.first)
        } else {
            format!("{}–{}", bytes(size.first), bytes(size.last))
        };
        format!("{range} {:.0} %", size.count as f64 * 100.0 / all.calls.max(1) as f64)
    };
    format!("most often {}", sizes.iter().take(3).map(part).collect::<Vec<_>>().join(", "))
}

/// All sites as JSON; none for a profile of something else.
pub fn sites_json(profile: &Profile) -> Option<Value> {
    let found = sites(profile)?;
    let row = |site: &Site| {
        let mut row = json!({
            "stack": found.names(site).rev().collect::<Vec<_>>(),
            "alloc_bytes": site.alloc_bytes,
            "alloc_count": site.alloc_count,
            "live_bytes": site.live_bytes,
            "live_count": site.live_count,
            "temporary_percent": site.temporary_percent(),
            "error_pct": site.error_percent(),
        });
        if let (Some(chains), Some(row)) = (&site.chains, row.as_object_mut()) {
            row.insert("realloc_chains".to_owned(), super::chains::chains_json(chains));
        }
        if let (Some(leak), Some(row)) = (&site.leak, row.as_object_mut()) {
            row.extend(super::leaks::leak_json(leak));
        }
        row
    };
    Some(found.sites.iter().map(row).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::fixture;
    use crate::profile::{ChainStack, SizeBucket, ValueType};

    fn allocations() -> Profile {
        let mut profile = fixture::hostile();
        let kinds =
            ["sampled", "temporary_objects", "alloc_objects", "alloc_space", "inuse_objects", "inuse_space"];
        profile.value_types = kinds.map(|kind| ValueType::new(kind, "count")).to_vec();
        for (index, sample) in profile.samples.iter_mut().enumerate() {
            sample.values = vec![100, 1, 4, 4096 * (index as u64 + 1), 2, 2048];
        }
        let sizes = vec![
            SizeBucket { first: 16, last: 16, count: 3 },
            SizeBucket { first: 1024, last: 1087, count: 1 },
        ];
        let sums = ChainSums {
            chains: 2.0,
            followed: 1,
            steps: 20.0,
            longest: 12,
            first_bytes: 128.0,
            last_bytes: 131_072.0,
            moves: 16.0,
            moved_bytes: 65_408.0,
        };
        let chains = vec![ChainStack { stack: profile.samples[0].stack, sums }];
        profile.meta.allocations =
            Some(Allocations { calls: 4, bytes: 1100, sizes, chains, ..Allocations::default() });
        profile
    }

    #[test]
    fn resized_blocks_are_told_of_where_they_were_asked_for_first() {
        let json = sites_json(&allocations()).unwrap();
        let with: Vec<_> =
            json.as_array().unwrap().iter().filter_map(|site| site.get("realloc_chains")).collect();
        let wanted = json!({
            "chains": 2.0, "followed": 1, "mean_length": 10.0, "longest": 12, "mean_first_bytes": 64.0, "mean_last_bytes": 65_536.0,
            "moves": 16.0, "moved_bytes_at_most": 65_408.0,
        });
        assert_eq!(with, [&wanted]);
        let mut out = Vec::new();
        let style = TextStyle { width: Some(120), colour: false };
        write_sites(&mut out, &allocations(), 3, style).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains("Realloc chains"), "{text}");
        assert!(
            text.contains("    64 KiB          2       10.0       12        64 B →     64 KiB"),
            "{text}"
        );
    }

    #[test]
    fn sites_add_up_to_the_profile() {
        let profile = allocations();
        let found = sites(&profile).unwrap();
        assert_eq!(found.sites.iter().map(|site| site.alloc_bytes).sum::<u64>(), profile.total(3));
        assert!(found.sites.iter().all(|site| (site.error_percent() - 19.6).abs() < 10.0));
        assert!(sites(&fixture::hostile()).is_none());
        assert_eq!(sites_json(&profile).unwrap().as_array().unwrap().len(), found.sites.len());
    }

    #[test]
    fn the_table_fits_and_names_common_sizes() {
        let mut out = Vec::new();
        let style = TextStyle { width: Some(100), colour: false };
        write_sites(&mut out, &allocations(), 3, style).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(
            text.starts_with(
                "1.1 KiB in 4 calls, 275 B on average; most often 16 B 75 %, 1.0 KiB–1.1 KiB 25 %\n"
            ),
            "{text}"
        );
        assert!(text.contains("SITE"), "{text}");
    }
}
