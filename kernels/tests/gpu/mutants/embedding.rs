//! embedding.

use super::Mutant;
use crate::options::Mode::{Asan, Plain};

pub(super) const MUTANTS: &[Mutant] = &[
    Mutant {
        op: "embedding",
        name: "a row too many",
        file: "embedding/embedding.cu",
        old: "if (at < rows)",
        new: "if (at <= rows)",
        filter: "embedding: Float16, 40",
        caught_by: &[Asan],
    },
    Mutant {
        op: "embedding",
        name: "columns past the last",
        file: "embedding/embedding.cu",
        old: "if (c >= hidden) return;",
        new: "",
        filter: "embedding: Float16, 40",
        caught_by: &[Plain],
    },
    Mutant {
        op: "embedding",
        name: "rows without their gaps",
        file: "embedding/embedding.cu",
        old: "size_t(at) * stride + c",
        new: "size_t(at) * hidden + c",
        filter: "embedding: BFloat16, 40",
        caught_by: &[Plain],
    },
    Mutant {
        op: "embedding",
        name: "every block has the first one's columns",
        file: "embedding/embedding.cu",
        old: "(blockIdx.y * THREADS + threadIdx.x) * 8",
        new: "threadIdx.x * 8",
        filter: "embedding: BFloat16, 2056",
        caught_by: &[Plain],
    },
    Mutant {
        op: "embedding",
        name: "another rank's rows",
        file: "embedding/embedding.cu",
        old: "ids[blockIdx.x] - first_row",
        new: "ids[blockIdx.x]",
        filter: "embedding: Float32, 8",
        caught_by: &[Plain],
    },
    Mutant {
        op: "embedding",
        name: "the widest rows begin anew",
        file: "embedding/embedding.cu",
        old: "(blockIdx.y * THREADS +",
        new: "(blockIdx.y % 4 * THREADS +",
        filter: "embedding: BFloat16, 16384",
        caught_by: &[Plain],
    },
];
