//! The call tree as JSON, for viewers that draw it themselves: the boxes that the picture has, with the picture's colours.
//!
//! Schema 1: `title`, `subtitle`, `quality_line`, `notes`, `value_type`, `total`, `left_out_below` (boxes with less have none), `legend` (kind and
//! colour), `functions` (name, module, kind, colour), `nodes` (depth, index of the function, total, own), depth first.

use std::collections::HashMap;
use std::io::Write;

use inferno::flamegraph::color::Color;
use serde_json::{Value, json};

use super::{OTHER_ROOTS, colours, narrowest_drawn, subtitle_of, title_of, waiting_percent};
use crate::output::quality::quality_line;
use crate::output::{OutputError, OutputOptions, Palette};
use crate::profile::{Profile, clean};
use crate::report::{CallTree, Function, FunctionClass};

/// Functions as they are numbered for the file.
#[derive(Default)]
struct Numbered<'t> {
    ids: HashMap<(Function<'t>, Option<u8>), usize>,
    rows: Vec<Value>,
    classes: Vec<FunctionClass>,
}

impl<'t> Numbered<'t> {
    fn id(&mut self, function: &Function<'t>, waiting: Option<u8>, palette: Palette) -> usize {
        let Self { ids, rows, classes } = self;
        *ids.entry((function.clone(), waiting)).or_insert_with(|| {
            let colour = colours::of(function, palette);
            let colour = waiting.map_or(colour, |percent| colours::cooled(colour, percent));
            let name = if function.name.is_empty() { "[unknown]" } else { function.name };
            let (name, module) = (clean(name.as_bytes()), clean(function.module.as_bytes()));
            rows.push(json!([name, module, function.class.name(), hex(colour)]));
            if !classes.contains(&function.class) {
                classes.push(function.class);
            }
            rows.len() - 1
        })
    }
}

/// Writes `profile` as a tree.
pub(in crate::output) fn write(
    profile: &Profile,
    options: &OutputOptions,
    out: &mut dyn Write,
) -> Result<(), OutputError> {
    let value = options.value_of(profile, profile.default_value())?;
    let palette = super::palette_of(profile, value, options.palette);
    let tree = CallTree::new(profile, value, options.merge, options.roots);
    let narrowest = narrowest_drawn(&tree, options.min_width_percent);
    let mixed = profile.waiting_value(value).is_some();
    let mut functions = Numbered::default();
    let mut nodes: Vec<[u64; 4]> = Vec::new();
    let mut others: u64 = 0;
    let mut index = 0;
    while let Some(node) = tree.nodes().get(index) {
        if node.total < narrowest {
            others = others.saturating_add(if node.depth == 0 { node.total } else { 0 });
            index = node.end as usize;
            continue;
        }
        let function = functions.id(&tree.function(node), waiting_percent(node, mixed), palette);
        nodes.push([u64::from(node.depth), function as u64, node.total, node.own]);
        index += 1;
    }
    if others > 0 {
        let function = functions.id(&OTHER_ROOTS, None, palette);
        nodes.push([0, function as u64, others, 0]);
    }
    let known = FunctionClass::ALL.iter().filter(|class| functions.classes.contains(class));
    let legend: Vec<Value> =
        known.map(|class| json!([class.name(), hex(colours::legend(*class, palette))])).collect();
    let title = options.title.clone().unwrap_or_else(|| title_of(profile));
    let subtitle = options.subtitle.clone().unwrap_or_else(|| subtitle_of(profile));
    let document = json!({
        "schema": 1,
        "title": clean(title.as_bytes()),
        "subtitle": clean(subtitle.as_bytes()),
        "quality_line": quality_line(&profile.quality),
        "notes": profile.quality.notes,
        "value_type": profile.value_types.get(value),
        "total": tree.total(),
        "left_out_below": narrowest,
        "legend": legend,
        "functions": functions.rows,
        "nodes": nodes,
    });
    writeln!(out, "{document}")?;
    Ok(())
}

fn hex(colour: Color) -> String {
    format!("#{:02x}{:02x}{:02x}", colour.r, colour.g, colour.b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::fixture;

    fn written(profile: &Profile, options: &OutputOptions) -> Value {
        let mut out = Vec::new();
        write(profile, options, &mut out).unwrap();
        serde_json::from_slice(&out).unwrap()
    }

    #[test]
    fn boxes_have_what_the_profile_has() {
        for profile in [fixture::hostile(), fixture::recursive()] {
            let tree = written(&profile, &OutputOptions::default());
            let nodes = tree["nodes"].as_array().unwrap();
            let sum = |column: usize, wanted: &dyn Fn(&Value) -> bool| -> u64 {
                nodes.iter().filter(|node| wanted(node)).map(|node| node[column].as_u64().unwrap()).sum()
            };
            let total = profile.total(profile.default_value());
            assert_eq!(sum(2, &|node| node[0] == 0), total);
            assert_eq!(sum(3, &|_| true), total);
            let functions = tree["functions"].as_array().unwrap();
            assert!(nodes.iter().all(|node| (node[1].as_u64().unwrap() as usize) < functions.len()));
            assert!(functions.iter().all(|function| function[3].as_str().unwrap().len() == 7));
        }
    }

    #[test]
    fn narrow_boxes_are_left_out_and_small_processes_stay_in_the_sum() {
        let profile = fixture::hostile();
        let options = OutputOptions { min_width_percent: Some(60.0), ..OutputOptions::default() };
        let tree = written(&profile, &options);
        let roots = tree["nodes"].as_array().unwrap().iter().filter(|node| node[0] == 0);
        let sum: u64 = roots.map(|node| node[2].as_u64().unwrap()).sum();
        assert_eq!(sum, profile.total(profile.default_value()));
        assert_eq!(written(&fixture::empty(), &OutputOptions::default())["nodes"], json!([]));
    }
}
