//! One line of the checklist, and the whole of it.

use serde::Serialize;

/// The verdict of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Status {
    /// Nothing to do.
    Ok,
    /// Profiling works, with something less.
    Warn,
    /// Profiling does not work.
    Fail,
}

/// Where a check belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Group {
    Kernel,
    Bpf,
    Perf,
    Rights,
    Host,
    Target,
}

impl Group {
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Kernel => "Kernel",
            Self::Bpf => "BPF",
            Self::Perf => "Perf events",
            Self::Rights => "Rights of this process",
            Self::Host => "Host",
            Self::Target => "Target",
        }
    }
}

/// One check with its verdict. The names of the members are the JSON schema.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Check {
    /// Stable name for scripts.
    pub(super) id: String,
    pub(super) group: Group,
    /// The process that it is about; none for checks of the host.
    pub(super) pid: Option<u32>,
    pub(super) status: Status,
    /// The name that people read.
    pub(super) title: String,
    /// What was found.
    pub(super) value: String,
    /// Why it matters; may be empty when all is well.
    pub(super) why: String,
    /// What to do, the preferred way first; empty when there is nothing to do.
    pub(super) fix: Vec<String>,
}

impl Check {
    fn new(group: Group, status: Status, id: &str, title: &str, value: impl Into<String>) -> Self {
        Self {
            id: id.to_owned(),
            group,
            pid: None,
            status,
            title: title.to_owned(),
            value: value.into(),
            why: String::new(),
            fix: Vec::new(),
        }
    }

    pub(super) fn ok(group: Group, id: &str, title: &str, value: impl Into<String>) -> Self {
        Self::new(group, Status::Ok, id, title, value)
    }

    pub(super) fn warn(group: Group, id: &str, title: &str, value: impl Into<String>) -> Self {
        Self::new(group, Status::Warn, id, title, value)
    }

    pub(super) fn fail(group: Group, id: &str, title: &str, value: impl Into<String>) -> Self {
        Self::new(group, Status::Fail, id, title, value)
    }

    pub(super) fn why(mut self, why: impl Into<String>) -> Self {
        self.why = why.into();
        self
    }

    pub(super) fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix.push(fix.into());
        self
    }
}

/// All checks of one run. The names of the members are the JSON schema.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// Changes when a member of the schema is renamed, removed or means something else.
    pub(super) schema: u32,
    pub(super) version: &'static str,
    pub(super) ok: usize,
    pub(super) warn: usize,
    pub(super) fail: usize,
    pub(super) checks: Vec<Check>,
}

impl Report {
    pub(super) fn new(checks: Vec<Check>) -> Self {
        let count = |status| checks.iter().filter(|check| check.status == status).count();
        Self {
            schema: 1,
            version: env!("CARGO_PKG_VERSION"),
            ok: count(Status::Ok),
            warn: count(Status::Warn),
            fail: count(Status::Fail),
            checks,
        }
    }

    pub(super) fn count(&self, status: Status) -> usize {
        match status {
            Status::Ok => self.ok,
            Status::Warn => self.warn,
            Status::Fail => self.fail,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_json_schema_is_this() {
        let check =
            Check::warn(Group::Perf, "pmu", "hardware counters", "none").why("a VM").fix("--event cpu-clock");
        let json = serde_json::to_value(Report::new(vec![check])).unwrap();
        assert_eq!(
            json,
            serde_json::json!({
                "schema": 1, "version": env!("CARGO_PKG_VERSION"), "ok": 0, "warn": 1, "fail": 0,
                "checks": [{
                    "id": "pmu", "group": "perf", "pid": null, "status": "warn", "title": "hardware counters",
                    "value": "none", "why": "a VM", "fix": ["--event cpu-clock"],
                }],
            })
        );
    }
}
