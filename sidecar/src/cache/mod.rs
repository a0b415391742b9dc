//! Who holds which KV blocks. Pure: block ids and token ids, no memory, no clock.

pub mod blocks;
pub mod prefix;
pub mod table;

#[cfg(test)]
pub(crate) mod story;
