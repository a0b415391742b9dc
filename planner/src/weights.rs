//! The weights of one rank: every tensor, where it lies and how it is packed.
//!
//! Planner, loader and engine read the same list, so they agree by construction. Nothing here
//! touches memory.

use crate::account::Account;
use crate::blocks::{BlockFormat, GROUP};
use crate::bytes::Bytes;
use crate::model::{Dtype, ModelShape};
use crate::shard::Shard;

/// Output rows of one panel of a packed linear weight.
pub const PANEL_ROWS: u64 = 16;
/// Input columns of a packed linear weight are padded to a multiple of this.
pub const PANEL_COLS: u64 = 32;
/// Every tensor starts at a multiple of this many bytes (a cache line).
pub const TENSOR_ALIGN: Bytes = Bytes(64);

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
    FinalNorm,
    /// Output head of a model that does not tie it to the embedding.
    Head,
}

impl Tensor {
    /// The layer whose matrix this is; none where it is a vector, or no layer's.
    pub const fn matrix_of(self) -> Option<u32> {
        match self {
            Tensor::Qkv { layer }
            | Tensor::Output { layer }
            | Tensor::GateUp { layer }
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
    /// as many bytes as the blocks have in the file, padding apart.
    Blocks(BlockFormat),
    /// `rows` numbers of f32; `cols` is 1.
    Vector,
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
            Form::Blocks(format) => Bytes(rows.next_multiple_of(PANEL_ROWS))
                .saturating_mul(cols.div_ceil(GROUP))
                .saturating_mul(format.bytes()),
            Form::Vector => Bytes(rows).saturating_mul(4),
        }
    }
}

/// One tensor's place in the account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorPlace {
    pub tensor: Tensor,
    pub form: Form,
    /// `Weights`, or `Offload` where it is streamed.
    pub account: Account,
    /// Bytes from the start of the account; a multiple of [`TENSOR_ALIGN`].
    pub offset: u64,
    /// Bytes, padding included; zero where the rank's share is.
    pub bytes: u64,
    /// Output rows (before padding to panels).
    pub rows: u64,
    /// Input columns (before padding).
    pub cols: u64,
}

/// All tensors of one rank in the order in which they lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightLayout {
    places: Vec<TensorPlace>,
    total: Bytes,
}

impl WeightLayout {
    pub fn places(&self) -> &[TensorPlace] {
        &self.places
    }

    /// The place of one tensor; `None` where this model or rank has no such tensor.
    pub fn get(&self, tensor: Tensor) -> Option<&TensorPlace> {
        self.places.iter().find(|place| place.tensor == tensor)
    }

    /// The packed output head: `Head`, or `Embedding` when the model ties them.
    pub fn head(&self) -> Option<&TensorPlace> {
        self.get(Tensor::Head)
            .or_else(|| self.get(Tensor::Embedding))
    }

    /// Bytes in the account `Weights`, ring left out, before they are rounded up to the granule.
    pub fn total(&self) -> Bytes {
        self.total
    }
}

/// MLP columns of a shard as the kernels see them: padded to whole panels. `GateUp` has twice as
/// many rows, `Down` as many columns; the padding holds zeros and so adds nothing.
pub fn padded_mlp_columns(shard: &Shard) -> u64 {
    u64::from(shard.mlp_column_count()).next_multiple_of(PANEL_ROWS)
}

/// Where every tensor of `rank` lies when none is offloaded. Weights and the embedding are of type `dtype`, norms and
/// biases of f32.
pub fn layout(shape: &ModelShape, shard: &Shard, dtype: Dtype, rank: u32) -> WeightLayout {
    place(tensors(shape, shard, dtype, rank), |_| false)
}

/// The same with the matrices of offloaded layers in the account `Offload`: one layer after the
/// other, in the order in which they are streamed.
pub(crate) fn offloaded(
    shape: &ModelShape,
    shard: &Shard,
    dtype: Dtype,
    rank: u32,
    goes: impl Fn(u32) -> bool,
) -> WeightLayout {
    let is_offloaded = |tensor: Tensor| tensor.matrix_of().is_some_and(&goes);
    place(tensors(shape, shard, dtype, rank), is_offloaded)
}

/// Bytes that the matrices of one layer take: what a slot of the ring holds.
pub fn layer_bytes(shape: &ModelShape, shard: &Shard, dtype: Dtype) -> Bytes {
    let mut rows = Vec::with_capacity(14);
    attention_tensors(&mut rows, 0, shape, shard, dtype, 1);
    mlp_tensors(&mut rows, 0, shape, shard, dtype, 1);
    let matrices = rows.iter().filter(|row| row.0.matrix_of().is_some());
    matrices
        .map(|(_, form, rows, cols)| form.bytes(*rows, *cols).round_up(TENSOR_ALIGN))
        .sum()
}

fn place(tensors: Vec<Row>, is_offloaded: impl Fn(Tensor) -> bool) -> WeightLayout {
    let (mut resident, mut host) = (Bytes::ZERO, Bytes::ZERO);
    let mut places = Vec::with_capacity(tensors.len());
    for (tensor, form, rows, cols) in tensors {
        let bytes = form.bytes(rows, cols);
        let (account, end) = match is_offloaded(tensor) {
            false => (Account::Weights, &mut resident),
            true => (Account::Offload, &mut host),
        };
        places.push(TensorPlace {
            tensor,
            form,
            account,
            offset: end.0,
            bytes: bytes.0,
            rows,
            cols,
        });
        *end += bytes.round_up(TENSOR_ALIGN);
    }
    WeightLayout {
        places,
        total: resident,
    }
}

type Row = (Tensor, Form, u64, u64);

fn tensors(shape: &ModelShape, shard: &Shard, dtype: Dtype, rank: u32) -> Vec<Row> {
    let hidden = u64::from(shape.hidden);
    let vocab = u64::from(shard.vocab_row_count());
    let mut rows = Vec::with_capacity(14 * shape.layers as usize + 3);
    let embedding = if shape.tied {
        Form::Panels(dtype)
    } else {
        Form::RowMajor(dtype)
    };
    rows.push((Tensor::Embedding, embedding, vocab, hidden));
    for layer in 0..shape.layers {
        attention_tensors(&mut rows, layer, shape, shard, dtype, rank);
        mlp_tensors(&mut rows, layer, shape, shard, dtype, rank);
    }
    rows.push((Tensor::FinalNorm, Form::Vector, hidden, 1));
    if !shape.tied {
        rows.push((Tensor::Head, Form::Panels(dtype), vocab, hidden));
    }
    rows
}

fn attention_tensors(
    rows: &mut Vec<Row>,
    layer: u32,
    shape: &ModelShape,
    shard: &Shard,
    dtype: Dtype,
    rank: u32,
) {
    let (hidden, head_dim) = (u64::from(shape.hidden), u64::from(shape.head_dim));
    let query = u64::from(shard.query_head_count()) * head_dim;
    let qkv = query + 2 * u64::from(shard.kv_head_count()) * head_dim;
    rows.push((Tensor::InputNorm { layer }, Form::Vector, hidden, 1));
    rows.push((Tensor::Qkv { layer }, Form::Panels(dtype), qkv, hidden));
    if shape.qkv_bias {
        rows.push((Tensor::QkvBias { layer }, Form::Vector, qkv, 1));
    }
    if shape.qk_norm {
        rows.push((Tensor::QNorm { layer }, Form::Vector, head_dim, 1));
        rows.push((Tensor::KNorm { layer }, Form::Vector, head_dim, 1));
    }
    rows.push((Tensor::Output { layer }, Form::Panels(dtype), hidden, query));
    if shape.output_bias && rank == 0 {
        rows.push((Tensor::OutputBias { layer }, Form::Vector, hidden, 1));
    }
}

fn mlp_tensors(
    rows: &mut Vec<Row>,
    layer: u32,
    shape: &ModelShape,
    shard: &Shard,
    dtype: Dtype,
    rank: u32,
) {
    let hidden = u64::from(shape.hidden);
    let columns = padded_mlp_columns(shard);
    rows.push((Tensor::PostNorm { layer }, Form::Vector, hidden, 1));
    rows.push((
        Tensor::GateUp { layer },
        Form::Panels(dtype),
        2 * columns,
        hidden,
    ));
    if shape.mlp_bias {
        rows.push((Tensor::GateUpBias { layer }, Form::Vector, 2 * columns, 1));
    }
    rows.push((Tensor::Down { layer }, Form::Panels(dtype), hidden, columns));
    if shape.mlp_bias && rank == 0 {
        rows.push((Tensor::DownBias { layer }, Form::Vector, hidden, 1));
    }
}
