//! silu_mul on a card against its CPU definition, in place and not.

use super::cuda::{self, Shape};
use crate::gpu::trial::{self, Bench, DTYPES, Failure, Trial, close, refused, rounded, rounding};
use crate::gpu::{GpuError, Kind};
use plimsoll_planner::Dtype;

/// Columns around groups and blocks, halves filled up or not.
pub(crate) fn all() -> Vec<Trial> {
    let mut trials = Vec::new();
    for dtype in DTYPES {
        for (tokens, cols, half) in [
            (1, 1, 16),
            (3, 31, 32),
            (2, 33, 48),
            (5, 64, 64),
            (2, 1000, 1008),
            (1, 2048, 2048),
            (2, 2051, 2064),
            (2, 53_240, 53_248),
            (3, 0, 16),
            (0, 64, 64),
        ] {
            trials.push(Trial::new(
                "silu_mul",
                format!("{dtype} {tokens} x {cols} in halves of {half}, in place and not"),
                move |bench| {
                    let shape = Shape { tokens, cols, half };
                    both(bench, dtype, shape)
                },
            ));
        }
    }
    trials.push(Trial::new(
        "silu_mul",
        "what no kernel takes is refused",
        refusals,
    ));
    trials
}

fn both(bench: &Bench<'_>, dtype: Dtype, shape: Shape) -> Result<(), Failure> {
    let Shape { tokens, cols, half } = shape;
    let mut random = trial::random(tokens * cols);
    let mut gate_up = random.values(tokens * 2 * half);
    for (at, value) in gate_up.iter_mut().enumerate() {
        if at / half % 2 == 0 {
            *value *= 20.0;
        }
        // What fills the halves up is for nobody to read.
        if at % half >= cols {
            *value = f32::NAN;
        }
    }
    if cols > 0 && tokens > 0 {
        // The exponential passes every range; the largest number of f16 is 65,504.
        gate_up[0] = -60_000.0;
    }
    let gate_up = rounded(dtype, &gate_up);
    let mut wanted = vec![f32::NAN; tokens * cols];
    super::run(&trial::pool(), &gate_up, tokens, cols, &mut wanted);
    // The exponentials of both sides are good to 8 and 2 units in the last place, the card's division
    // to 2; three roundings follow on either side, then one to the type. Where 1 + exp is near the
    // end of its range, the CPU's exponential saturates and the card's division gives zero: next to
    // nothing on both.
    let bound = |at: usize| {
        let value = wanted[at];
        rounding(dtype, value) * 1.01 + value.abs() * 16.0 * f32::EPSILON + 1e-30
    };

    let kind = Kind::Number(dtype);
    let mut on_card = bench.put(dtype, &gate_up)?;
    let mut out = bench.room(dtype, wanted.len())?;
    let (input, view) = (on_card.view(kind), out.view_mut(kind));
    cuda::run(bench.gpu, shape, input, &view)?;
    close(
        "out",
        &bench.take(&out, dtype, wanted.len())?,
        &wanted,
        bound,
    )?;

    cuda::run_in_place(bench.gpu, shape, &on_card.view_mut(kind))?;
    let rows = bench.take(&on_card, dtype, gate_up.len())?;
    let (mut results, mut others) = (Vec::new(), Vec::new());
    for (row, before) in rows.chunks(2 * half).zip(gate_up.chunks(2 * half)) {
        results.extend(&row[..cols]);
        let changed = |(now, before): (&f32, &f32)| now.to_bits() != before.to_bits();
        others.push(row[cols..].iter().zip(&before[cols..]).any(changed));
    }
    close("in place", &results, &wanted, bound)?;
    trial::same("other columns changed", &others, &vec![false; tokens])
}

fn refusals(bench: &Bench<'_>) -> Result<(), Failure> {
    let gate_up = bench.put(Dtype::Float32, &[0.0; 64])?;
    let mut out = bench.room(Dtype::Float32, 64)?;
    let mut run = |tokens, cols, half, kind| {
        let shape = Shape { tokens, cols, half };
        cuda::run(
            bench.gpu,
            shape,
            gate_up.view(kind),
            &out.view_mut(Kind::F32),
        )
    };
    let unsupported = |error: &GpuError| matches!(error, GpuError::Unsupported { .. });
    let shape = |error: &GpuError| matches!(error, GpuError::Shape { .. });
    refused("halves of 12", run(1, 4, 12, Kind::F32), unsupported)?;
    refused("17 of 16 columns", run(1, 17, 16, Kind::F32), unsupported)?;
    refused(
        "a half past 2^24",
        run(0, 8, 1 << 25, Kind::F32),
        unsupported,
    )?;
    refused(
        "more tokens than there are",
        run(3, 16, 16, Kind::F32),
        shape,
    )?;
    refused("integers", run(1, 8, 8, Kind::U32), shape)?;
    let two = bench.put(Dtype::Float16, &[0.0; 64])?;
    let (cols, half) = (8, 8);
    let eight = Shape {
        tokens: 1,
        cols,
        half,
    };
    let half_precision = two.view(Kind::Number(Dtype::Float16));
    let view = out.view_mut(Kind::F32);
    refused(
        "two float types",
        cuda::run(bench.gpu, eight, half_precision, &view),
        shape,
    )?;
    let odd = gate_up.view(Kind::F32).part(2, 32);
    refused(
        "an address between two groups",
        cuda::run(bench.gpu, eight, odd, &view),
        shape,
    )
}
