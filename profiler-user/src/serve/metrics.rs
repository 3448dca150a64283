//! Figures for Prometheus (text format 0.0.4): what the recorder told last, without a look at the store.
//!
//! The number of series has a limit whatever runs on the host: processes have at most [`MOST_PROCESSES`] names, and the others share one; so do system
//! calls.

use std::fmt::Write as _;
use std::sync::atomic::Ordering;

use super::answer::{Answer, Refused};
use super::ask::question;
use super::health::told;
use super::routes::Nothing;
use super::service::{MOST_STREAMS, Service};
use crate::continuous::{BOUNDS_NS, Latency, Live, MOST_PROCESSES, Sums};

/// Stands for the processes without a series of their own, and for one that is really called so.
const OTHER: &str = "other";

/// What there is, in groups.
const GROUPS: &[fn(&Live, &mut Page)] = &[build, recording, cpu, waits, memory, calls, cost, losses, store];

pub(super) fn metrics(service: &Service, query: &str) -> Result<Answer, Refused> {
    question::<Nothing>(query)?;
    let live = told(service)?;
    let mut page = Page::default();
    for group in GROUPS {
        group(&live, &mut page);
    }
    api(service, &mut page);
    Ok(Answer::text("text/plain; version=0.0.4; charset=utf-8", page.0))
}

/// The text.
#[derive(Default)]
struct Page(String);

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _strings_never_fail = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        let labels: Vec<String> =
            labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let _strings_never_fail = writeln!(self.0, "{name}{labels} {value}");
    }

    /// Buckets count what is in those below them, too.
    fn histogram(&mut self, name: &str, call: &str, times: &Latency) {
        let bucket = format!("{name}_bucket");
        let mut below = 0_u64;
        let bounds = BOUNDS_NS.iter().map(|ns| seconds(*ns).to_string()).chain(["+Inf".to_owned()]);
        for (bound, count) in bounds.zip(times.buckets) {
            below = below.saturating_add(count);
            self.sample(&bucket, &[("call", call), ("le", &bound)], below as f64);
        }
        self.sample(&format!("{name}_sum"), &[("call", call)], seconds(times.total_ns));
        self.sample(&format!("{name}_count"), &[("call", call)], below as f64);
    }

    fn gauge(&mut self, name: &str, help: &str, value: f64) {
        self.family(name, "gauge", help);
        self.sample(name, &[], value);
    }

    fn counter(&mut self, name: &str, help: &str, value: f64) {
        self.family(name, "counter", help);
        self.sample(name, &[], value);
    }
}

/// A label's value: backslash, quote and line feed are escaped, and nothing else has a meaning.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

fn build(live: &Live, page: &mut Page) {
    page.family("perf_agent_build_info", "gauge", "Always 1; the version is a label.");
    page.sample("perf_agent_build_info", &[("version", super::VERSION)], 1.0);
    let started = seconds(live.status.started_unix_ns);
    page.gauge("perf_agent_start_time_seconds", "When the recording began, Unix time.", started);
}

fn recording(live: &Live, page: &mut Page) {
    let status = &live.status;
    page.gauge(
        "perf_agent_sampling_rate_hertz",
        "CPU samples per second and CPU that are asked for.",
        status.rate_hz as f64,
    );
    page.gauge("perf_agent_window_seconds", "Length of a window.", seconds(status.window_ns));
    page.counter("perf_agent_windows_total", "Windows that were stored.", status.windows as f64);
    page.counter(
        "perf_agent_windows_not_stored_total",
        "Windows that could not be stored.",
        status.not_stored_windows as f64,
    );
    page.gauge(
        "perf_agent_windows_waiting",
        "Windows that are closed and not yet stored.",
        live.waiting.load(Ordering::Acquire) as f64,
    );
    page.gauge(
        "perf_agent_last_window_timestamp_seconds",
        "End of the last window, Unix time; 0 before the first.",
        seconds(status.last_unix_ns),
    );
    page.counter("perf_agent_samples_total", "Samples in stored windows.", status.samples as f64);
    page.counter(
        "perf_agent_samples_not_stored_total",
        "Samples of windows that could not be stored.",
        status.not_stored_samples as f64,
    );
}

fn cpu(live: &Live, page: &mut Page) {
    let name = "perf_agent_process_cpu_seconds_total";
    let help = "CPU time by name of the process, as sampled. A name has a series while it is among the busiest; the others share one.";
    by_process(page, name, help, &live.cpu, seconds);
    page.counter(
        "perf_agent_cpu_seconds_total",
        "CPU time of all processes, as sampled.",
        seconds(live.cpu.total),
    );
}

fn waits(live: &Live, page: &mut Page) {
    if let Some(blocked) = &live.blocked {
        let name = "perf_agent_process_blocked_seconds_total";
        let help = "Time that threads were blocked, by name of the process: threads that sleep add a second each second.";
        by_process(page, name, help, blocked, seconds);
    }
    if let Some(queued) = &live.queued {
        let name = "perf_agent_process_run_queue_seconds_total";
        let help = "Time that threads were ready and waited for a CPU, by name of the process.";
        by_process(page, name, help, queued, seconds);
    }
}

fn memory(live: &Live, page: &mut Page) {
    if let Some(grown) = &live.grown {
        let name = "perf_agent_process_faulted_bytes_total";
        let help = "Memory that became resident by page faults, by name of the process, as sampled; what was given back is not taken off.";
        by_process(page, name, help, grown, |bytes| bytes as f64);
    }
    let allocations = [
        (&live.allocated, "perf_agent_process_allocated_bytes_total", "asked for"),
        (&live.freed, "perf_agent_process_freed_bytes_total", "asked for meanwhile and freed"),
    ];
    for (sums, name, what) in allocations {
        if let Some(sums) = sums {
            let help = format!(
                "Memory that was {what}, by name of the process, of those whose allocations are recorded."
            );
            by_process(page, name, &help, sums, |bytes| bytes as f64);
        }
    }
    let Some(resident) = &live.resident else { return };
    let name = "perf_agent_process_resident_bytes";
    page.family(
        name,
        "gauge",
        "Resident set by name of the process, mean of the last window; shared pages count for each.",
    );
    let mean = |sum: u64| sum as f64 * 1e6 / resident.duration_ns.max(1) as f64;
    let mut other = resident.other;
    for (number, (process, sum)) in resident.by_process.iter().enumerate() {
        if number >= MOST_PROCESSES || &**process == OTHER {
            other = other.saturating_add(*sum);
        } else {
            page.sample(name, &[("process", process)], mean(*sum));
        }
    }
    page.sample(name, &[("process", OTHER)], mean(other));
}

fn calls(live: &Live, page: &mut Page) {
    let Some(calls) = &live.calls else { return };
    let name = "perf_agent_syscall_duration_seconds";
    page.family(
        name,
        "histogram",
        "Duration of system calls of all processes, as measured. A call has a series while it is among the most frequent; the others share one.",
    );
    for (call, (times, _)) in &calls.by_call {
        page.histogram(name, call, times);
    }
    page.histogram(name, OTHER, &calls.other);
}

/// A counter for each process that has a sum of its own, and one for the others.
fn by_process(page: &mut Page, name: &str, help: &str, sums: &Sums, shown: impl Fn(u64) -> f64) {
    page.family(name, "counter", help);
    let mut other = sums.other;
    for (process, (sum, _)) in &sums.by_process {
        if &**process == OTHER {
            other = other.saturating_add(*sum);
        } else {
            page.sample(name, &[("process", process)], shown(*sum));
        }
    }
    page.sample(name, &[("process", OTHER)], shown(other));
}

fn cost(live: &Live, page: &mut Page) {
    let written = &live.written;
    page.counter(
        "perf_agent_own_cpu_seconds_total",
        "CPU time that recording took: the agent, its BPF programs and what leads to them.",
        seconds(written.cost_ns),
    );
    page.counter(
        "perf_agent_machine_cpu_seconds_total",
        "Time of all CPUs together while it recorded, busy or not.",
        seconds(written.machine_ns),
    );
    page.gauge(
        "perf_agent_own_cpu_ratio",
        "Share of the machine that recording took in the last window.",
        live.status.last_cost_percent / 100.0,
    );
    page.gauge(
        "perf_agent_resident_memory_bytes",
        "Resident set of the agent.",
        live.status.rss_bytes as f64,
    );
}

fn losses(live: &Live, page: &mut Page) {
    let name = "perf_agent_lost_total";
    page.family(name, "counter", "What was not recorded, by cause.");
    for lost in &live.status.lost {
        page.sample(name, &[("cause", &lost.id)], lost.count as f64);
    }
    // A series that is there before the first loss lets increase() see it.
    if live.status.lost.is_empty() {
        page.sample(name, &[("cause", "none")], 0.0);
    }
}

fn store(live: &Live, page: &mut Page) {
    let status = &live.status;
    page.gauge("perf_agent_store_bytes", "Size of all files of the store.", status.store_bytes as f64);
    page.counter(
        "perf_agent_store_written_bytes_total",
        "What windows took when they were written.",
        status.written_bytes as f64,
    );
    page.counter(
        "perf_agent_store_dropped_files_total",
        "Files that the store let go before their time: it was full, or the disk was.",
        status.dropped_files as f64,
    );
    page.counter(
        "perf_agent_store_failed_merges_total",
        "Times that windows could not be merged. Nothing is lost by it but room.",
        status.failed_merges as f64,
    );
}

fn api(service: &Service, page: &mut Page) {
    let name = "perf_agent_api_requests_total";
    page.family(name, "counter", "Answered requests, by class of the status.");
    for (class, count) in service.counts.by_class.iter().enumerate().skip(2) {
        let count = count.load(Ordering::Relaxed) as f64;
        page.sample(name, &[("code", &format!("{class}xx"))], count);
    }
    page.counter(
        "perf_agent_api_busy_total",
        "Requests that were told to come again because of too many.",
        service.counts.busy.load(Ordering::Relaxed) as f64,
    );
    page.gauge(
        "perf_agent_api_waiting_requests",
        "Requests that wait for their turn.",
        service.work.waiting() as f64,
    );
    page.gauge(
        "perf_agent_api_streams",
        "Readers that watch windows as they are closed.",
        (MOST_STREAMS - service.streams.available_permits()) as f64,
    );
    page.counter(
        "perf_agent_api_cpu_seconds_total",
        "CPU time that answers from the store took.",
        seconds(service.work.cpu_ns.load(Ordering::Relaxed)),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_adds_up() {
        let mut times = Latency { total_ns: 1_500_000_000, ..Latency::default() };
        (times.buckets[0], times.buckets[2], times.buckets[13]) = (3, 4, 5);
        let mut page = Page::default();
        page.histogram("x", "read", &times);
        assert!(
            page.0.starts_with(
                "x_bucket{call=\"read\",le=\"0.000001024\"} 3\nx_bucket{call=\"read\",le=\"0.000004096\"} 3\n"
            ),
            "{}",
            page.0
        );
        assert!(
            page.0.ends_with("le=\"+Inf\"} 12\nx_sum{call=\"read\"} 1.5\nx_count{call=\"read\"} 12\n"),
            "{}",
            page.0
        );
        assert_eq!(page.0.lines().count(), BOUNDS_NS.len() + 3);
    }

    #[test]
    fn hostile_names_stay_inside_their_label() {
        let mut page = Page::default();
        page.sample("x", &[("process", "a\"} 1\nevil{b=\"\\")], 1.0);
        assert_eq!(page.0, "x{process=\"a\\\"} 1\\nevil{b=\\\"\\\\\"} 1\n");
    }
}
