//! Why a request cannot fit: the numbers of every rank and what would help.

/// A request that cannot be met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {}
