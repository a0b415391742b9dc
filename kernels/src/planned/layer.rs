//! Every op of a pass in its order, in the regions of one rank.
#![expect(clippy::cast_possible_truncation, reason = "test sizes are small")]

use plimsoll_planner::weights::{Form, Tensor as Weight, WeightLayout};

use super::cached::Cached;
use super::draw::{Planned, Sizes};
use super::place::{Place, takes};
use crate::embedding;
use crate::gpu::trial::{Bench, Failure};
use crate::gpu::{Kind, TensorMut};
use crate::linear::{self, LinearShape};
use crate::{comm, rms_norm, silu_mul};

const EPS: f32 = 1e-5;

/// The regions that a pass goes through.
#[derive(Debug)]
struct Stream {
    residual: Place,
    normed: Place,
    partial: Place,
}

pub(super) fn stays_inside(bench: &Bench<'_>, seed: usize) -> Result<(), Failure> {
    let planned = Planned::draw(seed);
    (0..planned.shards.len())
        .try_for_each(|rank| on_rank(bench, &planned, rank))
        .map_err(|failure| match failure {
            Failure::Wrong(what) => Failure::Wrong(format!("{what}, of {planned:?}")),
            Failure::Gpu(error) => Failure::Gpu(error),
        })
}

fn on_rank(bench: &Bench<'_>, planned: &Planned, rank: usize) -> Result<(), Failure> {
    let sizes = planned.sizes(rank);
    let at = planned.activations(rank);
    let weights = planned.weights(rank);
    let mut stream = Stream {
        residual: Place::of(bench, "residual", at.residual)?,
        normed: Place::of(bench, "normed", at.normed)?,
        partial: Place::of(bench, "partial", at.partial)?,
    };
    embed(bench, planned, rank, &sizes, &mut stream)?;
    sum(bench, planned, &sizes, &mut stream.residual, Kind::F32)?;
    let first = weight(bench, &weights, Weight::InputNorm { layer: 0 })?;
    norm(bench, &sizes, &first, &mut stream)?;
    attend(bench, planned, rank, &sizes, &mut stream)?;
    sum(
        bench,
        planned,
        &sizes,
        &mut stream.partial,
        Kind::Number(sizes.dtype),
    )?;
    let second = weight(bench, &weights, Weight::PostNorm { layer: 0 })?;
    add_norm(bench, &sizes, &second, &mut stream)?;
    multiply(bench, planned, rank, &sizes, &mut stream)?;
    head(bench, planned, rank, &sizes, &stream)?;
    let Stream {
        residual,
        normed,
        partial,
    } = &stream;
    [residual, normed, partial, &first, &second]
        .into_iter()
        .try_for_each(Place::stayed_inside)
}

/// A weight's own region, filled.
fn weight(bench: &Bench<'_>, weights: &WeightLayout, of: Weight) -> Result<Place, Failure> {
    let bytes = weights.get(of).map_or(0, |place| place.bytes);
    let mut place = Place::new(bench, "weight", bytes)?;
    place.fill()?;
    Ok(place)
}

fn embed(
    bench: &Bench<'_>,
    planned: &Planned,
    rank: usize,
    sizes: &Sizes,
    stream: &mut Stream,
) -> Result<(), Failure> {
    let weights = planned.weights(rank);
    let mut ids = Place::of(bench, "token_ids", planned.workspaces(rank).token_ids)?;
    ids.put(
        &(0..sizes.rows as u32)
            .map(|at| at * 7)
            .collect::<Vec<u32>>(),
    )?;
    let data = weight(bench, &weights, Weight::Embedding)?;
    // A tied head's rows are padded, and read to their last number; so the launcher may have less there.
    let is_padded = matches!(
        weights.get(Weight::Embedding).map(|place| place.form),
        Some(Form::Panels(_))
    );
    let stride = match is_padded {
        true => sizes.hidden.next_multiple_of(linear::PANEL_COLS),
        false => sizes.hidden,
    };
    let of = |table: (&'static str, bool)| (table.0, table.1 && !is_padded);
    let operands = [ids.operand(), of(data.operand()), stream.residual.operand()];
    takes("embedding", operands, |[id, number, out]| {
        let table = embedding::cuda::Table {
            data: data.view(Kind::Number(sizes.dtype), number),
            first_row: planned.shards[rank].vocab_rows.start,
            rows: sizes.vocabulary,
            hidden: sizes.hidden,
            stride,
        };
        let out = stream.residual.view_mut(Kind::F32, out);
        embedding::cuda::run(bench.gpu, sizes.rows, ids.view(Kind::U32, id), &table, &out)
    })?;
    [&ids, &data].into_iter().try_for_each(Place::stayed_inside)
}

/// In place between what all ranks have, and in the buffers that ranks give each other.
fn sum(
    bench: &Bench<'_>,
    planned: &Planned,
    sizes: &Sizes,
    of: &mut Place,
    kind: Kind,
) -> Result<(), Failure> {
    let (ranks, count) = (planned.shards.len(), sizes.rows * sizes.hidden);
    let region = planned.comm().sum;
    let mut others = Vec::new();
    for _ in 1..ranks {
        let mut other = Place::new(bench, "another rank's part", of.count(Kind::U8, 0) as u64)?;
        other.fill()?;
        let mut exchange = Place::of(bench, "sum", region)?;
        exchange.fill()?;
        others.push((other, exchange));
    }
    let operands = [(of.operand().0, ranks > 0)];
    takes("all_reduce", operands, |[less]| {
        let parts = others.iter_mut().map(|(other, _)| other.view_mut(kind, 0));
        let mut buffers: Vec<TensorMut<'_>> = parts.collect();
        buffers.push(of.view_mut(kind, less));
        comm::cuda::all_reduce_sum(bench.gpu, count, &mut buffers)
    })?;
    if ranks > 2 {
        let parts = others.iter_mut().map(|(_, sum)| sum.view_mut(kind, 0));
        comm::cuda::all_reduce_sum(bench.gpu, count, &mut parts.collect::<Vec<_>>())?;
    }
    of.stayed_inside()?;
    others.iter().try_for_each(|(other, sum)| {
        other.stayed_inside()?;
        sum.stayed_inside()
    })
}

fn norm(bench: &Bench<'_>, sizes: &Sizes, by: &Place, stream: &mut Stream) -> Result<(), Failure> {
    let Stream {
        residual, normed, ..
    } = stream;
    let operands = [residual.operand(), by.operand(), normed.operand()];
    takes("rms_norm", operands, |[x, weight, out]| {
        rms_norm::cuda::run(
            bench.gpu,
            (sizes.rows, sizes.hidden),
            residual.view(Kind::F32, x),
            by.view(Kind::F32, weight),
            EPS,
            &normed.view_mut(Kind::Number(sizes.dtype), out),
        )
    })
}

fn add_norm(
    bench: &Bench<'_>,
    sizes: &Sizes,
    by: &Place,
    stream: &mut Stream,
) -> Result<(), Failure> {
    let Stream {
        residual,
        normed,
        partial,
    } = stream;
    let kind = Kind::Number(sizes.dtype);
    let operands = [residual, normed, partial].map(|place| place.operand());
    takes("rms_norm_residual", operands, |[sum, out, x]| {
        rms_norm::cuda::run_residual(
            bench.gpu,
            (sizes.rows, sizes.hidden),
            stream.partial.view(kind, x),
            &stream.residual.view_mut(Kind::F32, sum),
            by.view(Kind::F32, 0),
            EPS,
            &stream.normed.view_mut(kind, out),
        )
    })
}

/// `out` = `x` times a matrix of the plan, all of them to the last number.
fn project(
    bench: &Bench<'_>,
    weights: &WeightLayout,
    (of, tokens, out_kind): (Weight, usize, Kind),
    x: &Place,
    out: &mut Place,
) -> Result<(), Failure> {
    let Some(place) = weights.get(of) else {
        return Err(Failure::Wrong(format!("{of:?} has no place")));
    };
    let Form::Panels(dtype) = place.form else {
        return Err(Failure::Wrong(format!("{of:?} is no matrix of floats")));
    };
    let size = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
    let shape = LinearShape::dense(size(place.rows), size(place.cols), dtype);
    let data = weight(bench, weights, of)?;
    // The final norm leaves fewer rows than there is room for.
    let is_whole = x.count(Kind::Number(dtype), 0) == tokens * shape.cols;
    let input = (x.operand().0, x.operand().1 && is_whole);
    let operands = [input, data.operand(), out.operand()];
    takes(&format!("{of:?}"), operands, |[from, matrix, to]| {
        let x = linear::cuda::Input {
            data: x.view(Kind::Number(dtype), from),
            tokens,
            stride: shape.cols,
        };
        let by = linear::cuda::Weight {
            shape,
            data: data.view(Kind::Number(dtype), matrix),
            bias: None,
        };
        linear::cuda::run(bench.gpu, &x, &by, &out.view_mut(out_kind, to))
    })?;
    [x, &data, out]
        .into_iter()
        .try_for_each(Place::stayed_inside)
}

/// q, k and v, their rotation, attention of two batches of the largest size, and its output.
fn attend(
    bench: &Bench<'_>,
    planned: &Planned,
    rank: usize,
    sizes: &Sizes,
    stream: &mut Stream,
) -> Result<(), Failure> {
    let (at, weights) = (planned.activations(rank), planned.weights(rank));
    let kind = Kind::Number(sizes.dtype);
    let mut qkv = Place::of(bench, "qkv", at.qkv)?;
    let mut attended = Place::of(bench, "attention", at.attention)?;
    let of = (Weight::Qkv { layer: 0 }, sizes.rows, kind);
    project(bench, &weights, of, &stream.normed, &mut qkv)?;
    let mut cached = Cached::new(bench, (planned, rank), sizes)?;
    cached.rotate(bench, &mut qkv)?;
    cached.attend(bench, (&qkv, &mut attended))?;
    let of = (Weight::Output { layer: 0 }, sizes.rows, kind);
    project(bench, &weights, of, &attended, &mut stream.partial)
}

fn multiply(
    bench: &Bench<'_>,
    planned: &Planned,
    rank: usize,
    sizes: &Sizes,
    stream: &mut Stream,
) -> Result<(), Failure> {
    let (at, weights) = (planned.activations(rank), planned.weights(rank));
    let kind = Kind::Number(sizes.dtype);
    let mut gate_up = Place::of(bench, "gate_up", at.gate_up)?;
    let mut activated = Place::of(bench, "activated", at.activated)?;
    let of = (Weight::GateUp { layer: 0 }, sizes.rows, kind);
    project(bench, &weights, of, &stream.normed, &mut gate_up)?;
    // Half of what the matrix before gives, and all that the one behind takes: with what pads a share.
    let down = weights.get(Weight::Down { layer: 0 });
    let shape = silu_mul::cuda::Shape {
        tokens: sizes.rows,
        cols: down.map_or(0, |place| usize::try_from(place.cols).unwrap_or(usize::MAX)),
        half: gate_up.count(kind, 0) / sizes.rows / 2,
    };
    let operands = [gate_up.operand(), activated.operand()];
    takes("silu_mul", operands, |[from, to]| {
        let out = activated.view_mut(kind, to);
        silu_mul::cuda::run(bench.gpu, shape, gate_up.view(kind, from), &out)
    })?;
    gate_up.stayed_inside()?;
    let of = (Weight::Down { layer: 0 }, sizes.rows, kind);
    project(bench, &weights, of, &activated, &mut stream.partial)
}

fn head(
    bench: &Bench<'_>,
    planned: &Planned,
    rank: usize,
    sizes: &Sizes,
    stream: &Stream,
) -> Result<(), Failure> {
    let weights = planned.weights(rank);
    let mut logits = Place::of(bench, "logits", planned.activations(rank).logits)?;
    let matrix = match planned.request.shape.tied {
        true => Weight::Embedding,
        false => Weight::Head,
    };
    let of = (matrix, sizes.sequences, Kind::F32);
    project(bench, &weights, of, &stream.normed, &mut logits)
}
