//! linear on a card against its CPU definition.

use plimsoll_planner::Dtype;

use super::choice::{Kernel, TILES, TILES_F32, choose};
use super::{LinearShape, card, cuda, pack_rows};
use crate::encoding;
use crate::gpu::trial::{self, Bench, DTYPES, Failure, Trial, close, refused, rounded, rounding};
use crate::gpu::{Card, GpuError, Kind, Memory};

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
        for (form, sizes) in [(1, 48, 40), (16, 16, 64), (17, 16, 40)]
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
    for (name, prove) in [
        ("what no kernel takes is refused", refusals as Proof),
        ("small and large calls get their kernels", choices),
        ("rows may be packed in pieces", pieces),
    ] {
        trials.push(Trial::new("linear", name, prove));
    }
    trials
}

type Proof = fn(&Bench<'_>) -> Result<(), Failure>;
/// Tokens, rows, columns.
type Sizes = (usize, usize, usize);

const SKINNY: [Sizes; 11] = [
    (1, 16, 32),
    (1, 1031, 8),
    (2, 48, 40),
    (3, 64, 0),
    (4, 1, 544),
    (5, 130, 72),
    (8, 17, 1544),
    (9, 130, 40),
    (15, 48, 1544),
    (16, 515, 32),
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
        let shape = LinearShape { rows, cols, dtype };
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
fn packed(shape: &LinearShape, w: &[f32], piece: usize) -> Vec<u8> {
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
    let biased = form % 2 == 0;
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

/// Inside a family, whatever else is in the call, and by whichever tile.
fn same_bits(bench: &Bench<'_>, dtype: Dtype) -> Result<(), Failure> {
    let case = Case::new(bench, dtype, (16, 18, 328))?;
    let rows = case.shape.rows;
    let skinny = Kernel::Skinny { warps: 8 };
    let all = case.run(bench, Some(skinny), true, Dtype::Float32)?;
    for token in [0, 7, 15] {
        let alone = case.run_alone(bench, skinny, token)?;
        trial::same("a row of 16, skinny", &alone, &all[token * rows..][..rows])?;
    }
    let case = Case::new(bench, dtype, (131, 18, 200))?;
    let kernels: Vec<Kernel> = match dtype {
        Dtype::Float32 => TILES_F32.into_iter().map(Kernel::Tile).collect(),
        Dtype::Float16 | Dtype::BFloat16 => TILES.into_iter().map(Kernel::Tile).collect(),
    };
    let all = case.run(bench, Some(kernels[0]), true, Dtype::Float32)?;
    for kernel in kernels {
        let tiled = case.run(bench, Some(kernel), true, Dtype::Float32)?;
        trial::same("another tile", &tiled, &all)?;
        for token in [0, 130] {
            let alone = case.run_alone(bench, kernel, token)?;
            trial::same("a row of 131, tiled", &alone, &all[token * rows..][..rows])?;
        }
    }
    Ok(())
}

fn pieces(_: &Bench<'_>) -> Result<(), Failure> {
    for dtype in DTYPES {
        let shape = LinearShape {
            rows: 37,
            cols: 40,
            dtype,
        };
        let w = trial::random(5).values(37 * 40);
        let whole = packed(&shape, &w, 37);
        trial::same("bytes", &[whole.len()], &[shape.packed_bytes()])?;
        for piece in [1, 5, 16] {
            trial::same("bytes", &packed(&shape, &w, piece), &whole)?;
        }
        let width = encoding::bytes_of(dtype);
        let number = |row: usize, col: usize| {
            encoding::load(dtype, &whole, (row * card::stride(&shape) + col) * width)
        };
        let w = rounded(dtype, &w);
        trial::same("the last number", &[number(36, 39)], &[w[36 * 40 + 39]])?;
        trial::same(
            "padding",
            &[number(3, 40), number(36, 63), number(37, 0), number(47, 63)],
            &[0.0; 4],
        )?;
    }
    Ok(())
}

/// On an H100: the sizes of an 8B model, and of a small one.
fn choices(_: &Bench<'_>) -> Result<(), Failure> {
    let h100 = Card {
        name: "H100".to_owned(),
        capability: 90,
        multiprocessors: 132,
        shared_bytes_per_block: 227 << 10,
    };
    let chosen =
        |tokens, rows, cols, dtype| match choose(&h100, &LinearShape { rows, cols, dtype }, tokens)
        {
            Kernel::Skinny { warps } => format!("{warps} warps"),
            Kernel::Tile(tile) => format!("{}x{}", tile.tokens, tile.rows),
        };
    for (tokens, rows, cols, wanted) in [
        (1, 4096, 4096, "8 warps"),
        (16, 28672, 4096, "4 warps"),
        (8, 1024, 4096, "16 warps"),
        (1, 576, 576, "8 warps"),
        (17, 4096, 4096, "64x32"),
        (64, 6144, 4096, "64x64"),
        (512, 4096, 4096, "128x128"),
        (2048, 4096, 4096, "128x256"),
        (2048, 28672, 4096, "128x256"),
    ] {
        let got = chosen(tokens, rows, cols, Dtype::BFloat16);
        if got != wanted {
            let what = format!("{tokens} x {cols} by {rows}: {got}, should be {wanted}");
            return Err(Failure::Wrong(what));
        }
    }
    trial::same(
        "f32",
        &[chosen(2048, 4096, 4096, Dtype::Float32)],
        &["64x64".to_owned()],
    )
}

fn refusals(bench: &Bench<'_>) -> Result<(), Failure> {
    let numbers = bench.put(Dtype::Float16, &[0.0; 64 * 64])?;
    let mut room = bench.room(Dtype::Float32, 64)?;
    let f16 = Kind::Number(Dtype::Float16);
    let skinny = Kernel::Skinny { warps: 8 };
    let whole = numbers.view(f16);
    let mut run = |kernel, (tokens, rows, cols): Sizes, stride, x, w, out| {
        let shape = LinearShape {
            rows,
            cols,
            dtype: Dtype::Float16,
        };
        let x = cuda::Input {
            data: x,
            tokens,
            stride,
        };
        let weight = cuda::Weight {
            shape,
            data: w,
            bias: None,
        };
        cuda::run_on(bench.gpu, kernel, &x, &weight, &room.view_mut(out))
    };
    let unsupported = |error: &GpuError| matches!(error, GpuError::Unsupported { .. });
    let shape = |error: &GpuError| matches!(error, GpuError::Shape { .. });
    let dtype = |error: &GpuError| matches!(error, GpuError::Dtype { .. });
    let tile = Kernel::Tile(TILES_F32[0]);
    for (what, kernel, sizes, stride) in [
        ("12 columns", skinny, (1, 16, 12), 16),
        ("a stride of 12", skinny, (2, 16, 8), 12),
        ("a stride below the columns", skinny, (2, 16, 32), 24),
        ("17 tokens, skinny", skinny, (17, 7, 32), 32),
        ("5 warps", Kernel::Skinny { warps: 5 }, (1, 16, 32), 32),
        ("a tile of f32", tile, (1, 16, 32), 32),
        (
            "more rows than can be counted",
            skinny,
            (1, 1 << 31, 32),
            32,
        ),
    ] {
        refused(
            what,
            run(kernel, sizes, stride, whole, whole, f16),
            unsupported,
        )?;
    }
    let sizes = (2, 16, 32);
    for (what, sizes, x, w) in [
        ("short x", (3, 16, 32), whole.part(0, 95), whole),
        ("a short weight", (1, 17, 32), whole, whole.part(0, 1023)),
        ("x at an odd address", sizes, whole.part(4, 64), whole),
        (
            "a weight at an odd address",
            sizes,
            whole,
            whole.part(4, 512),
        ),
        ("integers", sizes, numbers.view(Kind::U32), whole),
        ("a short out", (8, 32, 32), whole, whole),
    ] {
        refused(what, run(skinny, sizes, 32, x, w, f16), shape)?;
    }
    let bf16 = Kind::Number(Dtype::BFloat16);
    refused(
        "x of another type",
        run(skinny, sizes, 32, numbers.view(bf16), whole, f16),
        dtype,
    )?;
    refused(
        "a weight of another type",
        run(skinny, sizes, 32, whole, numbers.view(bf16), f16),
        shape,
    )?;
    refused(
        "out of another type",
        run(skinny, sizes, 32, whole, whole, bf16),
        dtype,
    )?;
    // Nothing to do is not refused.
    run(skinny, (0, 16, 32), 32, whole, whole, f16)?;
    Ok(run(skinny, (2, 0, 32), 32, whole, whole, f16)?)
}
