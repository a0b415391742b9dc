//! The places and numbers of a decoder, resolved once. What architectures differ in is data: a bias
//! or a head norm is there or not.

use plimsoll_kernels::linear::{Columns, LinearShape, Products};
use plimsoll_kernels::sampling::VocabShard;
use plimsoll_planner::scratch::Region;
use plimsoll_planner::weights::{Form, Tensor, TensorPlace, WeightLayout};
use plimsoll_planner::{Account, Dtype, ModelShape, Shard};

use super::handle::{Format, Handle};
use super::lora::{AdapterPlaces, LayerAdaption};
use crate::model::ModelParams;

/// An RMS norm.
#[derive(Clone, Copy, Debug)]
pub struct Norm {
    pub weight: Handle,
    pub eps: f32,
}

/// A packed matrix with its bias.
#[derive(Clone, Copy, Debug)]
pub struct Matrix {
    pub weight: Handle,
    pub rows: usize,
    pub cols: usize,
    pub dtype: Dtype,
    pub bias: Option<Handle>,
    /// Where its columns are not in the order of its inputs, which input each is of.
    pub order: Option<Handle>,
    /// See [`LinearShape::skipped`].
    pub skipped: Option<usize>,
    /// Where its products lie in a row of the result.
    pub columns: Columns,
}

impl Matrix {
    /// As what the kernels take.
    pub fn shape(&self) -> LinearShape {
        LinearShape {
            rows: self.rows,
            cols: self.cols,
            dtype: self.dtype,
            blocks: self.weight.format.blocks(),
            skipped: self.skipped,
            products: Products::Exact,
        }
    }
}

/// Where tokens become rows.
#[derive(Clone, Copy, Debug)]
pub struct Embedding {
    /// Packed where it is the head too, row after row otherwise.
    pub table: Matrix,
    /// The vocabulary id of its first row.
    pub first_row: usize,
}

/// What a layer's attention needs to know beside its inputs.
#[derive(Clone, Copy, Debug)]
pub struct Attention {
    /// Index of the layer in the cache.
    pub layer: usize,
    pub query_heads: usize,
    /// Numbers of one row of qkv.
    pub width: usize,
    /// Norms of each q and k head.
    pub head_norms: Option<(Norm, Norm)>,
    pub scale: f32,
    pub sliding_window: Option<u32>,
}

/// One decoder layer.
#[derive(Clone, Debug)]
pub struct Layer {
    /// Its matrices have to arrive before they are computed with.
    pub is_streamed: bool,
    pub input_norm: Norm,
    /// One, or q, k and v where those are not stored alike; side by side in the result.
    pub qkv: Vec<Matrix>,
    pub attention: Attention,
    pub output: Matrix,
    pub post_norm: Norm,
    /// One, or gate and up.
    pub gate_up: Vec<Matrix>,
    pub down: Matrix,
    /// Where adapters may change its products.
    pub adaption: LayerAdaption,
}

/// A whole decoder, as one rank has it.
#[derive(Clone, Debug)]
pub struct Decoder {
    /// Numbers of one row of the residual stream.
    pub hidden: usize,
    pub embedding: Embedding,
    pub layers: Vec<Layer>,
    pub final_norm: Norm,
    pub head: Matrix,
    /// The vocabulary rows of this rank.
    pub vocabulary: VocabShard,
}

impl Decoder {
    pub(super) fn of(
        (layout, adapters): (&WeightLayout, &AdapterPlaces),
        shape: &ModelShape,
        shard: &Shard,
        params: &ModelParams,
    ) -> Decoder {
        let place = |tensor: Tensor| {
            layout
                .get(tensor)
                .unwrap_or_else(|| unreachable!("no {tensor:?} in a layout"))
        };
        let eps = params.rms_eps;
        let norm_at = |place: &TensorPlace| Norm {
            weight: handle(place),
            eps,
        };
        let norm = |tensor: Tensor| norm_at(place(tensor));
        let listed = |place: &TensorPlace| Matrix {
            order: layout.order_of(place.tensor).map(handle),
            ..matrix(place)
        };
        let matrix = |tensor: Tensor, bias: Option<Tensor>| Matrix {
            bias: bias.and_then(|bias| layout.get(bias)).map(handle),
            ..listed(place(tensor))
        };
        // Those that this layout has, one below the other.
        let beside = |tensors: &[Tensor], bias: Tensor| {
            let places = tensors.iter().filter_map(|tensor| layout.get(*tensor));
            stacked(places.map(listed).collect(), layout.get(bias).map(handle))
        };
        let query_heads = shard.query_head_count() as usize;
        #[expect(clippy::cast_precision_loss, reason = "head sizes are small")]
        let scale = 1.0 / (shape.head_dim as f32).sqrt();
        let layer = |layer: u32| {
            let qkv = [
                Tensor::Qkv { layer },
                Tensor::Query { layer },
                Tensor::Key { layer },
                Tensor::Value { layer },
            ];
            let gate_up = [
                Tensor::GateUp { layer },
                Tensor::Gate { layer },
                Tensor::Up { layer },
            ];
            let down = matrix(Tensor::Down { layer }, Some(Tensor::DownBias { layer }));
            let qkv = beside(&qkv, Tensor::QkvBias { layer });
            Layer {
                is_streamed: down.weight.arena == Account::Offload,
                input_norm: norm(Tensor::InputNorm { layer }),
                attention: Attention {
                    layer: layer as usize,
                    query_heads,
                    width: qkv.iter().map(|part| part.rows).sum(),
                    head_norms: layout
                        .get(Tensor::QNorm { layer })
                        .map(norm_at)
                        .zip(layout.get(Tensor::KNorm { layer }).map(norm_at)),
                    scale,
                    sliding_window: params.window(layer),
                },
                qkv,
                output: matrix(Tensor::Output { layer }, Some(Tensor::OutputBias { layer })),
                post_norm: norm(Tensor::PostNorm { layer }),
                gate_up: beside(&gate_up, Tensor::GateUpBias { layer }),
                down,
                adaption: adapters.layer(layer, (shape, shard)),
            }
        };
        let head = match layout.get(Tensor::Head) {
            Some(_) => Tensor::Head,
            None => Tensor::Embedding,
        };
        Decoder {
            hidden: shape.hidden as usize,
            embedding: Embedding {
                table: matrix(Tensor::Embedding, None),
                first_row: shard.vocab_rows.start as usize,
            },
            layers: (0..shape.layers).map(layer).collect(),
            final_norm: norm(Tensor::FinalNorm),
            head: matrix(head, None),
            vocabulary: VocabShard {
                first: shard.vocab_rows.start,
                rows: shard.vocab_row_count(),
            },
        }
    }
}

/// Matrices whose products lie side by side, each with its part of one bias.
fn stacked(mut parts: Vec<Matrix>, bias: Option<Handle>) -> Vec<Matrix> {
    const NUMBER_BYTES: u64 = 4;
    let stride = parts.iter().map(|part| part.rows).sum();
    let mut first = 0;
    for part in &mut parts {
        part.columns = Columns { first, stride };
        part.bias = bias.map(|bias| Handle {
            region: Region {
                offset: bias.region.offset + first as u64 * NUMBER_BYTES,
                bytes: part.rows as u64 * NUMBER_BYTES,
            },
            ..bias
        });
        first += part.rows;
    }
    parts
}

/// Weights are one region, and offloaded ones another: their handles name parts of it.
pub(super) fn handle(place: &TensorPlace) -> Handle {
    Handle {
        arena: place.account,
        region: Region {
            offset: place.offset,
            bytes: place.bytes,
        },
        format: match place.form {
            Form::RowMajor(dtype) => Format::RowMajor(dtype),
            Form::Panels(dtype) => Format::Panels(dtype),
            Form::Blocks(format, _) | Form::Pieces(format, _) => Format::Blocks(format),
            Form::Vector => Format::F32,
            Form::List => Format::U32,
        },
    }
}

/// A tensor among the weights as rows and columns, without a bias or a list.
pub(super) fn matrix(place: &TensorPlace) -> Matrix {
    let size = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
    let rows = size(place.rows);
    Matrix {
        weight: handle(place),
        rows,
        cols: size(place.cols),
        dtype: match place.form {
            Form::RowMajor(dtype)
            | Form::Panels(dtype)
            | Form::Blocks(_, dtype)
            | Form::Pieces(_, dtype) => dtype,
            // Numbers of as many bytes.
            Form::Vector | Form::List => Dtype::Float32,
        },
        bias: None,
        order: None,
        skipped: matches!(place.form, Form::Pieces(..)).then_some(size(place.skipped)),
        columns: Columns {
            first: 0,
            stride: rows,
        },
    }
}
