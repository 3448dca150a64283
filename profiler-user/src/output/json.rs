//! JSON for jq and scripts.
//!
//! Schema 1: `schema`, `meta`, `quality`, `quality_line`, `value_types` (kind, unit, total), `functions` (hotspots:
//! name, module, kind, file, and for each value its `self` and `total`), `samples` (pid, tid, process, thread,
//! cgroup, cpu, `values` by kind, `stack` root first); of allocations also `totals` and `sites` (see [`super::sites_json`]). Fields may be added; those that exist keep their meaning
//! until the schema number changes. Missing knowledge is null.

use std::collections::BTreeMap;
use std::io::Write;

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::quality::quality_line;
use super::{OutputError, OutputOptions, sites_json};
use crate::profile::{Allocations, Meta, Profile, Quality, Sample};
use crate::report::{Branch, Detail, Functions, Hotspots, Neighbours, Side, SortBy, hotspots};

/// Version of the schema.
const SCHEMA: u32 = 1;

#[derive(Serialize)]
struct Head<'p> {
    schema: u32,
    meta: &'p Meta,
    quality: &'p Quality,
    quality_line: String,
    value_types: Vec<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    totals: Option<&'p Allocations>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sites: Option<Value>,
}

#[derive(Serialize)]
struct SampleRow<'p> {
    pid: u32,
    tid: u32,
    process: &'p str,
    thread: &'p str,
    cgroup: Option<&'p str>,
    cpu: Option<u32>,
    values: BTreeMap<&'p str, u64>,
    stack: Vec<&'p str>,
}

/// Writes `profile` as JSON, one sample per line.
pub(super) fn write(
    profile: &Profile,
    options: &OutputOptions,
    out: &mut dyn Write,
) -> Result<(), OutputError> {
    let value = options.value_of(profile, profile.default_value())?;
    let head = to_text(&head(profile))?;
    // The head is an object: left open, the lists go on in it.
    write!(out, "{},\n\"functions\":[", head.trim_end_matches('}'))?;
    let all: Vec<Hotspots<'_>> = (0..profile.value_types.len())
        .map(|index| hotspots(profile, index, Detail::Function, SortBy::Own))
        .collect();
    let by_id = |table: &Hotspots<'_>| -> BTreeMap<_, _> {
        table.rows.iter().map(|row| (row.function, (row.own, row.total))).collect()
    };
    let values: Vec<_> = all.iter().map(by_id).collect();
    let mut separator = "\n";
    for row in all.get(value).map_or(&[][..], |table| &table.rows) {
        let function = all[value].functions.get(row.function);
        let mut values_of = Map::new();
        for (value_type, table) in profile.value_types.iter().zip(&values) {
            let (own, total) = table.get(&row.function).copied().unwrap_or_default();
            values_of.insert(value_type.kind.clone(), json!({"self": own, "total": total}));
        }
        let row = json!({
            "name": function.name,
            "module": function.module,
            "kind": function.class.name(),
            "file": function.file,
            "values": values_of,
        });
        write!(out, "{separator}{}", to_text(&row)?)?;
        separator = ",\n";
    }
    out.write_all(b"],\n\"samples\":[")?;
    let functions = Functions::new(profile, Detail::Function);
    separator = "\n";
    for sample in &profile.samples {
        write!(out, "{separator}{}", to_text(&sample_row(profile, &functions, sample))?)?;
        separator = ",\n";
    }
    out.write_all(b"]}\n")?;
    Ok(())
}

/// The hotspot table as JSON: percentages refer to `total`. Of allocations also `totals` and `sites`.
pub fn hotspots_json(profile: &Profile, table: &Hotspots<'_>, top: usize) -> Value {
    let share = |value: u64| share(value, table.total);
    let row = |row: &crate::report::Hotspot| {
        let function = table.functions.get(row.function);
        json!({
            "name": function.name,
            "module": function.module,
            "kind": function.class.name(),
            "file": function.file,
            "line": function.line,
            "self": row.own,
            "total": row.total,
            "self_percent": share(row.own),
            "total_percent": share(row.total),
        })
    };
    let mut found = json!({
        "schema": SCHEMA,
        "meta": profile.meta,
        "quality": profile.quality,
        "quality_line": quality_line(&profile.quality),
        "value_type": profile.value_types.get(table.value),
        "total": table.total,
        "functions": table.rows.iter().take(top).map(row).collect::<Vec<_>>(),
    });
    if let (Some(allocations), Some(sites)) = (&profile.meta.allocations, sites_json(profile)) {
        found["totals"] = json!(allocations);
        found["sites"] = sites;
    }
    found
}

/// Callers or callees as JSON: a tree whose percentages refer to the function's own `total`.
pub fn neighbours_json(profile: &Profile, found: &Neighbours<'_>, value: usize) -> Value {
    let side = match found.side {
        Side::Callers => "callers",
        Side::Callees => "callees",
    };
    let names: Vec<&str> = found.matched.iter().map(|id| found.functions.get(*id).name).collect();
    json!({
        "schema": SCHEMA,
        "meta": profile.meta,
        "quality": profile.quality,
        "quality_line": quality_line(&profile.quality),
        "value_type": profile.value_types.get(value),
        "functions": names,
        "self": found.own,
        "total": found.total,
        "total_percent": share(found.total, found.profile_total),
        "none": found.ends_here,
        side: found.branches.iter().map(|branch| branch_json(found, branch)).collect::<Vec<_>>(),
    })
}

fn branch_json(found: &Neighbours<'_>, branch: &Branch) -> Value {
    let function = found.functions.get(branch.function);
    json!({
        "name": function.name,
        "module": function.module,
        "total": branch.total,
        "percent": share(branch.total, found.total),
        "next": branch.branches.iter().map(|next| branch_json(found, next)).collect::<Vec<_>>(),
    })
}

fn head(profile: &Profile) -> Head<'_> {
    let value_types = profile.value_types.iter().enumerate();
    Head {
        schema: SCHEMA,
        meta: &profile.meta,
        quality: &profile.quality,
        quality_line: quality_line(&profile.quality),
        value_types: value_types
            .map(|(index, value)| {
                json!({"kind": value.kind, "unit": value.unit, "total": profile.total(index)})
            })
            .collect(),
        totals: profile.meta.allocations.as_ref(),
        sites: sites_json(profile),
    }
}

fn sample_row<'p>(profile: &'p Profile, functions: &Functions<'p>, sample: &Sample) -> SampleRow<'p> {
    let labels = profile.labels_of(sample);
    let stack = functions.of_stack(profile.stack(sample.stack)).rev();
    SampleRow {
        pid: labels.pid,
        tid: labels.tid,
        process: &labels.process,
        thread: &labels.thread,
        cgroup: labels.cgroup.as_deref(),
        cpu: labels.cpu,
        values: profile
            .value_types
            .iter()
            .map(|value| &*value.kind)
            .zip(sample.values.iter().copied())
            .collect(),
        stack: stack.map(|id| functions.get(id).name).collect(),
    }
}

fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { (part as f64 * 10_000.0 / whole as f64).round() / 100.0 }
}

fn to_text(value: &impl Serialize) -> Result<String, OutputError> {
    serde_json::to_string(value).map_err(|error| OutputError::Io(error.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::fixture;

    fn written(profile: &Profile) -> String {
        let mut out = Vec::new();
        write(profile, &OutputOptions::default(), &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn golden() {
        fixture::golden("hostile.json", written(&fixture::hostile()));
    }

    #[test]
    fn numbers_agree_with_the_profile() {
        let profile = fixture::hostile();
        let value: Value = serde_json::from_str(&written(&profile)).unwrap();
        let sum = |key: &str| -> u64 {
            value["samples"].as_array().unwrap().iter().map(|row| row["values"][key].as_u64().unwrap()).sum()
        };
        assert_eq!((sum("samples"), sum("cpu")), (profile.total(0), profile.total(1)));
        let own: u64 = value["functions"]
            .as_array()
            .unwrap()
            .iter()
            .map(|f| f["values"]["cpu"]["self"].as_u64().unwrap())
            .sum();
        assert_eq!(own, profile.total(1));
        assert_eq!(value["quality"]["samples"], 3012);
    }

    #[test]
    fn an_empty_profile_is_valid_json() {
        for profile in [fixture::empty(), Profile::default()] {
            let value: Value = serde_json::from_str(&written(&profile)).unwrap();
            assert_eq!(value["samples"], json!([]));
        }
    }
}
