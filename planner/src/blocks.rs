//! Weights that stay in 2 to 8 bits: blocks of columns of one row with scales of their own; and which
//! matrices of a model have them.

use std::fmt;

use crate::order::{LayerOrders, Order};

/// Every cut of columns lies on a multiple of this, whatever the format: pieces of a longer block keep
/// its scales each.
pub const GROUP: u64 = 32;
/// Columns of the longer blocks.
const LONG: u64 = 256;
/// Columns of a group as most packers of Hugging Face folders choose them.
const MIDDLE: u64 = 128;

/// A block type: d, m and z are f16, q is an integer, s and t are integers of a few bits that a part of
/// the block has of its own. Those that begin with a Q or an IQ are named and defined as in GGUF. Those
/// with a zero point z, a whole number, are no file's: they hold what GPTQ, AWQ and compressed-tensors
/// pack, and a longer group is several blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BlockFormat {
    /// d * (q - 8), q of 4 bits
    Q4_0,
    /// d * q + m, q of 4 bits
    Q4_1,
    /// d * (q - 16), q of 5 bits
    Q5_0,
    /// d * q + m, q of 5 bits
    Q5_1,
    /// d * q, q of 8 bits with a sign
    Q8_0,
    /// d * table(q), q of 4 bits
    Iq4Nl,
    /// d * s * q - m * t, q of 2 bits, s and t of 16 columns
    Q2K,
    /// d * s * (q - 4), q of 3 bits, s of 16 columns
    Q3K,
    /// d * s * q - m * t, q of 4 bits, s and t of 32 columns
    Q4K,
    /// d * s * q - m * t, q of 5 bits, s and t of 32 columns
    Q5K,
    /// d * s * (q - 32), q of 6 bits, s of 16 columns
    Q6K,
    /// d * s * table(q), q of 4 bits, s of 32 columns
    Iq4Xs,
    /// d * (q - z), q of 4 bits, 32 columns
    Z4By32,
    /// d * (q - z), q of 4 bits, 128 columns
    Z4By128,
    /// d * (q - z), q of 8 bits with a sign, 32 columns
    Z8By32,
}

impl BlockFormat {
    pub const ALL: [BlockFormat; 15] = [
        BlockFormat::Q4_0,
        BlockFormat::Q4_1,
        BlockFormat::Q5_0,
        BlockFormat::Q5_1,
        BlockFormat::Q8_0,
        BlockFormat::Iq4Nl,
        BlockFormat::Q2K,
        BlockFormat::Q3K,
        BlockFormat::Q4K,
        BlockFormat::Q5K,
        BlockFormat::Q6K,
        BlockFormat::Iq4Xs,
        BlockFormat::Z4By32,
        BlockFormat::Z4By128,
        BlockFormat::Z8By32,
    ];

    /// As files name it, and the resource.
    pub const fn label(self) -> &'static str {
        match self {
            BlockFormat::Q4_0 => "Q4_0",
            BlockFormat::Q4_1 => "Q4_1",
            BlockFormat::Q5_0 => "Q5_0",
            BlockFormat::Q5_1 => "Q5_1",
            BlockFormat::Q8_0 => "Q8_0",
            BlockFormat::Iq4Nl => "IQ4_NL",
            BlockFormat::Q2K => "Q2_K",
            BlockFormat::Q3K => "Q3_K",
            BlockFormat::Q4K => "Q4_K",
            BlockFormat::Q5K => "Q5_K",
            BlockFormat::Q6K => "Q6_K",
            BlockFormat::Iq4Xs => "IQ4_XS",
            BlockFormat::Z4By32 => "Z4_32",
            BlockFormat::Z4By128 => "Z4_128",
            BlockFormat::Z8By32 => "Z8_32",
        }
    }

    /// Columns of a block; a row is whole blocks.
    pub const fn columns(self) -> u64 {
        match self {
            BlockFormat::Q4_0
            | BlockFormat::Q4_1
            | BlockFormat::Q5_0
            | BlockFormat::Q5_1
            | BlockFormat::Q8_0
            | BlockFormat::Iq4Nl
            | BlockFormat::Z4By32
            | BlockFormat::Z8By32 => GROUP,
            BlockFormat::Z4By128 => MIDDLE,
            BlockFormat::Q2K
            | BlockFormat::Q3K
            | BlockFormat::Q4K
            | BlockFormat::Q5K
            | BlockFormat::Q6K
            | BlockFormat::Iq4Xs => LONG,
        }
    }

    /// Bits of each column's q.
    pub const fn bits(self) -> u64 {
        match self {
            BlockFormat::Q2K => 2,
            BlockFormat::Q3K => 3,
            BlockFormat::Q4_0
            | BlockFormat::Q4_1
            | BlockFormat::Iq4Nl
            | BlockFormat::Q4K
            | BlockFormat::Iq4Xs
            | BlockFormat::Z4By32
            | BlockFormat::Z4By128 => 4,
            BlockFormat::Q5_0 | BlockFormat::Q5_1 | BlockFormat::Q5K => 5,
            BlockFormat::Q6K => 6,
            BlockFormat::Q8_0 | BlockFormat::Z8By32 => 8,
        }
    }

    /// Bytes of a block's scales, minima and zero points: every piece of the block keeps them.
    pub const fn head_bytes(self) -> u64 {
        match self {
            BlockFormat::Q4_0 | BlockFormat::Q5_0 | BlockFormat::Q8_0 | BlockFormat::Iq4Nl => 2,
            BlockFormat::Q4_1
            | BlockFormat::Q5_1
            | BlockFormat::Z4By32
            | BlockFormat::Z4By128
            | BlockFormat::Z8By32 => 4,
            // Four bits of s and t for every 16 columns.
            BlockFormat::Q2K => 4 + LONG / 16,
            // Six bits of s for every 16 columns, of s and t for every 32.
            BlockFormat::Q3K => 2 + 12,
            BlockFormat::Q4K | BlockFormat::Q5K => 4 + 12,
            BlockFormat::Q6K => 2 + LONG / 16,
            BlockFormat::Iq4Xs => 2 + 6,
        }
    }

    /// Whether d is multiplied with what q is more than a zero point.
    pub const fn has_zero_point(self) -> bool {
        match self {
            BlockFormat::Z4By32 | BlockFormat::Z4By128 | BlockFormat::Z8By32 => true,
            BlockFormat::Q4_0
            | BlockFormat::Q4_1
            | BlockFormat::Q5_0
            | BlockFormat::Q5_1
            | BlockFormat::Q8_0
            | BlockFormat::Iq4Nl
            | BlockFormat::Q2K
            | BlockFormat::Q3K
            | BlockFormat::Q4K
            | BlockFormat::Q5K
            | BlockFormat::Q6K
            | BlockFormat::Iq4Xs => false,
        }
    }

    /// Bytes of one block, in the file and in memory.
    pub const fn bytes(self) -> u64 {
        self.head_bytes() + self.columns() * self.bits() / 8
    }

    /// Bytes of a row of whole blocks.
    pub const fn row_bytes(self, cols: u64) -> u64 {
        cols.div_ceil(self.columns()) * self.bytes()
    }

    /// Bytes of so many columns of a row wherever they begin: room for the scales of as many blocks as
    /// they may touch, so that a share's bytes do not depend on which share it is.
    pub const fn piece_bytes(self, cols: u64) -> u64 {
        let touched = match cols {
            0 => 0,
            _ => (cols + self.columns() - GROUP).div_ceil(self.columns()),
        };
        touched * self.head_bytes() + cols.next_multiple_of(GROUP) * self.bits() / 8
    }
}

impl fmt::Display for BlockFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// The matrices that a file has in blocks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ModelBlocks {
    pub embedding: Option<BlockFormat>,
    /// Of a model that does not tie it to the embedding.
    pub head: Option<BlockFormat>,
    /// One per layer, or empty where no layer has any.
    pub layers: Vec<LayerBlocks>,
}

/// The matrices of one layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct LayerBlocks {
    pub query: Option<BlockFormat>,
    pub key: Option<BlockFormat>,
    pub value: Option<BlockFormat>,
    pub output: Option<BlockFormat>,
    pub gate: Option<BlockFormat>,
    pub up: Option<BlockFormat>,
    pub down: Option<BlockFormat>,
    pub orders: LayerOrders,
}

impl LayerBlocks {
    /// All matrices in the same.
    pub const fn uniform(format: Option<BlockFormat>) -> LayerBlocks {
        LayerBlocks {
            query: format,
            key: format,
            value: format,
            output: format,
            gate: format,
            up: format,
            down: format,
            orders: LayerOrders::INPUTS,
        }
    }

    /// Without what a cut of columns has no use for: those of a list are not cut between heads, or
    /// columns of the MLP.
    pub(crate) fn cut(self) -> LayerBlocks {
        let stays = |order: Order| !order.is_listed();
        LayerBlocks {
            output: self.output.filter(|_| stays(self.orders.output)),
            down: self.down.filter(|_| stays(self.orders.down)),
            orders: self.orders.cut(),
            ..self
        }
    }

    /// Those of another, which has no lists, where this has none.
    pub(crate) fn or(self, other: LayerBlocks) -> LayerBlocks {
        LayerBlocks {
            query: self.query.or(other.query),
            key: self.key.or(other.key),
            value: self.value.or(other.value),
            output: self.output.or(other.output),
            gate: self.gate.or(other.gate),
            up: self.up.or(other.up),
            down: self.down.or(other.down),
            orders: self.orders,
        }
    }

    /// In the order of the fields.
    pub fn all(self) -> [Option<BlockFormat>; 7] {
        let LayerBlocks {
            query,
            key,
            value,
            output,
            gate,
            up,
            down,
            orders: _,
        } = self;
        [query, key, value, output, gate, up, down]
    }

    /// Whether q, k and v lie as one matrix: where they are stored alike, columns in the same order.
    pub fn fuses_qkv(self) -> bool {
        let alike = self.orders.shares_qkv();
        alike && self.query == self.key && self.key == self.value
    }

    /// The same of gate and up.
    pub fn fuses_gate_up(self) -> bool {
        self.orders.shares_gate_up() && self.gate == self.up
    }
}

impl ModelBlocks {
    pub fn is_empty(&self) -> bool {
        self.formats().is_empty()
    }

    /// Of one layer.
    pub fn layer(&self, layer: u32) -> LayerBlocks {
        let found = self.layers.get(layer as usize).copied();
        found.unwrap_or_default()
    }

    /// Every format that a matrix is in, once each, in the order of [`BlockFormat::ALL`].
    pub fn formats(&self) -> Vec<BlockFormat> {
        let layers = self.layers.iter().flat_map(|layer| layer.all());
        let all: Vec<BlockFormat> = [self.embedding, self.head]
            .into_iter()
            .chain(layers)
            .flatten()
            .collect();
        BlockFormat::ALL
            .into_iter()
            .filter(|format| all.contains(format))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_as_large_as_those_of_a_file() {
        let sizes = BlockFormat::ALL.map(|f| (f.label(), f.columns(), f.bytes()));
        let expected = [
            ("Q4_0", 32, 18),
            ("Q4_1", 32, 20),
            ("Q5_0", 32, 22),
            ("Q5_1", 32, 24),
            ("Q8_0", 32, 34),
            ("IQ4_NL", 32, 18),
            ("Q2_K", 256, 84),
            ("Q3_K", 256, 110),
            ("Q4_K", 256, 144),
            ("Q5_K", 256, 176),
            ("Q6_K", 256, 210),
            ("IQ4_XS", 256, 136),
            ("Z4_32", 32, 20),
            ("Z4_128", 128, 68),
            ("Z8_32", 32, 36),
        ];
        assert_eq!(sizes, expected);
    }

    #[test]
    fn a_piece_has_room_for_the_scales_of_every_block_that_it_may_touch() {
        for format in BlockFormat::ALL {
            let columns = format.columns();
            assert_eq!(format.piece_bytes(0), 0);
            for cols in (1..40).map(|groups| groups * GROUP) {
                let touched = |first: u64| (first + cols).div_ceil(columns) - first / columns;
                let most = (0..columns / GROUP).map(|at| touched(at * GROUP)).max();
                let scales = format.piece_bytes(cols) - cols * format.bits() / 8;
                assert_eq!(Some(scales / format.head_bytes()), most, "{format} {cols}");
            }
        }
    }
}
