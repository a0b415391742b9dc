//! In which form a model's matrices lie in memory: of one float type, or, where their file has them in
//! blocks, in those blocks.

use crate::blocks::{BlockFormat, GROUP, LayerBlocks, ModelBlocks};
use crate::model::{Dtype, ModelShape};
use crate::tensor::{Form, Tensor};

/// `spec.model.quantization.mode`: what becomes of weights that their file has in blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Quantization {
    /// They stay so.
    #[default]
    Auto,
    /// They are expanded to the float type at load.
    None,
}

/// `spec.model.quantization.computeDtype`: how weights in blocks are multiplied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum BlockCompute {
    /// By 8-bit integers where the machine is faster so and numbers have 16 bits, otherwise exactly.
    #[default]
    Auto,
    /// By 8-bit integers.
    Int8,
    /// As weights that are expanded.
    Exact,
}

/// What the input of a linear layer becomes before it is multiplied.
#[derive(Clone, Copy, Debug)]
pub struct InputForm {
    /// Of weights that are of one float type, and of exact products.
    pub dtype: Dtype,
    /// Weights in blocks may be multiplied by 8-bit integers, whatever their type.
    pub int8: bool,
}

impl From<Dtype> for InputForm {
    fn from(dtype: Dtype) -> InputForm {
        InputForm { dtype, int8: false }
    }
}

/// How the weights of a request lie in memory.
#[derive(Clone, Copy, Debug)]
pub struct Kept<'a> {
    /// Of what is in no blocks; and what is in blocks is computed in it.
    pub dtype: Dtype,
    pub blocks: Option<&'a ModelBlocks>,
}

impl From<Dtype> for Kept<'_> {
    /// Everything is of one float type.
    fn from(dtype: Dtype) -> Self {
        Kept {
            dtype,
            blocks: None,
        }
    }
}

impl Kept<'_> {
    /// How a packed matrix lies.
    pub fn panels(self, tensor: Tensor) -> Form {
        match self.blocks.and_then(|blocks| format_of(blocks, tensor)) {
            Some(format) => Form::Blocks(format, self.dtype),
            None => Form::Panels(self.dtype),
        }
    }

    /// How the embedding lies: packed where it is the head, too, or in blocks.
    pub fn embedding(self, tied: bool) -> Form {
        match self.panels(Tensor::Embedding) {
            Form::Panels(dtype) if !tied => Form::RowMajor(dtype),
            form => form,
        }
    }

    /// The layers whose matrices lie differently, one of each kind: its index, and how many are of it.
    pub fn kinds(self, layers: u32) -> Vec<(u32, u32)> {
        let kind = |layer: u32| {
            let blocks = self.blocks.and_then(|all| all.layers.get(layer as usize));
            blocks.copied().unwrap_or_default()
        };
        let mut kinds: Vec<(LayerBlocks, u32, u32)> = Vec::new();
        for layer in 0..layers {
            let this = kind(layer);
            match kinds.iter_mut().find(|(of, ..)| *of == this) {
                Some((.., count)) => *count += 1,
                None => kinds.push((this, layer, 1)),
            }
        }
        kinds
            .into_iter()
            .map(|(_, at, count)| (at, count))
            .collect()
    }
}

/// The format of one matrix; none of what is no matrix.
fn format_of(blocks: &ModelBlocks, tensor: Tensor) -> Option<BlockFormat> {
    let layer = |layer: u32| {
        blocks
            .layers
            .get(layer as usize)
            .copied()
            .unwrap_or_default()
    };
    match tensor {
        Tensor::Embedding => blocks.embedding,
        Tensor::Head => blocks.head,
        Tensor::Qkv { layer: l } => layer(l).qkv,
        Tensor::Output { layer: l } => layer(l).output,
        Tensor::GateUp { layer: l } => layer(l).gate_up,
        Tensor::Down { layer: l } => layer(l).down,
        Tensor::InputNorm { .. }
        | Tensor::QkvBias { .. }
        | Tensor::QNorm { .. }
        | Tensor::KNorm { .. }
        | Tensor::OutputBias { .. }
        | Tensor::PostNorm { .. }
        | Tensor::GateUpBias { .. }
        | Tensor::DownBias { .. }
        | Tensor::FinalNorm => None,
    }
}

/// Why a model of this shape cannot have its blocks: rows of blocks, and every cut of columns, are whole
/// blocks.
pub fn misfit(shape: &ModelShape) -> Option<String> {
    let blocks = &shape.blocks;
    let (layers, expected) = (blocks.layers.len(), shape.layers);
    if layers != 0 && layers != expected as usize {
        return Some(format!(
            "blocks of {layers} layers, the model has {expected}"
        ));
    }
    let any = |of: fn(&LayerBlocks) -> Option<BlockFormat>| {
        blocks.layers.iter().any(|layer| of(layer).is_some())
    };
    let by_hidden = blocks.embedding.or(blocks.head).is_some()
        || any(|layer| layer.qkv)
        || any(|layer| layer.gate_up);
    let needs = [
        (by_hidden, "hidden size", shape.hidden),
        (any(|layer| layer.output), "head size", shape.head_dim),
        (any(|layer| layer.down), "intermediate size", shape.ffn),
    ];
    needs.into_iter().find_map(|(needed, name, size)| {
        let whole = u64::from(size).is_multiple_of(GROUP);
        (needed && !whole).then(|| format!("blocks of {GROUP} do not divide the {name} {size}"))
    })
}

/// The same model with one of its layers only.
pub(crate) fn one_layer(shape: &ModelShape, at: u32) -> ModelShape {
    let layer = shape.blocks.layers.get(at as usize).copied();
    ModelShape {
        layers: 1,
        blocks: ModelBlocks {
            layers: layer.into_iter().collect(),
            ..shape.blocks
        },
        ..shape.clone()
    }
}
