//! Trials in which every key on an edge counts. Among hundreds of like keys one more or less changes
//! a result by less than a rounding to bf16; here a few keys outweigh all others.

use plimsoll_planner::Dtype;

use super::case::{Case, Given};
use super::trials::{Scratch, Sequences, case, prove};
use crate::encoding;
use crate::gpu::trial::{Trial, rounded};
use crate::kv::Part;

/// Every kernel's tiles, and so every span, begin at multiples of this.
const TILE: usize = 32;

/// What is attended, head size, window. Contexts and windows are such that the last key that a row
/// sees, or the first key that it does not, is the first or the last of a tile.
type Row = (&'static str, Sequences, usize, Option<u32>);

#[rustfmt::skip]
const ROWS: &[Row] = &[
    // Spans of 384 keys. Contexts of a span and one more; of whole tiles, of whose last the first
    // row sees all but one; and of tiles and one more.
    ("decode", &[(1, 385), (2, 704), (1, 577), (1, 1)], 64, None),
    // Key 128 has left the second row's window; key 63, the last of its tile, opens another's.
    ("decode", &[(2, 704), (1, 638)], 64, Some(575)),
    // The same for the first and the last warp of 32 rows, in spans and whole.
    ("prefill", &[(67, 641)], 64, Some(512)),
    ("prefill", &[(67, 193)], 128, Some(64)),
];

pub(crate) fn all() -> Vec<Trial> {
    let trial = |(seed, row): (usize, &Row)| {
        let (what, sequences, head_dim, window) = *row;
        let given = Given {
            dtype: Dtype::BFloat16,
            kv_heads: 1,
            group: 1,
            head_dim,
            block_size: 16,
            window,
        };
        let name = format!(
            "{what}, edges that count, heads of {head_dim}, window {window:?}: {sequences:?}"
        );
        Trial::new("attention", name, move |bench| {
            let mut case = case(&given, sequences, seed);
            make_edges_count(&mut case);
            prove(bench, &case, Scratch::Enough)
        })
    };
    ROWS.iter().enumerate().map(trial).collect()
}

/// The first and the last key of every tile, and of the context, get scores that leave the others
/// next to nothing.
fn make_edges_count(case: &mut Case) {
    let (shape, dtype) = (case.shape, case.shape.dtype);
    for queries in &mut case.queries {
        queries.iter_mut().for_each(|number| *number += 1.0);
        *queries = rounded(dtype, queries);
    }
    for (s, (rows, context)) in case.sequences.iter().enumerate() {
        let is_edge = |position: &usize| {
            [0, TILE - 1].contains(&(position % TILE)) || position + 1 == *context
        };
        for position in (case.first_seen(context - rows)..*context).filter(is_edge) {
            let block = case.tables[s * case.stride + position / shape.block_size] as usize;
            let slot = block * shape.block_size + position % shape.block_size;
            for head in 0..shape.heads {
                let key = &mut case.cache[shape.row(slot, case.heads.layer, Part::Keys, head)];
                for d in 0..shape.head_dim {
                    encoding::store(dtype, key, d * shape.element_bytes(), 1.5);
                }
            }
        }
    }
}
