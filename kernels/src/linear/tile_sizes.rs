//! The sizes of tile registers, for a thread.

use std::arch::asm;

/// Rows of a tile and bytes of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size {
    rows: u8,
    row_bytes: u16,
}

impl Size {
    /// At most 16 rows of 64 bytes; at least one, so that the tile can be used.
    pub(super) fn new(rows: usize, row_bytes: usize) -> Size {
        let most = |number: usize, most: u8| u8::try_from(number.max(1)).unwrap_or(most).min(most);
        Size {
            rows: most(rows, 16),
            row_bytes: u16::from(most(row_bytes, 64)),
        }
    }
}

/// `ldtilecfg`'s operand: rows and bytes per row of each tile.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// The first tiles have these sizes from now on; what they held is gone.
///
/// Needs a machine with tiles, and the permission to use them.
#[target_feature(enable = "avx512f")]
pub(super) fn configure(sizes: &[Size]) {
    let mut config = Config {
        palette: 1,
        start_row: 0,
        reserved: [0; 14],
        row_bytes: [0; 16],
        rows: [0; 16],
    };
    for (tile, size) in sizes.iter().take(8).enumerate() {
        config.row_bytes[tile] = size.row_bytes;
        config.rows[tile] = size.rows;
    }
    // SAFETY: `config` is a valid palette 1 configuration: at most eight tiles of at most 16 rows of 64
    // bytes. The assembly may read memory, so the writes above come first.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const config, options(nostack, readonly)) };
}

/// No tile holds anything that is needed; giving them up makes task switches cheap.
#[target_feature(enable = "avx512f")]
pub(super) fn release() {
    // SAFETY: tile registers are not used by compiled code.
    unsafe { asm!("tilerelease", options(nomem, nostack)) };
}
