//! The account `KvCache` of one rank: `[block][layer][2][head]`, and of each head the numbers
//! `[token][dim]`, then, in a cache of integers, what they are multiples of: f32 `[token]`.
//!
//! The scales of a block are a part of it: so whatever moves, drops or poisons blocks does the same to
//! both. f32 costs 4 bytes a head of a token (6% of 64 numbers), and no key is too large or small for it.
//!
//! Block 0 is the null block: it is never given to a request, so that a table's unused entries
//! point somewhere harmless.

use crate::bytes::Bytes;
use crate::model::{Dtype, KvDtype, ModelShape};
use crate::request::KvLayout;
use crate::shard::Shard;

/// What integers are multiples of.
pub const SCALE: Dtype = Dtype::Float32;

/// Bytes of one block on a rank: keys and values, every layer, this rank's heads.
pub fn block_bytes(shape: &ModelShape, shard: &Shard, kv: &KvLayout) -> Bytes {
    bytes_per_head(shape, kv).saturating_mul(u64::from(shard.kv_head_count()))
}

/// Bytes of one block of one KV head.
pub(crate) fn bytes_per_head(shape: &ModelShape, kv: &KvLayout) -> Bytes {
    const KEY_AND_VALUE: u64 = 2;
    Bytes(KEY_AND_VALUE)
        .saturating_mul(u64::from(shape.layers))
        .saturating_mul(head_bytes(kv.dtype, kv.block_size.into(), shape.head_dim.into()).0)
}

/// Bytes of the keys (or the values) of one head of so many tokens.
pub const fn head_bytes(dtype: KvDtype, tokens: u64, head_dim: u64) -> Bytes {
    let (numbers, scales) = match dtype.float() {
        Some(float) => (
            Bytes(tokens)
                .saturating_mul(head_dim)
                .saturating_mul(float.bytes()),
            0,
        ),
        None => (scales_offset(tokens, head_dim), tokens),
    };
    Bytes(
        numbers
            .0
            .saturating_add(Bytes(scales).saturating_mul(SCALE.bytes()).0),
    )
}

/// Where the scales of a head of integers begin: past its numbers, each on a multiple of its size.
pub const fn scales_offset(tokens: u64, head_dim: u64) -> Bytes {
    Bytes(tokens)
        .saturating_mul(head_dim)
        .round_up(Bytes(SCALE.bytes()))
}

/// Blocks that hold `tokens` tokens of one sequence, the null block not counted.
pub const fn blocks_for(tokens: u64, block_size: u32) -> u64 {
    tokens.div_ceil(block_size as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Architecture;

    fn llama_3_1_8b() -> ModelShape {
        ModelShape {
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
        }
    }

    fn kv(dtype: KvDtype, block_size: u32) -> KvLayout {
        KvLayout {
            dtype,
            block_size,
            size: None,
        }
    }

    #[test]
    fn a_block_of_16_tokens_of_llama_3_1_8b_is_2_mib() {
        let (shape, kv) = (llama_3_1_8b(), kv(KvDtype::BFloat16, 16));
        let whole = Shard::whole(&shape);
        assert_eq!(block_bytes(&shape, &whole, &kv), Bytes(2 << 20));
        let part = Shard {
            kv_heads: 1..4,
            ..whole
        };
        assert_eq!(block_bytes(&shape, &part, &kv), Bytes(3 << 18));
    }

    #[test]
    fn integers_take_a_byte_each_and_a_scale_for_each_head_of_each_token() {
        let shape = llama_3_1_8b();
        let whole = Shard::whole(&shape);
        let block = block_bytes(&shape, &whole, &kv(KvDtype::Int8, 16));
        assert_eq!(block, Bytes(32 * 2 * 8 * 16 * (128 + 4)));
        for (tokens, head_dim, offset, bytes) in [
            (16, 64, 1024, 1088),
            (1, 128, 128, 132),
            (5, 6, 32, 52), // 30 numbers: scales are aligned
            (3, 2, 8, 20),
        ] {
            assert_eq!(scales_offset(tokens, head_dim), Bytes(offset));
            let found = head_bytes(KvDtype::Int8, tokens, head_dim);
            assert_eq!(found, Bytes(bytes), "{tokens} x {head_dim}");
        }
        for dtype in [KvDtype::Float16, KvDtype::Int8] {
            let most = head_bytes(dtype, u64::MAX, u64::MAX);
            assert_eq!(most, Bytes(u64::MAX), "{dtype} never wraps");
        }
    }

    #[test]
    fn tokens_take_whole_blocks() {
        assert_eq!(blocks_for(0, 16), 0);
        assert_eq!(blocks_for(1, 16), 1);
        assert_eq!(blocks_for(16, 16), 1);
        assert_eq!(blocks_for(17, 16), 2);
    }
}
