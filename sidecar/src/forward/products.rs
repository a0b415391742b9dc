//! How weights that stay in blocks are multiplied.

use plimsoll_kernels::linear::Products;
use plimsoll_planner::BlockCompute;

/// What was asked for. Integers are for whoever asks: where the two best tokens are close a greedy answer
/// may turn (`kernels/BENCHMARKS.md`), and nobody is to meet that unasked.
pub const fn of(compute: BlockCompute) -> Products {
    match compute {
        BlockCompute::Int8 => Products::Int8,
        BlockCompute::Int16 => Products::Int16,
        BlockCompute::Auto | BlockCompute::Exact => Products::Exact,
    }
}
