//! How weights that stay in blocks are multiplied.

use plimsoll_kernels::isa::Isa;
use plimsoll_kernels::linear::Products;
use plimsoll_planner::{BlockCompute, Dtype, Integers};

/// What was asked for. Inputs of 8 bits are for whoever asks: where the two best tokens are close a greedy
/// answer may turn (`kernels/BENCHMARKS.md`), and nobody is to meet that unasked.
pub fn of(compute: BlockCompute, dtype: Dtype, isa: Isa) -> Products {
    match (compute, compute.integers(dtype)) {
        (_, None) => Products::Exact,
        (BlockCompute::Auto, Some(_)) if !has_faster_integers(isa, dtype) => Products::Exact,
        (_, Some(Integers::Int8)) => Products::Int8,
        (_, Some(Integers::Int16)) => Products::Int16,
    }
}

/// Where products of 16-bit inputs by blocks are faster for few rows than exact ones, and for many nearly
/// as fast. With AMX many rows are left to its tiles; portable code was not measured.
const fn has_faster_integers(isa: Isa, dtype: Dtype) -> bool {
    match isa {
        Isa::Avx2 | Isa::Avx512 | Isa::Avx512Bf16 => true,
        // Its tiles take no Float16.
        Isa::Amx => matches!(dtype, Dtype::Float16),
        Isa::Scalar => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_is_int16_where_numbers_have_16_bits_and_the_machine_is_faster_so() {
        const AUTO: BlockCompute = BlockCompute::Auto;
        for isa in Isa::ALL {
            for dtype in [Dtype::BFloat16, Dtype::Float16] {
                let expected = match (isa, dtype) {
                    (Isa::Scalar, _) | (Isa::Amx, Dtype::BFloat16) => Products::Exact,
                    _ => Products::Int16,
                };
                assert_eq!(of(AUTO, dtype, isa), expected, "{isa} {dtype}");
            }
            assert_eq!(of(AUTO, Dtype::Float32, isa), Products::Exact, "{isa}");
            for dtype in [Dtype::BFloat16, Dtype::Float16, Dtype::Float32] {
                assert_eq!(of(BlockCompute::Int8, dtype, isa), Products::Int8);
                assert_eq!(of(BlockCompute::Int16, dtype, isa), Products::Int16);
                assert_eq!(of(BlockCompute::Exact, dtype, isa), Products::Exact);
            }
        }
    }
}
