//! Which store: a folder of this host, or an agent that answers over its API.

use std::ops::Range;
use std::path::PathBuf;

use clap::Args;

use crate::profile::Profile;
use crate::question::{PartArgs, Refusal, open};
use crate::store::{DEFAULT_DIRECTORY, Reader};

/// Which store.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Store")]
pub(super) struct StoreArgs {
    /// Directory of the store
    #[arg(long, value_name = "DIR", default_value = DEFAULT_DIRECTORY)]
    pub(super) store: PathBuf,
}

/// Which part of which store.
#[derive(Debug, Clone, Args)]
pub(super) struct SourceArgs {
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    part: PartArgs,
}

impl StoreArgs {
    pub(super) fn open(&self) -> Result<Reader, Refusal> {
        open(&self.store)
    }
}

impl SourceArgs {
    /// What was recorded in that time, as one profile.
    pub(super) fn select(&self, range: &Range<u64>) -> anyhow::Result<Profile> {
        Ok(self.part.select(&self.store.store, range)?)
    }
}
