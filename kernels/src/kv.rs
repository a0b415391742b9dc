//! Where one token's keys and values lie in the paged cache:
//! `[block][layer][2][head][token][dim]`, block-major so that resizing moves one tail.

use std::ops::Range;

use plimsoll_planner::Dtype;

/// The shape of one rank's KV cache. Sizes in bytes come from the planner
/// (`planner::kv_cache::block_bytes`); this only says where things lie inside a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvCache {
    pub dtype: Dtype,
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

impl KvCache {
    /// Bytes of one number.
    pub const fn element_bytes(&self) -> usize {
        match self.dtype {
            Dtype::Float32 => 4,
            Dtype::BFloat16 | Dtype::Float16 => 2,
        }
    }

    /// Bytes of one head of one token.
    pub const fn row_bytes(&self) -> usize {
        self.head_dim * self.element_bytes()
    }

    /// Bytes of one block: all layers, keys and values.
    pub const fn block_bytes(&self) -> usize {
        self.layers * 2 * self.heads * self.block_size * self.row_bytes()
    }

    /// Bytes of the whole cache.
    pub const fn bytes(&self) -> usize {
        self.blocks * self.block_bytes()
    }

    /// Where the rows (one per token of the block) of one head lie.
    pub const fn head_offset(&self, block: usize, layer: usize, part: Part, head: usize) -> usize {
        let part = match part {
            Part::Keys => 0,
            Part::Values => 1,
        };
        block * self.block_bytes()
            + ((layer * 2 + part) * self.heads + head) * self.block_size * self.row_bytes()
    }

    /// Bytes of one head of the token in `slot` = block x block_size + offset in the block.
    pub const fn row(&self, slot: usize, layer: usize, part: Part, head: usize) -> Range<usize> {
        let rows = self.head_offset(slot / self.block_size, layer, part, head);
        let start = rows + slot % self.block_size * self.row_bytes();
        start..start + self.row_bytes()
    }

    /// Asserts that `cache` holds all blocks.
    pub(crate) fn check(&self, cache: &[u8]) {
        assert!(
            self.block_size > 0 && self.head_dim > 0,
            "an empty KV block: {self:?}"
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
