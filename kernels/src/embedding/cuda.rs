//! The card's side of embedding: the grid, and what is refused.

use plimsoll_planner::Dtype;

use crate::gpu::{Arguments, Gpu, GpuError, Kind, Launch, Tensor, TensorMut};

const OP: &str = "embedding";
/// As in embedding.cu.
const THREADS: usize = 256;
const GROUP: usize = 8;
/// Sizes are counted in 32 bits, with room for a block more.
const MOST: usize = 1 << 30;

/// This rank's rows of the input embedding, on the card: row `r` is the `hidden` numbers from
/// `r * stride` on (a tied head's rows lie as `linear::card` says).
#[derive(Clone, Copy, Debug)]
pub struct Table<'a> {
    pub data: Tensor<'a>,
    /// The vocabulary id of the first row.
    pub first_row: u32,
    pub rows: usize,
    pub hidden: usize,
    /// Numbers from one row to the next, at least `hidden`.
    pub stride: usize,
}

/// Gathers one row per id into `out`: `[tokens, hidden]` in the table's type or in f32. `ids` are
/// integers of 4 bytes.
///
/// # Errors
/// When the tensors do not fit the sizes, or no kernel takes them.
pub fn run(
    gpu: &Gpu,
    tokens: usize,
    ids: Tensor<'_>,
    table: &Table<'_>,
    out: &TensorMut<'_>,
) -> Result<(), GpuError> {
    let (from, to) = check(tokens, ids, table, out)?;
    let number = |size: usize| u32::try_from(size).unwrap_or(u32::MAX);
    gpu.launch(&Launch {
        op: OP,
        kernel: &format!("embedding_{}_{}", Kind::suffix(from), Kind::suffix(to)),
        grid: [
            number(tokens),
            number(table.hidden.div_ceil(THREADS * GROUP)),
            1,
        ],
        threads: 256,
        shared_bytes: 0,
        arguments: Arguments::new()
            .write(out)
            .read(table.data)
            .read(ids)
            .u32(table.first_row)
            .u32(number(table.rows))
            .u32(number(table.hidden))
            .u32(number(table.stride)),
    })
}

/// The types of the table and of `out`.
fn check(
    tokens: usize,
    ids: Tensor<'_>,
    table: &Table<'_>,
    out: &TensorMut<'_>,
) -> Result<(Dtype, Dtype), GpuError> {
    /// What the second dimension of a grid holds.
    const MOST_PARTS: usize = 65535;
    let unsupported = |what, size: usize, supported| GpuError::Unsupported {
        op: OP,
        what,
        value: size as u64,
        supported,
    };
    for (what, size, most) in [
        ("tokens", tokens, MOST),
        ("rows", table.rows, MOST),
        ("hidden", table.hidden, MOST_PARTS * THREADS * GROUP),
        ("stride", table.stride, MOST),
    ] {
        if size > most {
            return Err(unsupported(what, size, format!("at most {most}")));
        }
    }
    for (what, size) in [("hidden", table.hidden), ("stride", table.stride)] {
        if !size.is_multiple_of(GROUP) {
            return Err(unsupported(what, size, format!("multiples of {GROUP}")));
        }
    }
    if table.stride < table.hidden {
        let least = format!("at least hidden, {}", table.hidden);
        return Err(unsupported("stride", table.stride, least));
    }
    let floats = |what, tensor: Tensor<'_>| {
        tensor.dtype().ok_or_else(|| GpuError::Shape {
            op: OP,
            what,
            has: format!("{:?}", tensor.kind()),
            needs: "floats".to_owned(),
        })
    };
    let from = floats("table", table.data)?;
    let to = floats("out", out.as_tensor())?;
    if to != from && to != Dtype::Float32 {
        return Err(GpuError::Dtype {
            op: OP,
            what: "out",
            dtype: to,
            supported: "the table's type or f32",
        });
    }
    let read = match table.rows {
        0 => 0,
        rows => (rows - 1) * table.stride + table.hidden,
    };
    table
        .data
        .check(OP, "table", Kind::Number(from), read, 16)?;
    ids.check(OP, "ids", Kind::U32, tokens, 4)?;
    out.check(OP, "out", Kind::Number(to), tokens * table.hidden, 16)?;
    Ok((from, to))
}
