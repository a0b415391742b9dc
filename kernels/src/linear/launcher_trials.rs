//! What linear's launcher does before a launch: kernels that it picks, calls that it refuses, weights
//! that it lays out.

use plimsoll_planner::Dtype;

use super::choice::{Kernel, TILES_F32, choose};
use super::trials::{Sizes, packed};
use super::{LinearShape, card, cuda};
use crate::encoding;
use crate::gpu::trial::{self, Bench, DTYPES, Failure, Trial, refused, rounded};
use crate::gpu::{Card, GpuError, Kind};

type Proof = fn(&Bench<'_>) -> Result<(), Failure>;

pub(crate) fn all() -> Vec<Trial> {
    let proofs: [(&str, Proof); 3] = [
        ("rows may be packed in pieces", pieces),
        ("small and large calls get their kernels", choices),
        ("what no kernel takes is refused", refusals),
    ];
    proofs
        .into_iter()
        .map(|(name, prove)| Trial::new("linear", name, prove))
        .collect()
}

fn pieces(_: &Bench<'_>) -> Result<(), Failure> {
    for dtype in DTYPES {
        let shape = LinearShape::dense(37, 40, dtype);
        let w = trial::random(5).values(37 * 40);
        let whole = packed(&shape, &w, 37);
        trial::same("bytes", &[whole.len()], &[shape.packed_bytes()])?;
        for piece in [1, 5, 16] {
            trial::same("bytes", &packed(&shape, &w, piece), &whole)?;
        }
        let width = encoding::bytes_of(dtype);
        let number = |row: usize, col: usize| {
            encoding::load(dtype, &whole, (row * card::stride(&shape) + col) * width)
        };
        let w = rounded(dtype, &w);
        trial::same("the last number", &[number(36, 39)], &[w[36 * 40 + 39]])?;
        trial::same(
            "padding",
            &[number(3, 40), number(36, 63), number(37, 0), number(47, 63)],
            &[0.0; 4],
        )?;
    }
    Ok(())
}

/// On an H100: the sizes of an 8B model, and of a small one.
fn choices(_: &Bench<'_>) -> Result<(), Failure> {
    let h100 = Card {
        name: "H100".to_owned(),
        capability: 90,
        multiprocessors: 132,
        shared_bytes_per_block: 227 << 10,
    };
    let chosen = |tokens, rows, cols, dtype| match choose(
        &h100,
        &LinearShape::dense(rows, cols, dtype),
        tokens,
    ) {
        Kernel::Skinny { warps } => format!("{warps} warps"),
        Kernel::Tile(tile) => format!("{}x{}", tile.tokens, tile.rows),
    };
    for (tokens, rows, cols, wanted) in [
        (1, 4096, 4096, "8 warps"),
        (16, 28672, 4096, "4 warps"),
        (8, 1024, 4096, "16 warps"),
        (1, 576, 576, "8 warps"),
        (17, 4096, 4096, "64x32"),
        (64, 6144, 4096, "64x64"),
        (512, 4096, 4096, "128x128"),
        (2048, 4096, 4096, "128x256"),
        (2048, 28672, 4096, "128x256"),
    ] {
        let got = chosen(tokens, rows, cols, Dtype::BFloat16);
        if got != wanted {
            let what = format!("{tokens} x {cols} by {rows}: {got}, should be {wanted}");
            return Err(Failure::Wrong(what));
        }
    }
    trial::same(
        "f32",
        &[chosen(2048, 4096, 4096, Dtype::Float32)],
        &["64x64".to_owned()],
    )
}

fn refusals(bench: &Bench<'_>) -> Result<(), Failure> {
    let numbers = bench.put(Dtype::Float16, &[0.0; 64 * 64])?;
    let mut room = bench.room(Dtype::Float32, 64)?;
    let f16 = Kind::Number(Dtype::Float16);
    let skinny = Kernel::Skinny { warps: 8 };
    let whole = numbers.view(f16);
    let mut run = |kernel, (tokens, rows, cols): Sizes, stride, x, w, out| {
        let shape = LinearShape::dense(rows, cols, Dtype::Float16);
        let x = cuda::Input {
            data: x,
            tokens,
            stride,
        };
        let weight = cuda::Weight {
            shape,
            data: w,
            bias: None,
        };
        cuda::run_on(bench.gpu, kernel, &x, &weight, &room.view_mut(out))
    };
    let unsupported = |error: &GpuError| matches!(error, GpuError::Unsupported { .. });
    let shape = |error: &GpuError| matches!(error, GpuError::Shape { .. });
    let dtype = |error: &GpuError| matches!(error, GpuError::Dtype { .. });
    let tile = Kernel::Tile(TILES_F32[0]);
    for (what, kernel, sizes, stride) in [
        ("12 columns", skinny, (1, 16, 12), 16),
        ("a stride of 12", skinny, (2, 16, 8), 12),
        ("a stride below the columns", skinny, (2, 16, 32), 24),
        ("17 tokens, skinny", skinny, (17, 7, 32), 32),
        ("5 warps", Kernel::Skinny { warps: 5 }, (1, 16, 32), 32),
        ("a tile of f32", tile, (1, 16, 32), 32),
        (
            "more rows than can be counted",
            skinny,
            (1, 1 << 31, 32),
            32,
        ),
    ] {
        refused(
            what,
            run(kernel, sizes, stride, whole, whole, f16),
            unsupported,
        )?;
    }
    let sizes = (2, 16, 32);
    for (what, sizes, x, w) in [
        ("short x", (3, 16, 32), whole.part(0, 95), whole),
        ("a short weight", (1, 17, 32), whole, whole.part(0, 1023)),
        ("x at an odd address", sizes, whole.part(4, 64), whole),
        (
            "a weight at an odd address",
            sizes,
            whole,
            whole.part(4, 512),
        ),
        ("integers", sizes, numbers.view(Kind::U32), whole),
        ("a short out", (8, 32, 32), whole, whole),
    ] {
        refused(what, run(skinny, sizes, 32, x, w, f16), shape)?;
    }
    let bf16 = Kind::Number(Dtype::BFloat16);
    refused(
        "x of another type",
        run(skinny, sizes, 32, numbers.view(bf16), whole, f16),
        dtype,
    )?;
    refused(
        "a weight of another type",
        run(skinny, sizes, 32, whole, numbers.view(bf16), f16),
        shape,
    )?;
    refused(
        "out of another type",
        run(skinny, sizes, 32, whole, whole, bf16),
        dtype,
    )?;
    // Nothing to do is not refused.
    run(skinny, (0, 16, 32), 32, whole, whole, f16)?;
    Ok(run(skinny, (2, 0, 32), 32, whole, whole, f16)?)
}
