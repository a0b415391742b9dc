//! What the launcher of codes does before a launch: kernels that it picks, calls that it refuses.

use plimsoll_planner::Dtype;

use super::super::cuda::Input;
use super::choice::{Kernel, TILES, choose};
use super::{Bits, CodesShape, Form, Group, cuda};
use crate::gpu::trial::{Bench, Failure, Trial, refused};
use crate::gpu::{Card, GpuError, Kind};

pub(crate) fn all() -> Vec<Trial> {
    vec![
        Trial::new(
            "linear",
            "codes: small and large calls get their kernels",
            |_| choices(),
        ),
        Trial::new("linear", "codes: what no kernel takes is refused", refusals),
    ]
}

fn shape(rows: usize, cols: usize, bits: Bits) -> CodesShape {
    CodesShape {
        rows,
        cols,
        bits,
        form: Form::Zero,
        group: Group::Of128,
        skipped: None,
    }
}

/// On an H100: the sizes of an 8B model, and of a small one.
fn choices() -> Result<(), Failure> {
    let h100 = Card {
        name: "H100".to_owned(),
        capability: 90,
        multiprocessors: 132,
        shared_bytes_per_block: 227 << 10,
    };
    for (tokens, rows, cols, bits, wanted) in [
        (1, 4096, 4096, Bits::Four, "8 warps"),
        (1, 4096, 14336, Bits::Eight, "8 warps"),
        (16, 28672, 4096, Bits::Four, "4 warps"),
        (8, 1024, 4096, Bits::Eight, "16 warps"),
        (1, 576, 576, Bits::Four, "4 warps"),
        (17, 4096, 4096, Bits::Four, "64x32"),
        (64, 6144, 4096, Bits::Eight, "64x32"),
        (512, 4096, 4096, Bits::Four, "128x128"),
        (2048, 28672, 4096, Bits::Eight, "128x128"),
    ] {
        let got = match choose(&h100, &shape(rows, cols, bits), tokens) {
            Kernel::Skinny { warps } => format!("{warps} warps"),
            Kernel::Tile(tile) => format!("{}x{}", tile.tokens(), tile.rows()),
        };
        if got != wanted {
            let what = format!("{tokens} x {cols} by {rows}: {got}, should be {wanted}");
            return Err(Failure::Wrong(what));
        }
    }
    Ok(())
}

fn refusals(bench: &Bench<'_>) -> Result<(), Failure> {
    let memory = bench.put(Dtype::Float16, &[0.0; 64 * 64])?;
    let mut room = bench.room(Dtype::Float32, 64)?;
    let f16 = Kind::Number(Dtype::Float16);
    let skinny = Kernel::Skinny { warps: 8 };
    let (numbers, bytes) = (memory.view(f16), memory.view(Kind::U8));
    let good = shape(16, 64, Bits::Four);
    let unsupported = |error: &GpuError| matches!(error, GpuError::Unsupported { .. });
    // Before a kernel is chosen by them: nothing can be reckoned with such sizes.
    let many = Input {
        data: numbers,
        tokens: 1 << 40,
        stride: 64,
    };
    let weight = cuda::Weight {
        shape: shape(1 << 40, 64, Bits::Four),
        data: bytes,
        bias: None,
    };
    let answer = cuda::run(bench.gpu, &many, &weight, &room.view_mut(f16));
    refused("sizes of no operand", answer, unsupported)?;
    let mut run = |kernel, (tokens, stride), shape, x, data, out| {
        let x = Input {
            data: x,
            tokens,
            stride,
        };
        let weight = cuda::Weight {
            shape,
            data,
            bias: None,
        };
        cuda::run_on(bench.gpu, kernel, &x, &weight, &room.view_mut(out))
    };
    let wrong_shape = |error: &GpuError| matches!(error, GpuError::Shape { .. });
    let dtype = |error: &GpuError| matches!(error, GpuError::Dtype { .. });
    let skipped = |cols| CodesShape {
        skipped: Some(cols),
        ..good
    };
    for (what, kernel, sizes, shape) in [
        ("40 columns", skinny, (1, 64), shape(16, 40, Bits::Four)),
        ("16 skipped columns", skinny, (1, 64), skipped(16)),
        ("a whole group skipped", skinny, (1, 64), skipped(128)),
        ("a stride of 68", skinny, (2, 68), good),
        ("a stride below the columns", skinny, (2, 32), good),
        (
            "17 tokens, skinny",
            skinny,
            (17, 64),
            shape(3, 64, Bits::Four),
        ),
        ("5 warps", Kernel::Skinny { warps: 5 }, (1, 64), good),
        (
            "more rows than can be counted",
            skinny,
            (1, 64),
            shape(1 << 31, 64, Bits::Four),
        ),
    ] {
        let answer = run(kernel, sizes, shape, numbers, bytes, f16);
        refused(what, answer, unsupported)?;
    }
    for (what, tokens, x, data, out_rows) in [
        ("short x", 2, numbers.part(0, 127), bytes, 16),
        (
            "a short weight",
            2,
            numbers,
            bytes.part(0, good.bytes() - 1),
            16,
        ),
        ("x at an odd address", 2, numbers.part(4, 128), bytes, 16),
        (
            "a weight at an odd address",
            2,
            numbers,
            bytes.part(8, good.bytes()),
            16,
        ),
        ("a weight in floats", 2, numbers, numbers, 16),
        ("integers", 2, memory.view(Kind::U32), bytes, 16),
        ("a short out", 9, numbers, bytes, 16),
    ] {
        let answer = run(
            skinny,
            (tokens, 64),
            shape(out_rows, 64, Bits::Four),
            x,
            data,
            f16,
        );
        refused(what, answer, wrong_shape)?;
    }
    let x_f32 = memory.view(Kind::F32);
    refused(
        "x in f32",
        run(skinny, (1, 64), good, x_f32, bytes, f16),
        dtype,
    )?;
    let bf16 = Kind::Number(Dtype::BFloat16);
    let answer = run(skinny, (1, 64), good, numbers, bytes, bf16);
    refused("out of another type", answer, dtype)?;
    // Nothing to do is not refused.
    run(Kernel::Tile(TILES[0]), (0, 64), good, numbers, bytes, f16)?;
    Ok(run(
        skinny,
        (2, 64),
        shape(0, 64, Bits::Four),
        numbers,
        bytes,
        f16,
    )?)
}
