//! block_copy: copies whole KV blocks, all layers, inside one cache.

use crate::kv::KvCache;

/// Copies block `from` over block `to` for every pair, in order.
///
/// # Panics
/// When a block is out of range.
pub fn run(cache: &mut [u8], shape: &KvCache, pairs: &[(u32, u32)]) {
    shape.check(cache);
    let bytes = shape.block_bytes();
    for (from, to) in pairs {
        let (from, to) = (*from as usize, *to as usize);
        assert!(
            from < shape.blocks && to < shape.blocks,
            "copy {from} to {to} of {}",
            shape.blocks
        );
        cache.copy_within(from * bytes..(from + 1) * bytes, to * bytes);
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::cast_possible_truncation, reason = "test sizes are small")]

    use plimsoll_planner::Dtype;

    use super::*;

    #[test]
    fn pairs_are_copied_in_order() {
        let shape = KvCache {
            dtype: Dtype::BFloat16,
            blocks: 4,
            block_size: 3,
            layers: 2,
            heads: 1,
            head_dim: 5,
        };
        let block = shape.block_bytes();
        let mut cache: Vec<u8> = (0..shape.bytes()).map(|at| (at / block) as u8).collect();
        run(&mut cache, &shape, &[(1, 3), (3, 2), (0, 0)]);
        let blocks: Vec<u8> = cache
            .chunks_exact(block)
            .map(|block| block[block.len() - 1])
            .collect();
        assert_eq!(blocks, [0, 1, 1, 1]);
    }
}
