//! One product of codes for trials: its numbers, where they lie on the device, and what the CPU makes of
//! them.

use half::f16;
use plimsoll_planner::Dtype;

use super::super::{self as linear, LinearShape, card, cuda as dense};
use super::choice::Kernel;
use super::{CodesShape, Form, Grid, cuda, pack_grid, unpack_row};
use crate::gpu::trial::{self, Bench, Failure, rounded};
use crate::gpu::{Kind, Memory};

/// One product's numbers, and where they lie on the device.
pub(super) struct Case {
    dtype: Dtype,
    shape: CodesShape,
    tokens: usize,
    x: Vec<f32>,
    /// The weight's numbers, rounded to `dtype`.
    w: Vec<f32>,
    /// No weight is larger.
    most: f32,
    bias: Vec<f32>,
    x_memory: Memory,
    w_memory: Memory,
    bias_memory: Memory,
}

/// Numbers that lie between two rows of x, not-a-number all of them.
const GAP: usize = 8;

impl Case {
    /// Of random codes.
    pub(super) fn new(
        bench: &Bench<'_>,
        dtype: Dtype,
        shape: CodesShape,
        tokens: usize,
    ) -> Result<Case, Failure> {
        let packed = packed(&shape, shape.rows + shape.cols);
        Case::of(bench, dtype, (shape, &packed), tokens)
    }

    pub(super) fn of(
        bench: &Bench<'_>,
        dtype: Dtype,
        (shape, packed): (CodesShape, &[u8]),
        tokens: usize,
    ) -> Result<Case, Failure> {
        let (rows, cols) = (shape.rows, shape.cols);
        let mut random = trial::random(tokens * 31 + rows * 7 + cols);
        let x = rounded(dtype, &random.values(tokens * cols));
        let bias = random.values(rows);
        let mut spread = vec![f32::NAN; (tokens * (cols + GAP)).saturating_sub(GAP)];
        for (row, values) in x.chunks_exact(cols.max(1)).enumerate() {
            spread[row * (cols + GAP)..][..cols].copy_from_slice(values);
        }
        let mut w = vec![0.0; rows * cols];
        for (row, values) in w.chunks_exact_mut(cols.max(1)).enumerate() {
            unpack_row(packed, &shape, row, values);
        }
        let w = rounded(dtype, &w);
        Ok(Case {
            dtype,
            shape,
            tokens,
            most: w.iter().fold(0.0, |most: f32, w| most.max(w.abs())),
            x_memory: bench.put(dtype, &spread)?,
            w_memory: bench.put_raw(packed)?,
            bias_memory: bench.put(Dtype::Float32, &bias)?,
            x,
            w,
            bias,
        })
    }

    /// With or without its bias, in the type of x or in f32.
    pub(super) fn run(
        &self,
        bench: &Bench<'_>,
        kernel: Option<Kernel>,
        biased: bool,
        out: Dtype,
    ) -> Result<Vec<f32>, Failure> {
        let x = dense::Input {
            data: self.x_memory.view(Kind::Number(self.dtype)),
            tokens: self.tokens,
            stride: self.shape.cols + GAP,
        };
        self.launch(bench, kernel, &x, biased, out)
    }

    /// Token `token` alone.
    pub(super) fn run_alone(
        &self,
        bench: &Bench<'_>,
        kernel: Kernel,
        token: usize,
    ) -> Result<Vec<f32>, Failure> {
        let (cols, kind) = (self.shape.cols, Kind::Number(self.dtype));
        let x = dense::Input {
            data: self.x_memory.view(kind).part(token * (cols + GAP), cols),
            tokens: 1,
            stride: cols,
        };
        self.launch(bench, Some(kernel), &x, true, Dtype::Float32)
    }

    fn launch(
        &self,
        bench: &Bench<'_>,
        kernel: Option<Kernel>,
        x: &dense::Input<'_>,
        biased: bool,
        out: Dtype,
    ) -> Result<Vec<f32>, Failure> {
        let weight = cuda::Weight {
            shape: self.shape,
            data: self.w_memory.view(Kind::U8),
            bias: biased.then(|| self.bias_memory.view(Kind::F32)),
        };
        let count = x.tokens * self.shape.rows;
        let mut room = bench.room(out, count)?;
        let view = room.view_mut(Kind::Number(out));
        match kernel {
            Some(kernel) => cuda::run_on(bench.gpu, kernel, x, &weight, &view)?,
            None => cuda::run(bench.gpu, x, &weight, &view)?,
        }
        Ok(bench.take(&room, out, count)?)
    }

    fn expanded(&self) -> LinearShape {
        LinearShape::dense(self.shape.rows, self.shape.cols, self.dtype)
    }

    /// What the CPU definition says of the expanded weight.
    pub(super) fn wanted(&self, biased: bool) -> Vec<f32> {
        let shape = self.expanded();
        let bias = biased.then_some(&self.bias[..]);
        if shape.cols == 0 {
            // `pack_rows` knows no rows of nothing.
            let row = bias.map_or_else(|| vec![0.0; shape.rows], <[f32]>::to_vec);
            return row.repeat(self.tokens);
        }
        let mut packed = vec![0; shape.packed_bytes()];
        linear::pack_rows(&mut packed, &shape, 0, &self.w);
        self.by_processor(&shape, &packed, biased)
    }

    /// The CPU's product of x and a weight as it has packed it.
    pub(super) fn by_processor(
        &self,
        shape: &LinearShape,
        packed: &[u8],
        biased: bool,
    ) -> Vec<f32> {
        let weight = linear::Weight {
            shape: *shape,
            packed,
            bias: biased.then_some(&self.bias[..]),
        };
        let mut out = vec![f32::NAN; self.tokens * shape.rows];
        let x = linear::Input::dense(&self.x, self.tokens, shape.cols);
        let mut scratch = vec![0; linear::scratch_bytes(self.tokens, shape)];
        linear::run(&trial::pool(), x, &weight, &mut out, &mut scratch);
        out
    }

    /// By how much two orders of additions may differ. As for weights in floats: roundings of either
    /// sign, half a unit of 2^-23 each, of sums of products that are at most `most`.
    pub(super) fn sum_error(&self) -> f32 {
        let cols = self.shape.cols as f32;
        cols * (cols.sqrt() + 8.0) * 6e-8 * self.most + 1e-7
    }

    /// The expanded weight's product, by the tiles for floats.
    pub(super) fn by_floats(&self, bench: &Bench<'_>) -> Result<Vec<f32>, Failure> {
        let shape = self.expanded();
        let packed = linear::trials::packed(&shape, &self.w, shape.rows);
        let memory = bench.put_raw(&packed)?;
        let kind = Kind::Number(self.dtype);
        let weight = dense::Weight {
            shape,
            data: memory.view(kind).part(0, card::numbers(&shape)),
            bias: Some(self.bias_memory.view(Kind::F32)),
        };
        let x = dense::Input {
            data: self.x_memory.view(kind),
            tokens: self.tokens,
            stride: shape.cols + GAP,
        };
        let mut room = bench.room(Dtype::Float32, self.tokens * shape.rows)?;
        let kernel = linear::choice::Kernel::Tile(linear::choice::TILES[2]);
        dense::run_on(bench.gpu, kernel, &x, &weight, &room.view_mut(Kind::F32))?;
        Ok(bench.take(&room, Dtype::Float32, self.tokens * shape.rows)?)
    }
}

/// A weight of random codes; numbers are at most about 1.
fn packed(shape: &CodesShape, seed: usize) -> Vec<u8> {
    let mut random = trial::random(seed);
    let (rows, cols, first) = (shape.rows, shape.cols, shape.skipped.unwrap_or(0));
    let most = usize::from(shape.bits.most());
    let (source_cols, group_cols) = (first + cols, shape.group.columns());
    let groups = source_cols.div_ceil(group_cols);
    let mut upto = |most: usize| u16::try_from(random.below(most + 1)).unwrap_or(0);
    let codes: Vec<u8> = (0..rows * source_cols)
        .map(|_| upto(most).to_le_bytes()[0])
        .collect();
    let zeros: Vec<u16> = (0..rows * groups).map(|_| upto(most + 1)).collect();
    let largest = most as f32;
    let scales: Vec<f16> = random
        .values(rows * groups)
        .into_iter()
        .map(|value| f16::from_f32(value / largest))
        .collect();
    // Of the third form the zeros' place is taken by minima.
    let form = match shape.form {
        Form::Minimum => Form::Zero,
        Form::Zero | Form::Middle => shape.form,
    };
    let grid = Grid {
        codes: &codes,
        scales: &scales,
        zeros: (form == Form::Zero).then_some(&zeros),
        group_cols,
    };
    let stored = CodesShape { form, ..*shape };
    let mut packed = vec![0xFF; shape.bytes()];
    pack_grid(&mut packed, &stored, (0, rows), (first, source_cols), &grid)
        .unwrap_or_else(|error| panic!("{error}"));
    if shape.form == Form::Minimum {
        for panel in packed.chunks_exact_mut(shape.panel_bytes().max(1)) {
            for (lane, group) in
                (0..16).flat_map(|lane| (0..shape.groups()).map(move |g| (lane, g)))
            {
                let at = shape.head_at(lane, group, 1);
                let minimum = f16::from_f32(random.value()).to_le_bytes();
                panel[at..at + 2].copy_from_slice(&minimum);
            }
        }
    }
    packed
}
