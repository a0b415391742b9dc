//! The kernels of a card, and which of them serves a call: by sizes and multiprocessors alone.

use plimsoll_planner::Dtype;

use super::{LinearShape, PANEL_ROWS};
use crate::encoding;
use crate::gpu::{Card, GpuError, Kind};

pub(super) const OP: &str = "linear";

/// The most rows of x for which every weight is read once and straight to registers.
pub const SKINNY_TOKENS: usize = 16;

/// How one call is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// `linear_skinny.cu`: a block has 16 rows of the weight, its warps share the columns.
    Skinny { warps: u32 },
    /// `linear_tile.cu`, `linear_tile_f32.cu`: a block has a tile of the result.
    Tile(Tile),
}

/// A tile kernel, as its `.cu` file has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tile {
    pub tokens: usize,
    pub rows: usize,
    threads: u32,
    shared_bytes: u32,
    /// Products that a multiprocessor adds up in a clock, as far as shared memory lets it.
    products_per_clock: usize,
}

/// For 16-bit types, the largest first.
pub const TILES: [Tile; 4] = [
    tile((128, 256), 256, 96 << 10, 1300),
    tile((128, 128), 128, 64 << 10, 1300),
    tile((64, 64), 128, 64 << 10, 1000),
    tile((64, 32), 128, 72 << 10, 700),
];
/// For f32.
pub const TILES_F32: [Tile; 1] = [tile((64, 64), 128, 48 << 10, 100)];

const fn tile(
    (tokens, rows): (usize, usize),
    threads: u32,
    shared_bytes: u32,
    products_per_clock: usize,
) -> Tile {
    Tile {
        tokens,
        rows,
        threads,
        shared_bytes,
        products_per_clock,
    }
}

/// The kernel that [`super::cuda::run`] takes.
pub fn choose(card: &Card, shape: &LinearShape, tokens: usize) -> Kernel {
    if tokens <= SKINNY_TOKENS {
        return Kernel::Skinny {
            warps: warps(card, shape),
        };
    }
    let mut best = smallest(shape.dtype);
    for tile in tiles(shape.dtype) {
        let fits = tile.shared_bytes <= card.shared_bytes_per_block;
        if fits && tile.cost(card, shape, tokens) < best.cost(card, shape, tokens) {
            best = *tile;
        }
    }
    Kernel::Tile(best)
}

const fn tiles(dtype: Dtype) -> &'static [Tile] {
    match dtype {
        Dtype::Float32 => &TILES_F32,
        Dtype::Float16 | Dtype::BFloat16 => &TILES,
    }
}

/// Fits every card that there are kernels for.
const fn smallest(dtype: Dtype) -> Tile {
    match dtype {
        Dtype::Float32 => TILES_F32[0],
        Dtype::Float16 | Dtype::BFloat16 => TILES[TILES.len() - 1],
    }
}

/// The fewest warps of a block that fill the card or have no more than one round of columns each.
/// Of the weight's shape and the card alone, so that a row's bits do not depend on its batch.
fn warps(card: &Card, shape: &LinearShape) -> u32 {
    const CHOICES: [u32; 3] = [4, 8, 16];
    /// Warps of a multiprocessor that have enough bytes on their way: 4 KB each.
    const ENOUGH: usize = 12;
    /// Columns of one warp's loads.
    const ROUND: usize = 128;
    let wanted = card.multiprocessors as usize * ENOUGH;
    let is_enough = |warps: &u32| {
        let warps = *warps as usize;
        shape.panels() * warps >= wanted || warps * ROUND >= shape.cols
    };
    CHOICES
        .into_iter()
        .find(is_enough)
        .unwrap_or(CHOICES[CHOICES.len() - 1])
}

impl Tile {
    /// Thousandths of a clock per column that the busiest multiprocessor is busy: with products, or
    /// with waiting for its tiles' x and weights.
    fn cost(&self, card: &Card, shape: &LinearShape, tokens: usize) -> usize {
        /// What the second cache gives a multiprocessor while all ask, on an H100.
        const BYTES_PER_CLOCK: usize = 24;
        let rounds = self
            .blocks(shape, tokens)
            .div_ceil(card.multiprocessors.max(1) as usize);
        let products = self.tokens * self.rows * 1000 / self.products_per_clock;
        let bytes = (self.tokens.min(tokens) + self.rows) * encoding::bytes_of(shape.dtype);
        rounds * products.max(bytes * 1000 / BYTES_PER_CLOCK)
    }

    const fn blocks(&self, shape: &LinearShape, tokens: usize) -> usize {
        tokens.div_ceil(self.tokens) * shape.rows.div_ceil(self.rows)
    }
}

impl Kernel {
    /// Whether this kernel takes the sizes, which other checks found sound.
    pub(super) fn check(
        self,
        card: &Card,
        shape: &LinearShape,
        tokens: usize,
    ) -> Result<(), GpuError> {
        if let Kernel::Tile(tile) = self
            && !tiles(shape.dtype).contains(&tile)
        {
            let (wide, all) = (tile.tokens * tile.rows, tiles(shape.dtype));
            return Err(unsupported("tile", wide, format!("one of {all:?}")));
        }
        if let Kernel::Skinny { warps } = self {
            if tokens > SKINNY_TOKENS {
                return Err(unsupported(
                    "tokens",
                    tokens,
                    format!("at most {SKINNY_TOKENS}"),
                ));
            }
            if ![4, 8, 16].contains(&warps) {
                return Err(unsupported("warps", warps as usize, "4, 8 or 16"));
            }
        }
        let (has, needs) = (
            card.shared_bytes_per_block,
            self.shared_bytes(shape.dtype, tokens),
        );
        if needs > has {
            let what = "shared memory of a block";
            return Err(unsupported(what, has as usize, format!("{needs} bytes")));
        }
        let blocks = self.count(shape, tokens);
        if i32::try_from(blocks).is_err() {
            return Err(unsupported(
                "blocks",
                blocks,
                format!("at most {}; fewer tokens", i32::MAX),
            ));
        }
        Ok(())
    }

    const fn count(self, shape: &LinearShape, tokens: usize) -> usize {
        match self {
            Kernel::Skinny { .. } => shape.rows.div_ceil(PANEL_ROWS),
            Kernel::Tile(tile) => tile.blocks(shape, tokens),
        }
    }

    /// The grid, of sizes that [`Kernel::check`] let pass.
    pub(super) fn blocks(self, shape: &LinearShape, tokens: usize) -> u32 {
        u32::try_from(self.count(shape, tokens)).unwrap_or(u32::MAX)
    }

    pub(super) const fn threads(self) -> u32 {
        match self {
            Kernel::Skinny { warps } => warps * 32,
            Kernel::Tile(tile) => tile.threads,
        }
    }

    pub(super) fn shared_bytes(self, dtype: Dtype, tokens: usize) -> u32 {
        /// From one token's 16 sums to the next, as in linear_skinny.cu.
        const PITCH_BYTES: u32 = 80;
        match self {
            Kernel::Tile(tile) => tile.shared_bytes,
            Kernel::Skinny { warps } => {
                let parts = match dtype {
                    Dtype::Float32 => warps / 4,
                    Dtype::Float16 | Dtype::BFloat16 => warps,
                };
                parts * most_tokens(dtype, tokens) * PITCH_BYTES
            }
        }
    }

    /// The `.cu` file, which is an image of its own.
    pub(super) const fn image(self, dtype: Dtype) -> &'static str {
        match (self, dtype) {
            (Kernel::Skinny { .. }, _) => "linear_skinny",
            (Kernel::Tile(_), Dtype::Float32) => "linear_tile_f32",
            (Kernel::Tile(_), Dtype::Float16 | Dtype::BFloat16) => "linear_tile",
        }
    }

    pub(super) fn name(self, dtype: Dtype, tokens: usize) -> String {
        let suffix = Kind::suffix(dtype);
        match self {
            Kernel::Skinny { .. } => {
                format!("linear_skinny_{suffix}_{}", most_tokens(dtype, tokens))
            }
            Kernel::Tile(tile) => format!("linear_tile_{suffix}_{}x{}", tile.tokens, tile.rows),
        }
    }
}

/// For how many tokens the skinny kernel is built that takes `tokens`.
const fn most_tokens(dtype: Dtype, tokens: usize) -> u32 {
    match (dtype, tokens) {
        (Dtype::Float32, 0..=4) => 4,
        (Dtype::Float16 | Dtype::BFloat16, 0..=8) => 8,
        _ => 16,
    }
}

pub(super) fn unsupported(
    what: &'static str,
    value: usize,
    supported: impl Into<String>,
) -> GpuError {
    GpuError::Unsupported {
        op: OP,
        what,
        value: value as u64,
        supported: supported.into(),
    }
}
