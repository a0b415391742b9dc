//! The kernel on AMX tiles: `tdpbf16ps` multiplies 16 rows of x by 16 rows of a panel over 32
//! columns. The intrinsics are not in stable Rust, so the loop over columns is assembly.
//!
//! A panel's 32 columns lie as a tile wants them: 16 column pairs of 16 rows, 64 bytes each. Two
//! row tiles by two panels share four loads between four products; a few rows (decode) take
//! one row tile, as high as there are rows, by two panels.

use std::arch::asm;

use crate::isa::Isa;
use crate::simd::{Avx512, LANES, Simd};

use super::PANEL_COLS;
use super::product::{Chunk, Product, TILE_BYTES, TILE_ROWS as TILE, TOKEN_STEP};
use super::tile_sizes::{self, Size};

/// Bytes of one tile of a panel.
const PANEL_TILE_BYTES: usize = 1024;

/// Sums of up to 2 x 2 tiles on their way from tile registers.
#[repr(C, align(64))]
struct Sums([[[f32; LANES]; TILE]; 4]);

/// Addresses that one block reads.
struct Block {
    /// Tiles of x: both of 32 columns, then the next 32 (or single ones).
    x: *const u8,
    /// Panels: the first, the second (the same where there is one).
    panels: [*const u8; 2],
    /// Column tiles, at least 1.
    steps: usize,
}

pub(super) fn multiply(product: &Product<'_>, chunk: &Chunk) {
    assert!(Isa::Amx.is_available(), "no bf16 tiles");
    // SAFETY: the check above says that this machine has tiles, AVX-512 and the permission.
    unsafe { tokens(product, chunk) }
}

/// Two tiles of rows at a time, and all panels of the chunk on those.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
fn tokens(product: &Product<'_>, chunk: &Chunk) {
    let mut sums = Sums([[[0.0; LANES]; TILE]; 4]);
    let mut configured = None;
    // Blocks of x begin at multiples of 32 rows.
    debug_assert!(chunk.tokens.start.is_multiple_of(TOKEN_STEP), "{chunk:?}");
    let mut token = chunk.tokens.start;
    while token < chunk.tokens.end {
        let left = (chunk.tokens.end - token).min(2 * TILE);
        let rows = [left.min(TILE), left.saturating_sub(TILE)];
        if configured != Some(rows) {
            configure(rows);
            configured = Some(rows);
        }
        for panel in chunk.panels.clone().step_by(2) {
            let panels = (chunk.panels.end - panel).min(2);
            block(product, token, rows, panel, panels, &mut sums);
        }
        token += left;
    }
    tile_sizes::release();
}

/// Tiles 0 and 1 hold sums of the first tile of rows, 2 and 3 of the second; 4 and 5 hold x, 6 and
/// 7 panels. A second tile of no rows gets one, which is computed and not used.
#[target_feature(enable = "avx512f")]
fn configure(rows: [usize; 2]) {
    let [first, second] = rows.map(|rows| Size::new(rows, 64));
    let panel = Size::new(TILE, 64);
    tile_sizes::configure(&[first, first, second, second, first, second, panel, panel]);
}

/// Up to 32 rows of x by up to two panels.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
fn block(
    product: &Product<'_>,
    token: usize,
    rows: [usize; 2],
    panel: usize,
    panels: usize,
    sums: &mut Sums,
) {
    let second_panel = panel + panels - 1;
    let steps = product.shape.panel_bytes() / PANEL_TILE_BYTES;
    let x = &product.x_bf16[token * product.x_cols * 2..];
    let tiles = if rows[1] > 0 { 2 } else { 1 };
    let x = &x[product.first_col / PANEL_COLS * tiles * TILE_BYTES..];
    let x = &x[..steps * tiles * TILE_BYTES];
    let block = Block {
        x: x.as_ptr(),
        panels: [
            product.panel(panel).as_ptr(),
            product.panel(second_panel).as_ptr(),
        ],
        steps,
    };
    let s = Avx512::here();
    if product.resumes {
        for (tile, rows) in rows.into_iter().enumerate() {
            for row in 0..rows {
                for p in 0..panels {
                    let held = product.out.held(s, token + tile * TILE + row, panel + p);
                    s.store(held, &mut sums.0[2 * tile + p][row]);
                }
            }
        }
    }
    begin(product.resumes, sums);
    if block.steps == 0 {
        // No columns: the sums are empty.
        sums.0 = [[[0.0; LANES]; TILE]; 4];
    } else if rows[1] > 0 {
        // SAFETY: `configure` set the tiles to `rows`; `x` was cut to `steps` pairs of tiles and
        // each panel has `steps` tiles; `sums` holds four whole tiles.
        unsafe { two_by_two(&block, sums) };
    } else {
        // SAFETY: as above, for the first tile of rows.
        unsafe { one_by_two(&block, sums) };
    }
    for (tile, rows) in rows.into_iter().enumerate() {
        for row in 0..rows {
            for p in 0..panels {
                let lanes = s.load(&sums.0[2 * tile + p][row]);
                product.put(s, token + tile * TILE + row, panel + p, lanes);
            }
        }
    }
}

/// Sets tiles 0 to 3 to `sums`, or to zeros. Of tiles of sums that no row or panel uses, what is in
/// them does not matter.
#[target_feature(enable = "avx512f")]
fn begin(resumes: bool, sums: &Sums) {
    // SAFETY: `configure` set the tiles; four of at most 1024 bytes are read from `sums`. Tile
    // registers are not used by compiled code, so they keep this until the products are added.
    unsafe {
        if resumes {
            asm!(
                "tileloadd tmm0, [{sums} + {stride}]",
                "tileloadd tmm1, [{sums} + {stride} + 1024]",
                "tileloadd tmm2, [{sums} + {stride} + 2048]",
                "tileloadd tmm3, [{sums} + {stride} + 3072]",
                sums = in(reg) sums.0.as_ptr(),
                stride = in(reg) 64_usize,
                options(nostack, readonly),
            );
        } else {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                options(nostack, nomem),
            );
        }
    }
}

/// # Safety
/// Tiles are configured and [`begin`] set the sums; x has `steps` pairs of tiles, each panel `steps`
/// tiles.
#[inline(always)]
unsafe fn two_by_two(block: &Block, sums: &mut Sums) {
    let out = sums.0.as_mut_ptr();
    // SAFETY: reads the tiles that the caller vouches for and writes four tiles of 1024 bytes into
    // `sums`. Tile registers are not used by compiled code.
    unsafe {
        asm!(
            "2:",
            "tileloadd tmm4, [{x} + {stride}]",
            "tileloadd tmm6, [{p0} + {stride}]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{p1} + {stride}]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{x} + {stride} + 1024]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {x}, 2048",
            "add {p0}, 1024",
            "add {p1}, 1024",
            "dec {steps}",
            "jnz 2b",
            "tilestored [{out} + {stride}], tmm0",
            "tilestored [{out} + {stride} + 1024], tmm1",
            "tilestored [{out} + {stride} + 2048], tmm2",
            "tilestored [{out} + {stride} + 3072], tmm3",
            x = inout(reg) block.x => _,
            p0 = inout(reg) block.panels[0] => _,
            p1 = inout(reg) block.panels[1] => _,
            steps = inout(reg) block.steps => _,
            stride = in(reg) 64_usize,
            out = in(reg) out,
            options(nostack),
        );
    }
}

/// # Safety
/// As [`two_by_two`], with single tiles of x.
#[inline(always)]
unsafe fn one_by_two(block: &Block, sums: &mut Sums) {
    let out = sums.0.as_mut_ptr();
    // SAFETY: as in `two_by_two`; two tiles are written.
    unsafe {
        asm!(
            "2:",
            "tileloadd tmm4, [{x} + {stride}]",
            "tileloadd tmm6, [{p0} + {stride}]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{p1} + {stride}]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "add {x}, 1024",
            "add {p0}, 1024",
            "add {p1}, 1024",
            "dec {steps}",
            "jnz 2b",
            "tilestored [{out} + {stride}], tmm0",
            "tilestored [{out} + {stride} + 1024], tmm1",
            x = inout(reg) block.x => _,
            p0 = inout(reg) block.panels[0] => _,
            p1 = inout(reg) block.panels[1] => _,
            steps = inout(reg) block.steps => _,
            stride = in(reg) 64_usize,
            out = in(reg) out,
            options(nostack),
        );
    }
}
