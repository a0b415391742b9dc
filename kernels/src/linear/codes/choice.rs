//! The kernels for codes, and which of them serves a call: by sizes and multiprocessors alone.

use plimsoll_planner::Dtype;

use super::super::PANEL_ROWS;
use super::super::choice::{SKINNY_TOKENS, unsupported};
use super::{Bits, CodesShape};
use crate::gpu::{Card, GpuError, Kind};

/// How one call is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// `linear_skinny_codes.cu`: a block has a panel of the weight, its warps share the columns.
    Skinny { warps: u32 },
    /// `linear_tile_codes.cu`: a block has a tile of the result.
    Tile(Tile),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tile {
    /// 128 tokens by 128 rows
    Wide,
    /// 64 tokens by 32 rows
    Narrow,
}

pub const TILES: [Tile; 2] = [Tile::Wide, Tile::Narrow];
const WARPS: [u32; 3] = [4, 8, 16];

/// The kernel that [`super::cuda::run`] takes.
pub fn choose(card: &Card, shape: &CodesShape, tokens: usize) -> Kernel {
    if tokens <= SKINNY_TOKENS {
        return Kernel::Skinny {
            warps: warps(card, shape),
        };
    }
    let fits = Tile::Wide.shared_bytes(shape.bits) <= card.shared_bytes_per_block;
    let [wide, narrow] = TILES.map(|tile| tile.cost(card, shape, tokens));
    Kernel::Tile(match fits && wide < narrow {
        true => Tile::Wide,
        false => Tile::Narrow,
    })
}

/// The fewest that fill the card with loads on their way, or that leave no warp a second round.
fn warps(card: &Card, shape: &CodesShape) -> u32 {
    /// Warps of a multiprocessor that have enough bytes on their way: 4 KB each.
    const ENOUGH: usize = 12;
    let round = match shape.bits {
        Bits::Four => 512,
        Bits::Eight => 256,
    };
    let wanted = card.multiprocessors as usize * ENOUGH;
    let is_enough = |warps: &u32| {
        let warps = *warps as usize;
        shape.panels() * warps >= wanted || warps * round >= shape.cols
    };
    WARPS
        .into_iter()
        .find(is_enough)
        .unwrap_or(WARPS[WARPS.len() - 1])
}

impl Tile {
    pub const fn tokens(self) -> usize {
        match self {
            Tile::Wide => 128,
            Tile::Narrow => 64,
        }
    }

    pub const fn rows(self) -> usize {
        match self {
            Tile::Wide => 128,
            Tile::Narrow => 32,
        }
    }

    /// What the busiest multiprocessor has to do, in products; those of a narrow tile take twice as long:
    /// each number is expanded for half as many tokens.
    fn cost(self, card: &Card, shape: &CodesShape, tokens: usize) -> usize {
        let rounds = self
            .blocks(shape, tokens)
            .div_ceil(card.multiprocessors.max(1) as usize);
        let slowness = match self {
            Tile::Wide => 1,
            Tile::Narrow => 2,
        };
        rounds * self.tokens() * self.rows() * slowness
    }

    const fn blocks(self, shape: &CodesShape, tokens: usize) -> usize {
        tokens.div_ceil(self.tokens()) * shape.rows.div_ceil(self.rows())
    }

    /// Four stages of x, codes and scales, as in the kernel's header.
    const fn shared_bytes(self, bits: Bits) -> u32 {
        let (tokens, rows, cols) = match self {
            Tile::Wide => (128, 128, 32),
            Tile::Narrow => (64, 32, 64),
        };
        let bits = match bits {
            Bits::Four => 4,
            Bits::Eight => 8,
        };
        4 * (tokens * cols * 2 + rows * cols * bits / 8 + cols / 32 * rows * 4)
    }
}

impl Kernel {
    /// Whether this kernel takes the sizes, which other checks found sound.
    pub(super) fn check(
        self,
        card: &Card,
        shape: &CodesShape,
        tokens: usize,
    ) -> Result<(), GpuError> {
        if let Kernel::Skinny { warps } = self {
            if tokens > SKINNY_TOKENS {
                let most = format!("at most {SKINNY_TOKENS}");
                return Err(unsupported("tokens", tokens, most));
            }
            if !WARPS.contains(&warps) {
                return Err(unsupported("warps", warps as usize, "4, 8 or 16"));
            }
        }
        let (has, needs) = (
            card.shared_bytes_per_block,
            self.shared_bytes(shape.bits, tokens),
        );
        if needs > has {
            let what = "shared memory of a block";
            return Err(unsupported(what, has as usize, format!("{needs} bytes")));
        }
        let blocks = self.count(shape, tokens);
        if i32::try_from(blocks).is_err() {
            let most = format!("at most {}; fewer tokens", i32::MAX);
            return Err(unsupported("blocks", blocks, most));
        }
        Ok(())
    }

    const fn count(self, shape: &CodesShape, tokens: usize) -> usize {
        match self {
            Kernel::Skinny { .. } => shape.rows.div_ceil(PANEL_ROWS),
            Kernel::Tile(tile) => tile.blocks(shape, tokens),
        }
    }

    /// The grid, of sizes that [`Kernel::check`] let pass.
    pub(super) fn blocks(self, shape: &CodesShape, tokens: usize) -> u32 {
        u32::try_from(self.count(shape, tokens)).unwrap_or(u32::MAX)
    }

    pub(super) const fn threads(self) -> u32 {
        match self {
            Kernel::Skinny { warps } => warps * 32,
            Kernel::Tile(Tile::Wide | Tile::Narrow) => 128,
        }
    }

    pub(super) const fn shared_bytes(self, bits: Bits, tokens: usize) -> u32 {
        /// From one token's 16 sums to the next, as in skinny.cuh.
        const PITCH_BYTES: u32 = 80;
        match self {
            Kernel::Tile(tile) => tile.shared_bytes(bits),
            Kernel::Skinny { warps } => warps * most_tokens(tokens) * PITCH_BYTES,
        }
    }

    /// The `.cu` file, which is an image of its own.
    pub(super) const fn image(self) -> &'static str {
        match self {
            Kernel::Skinny { .. } => "linear_skinny_codes",
            Kernel::Tile(_) => "linear_tile_codes",
        }
    }

    pub(super) fn name(self, dtype: Dtype, bits: Bits, tokens: usize) -> String {
        let (image, suffix, bits) = (self.image(), Kind::suffix(dtype), bits.count());
        match self {
            Kernel::Skinny { .. } => format!("{image}_{suffix}_{bits}_{}", most_tokens(tokens)),
            Kernel::Tile(tile) => {
                format!("{image}_{suffix}_{bits}_{}x{}", tile.tokens(), tile.rows())
            }
        }
    }
}

/// For how many tokens the skinny kernel is built that takes `tokens`.
const fn most_tokens(tokens: usize) -> u32 {
    match tokens {
        0..=8 => 8,
        _ => 16,
    }
}
