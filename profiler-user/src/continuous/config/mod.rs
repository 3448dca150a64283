//! The configuration file: what may be in it, what is assumed where it is silent, and what the environment overrides.
//!
//! In order of weight: the preset, the file, variables `PERF_AGENT_SECTION_KEY`. Unknown keys and values out of range are errors, with their
//! line: a typing error must not become another meaning.

mod api;
mod feeds;
mod file;
mod value;

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::filter::{Filter, Rule};
use crate::alert::Alerts;
use crate::push::Push;
use crate::symbolize::native::Detail;
pub use api::{ApiConfig, DEFAULT_SOCKET};
use file::File;
pub use file::Preset;

/// Where the configuration of a host is.
pub const DEFAULT_FILE: &str = "/etc/perf-agent/config.toml";

/// A configuration file with comments, in which every value is the one that holds without it.
pub const DEFAULT_TEXT: &str = include_str!("default.toml");

/// Begins the variables that override the file.
const VARIABLES: &str = "PERF_AGENT_";

/// Everything that can be configured, settled.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Samples per second and CPU.
    pub rate_hz: u64,
    /// What is recorded beside CPU time.
    pub also: Also,
    /// Whose allocations are recorded.
    pub allocations: Allocations,
    /// Length of a window.
    pub window: Duration,
    /// What all of it may cost, as a share of the machine's CPU time.
    pub max_overhead: f64,
    /// Memory for unwind tables, bytes.
    pub max_table_bytes: u64,
    /// How much names say.
    pub names: Detail,
    /// Whose samples are kept.
    pub filter: Filter,
    /// How windows are kept.
    pub store: StoreConfig,
    /// Who may read.
    pub api: ApiConfig,
    /// Rules, and who is told.
    pub alerts: Alerts,
    /// Where windows are sent.
    pub push: Push,
}

/// What is recorded beside CPU time, each in a profile of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own in the file")]
pub struct Also {
    /// Where threads wait.
    pub off_cpu: bool,
    /// Where resident memory grows.
    pub memory: bool,
    /// Which system calls are made, and how long they take.
    pub syscalls: bool,
    /// What processes and the host use, from `/proc`.
    pub resources: bool,
}

/// Whose allocations are recorded.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Allocations {
    /// Processes that one of these fits; nobody's where there is none.
    pub of: Vec<Rule>,
    /// Processes at the same time, at most.
    pub max_processes: usize,
    /// Mean bytes between two blocks that are followed.
    pub sample_bytes: u64,
}

/// How windows are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreConfig {
    /// Where.
    pub folder: PathBuf,
    /// Bytes of all files together.
    pub max_bytes: u64,
    /// Age at which windows are removed.
    pub max_age: Duration,
    /// How long windows stay as they were recorded.
    pub recorded_for: Duration,
    /// How long windows of a minute stay before they are merged again.
    pub minutes_for: Duration,
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read `{}`", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The file says something that means nothing.
    #[error("`{}`: {}", path.display(), message.trim_end())]
    Wrong {
        /// The file.
        path: PathBuf,
        /// Where, what was found, and what is understood.
        message: String,
    },
    /// Values that do not fit together.
    #[error("[{section}]: {message}")]
    Together {
        /// The section.
        section: &'static str,
        /// What does not fit, and what does.
        message: String,
    },
    /// A variable says something that means nothing.
    #[error("the variable {name}={value}: {message}")]
    Variable {
        /// Its name.
        name: String,
        /// What it says.
        value: String,
        /// What is wrong with it.
        message: String,
    },
}

impl Config {
    /// What holds without a file, under the variables of this process.
    ///
    /// # Errors
    ///
    /// A variable means nothing.
    pub fn without_file() -> Result<Self, ConfigError> {
        Self::settle(File::default(), variables()?).checked()
    }

    /// Reads a file, under the variables of this process.
    ///
    /// # Errors
    ///
    /// It cannot be read, or something in it or in a variable means nothing.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
        let file =
            File::parse(&text).map_err(|message| ConfigError::Wrong { path: path.to_owned(), message })?;
        Self::settle(file, variables()?).checked()
    }

    fn checked(self) -> Result<Self, ConfigError> {
        let wrong = |message| ConfigError::Together { section: "api", message };
        self.api.check().map_err(wrong)?;
        let recorded = |kind: &str| match kind {
            "off-cpu" => self.also.off_cpu,
            "memory" => self.also.memory,
            "syscalls" => self.also.syscalls,
            "resources" => self.also.resources,
            "alloc" => !self.allocations.of.is_empty(),
            _ => true,
        };
        match self.alerts.rules.iter().find(|rule| !recorded(rule.profile_type())) {
            None => Ok(self),
            Some(rule) => {
                let (name, kind) = (&rule.name, rule.profile_type());
                let key = match kind {
                    "alloc" => "[allocations] of = [\"NAME\"]".to_owned(),
                    _ => format!("[also] {} = true", kind.replace('-', "_")),
                };
                let message = format!("rule `{name}` looks at {kind}, which is not recorded: {key}");
                Err(ConfigError::Together { section: "alerts", message })
            }
        }
    }

    fn settle(file: File, variables: File) -> Self {
        let asked = variables.over(file);
        let preset = asked.preset.unwrap_or_default();
        asked.over(preset.file()).settled()
    }
}

fn variables() -> Result<File, ConfigError> {
    let own = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.to_string_lossy().into_owned())));
    from_variables(own)
}

/// What variables say, `PERF_AGENT_CPU_RATE_HZ=49` for `rate_hz = 49` below `[cpu]`. Others of that prefix mean something else.
fn from_variables(variables: impl Iterator<Item = (String, String)>) -> Result<File, ConfigError> {
    let mut all = File::default();
    for (name, value) in variables {
        let Some(rest) = name.strip_prefix(VARIABLES).map(str::to_ascii_lowercase) else { continue };
        let place = match rest.split_once('_') {
            _ if rest == "preset" => Some((String::new(), "preset".to_owned())),
            Some((section, key)) if file::SECTIONS.contains(&section) => {
                Some((format!("[{section}]\n"), key.to_owned()))
            }
            _ => None,
        };
        let Some((section, key)) = place else { continue };
        // A number, a list, else a word that needs no quotes here.
        let quoted = toml::Value::String(value.clone()).to_string();
        let as_it_is = File::parse(&format!("{section}{key} = {value}"));
        let read = as_it_is.or_else(|_| File::parse(&format!("{section}{key} = {quoted}")));
        let read = read.map_err(|message| ConfigError::Variable {
            name,
            value,
            // The lines before are a picture of a file that does not exist.
            message: message.lines().last().unwrap_or_default().to_owned(),
        })?;
        all = read.over(all);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Config {
        Config::settle(File::parse(text).unwrap(), File::default())
    }

    fn variables(pairs: &[(&str, &str)]) -> Result<File, ConfigError> {
        from_variables(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
    }

    #[test]
    fn the_printed_file_says_what_holds_without_it() {
        assert_eq!(of(DEFAULT_TEXT), of(""));
        let config = of("");
        assert_eq!((config.rate_hz, config.window), (19, Duration::from_secs(10)));
        assert!((config.max_overhead - 0.01).abs() < 1e-9);
        assert_eq!(config.store.folder, Path::new("/var/lib/perf-agent/store"));
    }

    #[test]
    fn every_key_is_in_the_printed_file() {
        let error = File::parse("[cpu]\nx = 1").unwrap_err()
            + &File::parse("[store]\nx = 1").unwrap_err()
            + &File::parse("[also]\nx = 1").unwrap_err()
            + &File::parse("[allocations]\nx = 1").unwrap_err()
            + &File::parse("[windows]\nx = 1").unwrap_err()
            + &File::parse("[budget]\nx = 1").unwrap_err()
            + &File::parse("[names]\nx = 1").unwrap_err()
            + &File::parse("[filter]\nx = 1").unwrap_err()
            + &File::parse("[api]\nx = 1").unwrap_err()
            + &File::parse("x = 1").unwrap_err();
        let keys = error.split('`').skip(1).step_by(2).filter(|key| *key != "x" && !key.contains(' '));
        let keys: Vec<&str> = keys.collect();
        assert!(keys.len() > 15, "{keys:?}");
        for key in keys {
            assert!(
                DEFAULT_TEXT
                    .lines()
                    .any(|line| line.starts_with(&format!("{key} = ")) || line == format!("[{key}]")),
                "{key}"
            );
        }
    }

    #[test]
    fn mistakes_are_told_with_their_line_and_what_is_understood() {
        for (text, wanted) in [
            ("[cpu]\nrat_hz = 19", &["line 2", "rat_hz", "rate_hz"][..]),
            ("[cpu]\nrate_hz = 0", &["line 2", "between 1 and"]),
            ("[cpu]\nrate_hz = \"fast\"", &["line 2", "fast"]),
            ("\n\n[windows]\nlength = \"10 parsecs\"", &["line 4", "10 parsecs", "examples"]),
            ("[windows]\nlength = \"1ms\"", &["line 2", "between 1 s and 10 min"]),
            ("[store]\nfolder = \"relative\"", &["line 2", "absolute"]),
            ("[store]\nmax_size = \"1k\"", &["line 2", "at least"]),
            ("[filter]\nexclude = [\"nginx\", \"/(/\"]", &["line 2", "/(/"]),
            ("[allocations]\nof = [\"user:nobody-of-that-name\"]", &["line 2", "no such user"]),
            ("[allocations]\nmax_processes = 0", &["line 2", "between 1 and 16"]),
            ("[allocations]\nsample_bytes = \"0\"", &["line 2", "at least 1"]),
            ("preset = \"fast\"", &["line 1", "fast", "high-performance"]),
            ("[budget]\nmax_overhead = \"200%\"", &["line 2", "200%"]),
            ("[cpu\n", &["line 1"]),
        ] {
            let error = File::parse(text).unwrap_err();
            for part in wanted {
                assert!(error.contains(part), "`{part}` is not in: {error}");
            }
        }
    }

    #[test]
    fn a_file_weighs_more_than_its_preset_and_a_variable_more_than_both() {
        let file = || File::parse("preset = \"dev\"\n[cpu]\nrate_hz = 5").unwrap();
        let config = Config::settle(file(), File::default());
        assert_eq!((config.rate_hz, config.names), (5, Detail::Inlines));
        let given = variables(&[
            ("PERF_AGENT_CPU_RATE_HZ", "49"),
            ("PERF_AGENT_STORE_FOLDER", "/srv/x"),
            ("PERF_AGENT_FILTER_EXCLUDE", "[\"nginx\"]"),
            ("PERF_AGENT_STOP_FILE", "/not/ours"),
            ("CPU_RATE_HZ", "1"),
        ]);
        let config = Config::settle(file(), given.unwrap());
        assert_eq!((config.rate_hz, config.store.folder), (49, PathBuf::from("/srv/x")));
        assert_eq!(config.filter.exclude, [Rule::Name("nginx".to_owned())]);
        let preset = Config::settle(file(), variables(&[("PERF_AGENT_PRESET", "prod")]).unwrap());
        assert_eq!((preset.rate_hz, preset.names), (5, Detail::Names));
    }

    #[test]
    fn a_wrong_variable_is_named() {
        for (name, value, wanted) in [
            ("PERF_AGENT_CPU_RATE_HZ", "many", "many"),
            ("PERF_AGENT_CPU_SPEED", "1", "rate_hz"),
            ("PERF_AGENT_PRESET", "x\"y", "prod"),
        ] {
            let error = variables(&[(name, value)]).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains(wanted), "{error}");
        }
    }

    #[test]
    fn presets_differ_and_cost_what_they_promise() {
        let rates: Vec<u64> = ["dev", "staging", "prod", "high-performance"]
            .iter()
            .map(|preset| of(&format!("preset = \"{preset}\"")).rate_hz)
            .collect();
        assert!(rates.is_sorted_by(|a, b| a > b), "{rates:?}");
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,200}", bytes in proptest::collection::vec(0u8..128, 0..200)) {
            let _ = File::parse(&text);
            let _ = File::parse(&String::from_utf8_lossy(&bytes));
        }
    }
}
