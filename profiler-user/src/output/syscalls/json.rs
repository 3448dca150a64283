//! Recordings of system calls as JSON, for scripts.

use serde_json::{Map, Value, json};

use super::table::describe_measure;
use crate::syscalls::{CallReport, CallStats, InFlight, Measure, OwnerCalls, SlowCall};

/// Version of the layout; raised when a reader of the old one would misread the new one.
const SCHEMA: u32 = 1;

/// Everything.
pub fn calls_json(report: &CallReport) -> Value {
    json!({
        "schema": SCHEMA,
        "meta": report.meta,
        "measure": measure(report.measure),
        "processes": report.owners.iter().map(owner).collect::<Vec<_>>(),
        "in_flight": report.in_flight.iter().map(in_flight).collect::<Vec<_>>(),
        "slow_calls": report.slow.iter().map(slow).collect::<Vec<_>>(),
        "slow_calls_total": report.slow_total,
        "slowdown_percent": report.slowdown_percent,
        "quality": report.quality,
    })
}

fn measure(measure: Measure) -> Value {
    let text = describe_measure(measure);
    match measure {
        Measure::Exact => json!({"mode": "exact", "text": text}),
        Measure::Windows => json!({"mode": "windows", "text": text}),
        Measure::Slices { slices, share, exact_share } => {
            json!({"mode": "slices", "slices": slices, "share": share, "exact_share": exact_share, "text": text})
        }
    }
}

fn owner(owner: &OwnerCalls) -> Value {
    let mut object = Map::new();
    if let Some(pid) = owner.pid {
        object.insert("pid".to_owned(), pid.into());
    }
    if let Some(tid) = owner.tid {
        object.insert("tid".to_owned(), tid.into());
    }
    let name = if owner.pid.is_some() { "comm" } else { "cgroup" };
    object.insert(name.to_owned(), (*owner.name).into());
    object.insert("syscalls".to_owned(), owner.calls.iter().map(call).collect());
    Value::Object(object)
}

fn call(call: &CallStats) -> Value {
    let errnos: Map<String, Value> =
        call.errnos.iter().map(|(name, count)| (name.clone(), (*count).into())).collect();
    json!({
        "name": call.name,
        "count": call.count,
        "count_error": call.count_error,
        "errors": call.errors(),
        "errnos": errnos,
        "total_ns": call.total_ns,
        "mean_ns": call.mean_ns,
        "p50_ns": call.p50_ns,
        "p95_ns": call.p95_ns,
        "p99_ns": call.p99_ns,
        "at_least_from": call.at_least_from,
        "max_ns": call.max_ns,
        "in_flight": call.in_flight,
        "unreturned": call.unreturned,
        "restarted": call.restarted,
        "histogram": call.histogram.iter().map(|(first, last, count)| json!([first, last, count])).collect::<Vec<_>>(),
    })
}

fn slow(call: &SlowCall) -> Value {
    json!({
        "pid": call.pid,
        "tid": call.tid,
        "thread": *call.thread,
        "name": call.name,
        "ns": call.ns,
        "arguments": call.arguments,
        "result": call.result,
        "stack": call.stack,
    })
}

fn in_flight(call: &InFlight) -> Value {
    json!({
        "pid": call.pid,
        "tid": call.tid,
        "thread": *call.thread,
        "name": call.name,
        "ns": call.ns,
        "began_before": call.began_before,
    })
}
