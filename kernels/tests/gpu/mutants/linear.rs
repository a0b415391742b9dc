//! linear: the tile kernel's fragments, its last rows, its barrier.

use super::Mutant;
use crate::options::Mode::{Plain, Race};

const TILE: &str = "linear: BFloat16 tile";

pub(super) const MUTANTS: &[Mutant] = &[
    Mutant {
        op: "linear",
        name: "a swapped fragment index",
        file: "linear/linear_tile.cu",
        old: "w[j % 2 * 2], w[j % 2 * 2 + 1]",
        new: "w[j % 2 * 2 + 1], w[j % 2 * 2]",
        filter: TILE,
        caught_by: &[Plain],
    },
    Mutant {
        op: "linear",
        name: "a row too many is copied",
        file: "linear/linear_tile.cu",
        old: "is_there && row + i < rows_left",
        new: "is_there && row + i <= rows_left",
        filter: TILE,
        caught_by: &[Race],
    },
];
