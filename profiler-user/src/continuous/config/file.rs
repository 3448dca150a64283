//! The file as it is written: every key may be missing, no other may be there.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::api::Api;
use super::feeds::{AlertsSection, PushSection};
use super::{Allocations, Also, Config, StoreConfig, value};
use crate::continuous::{Filter, Rule};
use crate::symbolize::native::Detail;

/// Sections of the file, which variables name too.
pub(super) const SECTIONS: [&str; 11] =
    ["cpu", "also", "allocations", "windows", "budget", "names", "store", "filter", "api", "alerts", "push"];

/// A choice of values for a kind of host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Preset {
    /// A developer's machine: many samples, every inlined call.
    Dev,
    /// Hosts that are like production, with more to see.
    Staging,
    /// Production.
    #[default]
    Prod,
    /// Production where every microsecond counts.
    HighPerformance,
}

/// How much names say, in the file's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Names {
    /// Functions, from symbol tables.
    Functions,
    /// With file and line.
    Lines,
    /// And every inlined call.
    Inlined,
}

/// What a file, a preset or the environment says.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct File {
    pub(super) preset: Option<Preset>,
    cpu: Cpu,
    also: AlsoSection,
    allocations: AllocationsSection,
    windows: Windows,
    budget: Budget,
    names: NamesSection,
    store: Store,
    filter: FilterSection,
    api: Api,
    alerts: AlertsSection,
    push: PushSection,
}

#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Cpu {
    #[serde(deserialize_with = "value::rate")]
    rate_hz: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct AlsoSection {
    off_cpu: Option<bool>,
    memory: Option<bool>,
    syscalls: Option<bool>,
    resources: Option<bool>,
}

#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct AllocationsSection {
    #[serde(deserialize_with = "value::rules")]
    of: Option<Vec<Rule>>,
    #[serde(deserialize_with = "value::processes")]
    max_processes: Option<usize>,
    #[serde(deserialize_with = "value::sample_size")]
    sample_bytes: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Windows {
    #[serde(deserialize_with = "value::window")]
    length: Option<Duration>,
}

#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Budget {
    #[serde(deserialize_with = "value::share")]
    max_overhead: Option<f64>,
    #[serde(deserialize_with = "value::table_size")]
    max_memory: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct NamesSection {
    detail: Option<Names>,
}

#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Store {
    #[serde(deserialize_with = "value::folder")]
    folder: Option<PathBuf>,
    #[serde(deserialize_with = "value::store_size")]
    max_size: Option<u64>,
    #[serde(deserialize_with = "value::span")]
    max_age: Option<Duration>,
    #[serde(deserialize_with = "value::span")]
    recorded_for: Option<Duration>,
    #[serde(deserialize_with = "value::span")]
    minutes_for: Option<Duration>,
}

#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct FilterSection {
    #[serde(deserialize_with = "value::rules")]
    include: Option<Vec<Rule>>,
    #[serde(deserialize_with = "value::rules")]
    exclude: Option<Vec<Rule>>,
}

impl Preset {
    /// What it says where the file is silent.
    pub(super) fn file(self) -> File {
        let (rate_hz, names, max_overhead, window_s, max_size) = match self {
            Self::Dev => (99, Names::Inlined, 0.02, 10, 512 << 20),
            Self::Staging => (49, Names::Lines, 0.01, 10, 1 << 30),
            Self::Prod => (19, Names::Functions, 0.01, 10, 1 << 30),
            Self::HighPerformance => (9, Names::Functions, 0.002, 30, 1 << 30),
        };
        File {
            preset: Some(self),
            cpu: Cpu { rate_hz: Some(rate_hz) },
            also: AlsoSection {
                off_cpu: Some(self != Self::HighPerformance),
                memory: Some(true),
                syscalls: Some(self != Self::HighPerformance),
                resources: Some(true),
            },
            allocations: AllocationsSection {
                of: Some(Vec::new()),
                max_processes: Some(4),
                sample_bytes: Some(16 << 10),
            },
            windows: Windows { length: Some(Duration::from_secs(window_s)) },
            budget: Budget { max_overhead: Some(max_overhead), max_memory: Some(16 << 20) },
            names: NamesSection { detail: Some(names) },
            store: Store {
                folder: Some(PathBuf::from("/var/lib/perf-agent/store")),
                max_size: Some(max_size),
                max_age: Some(Duration::from_hours(14 * 24)),
                recorded_for: Some(Duration::from_hours(1)),
                minutes_for: Some(Duration::from_hours(24)),
            },
            filter: FilterSection { include: Some(Vec::new()), exclude: Some(Vec::new()) },
            api: Api::usual(),
            alerts: AlertsSection::default(),
            push: PushSection::usual(),
        }
    }
}

impl File {
    /// Reads text.
    ///
    /// # Errors
    ///
    /// Where, what was found, and what is understood.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        toml::from_str(text).map_err(|error: toml::de::Error| error.to_string())
    }

    /// What this says, and what `under` says where this is silent.
    pub(super) fn over(self, under: Self) -> Self {
        Self {
            preset: self.preset.or(under.preset),
            cpu: Cpu { rate_hz: self.cpu.rate_hz.or(under.cpu.rate_hz) },
            also: AlsoSection {
                off_cpu: self.also.off_cpu.or(under.also.off_cpu),
                memory: self.also.memory.or(under.also.memory),
                syscalls: self.also.syscalls.or(under.also.syscalls),
                resources: self.also.resources.or(under.also.resources),
            },
            allocations: AllocationsSection {
                of: self.allocations.of.or(under.allocations.of),
                max_processes: self.allocations.max_processes.or(under.allocations.max_processes),
                sample_bytes: self.allocations.sample_bytes.or(under.allocations.sample_bytes),
            },
            windows: Windows { length: self.windows.length.or(under.windows.length) },
            budget: Budget {
                max_overhead: self.budget.max_overhead.or(under.budget.max_overhead),
                max_memory: self.budget.max_memory.or(under.budget.max_memory),
            },
            names: NamesSection { detail: self.names.detail.or(under.names.detail) },
            store: Store {
                folder: self.store.folder.or(under.store.folder),
                max_size: self.store.max_size.or(under.store.max_size),
                max_age: self.store.max_age.or(under.store.max_age),
                recorded_for: self.store.recorded_for.or(under.store.recorded_for),
                minutes_for: self.store.minutes_for.or(under.store.minutes_for),
            },
            filter: FilterSection {
                include: self.filter.include.or(under.filter.include),
                exclude: self.filter.exclude.or(under.filter.exclude),
            },
            api: self.api.over(under.api),
            alerts: self.alerts.over(under.alerts),
            push: self.push.over(under.push),
        }
    }

    /// The configuration, once a preset is below it, which has everything.
    pub(super) fn settled(self) -> Config {
        Config {
            rate_hz: self.cpu.rate_hz.unwrap_or_default(),
            also: Also {
                off_cpu: self.also.off_cpu.unwrap_or_default(),
                memory: self.also.memory.unwrap_or_default(),
                syscalls: self.also.syscalls.unwrap_or_default(),
                resources: self.also.resources.unwrap_or_default(),
            },
            allocations: Allocations {
                of: self.allocations.of.unwrap_or_default(),
                max_processes: self.allocations.max_processes.unwrap_or_default(),
                sample_bytes: self.allocations.sample_bytes.unwrap_or_default(),
            },
            window: self.windows.length.unwrap_or_default(),
            max_overhead: self.budget.max_overhead.unwrap_or_default(),
            max_table_bytes: self.budget.max_memory.unwrap_or_default(),
            names: match self.names.detail {
                Some(Names::Inlined) => Detail::Inlines,
                Some(Names::Lines) => Detail::Lines,
                Some(Names::Functions) | None => Detail::Names,
            },
            filter: Filter {
                include: self.filter.include.unwrap_or_default(),
                exclude: self.filter.exclude.unwrap_or_default(),
            },
            store: StoreConfig {
                folder: self.store.folder.unwrap_or_default(),
                max_bytes: self.store.max_size.unwrap_or_default(),
                max_age: self.store.max_age.unwrap_or_default(),
                recorded_for: self.store.recorded_for.unwrap_or_default(),
                minutes_for: self.store.minutes_for.unwrap_or_default(),
            },
            api: self.api.settled(),
            alerts: self.alerts.settled(),
            push: self.push.settled(),
        }
    }
}
