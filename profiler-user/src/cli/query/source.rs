//! Which store: a folder of this host, or an agent that answers over its API.

use std::ops::Range;
use std::path::{Path, PathBuf};

use clap::Args;

use super::remote::{Remote, ask};
use crate::import;
use crate::output::windows_of_json;
use crate::profile::Profile;
use crate::question::time::Moment;
use crate::question::{Kind, LeakArgs, PartArgs, Refusal, SeriesArgs, explained, open, series_of_json};
use crate::store::{DEFAULT_DIRECTORY, Series, WindowInfo};

/// Which store.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Store")]
pub(super) struct StoreArgs {
    /// Directory of the store
    #[arg(long, value_name = "DIR", default_value = DEFAULT_DIRECTORY)]
    pub(super) store: PathBuf,
    /// Ask the agent that answers there instead: unix:PATH, http://localhost:PORT, https://HOST:PORT
    #[arg(long, value_name = "WHERE", value_parser = Remote::parse, conflicts_with = "store")]
    remote: Option<Remote>,
    /// File with the token for --remote
    #[arg(long, value_name = "FILE", requires = "remote")]
    token_file: Option<PathBuf>,
    /// Trust the certificates of this file (PEM) for --remote, and no others
    #[arg(long, value_name = "FILE", requires = "remote")]
    ca_file: Option<PathBuf>,
}

/// Which part of which store.
#[derive(Debug, Clone, Args)]
pub(super) struct SourceArgs {
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    part: PartArgs,
}

/// What was allocated and not freed, as it can be had.
pub(super) enum Leaking {
    /// From a store.
    Profile(Box<Profile>),
    /// From another agent, which answers in JSON.
    Json(Vec<u8>),
}

impl StoreArgs {
    /// The windows of a stretch of time, and what could not be read.
    pub(super) fn windows(&self, range: &Range<u64>) -> Result<(Vec<WindowInfo>, Vec<String>), Refusal> {
        let Some(remote) = &self.remote else {
            return open(&self.store)?.windows(range).map_err(|error| explained(&error));
        };
        let answer = self.ask(remote, "/api/v1/windows", &stretch(range))?;
        windows_of_json(&answer)
            .ok_or_else(|| Refusal::new(Kind::Failed, format!("the answer of {remote} is not understood")))
    }

    fn ask(
        &self,
        remote: &Remote,
        path: &str,
        parameters: &[(&'static str, String)],
    ) -> Result<Vec<u8>, Refusal> {
        ask(remote, self.token_file.as_deref(), self.ca_file.as_deref(), path, parameters)
    }
}

impl SourceArgs {
    /// What was recorded in that time, as one profile.
    pub(super) fn select(&self, range: &Range<u64>) -> anyhow::Result<Profile> {
        let Some(remote) = &self.store.remote else {
            return Ok(self.part.select(&self.store.store, range)?);
        };
        let mut parameters = stretch(range);
        parameters.extend(self.part.parameters());
        // The whole profile, in the form that everybody reads: what is made of it is made here.
        parameters.push(("format", "pprof".to_owned()));
        let answer = self.store.ask(remote, "/api/v1/flamegraph", &parameters)?;
        Ok(import::read_from(&*answer, Path::new("the answer"))?)
    }

    /// A value over that time.
    pub(super) fn series(&self, wanted: &SeriesArgs, range: &Range<u64>) -> anyhow::Result<Series> {
        let Some(remote) = &self.store.remote else {
            return Ok(wanted.series(&self.store.store, &self.part, range)?);
        };
        let mut parameters = stretch(range);
        parameters.extend(self.part.parameters());
        parameters.extend(wanted.parameters());
        let answer = self.store.ask(remote, "/api/v1/series", &parameters)?;
        let not_understood =
            || Refusal::new(Kind::Failed, format!("the answer of {remote} is not understood"));
        Ok(series_of_json(&answer).ok_or_else(not_understood)?)
    }

    /// What was allocated in that time and not freed.
    pub(super) fn leaks(&self, wanted: &LeakArgs, range: &Range<u64>) -> Result<Leaking, Refusal> {
        let Some(remote) = &self.store.remote else {
            return wanted.leaks(&self.store.store, &self.part, range).map(Box::new).map(Leaking::Profile);
        };
        let mut parameters = stretch(range);
        parameters.extend(self.part.parameters());
        parameters.extend(wanted.parameters());
        self.store.ask(remote, "/api/v1/leaks", &parameters).map(Leaking::Json)
    }

    /// The same part of profiles of this type.
    pub(super) fn of_type(&self, profile_type: &str) -> Self {
        Self { part: self.part.of_type(profile_type), ..self.clone() }
    }

    /// Which profiles.
    pub(super) fn profile_type(&self) -> &str {
        &self.part.profile_type
    }
}

fn stretch(range: &Range<u64>) -> Vec<(&'static str, String)> {
    vec![("from", Moment::At(range.start).to_string()), ("to", Moment::At(range.end).to_string())]
}
