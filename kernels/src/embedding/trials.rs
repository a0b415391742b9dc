//! embedding on a card against its CPU definition, to the bit.

use plimsoll_planner::Dtype;

use super::{EmbeddingTable, cuda};
use crate::encoding;
use crate::gpu::trial::{self, Bench, DTYPES, Failure, Trial, refused, rounded};
use crate::gpu::{GpuError, Kind};

/// Rows, stride and first row of a shard; widths around a thread's and a block's columns.
pub(crate) fn all() -> Vec<Trial> {
    let mut trials = Vec::new();
    for dtype in DTYPES {
        for (hidden, stride) in [
            (8, 8),
            (40, 64),
            (2040, 2048),
            (2056, 2080),
            (16_384, 16_416),
        ] {
            let title = format!("{dtype}, {hidden} of {stride} columns");
            trials.push(Trial::new("embedding", title, move |bench| {
                gather(bench, dtype, hidden, stride)
            }));
        }
    }
    trials.push(Trial::new(
        "embedding",
        "what no kernel takes is refused",
        refusals,
    ));
    trials
}

fn gather(bench: &Bench<'_>, dtype: Dtype, hidden: usize, stride: usize) -> Result<(), Failure> {
    let (first_row, rows) = (1000, 37);
    // The shard's edges, one twice, and ids of other ranks.
    let ids: [u32; 9] = [1000, 1036, 999, 1037, 1020, 1020, 0, u32::MAX, 1001];
    let values = rounded(dtype, &trial::random(hidden).values(rows * hidden));
    let width = encoding::bytes_of(dtype);
    let mut bytes = vec![0; values.len() * width];
    // On the card the gap between rows is not-a-number, and there is none behind the last.
    let mut spread = vec![f32::NAN; (rows - 1) * stride + hidden];
    for (row, values) in values.chunks_exact(hidden).enumerate() {
        spread[row * stride..][..hidden].copy_from_slice(values);
    }
    for (at, value) in values.iter().enumerate() {
        encoding::store(dtype, &mut bytes, at * width, *value);
    }
    let table = EmbeddingTable {
        blocks: None,
        bytes: &bytes,
        dtype,
        packed: false,
        first_row,
        rows,
        hidden,
    };
    let mut wanted = vec![f32::NAN; ids.len() * hidden];
    super::run(&trial::pool(), &ids, &table, &mut wanted);

    let (on_card, ids_on_card) = (bench.put(dtype, &spread)?, bench.put_raw(&ids)?);
    let table = cuda::Table {
        data: on_card.view(Kind::Number(dtype)),
        first_row: 1000,
        rows,
        hidden,
        stride,
    };
    for to in [dtype, Dtype::Float32] {
        let mut out = bench.room(to, wanted.len())?;
        let view = out.view_mut(Kind::Number(to));
        let ids = ids_on_card.view(Kind::U32);
        cuda::run(bench.gpu, 9, ids, &table, &view)?;
        trial::same("out", &bench.take(&out, to, wanted.len())?, &wanted)?;
    }
    Ok(())
}

fn refusals(bench: &Bench<'_>) -> Result<(), Failure> {
    let (data, ids) = (
        bench.put(Dtype::Float16, &[0.0; 128])?,
        bench.put_raw(&[0u32; 4])?,
    );
    let mut out = bench.room(Dtype::Float32, 32)?;
    let f16 = Kind::Number(Dtype::Float16);
    let whole = data.view(f16);
    let mut run = |tokens, rows, (hidden, stride), data, to| {
        let table = cuda::Table {
            data,
            first_row: 0,
            rows,
            hidden,
            stride,
        };
        let ids = ids.view(Kind::U32);
        cuda::run(bench.gpu, tokens, ids, &table, &out.view_mut(to))
    };
    let unsupported = |error: &GpuError| matches!(error, GpuError::Unsupported { .. });
    let shape = |error: &GpuError| matches!(error, GpuError::Shape { .. });
    let dtype = |error: &GpuError| matches!(error, GpuError::Dtype { .. });
    for (what, rows, widths) in [
        ("12 columns", 2, (12, 16)),
        ("a stride of 12", 2, (8, 12)),
        ("a stride below the columns", 2, (16, 8)),
        ("more rows than can be counted", 1 << 31, (8, 8)),
    ] {
        refused(what, run(1, rows, widths, whole, f16), unsupported)?;
    }
    let odd = whole.part(4, 64);
    for (what, tokens, rows, data, to) in [
        ("a short table", 1, 9, whole, f16),
        ("short ids", 5, 8, whole, f16),
        ("a short out", 4, 8, whole, Kind::F32),
        ("out of integers", 1, 2, whole, Kind::U32),
        ("a table at an odd address", 1, 2, odd, f16),
        ("a table of integers", 1, 2, data.view(Kind::U32), f16),
    ] {
        refused(what, run(tokens, rows, (16, 16), data, to), shape)?;
    }
    let bf16 = Kind::Number(Dtype::BFloat16);
    refused(
        "out of another type",
        run(1, 2, (16, 16), whole, bf16),
        dtype,
    )?;
    // Nothing to do is not refused: no tokens, or no rows of this rank.
    run(0, 2, (16, 16), whole, f16)?;
    Ok(run(1, 0, (16, 16), whole, f16)?)
}
