//! The weights of one rank: every tensor, where it lies and how it is packed.
//!
//! Planner, loader and engine read the same list, so they agree by construction. Nothing here
//! touches memory.

use crate::account::Account;
use crate::bytes::Bytes;
use crate::model::ModelShape;
use crate::shard::Shard;
use crate::stored::Kept;

pub use crate::tensor::{Form, Listed, PANEL_COLS, PANEL_ROWS, Tensor};

/// Every tensor starts at a multiple of this many bytes (a cache line).
pub const TENSOR_ALIGN: Bytes = Bytes(64);

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
    /// Of `Form::Pieces`, the columns of the first block that are another rank's.
    pub skipped: u64,
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

    /// The place of the list of a matrix's inputs; `None` where its columns are in their order.
    pub fn order_of(&self, tensor: Tensor) -> Option<&TensorPlace> {
        self.get(tensor.order()?)
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

/// Where every tensor of `rank` lies when none is offloaded. Norms and biases are of f32.
pub fn layout<'a>(
    shape: &ModelShape,
    shard: &Shard,
    kept: impl Into<Kept<'a>>,
    rank: u32,
) -> WeightLayout {
    place(tensors(shape, shard, kept.into(), rank), |_| false)
}

/// The same with the matrices of offloaded layers in the account `Offload`: one layer after the
/// other, in the order in which they are streamed.
pub(crate) fn offloaded(
    shape: &ModelShape,
    shard: &Shard,
    kept: Kept<'_>,
    rank: u32,
    goes: impl Fn(u32) -> bool,
) -> WeightLayout {
    let is_offloaded = |tensor: Tensor| tensor.matrix_of().is_some_and(&goes);
    place(tensors(shape, shard, kept, rank), is_offloaded)
}

/// Bytes that the matrices of one layer take, of the largest where they differ.
pub fn layer_bytes<'a>(shape: &ModelShape, shard: &Shard, kept: impl Into<Kept<'a>>) -> Bytes {
    let sizes = layer_sizes(shape, shard, kept.into());
    Bytes(sizes.into_iter().max().unwrap_or_default())
}

/// The same of each kind of layers ([`Kept::kinds`]).
pub(crate) fn layer_sizes(shape: &ModelShape, shard: &Shard, kept: Kept<'_>) -> Vec<u64> {
    let matrices = |(layer, _): (u32, u32)| -> u64 {
        let mut rows = Vec::with_capacity(14);
        attention_tensors(&mut rows, layer, shape, shard, kept, 1);
        mlp_tensors(&mut rows, layer, shape, shard, kept, 1);
        let matrices = rows.iter().filter(|row| row.0.matrix_of().is_some());
        let bytes = matrices
            .map(|(_, form, rows, cols, _)| form.bytes(*rows, *cols).round_up(TENSOR_ALIGN));
        bytes.sum::<Bytes>().get()
    };
    let kinds = kept.kinds(shape.layers).into_iter();
    kinds.map(matrices).collect()
}

fn place(tensors: Vec<Row>, is_offloaded: impl Fn(Tensor) -> bool) -> WeightLayout {
    let (mut resident, mut host) = (Bytes::ZERO, Bytes::ZERO);
    let mut places = Vec::with_capacity(tensors.len());
    for (tensor, form, rows, cols, first_col) in tensors {
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
            skipped: match form {
                Form::Pieces(format, _) => first_col % format.columns(),
                Form::RowMajor(_)
                | Form::Panels(_)
                | Form::Blocks(..)
                | Form::Vector
                | Form::List => 0,
            },
        });
        *end += bytes.round_up(TENSOR_ALIGN);
    }
    WeightLayout {
        places,
        total: resident,
    }
}

/// A tensor's form, rows, columns, and its first column in the whole tensor.
type Row = (Tensor, Form, u64, u64, u64);

/// A matrix, after the list of its inputs where it has one.
fn matrix(rows: &mut Vec<Row>, kept: Kept<'_>, row: Row) {
    let (tensor, _, _, cols, _) = row;
    let order = tensor.order().filter(|_| kept.is_listed(tensor));
    rows.extend(order.map(|order| (order, Form::List, cols, 1, 0)));
    rows.push(row);
}

fn tensors(shape: &ModelShape, shard: &Shard, kept: Kept<'_>, rank: u32) -> Vec<Row> {
    let hidden = u64::from(shape.hidden);
    let vocab = u64::from(shard.vocab_row_count());
    let mut rows = Vec::with_capacity(14 * shape.layers as usize + 3);
    rows.push((
        Tensor::Embedding,
        kept.embedding(shape.tied),
        vocab,
        hidden,
        0,
    ));
    for layer in 0..shape.layers {
        attention_tensors(&mut rows, layer, shape, shard, kept, rank);
        mlp_tensors(&mut rows, layer, shape, shard, kept, rank);
    }
    rows.push((Tensor::FinalNorm, Form::Vector, hidden, 1, 0));
    if !shape.tied {
        rows.push((Tensor::Head, kept.panels(Tensor::Head), vocab, hidden, 0));
    }
    rows
}

fn attention_tensors(
    rows: &mut Vec<Row>,
    layer: u32,
    shape: &ModelShape,
    shard: &Shard,
    kept: Kept<'_>,
    rank: u32,
) {
    let (hidden, head_dim) = (u64::from(shape.hidden), u64::from(shape.head_dim));
    let query = u64::from(shard.query_head_count()) * head_dim;
    let kv = u64::from(shard.kv_head_count()) * head_dim;
    let qkv = query + 2 * kv;
    rows.push((Tensor::InputNorm { layer }, Form::Vector, hidden, 1, 0));
    let parts: &[(Tensor, u64)] = match kept.layer(layer).fuses_qkv() {
        true => &[(Tensor::Qkv { layer }, qkv)],
        false => &[
            (Tensor::Query { layer }, query),
            (Tensor::Key { layer }, kv),
            (Tensor::Value { layer }, kv),
        ],
    };
    for &(part, of) in parts {
        matrix(rows, kept, (part, kept.panels(part), of, hidden, 0));
    }
    if shape.qkv_bias {
        rows.push((Tensor::QkvBias { layer }, Form::Vector, qkv, 1, 0));
    }
    if shape.qk_norm {
        rows.push((Tensor::QNorm { layer }, Form::Vector, head_dim, 1, 0));
        rows.push((Tensor::KNorm { layer }, Form::Vector, head_dim, 1, 0));
    }
    let output = Tensor::Output { layer };
    let first = u64::from(shard.query_heads.start) * head_dim;
    let row = (output, kept.pieces(output), hidden, query, first);
    matrix(rows, kept, row);
    if shape.output_bias && rank == 0 {
        rows.push((Tensor::OutputBias { layer }, Form::Vector, hidden, 1, 0));
    }
}

fn mlp_tensors(
    rows: &mut Vec<Row>,
    layer: u32,
    shape: &ModelShape,
    shard: &Shard,
    kept: Kept<'_>,
    rank: u32,
) {
    let hidden = u64::from(shape.hidden);
    let columns = padded_mlp_columns(shard);
    rows.push((Tensor::PostNorm { layer }, Form::Vector, hidden, 1, 0));
    let parts: &[(Tensor, u64)] = match kept.layer(layer).fuses_gate_up() {
        true => &[(Tensor::GateUp { layer }, 2 * columns)],
        false => &[
            (Tensor::Gate { layer }, columns),
            (Tensor::Up { layer }, columns),
        ],
    };
    for &(part, of) in parts {
        matrix(rows, kept, (part, kept.panels(part), of, hidden, 0));
    }
    if shape.mlp_bias {
        rows.push((
            Tensor::GateUpBias { layer },
            Form::Vector,
            2 * columns,
            1,
            0,
        ));
    }
    let down = Tensor::Down { layer };
    let first = u64::from(shard.mlp_columns.start);
    matrix(
        rows,
        kept,
        (down, kept.pieces(down), hidden, columns, first),
    );
    if shape.mlp_bias && rank == 0 {
        rows.push((Tensor::DownBias { layer }, Form::Vector, hidden, 1, 0));
    }
}
