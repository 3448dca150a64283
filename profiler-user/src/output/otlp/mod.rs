//! OTLP profiles, signal `v1development`: one `ExportProfilesServiceRequest`, as collectors take it at `/v1development/profiles`.
//!
//! The signal is not stable yet. These are the messages with one value type per profile and all tables in one dictionary, as in
//! opentelemetry-proto 1.45 of PyPI.

pub(crate) mod proto;
mod write;

pub(super) use write::write;
pub(crate) use write::write_with;
