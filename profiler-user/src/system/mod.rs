//! What this kernel can do and what we may do.
pub mod btf;
mod read;
