//! Reading one rank's share of the weights, straight into the arena in kernel layout.
//!
//! Reads go through one small buffer; no tensor is ever whole in host memory beside its place.

use std::ops::Range;

use plimsoll_kernels::device::Buffer;
use plimsoll_kernels::linear::{self, LinearShape};
use plimsoll_planner::weights::{Form, Tensor, TensorPlace, WeightLayout, padded_mlp_columns};
use plimsoll_planner::{Dtype, ModelShape, Shard};

use crate::model::ModelError;
use crate::weights::TensorSource;

/// Numbers read at once.
const BUFFER_NUMBERS: usize = 1 << 18;

/// A part of a tensor in the file, and the rows of the place that it fills.
struct Part {
    name: String,
    rows: Range<usize>,
    /// Columns of the file's tensor; the place may be wider (padding, zeros).
    cols: Range<usize>,
    first_row: usize,
}

/// Reads every tensor of a rank. `progress` is told the bytes of each part that is in place, and
/// may stop the load by returning false (the load then returns `Ok(false)`).
///
/// # Errors
/// As the source's.
pub(super) fn load(
    source: &dyn TensorSource,
    shape: &ModelShape,
    shard: &Shard,
    layout: &WeightLayout,
    weights: &mut Buffer,
    mut progress: impl FnMut(u64) -> bool,
) -> Result<bool, ModelError> {
    let mut rows = Vec::with_capacity(BUFFER_NUMBERS);
    for place in layout.places() {
        let offset = usize::try_from(place.offset).unwrap_or(usize::MAX);
        let bytes = usize::try_from(place.bytes).unwrap_or(usize::MAX);
        let target = weights.range_mut::<u8>(offset, bytes);
        // Padding is zero; parts cover the rest.
        target.fill(0);
        for part in parts(place, shape, shard) {
            fill(source, place, &part, target, &mut rows)?;
        }
        if !progress(place.bytes) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn fill(
    source: &dyn TensorSource,
    place: &TensorPlace,
    part: &Part,
    target: &mut [u8],
    buffer: &mut Vec<f32>,
) -> Result<(), ModelError> {
    let width = usize::try_from(place.cols).unwrap_or(usize::MAX);
    let read = part.cols.len();
    if part.rows.is_empty() || read == 0 {
        return Ok(());
    }
    let rows_at_once = (BUFFER_NUMBERS / width.max(1)).max(1);
    for first in part.rows.clone().step_by(rows_at_once) {
        let rows = first..(first + rows_at_once).min(part.rows.end);
        let count = rows.len();
        buffer.resize(count * read, 0.0);
        source.read_block(
            &part.name,
            rows,
            part.cols.clone(),
            &mut buffer[..count * read],
        )?;
        widen(buffer, count, read, width);
        store(
            place,
            part.first_row + (first - part.rows.start),
            target,
            &buffer[..count * width],
        );
    }
    Ok(())
}

/// Rows of `from` numbers become rows of `to`, padded with zeros.
fn widen(buffer: &mut Vec<f32>, rows: usize, from: usize, to: usize) {
    if from == to {
        return;
    }
    buffer.resize(rows * to, 0.0);
    for row in (0..rows).rev() {
        buffer.copy_within(row * from..(row + 1) * from, row * to);
        buffer[row * to + from..(row + 1) * to].fill(0.0);
    }
}

fn store(place: &TensorPlace, first_row: usize, target: &mut [u8], values: &[f32]) {
    let rows = usize::try_from(place.rows).unwrap_or(usize::MAX);
    let cols = usize::try_from(place.cols).unwrap_or(usize::MAX);
    match place.form {
        Form::Panels(dtype) => {
            let shape = LinearShape { rows, cols, dtype };
            linear::pack_rows(target, &shape, first_row, values);
        }
        Form::RowMajor(dtype) => store_plain(dtype, target, first_row * cols, values),
        Form::Vector => store_plain(Dtype::Float32, target, first_row * cols, values),
    }
}

/// Numbers one after the other, in little-endian order as the kernels read them.
fn store_plain(dtype: Dtype, target: &mut [u8], first: usize, values: &[f32]) {
    match dtype {
        Dtype::Float32 => {
            let cells = target[first * 4..].chunks_exact_mut(4);
            cells
                .zip(values)
                .for_each(|(cell, x)| cell.copy_from_slice(&x.to_ne_bytes()));
        }
        Dtype::BFloat16 => {
            let cells = target[first * 2..].chunks_exact_mut(2).zip(values);
            cells.for_each(|(c, x)| c.copy_from_slice(&half::bf16::from_f32(*x).to_ne_bytes()));
        }
        Dtype::Float16 => {
            let cells = target[first * 2..].chunks_exact_mut(2).zip(values);
            cells.for_each(|(c, x)| c.copy_from_slice(&half::f16::from_f32(*x).to_ne_bytes()));
        }
    }
}

/// Where the rows of a place come from, in the file's names.
fn parts(place: &TensorPlace, shape: &ModelShape, shard: &Shard) -> Vec<Part> {
    let hidden = shape.hidden as usize;
    let head_dim = shape.head_dim as usize;
    let wide =
        |range: &Range<u32>, unit: usize| range.start as usize * unit..range.end as usize * unit;
    let heads = wide(&shard.query_heads, head_dim);
    let kv_heads = wide(&shard.kv_heads, head_dim);
    let columns = wide(&shard.mlp_columns, 1);
    let padded = usize::try_from(padded_mlp_columns(shard)).unwrap_or(usize::MAX);
    let layer = |layer: u32, name: &str| format!("model.layers.{layer}.{name}");
    let whole = |name: String, rows: Range<usize>, width: usize| {
        vec![Part {
            name,
            rows,
            cols: 0..width,
            first_row: 0,
        }]
    };
    // q, k and v rows, and gate and up rows, lie in one tensor each.
    let qkv = |index: u32, suffix: &str, width: usize| {
        let (q, kv) = (heads.len(), kv_heads.len());
        let rows = [
            ("q", &heads, 0),
            ("k", &kv_heads, q),
            ("v", &kv_heads, q + kv),
        ];
        let part = |(which, rows, first_row): (&str, &Range<usize>, usize)| Part {
            name: layer(index, &format!("self_attn.{which}_proj.{suffix}")),
            rows: rows.clone(),
            cols: 0..width,
            first_row,
        };
        rows.map(part).into_iter().collect()
    };
    let gate_up = |index: u32, suffix: &str, width: usize| {
        let part = |(which, first_row): (&str, usize)| Part {
            name: layer(index, &format!("mlp.{which}_proj.{suffix}")),
            rows: columns.clone(),
            cols: 0..width,
            first_row,
        };
        [("gate", 0), ("up", padded)]
            .map(part)
            .into_iter()
            .collect()
    };
    // The output projections are cut by columns.
    let output = |index: u32, name: &str, cols: &Range<usize>| {
        vec![Part {
            name: layer(index, name),
            rows: 0..hidden,
            cols: cols.clone(),
            first_row: 0,
        }]
    };
    match place.tensor {
        Tensor::Embedding => whole(
            "model.embed_tokens.weight".into(),
            wide(&shard.vocab_rows, 1),
            hidden,
        ),
        Tensor::Head => whole("lm_head.weight".into(), wide(&shard.vocab_rows, 1), hidden),
        Tensor::FinalNorm => whole("model.norm.weight".into(), 0..hidden, 1),
        Tensor::InputNorm { layer: l } => whole(layer(l, "input_layernorm.weight"), 0..hidden, 1),
        Tensor::PostNorm { layer: l } => {
            whole(layer(l, "post_attention_layernorm.weight"), 0..hidden, 1)
        }
        Tensor::Qkv { layer: l } => qkv(l, "weight", hidden),
        Tensor::QkvBias { layer: l } => qkv(l, "bias", 1),
        Tensor::QNorm { layer: l } => whole(layer(l, "self_attn.q_norm.weight"), 0..head_dim, 1),
        Tensor::KNorm { layer: l } => whole(layer(l, "self_attn.k_norm.weight"), 0..head_dim, 1),
        Tensor::Output { layer: l } => output(l, "self_attn.o_proj.weight", &heads),
        Tensor::OutputBias { layer: l } => whole(layer(l, "self_attn.o_proj.bias"), 0..hidden, 1),
        Tensor::GateUp { layer: l } => gate_up(l, "weight", hidden),
        Tensor::GateUpBias { layer: l } => gate_up(l, "bias", 1),
        Tensor::Down { layer: l } => output(l, "mlp.down_proj.weight", &columns),
        Tensor::DownBias { layer: l } => whole(layer(l, "mlp.down_proj.bias"), 0..hidden, 1),
    }
}
