//! A card as the driver names it: what is known of it before anything runs on it.

/// A card that the driver found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub index: usize,
    /// As the driver names it.
    pub name: String,
    /// 90 for compute capability 9.0.
    pub capability: u32,
    pub total_bytes: u64,
    /// Not held by anybody on the card.
    pub free_bytes: u64,
}
