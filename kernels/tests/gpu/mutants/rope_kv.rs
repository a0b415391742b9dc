//! rope_kv: norms, rotations, and where rows of the cache go.

use super::Mutant;
use crate::options::Mode::{Plain, Race};

const NORMED: &str = "rope_kv: Float32 head size 64, group 1";
const PLAIN: &str = "rope_kv: Float16 head size 96";

pub(super) const MUTANTS: &[Mutant] = &[
    Mutant {
        op: "rope_kv",
        name: "keys and values in the slot of the position",
        file: "rope_kv/rope_kv.cu",
        old: "slot = slots[blockIdx.x]",
        new: "slot = positions[blockIdx.x]",
        filter: PLAIN,
        caught_by: &[Plain],
    },
    Mutant {
        op: "rope_kv",
        name: "layers that overlap",
        file: "rope_kv/rope_kv.cu",
        old: "size_t(shape.layer) * 2 + part",
        new: "size_t(shape.layer) + part",
        filter: PLAIN,
        caught_by: &[Plain],
    },
    Mutant {
        op: "rope_kv",
        name: "the other half is rotated by what is rotated already",
        file: "rope_kv/rope_kv.cu",
        old: "y * c[j] + x * d[j]",
        new: "y * c[j] + a[s][j] * d[j]",
        filter: PLAIN,
        caught_by: &[Plain],
    },
    Mutant {
        op: "rope_kv",
        name: "a rotation backwards",
        file: "rope_kv/rope_kv.cu",
        old: "x * c[j] - y * d[j]",
        new: "x * c[j] + y * d[j]",
        filter: PLAIN,
        caught_by: &[Plain],
    },
    Mutant {
        op: "rope_kv",
        name: "angles of twice the position",
        file: "rope_kv/rope_kv.cu",
        old: "size_t(positions[blockIdx.x]) * half;",
        new: "size_t(positions[blockIdx.x]) * shape.dim;",
        filter: PLAIN,
        caught_by: &[Plain],
    },
    Mutant {
        op: "rope_kv",
        name: "the first key has the queries' norm",
        file: "rope_kv/rope_kv.cu",
        old: "head < shape.query_heads ? query_weight",
        new: "head <= shape.query_heads ? query_weight",
        filter: NORMED,
        caught_by: &[Plain],
    },
    Mutant {
        op: "rope_kv",
        name: "values are normed",
        file: "rope_kv/rope_kv.cu",
        old: "if (i >= end || is_value) break;",
        new: "if (i >= end) break;",
        filter: NORMED,
        caught_by: &[Plain],
    },
    Mutant {
        op: "rope_kv",
        name: "a norm over all heads of a warp",
        file: "rope_kv/rope_kv.cu",
        old: "for (int o = lanes / 2;",
        new: "for (int o = 16;",
        filter: NORMED,
        caught_by: &[Plain],
    },
    Mutant {
        op: "rope_kv",
        name: "a group without a head reads one",
        file: "rope_kv/rope_kv.cu",
        old: "head < heads ? half : 0",
        new: "half",
        filter: NORMED,
        caught_by: &[Race],
    },
    Mutant {
        op: "rope_kv",
        name: "a row without a slot is kept",
        file: "rope_kv/rope_kv.cu",
        old: "slot == NO_SLOT) return;",
        new: "false) return;",
        filter: NORMED,
        caught_by: &[Race],
    },
];
