//! linear on a card against its CPU definition.

use plimsoll_planner::Dtype;

use super::choice::{Kernel, TILES, TILES_F32};
use super::{LinearShape, card, cuda, pack_rows};
use crate::encoding;
use crate::gpu::trial::{self, Bench, DTYPES, Failure, Trial, close, rounded, rounding};
use crate::gpu::{Kind, Memory};

/// Sizes around every edge of every kernel.
pub(crate) fn all() -> Vec<Trial> {
    let mut trials = Vec::new();
    for dtype in DTYPES {
        let name = |what: &str, (tokens, rows, cols): (usize, usize, usize)| {
            format!("{dtype} {what}, {tokens} x {cols} by {rows}")
        };
        for (form, sizes) in SKINNY.into_iter().enumerate() {
            let title = name("skinny", sizes);
            let kernel = Kernel::Skinny {
                warps: [4, 8, 16][form % 3],
            };
            trials.push(Trial::new("linear", title, move |bench| {
                product(bench, Some(kernel), dtype, sizes, form)
            }));
        }
        for (form, (tile, sizes)) in tiled(dtype).into_iter().enumerate() {
            let title = name(&format!("tile {}x{}", tile.tokens, tile.rows), sizes);
            let kernel = Some(Kernel::Tile(tile));
            trials.push(Trial::new("linear", title, move |bench| {
                product(bench, kernel, dtype, sizes, form)
            }));
        }
        // The last three have rows as wide as those of the largest models.
        for (form, sizes) in [
            (1, 48, 40),
            (16, 16, 64),
            (17, 16, 40),
            (3, 17, 16_384),
            (18, 9, 16_392),
            (2, 16, 53_248),
        ]
        .into_iter()
        .enumerate()
        {
            let title = name("as chosen", sizes);
            trials.push(Trial::new("linear", title, move |bench| {
                product(bench, None, dtype, sizes, form)
            }));
        }
        trials.push(Trial::new(
            "linear",
            format!("{dtype} rows have the same bits alone and in a batch"),
            move |bench| same_bits(bench, dtype),
        ));
    }
    trials
}

/// Tokens, rows, columns.
pub(super) type Sizes = (usize, usize, usize);

const SKINNY: [Sizes; 11] = [
    (1, 16, 32),
    (1, 259, 8),
    (2, 48, 40),
    (3, 64, 0),
    (4, 1, 544),
    (5, 130, 72),
    (8, 17, 1544),
    (9, 130, 40),
    (15, 48, 1544),
    (16, 131, 32),
    (16, 16, 576),
];

/// Just inside, at and past the tiles' edges, with fewer and more columns than they have stages.
fn tiled(dtype: Dtype) -> Vec<(super::choice::Tile, Sizes)> {
    let sizes: [&[Sizes]; 4] = [
        &[(129, 257, 40), (127, 250, 168), (1, 16, 8), (257, 8, 136)],
        &[(128, 129, 64), (129, 120, 200), (17, 130, 0), (300, 1, 72)],
        &[
            (63, 65, 64),
            (64, 48, 576),
            (65, 130, 72),
            (1, 2051, 16),
            (130, 64, 264),
        ],
        &[
            (17, 33, 32),
            (64, 31, 576),
            (65, 48, 72),
            (16, 130, 40),
            (129, 32, 392),
            (2050, 40, 8),
        ],
    ];
    match dtype {
        Dtype::Float32 => sizes[2]
            .iter()
            .map(|sizes| (TILES_F32[0], *sizes))
            .collect(),
        Dtype::Float16 | Dtype::BFloat16 => TILES
            .iter()
            .zip(sizes)
            .flat_map(|(tile, sizes)| sizes.iter().map(|sizes| (*tile, *sizes)))
            // f16 and bf16 differ by the instruction alone.
            .skip(usize::from(dtype == Dtype::Float16))
            .step_by(if dtype == Dtype::Float16 { 2 } else { 1 })
            .collect(),
    }
}

/// One product's numbers, and where they lie on the device.
struct Case {
    shape: LinearShape,
    tokens: usize,
    x: Vec<f32>,
    w: Vec<f32>,
    bias: Vec<f32>,
    x_memory: Memory,
    w_memory: Memory,
    bias_memory: Memory,
}

/// Numbers that lie between two rows of x, not-a-number all of them.
const GAP: usize = 8;

impl Case {
    fn new(bench: &Bench<'_>, dtype: Dtype, (tokens, rows, cols): Sizes) -> Result<Case, Failure> {
        let mut random = trial::random(tokens * 31 + rows * 7 + cols);
        let shape = LinearShape::dense(rows, cols, dtype);
        let x = rounded(dtype, &random.values(tokens * cols));
        let w = rounded(dtype, &random.values(rows * cols));
        let bias = random.values(rows);
        let mut spread = vec![f32::NAN; (tokens * (cols + GAP)).saturating_sub(GAP)];
        for (row, values) in x.chunks_exact(cols.max(1)).enumerate() {
            spread[row * (cols + GAP)..][..cols].copy_from_slice(values);
        }
        let packed = packed(&shape, &w, rows);
        Ok(Case {
            shape,
            tokens,
            x_memory: bench.put(dtype, &spread)?,
            w_memory: bench.put_raw(&packed)?,
            bias_memory: bench.put(Dtype::Float32, &bias)?,
            x,
            w,
            bias,
        })
    }

    /// With or without its bias, in the weight's type or in f32.
    fn run(
        &self,
        bench: &Bench<'_>,
        kernel: Option<Kernel>,
        biased: bool,
        out: Dtype,
    ) -> Result<Vec<f32>, Failure> {
        let kind = Kind::Number(self.shape.dtype);
        let x = cuda::Input {
            data: self.x_memory.view(kind),
            tokens: self.tokens,
            stride: self.shape.cols + GAP,
        };
        self.launch(bench, kernel, &x, biased, out)
    }

    /// Token `token` alone.
    fn run_alone(
        &self,
        bench: &Bench<'_>,
        kernel: Kernel,
        token: usize,
    ) -> Result<Vec<f32>, Failure> {
        let (cols, kind) = (self.shape.cols, Kind::Number(self.shape.dtype));
        let x = cuda::Input {
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
        x: &cuda::Input<'_>,
        biased: bool,
        out: Dtype,
    ) -> Result<Vec<f32>, Failure> {
        let weight = cuda::Weight {
            shape: self.shape,
            data: self.w_memory.view(Kind::Number(self.shape.dtype)),
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

    /// What the CPU definition says.
    fn wanted(&self, biased: bool) -> Vec<f32> {
        let mut out = vec![f32::NAN; self.tokens * self.shape.rows];
        if self.shape.cols == 0 {
            // `pack_rows` knows no rows of nothing.
            for (at, value) in out.iter_mut().enumerate() {
                *value = if biased {
                    self.bias[at % self.shape.rows]
                } else {
                    0.0
                };
            }
            return out;
        }
        let mut packed = vec![0; self.shape.packed_bytes()];
        pack_rows(&mut packed, &self.shape, 0, &self.w);
        let weight = super::Weight {
            shape: self.shape,
            packed: &packed,
            bias: biased.then_some(&self.bias),
        };
        let x = super::Input::dense(&self.x, self.tokens, self.shape.cols);
        let mut scratch = vec![0; super::scratch_bytes(self.tokens, &self.shape)];
        super::run(&trial::pool(), x, &weight, &mut out, &mut scratch);
        out
    }
}

/// `w` as it lies on the card, sent in pieces of `piece` rows to memory that holds anything.
pub(super) fn packed(shape: &LinearShape, w: &[f32], piece: usize) -> Vec<u8> {
    let width = encoding::bytes_of(shape.dtype);
    let mut bytes = vec![0; w.len() * width];
    for (at, value) in w.iter().enumerate() {
        encoding::store(shape.dtype, &mut bytes, at * width, *value);
    }
    let mut target = vec![0xFF; card::numbers(shape) * width];
    for (at, rows) in bytes
        .chunks((piece * shape.cols * width).max(1))
        .enumerate()
    {
        let count = rows.len() / (shape.cols * width);
        let range = card::range(shape, at * piece, count);
        card::pack_rows(&mut target[range], shape, at * piece, rows);
    }
    target
}

/// `form`: with a bias or without, in the weight's type or in f32.
fn product(
    bench: &Bench<'_>,
    kernel: Option<Kernel>,
    dtype: Dtype,
    sizes: Sizes,
    form: usize,
) -> Result<(), Failure> {
    let case = Case::new(bench, dtype, sizes)?;
    let biased = form.is_multiple_of(2);
    let out = [dtype, Dtype::Float32][form / 2 % 2];
    let wanted = case.wanted(biased);
    let got = case.run(bench, kernel, biased, out)?;
    // No product passes 1 and no sum `cols`. Of its roundings, half a unit of 2^-23 each, those of
    // either sign cancel but for a square root; a few more for the parts and the bias.
    let cols = sizes.2 as f32;
    let sum = cols * (cols.sqrt() + 8.0) * 6e-8 + 1e-7;
    close("out", &got, &wanted, |at| {
        rounding(out, wanted[at]) * 1.01 + sum
    })
}

/// Inside a family: whatever else is in the call, and by whichever tile.
fn same_bits(bench: &Bench<'_>, dtype: Dtype) -> Result<(), Failure> {
    let case = Case::new(bench, dtype, (16, 18, 328))?;
    let rows = case.shape.rows;
    let skinny = Kernel::Skinny { warps: 8 };
    let all = case.run(bench, Some(skinny), true, Dtype::Float32)?;
    for token in [0, 7, 15] {
        let alone = case.run_alone(bench, skinny, token)?;
        trial::same("a row of 16, skinny", &alone, &all[token * rows..][..rows])?;
    }
    let case = Case::new(bench, dtype, (67, 18, 136))?;
    let kernels: Vec<Kernel> = match dtype {
        Dtype::Float32 => TILES_F32.into_iter().map(Kernel::Tile).collect(),
        Dtype::Float16 | Dtype::BFloat16 => TILES.into_iter().map(Kernel::Tile).collect(),
    };
    let smallest = kernels[kernels.len() - 1];
    let all = case.run(bench, Some(smallest), true, Dtype::Float32)?;
    for token in [0, 66] {
        let alone = case.run_alone(bench, smallest, token)?;
        trial::same("a row of 67, tiled", &alone, &all[token * rows..][..rows])?;
    }
    for kernel in kernels {
        let tiled = case.run(bench, Some(kernel), true, Dtype::Float32)?;
        trial::same("another tile", &tiled, &all)?;
    }
    Ok(())
}
