//! One memmove per pair.

use plimsoll_planner::KvDtype;

use crate::kv::KvCache;

pub(super) fn run(cache: &mut [u8], shape: &KvCache<KvDtype>, pairs: &[(u32, u32)]) {
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
