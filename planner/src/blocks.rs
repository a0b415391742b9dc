//! Weights that stay in 4 or 8 bits: blocks of 32 columns of one row, with a scale each.

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
