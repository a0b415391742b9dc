//! `plimsoll-sidecar`.
fn main() {}
