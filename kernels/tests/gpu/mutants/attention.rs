//! attention: barriers, fragments, block tables, and the edges of what may be read.

use super::Mutant;
use crate::options::Mode::{Plain, Race};

const SPLIT: &str =
    "attention: decode, BFloat16 1 x 3 heads of 64, blocks of 16, window None, scratch Enough";
const SHORT: &str = "attention: decode, BFloat16 2 x 4 heads of 128, blocks of 16";
/// Trials in which a key on an edge counts.
const DECODE_EDGES: &str = "attention: decode, edges that count";
const PREFILL_EDGES: &str = "attention: prefill, edges that count";

pub(super) const MUTANTS: &[Mutant] = &[
    Mutant {
        op: "attention",
        name: "a removed barrier",
        file: "attention/attention_merge.cu",
        old: "    __syncthreads();\n    if (group > 0) return;",
        new: "    if (group > 0) return;",
        filter: SPLIT,
        caught_by: &[Race],
    },
    Mutant {
        op: "attention",
        name: "a swapped fragment index",
        file: "attention/tile.cuh",
        old: "dev::mma_16816<T>(s[m][2 * j], a[m], b[0], b[1]);",
        new: "dev::mma_16816<T>(s[m][2 * j], a[m], b[1], b[0]);",
        filter: SHORT,
        caught_by: &[Plain],
    },
    Mutant {
        op: "attention",
        name: "an off-by-one in a block table",
        file: "attention/call.cuh",
        old: "return table[number(position)];",
        new: "return table[number(position + 1)];",
        filter: SPLIT,
        caught_by: &[Plain],
    },
    Mutant {
        op: "attention",
        name: "a read of an unwritten KV slot",
        file: "attention/ring.cuh",
        old: "return position >= begin && position < end;",
        new: "return position >= begin && position <= end;",
        filter: SHORT,
        caught_by: &[Race],
    },
    Mutant {
        op: "attention",
        name: "a wrong shuffle mask",
        file: "attention/tile.cuh",
        old: "fmaxf(largest, __shfl_xor_sync(FULL, largest, 1))",
        new: "fmaxf(largest, __shfl_xor_sync(0xfffffff0u, largest, 1))",
        filter: SHORT,
        caught_by: &[Plain],
    },
    Mutant {
        op: "attention",
        name: "values read without .trans",
        file: "attention/tile.cuh",
        old: "dev::ldmatrix_x4_trans(b, values",
        new: "dev::ldmatrix_x4(b, values",
        filter: SHORT,
        caught_by: &[Plain],
    },
    Mutant {
        op: "attention",
        name: "a span too few",
        file: "attention/call.cuh",
        old: "return (context - 1) / int(call.span) + 1",
        new: "return (context - 2) / int(call.span) + 1",
        filter: DECODE_EDGES,
        caught_by: &[Plain],
    },
    Mutant {
        op: "attention",
        name: "a tile passed over whose last key opens the window",
        file: "attention/ring.cuh",
        old: "unsigned(low - (key + KEYS - 1)) < window);",
        new: "unsigned(low - (key + KEYS - 1)) + 1 < window);",
        filter: DECODE_EDGES,
        caught_by: &[Plain],
    },
    Mutant {
        op: "attention",
        name: "a tile not masked whose first key has left the window",
        file: "attention/ring.cuh",
        old: "unsigned(high - key) >= window;",
        new: "unsigned(high - key) > window;",
        filter: PREFILL_EDGES,
        caught_by: &[Plain],
    },
];
