//! Push: windows sent to where fleets keep theirs, as pprof to a Pyroscope-compatible endpoint and as OTLP profiles.
//!
//! In: windows. Out: requests, first as files in a spool, so that neither a restart nor an endpoint that is away loses them; then, oldest first, over HTTP. The
//! spool is bounded: the oldest go first, and are counted.
//!
//! ```text
//! window ─► batch (windows of up to a minute together) ─► encode ─► spool (files) ─► sender (one at a time, with back-off)
//! ```

mod batch;
mod encode;
mod pusher;
mod sender;
mod spool;

use std::path::PathBuf;
use std::time::Duration;

use crate::post::Endpoint;

pub(crate) use pusher::Pusher;

/// Kinds of windows that are profiles: values by stack. System calls are histograms, and resources have no stacks; `/metrics` has both.
pub const KINDS: [&str; 4] = ["cpu", "off-cpu", "memory", "alloc"];

/// What is configured below `[push]`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Push {
    /// Base URL of a Pyroscope-compatible server.
    pub pyroscope: Option<Endpoint>,
    /// Base URL of an OTLP receiver.
    pub otlp: Option<Endpoint>,
    /// Windows are put together for so long.
    pub interval: Duration,
    /// Where requests wait.
    pub spool: PathBuf,
    /// All of them together, bytes.
    pub max_spool_bytes: u64,
    /// Kinds of windows that are sent, of [`KINDS`].
    pub kinds: Vec<String>,
    /// Given to everything that is sent.
    pub labels: Vec<(String, String)>,
}

impl Push {
    /// Whether anything is sent.
    pub fn is_on(&self) -> bool {
        self.pyroscope.is_some() || self.otlp.is_some()
    }

    /// Whether files say more than this does, and may say something else at the next reload.
    pub fn has_files(&self) -> bool {
        [&self.pyroscope, &self.otlp].into_iter().flatten().any(Endpoint::has_files)
    }

    /// Whether windows of this kind are sent.
    pub fn sends(&self, kind: &str) -> bool {
        self.kinds.iter().any(|known| known == kind)
    }
}

/// The kinds of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// `push.v1.PusherService/Push`.
    Pyroscope,
    /// `ExportProfilesServiceRequest`.
    Otlp,
}

impl Kind {
    pub(crate) const ALL: [Self; 2] = [Self::Pyroscope, Self::Otlp];

    /// The word in names of files.
    fn word(self) -> &'static str {
        match self {
            Self::Pyroscope => "pyroscope",
            Self::Otlp => "otlp",
        }
    }

    /// Below the base URL.
    fn path(self) -> &'static str {
        match self {
            Self::Pyroscope => "/push.v1.PusherService/Push",
            Self::Otlp => "/v1development/profiles",
        }
    }

    fn content_type(self) -> &'static str {
        match self {
            // The Connect protocol's name for protobuf.
            Self::Pyroscope => "application/proto",
            Self::Otlp => "application/x-protobuf",
        }
    }

    /// Where and as what it is sent.
    fn endpoint(self, push: &Push) -> Option<&Endpoint> {
        match self {
            Self::Pyroscope => push.pyroscope.as_ref(),
            Self::Otlp => push.otlp.as_ref(),
        }
    }

    /// The whole URL.
    fn url(self, endpoint: &Endpoint) -> String {
        format!("{}{}", endpoint.url.trim_end_matches('/'), self.path())
    }
}
