//! Placeholder.
mod foreign;
