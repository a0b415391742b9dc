//! One chunk per head: it owns that head's columns of qkv and that head's rows of the cache,
//! whatever the slots say.

use crate::encoding;
use crate::kv::{KvCache, Part};
use crate::pool::{Disjoint, Pool};
use crate::rms_norm;

use super::Step;

pub(super) fn run(
    pool: &Pool,
    qkv: &mut [f32],
    step: &Step<'_>,
    cache: &mut [u8],
    shape: &KvCache,
) {
    let heads = step.query_heads + 2 * shape.heads;
    let (qkv, cache) = (Disjoint::new(qkv), Disjoint::new(cache));
    pool.run(heads, |head| {
        for token in 0..step.positions.len() {
            let at = (token * heads + head) * shape.head_dim;
            // SAFETY: only chunk `head` touches the columns of this head.
            let row = unsafe { qkv.chunk(at..at + shape.head_dim) };
            let (part, kv_head) = match head.checked_sub(step.query_heads) {
                None => {
                    turn(
                        row,
                        step,
                        token,
                        step.norm.as_ref().map(|n| (n.query, n.eps)),
                    );
                    continue;
                }
                Some(kv_head) if kv_head < shape.heads => {
                    turn(row, step, token, step.norm.as_ref().map(|n| (n.key, n.eps)));
                    (Part::Keys, kv_head)
                }
                Some(kv_head) => (Part::Values, kv_head - shape.heads),
            };
            let slot = usize::try_from(step.slots[token]).unwrap_or(usize::MAX);
            // SAFETY: only chunk `head` touches the keys (or values) of this KV head.
            let kept = unsafe { cache.chunk(shape.row(slot, step.layer, part, kv_head)) };
            for (i, value) in row.iter().enumerate() {
                encoding::store(shape.dtype, kept, i * shape.element_bytes(), *value);
            }
        }
    });
}

/// Normalises (if asked) and rotates one head.
fn turn(row: &mut [f32], step: &Step<'_>, token: usize, norm: Option<(&[f32], f32)>) {
    if let Some((weight, eps)) = norm {
        let plain = row.to_vec();
        rms_norm::normalise(&plain, weight, eps, row);
    }
    let half = row.len() / 2;
    let at = step.positions[token] as usize * half;
    let (cos, sin) = (
        &step.tables.cos[at..at + half],
        &step.tables.sin[at..at + half],
    );
    let (first, second) = row.split_at_mut(half);
    for i in 0..half {
        let (a, b) = (first[i], second[i]);
        first[i] = a * cos[i] - b * sin[i];
        second[i] = b * cos[i] + a * sin[i];
    }
}
