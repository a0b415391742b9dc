//! The account `Weights` of one rank: every tensor, where it lies and how it is packed.
//!
//! Planner, loader and engine read the same list, so they agree by construction. Nothing here
//! touches memory.

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

/// How the numbers of a tensor lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// `[rows][cols]`, no padding.
    RowMajor(Dtype),
    /// Panels of `PANEL_ROWS` rows; rows and columns padded with zeros. 16-bit types:
    /// `[panel][column pair][row of the panel][2]`; Float32: `[panel][column][row of the panel]`.
    Panels(Dtype),
    /// `rows` numbers of f32; `cols` is 1.
    Vector,
}

impl Form {
    /// Bytes of a tensor of this form, padding included.
    fn bytes(self, rows: u64, cols: u64) -> Bytes {
        match self {
            Form::RowMajor(dtype) => Bytes(rows)
                .saturating_mul(cols)
                .saturating_mul(dtype.bytes()),
            Form::Panels(dtype) => Bytes(rows.next_multiple_of(PANEL_ROWS))
                .saturating_mul(cols.next_multiple_of(PANEL_COLS))
                .saturating_mul(dtype.bytes()),
            Form::Vector => Bytes(rows).saturating_mul(4),
        }
    }
}

/// One tensor's place in the account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorPlace {
    pub tensor: Tensor,
    pub form: Form,
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

    /// The account `Weights`, before it is rounded up to the granule.
    pub fn total(&self) -> Bytes {
        self.total
    }
}

/// MLP columns of a shard as the kernels see them: padded to whole panels. `GateUp` has twice as
/// many rows, `Down` as many columns; the padding holds zeros and so adds nothing.
pub fn padded_mlp_columns(shard: &Shard) -> u64 {
    u64::from(shard.mlp_column_count()).next_multiple_of(PANEL_ROWS)
}

/// Where every tensor of `rank` lies. Weights and the embedding are of type `dtype`, norms and
/// biases of f32.
pub fn layout(shape: &ModelShape, shard: &Shard, dtype: Dtype, rank: u32) -> WeightLayout {
    let mut places = Vec::new();
    let mut end = Bytes::ZERO;
    for (tensor, form, rows, cols) in tensors(shape, shard, dtype, rank) {
        let bytes = form.bytes(rows, cols);
        places.push(TensorPlace {
            tensor,
            form,
            offset: end.0,
            bytes: bytes.0,
            rows,
            cols,
        });
        end += bytes.round_up(TENSOR_ALIGN);
    }
    WeightLayout { places, total: end }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Architecture;

    fn smollm2() -> ModelShape {
        ModelShape {
            architecture: Architecture::Llama,
            layers: 30,
            hidden: 576,
            query_heads: 9,
            kv_heads: 3,
            head_dim: 64,
            ffn: 1536,
            vocab: 49_152,
            tied: true,
            qkv_bias: false,
            output_bias: false,
            mlp_bias: false,
            qk_norm: false,
            context: 8192,
        }
    }

    #[test]
    fn a_whole_model_takes_two_bytes_a_parameter_and_four_a_norm() {
        let layout = layout(&smollm2(), &Shard::whole(&smollm2()), Dtype::BFloat16, 0);
        // No dimension needs padding: 134,479,872 weights of two bytes, 61 norms of four.
        let weights = 49_152 * 576 + 30 * (960 * 576 + 576 * 576 + 3 * 576 * 1536);
        assert_eq!(layout.total().get(), 2 * weights + 61 * 576 * 4);
        assert_eq!(layout.places().len(), 30 * 6 + 2);
        assert_eq!(layout.head().unwrap().tensor, Tensor::Embedding);
        assert_eq!(layout.head().unwrap().form, Form::Panels(Dtype::BFloat16));
    }

    #[test]
    fn tensors_lie_one_after_the_other_on_cache_lines() {
        let shape = ModelShape {
            hidden: 72,
            head_dim: 8,
            qkv_bias: true,
            qk_norm: true,
            ..smollm2()
        };
        let layout = layout(&shape, &Shard::whole(&shape), Dtype::Float32, 0);
        let mut end = 0;
        for place in layout.places() {
            assert_eq!(place.offset % 64, 0, "{place:?}");
            assert_eq!(place.offset, end, "{place:?}");
            end = (place.offset + place.bytes).next_multiple_of(64);
        }
        assert_eq!(end, layout.total().get());
    }

    #[test]
    fn rows_and_columns_are_padded_to_panels() {
        let shape = ModelShape {
            ffn: 100,
            hidden: 40,
            vocab: 50,
            tied: false,
            ..smollm2()
        };
        let shard = Shard {
            kv_heads: 0..1,
            query_heads: 0..2,
            mlp_columns: 0..100,
            vocab_rows: 0..50,
        };
        let layout = layout(&shape, &shard, Dtype::BFloat16, 1);
        let place = |tensor| *layout.get(tensor).unwrap();
        let gate_up = place(Tensor::GateUp { layer: 3 });
        assert_eq!(
            (gate_up.rows, gate_up.cols, gate_up.bytes),
            (224, 40, 224 * 64 * 2)
        );
        let down = place(Tensor::Down { layer: 3 });
        assert_eq!((down.rows, down.cols, down.bytes), (40, 112, 48 * 128 * 2));
        let qkv = place(Tensor::Qkv { layer: 0 });
        assert_eq!((qkv.rows, qkv.bytes), (256, 256 * 64 * 2));
        assert_eq!(place(Tensor::Embedding).bytes, 50 * 40 * 2);
        assert_eq!(place(Tensor::Head).bytes, 64 * 64 * 2);
        assert_eq!(layout.head().unwrap().tensor, Tensor::Head);
    }

    #[test]
    fn biases_that_are_summed_over_ranks_stand_on_rank_0() {
        let shape = ModelShape {
            qkv_bias: true,
            output_bias: true,
            mlp_bias: true,
            ..smollm2()
        };
        let shard = Shard::whole(&shape);
        let layer = 7;
        for (rank, summed) in [(0, true), (1, false)] {
            let layout = layout(&shape, &shard, Dtype::Float16, rank);
            assert_eq!(layout.get(Tensor::OutputBias { layer }).is_some(), summed);
            assert_eq!(layout.get(Tensor::DownBias { layer }).is_some(), summed);
            assert_eq!(layout.get(Tensor::QkvBias { layer }).unwrap().rows, 960);
            assert_eq!(layout.get(Tensor::GateUpBias { layer }).unwrap().rows, 3072);
        }
    }

    #[test]
    fn an_empty_share_keeps_its_places_and_takes_norms_only() {
        let shard = Shard {
            kv_heads: 3..3,
            query_heads: 9..9,
            mlp_columns: 0..0,
            vocab_rows: 0..0,
        };
        let layout = layout(&smollm2(), &shard, Dtype::BFloat16, 1);
        assert_eq!(layout.total().get(), 61 * 576 * 4);
        assert_eq!(layout.get(Tensor::Output { layer: 0 }).unwrap().bytes, 0);
    }
}
