//! How weights that stay in blocks are multiplied on this machine.

use plimsoll_kernels::isa::{Dots, Isa};
use plimsoll_kernels::linear::Products;
use plimsoll_planner::{BlockCompute, Dtype};

/// What was asked for, of weights whose exact products are in `dtype`, on an instruction set.
pub fn of(compute: BlockCompute, dtype: Dtype, isa: Isa) -> Products {
    match compute {
        BlockCompute::Int8 => Products::Int8,
        BlockCompute::Exact => Products::Exact,
        BlockCompute::Auto if is_faster(isa) => match dtype {
            Dtype::BFloat16 | Dtype::Float16 => Products::Int8,
            // Whoever asks for it asks for exactness.
            Dtype::Float32 => Products::Exact,
        },
        BlockCompute::Auto => Products::Exact,
    }
}

/// Where integers were measured to be faster for one row and for many (`benches/ops -- blocks`). Tiles of
/// AMX have several times the rate of VNNI for many rows, in bf16 as well, and nobody measured there.
fn is_faster(isa: Isa) -> bool {
    match Dots::of(isa) {
        Dots::Avx512Vnni => isa != Isa::Amx,
        Dots::Avx2 | Dots::Scalar => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_is_integers_where_they_are_faster_and_numbers_are_rounded_anyway() {
        let best = Isa::available().into_iter().rfind(|isa| *isa < Isa::Amx);
        let best = best.unwrap_or(Isa::Scalar);
        let faster = match Dots::of(best) {
            Dots::Avx512Vnni => Products::Int8,
            Dots::Avx2 | Dots::Scalar => Products::Exact,
        };
        for (compute, dtype, isa, expected) in [
            (BlockCompute::Auto, Dtype::BFloat16, best, faster),
            (BlockCompute::Auto, Dtype::Float16, best, faster),
            (BlockCompute::Auto, Dtype::Float32, best, Products::Exact),
            (
                BlockCompute::Auto,
                Dtype::BFloat16,
                Isa::Scalar,
                Products::Exact,
            ),
            (
                BlockCompute::Auto,
                Dtype::BFloat16,
                Isa::Amx,
                Products::Exact,
            ),
            (
                BlockCompute::Int8,
                Dtype::Float32,
                Isa::Scalar,
                Products::Int8,
            ),
            (BlockCompute::Exact, Dtype::BFloat16, best, Products::Exact),
        ] {
            assert_eq!(
                of(compute, dtype, isa),
                expected,
                "{compute:?} {dtype} {isa}"
            );
        }
    }
}
