//! Order, and what is out of range.
#![expect(clippy::cast_possible_truncation, reason = "test sizes are small")]

use plimsoll_planner::Dtype;

use super::*;

const SHAPE: KvCache = KvCache {
    dtype: Dtype::BFloat16,
    blocks: 4,
    block_size: 3,
    layers: 2,
    heads: 1,
    head_dim: 5,
};

#[test]
fn pairs_are_copied_in_order() {
    let block = SHAPE.block_bytes();
    let mut cache: Vec<u8> = (0..SHAPE.bytes()).map(|at| (at / block) as u8).collect();
    run(&mut cache, &SHAPE, &[(1, 3), (3, 2), (0, 0)]);
    let blocks: Vec<u8> = cache
        .chunks_exact(block)
        .map(|block| block[block.len() - 1])
        .collect();
    assert_eq!(blocks, [0, 1, 1, 1]);
}

#[test]
#[should_panic(expected = "copy 1 to 4 of 4")]
fn a_block_past_the_cache_is_refused() {
    run(&mut vec![0; SHAPE.bytes()], &SHAPE, &[(0, 1), (1, 4)]);
}
