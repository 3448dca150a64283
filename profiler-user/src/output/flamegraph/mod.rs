//! The flame graph: an SVG with search, zoom and hover text, drawn by inferno.
//!
//! The call tree is merged and thinned out here, handed to inferno as folded lines with one colour per function, and
//! the result is completed in [`picture`]: module and kind in the hover text, a legend, the quality line. Names are
//! escaped by inferno's XML writer; what would break its line format travels as control characters, which cleaned
//! names do not have, and is put back afterwards.

mod colours;
mod describe;
mod picture;
pub(super) mod tree;

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::Write;

use inferno::flamegraph::color::{BackgroundColor, PaletteMap};
use inferno::flamegraph::{Direction, Options, TextTruncateDirection, from_lines};

pub use describe::{describe_recording, subtitle_of, title_of};

use super::{Growth, OutputError, OutputOptions, Palette};
use crate::profile::{Profile, ValueType, clean};
use crate::report::{CallTree, Function, FunctionClass, Node};

/// Boxes in a picture when the reader sets no limit. A browser zooms this many without delay; past it the narrow
/// ones only cost time.
const MOST_BOXES: usize = 15_000;

/// Largest sum that the picture's JavaScript adds without rounding (2^53); larger ones are scaled down.
const LARGEST_SUM: u64 = 1 << 53;

/// Ends a function's name inside a folded line; the hover text follows, up to the next one.
const NAME_END: char = '\x1f';
/// Stands for `;`, which separates frames in a folded line.
const SEMICOLON: char = '\x1e';
/// Stands for `#` at the beginning of a line, which makes a comment of it.
const HASH: char = '\x1d';

/// The box that stands for all processes too small for one of their own, so that shares still refer to the whole.
const OTHER_ROOTS: Function<'static> =
    Function { name: "[small processes]", module: "", class: FunctionClass::Root, file: None, line: None };

/// Writes `profile` as a flame graph.
pub(super) fn write(
    profile: &Profile,
    options: &OutputOptions,
    out: &mut dyn Write,
) -> Result<(), OutputError> {
    let value = options.value_of(profile, profile.default_value())?;
    let palette = palette_of(profile, value, options.palette);
    let title = options.title.clone().unwrap_or_else(|| title_of(profile));
    let subtitle = options.subtitle.clone().unwrap_or_else(|| subtitle_of(profile));
    let (title, subtitle) = (clean(title.as_bytes()), clean(subtitle.as_bytes()));

    let tree = CallTree::new(profile, value, options.merge, options.roots);
    if tree.total() == 0 {
        out.write_all(picture::empty(&title, &subtitle, &picture::Footer::new(profile, palette)).as_bytes())?;
        return Ok(());
    }
    let narrowest = narrowest_drawn(&tree, options.min_width_percent);
    let lines = folded_lines(&tree, narrowest, profile.waiting_value(value).is_some());
    let mut colours = PaletteMap::default();
    colours.insert("", colours::ALL);
    colours.insert(frame_key(&OTHER_ROOTS, true, None), colours::of(&OTHER_ROOTS, palette));
    let mut footer = picture::Footer::new(profile, palette);
    let mixed = profile.waiting_value(value).is_some();
    if mixed {
        footer.note_mixed();
    }
    for node in tree.nodes().iter().filter(|node| node.total >= narrowest) {
        let function = tree.function(node);
        footer.note_class(function.class);
        let waiting = waiting_percent(node, mixed);
        let key = frame_key(&function, node.depth == 0, waiting);
        if colours.get(&key).is_none() {
            let colour = colours::of(&function, palette);
            colours.insert(&key, waiting.map_or(colour, |percent| colours::cooled(colour, percent)));
        }
    }
    if narrowest > 1 && tree.nodes().iter().any(|node| node.total < narrowest) {
        footer.note_left_out(narrowest as f64 * 100.0 / tree.total() as f64);
    }

    let (factor, count_name) = unit(profile.value_types.get(value), tree.total());
    let mut settings = Options::default();
    settings.palette_map = Some(&mut colours);
    settings.bgcolors = Some(BackgroundColor::Grey);
    settings.title = title;
    settings.subtitle = Some(subtitle);
    settings.image_width = options.width;
    settings.min_width = 0.0;
    settings.direction = match options.growth {
        Growth::Up => Direction::Straight,
        Growth::Down => Direction::Inverted,
    };
    settings.text_truncate_direction = TextTruncateDirection::Right;
    settings.factor = factor * scale(tree.total()) as f64;
    settings.count_name = count_name;
    let mut svg = Vec::new();
    from_lines(&mut settings, lines.iter().map(String::as_str), &mut svg)?;
    picture::complete(&svg, &footer, out)?;
    Ok(())
}

/// Pictures of memory have their own colours, unless others are asked for.
fn palette_of(profile: &Profile, value: usize, asked: Palette) -> Palette {
    let is_memory = profile.value_types.get(value).is_some_and(|value| value.unit == "bytes");
    if asked == Palette::Kind && is_memory { Palette::Memory } else { asked }
}

/// The smallest value whose box is drawn.
fn narrowest_drawn(tree: &CallTree<'_>, min_width_percent: Option<f64>) -> u64 {
    let floor = scale(tree.total());
    if let Some(percent) = min_width_percent {
        return floor.max((tree.total() as f64 * percent.clamp(0.0, 100.0) / 100.0).ceil() as u64);
    }
    let mut totals: Vec<u64> = tree.nodes().iter().map(|node| node.total).collect();
    if totals.len() <= MOST_BOXES {
        return floor;
    }
    let (_, first_left_out, _) = totals.select_nth_unstable_by(MOST_BOXES, |a, b| b.cmp(a));
    floor.max(first_left_out.saturating_add(1))
}

fn scale(total: u64) -> u64 {
    total / LARGEST_SUM + 1
}

/// One line per path that ends somewhere, or whose children are all too narrow to draw.
fn folded_lines(tree: &CallTree<'_>, narrowest: u64, mixed: bool) -> Vec<String> {
    let scale = scale(tree.total());
    let nodes = tree.nodes();
    let mut lines = Vec::new();
    let mut path = String::new();
    let mut path_ends: Vec<usize> = Vec::new();
    let mut other_roots: u64 = 0;
    let mut index = 0;
    while let Some(node) = nodes.get(index) {
        if node.total < narrowest {
            if node.depth == 0 {
                other_roots = other_roots.saturating_add(node.total);
            }
            index = node.end as usize;
            continue;
        }
        path_ends.truncate(node.depth as usize);
        path.truncate(path_ends.last().copied().unwrap_or(0));
        if !path.is_empty() {
            path.push(';');
        }
        path.push_str(&frame_key(&tree.function(node), node.depth == 0, waiting_percent(node, mixed)));
        path_ends.push(path.len());
        let here = (node.total - drawn_below(nodes, index, narrowest)) / scale;
        if here > 0 {
            lines.push(format!("{path} {here}"));
        }
        index += 1;
    }
    if other_roots / scale > 0 {
        lines.push(format!("{} {}", frame_key(&OTHER_ROOTS, true, None), other_roots / scale));
    }
    lines
}

/// Value of the children that get boxes of their own.
fn drawn_below(nodes: &[Node], parent: usize, narrowest: u64) -> u64 {
    let mut sum: u64 = 0;
    let mut child = parent + 1;
    while child < nodes[parent].end as usize {
        if nodes[child].total >= narrowest {
            sum = sum.saturating_add(nodes[child].total);
        }
        child = nodes[child].end as usize;
    }
    sum
}

/// Share of a node's time that was spent waiting, in a picture that mixes it with running.
fn waiting_percent(node: &Node, mixed: bool) -> Option<u8> {
    mixed.then(|| (u128::from(node.waiting) * 100 / u128::from(node.total.max(1))).min(100) as u8)
}

/// A function as inferno gets it: name and hover text, both ended, so that no name is the beginning of another and
/// none ends in what looks like a count. Inferno gives equal ones one colour, so the share of waiting, by which boxes are coloured, is part of it.
fn frame_key(function: &Function<'_>, root: bool, waiting: Option<u8>) -> String {
    let mut key = String::with_capacity(function.name.len() + function.module.len() + 16);
    let name = showable(function.name);
    let name: &str = if name.is_empty() { "[unknown]" } else { &name };
    for (index, c) in name.chars().enumerate() {
        key.push(match c {
            ';' => SEMICOLON,
            '#' if root && index == 0 => HASH,
            c => c,
        });
    }
    key.push(NAME_END);
    let class = match function.class {
        FunctionClass::Native | FunctionClass::Unknown | FunctionClass::Marker => "",
        class => class.name(),
    };
    for c in showable(function.module).chars() {
        key.push(match c {
            ';' => SEMICOLON,
            // The picture's script takes everything before the last parenthesis for the name.
            '(' => '[',
            ')' => ']',
            c => c,
        });
    }
    if !function.module.is_empty() && !class.is_empty() {
        key.push_str(", ");
    }
    key.push_str(class);
    if let Some(percent) = waiting {
        let separator = if function.module.is_empty() && class.is_empty() { "" } else { ", " };
        let _cannot_fail = write!(key, "{separator}{percent} % waiting");
    }
    key.push(NAME_END);
    key
}

/// Names come cleaned, but a single stray control character would make the whole picture unreadable.
fn showable(name: &str) -> Cow<'_, str> {
    if name.chars().all(|c| !c.is_control() && c < '\u{200b}') {
        Cow::Borrowed(name)
    } else {
        Cow::Owned(clean(name.as_bytes()))
    }
}

/// What one unit of the value is multiplied by for the hover text, and what the product is called.
fn unit(value_type: Option<&ValueType>, total: u64) -> (f64, String) {
    match value_type.map(|value| (value.unit.as_str(), value.kind.as_str())) {
        Some(("nanoseconds", _)) if total < 10_000_000 => (1e-3, "µs".into()),
        Some(("nanoseconds", _)) => (1e-6, "ms".into()),
        Some(("bytes", _)) if total >= 10 << 20 => (1.0 / 1024.0, "KiB".into()),
        Some(("count", kind)) => (1.0, clean(kind.as_bytes())),
        Some((unit, _)) => (1.0, clean(unit.as_bytes())),
        None => (1.0, "samples".into()),
    }
}

#[cfg(test)]
mod tests;
