//! Blocks that were resized again and again, by the site that asked for them first: what it costs to begin too small.
//!
//! In JSON: `chains` (blocks that were resized at least once), `followed` (of these; each may stand for others), `mean_length` and `longest` (calls that
//! resized one block), `mean_first_bytes`, `mean_last_bytes`, `moves` (calls that gave a block another address), `moved_bytes_at_most` (what was copied
//! then, unless the allocator moved pages).

use std::io::{self, Write};

use serde_json::{Value, json};

use super::columns::cut;
use super::numbers::{bytes, thousands};
use super::sites::{Site, Sites};
use super::text::TextStyle;
use crate::profile::ChainSums;

/// Frames of a site that the table shows.
const FRAMES_SHOWN: usize = 4;
/// Sites that it shows at most: those that copied most.
const MOST_SITES: usize = 10;

/// A site's resized blocks as JSON.
pub(super) fn chains_json(sums: &ChainSums) -> Value {
    json!({
        "chains": sums.chains,
        "followed": sums.followed,
        "mean_length": sums.mean(sums.steps),
        "longest": sums.longest,
        "mean_first_bytes": sums.mean(sums.first_bytes),
        "mean_last_bytes": sums.mean(sums.last_bytes),
        "moves": sums.moves,
        "moved_bytes_at_most": sums.moved_bytes,
    })
}

/// The sites whose resized blocks had to be copied most; nothing where none was.
pub(super) fn write_chains(
    out: &mut dyn Write,
    found: &Sites<'_>,
    top: usize,
    style: TextStyle,
) -> io::Result<()> {
    let mut chains: Vec<(&Site, &ChainSums)> =
        found.sites.iter().filter_map(|site| Some((site, site.chains.as_ref()?))).collect();
    chains.retain(|(_, sums)| sums.moved_bytes > 0.0);
    if chains.is_empty() {
        return Ok(());
    }
    chains.sort_by(|(_, a), (_, b)| b.moved_bytes.total_cmp(&a.moved_bytes));
    writeln!(
        out,
        "Realloc chains: blocks resized, how often each, from which size to which; MOVED is what was copied, at most"
    )?;
    writeln!(out, "     MOVED     BLOCKS  MEAN LEN.  LONGEST       FIRST →      LAST  SITE")?;
    let room = style.width.map_or(usize::MAX, |width| width.saturating_sub(68).max(20));
    for (site, sums) in chains.iter().take(top.min(MOST_SITES)) {
        let names: Vec<&str> = found.names(site).take(FRAMES_SHOWN).collect();
        let mean = |sum| bytes(sums.mean(sum).round() as u64);
        writeln!(
            out,
            "{:>10} {:>10} {:>10.1} {:>8} {:>11} → {:>10}  {}",
            bytes(sums.moved_bytes.round() as u64),
            thousands(sums.chains.round() as u64),
            sums.mean(sums.steps),
            thousands(sums.longest),
            mean(sums.first_bytes),
            mean(sums.last_bytes),
            cut(&names.join(" < "), room)
        )?;
    }
    Ok(())
}
