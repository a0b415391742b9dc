//! rope_kv: optional RMS norm of each q and k head, rotation of q and k, and the write of k and v
//! into the paged cache; one pass over the qkv rows.
//!
//! qkv `[tokens, (query + 2 kv) * dim]`: q heads, then k heads, then v heads. q is rotated in place
//! (k too; v is left as it is). Pair i of a head is (x[i], x[i + dim/2]):
//! x[i]' = x[i] cos - x[i + dim/2] sin, x[i + dim/2]' = x[i + dim/2] cos + x[i] sin.
//!
//! A cache of floats holds k and v rounded to nearest even; one of integers, of each head of each token,
//! s = largest |x| / 127 and round(x / s), ties to even. A head with a number that is not finite has
//! s = NaN, so that nothing is hidden; one whose largest is below 127 of the smallest normal number is 0.

#[expect(
    unsafe_code,
    reason = "concurrent chunks write the columns of different heads"
)]
mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
mod integers;
#[cfg(feature = "gpu-tests")]
mod refusals;
#[cfg(feature = "gpu-tests")]
pub(crate) mod trials;

#[cfg(test)]
mod tests;

use plimsoll_planner::KvDtype;

use crate::kv::KvCache;
use crate::pool::Pool;
use crate::rope::RopeTables;

/// The slot of a row that only fills up a batch of a fixed size: it is rotated, and nothing of it is kept.
pub const NO_SLOT: u64 = u64::MAX;

/// RMS norm over each head of q and k (Qwen3).
#[derive(Clone, Copy, Debug)]
pub struct HeadNorm<'a> {
    /// `[dim]`
    pub query: &'a [f32],
    /// `[dim]`
    pub key: &'a [f32],
    pub eps: f32,
}

/// What happens to the rows of one layer.
#[derive(Clone, Copy, Debug)]
pub struct Step<'a> {
    /// Query heads of this rank; KV heads, head size and block size are the cache's.
    pub query_heads: usize,
    pub layer: usize,
    pub norm: Option<HeadNorm<'a>>,
    pub tables: RopeTables<'a>,
    /// Per token: its position in its sequence.
    pub positions: &'a [u32],
    /// Per token: block x block_size + offset in the block, or [`NO_SLOT`].
    pub slots: &'a [u64],
}

/// Rotates q and k of every row and writes k and v into `cache`.
///
/// # Panics
/// When a slice does not fit the shapes, or a position or a slot is out of range.
pub fn run<D: Copy + Into<KvDtype>>(
    pool: &Pool,
    qkv: &mut [f32],
    step: &Step<'_>,
    cache: &mut [u8],
    shape: &KvCache<D>,
) {
    let tokens = step.positions.len();
    let half = shape.head_dim / 2;
    shape.check(cache);
    assert!(
        shape.head_dim.is_multiple_of(2),
        "head_dim {} has no halves",
        shape.head_dim
    );
    assert!(
        step.layer < shape.layers,
        "layer {} of {}",
        step.layer,
        shape.layers
    );
    assert_eq!(step.slots.len(), tokens, "slots are not one per token");
    let row = (step.query_heads + 2 * shape.heads) * shape.head_dim;
    assert_eq!(qkv.len(), tokens * row, "qkv is not [{tokens}, {row}]");
    assert_eq!(
        step.tables.cos.len(),
        step.tables.sin.len(),
        "tables differ"
    );
    if let Some(norm) = &step.norm {
        assert_eq!(norm.query.len(), shape.head_dim, "q_norm is not [head_dim]");
        assert_eq!(norm.key.len(), shape.head_dim, "k_norm is not [head_dim]");
    }
    let positions = step.tables.cos.len() / half.max(1);
    let last = step.positions.iter().copied().max().unwrap_or(0) as usize;
    assert!(
        tokens == 0 || last < positions,
        "position {last} of {positions} in the tables"
    );
    let slots = (shape.blocks * shape.block_size) as u64;
    assert!(
        step.slots
            .iter()
            .all(|slot| *slot < slots || *slot == NO_SLOT),
        "a slot passes the {slots} of the cache"
    );
    if tokens > 0 {
        cpu::run(pool, qkv, step, cache, &shape.of_any());
    }
}
