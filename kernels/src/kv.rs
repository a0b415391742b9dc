//! Where one token's keys and values lie in the paged cache: `[block][layer][2][head]`, block-major so
//! that resizing moves one tail; of each head of a block its numbers `[token][dim]`, then, where they
//! are integers, what they are multiples of: f32 `[token]`.

use std::ops::Range;

use plimsoll_planner::kv_cache::{self, SCALE};
use plimsoll_planner::{Bytes, Dtype, KvDtype};

use crate::encoding;

/// Bytes of one scale.
pub(crate) const SCALE_BYTES: usize = encoding::bytes_of(SCALE);

/// The shape of one rank's KV cache. Sizes in bytes come from the planner
/// (`planner::kv_cache`); this only says where things lie inside a block.
///
/// `D` says which numbers it may have: a [`KvDtype`] any, a [`Dtype`] floats alone, as on a card.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvCache<D = Dtype> {
    pub dtype: D,
    /// Blocks in the cache, the null block 0 included.
    pub blocks: usize,
    /// Tokens per block.
    pub block_size: usize,
    pub layers: usize,
    /// KV heads of this rank.
    pub heads: usize,
    pub head_dim: usize,
}

/// Keys or values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Keys,
    Values,
}

/// Where one layer's heads lie in every block: offsets that do not change, worked out once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Places {
    /// From a block to the next.
    block: usize,
    /// Of the layer's keys in a block.
    layer: usize,
    /// From a head to the next.
    head: usize,
    /// From a key to its value.
    pub(crate) values: usize,
    /// From a token's numbers to the next one's.
    pub(crate) row: usize,
    /// From a head's numbers to its scales, in a cache of integers.
    pub(crate) scales: Option<usize>,
}

impl Places {
    /// The keys of a head.
    #[inline(always)]
    pub(crate) const fn keys(&self, block: usize, head: usize) -> usize {
        block * self.block + self.layer + head * self.head
    }
}

impl KvCache {
    /// Bytes of one number.
    pub const fn element_bytes(&self) -> usize {
        match self.dtype {
            Dtype::Float32 => 4,
            Dtype::BFloat16 | Dtype::Float16 => 2,
        }
    }
}

impl<D: Copy + Into<KvDtype>> KvCache<D> {
    /// The same cache, to ops that take any numbers.
    pub fn of_any(&self) -> KvCache<KvDtype> {
        KvCache {
            dtype: self.dtype.into(),
            blocks: self.blocks,
            block_size: self.block_size,
            layers: self.layers,
            heads: self.heads,
            head_dim: self.head_dim,
        }
    }

    /// Bytes of the numbers of one head of one token.
    pub fn row_bytes(&self) -> usize {
        match self.dtype.into().float() {
            Some(float) => self.head_dim * encoding::bytes_of(float),
            None => self.head_dim,
        }
    }

    /// Bytes of the keys (or values) of one head of a block: all tokens, and their scales.
    fn head_bytes(&self) -> usize {
        let (tokens, dim) = (self.block_size as u64, self.head_dim as u64);
        size(kv_cache::head_bytes(self.dtype.into(), tokens, dim))
    }

    /// From a head's numbers to its scales, where it has any.
    fn scales(&self) -> Option<usize> {
        let (tokens, dim) = (self.block_size as u64, self.head_dim as u64);
        match self.dtype.into().float() {
            Some(_) => None,
            None => Some(size(kv_cache::scales_offset(tokens, dim))),
        }
    }

    /// Bytes of one block: all layers, keys and values.
    pub fn block_bytes(&self) -> usize {
        self.layers * 2 * self.heads * self.head_bytes()
    }

    /// Bytes of the whole cache.
    pub fn bytes(&self) -> usize {
        self.blocks * self.block_bytes()
    }

    /// Where the rows (one per token of the block) of one head lie.
    pub fn head_offset(&self, block: usize, layer: usize, part: Part, head: usize) -> usize {
        let places = self.places(layer);
        let keys = places.keys(block, head);
        match part {
            Part::Keys => keys,
            Part::Values => keys + places.values,
        }
    }

    /// Bytes of the numbers of one head of the token in `slot` = block x block_size + offset in the
    /// block.
    pub fn row(&self, slot: usize, layer: usize, part: Part, head: usize) -> Range<usize> {
        let rows = self.head_offset(slot / self.block_size, layer, part, head);
        let start = rows + slot % self.block_size * self.row_bytes();
        start..start + self.row_bytes()
    }

    /// Bytes of what these numbers are multiples of, where they are integers.
    pub fn scale(
        &self,
        slot: usize,
        layer: usize,
        part: Part,
        head: usize,
    ) -> Option<Range<usize>> {
        let rows = self.head_offset(slot / self.block_size, layer, part, head);
        let start = rows + self.scales()? + slot % self.block_size * SCALE_BYTES;
        Some(start..start + SCALE_BYTES)
    }

    pub(crate) fn places(&self, layer: usize) -> Places {
        let head = self.head_bytes();
        let values = self.heads * head;
        Places {
            block: self.block_bytes(),
            layer: layer * 2 * values,
            head,
            values,
            row: self.row_bytes(),
            scales: self.scales(),
        }
    }

    /// Asserts that `cache` holds all blocks.
    pub(crate) fn check(&self, cache: &[u8]) {
        assert!(
            self.block_size > 0 && self.head_dim > 0,
            "an empty KV block of {} tokens and heads of {}",
            self.block_size,
            self.head_dim
        );
        assert!(
            cache.len() >= self.bytes(),
            "a KV cache of {} bytes, {} blocks need {}",
            cache.len(),
            self.blocks,
            self.bytes()
        );
    }
}

/// A size that fits: of memory that is there, or compared with one.
fn size(bytes: Bytes) -> usize {
    usize::try_from(bytes.get()).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_byte_of_a_block_is_one_tokens_and_scales_are_aligned() {
        for (dtype, head_dim, block_size) in [
            (KvDtype::Int8, 64, 16),
            (KvDtype::Int8, 6, 5),
            (KvDtype::Int8, 2, 3),
            (KvDtype::BFloat16, 6, 5),
            (KvDtype::Float32, 2, 3),
        ] {
            let cache = KvCache {
                dtype,
                blocks: 2,
                block_size,
                layers: 2,
                heads: 3,
                head_dim,
            };
            let mut taken = HashSet::new();
            for slot in 0..2 * block_size {
                for layer in 0..2 {
                    for (part, head) in [Part::Keys, Part::Values]
                        .map(|part| (0..3).map(move |head| (part, head)))
                        .into_iter()
                        .flatten()
                    {
                        let row = cache.row(slot, layer, part, head);
                        assert_eq!(row.len(), cache.row_bytes());
                        let scale = cache.scale(slot, layer, part, head);
                        assert_eq!(scale.is_some(), dtype == KvDtype::Int8);
                        let scale = scale.unwrap_or(0..0);
                        assert!(scale.start.is_multiple_of(4), "{cache:?}");
                        for byte in row.chain(scale) {
                            assert!(byte / cache.block_bytes() == slot / block_size, "{cache:?}");
                            assert!(taken.insert(byte), "{byte} of {cache:?} twice");
                        }
                    }
                }
            }
            // What is left over aligns the scales, in each of a block's heads.
            let gaps = cache.bytes() - taken.len();
            assert!(
                gaps <= 2 * 2 * 2 * 3 * 3,
                "{gaps} bytes of {cache:?} unused"
            );
        }
    }
}
