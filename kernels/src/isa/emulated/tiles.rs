//! Eight tile registers, and what instructions do with them.

const TILES: usize = 8;
const ROWS: usize = 16;
const ROW_BYTES: usize = 64;

/// What a product is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Numbers {
    /// Pairs of bf16.
    Bf16,
    /// Four bytes; whether those of a and of b have signs.
    Bytes { a: bool, b: bool },
}

#[derive(Clone, Copy)]
struct Tile {
    rows: usize,
    row_bytes: usize,
    cells: [[u8; ROW_BYTES]; ROWS],
}

impl Tile {
    const NONE: Tile = Tile {
        rows: 0,
        row_bytes: 0,
        cells: [[0; ROW_BYTES]; ROWS],
    };

    fn word(&self, row: usize, at: usize) -> [u8; 4] {
        let cell = &self.cells[row];
        [0, 1, 2, 3].map(|byte| cell[4 * at + byte])
    }
}

pub(super) struct Tiles([Tile; TILES]);

impl Tiles {
    /// As a thread begins: nothing is configured.
    pub(super) const NONE: Tiles = Tiles([Tile::NONE; TILES]);

    /// Palette 1: bytes of a row from byte 16 on, two each; rows from byte 48 on.
    pub(super) fn configure(&mut self, bytes: &[u8; 64]) -> bool {
        let size = |tile: usize| {
            let row_bytes = u16::from_le_bytes([bytes[16 + 2 * tile], bytes[17 + 2 * tile]]);
            (usize::from(bytes[48 + tile]), usize::from(row_bytes))
        };
        let sound = (0..TILES).all(|tile| {
            let (rows, row_bytes) = size(tile);
            rows <= ROWS && row_bytes <= ROW_BYTES && (rows == 0) == (row_bytes == 0)
        });
        let rest = bytes[1..16]
            .iter()
            .chain(&bytes[32..48])
            .chain(&bytes[56..]);
        if bytes[0] != 1 || !sound || rest.into_iter().any(|byte| *byte != 0) {
            return false;
        }
        *self = Tiles::NONE;
        for (at, tile) in self.0.iter_mut().enumerate() {
            (tile.rows, tile.row_bytes) = size(at);
        }
        true
    }

    fn configured(&mut self, tile: usize) -> Option<&mut Tile> {
        self.0.get_mut(tile).filter(|tile| tile.rows > 0)
    }

    pub(super) fn zero(&mut self, tile: usize) -> bool {
        let found = self.configured(tile);
        found.map(|tile| tile.cells = Tile::NONE.cells).is_some()
    }

    /// Hands over every row of a tile that is configured, and how many it is.
    pub(super) fn rows_of(&mut self, tile: usize, mut with: impl FnMut(usize, &mut [u8])) -> bool {
        let Some(tile) = self.configured(tile) else {
            return false;
        };
        for row in 0..tile.rows {
            with(row, &mut tile.cells[row][..tile.row_bytes]);
        }
        true
    }

    /// `sums[m][n] += a[m][k] b[k][n]`, k in words of four bytes.
    pub(super) fn multiply(&mut self, numbers: Numbers, sums: usize, a: usize, b: usize) -> bool {
        let apart = sums != a && sums != b && a != b;
        let [a, b] = [self.0[a], self.0[b]];
        let Some(sums) = self.configured(sums).filter(|sums| {
            let inner = a.row_bytes == 4 * b.rows;
            apart && inner && a.rows == sums.rows && b.row_bytes == sums.row_bytes
        }) else {
            return false;
        };
        // Whole rows: what is beyond a tile's own bytes is zeros.
        for row in 0..sums.rows {
            let cells = &mut sums.cells[row];
            match numbers {
                Numbers::Bf16 => {
                    let mut new = words(cells).map(f32::from_le_bytes);
                    bf16(
                        &mut new,
                        (0..b.rows).map(|k| (a.word(row, k), words(&b.cells[k]))),
                    );
                    put(cells, new.map(f32::to_le_bytes));
                }
                Numbers::Bytes {
                    a: a_signed,
                    b: b_signed,
                } => {
                    let mut new = words(cells).map(i32::from_le_bytes);
                    for k in 0..b.rows {
                        let a = a.word(row, k).map(|byte| number(byte, a_signed));
                        for (sum, b) in new.iter_mut().zip(words(&b.cells[k])) {
                            for (a, b) in a.iter().zip(b) {
                                *sum = sum.wrapping_add(a * number(b, b_signed));
                            }
                        }
                    }
                    put(cells, new.map(i32::to_le_bytes));
                }
            }
        }
        true
    }
}

/// Words of a row.
type Words = [[u8; 4]; ROW_BYTES / 4];

fn words(row: &[u8; ROW_BYTES]) -> Words {
    let (words, _) = row.as_chunks::<4>();
    std::array::from_fn(|at| words[at])
}

fn put(row: &mut [u8; ROW_BYTES], words: Words) {
    row.as_chunks_mut::<4>().0.copy_from_slice(&words);
}

fn number(byte: u8, signed: bool) -> i32 {
    match signed {
        true => i32::from(byte.cast_signed()),
        false => i32::from(byte),
    }
}

/// Products of even and of odd numbers are added apart, then both, then to what was there. Subnormal
/// numbers count as zeros, on every side.
fn bf16(sums: &mut [f32; ROW_BYTES / 4], words: impl Iterator<Item = ([u8; 4], Words)>) {
    let normal = |number: f32| match number.abs() < f32::MIN_POSITIVE {
        true => 0.0,
        false => number,
    };
    let halves = |word: [u8; 4]| {
        let word = u32::from_le_bytes(word);
        [word << 16, word & 0xFFFF_0000].map(|bits| normal(f32::from_bits(bits)))
    };
    let mut parts = [[0.0_f32; 2]; ROW_BYTES / 4];
    for (a, b) in words {
        let a = halves(a);
        for (parts, b) in parts.iter_mut().zip(b) {
            for (part, (a, b)) in parts.iter_mut().zip(a.into_iter().zip(halves(b))) {
                *part = normal(*part + normal(a * b));
            }
        }
    }
    for (sum, [even, odd]) in sums.iter_mut().zip(parts) {
        *sum = normal(normal(*sum) + normal(even + odd));
    }
}
