//! What this kernel, this host and this process can do, and who a target is.
//!
//! Everything here only looks: files under `/proc` and `/sys`, and system calls that leave nothing behind. The
//! verdicts (what is fine, what must be fixed) belong to `cli::doctor` and to the errors built from these facts.

pub mod binary;
pub mod btf;
pub mod features;
pub(crate) mod heap;
pub mod identity;
pub mod permission;
pub mod privileges;
pub mod probe;
pub(crate) mod read;
pub mod target;
pub mod urgent;
