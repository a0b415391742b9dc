//! Tensors of one rank by name, and the forms in which their numbers lie.

use crate::blocks::BlockFormat;
use crate::bytes::Bytes;
use crate::model::Dtype;

/// Output rows of one panel of a packed linear weight.
pub const PANEL_ROWS: u64 = 16;
/// Input columns of a packed linear weight are padded to a multiple of this.
pub const PANEL_COLS: u64 = 32;
/// A tensor of one rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tensor {
    /// Input embedding; when the model ties it, also the output head (and packed like one).
    Embedding,
    InputNorm {
        layer: u32,
    },
    /// Rows: this rank's query heads, then its key heads, then its value heads.
    Qkv {
        layer: u32,
    },
    /// Where q, k and v are not stored alike, they lie one by one instead of in `Qkv`.
    Query {
        layer: u32,
    },
    Key {
        layer: u32,
    },
    Value {
        layer: u32,
    },
    QkvBias {
        layer: u32,
    },
    QNorm {
        layer: u32,
    },
    KNorm {
        layer: u32,
    },
    /// Output projection of attention.
    Output {
        layer: u32,
    },
    /// On rank 0 only, so that the sum over ranks has it once.
    OutputBias {
        layer: u32,
    },
    PostNorm {
        layer: u32,
    },
    /// Rows: gate columns, then up columns, each half padded to `PANEL_ROWS`.
    GateUp {
        layer: u32,
    },
    /// The same of gate and up.
    Gate {
        layer: u32,
    },
    Up {
        layer: u32,
    },
    GateUpBias {
        layer: u32,
    },
    Down {
        layer: u32,
    },
    /// On rank 0 only.
    DownBias {
        layer: u32,
    },
    /// Of a matrix whose columns lie in an order of their own, the input of each; it stands before its
    /// matrix, and is never offloaded.
    Order {
        layer: u32,
        of: Listed,
    },
    FinalNorm,
    /// Output head of a model that does not tie it to the embedding.
    Head,
}

/// The matrices that may have a list, see [`Tensor::Order`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Listed {
    Qkv,
    Query,
    Key,
    Value,
    Output,
    GateUp,
    Gate,
    Up,
    Down,
}

impl Tensor {
    /// The list of a matrix, where it has one; none of what never has.
    pub const fn order(self) -> Option<Tensor> {
        let (layer, of) = match self {
            Tensor::Qkv { layer } => (layer, Listed::Qkv),
            Tensor::Query { layer } => (layer, Listed::Query),
            Tensor::Key { layer } => (layer, Listed::Key),
            Tensor::Value { layer } => (layer, Listed::Value),
            Tensor::Output { layer } => (layer, Listed::Output),
            Tensor::GateUp { layer } => (layer, Listed::GateUp),
            Tensor::Gate { layer } => (layer, Listed::Gate),
            Tensor::Up { layer } => (layer, Listed::Up),
            Tensor::Down { layer } => (layer, Listed::Down),
            Tensor::Embedding
            | Tensor::InputNorm { .. }
            | Tensor::QkvBias { .. }
            | Tensor::QNorm { .. }
            | Tensor::KNorm { .. }
            | Tensor::OutputBias { .. }
            | Tensor::PostNorm { .. }
            | Tensor::GateUpBias { .. }
            | Tensor::DownBias { .. }
            | Tensor::Order { .. }
            | Tensor::FinalNorm
            | Tensor::Head => return None,
        };
        Some(Tensor::Order { layer, of })
    }

    /// The layer whose matrix this is; none where it is a vector, or no layer's.
    pub const fn matrix_of(self) -> Option<u32> {
        match self {
            Tensor::Qkv { layer }
            | Tensor::Query { layer }
            | Tensor::Key { layer }
            | Tensor::Value { layer }
            | Tensor::Output { layer }
            | Tensor::GateUp { layer }
            | Tensor::Gate { layer }
            | Tensor::Up { layer }
            | Tensor::Down { layer } => Some(layer),
            Tensor::Embedding
            | Tensor::InputNorm { .. }
            | Tensor::QkvBias { .. }
            | Tensor::QNorm { .. }
            | Tensor::KNorm { .. }
            | Tensor::OutputBias { .. }
            | Tensor::PostNorm { .. }
            | Tensor::GateUpBias { .. }
            | Tensor::DownBias { .. }
            | Tensor::Order { .. }
            | Tensor::FinalNorm
            | Tensor::Head => None,
        }
    }
}

/// How the numbers of a tensor lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// `[rows][cols]`, no padding.
    RowMajor(Dtype),
    /// Panels of `PANEL_ROWS` rows; rows and columns padded with zeros. 16-bit types:
    /// `[panel][column pair][row of the panel][2]`; Float32: `[panel][column][row of the panel]`.
    Panels(Dtype),
    /// Panels of `PANEL_ROWS` rows whose numbers stay in blocks, rows and columns padded as in `Panels`:
    /// as many bytes as the blocks have in the file, padding apart. Computed with in the float type.
    Blocks(BlockFormat, Dtype),
    /// The same of columns that may begin and end inside of a block: each rank that has a part of a
    /// block has its scales.
    Pieces(BlockFormat, Dtype),
    /// `rows` numbers of f32; `cols` is 1.
    Vector,
    /// `rows` numbers of u32; `cols` is 1.
    List,
}

impl Form {
    /// Bytes of a tensor of this form, padding included.
    pub fn bytes(self, rows: u64, cols: u64) -> Bytes {
        match self {
            Form::RowMajor(dtype) => Bytes(rows)
                .saturating_mul(cols)
                .saturating_mul(dtype.bytes()),
            Form::Panels(dtype) => Bytes(rows.next_multiple_of(PANEL_ROWS))
                .saturating_mul(cols.next_multiple_of(PANEL_COLS))
                .saturating_mul(dtype.bytes()),
            Form::Blocks(format, _) => {
                Bytes(rows.next_multiple_of(PANEL_ROWS)).saturating_mul(format.row_bytes(cols))
            }
            Form::Pieces(format, _) => {
                Bytes(rows.next_multiple_of(PANEL_ROWS)).saturating_mul(format.piece_bytes(cols))
            }
            Form::Vector | Form::List => Bytes(rows).saturating_mul(4),
        }
    }
}
