//! Recordings of system calls as tables, histograms and JSON.

mod json;
mod table;

pub use json::calls_json;
pub use table::{TableOptions, describe_measure, write_calls};
