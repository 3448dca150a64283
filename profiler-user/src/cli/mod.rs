//! The command line: one file or folder for each family of verbs. The only place that prints and that uses `anyhow`.

pub mod doctor;
