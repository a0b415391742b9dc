//! Weights that stay in 4 or 8 bits: blocks of 32 columns of one row, with a scale each; and which
//! matrices of a model have them.

use std::fmt;

/// Columns of a block. A cut of columns lies on a multiple of it.
pub const GROUP: u64 = 32;

/// A block type, named and defined as in GGUF: d and m are f16, q is an integer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BlockFormat {
    /// d * (q - 8), q of 4 bits
    Q4_0,
    /// d * q + m, q of 4 bits
    Q4_1,
    /// d * q, q of 8 bits with a sign
    Q8_0,
}

impl BlockFormat {
    pub const ALL: [BlockFormat; 3] = [BlockFormat::Q4_0, BlockFormat::Q4_1, BlockFormat::Q8_0];

    /// Bytes of one block, in the file and in memory.
    pub const fn bytes(self) -> u64 {
        match self {
            BlockFormat::Q4_0 => 2 + GROUP / 2,
            BlockFormat::Q4_1 => 4 + GROUP / 2,
            BlockFormat::Q8_0 => 2 + GROUP,
        }
    }
}

impl fmt::Display for BlockFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BlockFormat::Q4_0 => "Q4_0",
            BlockFormat::Q4_1 => "Q4_1",
            BlockFormat::Q8_0 => "Q8_0",
        })
    }
}

/// The matrices that a file has in blocks. A matrix of several tensors (q, k and v; gate and up) is in
/// blocks where all of them are, in the same.
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
    pub qkv: Option<BlockFormat>,
    pub output: Option<BlockFormat>,
    pub gate_up: Option<BlockFormat>,
    pub down: Option<BlockFormat>,
}

impl LayerBlocks {
    /// In the order of the fields.
    pub fn all(self) -> [Option<BlockFormat>; 4] {
        let LayerBlocks {
            qkv,
            output,
            gate_up,
            down,
        } = self;
        [qkv, output, gate_up, down]
    }
}

impl ModelBlocks {
    pub fn is_empty(&self) -> bool {
        self.formats().is_empty()
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
        let sizes = BlockFormat::ALL.map(|format| (format.to_string(), format.bytes()));
        let expected = [("Q4_0", 18), ("Q4_1", 20), ("Q8_0", 34)];
        assert_eq!(
            sizes,
            expected.map(|(name, bytes)| (name.to_owned(), bytes))
        );
    }
}
