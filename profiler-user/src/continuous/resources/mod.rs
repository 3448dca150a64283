//! What processes and the host use, beside the profiles and in the same form: one sample without a stack for each process.
//!
//! In: `/proc`, looked at once a window. Out: a profile of type `resources` with a sample for each process, and one of type `host`. Times and bytes
//! moved are what a window added. What has a level (resident memory, threads, open files, load) is kept as level × milliseconds, which adds up when
//! windows are merged: divided by the length of the window it is the mean.

mod host;
mod processes;

use std::sync::Arc;
use std::time::Instant;

use crate::profile::{Labels, Meta, Profile, ProfileBuilder, Quality, ValueType};

use super::filter::Filter;

/// Profile types.
const RESOURCES: &str = "resources";
const HOST: &str = "host";

/// What was there at the last look.
#[derive(Debug)]
pub(super) struct Resources {
    processes: processes::Processes,
    host: host::Host,
    looked: Instant,
}

impl Resources {
    /// Takes the first look, from which the first window counts.
    pub(super) fn new() -> Self {
        let looked = Instant::now();
        Self { processes: processes::Processes::new(), host: host::Host::look(), looked }
    }

    /// What was used since the last look.
    pub(super) fn window(&mut self, filter: &Filter, meta: &Meta) -> [Profile; 2] {
        let now = Instant::now();
        let elapsed_ms = now.duration_since(self.looked).as_millis().try_into().unwrap_or(u64::MAX);
        self.looked = now;
        let meta = |kind: &str| Meta {
            profile_type: kind.to_owned(),
            clock: "/proc".to_owned(),
            frequency_hz: 0,
            period: 0,
            ..meta.clone()
        };
        let processes = self.processes.window(filter, elapsed_ms, meta(RESOURCES));
        let host = std::mem::replace(&mut self.host, host::Host::look());
        [processes, self.host.since(&host, elapsed_ms, meta(HOST))]
    }
}

/// A profile of samples without stacks.
struct Rows {
    builder: ProfileBuilder,
    rows: u64,
}

impl Rows {
    fn new(value_types: &[(&str, &str)]) -> Self {
        let value_types = value_types.iter().map(|(kind, unit)| ValueType::new(kind, unit)).collect();
        Self { builder: ProfileBuilder::new(value_types), rows: 0 }
    }

    fn add(&mut self, pid: u32, name: &Arc<str>, cgroup: Option<&Arc<str>>, values: &[u64]) {
        let stack = self.builder.stack(Vec::new());
        let labels = Labels {
            pid,
            tid: pid,
            process: Arc::clone(name),
            thread: Arc::clone(name),
            cgroup: cgroup.cloned(),
            cpu: None,
        };
        let labels = self.builder.labels(labels);
        self.builder.add(stack, labels, values);
        self.rows += 1;
    }

    fn finish(self, meta: Meta, notes: Vec<String>) -> Profile {
        let quality = Quality { samples: self.rows, noun: "rows".to_owned(), notes, ..Quality::default() };
        self.builder.finish(meta, quality)
    }
}
