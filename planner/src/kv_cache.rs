//! The account `KvCache` of one rank: `[block][layer][2][head][token][dim]`.
//!
//! Block 0 is the null block: it is never given to a request, so that a table's unused entries
//! point somewhere harmless.

use crate::bytes::Bytes;
use crate::model::ModelShape;
use crate::request::KvLayout;
use crate::shard::Shard;

/// Bytes of one block on a rank: keys and values, every layer, this rank's heads.
pub fn block_bytes(shape: &ModelShape, shard: &Shard, kv: &KvLayout) -> Bytes {
    bytes_per_head(shape, kv).saturating_mul(u64::from(shard.kv_head_count()))
}

/// Bytes of one block of one KV head.
pub(crate) fn bytes_per_head(shape: &ModelShape, kv: &KvLayout) -> Bytes {
    const KEY_AND_VALUE: u64 = 2;
    Bytes(KEY_AND_VALUE)
        .saturating_mul(u64::from(shape.layers))
        .saturating_mul(u64::from(kv.block_size))
        .saturating_mul(u64::from(shape.head_dim))
        .saturating_mul(kv.dtype.bytes())
}

/// Blocks that hold `tokens` tokens of one sequence, the null block not counted.
pub const fn blocks_for(tokens: u64, block_size: u32) -> u64 {
    tokens.div_ceil(block_size as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Architecture, Dtype};

    #[test]
    fn a_block_of_16_tokens_of_llama_3_1_8b_is_2_mib() {
        let shape = ModelShape {
            architecture: Architecture::Llama,
            layers: 32,
            hidden: 4096,
            query_heads: 32,
            kv_heads: 8,
            head_dim: 128,
            ffn: 14_336,
            vocab: 128_256,
            tied: false,
            qkv_bias: false,
            output_bias: false,
            mlp_bias: false,
            qk_norm: false,
            context: 131_072,
            blocks: crate::ModelBlocks::default(),
        };
        let kv = KvLayout {
            dtype: Dtype::BFloat16,
            block_size: 16,
            size: None,
        };
        let whole = Shard::whole(&shape);
        assert_eq!(block_bytes(&shape, &whole, &kv), Bytes(2 << 20));
        let part = Shard {
            kv_heads: 1..4,
            ..whole
        };
        assert_eq!(block_bytes(&shape, &part, &kv), Bytes(3 << 18));
    }

    #[test]
    fn tokens_take_whole_blocks() {
        assert_eq!(blocks_for(0, 16), 0);
        assert_eq!(blocks_for(1, 16), 1);
        assert_eq!(blocks_for(16, 16), 1);
        assert_eq!(blocks_for(17, 16), 2);
    }
}
