//! rms_norm on a card against its CPU definition.

use super::cuda;
use crate::gpu::trial::{self, Bench, DTYPES, Failure, Trial, close, refused, rounded, rounding};
use crate::gpu::{GpuError, Kind};
use plimsoll_planner::Dtype;

const EPS: f32 = 1e-5;

/// Widths around every step of the kernel.
pub(crate) fn all() -> Vec<Trial> {
    let mut trials = Vec::new();
    for dtype in DTYPES {
        for (tokens, cols) in [
            (1, 8),
            (3, 576),
            (2, 2040),
            (1, 2048),
            (2, 2056),
            (1, 4104),
            (2, 8192),
            (1, 8200),
            (2, 16384),
            (5, 64),
            (0, 64),
        ] {
            trials.push(Trial::new(
                "rms_norm",
                format!("{dtype} {tokens} x {cols}, with and without a residual"),
                move |bench| both(bench, dtype, tokens, cols),
            ));
        }
    }
    trials.push(Trial::new(
        "rms_norm",
        "what no kernel takes is refused",
        refusals,
    ));
    trials
}

fn both(bench: &Bench<'_>, dtype: Dtype, tokens: usize, cols: usize) -> Result<(), Failure> {
    let (mut random, pool) = (trial::random(tokens * cols), trial::pool());
    let x = rounded(dtype, &random.values(tokens * cols));
    let (weight, residual) = (random.values(cols), random.values(tokens * cols));
    let (on_card, weights) = (bench.put(dtype, &x)?, bench.put(Dtype::Float32, &weight)?);
    let kind = Kind::Number(dtype);
    // Rounding of the result, and of the sums: a lane adds cols / 256 squares, then the block's.
    let bound =
        |wanted: &[f32], at: usize| rounding(dtype, wanted[at]) * 1.01 + wanted[at].abs() * 2e-6;

    let mut wanted = vec![f32::NAN; x.len()];
    super::run(&pool, &x, &weight, EPS, &mut wanted);
    let mut out = bench.room(dtype, x.len())?;
    let view = out.view_mut(kind);
    cuda::run(
        bench.gpu,
        (tokens, cols),
        on_card.view(kind),
        weights.view(Kind::F32),
        EPS,
        &view,
    )?;
    let got = bench.take(&out, dtype, x.len())?;
    close("out", &got, &wanted, |at| bound(&wanted, at))?;

    if dtype != Dtype::Float32 {
        super::run(&pool, &residual, &weight, EPS, &mut wanted);
        let stream = bench.put(Dtype::Float32, &residual)?;
        let mut out = bench.room(dtype, x.len())?;
        cuda::run(
            bench.gpu,
            (tokens, cols),
            stream.view(Kind::F32),
            weights.view(Kind::F32),
            EPS,
            &out.view_mut(kind),
        )?;
        let got = bench.take(&out, dtype, x.len())?;
        close("out of a stream in f32", &got, &wanted, |at| {
            bound(&wanted, at)
        })?;
    }

    let mut sum = residual.clone();
    super::run_residual(&pool, &x, &mut sum, &weight, EPS, &mut wanted);
    let mut stream = bench.put(Dtype::Float32, &residual)?;
    let mut out = bench.room(dtype, x.len())?;
    cuda::run_residual(
        bench.gpu,
        (tokens, cols),
        on_card.view(kind),
        &stream.view_mut(Kind::F32),
        weights.view(Kind::F32),
        EPS,
        &out.view_mut(kind),
    )?;
    trial::same(
        "residual",
        &bench.take(&stream, Dtype::Float32, x.len())?,
        &sum,
    )?;
    let got = bench.take(&out, dtype, x.len())?;
    close("out after the sum", &got, &wanted, |at| bound(&wanted, at))
}

fn refusals(bench: &Bench<'_>) -> Result<(), Failure> {
    let x = bench.put(Dtype::Float32, &[0.0; 64])?;
    let mut out = bench.room(Dtype::Float32, 64)?;
    let mut run = |tokens, cols, kind| {
        let weight = x.view(Kind::F32);
        cuda::run(
            bench.gpu,
            (tokens, cols),
            x.view(kind),
            weight,
            EPS,
            &out.view_mut(Kind::F32),
        )
    };
    let unsupported = |error: &GpuError| matches!(error, GpuError::Unsupported { .. });
    let shape = |error: &GpuError| matches!(error, GpuError::Shape { .. });
    refused("7 columns", run(1, 7, Kind::F32), unsupported)?;
    refused("no columns", run(1, 0, Kind::F32), unsupported)?;
    refused(
        "more columns than a block holds",
        run(1, 16392, Kind::F32),
        unsupported,
    )?;
    refused("more tokens than there are", run(9, 8, Kind::F32), shape)?;
    refused("integers", run(1, 8, Kind::U32), shape)?;
    // Of two types only f32 may be normalised into another.
    refused(
        "16 bits into f32",
        run(1, 8, Kind::Number(Dtype::BFloat16)),
        shape,
    )?;
    let halves = bench.put(Dtype::BFloat16, &[0.0; 64])?;
    let (mut stream, mut sum) = (
        bench.room(Dtype::BFloat16, 64)?,
        bench.room(Dtype::Float32, 64)?,
    );
    let answer = cuda::run_residual(
        bench.gpu,
        (1, 8),
        x.view(Kind::F32),
        &sum.view_mut(Kind::F32),
        x.view(Kind::F32),
        EPS,
        &stream.view_mut(Kind::Number(Dtype::BFloat16)),
    );
    refused("a sum of f32 for 16 bits", answer, shape)?;
    let answer = cuda::run(
        bench.gpu,
        (1, 8),
        halves.view(Kind::Number(Dtype::BFloat16)),
        x.view(Kind::F32),
        EPS,
        &stream.view_mut(Kind::Number(Dtype::Float16)),
    );
    refused("one type of 16 bits into the other", answer, shape)?;
    let odd = x.view(Kind::F32).part(1, 8);
    let answer = cuda::run(
        bench.gpu,
        (1, 8),
        odd,
        x.view(Kind::F32),
        EPS,
        &out.view_mut(Kind::F32),
    );
    refused("an address between two groups", answer, shape)
}
