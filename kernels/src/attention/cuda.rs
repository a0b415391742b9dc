//! The card's side of attention: which kernels serve a batch, and what is refused.
//!
//! Rows are (token, query head) pairs of one KV head. Sequences with few rows (decoding) go to
//! `attention_decode`, the others to `attention_prefill`; a mixed batch to both, where each leaves
//! the other's sequences alone. A row's bits depend on the kernel and on how its keys are cut, so,
//! unlike on the CPU, on the batch.

use plimsoll_planner::Dtype;
use plimsoll_planner::card::attention::{STATS, part_numbers};

pub use super::pass::Extent;
use super::pass::Job;
use super::{Heads, MAX_HEAD_DIM};
use crate::gpu::{Arguments, Card, Gpu, GpuError, Kind, Tensor, TensorMut};
use crate::kv::{KvCache, Part};

const OP: &str = "attention";
/// Head sizes with tensor core kernels.
const HEAD_DIMS: [usize; 5] = [64, 80, 96, 128, 256];
/// Sequences and KV heads are the grid's y and z.
const MOST_BLOCKS: usize = 65_535;
/// So that the end of a span past the context still fits 31 bits.
const MOST_CONTEXT: usize = 1 << 30;

/// Query rows: row t is `data[t * stride..][..query * head_dim]` (the front of a qkv row).
#[derive(Clone, Copy, Debug)]
pub struct Queries<'a> {
    pub data: Tensor<'a>,
    pub stride: usize,
}

/// As [`super::Batch`], on the device (u32), with what the host knows of it.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    pub query_start: Tensor<'a>,
    pub context_len: Tensor<'a>,
    pub block_tables: Tensor<'a>,
    pub table_stride: usize,
    pub extent: Extent,
}

/// Attends every row of the batch into `out` (`[tokens, query * head_dim]`). Queries, cache and
/// `out` are of one float type. `scratch` (f32, any length, none is legal) lets the keys of few rows
/// be shared between blocks.
///
/// # Errors
/// When a tensor does not fit the shapes, or no kernel takes them.
pub fn run(
    gpu: &Gpu,
    queries: Queries<'_>,
    heads: &Heads,
    batch: &Batch<'_>,
    cache: (Tensor<'_>, &KvCache),
    out: &TensorMut<'_>,
    scratch: &mut TensorMut<'_>,
) -> Result<(), GpuError> {
    let (cache, shape) = cache;
    let job = Job {
        card: gpu.card(),
        heads,
        shape,
        extent: &batch.extent,
    };
    check_shape(&job)?;
    let strides = check_strides(&job, queries.stride, batch.table_stride)?;
    check_tensors(&job, queries, batch, cache, out)?;
    scratch.check(OP, "scratch", Kind::F32, 0, 16)?;
    if batch.extent.tokens == 0 || heads.query == 0 {
        return Ok(());
    }
    let first = shape.head_offset(0, heads.layer, Part::Keys, 0) / shape.element_bytes();
    let layer = cache.part(first, 0);
    for pass in job.passes(scratch.as_tensor().count()) {
        let parts = job.parts(&pass);
        let values = parts * shape.head_dim;
        let arguments = Arguments::new()
            .write(out)
            .write(&scratch.part(0, values))
            .write(&scratch.part(values, parts * STATS))
            .read(queries.data)
            .read(layer)
            .read(batch.query_start)
            .read(batch.context_len)
            .read(batch.block_tables);
        job.launch(gpu, &pass, arguments, strides)?;
    }
    Ok(())
}

/// How many numbers of scratch a batch of this extent makes use of; with fewer its keys are shared
/// between fewer blocks.
///
/// # Errors
/// When no kernel takes the sizes.
pub fn scratch(
    card: &Card,
    heads: &Heads,
    shape: &KvCache,
    extent: &Extent,
) -> Result<usize, GpuError> {
    let job = Job {
        card,
        heads,
        shape,
        extent,
    };
    check_shape(&job)?;
    if extent.tokens == 0 || heads.query == 0 {
        return Ok(0);
    }
    let parts = job
        .passes(usize::MAX)
        .iter()
        .map(|pass| job.parts(pass))
        .max();
    Ok(parts.unwrap_or(0) * part_numbers(shape.head_dim))
}

fn check_shape(job: &Job<'_>) -> Result<(), GpuError> {
    let Job {
        heads,
        shape,
        extent,
        ..
    } = job;
    let is_single = shape.dtype == Dtype::Float32;
    let is_supported = match is_single {
        true => (4..=MAX_HEAD_DIM).contains(&shape.head_dim) && shape.head_dim.is_multiple_of(4),
        false => HEAD_DIMS.contains(&shape.head_dim),
    };
    let supported = match is_single {
        true => format!("multiples of 4 up to {MAX_HEAD_DIM} in f32"),
        false => format!("{HEAD_DIMS:?} in 16 bits"),
    };
    if !is_supported {
        return Err(unsupported("head_dim", shape.head_dim, supported));
    }
    // Once this fits, so does every product of these sizes, as of a cache that has nothing.
    let rows = [2, shape.heads.max(1), shape.block_size, shape.blocks.max(1)]
        .into_iter()
        .fold(shape.layers, usize::saturating_mul);
    let query_rows = extent.most_rows.saturating_mul(heads.query);
    at_least("block_size", shape.block_size, 1)?;
    at_least(
        "sliding_window",
        heads.sliding_window.map_or(1, |window| window as usize),
        1,
    )?;
    at_least("layers", shape.layers, 1)?;
    at_most("layer", heads.layer, shape.layers.saturating_sub(1))?;
    at_most("KV heads", shape.heads, MOST_BLOCKS)?;
    at_most("sequences", extent.sequences, MOST_BLOCKS)?;
    at_most("most_context", extent.most_context, MOST_CONTEXT)?;
    at_most("most_rows", extent.most_rows, extent.most_context)?;
    at_most("most_rows x query heads", query_rows, i32::MAX as usize)?;
    at_most("tokens", extent.tokens, extent.sequences * extent.most_rows)?;
    at_most("rows of the cache", rows, u32::MAX as usize)?;
    if heads.query > 0 && (shape.heads == 0 || !heads.query.is_multiple_of(shape.heads)) {
        let supported = format!("multiples of the {} KV heads", shape.heads);
        return Err(unsupported("query heads", heads.query, supported));
    }
    if !(heads.scale > 0.0 && heads.scale.is_finite()) {
        return Err(wrong(
            "scale",
            heads.scale.to_string(),
            "a positive number".to_owned(),
        ));
    }
    Ok(())
}

/// The strides of queries and tables as the kernels have them.
fn check_strides(job: &Job<'_>, query: usize, table: usize) -> Result<(u32, u32), GpuError> {
    let Job {
        heads,
        shape,
        extent,
        ..
    } = job;
    let fits = |what, value: usize| {
        u32::try_from(value).map_err(|_| unsupported(what, value, format!("at most {}", u32::MAX)))
    };
    let strides = (fits("query stride", query)?, fits("table_stride", table)?);
    at_least(
        "query stride",
        query,
        heads.query.saturating_mul(shape.head_dim),
    )?;
    if !(query * shape.element_bytes()).is_multiple_of(16) {
        let supported = "rows that begin at multiples of 16 bytes".to_owned();
        return Err(unsupported("query stride", query, supported));
    }
    at_least(
        "table_stride",
        table,
        extent.most_context.div_ceil(shape.block_size),
    )?;
    Ok(strides)
}

fn check_tensors(
    job: &Job<'_>,
    queries: Queries<'_>,
    batch: &Batch<'_>,
    cache: Tensor<'_>,
    out: &TensorMut<'_>,
) -> Result<(), GpuError> {
    let Job {
        heads,
        shape,
        extent,
        ..
    } = job;
    for (what, tensor) in [("queries", queries.data), ("out", out.as_tensor())] {
        match tensor.dtype() {
            Some(dtype) if dtype != shape.dtype => {
                return Err(GpuError::Dtype {
                    op: OP,
                    what,
                    dtype,
                    supported: "the type of the KV cache",
                });
            }
            _ => {}
        }
    }
    let (number, row) = (Kind::Number(shape.dtype), heads.query * shape.head_dim);
    let needed = match extent.tokens {
        0 => 0,
        tokens => (tokens - 1)
            .saturating_mul(queries.stride)
            .saturating_add(row),
    };
    queries.data.check(OP, "queries", number, needed, 16)?;
    let all = extent.tokens.saturating_mul(row);
    out.check(OP, "out", number, all, 16)?;
    let numbers = shape.bytes() / shape.element_bytes();
    cache.check(OP, "cache", number, numbers, 16)?;
    let tables = extent.sequences * batch.table_stride;
    batch
        .query_start
        .check(OP, "query_start", Kind::U32, extent.sequences + 1, 4)?;
    batch
        .context_len
        .check(OP, "context_len", Kind::U32, extent.sequences, 4)?;
    batch
        .block_tables
        .check(OP, "block_tables", Kind::U32, tables, 4)
}

fn at_most(what: &'static str, value: usize, most: usize) -> Result<(), GpuError> {
    match value <= most {
        true => Ok(()),
        false => Err(unsupported(what, value, format!("at most {most}"))),
    }
}

fn at_least(what: &'static str, value: usize, least: usize) -> Result<(), GpuError> {
    match value >= least {
        true => Ok(()),
        false => Err(unsupported(what, value, format!("at least {least}"))),
    }
}

fn unsupported(what: &'static str, value: usize, supported: String) -> GpuError {
    GpuError::Unsupported {
        op: OP,
        what,
        value: value as u64,
        supported,
    }
}

fn wrong(what: &'static str, has: String, needs: String) -> GpuError {
    GpuError::Shape {
        op: OP,
        what,
        has,
        needs,
    }
}
