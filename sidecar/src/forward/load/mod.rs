//! Reading one rank's share of the weights, straight to where they stay.
//!
//! The device asks for pieces of rows, on as many threads as it has, and writes each number once, in
//! its own layout; no tensor is ever whole in host memory beside its place. Tensors that are sent come
//! the other way round: some rows at a time, in whatever order, each to the places that it fills.

#[cfg(test)]
mod tests;

use std::ops::Range;

use plimsoll_kernels::linear::{self, BadScale, StoredBlocks};
use plimsoll_planner::weights::{
    Form, Listed, Tensor, TensorPlace, WeightLayout, padded_mlp_columns,
};
use plimsoll_planner::{BlockFormat, Dtype, ModelShape, Shard};

use super::backend::Store;
use super::handle::Format;
use super::layers::{Matrix, matrix};
use crate::model::ModelError;
use crate::model_error::shorten;
use crate::weights::piece::Piece;
use crate::weights::{TensorSource, finite, rounding};

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
    device: &mut impl Store,
    mut progress: impl FnMut(u64) -> bool,
) -> Result<bool, ModelError> {
    for place in layout.places() {
        let target = matrix(place);
        let parts = parts(place, shape, shard);
        if !parts.iter().all(|part| source.is_there(&part.name)) {
            if !covers(&parts, &target) {
                device.clear(target.weight);
            }
            let listed = layout.order_of(place.tensor).is_some();
            for part in parts {
                fill(source, (&target, listed), &part, device)?;
            }
        }
        if !progress(place.bytes) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Zeros in the places that no tensor fills whole, for memory that comes new and is written by pieces.
pub(super) fn blank(
    shape: &ModelShape,
    shard: &Shard,
    layout: &WeightLayout,
    device: &mut impl Store,
) {
    for place in layout.places() {
        let target = matrix(place);
        if !covers(&parts(place, shape, shard), &target) {
            device.clear(target.weight);
        }
    }
}

/// Writes some rows of a tensor wherever this rank has them: nowhere, where it has none.
///
/// # Errors
/// As the piece's.
pub(super) fn scatter(
    piece: &Piece,
    shape: &ModelShape,
    shard: &Shard,
    layout: &WeightLayout,
    device: &mut impl Store,
) -> Result<(), ModelError> {
    let name = &piece.tensor().name;
    // No list comes in pieces: what has one is not sent, see `model::pushable`.
    let sent = |place: &&TensorPlace| place.form != Form::List;
    for place in layout.places().iter().filter(sent) {
        for part in parts(place, shape, shard) {
            if part.name != *name {
                continue;
            }
            let rows = piece.rows().start.max(part.rows.start)..piece.rows().end.min(part.rows.end);
            if rows.is_empty() {
                continue;
            }
            let there = Part {
                first_row: part.first_row + (rows.start - part.rows.start),
                rows,
                ..part
            };
            let listed = layout.order_of(place.tensor).is_some();
            fill(piece, (&matrix(place), listed), &there, device)?;
        }
    }
    Ok(())
}

/// Every row comes from a tensor; columns are padded with their rows.
fn covers(parts: &[Part], target: &Matrix) -> bool {
    let covered: usize = parts.iter().map(|part| part.rows.len()).sum();
    covered >= target.rows && parts.iter().all(|part| !part.cols.is_empty())
}

/// `listed`: the place's columns lie by a list.
fn fill(
    source: &dyn TensorSource,
    (target, listed): (&Matrix, bool),
    part: &Part,
    device: &mut impl Store,
) -> Result<(), ModelError> {
    let Part {
        name,
        rows,
        cols,
        first_row,
    } = part;
    if rows.is_empty() || cols.is_empty() {
        return Ok(());
    }
    let places = *first_row..first_row + rows.len();
    let order = source.order(name);
    if target.weight.format == Format::U32 {
        let order = order.filter(|order| order.len() == rows.len());
        let order = order.ok_or_else(|| other_order(name))?;
        return device.fill(target, places, &|places, out| {
            for (out, column) in out.as_chunks_mut::<4>().0.iter_mut().zip(&order[places]) {
                *out = column.to_le_bytes();
            }
            Ok(())
        });
    }
    if let Format::Blocks(format) = target.weight.format {
        // Whole blocks are read, whatever of them is this rank's.
        let columns = usize::try_from(format.columns()).unwrap_or(usize::MAX);
        let cols = cols.start / columns * columns..cols.end.next_multiple_of(columns);
        // What the file has otherwise, as floats, in other blocks or in another order, is rounded to those of
        // its place.
        let stays = source.blocks(name) == Some(format) && order.is_some() == listed;
        let rounds = !stays && !listed && rounding::is_rounded_to(format);
        if !rounds && order.is_some() != listed {
            return Err(other_order(name));
        }
        return device.fill(target, places, &|places, out| {
            let first = rows.start + (places.start - first_row);
            let wanted = first..first + places.len();
            if rounds {
                return source.read_rounded(format, name, wanted, cols.clone(), out);
            }
            source.read_blocks(format, name, wanted.clone(), cols.clone(), out)?;
            sound(format, name, &wanted, &cols, out)
        });
    }
    let number = if target.dtype == Dtype::Float32 { 4 } else { 2 };
    let (read, width) = (cols.len() * number, target.cols * number);
    device.fill(target, places, &|places, out| {
        let first = rows.start + (places.start - first_row);
        let wanted = first..first + places.len();
        let narrow = &mut out[..places.len() * read];
        source.read_as(target.dtype, name, wanted.clone(), cols.clone(), narrow)?;
        finite::check(target.dtype, name, (&wanted, cols), narrow)?;
        widen(out, read, width);
        Ok(())
    })
}

fn other_order(name: &str) -> ModelError {
    let message = format!(
        "tensor `{}`: its columns are in another order than those of its place in memory: start the \
         engine again",
        shorten(name)
    );
    ModelError::weights("weights", message)
}

/// Refuses blocks whose scales are no numbers: nothing that is multiplied with them would be one.
fn sound(
    format: BlockFormat,
    name: &str,
    rows: &Range<usize>,
    cols: &Range<usize>,
    blocks: &[u8],
) -> Result<(), ModelError> {
    let source = StoredBlocks {
        bytes: blocks,
        rows: rows.len(),
        row_bytes: blocks.len() / rows.len().max(1),
        first_block: 0,
    };
    let first_block = cols.start / usize::try_from(format.columns()).unwrap_or(usize::MAX);
    linear::check_scales(format, cols.len(), source).map_err(|bad| {
        let bad = BadScale {
            row: bad.row + rows.start,
            block: bad.block + first_block,
            ..bad
        };
        ModelError::weights("weights", format!("tensor `{}`: {bad}", shorten(name)))
    })
}

/// Rows of `from` bytes, at the front, become rows of `to`, padded with zeros.
fn widen(rows: &mut [u8], from: usize, to: usize) {
    if from == to {
        return;
    }
    for row in (0..rows.len() / to).rev() {
        rows.copy_within(row * from..(row + 1) * from, row * to);
        rows[row * to + from..(row + 1) * to].fill(0);
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
    // q, k and v rows, and gate and up rows, lie in one tensor each; all in one place, or each in its own.
    let rows_of = |index: u32, which: &str, rows: &Range<usize>, first_row: usize| Part {
        name: layer(index, which),
        rows: rows.clone(),
        cols: 0..hidden,
        first_row,
    };
    let qkv = |index: u32, suffix: &str, width: usize| {
        let (q, kv) = (heads.len(), kv_heads.len());
        let rows = [
            ("q", &heads, 0),
            ("k", &kv_heads, q),
            ("v", &kv_heads, q + kv),
        ];
        let part = |(which, rows, first_row): (&str, &Range<usize>, usize)| Part {
            cols: 0..width,
            ..rows_of(
                index,
                &format!("self_attn.{which}_proj.{suffix}"),
                rows,
                first_row,
            )
        };
        rows.map(part).into_iter().collect()
    };
    let gate_up = |index: u32, suffix: &str, width: usize| {
        let part = |(which, first_row): (&str, usize)| Part {
            cols: 0..width,
            ..rows_of(
                index,
                &format!("mlp.{which}_proj.{suffix}"),
                &columns,
                first_row,
            )
        };
        [("gate", 0), ("up", padded)]
            .map(part)
            .into_iter()
            .collect()
    };
    let alone = |index: u32, which: &str, rows: &Range<usize>| {
        vec![rows_of(index, &format!("{which}_proj.weight"), rows, 0)]
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
    // Of the columns of one tensor, the first of those that share it.
    let list = |index: u32, of: Listed| {
        let which = match of {
            Listed::Qkv | Listed::Query => "self_attn.q",
            Listed::Key => "self_attn.k",
            Listed::Value => "self_attn.v",
            Listed::Output => "self_attn.o",
            Listed::GateUp | Listed::Gate => "mlp.gate",
            Listed::Up => "mlp.up",
            Listed::Down => "mlp.down",
        };
        let columns = usize::try_from(place.rows).unwrap_or(usize::MAX);
        whole(layer(index, &format!("{which}_proj.weight")), 0..columns, 1)
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
        Tensor::Query { layer: l } => alone(l, "self_attn.q", &heads),
        Tensor::Key { layer: l } => alone(l, "self_attn.k", &kv_heads),
        Tensor::Value { layer: l } => alone(l, "self_attn.v", &kv_heads),
        Tensor::QkvBias { layer: l } => qkv(l, "bias", 1),
        Tensor::QNorm { layer: l } => whole(layer(l, "self_attn.q_norm.weight"), 0..head_dim, 1),
        Tensor::KNorm { layer: l } => whole(layer(l, "self_attn.k_norm.weight"), 0..head_dim, 1),
        Tensor::Output { layer: l } => output(l, "self_attn.o_proj.weight", &heads),
        Tensor::OutputBias { layer: l } => whole(layer(l, "self_attn.o_proj.bias"), 0..hidden, 1),
        Tensor::GateUp { layer: l } => gate_up(l, "weight", hidden),
        Tensor::Gate { layer: l } => alone(l, "mlp.gate", &columns),
        Tensor::Up { layer: l } => alone(l, "mlp.up", &columns),
        Tensor::GateUpBias { layer: l } => gate_up(l, "bias", 1),
        Tensor::Down { layer: l } => output(l, "mlp.down_proj.weight", &columns),
        Tensor::DownBias { layer: l } => whole(layer(l, "mlp.down_proj.bias"), 0..hidden, 1),
        Tensor::Order { layer: l, of } => list(l, of),
    }
}
