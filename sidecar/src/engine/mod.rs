//! The engine: one loop that turns requests into tokens, one thread per rank that computes.

pub mod config;
pub mod handle;
pub(crate) mod inbox;
pub mod request;
pub mod stats;
