//! The places of a decoder's tensors, resolved once. What architectures differ in is data: a bias
//! or a head norm is there or not.

use plimsoll_kernels::device::Buffer;
use plimsoll_kernels::linear::{LinearShape, Weight};
use plimsoll_planner::Dtype;
use plimsoll_planner::weights::{Form, Tensor, TensorPlace, WeightLayout};

/// A vector of f32.
#[derive(Clone, Copy, Debug)]
pub(super) struct Vector {
    offset: usize,
    len: usize,
}

impl Vector {
    fn of(layout: &WeightLayout, tensor: Tensor) -> Option<Vector> {
        let place = layout.get(tensor)?;
        let size = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        Some(Vector {
            offset: size(place.offset),
            len: size(place.rows),
        })
    }

    pub(super) fn values(self, weights: &Buffer) -> &[f32] {
        weights.range(self.offset, self.len)
    }
}

/// A packed matrix with its bias.
#[derive(Clone, Copy, Debug)]
pub(super) struct Matrix {
    pub(super) shape: LinearShape,
    offset: usize,
    bytes: usize,
    bias: Option<Vector>,
}

impl Matrix {
    fn of(layout: &WeightLayout, tensor: Tensor, bias: Option<Tensor>) -> Matrix {
        let Some(place) = layout.get(tensor) else {
            unreachable!("every layout has {tensor:?}");
        };
        let bias = bias.and_then(|bias| Vector::of(layout, bias));
        Matrix {
            bias,
            ..Matrix::at(place)
        }
    }

    pub(super) fn at(place: &TensorPlace) -> Matrix {
        let size = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        let dtype = dtype(place);
        Matrix {
            shape: LinearShape {
                rows: size(place.rows),
                cols: size(place.cols),
                dtype,
            },
            offset: size(place.offset),
            bytes: size(place.bytes),
            bias: None,
        }
    }

    pub(super) fn bytes(self, weights: &Buffer) -> &[u8] {
        weights.range(self.offset, self.bytes)
    }

    pub(super) fn weight(self, weights: &Buffer) -> Weight<'_> {
        let bias = self.bias.map(|bias| bias.values(weights));
        Weight {
            shape: self.shape,
            packed: self.bytes(weights),
            bias,
        }
    }
}

fn dtype(place: &TensorPlace) -> Dtype {
    match place.form {
        Form::RowMajor(dtype) | Form::Panels(dtype) => dtype,
        Form::Vector => Dtype::Float32,
    }
}

/// One decoder layer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layer {
    pub(super) input_norm: Vector,
    pub(super) qkv: Matrix,
    /// Norms of each q and k head.
    pub(super) head_norms: Option<(Vector, Vector)>,
    pub(super) output: Matrix,
    pub(super) post_norm: Vector,
    pub(super) gate_up: Matrix,
    pub(super) down: Matrix,
}

/// A whole decoder.
#[derive(Clone, Debug)]
pub(super) struct Decoder {
    pub(super) embedding: Matrix,
    /// The embedding is the head too, and packed like one.
    pub(super) tied: bool,
    pub(super) layers: Vec<Layer>,
    pub(super) final_norm: Vector,
    pub(super) head: Matrix,
}

impl Decoder {
    pub(super) fn of(layout: &WeightLayout, layers: u32) -> Decoder {
        let vector = |tensor: Tensor| {
            Vector::of(layout, tensor).unwrap_or_else(|| unreachable!("no {tensor:?} in a layout"))
        };
        let layer = |layer: u32| Layer {
            input_norm: vector(Tensor::InputNorm { layer }),
            qkv: Matrix::of(
                layout,
                Tensor::Qkv { layer },
                Some(Tensor::QkvBias { layer }),
            ),
            head_norms: Vector::of(layout, Tensor::QNorm { layer })
                .zip(Vector::of(layout, Tensor::KNorm { layer })),
            output: Matrix::of(
                layout,
                Tensor::Output { layer },
                Some(Tensor::OutputBias { layer }),
            ),
            post_norm: vector(Tensor::PostNorm { layer }),
            gate_up: Matrix::of(
                layout,
                Tensor::GateUp { layer },
                Some(Tensor::GateUpBias { layer }),
            ),
            down: Matrix::of(
                layout,
                Tensor::Down { layer },
                Some(Tensor::DownBias { layer }),
            ),
        };
        let tied = layout.get(Tensor::Head).is_none();
        let head = if tied {
            Tensor::Embedding
        } else {
            Tensor::Head
        };
        Decoder {
            embedding: Matrix::of(layout, Tensor::Embedding, None),
            tied,
            layers: (0..layers).map(layer).collect(),
            final_norm: vector(Tensor::FinalNorm),
            head: Matrix::of(layout, head, None),
        }
    }
}
