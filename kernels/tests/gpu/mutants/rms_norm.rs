//! rms_norm, and with it the sums over a warp and over a block.

use super::Mutant;
use crate::options::Mode::{Asan, Plain, Race};

pub(super) const MUTANTS: &[Mutant] = &[
    Mutant {
        op: "rms_norm",
        name: "a removed barrier",
        file: "gpu/reduce.cuh",
        old: "    __syncthreads();\n",
        new: "",
        filter: "rms_norm: Float32 3 x 576",
        caught_by: &[Race],
    },
    Mutant {
        op: "rms_norm",
        name: "a wrong shuffle mask",
        file: "gpu/reduce.cuh",
        old: "__shfl_xor_sync(0xffffffffu, v, o)",
        new: "__shfl_xor_sync(0x7fffffffu, v, o)",
        filter: "rms_norm: Float32 3 x 576",
        caught_by: &[Plain],
    },
    Mutant {
        op: "rms_norm",
        name: "a partial sum too many",
        file: "gpu/reduce.cuh",
        old: "lane < warps ?",
        new: "lane <= warps ?",
        filter: "rms_norm: Float32 3 x 576",
        caught_by: &[Plain],
    },
    Mutant {
        op: "rms_norm",
        name: "a group past the row is read",
        file: "rms_norm/rms_norm.cu",
        old: "if (c < cols) {\n            dev::load8(v[s], x + start + c);",
        new: "if (c <= cols) {\n            dev::load8(v[s], x + start + c);",
        filter: "rms_norm: BFloat16 3 x 576",
        caught_by: &[Race],
    },
    Mutant {
        op: "rms_norm",
        name: "a group past the row is written",
        file: "rms_norm/rms_norm.cu",
        old: "if (c < cols) {\n            float w[8];",
        new: "if (c <= cols) {\n            float w[8];",
        filter: "rms_norm: Float16 3 x 576",
        caught_by: &[Asan],
    },
    Mutant {
        op: "rms_norm",
        name: "all rows of the residual stream in one place",
        file: "rms_norm/rms_norm.cu",
        old: "dev::store8(residual + start + c, v[s]);",
        new: "dev::store8(residual + c, v[s]);",
        filter: "rms_norm: Float32 3 x 576",
        caught_by: &[Race],
    },
    Mutant {
        op: "rms_norm",
        name: "a residual stream that is read as what comes of it",
        file: "rms_norm/rms_norm.cu",
        old: "row<T, float, false, STEPS>(out, nullptr, x,",
        new: "row<T, T, false, STEPS>(out, nullptr, (const T*)x,",
        filter: "rms_norm: BFloat16 3 x 576",
        caught_by: &[Plain],
    },
];
