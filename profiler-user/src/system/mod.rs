//! What this system is and who we are on it.

pub mod identity;
